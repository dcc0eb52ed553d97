//! `/history` (contract A.3.9) and PostgreSQL's own `.history` files.

use serde::{Deserialize, Serialize};

use crate::{Lsn, Revision, Timeline};

/// One finished timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where it ended.
    pub lsn: Lsn,
    /// PostgreSQL's reason.
    pub reason: String,
    /// When the next one began, ISO 8601.
    pub timestamp: Option<String>,
    /// Who was promoted.
    pub new_leader: Option<String>,
}

/// The key as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Oldest first; `None` where the value was garbage.
    pub entries: Option<Vec<HistoryEntry>>,
    /// For conditional writes.
    pub revision: Revision,
}
