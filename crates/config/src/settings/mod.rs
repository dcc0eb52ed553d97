//! Typed settings: what the effective configuration means.

mod bootstrap;
mod dcs;
mod log;
mod postgresql;
mod rest;
mod watchdog;

use ptarmigan_types::{MemberName, Tags};

pub use bootstrap::{BootstrapMethod, BootstrapSettings};
pub use dcs::{DcsChoice, DcsKind};
pub use log::{LogFormat, LogSettings, LogType};
pub use postgresql::{Callbacks, Credentials, PerRole, PostgresSettings, ReplicaMethod};
pub use rest::{CtlSettings, RestSettings, VerifyClient};
pub use watchdog::{GuardianMode, WatchdogMode, WatchdogSettings};

use crate::DynamicSettings;

/// Everything a node needs to know, read once for each configuration change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name.
    pub name: MemberName,
    /// The cluster's name.
    pub scope: String,
    /// The prefix of every key in the DCS, as it was written; `service` by default.
    pub namespace: String,
    /// Life of the leader lock in seconds, after CF-26.
    pub ttl_s: u64,
    /// Longest sleep between two cycles in seconds, after CF-26.
    pub loop_wait_s: u64,
    /// Deadline of requests to the DCS and to PostgreSQL in seconds, after CF-26.
    pub retry_timeout_s: u64,
    /// Logging.
    pub log: LogSettings,
    /// The REST server.
    pub restapi: RestSettings,
    /// How to talk to other members' REST servers.
    pub ctl: CtlSettings,
    /// The store and its section.
    pub dcs: DcsChoice,
    /// The local PostgreSQL.
    pub postgresql: PostgresSettings,
    /// Present where this node may initialise a cluster (contract BS-1).
    pub bootstrap: Option<BootstrapSettings>,
    /// The node's tags.
    pub tags: Tags,
    /// The kernel watchdog.
    pub watchdog: WatchdogSettings,
    /// The guardian.
    pub guardian: GuardianMode,
    /// What is read straight from `/config` (contract CF-21, C.3).
    pub global: DynamicSettings,
}
