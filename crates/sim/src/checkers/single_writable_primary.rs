//! At no moment do two members both acknowledge writes: after the first acknowledgement of a later promotion there is none
//! of an earlier one. A member with the contract's timing has no clock that ends its leadership, and a primary that lost its
//! lock in pause is an operator's: where such a one still writes, that is counted, and no objection.

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
    /// Writes that came too late, of members that nobody keeps from it.
    pub contract_overlaps: u64,
}

impl Checker {
    /// A member acknowledged a transaction, writable since that promotion. `promises`: it has to know whether it still leads.
    /// False: nobody promised to keep it.
    pub fn acknowledged(
        &mut self,
        at: Monotonic,
        member: usize,
        promises: bool,
        term: u64,
        timeline: Timeline,
    ) -> bool {
        self.acknowledged += 1;
        if let Some((latest, other, theirs)) = self.latest
            && (term < latest || term == latest && member != other)
        {
            if !promises && term < latest {
                self.contract_overlaps += 1;
                return false;
            }
            let what = format!(
                "m{member} acknowledged a write on timeline {timeline} after m{other} had on timeline {theirs}"
            );
            self.violation.get_or_insert_with(|| wrong("single_writable_primary", at, what));
            return true;
        }
        self.latest = Some((term, member, timeline));
        true
    }
}
