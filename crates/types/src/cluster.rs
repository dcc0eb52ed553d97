//! The cluster as the DCS shows it: one parsed snapshot of every key (contract A).

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Failover, History, Key, MemberData, MemberName, Status, SyncState};

/// The store's modification counter of a key: etcd's `mod_revision`, Consul's `ModifyIndex`.
pub type Revision = u64;

/// An etcd lease, or a Consul session, as opaque text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub String);

/// One key as the store returned it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawValue {
    /// The value; bytes that are not UTF-8 were replaced, which every codec then treats as garbage.
    pub value: String,
    /// When the key was last written.
    pub revision: Revision,
    /// When the key was created.
    pub create_revision: Revision,
    /// What the key hangs on.
    pub lease: Option<LeaseId>,
}

/// `/initialize` (contract A.3.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialize {
    /// Empty while a node bootstraps, then the system identifier.
    pub value: String,
    /// For conditional writes.
    pub revision: Revision,
}

impl Initialize {
    /// The system identifier; `None` where the value is not one (at least ten digits).
    pub fn system_identifier(&self) -> Option<&str> {
        is_system_identifier(&self.value).then_some(self.value.as_str())
    }
}

/// True for text that can be a PostgreSQL system identifier: digits only, at least ten (contract A.3.1).
pub fn is_system_identifier(text: &str) -> bool {
    text.len() >= 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `/leader` (contract A.3.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The holder; never empty (an empty value counts as no leader).
    pub name: MemberName,
    /// When the key was last written.
    pub revision: Revision,
    /// When the key was created: a re-created key is another lock.
    pub create_revision: Revision,
    /// What the key hangs on.
    pub lease: Option<LeaseId>,
}

/// One key below `/members/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The last path segment.
    pub name: MemberName,
    /// When the key was last written.
    pub revision: Revision,
    /// What the key hangs on.
    pub lease: Option<LeaseId>,
    /// The value.
    pub data: MemberData,
}

/// `/config` (contract A.3.7). Absent, not JSON or not an object: the field of [`Cluster`] tells which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DynamicConfig {
    /// The object; empty where the value was not one.
    pub value: Map<String, Value>,
    /// 0 where the value was not an object, so that it never counts as a valid configuration.
    pub revision: Revision,
}

impl DynamicConfig {
    /// True where the key held an object.
    pub const fn is_valid(&self) -> bool {
        self.revision != 0
    }
}

/// Everything below the cluster's prefix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// `/initialize`.
    pub initialize: Option<Initialize>,
    /// `/config`.
    pub config: Option<DynamicConfig>,
    /// `/leader`.
    pub leader: Option<Leader>,
    /// `/members/*`, in the store's order (by name); shared, as they are kept from cycle to cycle.
    pub members: Arc<Vec<Member>>,
    /// `/status`, or `/optime/leader` where it is missing.
    pub status: Status,
    /// `/sync`; `revision` 0 where the key is missing.
    pub sync: SyncState,
    /// `/failover`, where it asks for something.
    pub failover: Option<Failover>,
    /// The revision of `/failover`, also where it asks for nothing.
    pub failover_revision: Option<Revision>,
    /// `/history`.
    pub history: Option<History>,
    /// `/failsafe`: member name to REST address.
    pub failsafe: Option<BTreeMap<String, String>>,
    /// The revision of `/failsafe`, also where it holds no object.
    #[serde(default)]
    pub failsafe_revision: Option<Revision>,
}

impl Cluster {
    /// Parses the keys of one snapshot; `keys` are relative to the cluster's prefix (`members/a`, `leader`, ...).
    /// Garbage never fails: each key falls back as contract A.3 says.
    pub fn read<'a>(keys: impl IntoIterator<Item = (&'a str, &'a RawValue)>) -> Self {
        let mut cluster = Self::default();
        let mut members = Vec::new();
        let mut optime = None;
        let mut status = None;
        for (path, raw) in keys {
            match Key::parse(path) {
                Some(Key::Initialize) => {
                    cluster.initialize =
                        Some(Initialize { value: raw.value.clone(), revision: raw.revision });
                }
                Some(Key::Config) => cluster.config = Some(read_config(raw)),
                Some(Key::Leader) => cluster.leader = read_leader(raw),
                Some(Key::Member(name)) => members.push(Member {
                    name,
                    revision: raw.revision,
                    lease: raw.lease.clone(),
                    data: MemberData::read(&raw.value),
                }),
                Some(Key::Status) => status = Some(Status::read(&raw.value)),
                Some(Key::Optime) => optime = Some(Status::read_optime(&raw.value)),
                Some(Key::Sync) => cluster.sync = SyncState::read(&raw.value, raw.revision),
                Some(Key::Failover) => {
                    cluster.failover_revision = Some(raw.revision);
                    cluster.failover = Failover::read(&raw.value, raw.revision);
                }
                Some(Key::History) => cluster.history = Some(History::read(&raw.value, raw.revision)),
                Some(Key::Failsafe) => {
                    cluster.failsafe_revision = Some(raw.revision);
                    cluster.failsafe = read_failsafe(&raw.value);
                }
                None => {}
            }
        }
        cluster.status = status.or(optime).unwrap_or_default();
        members.sort_by(|a: &Member, b| a.name.cmp(&b.name));
        cluster.members = Arc::new(members);
        cluster
    }

    /// The member of that name.
    pub fn member(&self, name: &MemberName) -> Option<&Member> {
        self.members.iter().find(|member| member.name == *name)
    }

    /// The holder's name.
    pub fn leader_name(&self) -> Option<&MemberName> {
        self.leader.as_ref().map(|leader| &leader.name)
    }

    /// The holder's member key; `None` where there is no leader or it published nothing.
    pub fn leader_member(&self) -> Option<&Member> {
        self.leader_name().and_then(|name| self.member(name))
    }

    /// No `/leader` key, or an empty name in it.
    pub const fn is_unlocked(&self) -> bool {
        self.leader.is_none()
    }

    /// True where `name` holds the lock in this view.
    pub fn is_leader(&self, name: &MemberName) -> bool {
        self.leader_name() == Some(name)
    }

    /// The system identifier in `/initialize`, where valid.
    pub fn system_identifier(&self) -> Option<&str> {
        self.initialize.as_ref().and_then(Initialize::system_identifier)
    }

    /// The timeline that `/history` implies (contract A.3.9): 0 where the key is absent or garbage.
    pub fn timeline(&self) -> u32 {
        self.history.as_ref().map_or(0, History::timeline)
    }
}

fn read_leader(raw: &RawValue) -> Option<Leader> {
    (!raw.value.is_empty()).then(|| Leader {
        name: MemberName(raw.value.clone()),
        revision: raw.revision,
        create_revision: raw.create_revision,
        lease: raw.lease.clone(),
    })
}

fn read_config(raw: &RawValue) -> DynamicConfig {
    match serde_json::from_str::<Value>(&raw.value) {
        Ok(Value::Object(value)) => DynamicConfig { value, revision: raw.revision },
        _ => DynamicConfig { value: Map::new(), revision: 0 },
    }
}

fn read_failsafe(text: &str) -> Option<BTreeMap<String, String>> {
    let Ok(Value::Object(map)) = serde_json::from_str(text) else { return None };
    Some(map.into_iter().filter_map(|(name, url)| url.as_str().map(|url| (name, url.to_owned()))).collect())
}
