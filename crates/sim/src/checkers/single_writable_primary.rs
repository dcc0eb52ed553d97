//! At no moment do two members both acknowledge writes: after the first acknowledgement of a later promotion there is none
//! of an earlier one.

use ptarmigan_types::{Monotonic, Timeline};

use super::{Violation, wrong};

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    latest: Option<(u64, usize, Timeline)>,
    /// The objection.
    pub violation: Option<Violation>,
    /// Acknowledgements so far.
    pub acknowledged: u64,
}

impl Checker {
    /// A member acknowledged a transaction, writable since that promotion.
    pub fn acknowledged(&mut self, at: Monotonic, member: usize, term: u64, timeline: Timeline) {
        self.acknowledged += 1;
        if let Some((latest, other, theirs)) = self.latest
            && (term < latest || term == latest && member != other)
        {
            let what = format!(
                "m{member} acknowledged a write on timeline {timeline} after m{other} had on timeline {theirs}"
            );
            self.violation.get_or_insert_with(|| wrong("single_writable_primary", at, what));
            return;
        }
        self.latest = Some((term, member, timeline));
    }
}
