//! The document of `GET /why`: what this node decided lately, and why. Written by the agent, read by `ptctl why`.

use serde::{Deserialize, Serialize};

/// One decision, which may have been the same in several cycles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// When it was last decided so.
    pub at: jiff::Timestamp,
    /// Since when it has been decided so.
    pub since: jiff::Timestamp,
    /// In how many cycles.
    pub times: u64,
    /// The status line.
    pub line: String,
    /// Why, in the order in which the rules were looked at; the facts are those of the last time.
    pub reasons: Vec<Reason>,
}

/// A rule that fired or held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Its id.
    pub rule: String,
    /// What it says.
    pub says: String,
    /// From which facts; empty where it says it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub facts: String,
}
