//! Where nothing is broken and nobody asks for it, the leader stays.

use std::time::Duration;

use ptarmigan_types::Monotonic;

use super::{Violation, wrong};

/// How long what was broken may go on having its effects.
const SETTLE: Duration = Duration::from_secs(150);

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    promotions: u64,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// A member was promoted; nothing is broken since then.
    pub fn promoted(&mut self, at: Monotonic, quiet_since: Option<Monotonic>) {
        if quiet_since.is_none_or(|since| at.since(since) < SETTLE) {
            return;
        }
        self.promotions += 1;
        if self.promotions > 1 {
            let what = format!("{} promotions while nothing was broken", self.promotions);
            self.violation.get_or_insert_with(|| wrong("flapping", at, what));
        }
    }
}
