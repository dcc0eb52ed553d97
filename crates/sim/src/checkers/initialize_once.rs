//! The system identifier is written into `/initialize` once.

use ptarmigan_types::{Monotonic, cluster::is_system_identifier};

use super::{Violation, wrong};

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    identifier: Option<String>,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// The system identifier, once it was written.
    pub fn identifier(&self) -> Option<&str> {
        self.identifier.as_deref()
    }

    /// The key was written; `None`: deleted.
    pub fn written(&mut self, at: Monotonic, value: Option<&str>) {
        match (&self.identifier, value) {
            (Some(old), Some(new)) if old != new => {
                let what = format!("/initialize went from {old} to {new:?}");
                self.violation.get_or_insert_with(|| wrong("initialize_once", at, what));
            }
            (None, Some(new)) if is_system_identifier(new) => self.identifier = Some(new.to_owned()),
            _ => {}
        }
    }
}
