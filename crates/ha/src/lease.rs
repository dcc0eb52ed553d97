//! How long a node may call itself leader: one state machine, kept by the agent and by the simulation.

use std::time::Duration;

use ptarmigan_types::{Monotonic, Revision};

/// The validity of the leader lease.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lease {
    leads_until: Option<Monotonic>,
    granted_until: Monotonic,
    ends: u64,
    given_up: Option<Revision>,
}

/// Taken before the store is asked: an answer to a question from before leadership ended brings none back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked(u64);

impl Lease {
    /// The store is about to be asked.
    pub const fn ask(&self) -> Asked {
        Asked(self.ends)
    }

    /// The store answered: the lock is ours at least until then. Where leadership ended since it was asked (a demotion
    /// released the lock while the loop renewed it), only the time that nobody else may lead is noted.
    pub fn hold(&mut self, asked: Asked, until: Monotonic) {
        self.granted_until = until;
        if asked == self.ask() {
            self.leads_until = Some(until);
        }
    }

    /// Everybody promised not to lead before `until` (contract FS-5): the lease goes on, without the store.
    pub fn prolong(&mut self, asked: Asked, until: Monotonic) {
        self.hold(asked, until.max(self.granted_until));
    }

    /// Leadership ended.
    pub const fn forget(&mut self) {
        self.ends += 1;
        self.leads_until = None;
    }

    /// The lock that was created at that revision is about to be released. Whatever comes of the request, it may arrive
    /// at any time from now on: this lock is nothing to lead on any more.
    pub const fn give_up(&mut self, create_revision: Revision) {
        self.forget();
        self.given_up = Some(create_revision);
    }

    /// The lock that was created at that revision was given up.
    pub fn is_given_up(&self, create_revision: Revision) -> bool {
        create_revision != 0 && self.given_up == Some(create_revision)
    }

    /// How much is left at `now` of what the store granted last, whether or not this node still wants to lead: nobody else
    /// leads before, so a server may still be stopped gently.
    pub const fn left_at(&self, now: Monotonic) -> Duration {
        self.granted_until.since(now)
    }

    /// Until when, where this node leads at all.
    pub const fn until(&self) -> Option<Monotonic> {
        self.leads_until
    }

    /// This node leads at `now`.
    pub fn is_held_at(&self, now: Monotonic) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_only_before_the_end() {
        let mut lease = Lease::default();
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
        let mut lease = Lease::default();
        lease.hold(lease.ask(), Monotonic(10));
        let asked = lease.ask();
        lease.forget();
        lease.hold(asked, Monotonic(20));
        assert_eq!(lease.until(), None);
        assert_eq!(lease.left_at(Monotonic(5)), Duration::from_micros(15), "nobody else leads before that");
        lease.hold(lease.ask(), Monotonic(30));
        assert!(lease.is_held_at(Monotonic(29)));
    }

    #[test]
    fn promises_of_all_make_a_lease_longer_and_never_shorter() {
        let mut lease = Lease::default();
        lease.hold(lease.ask(), Monotonic(10));
        lease.prolong(lease.ask(), Monotonic(20));
        assert_eq!(
            (lease.until(), lease.left_at(Monotonic(5))),
            (Some(Monotonic(20)), Duration::from_micros(15))
        );
        lease.prolong(lease.ask(), Monotonic(15));
        assert_eq!(lease.until(), Some(Monotonic(20)));
        let asked = lease.ask();
        lease.forget();
        lease.prolong(asked, Monotonic(30));
        assert_eq!(lease.until(), None);
    }

    #[test]
    fn a_lock_is_given_up_for_good_and_another_one_is_not() {
        let mut lease = Lease::default();
        assert!(!lease.is_given_up(0), "no lock at all");
        lease.hold(lease.ask(), Monotonic(10));
        lease.give_up(7);
        assert!(lease.until().is_none() && lease.is_given_up(7) && !lease.is_given_up(8));
        lease.hold(lease.ask(), Monotonic(20));
        assert!(lease.is_given_up(7), "a renewal that was answered does not take the release back");
    }
}
