//! A timeline has one promoter, `/history` only grows, and nobody streams what does not continue its own WAL.

use std::collections::BTreeMap;

use ptarmigan_types::{Lsn, Monotonic, Timeline};

use super::{Violation, wrong};
use crate::postgres::Postgres;

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    promoters: BTreeMap<(u64, Timeline), (String, Lsn)>,
    published: Timeline,
    /// Timelines that two members began, the second without having seen the first: PostgreSQL itself cannot tell.
    pub collisions: u64,
    /// Standbys whose WAL left the upstream's on the very same timeline.
    pub diverged_streams: u64,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// A member began a timeline.
    pub fn promoted(&mut self, at: Monotonic, name: &str, postgres: &Postgres) {
        let key = (postgres.system_identifier, postgres.timeline);
        let from = postgres.history.last().map_or(Lsn::ZERO, |left| left.lsn);
        if let Some((other, _)) = self.promoters.get(&key) {
            self.collisions += 1;
            if other == name {
                let what = format!("{name} began timeline {} twice", postgres.timeline);
                self.violation.get_or_insert_with(|| wrong("timelines", at, what));
            }
            return;
        }
        self.promoters.insert(key, (name.to_owned(), from));
    }

    /// A standby would stream what does not continue its WAL, and neither side can tell by the timeline.
    pub const fn diverged_stream(&mut self, _at: Monotonic, _member: usize, _upstream: usize) {
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
