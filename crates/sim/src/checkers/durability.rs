//! What was acknowledged is only lost with a promotion, and then no more than the settings allow: the new primary had
//! reached `/status` up to `maximum_lag_on_failover`, and nobody whom it asked had more, unless an operator named it.

use std::time::Duration;

use ptarmigan_types::{Lsn, Monotonic, Timeline};

use super::{Violation, wrong};
use crate::{
    postgres::{Postgres, Record},
    scenario::LAG_BYTES,
};

/// How long an operator's wish may explain a promotion.
const MANUAL: Duration = Duration::from_secs(240);

/// The checker.
#[derive(Debug)]
pub struct Checker {
    acknowledged: Vec<Record>,
    limit_bytes: u64,
    manual_until: Monotonic,
    /// Every other member streams while its leader steps down in peace: nothing may be lost.
    graceful: bool,
    /// Transactions lost with promotions.
    pub lost: u64,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Default for Checker {
    fn default() -> Self {
        Self {
            acknowledged: Vec::new(),
            limit_bytes: LAG_BYTES,
            manual_until: Monotonic(0),
            graceful: false,
            lost: 0,
            violation: None,
        }
    }
}

impl Checker {
    /// A client was told that its transaction is committed.
    pub fn acknowledged(&mut self, record: Record) {
        self.acknowledged.push(record);
    }

    /// An operator asked for another leader.
    pub fn manual(&mut self, now: Monotonic) {
        self.manual_until = now + MANUAL;
    }

    /// An operator's wish may explain what happens now.
    pub fn is_manual(&self, now: Monotonic) -> bool {
        now <= self.manual_until
    }

    /// A limit that was in force at some time.
    pub fn allow(&mut self, bytes: u64) {
        self.limit_bytes = self.limit_bytes.max(bytes);
    }

    /// A leader steps down for a switchover; `all_stream`: every other member has its WAL.
    pub const fn stepping_down(&mut self, all_stream: bool) {
        self.graceful = all_stream;
    }

    /// A fault: what comes after it is no graceful switchover any more.
    pub const fn disturbed(&mut self) {
        self.graceful = false;
    }

    /// A promotion: what the new primary has not got is lost.
    pub fn promoted(
        &mut self,
        now: Monotonic,
        postgres: &Postgres,
        cluster_lsn: Lsn,
        best_peer: Option<(Timeline, Lsn)>,
    ) {
        let has = |record: &Record| postgres.has(record);
        let before = self.acknowledged.len();
        let first = self.acknowledged.iter().find(|record| !has(record)).copied();
        self.acknowledged.retain(has);
        let lost = before - self.acknowledged.len();
        self.lost += lost as u64;
        let behind = cluster_lsn.bytes_ahead_of(postgres.end());
        let graceful = std::mem::take(&mut self.graceful);
        if graceful && lost > 0 {
            let what = format!(
                "{lost} acknowledged transactions were lost in a graceful switchover, {first:?}, new primary from {}",
                postgres.end()
            );
            self.violation.get_or_insert_with(|| wrong("durability", now, what));
        } else if now > self.manual_until && behind > self.limit_bytes {
            let what = format!("promoted {behind} bytes behind the cluster, limit {}", self.limit_bytes);
            self.violation.get_or_insert_with(|| wrong("durability", now, what));
        }
        let (timeline, mine) =
            postgres.history.last().map_or((0, Lsn::ZERO), |left| (left.timeline, left.lsn));
        let ahead = best_peer.filter(|(theirs, lsn)| *theirs == timeline && *lsn > mine);
        if let Some((_, lsn)) = ahead.filter(|_| now > self.manual_until) {
            let what = format!("promoted at {mine}, a peer had said that it is at {lsn}");
            self.violation.get_or_insert_with(|| wrong("durability", now, what));
        }
    }

    /// The cluster is a standby cluster of one that has no more than this: what it has not got is lost, as operators wished.
    pub fn replaced(&mut self, postgres: &Postgres) {
        let before = self.acknowledged.len();
        self.acknowledged.retain(|record| postgres.has(record));
        self.lost += (before - self.acknowledged.len()) as u64;
    }

    /// The end: the leader has everything that was not lost with a promotion.
    pub fn finish(&mut self, now: Monotonic, leader: &Postgres) {
        let missing = self.acknowledged.iter().filter(|record| !leader.has(record)).count();
        if missing > 0 {
            let what = format!("{missing} acknowledged transactions are gone, and no promotion explains it");
            self.violation.get_or_insert_with(|| wrong("durability", now, what));
        }
    }
}
