//! How long this node may call itself leader, shared by the loop, its jobs and REST.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use ptarmigan_ha::lease::Asked;
use ptarmigan_types::{Monotonic, Revision};
use tokio::sync::watch;

/// The lease of the core behind a lock that is held for no longer than a comparison.
#[derive(Debug, Default)]
pub struct Lease {
    state: Mutex<ptarmigan_ha::Lease>,
    /// For how long the store granted it last, in microseconds: Consul grants half of the configured TTL.
    granted_us: AtomicU64,
    /// Grows with every change.
    changes: watch::Sender<u64>,
}

impl Lease {
    fn state(&self) -> MutexGuard<'_, ptarmigan_ha::Lease> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Word of every change of how long this node leads.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The store is about to be asked.
    pub fn ask(&self) -> Asked {
        self.state().ask()
    }

    /// The store answered: the lock is ours at least until then, unless leadership ended since it was asked.
    pub fn hold(&self, asked: Asked, until: Monotonic) {
        self.state().hold(asked, until);
        self.changed();
    }

    /// What the store grants: from when it was asked, whenever it answers.
    pub fn grants(&self, ttl: Duration) {
        self.granted_us.store(u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Not half of what the store granted last has passed at `now`.
    pub fn is_fresh(&self, now: Monotonic) -> bool {
        self.left_at(now) >= Duration::from_micros(self.granted_us.load(Ordering::Relaxed)) / 2
    }

    /// Everybody promised not to lead before that moment.
    pub fn prolong(&self, asked: Asked, until: Monotonic) {
        self.state().prolong(asked, until);
        self.changed();
    }

    /// Leadership ended.
    pub fn forget(&self) {
        self.state().forget();
        self.changed();
    }

    /// The lock that was created at that revision is about to be released.
    pub fn give_up(&self, create_revision: Revision) {
        self.state().give_up(create_revision);
        self.changed();
    }

    /// The lock that was created at that revision was given up.
    pub fn is_given_up(&self, create_revision: Revision) -> bool {
        self.state().is_given_up(create_revision)
    }

    /// How much is left at `now` of what the store granted last: the time in which a server may still be stopped
    /// gently.
    pub fn left_at(&self, now: Monotonic) -> Duration {
        self.state().left_at(now)
    }

    /// Until when, where this node leads at all.
    pub fn until(&self) -> Option<Monotonic> {
        self.state().until()
    }

    /// This node leads at `now`.
    pub fn is_held_at(&self, now: Monotonic) -> bool {
        self.state().is_held_at(now)
    }
}
