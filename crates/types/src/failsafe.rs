//! What members say to each other in failsafe mode (contract FS-3).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Lsn, MemberName, Revision};

/// `POST /failsafe`: a leader without the DCS asks a member not to lead (contract FS-3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailsafeRequest {
    /// The leader.
    pub name: MemberName,
    /// How to connect to its PostgreSQL.
    pub conn_url: String,
    /// Its REST API.
    pub api_url: String,
    /// Its slots and their positions.
    pub slots: Option<BTreeMap<String, Lsn>>,
    /// Its `ttl`; a Patroni tells none.
    pub ttl: Option<Duration>,
    /// The create revision of the last lock that it held; a Patroni tells none.
    pub lock: Option<Revision>,
    /// A guardian ends its server at the end of its lease; a Patroni has none.
    pub guarded: bool,
}
