//! The journal of decisions: what was observed, what was decided, by which rules. It is what `ptctl why` reads, and what
//! the core can be replayed from.

use std::{collections::VecDeque, sync::Mutex};

use ptarmigan_ha::{Decision, Memory, Observation};
use serde::Serialize;

/// One round.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Memory before the round.
    pub memory: Memory,
    /// What was observed.
    pub observation: Observation,
    /// What was decided.
    pub decision: Decision,
}

/// The most recent rounds. Rounds that repeat the one before them in rules and status line are counted, not kept.
#[derive(Debug)]
pub struct Journal {
    entries: Mutex<VecDeque<Entry>>,
    limit: usize,
}

impl Journal {
    /// Keeps at most `limit` rounds.
    pub const fn new(limit: usize) -> Self {
        Self { entries: Mutex::new(VecDeque::new()), limit }
    }

    /// Adds a round.
    pub fn add(&self, entry: Entry) {
        let mut entries = self.entries.lock().expect("invariant: nobody panics while holding the journal");
        if entries.back().is_some_and(|last| repeats(last, &entry)) {
            entries.pop_back();
        }
        if entries.len() == self.limit {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// A copy, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        let entries = self.entries.lock().expect("invariant: nobody panics while holding the journal");
        entries.iter().cloned().collect()
    }
}

fn repeats(last: &Entry, next: &Entry) -> bool {
    let rules =
        |entry: &Entry| entry.decision.report.iter().map(|fired| fired.rule.clone()).collect::<Vec<_>>();
    last.decision.line == next.decision.line
        && last.decision.again == next.decision.again
        && rules(last) == rules(next)
}
