//! `/sync` (contract A.3.6).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{MemberName, Revision, pyjson, scalar};

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

impl SyncState {
    /// Reads `/sync`. Garbage anywhere makes the state empty, but keeps the revision, so that a conditional write
    /// can repair the key.
    pub fn read(text: &str, revision: Revision) -> Self {
        Self::parse(text, revision).unwrap_or_else(|| Self { revision, ..Self::default() })
    }

    fn parse(text: &str, revision: Revision) -> Option<Self> {
        let Ok(Value::Object(map)) = serde_json::from_str(text) else { return None };
        let leader = map.get("leader")?.as_str().filter(|leader| !leader.is_empty())?;
        let standbys = match map.get("sync_standby") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(list)) => {
                list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(MemberName::from).collect()
            }
            Some(_) => return None,
        };
        let quorum = match map.get("quorum") {
            Some(quorum) if scalar::is_truthy(quorum) => u32::try_from(scalar::python_int(quorum)?).ok()?,
            _ => 0,
        };
        Some(Self { leader: Some(leader.into()), standbys, quorum, revision })
    }

    /// The value of `/sync`: standbys sorted and joined without blanks, `null` where there are none.
    pub fn to_json(&self) -> String {
        let mut names: Vec<_> = self.standbys.iter().map(MemberName::as_str).collect();
        names.sort_unstable();
        let standbys = if names.is_empty() { Value::Null } else { names.join(",").into() };
        pyjson::compact(&json!({"leader": self.leader, "quorum": self.quorum, "sync_standby": standbys}))
    }

    /// No leader: nobody is bound by the key.
    pub const fn is_empty(&self) -> bool {
        self.leader.is_none()
    }

    /// The leader and the standbys; nobody where the state is empty.
    pub fn members(&self) -> Vec<MemberName> {
        match &self.leader {
            Some(leader) => std::iter::once(leader).chain(&self.standbys).cloned().collect(),
            None => Vec::new(),
        }
    }

    /// True where `name` is among the standbys, in whatever case; never in an empty state. The leader does not count:
    /// see [`Self::matches_or_leads`].
    pub fn matches(&self, name: &str) -> bool {
        !self.is_empty() && self.standbys.iter().any(|standby| same_name(standby.as_str(), name))
    }

    /// True where `name` is the leader or among the standbys, in whatever case.
    pub fn matches_or_leads(&self, name: &str) -> bool {
        self.matches(name) || self.leader_matches(name)
    }

    /// True where `name` is the leader, in whatever case.
    pub fn leader_matches(&self, name: &str) -> bool {
        self.leader.as_ref().is_some_and(|leader| same_name(leader.as_str(), name))
    }
}

fn same_name(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}
