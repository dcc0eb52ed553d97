//! Which store, and its section (contract CF-31).

use serde_json::{Map, Value};

/// A store that the configuration can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DcsKind {
    /// etcd by its v3 API.
    Etcd3,
    /// etcd, asked for by its v2 API.
    Etcd,
    /// Consul.
    Consul,
    /// A store that Patroni knows and we do not: exhibitor, kubernetes, raft, zookeeper.
    Other(String),
}

impl DcsKind {
    /// The name of the section.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Etcd3 => "etcd3",
            Self::Etcd => "etcd",
            Self::Consul => "consul",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for DcsKind {
    fn from(name: &str) -> Self {
        match name {
            "etcd3" => Self::Etcd3,
            "etcd" => Self::Etcd,
            "consul" => Self::Consul,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// The store in use.
///
/// `Debug` shows the names of the section's keys only: their values hold tokens and passwords.
#[derive(Clone, PartialEq)]
pub struct DcsChoice {
    /// Which store.
    pub kind: DcsKind,
    /// Its section as it was written.
    pub section: Map<String, Value>,
}

impl std::fmt::Debug for DcsChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<&String> = self.section.keys().collect();
        f.debug_struct("DcsChoice").field("kind", &self.kind).field("keys", &keys).finish()
    }
}

/// Stores in the order in which they are looked for: the first section present counts.
pub(crate) const STORES: &[&str] =
    &["consul", "etcd", "etcd3", "exhibitor", "kubernetes", "raft", "zookeeper"];

impl DcsChoice {
    /// The store of a configuration (contract CF-31); `None` where it names none. A section that is null or no
    /// mapping reads as empty.
    pub fn read(config: &Map<String, Value>) -> Option<Self> {
        let name = STORES.iter().find(|name| config.contains_key(**name))?;
        let section = config.get(*name).and_then(Value::as_object).cloned().unwrap_or_default();
        Some(Self { kind: DcsKind::from(*name), section })
    }
}
