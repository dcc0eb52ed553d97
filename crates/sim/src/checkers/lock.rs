//! The lock is taken from nobody: a member changes or deletes the leader key only where it is its own or there is none.
//! Leases that end and operators may.

use ptarmigan_types::{MemberName, Monotonic, RawValue};

use super::{Violation, wrong};

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// A member's request was carried out: the leader key before and after it.
    pub fn changed(
        &mut self,
        at: Monotonic,
        who: &MemberName,
        before: Option<&RawValue>,
        after: Option<&RawValue>,
    ) {
        let revision = |raw: Option<&RawValue>| raw.map(|raw| raw.revision);
        if let Some(held) = before
            && revision(before) != revision(after)
            && held.value != who.0
        {
            let what = format!("{who} took the lock from {}", held.value);
            self.violation.get_or_insert_with(|| wrong("lock", at, what));
        }
    }
}
