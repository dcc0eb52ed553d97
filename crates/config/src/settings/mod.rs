//! Typed settings: what the effective configuration means.

mod bootstrap;
mod dcs;
mod log;
mod postgresql;
mod read;
mod rest;
mod watchdog;

use ptarmigan_types::{MemberName, Tags, scalar::python_int};
use serde_json::{Map, Value};

pub use bootstrap::{BootstrapMethod, BootstrapSettings};
pub(crate) use dcs::STORES;
pub use dcs::{DcsChoice, DcsKind};
pub use log::{LogFormat, LogSettings, LogType};
pub use postgresql::{Callbacks, Credentials, PerRole, PostgresSettings, ReplicaMethod};
pub use rest::{CtlSettings, RestSettings, VerifyClient};
pub use watchdog::{GuardianMode, WatchdogMode, WatchdogSettings};

use crate::{DynamicSettings, Warning, load::STRICT_PLACEHOLDER};
use read::{Notes, Section};

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

impl Settings {
    /// Reads the merged configuration and the dynamic one. Remarks are added to `warnings`.
    ///
    /// # Errors
    /// What is missing or wrong and has no default, by its dotted key.
    pub fn read(
        merged: &Map<String, Value>,
        dynamic: &Map<String, Value>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Vec<Warning>> {
        let notes = Notes::default();
        let root = Section::root(merged, &notes);
        let name = root.required_text("name");
        if name == STRICT_PLACEHOLDER {
            root.fault("name", "is a name that the manager itself uses");
        }
        let dcs = DcsChoice::read(merged);
        match &dcs {
            None => root.fault("etcd3", format!("is not defined, nor is any of {}", STORES.join(", "))),
            Some(choice) if matches!(choice.kind, DcsKind::Other(_)) => {
                root.fault(
                    choice.kind.as_str(),
                    "is a store that is not supported: use etcd3, etcd or consul",
                );
            }
            Some(_) => {}
        }
        let seconds = |key: &str| merged.get(key).and_then(python_int).and_then(|s| u64::try_from(s).ok());
        let restapi = RestSettings::read(&root.section("restapi"));
        let global = DynamicSettings::read(dynamic);
        let tags = Tags(root.mapping("tags"));
        for conflict in tags.conflicts() {
            root.warn("tags", conflict);
        }
        let settings = Self {
            name: MemberName(name),
            scope: root.required_text("scope"),
            namespace: root.filled_text("namespace").unwrap_or_else(|| "service".to_owned()),
            ttl_s: seconds("ttl").unwrap_or(30),
            loop_wait_s: seconds("loop_wait").unwrap_or(10),
            retry_timeout_s: seconds("retry_timeout").unwrap_or(10),
            log: LogSettings::read(&root.section("log")),
            ctl: CtlSettings::read_with(
                &root.section("ctl"),
                restapi.authentication.clone(),
                restapi.cafile.clone(),
            ),
            restapi,
            dcs: dcs.unwrap_or_else(|| DcsChoice { kind: DcsKind::Etcd3, section: Map::new() }),
            postgresql: PostgresSettings::read(&root.section("postgresql"), global.use_slots),
            bootstrap: root.has("bootstrap").then(|| BootstrapSettings::read(&root.section("bootstrap"))),
            tags,
            watchdog: WatchdogSettings::read(&root.section("watchdog")),
            guardian: GuardianMode::read(&root.section("guardian")),
            global,
        };
        warnings.extend(notes.warnings.into_inner());
        let faults = notes.faults.into_inner();
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }
}
