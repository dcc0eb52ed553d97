//! The GUCs that the manager controls (contract C.4): taken from the dynamic configuration only, written to
//! `postgresql.conf` and passed on the command line.

use std::collections::BTreeMap;

use ptarmigan_types::scalar::{parse_bool, parse_int, python_str};
use serde_json::{Map, Value};

use crate::Warning;

/// What a dynamic value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Derived from `listen` or the scope, never taken.
    Never,
    /// An integer of at least this, in this unit where one is given.
    AtLeast(i64, Option<&'static str>),
    Flag,
    True,
    WalLevel,
}

/// A controlled GUC.
#[derive(Clone, Copy, Debug)]
struct Guc {
    name: &'static str,
    default: Option<&'static str>,
    rule: Rule,
    since: u32,
    on_command_line: bool,
}

const fn guc(name: &'static str, default: &'static str, rule: Rule, since: u32) -> Guc {
    Guc { name, default: Some(default), rule, since, on_command_line: true }
}

const fn derived(name: &'static str, since: u32) -> Guc {
    Guc { name, default: None, rule: Rule::Never, since, on_command_line: true }
}

const GUCS: &[Guc] = &[
    derived("listen_addresses", 90100),
    derived("port", 90100),
    derived("cluster_name", 90500),
    guc("wal_level", "hot_standby", Rule::WalLevel, 90100),
    guc("hot_standby", "on", Rule::True, 90100),
    guc("max_connections", "100", Rule::AtLeast(25, None), 90100),
    guc("max_wal_senders", "10", Rule::AtLeast(3, None), 90100),
    Guc { on_command_line: false, ..guc(WAL_KEEP_SEGMENTS, "8", Rule::AtLeast(1, None), 90100) },
    Guc { on_command_line: false, ..guc(WAL_KEEP_SIZE, "128MB", Rule::AtLeast(16, Some("MB")), 130_000) },
    guc("max_prepared_transactions", "0", Rule::AtLeast(0, None), 90100),
    guc("max_locks_per_transaction", "64", Rule::AtLeast(32, None), 90100),
    guc("track_commit_timestamp", "off", Rule::Flag, 90500),
    guc("max_replication_slots", "10", Rule::AtLeast(4, None), 90400),
    guc("max_worker_processes", "8", Rule::AtLeast(2, None), 90400),
    guc("wal_log_hints", "on", Rule::Flag, 90400),
];

const WAL_KEEP_SEGMENTS: &str = "wal_keep_segments";
const WAL_KEEP_SIZE: &str = "wal_keep_size";
const MB_PER_SEGMENT: i64 = 16;

fn find(name: &str) -> Option<&'static Guc> {
    GUCS.iter().find(|guc| guc.name.eq_ignore_ascii_case(name))
}

/// Whether the manager controls this GUC; names compare without case.
pub fn is_controlled(name: &str) -> bool {
    find(name).is_some()
}

/// Whether a controlled GUC goes on the postmaster's command line, too.
pub fn is_on_command_line(name: &str) -> bool {
    find(name).is_some_and(|guc| guc.on_command_line)
}

/// The value of a dynamic controlled GUC, numbers as numbers; `Err` with a reason where it is refused and the
/// default counts.
pub(crate) fn checked(name: &str, value: &Value) -> Result<Value, String> {
    let Some(guc) = find(name) else { return Ok(value.clone()) };
    let kept = match guc.rule {
        Rule::Never => Err("it follows from postgresql.listen or scope".to_owned()),
        Rule::AtLeast(least, unit) => match parse_int(value, unit) {
            // A size keeps its unit, a plain number its number.
            Some(number) if number >= least => Ok(match parse_int(value, None) {
                Some(number) => Value::from(number),
                None => value.clone(),
            }),
            Some(number) => Err(format!("{number} is less than {least}{}", unit.unwrap_or_default())),
            None => Err("it is not an integer".to_owned()),
        },
        Rule::Flag => {
            parse_bool(value).map(|_| value.clone()).ok_or_else(|| "it is not a boolean".to_owned())
        }
        Rule::True if parse_bool(value) == Some(true) => Ok(value.clone()),
        Rule::True => Err("it must be on".to_owned()),
        Rule::WalLevel => {
            let level = python_str(value).to_lowercase();
            let known = ["hot_standby", "replica", "logical"].contains(&level.as_str());
            if known {
                Ok(value.clone())
            } else {
                Err("it is none of hot_standby, replica, logical".to_owned())
            }
        }
    };
    kept.map_err(|reason| format!("the value {} is not used: {reason}", python_str(value)))
}

/// The default that contract CF-20 puts into the effective configuration; none for `wal_keep_*`, whose default
/// depends on the other one.
pub(crate) fn configured_defaults() -> Map<String, Value> {
    let keeps = |guc: &&Guc| guc.name != WAL_KEEP_SEGMENTS && guc.name != WAL_KEEP_SIZE;
    let value = |text: &str| text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from);
    GUCS.iter()
        .filter(keeps)
        .filter_map(|guc| guc.default.map(|default| (guc.name.to_owned(), value(default))))
        .collect()
}

/// The controlled GUCs of a server, from the dynamic `postgresql.parameters`; `listen_addresses`, `port` and
/// `cluster_name` are for the caller to add. `server_version` is a number such as 150004.
pub fn controlled_gucs(
    dynamic_parameters: &Map<String, Value>,
    server_version: u32,
) -> (BTreeMap<String, String>, Vec<Warning>) {
    let mut warnings = Vec::new();
    let mut given: BTreeMap<&'static str, Value> = BTreeMap::new();
    for (name, value) in dynamic_parameters {
        let Some(guc) = find(name) else { continue };
        match checked(name, value) {
            Ok(value) => {
                given.insert(guc.name, value);
            }
            Err(reason) => warnings.push(Warning::new(format!("postgresql.parameters.{name}"), reason)),
        }
    }
    let mut result = BTreeMap::new();
    for guc in GUCS.iter().filter(|guc| guc.since <= server_version) {
        let text = match given.get(guc.name) {
            Some(value) => guc_text(value),
            None => match guc.default {
                Some(default) => default.to_owned(),
                None => continue,
            },
        };
        result.insert(guc.name.to_owned(), text);
    }
    wal_keep(&given, server_version, &mut result);
    if let Some(level) = result.get_mut("wal_level") {
        *level = wal_level(level, server_version);
    }
    (result, warnings)
}

fn guc_text(value: &Value) -> String {
    match value {
        Value::Bool(flag) => if *flag { "on" } else { "off" }.to_owned(),
        other => python_str(other),
    }
}

/// `hot_standby` and `replica` are one level, renamed in 9.6.
fn wal_level(level: &str, server_version: u32) -> String {
    match level.to_lowercase().as_str() {
        "hot_standby" if server_version >= 90600 => "replica".to_owned(),
        "replica" if server_version < 90600 => "hot_standby".to_owned(),
        _ => level.to_owned(),
    }
}

/// From 13 on it is a size, before that a number of segments; what was given for the other is converted.
fn wal_keep(given: &BTreeMap<&str, Value>, server_version: u32, result: &mut BTreeMap<String, String>) {
    if server_version >= 130_000 {
        result.remove(WAL_KEEP_SEGMENTS);
        if !given.contains_key(WAL_KEEP_SIZE)
            && let Some(segments) = given.get(WAL_KEEP_SEGMENTS).and_then(|value| parse_int(value, None))
        {
            let megabytes = segments.saturating_mul(MB_PER_SEGMENT);
            result.insert(WAL_KEEP_SIZE.to_owned(), format!("{megabytes}MB"));
        }
        return;
    }
    result.remove(WAL_KEEP_SIZE);
    if !given.contains_key(WAL_KEEP_SEGMENTS)
        && let Some(megabytes) = given.get(WAL_KEEP_SIZE).and_then(|value| parse_int(value, Some("MB")))
    {
        let segments = megabytes.saturating_add(MB_PER_SEGMENT / 2) / MB_PER_SEGMENT;
        result.insert(WAL_KEEP_SEGMENTS.to_owned(), segments.to_string());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gucs(parameters: &Value, version: u32) -> (BTreeMap<String, String>, Vec<Warning>) {
        controlled_gucs(parameters.as_object().unwrap(), version)
    }

    #[test]
    fn c_4_defaults_by_version() {
        let (new, warnings) = gucs(&json!({"work_mem": "1MB"}), 150_004);
        assert!(warnings.is_empty());
        assert_eq!(new["wal_level"], "replica");
        assert_eq!(new["wal_keep_size"], "128MB");
        assert!(!new.contains_key("wal_keep_segments") && !new.contains_key("work_mem"));
        assert!(!new.contains_key("port"));
        let (old, _) = gucs(&json!({}), 90303);
        assert_eq!(old["wal_level"], "hot_standby");
        assert_eq!(old["wal_keep_segments"], "8");
        assert!(!old.contains_key("wal_log_hints") && !old.contains_key("max_replication_slots"));
    }

    #[test]
    fn c_4_what_is_invalid_takes_its_default_with_a_warning() {
        let parameters = json!({
            "max_connections": 20, "max_wal_senders": "two", "hot_standby": "off", "wal_level": "minimal",
            "port": 1, "wal_log_hints": "perhaps", "Max_Locks_Per_Transaction": "128", "max_worker_processes": "0x10",
            "track_commit_timestamp": true
        });
        let (gucs, warnings) = gucs(&parameters, 160_000);
        assert_eq!(gucs["max_connections"], "100");
        assert_eq!(gucs["max_wal_senders"], "10");
        assert_eq!(gucs["hot_standby"], "on");
        assert_eq!(gucs["wal_level"], "replica");
        assert_eq!(gucs["wal_log_hints"], "on");
        assert_eq!(gucs["max_locks_per_transaction"], "128");
        assert_eq!(gucs["max_worker_processes"], "16");
        assert_eq!(gucs["track_commit_timestamp"], "on");
        let keys: Vec<&str> = warnings.iter().map(|warning| warning.key.as_str()).collect();
        assert_eq!(keys.len(), 6, "{keys:?}");
        assert!(keys.contains(&"postgresql.parameters.port"));
    }

    #[test]
    fn c_4_wal_keep_is_converted_between_segments_and_size() {
        assert_eq!(gucs(&json!({"wal_keep_segments": 130}), 160_010).0["wal_keep_size"], "2080MB");
        assert_eq!(gucs(&json!({"wal_keep_size": "2GB"}), 120_000).0["wal_keep_segments"], "128");
        assert_eq!(gucs(&json!({"wal_keep_size": 100}), 120_000).0["wal_keep_segments"], "6");
        let both = json!({"wal_keep_segments": 8, "wal_keep_size": "1GB"});
        assert_eq!(gucs(&both, 130_000).0["wal_keep_size"], "1GB");
        assert_eq!(gucs(&json!({"wal_keep_size": "8MB"}), 130_000).0["wal_keep_size"], "128MB");
    }

    #[test]
    fn c_4_wal_keep_is_not_on_the_command_line() {
        assert!(!is_on_command_line("wal_keep_size") && is_on_command_line("WAL_LEVEL"));
        assert!(is_controlled("cluster_name") && !is_controlled("shared_buffers"));
    }
}
