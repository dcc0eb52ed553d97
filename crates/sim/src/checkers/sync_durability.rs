//! Under synchronous replication nothing that was acknowledged is lost, in any mode and strict or not: whoever may take over
//! has it. Excepted is what the contract excepts: the candidate of a manual failover need not be synchronous, and nobody
//! promises anything while operators have switched it off (docs/simulation.md).

use std::time::Duration;

use ptarmigan_types::Monotonic;

use super::{Violation, wrong};
use crate::postgres::{Postgres, Record};

/// How long the wish for a candidate, whoever it is, may explain what that one has lost.
const MANUAL: Duration = Duration::from_secs(240);

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    rows: Vec<Record>,
    /// Since when `/config` asks for it and `/sync` says who may take over.
    active_since: Option<Monotonic>,
    /// When there was no leader key the last time.
    vacated_at: Monotonic,
    /// The candidate of a manual failover, and until when.
    excused: Option<(String, Monotonic)>,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// A client was told that its transaction is committed. What was before the DCS protects it, nobody promised to keep.
    pub fn acknowledged(&mut self, record: Record) {
        if self.is_active() {
            self.rows.push(record);
        }
    }

    /// Whether the DCS protects what was acknowledged.
    pub fn protection(&mut self, now: Monotonic, active: bool) {
        if active {
            self.active_since.get_or_insert(now);
        } else {
            self.active_since = None;
        }
    }

    /// The DCS protects what was acknowledged.
    pub const fn is_active(&self) -> bool {
        self.active_since.is_some()
    }

    /// The leader key vanished: whoever takes over has seen everything that was in the DCS by then.
    pub const fn vacated(&mut self, now: Monotonic) {
        self.vacated_at = now;
    }

    /// An operator names a candidate without regard to who is synchronous.
    pub fn manual(&mut self, now: Monotonic, candidate: &str) {
        self.excused = Some((candidate.to_owned(), now + MANUAL));
    }

    /// What an operator wished for is in the DCS still.
    pub fn wish_stays(&mut self, now: Monotonic) {
        if let Some((_, until)) = &mut self.excused {
            *until = (*until).max(now + MANUAL);
        }
    }

    /// An operator named this candidate a short while ago.
    pub fn is_excused(&self, now: Monotonic, name: &str) -> bool {
        self.excused.as_ref().is_some_and(|(who, until)| who == name && now <= *until)
    }

    /// A promotion: what the new primary has not got is lost.
    pub fn promoted(&mut self, now: Monotonic, name: &str, postgres: &Postgres) {
        let before = self.rows.len();
        let first = self.rows.iter().find(|record| !postgres.has(record)).copied();
        self.rows.retain(|record| postgres.has(record));
        let lost = before - self.rows.len();
        let protected = self.active_since.is_some_and(|since| since < self.vacated_at);
        if lost > 0 && protected && !self.is_excused(now, name) {
            let what = format!(
                "{lost} acknowledged transactions were lost under synchronous replication, {first:?}, {name} from {}",
                postgres.end()
            );
            self.violation.get_or_insert_with(|| wrong("sync_durability", now, what));
        }
    }
}
