//! The answer of the core.

use ptarmigan_types::Monotonic;
use serde::{Deserialize, Serialize};

use crate::{action::Action, memory::Memory};

/// What to do, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// To be carried out in this order.
    pub actions: Vec<Action>,
    /// True: carry the actions out, add their outcomes, decide again. False: the cycle is complete.
    pub again: bool,
    /// Memory after this round.
    pub memory: Memory,
    /// The status line, as operators know it.
    pub line: String,
    /// Every rule that fired or held back, in order.
    pub report: Vec<Fired>,
    /// The latest next wake-up.
    pub wake_at: Monotonic,
}

impl Decision {
    /// The ids of the rules that fired, in order.
    pub fn rules(&self) -> Vec<&'static str> {
        self.report.iter().map(|fired| fired.rule.as_ref_static()).collect()
    }
}

/// A rule that fired, with its facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// The contract's id.
    pub rule: Rule,
    /// From which facts; empty where the rule says it all.
    pub facts: String,
}

/// A rule's id, such as `HA-172`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rule(pub std::borrow::Cow<'static, str>);

impl Rule {
    fn as_ref_static(&self) -> &'static str {
        match &self.0 {
            std::borrow::Cow::Borrowed(text) => text,
            std::borrow::Cow::Owned(_) => "",
        }
    }
}
