//! How long this node may call itself leader, shared by the loop, its jobs and REST.

use std::sync::atomic::{AtomicU64, Ordering};

use ptarmigan_types::Monotonic;

/// The validity of the leader lease. 0 stands for "not leader".
#[derive(Debug, Default)]
pub struct Lease(AtomicU64);

impl Lease {
    /// The store answered: the lock is ours at least until then.
    pub fn hold(&self, until: Monotonic) {
        self.0.store(until.0, Ordering::Release);
    }

    /// Leadership ended.
    pub fn forget(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Until when, where this node leads at all.
    pub fn until(&self) -> Option<Monotonic> {
        match self.0.load(Ordering::Acquire) {
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
        lease.hold(Monotonic(10));
        assert!(lease.is_held_at(Monotonic(9)));
        assert!(!lease.is_held_at(Monotonic(10)));
        lease.forget();
        assert_eq!(lease.until(), None);
    }
}
