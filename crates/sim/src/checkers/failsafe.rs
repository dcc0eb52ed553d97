//! Failsafe mode: a leader goes on without the store only while everybody who may race has promised not to, for as long; and
//! whoever has promised that does not race and is not promoted.

use std::collections::BTreeMap;

use ptarmigan_types::{MemberName, Monotonic};

use super::{Violation, wrong};

/// The checker: it keeps its own book of what was promised.
#[derive(Debug, Default)]
pub struct Checker {
    promises: BTreeMap<usize, (MemberName, Monotonic)>,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// A member promised somebody not to lead before that moment.
    pub fn promised(&mut self, member: usize, to: MemberName, until: Monotonic) {
        let longest = self.promises.get(&member).map_or(until, |(_, before)| until.max(*before));
        self.promises.insert(member, (to, longest));
    }

    /// A leader goes on until then; these may race, as the store has it.
    pub fn passed(&mut self, at: Monotonic, leader: &MemberName, until: Monotonic, racers: &[usize]) {
        for racer in racers {
            let promise = self.promises.get(racer);
            if promise.is_some_and(|(to, promised)| to == leader && *promised >= until) {
                continue;
            }
            let what = format!(
                "{leader} goes on until {:.3} without the store, m{racer} promised: {promise:?}",
                until.0 as f64 / 1e6
            );
            self.violation.get_or_insert_with(|| wrong("failsafe", at, what));
        }
    }

    /// A member races for the lock, or is promoted.
    pub fn leads(&mut self, at: Monotonic, member: usize, what: &str) {
        if let Some((to, until)) = self.promises.get(&member)
            && at < *until
        {
            let what = format!("m{member} {what}, and has promised {to} not to lead");
            self.violation.get_or_insert_with(|| wrong("failsafe", at, what));
        }
    }

    /// The promise that lasts until then is not owed any more, as the member judges.
    pub fn forgotten(&mut self, member: usize, until: Monotonic) {
        if self.promises.get(&member).is_some_and(|(_, promised)| *promised == until) {
            self.promises.remove(&member);
        }
    }
}
