//! `/sync` (contract A.3.6).

use serde::{Deserialize, Serialize};

use crate::{MemberName, Revision};

/// Who may be promoted under synchronous replication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncState {
    /// The primary that wrote the key; `None` makes the state empty.
    pub leader: Option<MemberName>,
    /// Synchronous standbys, or voters in quorum mode.
    pub standbys: Vec<MemberName>,
    /// How many voters must agree; 0 in priority mode.
    pub quorum: u32,
    /// 0 where the key is missing.
    pub revision: Revision,
}
