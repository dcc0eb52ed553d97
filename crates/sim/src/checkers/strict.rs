//! Under `synchronous_mode_strict` nothing is acknowledged that only the primary has: not with the standbys gone, not after a
//! promotion, a restart or a reload.

use std::{collections::BTreeMap, time::Duration};

use ptarmigan_types::Monotonic;

use super::{Violation, wrong};
use crate::postgres::Record;

/// How long a daemon has known of strict mode when its next promotion has to heed it.
const KNOWN: Duration = Duration::from_secs(60);

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    since: BTreeMap<usize, Monotonic>,
    /// Members and terms in which commits have waited since strict mode is on.
    armed: Option<(usize, u64)>,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// A daemon has read its settings.
    pub fn adopted(&mut self, now: Monotonic, member: usize, strict: bool) {
        if strict {
            self.since.entry(member).or_insert(now);
        } else if self.since.remove(&member).is_some() && self.armed.is_some_and(|(armed, _)| armed == member)
        {
            self.armed = None;
        }
    }

    /// Names are in force on a primary; `somebody`: commits wait.
    pub fn in_force(&mut self, member: usize, term: u64, somebody: bool) {
        if somebody && self.since.contains_key(&member) {
            self.armed = Some((member, term));
        }
    }

    /// A member whose daemon has long known what is wanted was promoted.
    pub fn promoted(&mut self, now: Monotonic, member: usize, term: u64) {
        let known = self.since.get(&member).is_some_and(|since| now.since(*since) > KNOWN);
        self.armed = known.then_some((member, term));
    }

    /// A client was told that its transaction is committed; `elsewhere`: not only the primary has it.
    pub fn acknowledged(
        &mut self,
        now: Monotonic,
        member: usize,
        term: u64,
        record: Record,
        elsewhere: bool,
    ) {
        if self.armed == Some((member, term)) && !elsewhere {
            let what = format!("m{member} acknowledged {record:?}, which nobody else has");
            self.violation.get_or_insert_with(|| wrong("strict", now, what));
        }
    }
}
