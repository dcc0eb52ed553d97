//! What a run is made of, in figures: shown in the closing line, so that a run that shows nothing is seen to show nothing.

use std::fmt;

/// Figures of one run, or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Faults.
    pub faults: u64,
    /// Requests of operators.
    pub requests: u64,
    /// Rounds of `decide`.
    pub rounds: u64,
    /// Promotions.
    pub promotions: u64,
    /// Acknowledged transactions.
    pub acknowledged: u64,
    /// Transactions lost with promotions: replication is asynchronous.
    pub lost: u64,
    /// Timelines begun twice.
    pub collisions: u64,
    /// Standbys that nothing but an operator brings back.
    pub left_behind: u64,
    /// Attempts to stream WAL that does not continue what is there.
    pub diverged_streams: u64,
    /// Leases that ended before the loop had stepped down: the last resort acted.
    pub overruns: u64,
    /// Servers that the guardian ended.
    pub fences: u64,
    /// Cycles that took more rounds than there may be.
    pub rounds_exceeded: u64,
    /// Rounds in failsafe mode.
    pub failsafe_rounds: u64,
    /// Those in which everybody promised.
    pub failsafe_passed: u64,
    /// Late writes of members with the contract's timing.
    pub contract_overlaps: u64,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        let Self {
            faults,
            requests,
            rounds,
            promotions,
            acknowledged,
            lost,
            collisions,
            left_behind,
            diverged_streams,
            overruns,
            fences,
            rounds_exceeded,
            failsafe_rounds,
            failsafe_passed,
            contract_overlaps,
        } = other;
        self.faults += faults;
        self.requests += requests;
        self.rounds += rounds;
        self.promotions += promotions;
        self.acknowledged += acknowledged;
        self.lost += lost;
        self.collisions += collisions;
        self.left_behind += left_behind;
        self.diverged_streams += diverged_streams;
        self.overruns += overruns;
        self.fences += fences;
        self.rounds_exceeded += rounds_exceeded;
        self.failsafe_rounds += failsafe_rounds;
        self.failsafe_passed += failsafe_passed;
        self.contract_overlaps += contract_overlaps;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} faults, {} requests of operators, {} decisions, {} promotions, {} transactions acknowledged, \
             {} of them lost with an asynchronous promotion, {} timelines begun twice, {} attempts to stream diverged WAL, \
             {} members left behind, {} overruns, {} servers ended by their guardian, {} cut cycles, {} rounds in failsafe mode of which {} passed, {} late writes of members with the contract's timing",
            self.faults,
            self.requests,
            self.rounds,
            self.promotions,
            self.acknowledged,
            self.lost,
            self.collisions,
            self.diverged_streams,
            self.left_behind,
            self.overruns,
            self.fences,
            self.rounds_exceeded,
            self.failsafe_rounds,
            self.failsafe_passed,
            self.contract_overlaps
        )
    }
}
