//! `/history` only grows where `check_timeline` asks for it. Timelines that two members began, and standbys that would
//! stream what does not continue their WAL, are counted: neither the contract nor PostgreSQL keeps them from it.

use std::collections::BTreeMap;

use ptarmigan_types::{Lsn, Monotonic, Timeline};

use super::{Violation, wrong};
use crate::postgres::Postgres;

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    promoters: BTreeMap<(u64, Timeline), (String, Lsn)>,
    published: Timeline,
    /// The latest timeline that a member knew of when it began its promotion.
    known: BTreeMap<usize, Timeline>,
    /// Timelines that two members began, the second without having seen the first: PostgreSQL itself cannot tell.
    pub collisions: u64,
    /// Standbys whose WAL left the upstream's on the very same timeline.
    pub diverged_streams: u64,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// A member began a timeline. A second time is not this checker's objection: whoever was rewound or copied, or never
    /// heard of the first, cannot know (PostgreSQL looks at the history files that it has).
    pub fn promoted(&mut self, name: &str, postgres: &Postgres) {
        let key = (postgres.system_identifier, postgres.timeline);
        let from = postgres.history.last().map_or(Lsn::ZERO, |left| left.lsn);
        if self.promoters.insert(key, (name.to_owned(), from)).is_some() {
            self.collisions += 1;
        }
    }

    /// A member begins its promotion. What a leader of before wrote to `/history` may reach the store only later.
    pub fn begins(&mut self, member: usize, known: Timeline) {
        self.known.insert(member, known);
    }

    /// Under `check_timeline` whoever takes over has seen the latest timeline that `/history` showed.
    pub fn taken_over(&mut self, at: Monotonic, member: usize, postgres: &Postgres) {
        let left = postgres.history.last().map_or(0, |left| left.timeline);
        let known = self.known.get(&member).copied().unwrap_or_default();
        if left < known {
            let what = format!("m{member} was promoted from timeline {left}, /history has {known}");
            self.violation.get_or_insert_with(|| wrong("timelines", at, what));
        }
    }

    /// `pg_rewind` is only run where it brings back what the source has.
    pub fn rewound(&mut self, at: Monotonic, member: usize, continues: bool) {
        if !continues {
            let what = format!("m{member} was rewound to WAL that is not the source's");
            self.violation.get_or_insert_with(|| wrong("timelines", at, what));
        }
    }

    /// A server runs on what an interrupted `pg_rewind` has left.
    pub fn runs_torn(&mut self, at: Monotonic, member: usize) {
        let what = format!("the server of m{member} runs on a data directory that was half rewound");
        self.violation.get_or_insert_with(|| wrong("timelines", at, what));
    }

    /// A copy goes through crash recovery, which ends it as a primary of the source's timeline.
    pub fn recovers_copy(&mut self, at: Monotonic, member: usize) {
        let what = format!("m{member}'s copy goes through crash recovery");
        self.violation.get_or_insert_with(|| wrong("timelines", at, what));
    }

    /// `pg_rewind` works on a copy that has not replayed what it needs, or on what one from another source has left.
    pub fn rewinds_unsound(&mut self, at: Monotonic, member: usize) {
        let what = format!("m{member} is rewound, and its blocks are of a third history");
        self.violation.get_or_insert_with(|| wrong("timelines", at, what));
    }

    /// A standby would stream what does not continue its WAL, and neither side can tell by the timeline.
    pub const fn diverged_stream(&mut self) {
        self.diverged_streams += 1;
    }

    /// What `/history` says. Without `check_timeline`, and where an operator asks for it, a member that has not seen the
    /// latest timeline may take over.
    pub fn published(&mut self, at: Monotonic, timeline: Timeline, checked: bool) {
        if timeline < self.published && checked {
            let what = format!("/history went from timeline {} back to {timeline}", self.published);
            self.violation.get_or_insert_with(|| wrong("timelines", at, what));
        }
        self.published = timeline;
    }
}
