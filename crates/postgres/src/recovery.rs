//! What a standby is to follow: the wanted recovery parameters (contract B.19.1, B.19.2).

use std::{collections::BTreeMap, path::Path};

use ptarmigan_config::PostgresSettings;
use ptarmigan_types::{scalar, slot};
use serde_json::Value;

use crate::{Login, Postgres, dsn::ConnInfo, pgpass, upstream::Upstream, version::ServerVersion};

pub mod difference;

/// Every recovery parameter of any supported version, and the names that releases before 12 had.
const GUCS: &[&str] = &[
    "archive_cleanup_command",
    "pause_at_recovery_target",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "standby_mode",
    "trigger_file",
];

/// Set to nothing on every standby, so that an included file cannot end its recovery (contract B.19.1).
const TARGETS: &[&str] = &[
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// True for a parameter of recovery, whichever case it is written in.
pub fn is_recovery_guc(name: &str) -> bool {
    GUCS.iter().any(|guc| guc.eq_ignore_ascii_case(name))
}

/// How a server is to come up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// As a primary.
    #[default]
    None,
    /// As a standby with these parameters.
    Standby(BTreeMap<String, String>),
    /// Up to a target, then as a primary, with these parameters (custom bootstrap).
    Target(BTreeMap<String, String>),
    /// As the files say that whoever made the data directory left behind (custom bootstrap).
    Existing,
}

impl Recovery {
    /// The parameters.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        match self {
            Self::None | Self::Existing => BTreeMap::new(),
            Self::Standby(parameters) | Self::Target(parameters) => parameters.clone(),
        }
    }
}

/// The slot that a standby uses on its upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SlotChoice {
    /// The one that belongs to its own name.
    #[default]
    Own,
    /// None: a remote upstream without a configured slot.
    None,
    /// The configured one of a remote upstream; mapped as a member's name is.
    Named(String),
}

/// What a standby follows. An upstream of `None` means WAL from the archive only, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The server to stream from; never this node itself.
    pub upstream: Option<Upstream>,
    /// The slot to use there, where slots are used at all.
    pub slot: SlotChoice,
    /// True where the upstream belongs to another cluster.
    pub is_remote: bool,
    /// `restore_command` of the standby cluster; overrides the node's own.
    pub restore_command: Option<String>,
    /// `archive_cleanup_command` of the standby cluster; overrides the node's own.
    pub archive_cleanup_command: Option<String>,
    /// `recovery_min_apply_delay`; only where the upstream is the remote end itself.
    pub recovery_min_apply_delay: Option<String>,
}

/// Wanted recovery parameters, and what has to be in the password file for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By name. No password among them.
    pub parameters: BTreeMap<String, String>,
    /// `primary_conninfo` before it became text; may hold the password.
    pub conninfo: Option<ConnInfo>,
    /// The lines of the password file; empty where no password is needed. Secret.
    pub passfile_lines: Vec<String>,
}

/// The node's part in [`wanted`].
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its settings.
    pub settings: &'a PostgresSettings,
    /// The version of its data directory.
    pub version: ServerVersion,
    /// Where its password file is.
    pub pgpass: &'a Path,
}

/// The recovery parameters of a standby (contract B.19.1). Pure. `login` is the replication user's connection parameters.
pub fn wanted(node: &Node<'_>, login: &ConnInfo, source: &Source) -> Wanted {
    let mut parameters = configured(node.settings, node.version);
    parameters.insert("recovery_target_timeline".to_owned(), "latest".to_owned());
    for target in TARGETS {
        parameters.insert((*target).to_owned(), String::new());
    }
    let overrides = [
        ("restore_command", &source.restore_command),
        ("archive_cleanup_command", &source.archive_cleanup_command),
        ("recovery_min_apply_delay", &source.recovery_min_apply_delay),
    ];
    for (name, value) in overrides {
        if let Some(value) = value {
            parameters.insert(name.to_owned(), value.clone());
        }
    }
    let Some(upstream) = &source.upstream else {
        return Wanted { parameters, conninfo: None, passfile_lines: Vec::new() };
    };
    let slot = slot_name(node, source);
    let mut info = conninfo(node, login, upstream, source.is_remote && slot.is_some());
    let passfile_lines = pgpass::lines(&info);
    if !passfile_lines.is_empty() {
        info.set("passfile", node.pgpass.display().to_string());
    }
    parameters.insert("primary_conninfo".to_owned(), info.text(node.version));
    if let Some(slot) = slot {
        parameters.insert("primary_slot_name".to_owned(), slot);
    }
    Wanted { parameters, conninfo: Some(info), passfile_lines }
}

/// The operator's recovery settings. Recovery GUCs among the server parameters replace `recovery_conf` entirely.
fn configured(settings: &PostgresSettings, version: ServerVersion) -> BTreeMap<String, String> {
    let recovery = |map: &serde_json::Map<String, Value>| -> BTreeMap<String, String> {
        let is_ours = |name: &str| {
            name.starts_with("recovery_target")
                || matches!(name, "primary_conninfo" | "primary_slot_name" | "standby_mode")
        };
        map.iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .filter(|(name, _)| is_recovery_guc(name) && !is_ours(name))
            .map(|(name, value)| (name, crate::guc::text(value)))
            .collect()
    };
    let among_parameters = recovery(&settings.parameters);
    let mut chosen =
        if among_parameters.is_empty() { recovery(&settings.recovery_conf) } else { among_parameters };
    let old = chosen.remove("trigger_file");
    let trigger = chosen.remove("promote_trigger_file").or(old);
    if let Some(path) = trigger.filter(|_| !version.at_least(16)) {
        chosen.insert("promote_trigger_file".to_owned(), path);
    }
    chosen.remove("pause_at_recovery_target");
    chosen
}

fn slot_name(node: &Node<'_>, source: &Source) -> Option<String> {
    let name = match &source.slot {
        _ if !node.settings.use_slots => return None,
        SlotChoice::None => return None,
        SlotChoice::Own => node.name,
        SlotChoice::Named(name) => name,
    };
    Some(slot::name_of_member(name))
}

/// `primary_conninfo` (contract B.19.2), still with its password.
fn conninfo(node: &Node<'_>, login: &ConnInfo, upstream: &Upstream, needs_writable: bool) -> ConnInfo {
    let mut info = upstream.address.clone();
    info.set_default("port", "5432");
    info.set_default("dbname", &node.settings.database);
    for (key, value) in login.iter() {
        if !matches!(key, "host" | "port" | "dbname" | "options" | "connect_timeout") {
            info.set(key, value);
        }
    }
    info.set("application_name", node.name);
    let defaults = [
        ("sslmode", "prefer"),
        ("gssencmode", "prefer"),
        ("channel_binding", "prefer"),
        ("sslnegotiation", "postgres"),
    ];
    for (key, value) in defaults {
        info.set_default(key, value);
    }
    if let Some(service) = &node.settings.krbsrvname {
        info.set("krbsrvname", service);
    }
    // A slot exists on one of several hosts: the primary.
    if needs_writable && info.get("host").is_some_and(|host| host.contains(',')) {
        info.set("target_session_attrs", "read-write");
    }
    info
}

impl Postgres {
    /// The recovery parameters that this node would have following `source`.
    pub fn wanted_recovery(&self, source: &Source) -> Result<Wanted, crate::version::Error> {
        let (settings, pgpass) = (self.settings(), self.pgpass_path());
        let mut login = ConnInfo::new();
        self.add_login(&mut login, Login::Replication);
        let node = Node {
            name: self.name().as_str(),
            settings: &settings,
            version: self.version()?,
            pgpass: &pgpass,
        };
        Ok(wanted(&node, &login, source))
    }
}

/// A delay in milliseconds; a number without a unit is one.
pub(crate) fn millis(text: &str) -> Option<i64> {
    scalar::parse_int(&Value::from(text), Some("ms"))
}

#[cfg(test)]
mod tests;
