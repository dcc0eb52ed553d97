//! A standby cluster writes nothing: not at all once the other cluster has a primary, and soon after its `/config` says so
//! before. Only with the timing of our own: a Patroni's is counted elsewhere.

use std::time::Duration;

use ptarmigan_types::Monotonic;

use super::{Violation, wrong};
use crate::{member::Timing, world::World};

/// The longest way from `/config` to the shutdown: a leader that stands still as long as its lease allows, a start that is
/// under way, a shutdown that takes its time.
const SOON: Duration = Duration::from_secs(300);

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    demoted: Option<Monotonic>,
    taken_over: Option<Monotonic>,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// `/config` says that this is a standby cluster.
    pub const fn demoted(&mut self, now: Monotonic) {
        self.demoted = Some(now);
    }

    /// The other cluster has a primary.
    pub const fn taken_over(&mut self, now: Monotonic) {
        self.taken_over = Some(now);
    }

    /// `/config` does not say so any more.
    pub const fn promoted(&mut self) {
        self.demoted = None;
        self.taken_over = None;
    }
}

impl World {
    /// A member acknowledged a transaction.
    pub fn judge_standby_cluster(&mut self, member: usize) {
        let this = &self.members[member];
        if this.timing != Timing::Own || self.scenario.unguarded {
            return;
        }
        let checker = &mut self.checks.standby_cluster;
        let what = match (checker.taken_over, checker.demoted) {
            (Some(at), _) => {
                format!(
                    "{} writes, and the other cluster has a primary since {}",
                    this.name,
                    at.0 / 1_000_000
                )
            }
            (None, Some(at)) if self.now.since(at) > SOON => {
                format!("{} still writes, this is a standby cluster since {}", this.name, at.0 / 1_000_000)
            }
            _ => return,
        };
        let now = self.now;
        checker.violation.get_or_insert_with(|| wrong("standby_cluster", now, what));
    }
}
