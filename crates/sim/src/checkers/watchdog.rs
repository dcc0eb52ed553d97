//! Nobody is promoted whose watchdog is required and does not count down.

use ptarmigan_types::Monotonic;

use super::{Violation, wrong};
use crate::member::Member;

/// Whether this member might be promoted. In pause the watchdog is off.
pub fn promoted(at: Monotonic, member: &Member) -> Option<Violation> {
    let forbidden = member.watchdog.required && !member.watchdog.running && !member.memory.was_paused;
    forbidden.then(|| wrong("watchdog", at, format!("{} was promoted without its watchdog", member.name)))
}
