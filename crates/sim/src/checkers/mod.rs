//! What must never happen, one file each, and what has to happen in the end.

pub mod callbacks;
pub mod durability;
pub mod failsafe;
pub mod flapping;
pub mod initialize_once;
pub mod liveness;
pub mod lock;
pub mod logical_slots;
pub mod pause;
pub mod single_writable_primary;
pub mod slots;
pub mod standby_cluster;
pub mod strict;
pub mod sync_durability;
pub mod sync_key;
pub mod sync_rest;
pub mod synchronous;
pub mod tags;
pub mod timelines;
pub mod watchdog;

use std::{fmt, time::Duration};

use ptarmigan_types::{History, Monotonic};

use crate::{
    counts::Counts,
    world::{Event, World},
};

/// How often the whole is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// What a violation is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something happened that must not.
    Correctness,
    /// Something did not happen that must.
    Liveness,
}

/// A checker's objection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Of what.
    pub kind: Kind,
    /// Which checker.
    pub checker: &'static str,
    /// When.
    pub at: Monotonic,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at {:.3}: {}", self.checker, self.at.0 as f64 / 1e6, self.what)
    }
}

/// A correctness violation.
pub(crate) fn wrong(checker: &'static str, at: Monotonic, what: String) -> Violation {
    Violation { kind: Kind::Correctness, checker, at, what }
}

/// All checkers of one run.
#[derive(Debug, Default)]
pub struct Checks {
    /// Two primaries.
    pub single: single_writable_primary::Checker,
    /// What was acknowledged.
    pub durability: durability::Checker,
    /// Timelines.
    pub timelines: timelines::Checker,
    /// `/initialize`.
    pub initialize: initialize_once::Checker,
    /// The lock.
    pub lock: lock::Checker,
    /// Maintenance mode.
    pub pause: pause::Checker,
    /// Changes of the leader for nothing.
    pub flapping: flapping::Checker,
    /// Replication slots.
    pub slots: slots::Checker,
    /// Logical slots and their consumer.
    pub logical: logical_slots::Checker,
    /// What was acknowledged under synchronous replication.
    pub sync_durability: sync_durability::Checker,
    /// `/sync` against the primary.
    pub sync_key: sync_key::Checker,
    /// Strict mode.
    pub strict: strict::Checker,
    /// The keys that those look at, as they were looked at last.
    pub keys_seen: synchronous::Seen,
    /// Nobody writes in a standby cluster.
    pub standby_cluster: standby_cluster::Checker,
    /// Failsafe mode.
    pub failsafe: failsafe::Checker,
    /// The operator's callbacks.
    pub callbacks: callbacks::Checker,
    /// Objections that are no checker's own.
    pub others: Vec<Violation>,
    /// Faults that have not ended.
    pub faults_active: u64,
    /// Figures so far, where no checker has them.
    pub counts: Counts,
}

impl Checks {
    /// The first objection.
    pub fn violation(&self) -> Option<&Violation> {
        self.single
            .violation
            .as_ref()
            .or(self.durability.violation.as_ref())
            .or(self.timelines.violation.as_ref())
            .or(self.initialize.violation.as_ref())
            .or(self.lock.violation.as_ref())
            .or(self.pause.violation.as_ref())
            .or(self.flapping.violation.as_ref())
            .or(self.slots.violation.as_ref())
            .or(self.logical.violation.as_ref())
            .or(self.sync_durability.violation.as_ref())
            .or(self.strict.violation.as_ref())
            .or(self.sync_key.violation.as_ref())
            .or(self.failsafe.violation.as_ref())
            .or(self.callbacks.violation.as_ref())
            .or(self.standby_cluster.violation.as_ref())
            .or_else(|| self.others.first())
    }

    /// Some checker objects.
    pub fn failed(&self) -> bool {
        self.violation().is_some()
    }
}

impl World {
    /// A member was promoted: every checker that minds is told.
    pub fn judge_promotion(&mut self, member: usize) {
        self.checks.counts.promotions += 1;
        let this = &self.members[member];
        let (now, name) = (self.now, this.name.0.clone());
        if let Some(violation) = tags::promoted(now, this) {
            self.checks.others.push(violation);
        }
        if let Some(violation) = watchdog::promoted(now, this) {
            self.checks.others.push(violation);
        }
        let cluster_lsn = this.known.as_ref().map(|view| view.status.last_lsn);
        // Under synchronous replication the leader of /sync may have more that nobody was told of (HN-7).
        let by_votes = this.settings.synchronous.is_on()
            && this.known.as_ref().is_some_and(|view| !view.sync.is_empty());
        let best_peer = this.best_peer.filter(|_| !by_votes);
        self.checks.durability.promoted(now, &this.postgres, cluster_lsn.unwrap_or_default(), best_peer);
        self.checks.timelines.promoted(&name, &this.postgres);
        if self.scenario.check_timeline && !self.checks.durability.is_manual(now) {
            self.checks.timelines.taken_over(now, member, &this.postgres);
        }
        self.checks.failsafe.leads(now, member, "was promoted");
        self.checks.flapping.promoted(now, self.quiet_since);
        self.judge_synchronous_promotion(member);
        self.trouble_new_primary();
    }

    /// Looks at the whole.
    pub fn check_all(&mut self) {
        self.after(LOOK, Event::Check);
        if let Some(violation) = callbacks::judge(self) {
            self.checks.others.push(violation);
        }
        let history = self.store.keys.get("history");
        let timeline = history.map_or(0, |raw| History::read(&raw.value, 0).timeline());
        let checked = self.scenario.check_timeline && !self.checks.durability.is_manual(self.now);
        self.checks.timelines.published(self.now, timeline, checked);
    }
}
