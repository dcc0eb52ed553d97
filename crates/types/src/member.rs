//! What a node publishes about itself under `/members/<name>` (contract A.3.3).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Lsn, Tags, Timeline, conn_url, pyjson, scalar};

/// The `name` of a node: its member key, its `application_name` and, mapped, its slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberName(pub String);

impl MemberName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for MemberName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, in the contract's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($text => Ok(Self::$variant),)+ _ => Err(()) }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|()| serde::de::Error::custom(format!("unknown word {text:?}")))
            }
        }
    };
}

words! {
    /// The state of the local PostgreSQL (contract A.3.3.1); the order is the index that the metric exports.
    MemberState {
        /// `initdb` is running.
        InitializingNewCluster = "initializing new cluster",
        /// `initdb` failed.
        InitdbFailed = "initdb failed",
        /// A custom bootstrap method is running.
        RunningCustomBootstrapScript = "running custom bootstrap script",
        /// A custom bootstrap method failed.
        CustomBootstrapFailed = "custom bootstrap failed",
        /// The data directory is being cloned.
        CreatingReplica = "creating replica",
        /// Accepting connections.
        Running = "running",
        /// Started, not accepting connections yet.
        Starting = "starting",
        /// First start after a custom bootstrap.
        StartingAfterCustomBootstrap = "starting after custom bootstrap",
        /// A start failed.
        StartFailed = "start failed",
        /// Being restarted.
        Restarting = "restarting",
        /// A restart failed.
        RestartFailed = "restart failed",
        /// Being stopped.
        Stopping = "stopping",
        /// Stopped.
        Stopped = "stopped",
        /// A stop failed.
        StopFailed = "stop failed",
        /// Died without being asked to.
        Crashed = "crashed",
    }
}

words! {
    /// The role that a node publishes (contract A.3.3).
    Role {
        /// Read-write.
        Primary = "primary",
        /// A standby.
        Replica = "replica",
        /// The standby that leads a standby cluster.
        StandbyLeader = "standby_leader",
        /// A former primary that was stopped.
        Demoted = "demoted",
        /// No usable data directory.
        Uninitialized = "uninitialized",
        /// Asked to promote, not yet known to be in production.
        Promoted = "promoted",
    }
}

impl Role {
    /// Reads a role of any release; `master` is the old word for `primary`.
    pub fn read(text: &str) -> Option<Self> {
        if text == "master" { Some(Self::Primary) } else { text.parse().ok() }
    }
}

/// The JSON object under `/members/<name>`, kept whole; fields of a wrong type read as absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberData(pub Map<String, Value>);

impl MemberData {
    /// Reads a member key: a JSON object, or the address that ancient releases wrote, with the REST address in its
    /// `application_name`. Anything else is empty (contract A.3.3).
    pub fn read(text: &str) -> Self {
        if text.starts_with("postgres") {
            return Self(read_ancient(text));
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Self(map),
            _ => Self::default(),
        }
    }

    /// The value of the key, compact, in the order of the fields.
    pub fn to_json(&self) -> String {
        pyjson::compact_map(&self.0)
    }

    /// True where both say the same, scalars compared by their text: nothing needs to be written then.
    pub fn equal_by_text(&self, other: &Self) -> bool {
        scalar::same_map(&self.0, &other.0)
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field).and_then(Value::as_str)
    }

    fn lsn(&self, field: &str) -> Option<Lsn> {
        self.0.get(field).and_then(Value::as_u64).map(Lsn)
    }

    /// `postgres://host:port/database`, without credentials.
    pub fn conn_url(&self) -> Option<&str> {
        self.text("conn_url").filter(|url| !url.is_empty())
    }

    /// The address of the member's REST API, ending in `/patroni`.
    pub fn api_url(&self) -> Option<&str> {
        self.text("api_url").filter(|url| !url.is_empty())
    }

    /// The published state; `None` where missing or unknown.
    pub fn state(&self) -> Option<MemberState> {
        self.text("state").and_then(|state| state.parse().ok())
    }

    /// The published state as it stands, `unknown` where missing.
    pub fn state_text(&self) -> &str {
        self.text("state").unwrap_or("unknown")
    }

    /// True for the exact state `running`.
    pub fn is_running(&self) -> bool {
        self.text("state") == Some("running")
    }

    /// The published role.
    pub fn role(&self) -> Option<Role> {
        self.text("role").and_then(Role::read)
    }

    /// The version of the software that wrote the key.
    pub fn version(&self) -> Option<&str> {
        self.text("version")
    }

    /// `false` while the checkpoint after a promotion is outstanding, absent once it is done.
    pub fn checkpoint_after_promote(&self) -> Option<bool> {
        self.0.get("checkpoint_after_promote").and_then(Value::as_bool)
    }

    /// The member's tags; empty where missing.
    pub fn tags(&self) -> Tags {
        self.0.get("tags").and_then(Value::as_object).cloned().map(Tags).unwrap_or_default()
    }

    /// Primary: flush position; standby: the greater of received and replayed.
    pub fn xlog_location(&self) -> Option<Lsn> {
        self.lsn("xlog_location")
    }

    /// Standby: the last replayed position.
    pub fn replay_lsn(&self) -> Option<Lsn> {
        self.lsn("replay_lsn")
    }

    /// Standby: the last received position.
    pub fn receive_lsn(&self) -> Option<Lsn> {
        self.lsn("receive_lsn")
    }

    /// `streaming` or `in archive recovery`.
    pub fn replication_state(&self) -> Option<&str> {
        self.text("replication_state")
    }

    /// The member's timeline.
    pub fn timeline(&self) -> Option<Timeline> {
        self.0.get("timeline").and_then(Value::as_u64).and_then(|tli| u32::try_from(tli).ok())
    }

    /// True while the member believes that the cluster is paused.
    pub fn pause(&self) -> bool {
        self.0.get("pause").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether the guardian stands behind the member's server, or will behind the next one that is started there. Members of
    /// Patroni have none, and say nothing of it.
    pub fn guardian_armed(&self) -> bool {
        self.text("guardian") == Some("armed")
    }

    /// True while a restart is outstanding.
    pub fn pending_restart(&self) -> bool {
        self.0.get("pending_restart").is_some_and(scalar::is_truthy)
    }

    /// The stored scheduled restart.
    pub fn scheduled_restart(&self) -> Option<&Map<String, Value>> {
        self.0.get("scheduled_restart").and_then(Value::as_object)
    }
}

fn read_ancient(text: &str) -> Map<String, Value> {
    let (url, query) = text.split_once('?').unwrap_or((text, ""));
    let mut map = Map::new();
    map.insert("conn_url".into(), url.into());
    let api_url = query.split('&').find_map(|pair| pair.strip_prefix("application_name="));
    if let Some(api_url) = api_url {
        map.insert("api_url".into(), conn_url::percent_decode(&api_url.replace('+', " ")).into());
    }
    map
}
