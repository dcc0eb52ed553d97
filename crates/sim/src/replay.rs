//! A daemon's journal, decided again: the recorded observations must give the recorded decisions.

use ptarmigan_ha::{Decision, Memory, Observation, decide};
use serde::Deserialize;

/// One line of a journal.
#[derive(Debug, Deserialize)]
pub struct Entry {
    /// Memory before the round.
    pub memory: Memory,
    /// What was observed.
    pub observation: Observation,
    /// What was decided.
    pub decision: Decision,
}

/// What came of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The same decision.
    Same,
    /// Another one: the recorded status line and rules, and the new ones.
    Differs(String),
    /// The line is not a round.
    Unreadable(String),
}

/// Decides one line of a journal again.
pub fn replay(line: &str) -> Replayed {
    let entry: Entry = match serde_json::from_str(line) {
        Ok(entry) => entry,
        Err(error) => return Replayed::Unreadable(error.to_string()),
    };
    let decision = decide(&entry.memory, &entry.observation);
    if decision == entry.decision {
        return Replayed::Same;
    }
    let old = entry.decision;
    let rules = |decision: &Decision| {
        decision.report.iter().map(|fired| fired.rule.0.to_string()).collect::<Vec<_>>().join(" ")
    };
    Replayed::Differs(format!(
        "recorded {:?} [{}] {:?}, now {:?} [{}] {:?}",
        old.line,
        rules(&old),
        old.actions,
        decision.line,
        rules(&decision),
        decision.actions,
    ))
}
