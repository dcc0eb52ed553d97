//! How long this node may call itself leader, shared by the loop, its jobs and REST.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ptarmigan_types::{Monotonic, Revision};

/// The validity of the leader lease.
#[derive(Debug, Default)]
pub struct Lease {
    /// 0 stands for "not leader".
    leads_until: AtomicU64,
    /// What the store granted last, whether or not this node still wants to lead: nobody else leads before.
    granted_until: AtomicU64,
    /// How often leadership ended.
    ends: AtomicU64,
    /// The create revision of the lock that this node gave up last; 0: none.
    given_up: AtomicU64,
}

/// Taken before the store is asked: an answer to a question from before leadership ended brings none back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked(u64);

impl Lease {
    /// The store is about to be asked.
    pub fn ask(&self) -> Asked {
        Asked(self.ends.load(Ordering::Acquire))
    }

    /// The store answered: the lock is ours at least until then. Where leadership ended since it was asked (a demotion
    /// released the lock while the loop renewed it), only the time that nobody else may lead is noted.
    pub fn hold(&self, asked: Asked, until: Monotonic) {
        self.granted_until.store(until.0, Ordering::Release);
        if self.ask() == asked {
            self.leads_until.store(until.0, Ordering::Release);
        }
    }

    /// Leadership ended.
    pub fn forget(&self) {
        self.ends.fetch_add(1, Ordering::AcqRel);
        self.leads_until.store(0, Ordering::Release);
    }

    /// The lock that was created at that revision is about to be released. Whatever comes of the request, it may arrive
    /// at any time from now on: this lock is nothing to lead on any more.
    pub fn give_up(&self, create_revision: Revision) {
        self.forget();
        self.given_up.store(create_revision, Ordering::Release);
    }

    /// The lock that was created at that revision was given up.
    pub fn is_given_up(&self, create_revision: Revision) -> bool {
        self.given_up.load(Ordering::Acquire) == create_revision && create_revision != 0
    }

    /// How much is left at `now` of what the store granted last: the time in which a server may still be stopped
    /// gently.
    pub fn left_at(&self, now: Monotonic) -> Duration {
        Monotonic(self.granted_until.load(Ordering::Acquire)).since(now)
    }

    /// Until when, where this node leads at all.
    pub fn until(&self) -> Option<Monotonic> {
        match self.leads_until.load(Ordering::Acquire) {
            0 => None,
            until => Some(Monotonic(until)),
        }
    }

    /// This node leads at `now`.
    pub fn is_held_at(&self, now: Monotonic) -> bool {
        self.until().is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_only_before_the_end() {
        let lease = Lease::default();
        assert!(!lease.is_held_at(Monotonic(0)));
        lease.hold(lease.ask(), Monotonic(10));
        assert!(lease.is_held_at(Monotonic(9)));
        assert!(!lease.is_held_at(Monotonic(10)));
        lease.forget();
        assert_eq!(lease.until(), None);
        assert_eq!(lease.left_at(Monotonic(4)), Duration::from_micros(6));
        assert_eq!(lease.left_at(Monotonic(11)), Duration::ZERO);
    }
    #[test]
    fn an_answer_from_before_a_release_brings_no_leadership_back() {
        let lease = Lease::default();
        lease.hold(lease.ask(), Monotonic(10));
        let asked = lease.ask();
        lease.forget();
        lease.hold(asked, Monotonic(20));
        assert_eq!(lease.until(), None);
        assert_eq!(lease.left_at(Monotonic(5)), Duration::from_micros(15), "nobody else leads before that");
        lease.hold(lease.ask(), Monotonic(30));
        assert!(lease.is_held_at(Monotonic(29)));
    }
}
