//! `/status` and the older `/optime/leader` (contract A.3.4, A.3.5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// What the leader last said of its position and slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The leader's position; zero where unknown.
    pub last_lsn: Lsn,
    /// Slot name to position.
    pub slots: Option<BTreeMap<String, Lsn>>,
    /// Slots kept for members that left a short while ago.
    pub retain_slots: Option<Vec<String>>,
}
