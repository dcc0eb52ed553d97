//! A member with the tag `nofailover` is never promoted.

use ptarmigan_types::Monotonic;

use super::{Violation, wrong};
use crate::member::Member;

/// Whether this member might be promoted.
pub fn promoted(at: Monotonic, member: &Member) -> Option<Violation> {
    let forbidden = member.settings.tags.nofailover();
    forbidden.then(|| wrong("tags", at, format!("{} was promoted in spite of nofailover", member.name)))
}
