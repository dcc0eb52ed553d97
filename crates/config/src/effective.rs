//! Defaults, dynamic and local configuration made one (contract C.2).

use std::fmt;

use ptarmigan_types::scalar::{is_truthy, python_int, python_str};
use serde_json::{Map, Value, json};

use crate::{
    Settings, Warning, controlled,
    dynamic::{rto_s, time_s},
    env::CREDENTIAL_KEYS,
};

/// Why there are no effective settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The dynamic configuration is broken and rejected as a whole; the old one stays (contract CF-9).
    #[error("the dynamic configuration is rejected: {}", list(.0))]
    Dynamic(Vec<Warning>),
    /// The local configuration lacks what a node cannot do without.
    #[error("the configuration cannot be used: {}", list(.0))]
    Local(Vec<Warning>),
}

fn list(faults: &[Warning]) -> String {
    faults.iter().map(Warning::to_string).collect::<Vec<_>>().join("; ")
}

/// The configuration in force.
///
/// `Debug` leaves the JSON out: it holds passwords.
#[derive(Clone)]
pub struct Effective {
    /// The local configuration as it was written.
    pub local: Map<String, Value>,
    /// The dynamic configuration, its timeouts adjusted (contract CF-26).
    pub dynamic: Map<String, Value>,
    /// Both merged over the defaults (contract CF-5).
    pub merged: Map<String, Value>,
    /// What they mean.
    pub settings: Settings,
    /// What was odd.
    pub warnings: Vec<Warning>,
}

impl fmt::Debug for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Effective");
        shown.field("settings", &self.settings).field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

impl Effective {
    /// Merges and reads both configurations.
    ///
    /// # Errors
    /// [`Error::Dynamic`] where the dynamic configuration is broken, [`Error::Local`] where the local one is.
    pub fn build(local: &Map<String, Value>, dynamic: &Map<String, Value>) -> Result<Self, Error> {
        let mut warnings = Vec::new();
        let mut dynamic = dynamic.clone();
        check_local(local).map_err(Error::Local)?;
        check_dynamic(&dynamic).map_err(Error::Dynamic)?;
        warnings.extend(adjust_timeouts(&mut dynamic).map_err(Error::Dynamic)?);
        warnings.extend(unreadable(&dynamic));
        let merged = merged(local, &dynamic, &mut warnings);
        let settings = Settings::read(&merged, &dynamic, &mut warnings).map_err(Error::Local)?;
        Ok(Self { local: local.clone(), dynamic, merged, settings, warnings })
    }

    /// The `bootstrap.dcs` of a local configuration: dynamic configuration while there is none (contract CF-7).
    pub fn bootstrap_dynamic(local: &Map<String, Value>) -> Map<String, Value> {
        let section = local.get("bootstrap").and_then(|bootstrap| bootstrap.get("dcs"));
        let mut dynamic = section.and_then(Value::as_object).cloned().unwrap_or_default();
        if citus(local).is_some() {
            dynamic.entry("synchronous_mode").or_insert_with(|| json!("quorum"));
        }
        dynamic
    }
}

/// Sections whose loss would go unnoticed until it hurts: a wrong kind is not passed over.
fn check_local(local: &Map<String, Value>) -> Result<(), Vec<Warning>> {
    let postgresql = local.get("postgresql");
    check_mappings([
        ("postgresql", postgresql),
        ("postgresql.parameters", postgresql.and_then(|section| section.get("parameters"))),
        ("postgresql.authentication", postgresql.and_then(|section| section.get("authentication"))),
    ])
}

/// Faults for which a dynamic configuration is rejected as a whole (contract CF-9), timeouts aside.
fn check_dynamic(dynamic: &Map<String, Value>) -> Result<(), Vec<Warning>> {
    let postgresql = dynamic.get("postgresql");
    check_mappings([
        ("postgresql", postgresql),
        ("postgresql.parameters", postgresql.and_then(|section| section.get("parameters"))),
        ("standby_cluster", dynamic.get("standby_cluster")),
    ])
}

fn check_mappings(sections: [(&str, Option<&Value>); 3]) -> Result<(), Vec<Warning>> {
    let wrong = |value: &Value| is_truthy(value) && !value.is_object();
    let faults: Vec<Warning> = sections
        .iter()
        .filter(|(_, value)| value.is_some_and(wrong))
        .map(|(key, _)| Warning::new(*key, "is not a mapping of keys to values"))
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// The timeouts of a dynamic configuration in seconds: ttl, loop_wait, retry_timeout.
const TIMEOUTS: [(&str, i64, i64); 3] = [("loop_wait", 10, 1), ("retry_timeout", 10, 3), ("ttl", 30, 20)];

/// The least of each where the leader derives them from `rto`: it knows when that is safe.
const LEAST_WITH_RTO: [i64; 3] = [1, 1, 3];

/// Raises timeouts to their minimum and lowers `loop_wait`, then `retry_timeout`, until
/// `loop_wait + 2 * retry_timeout <= ttl` (contract CF-26).
///
/// # Errors
/// Where one of them is no integer.
pub fn adjust_timeouts(dynamic: &mut Map<String, Value>) -> Result<Vec<Warning>, Vec<Warning>> {
    let mut warnings = Vec::new();
    let mut faults = Vec::new();
    let mut values = [0; TIMEOUTS.len()];
    if dynamic.get("rto").is_some_and(is_truthy) && rto_s(dynamic).is_none() {
        let text = dynamic.get("rto").map(python_str).unwrap_or_default();
        warnings.push(Warning::new("rto", format!("'{text}' is not a time of at least a second, ignored")));
    }
    let derived = rto_s(dynamic).is_some();
    for (index, ((key, default, least), slot)) in TIMEOUTS.into_iter().zip(&mut values).enumerate() {
        let least = if derived { LEAST_WITH_RTO[index] } else { least };
        match dynamic.get(key).map_or(Some(default), python_int) {
            Some(value) if value < least => {
                warnings.push(Warning::new(key, format!("{value} can't be smaller than {least}, adjusting")));
                dynamic.insert(key.to_owned(), Value::from(least));
                *slot = least;
            }
            Some(value) => *slot = value,
            None => {
                let text = dynamic.get(key).map(python_str).unwrap_or_default();
                faults.push(Warning::new(key, format!("'{text}' is not an integer number of seconds")));
            }
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let [loop_wait, retry_timeout, ttl] = values;
    let twice = retry_timeout.saturating_mul(2);
    let broken = "violates the rule loop_wait + 2*retry_timeout <= ttl";
    if twice.saturating_add(1) > ttl {
        let lower = (ttl - 1) / 2;
        dynamic.insert("loop_wait".to_owned(), Value::from(1));
        dynamic.insert("retry_timeout".to_owned(), Value::from(lower));
        let reason = format!(
            "{broken} with ttl={ttl}: loop_wait adjusted from {loop_wait} to 1, retry_timeout from {retry_timeout} \
             to {lower}"
        );
        warnings.push(Warning::new("retry_timeout", reason));
    } else if loop_wait.saturating_add(twice) > ttl {
        let lower = ttl - twice;
        dynamic.insert("loop_wait".to_owned(), Value::from(lower));
        let reason = format!(
            "{broken} with ttl={ttl} and retry_timeout={retry_timeout}: loop_wait adjusted from {loop_wait} to {lower}"
        );
        warnings.push(Warning::new("loop_wait", reason));
    }
    Ok(warnings)
}

/// Settings of ours that cannot be read, and count as not given.
fn unreadable(dynamic: &Map<String, Value>) -> Vec<Warning> {
    let given =
        |key: &'static str| dynamic.get(key).filter(|value| is_truthy(value)).map(|value| (key, value));
    let is_action = |value: &Value| {
        let words = ["report", "failover"];
        value.as_str().is_some_and(|text| words.iter().any(|word| text.eq_ignore_ascii_case(word)))
    };
    let action =
        given("primary_failure_action").filter(|(_, value)| !is_action(value)).map(|(key, value)| {
            Warning::new(key, format!("'{}' is neither report nor failover, ignored", python_str(value)))
        });
    let times = ["primary_failure_timeout", "minimum_failover_interval"].into_iter().filter_map(given);
    let times = times.filter(|(key, _)| time_s(dynamic, key).is_none()).map(|(key, value)| {
        Warning::new(key, format!("'{}' is not a time in seconds, ignored", python_str(value)))
    });
    action.into_iter().chain(times).collect()
}

/// Keys of `postgresql` that only the local configuration sets (contract CF-21).
const LOCAL_ONLY: &[&str] =
    &["connect_address", "proxy_address", "listen", "config_dir", "data_dir", "pgpass", "authentication"];

const STANDBY_CLUSTER: &[&str] = &[
    "create_replica_methods",
    "host",
    "port",
    "primary_slot_name",
    "restore_command",
    "archive_cleanup_command",
    "recovery_min_apply_delay",
];

/// Merges both configurations over the defaults (contract CF-20 to CF-24, CF-28, CF-29).
fn merged(
    local: &Map<String, Value>,
    dynamic: &Map<String, Value>,
    warnings: &mut Vec<Warning>,
) -> Map<String, Value> {
    let mut config = Map::new();
    for (key, default, _) in TIMEOUTS {
        let value = dynamic.get(key).and_then(python_int).unwrap_or(default);
        config.insert(key.to_owned(), Value::from(value));
    }
    config.insert("standby_cluster".to_owned(), standby_cluster(dynamic));
    let mut postgresql = dynamic_postgresql(dynamic, warnings);
    for (key, value) in local {
        match key.as_str() {
            "postgresql" => local_postgresql(value, &mut postgresql, warnings),
            "citus" => {}
            // These come from the dynamic configuration alone (CF-22).
            "ttl" | "loop_wait" | "retry_timeout" | "standby_cluster" => {
                let reason =
                    "is ignored here: it is part of the dynamic configuration (bootstrap.dcs, edit-config)";
                warnings.push(Warning::new(key, reason));
            }
            _ => {
                // An empty section reads as an empty mapping, whatever the kind of its emptiness.
                let empty = !is_truthy(value) && !value.is_number();
                let value = if empty { json!({}) } else { value.clone() };
                config.insert(key.clone(), value);
            }
        }
    }
    legacy(&mut config, &mut postgresql, warnings);
    config.insert("postgresql".to_owned(), Value::Object(postgresql));
    if let Some(citus) = citus(local) {
        config.insert("citus".to_owned(), citus.clone());
        warnings.push(Warning::new("citus", "is not supported yet"));
        citus_bootstrap(&mut config);
    } else if local.contains_key("citus") {
        warnings.push(Warning::new("citus", "is ignored: it needs an integer group and a database"));
    }
    config
}

fn standby_cluster(dynamic: &Map<String, Value>) -> Value {
    let given = dynamic.get("standby_cluster").and_then(Value::as_object);
    let field = |key: &&str| {
        let value = given.and_then(|section| section.get(*key)).cloned();
        ((*key).to_owned(), value.unwrap_or_else(|| json!("")))
    };
    Value::Object(STANDBY_CLUSTER.iter().map(field).collect())
}

fn dynamic_postgresql(dynamic: &Map<String, Value>, warnings: &mut Vec<Warning>) -> Map<String, Value> {
    let mut postgresql = Map::new();
    let mut parameters = controlled::configured_defaults();
    postgresql.insert("use_slots".to_owned(), Value::Bool(true));
    for (key, value) in dynamic.get("postgresql").and_then(Value::as_object).into_iter().flatten() {
        if key == "parameters" {
            for (name, value) in value.as_object().into_iter().flatten() {
                match controlled::checked(name, value) {
                    Ok(value) => {
                        insert_guc(&mut parameters, name, value);
                    }
                    Err(reason) => {
                        warnings.push(Warning::new(format!("postgresql.parameters.{name}"), reason));
                    }
                }
            }
        } else if LOCAL_ONLY.contains(&key.as_str()) {
            warnings.push(Warning::new(
                format!("postgresql.{key}"),
                "is ignored in the dynamic configuration: it is set on each node",
            ));
        } else {
            postgresql.insert(key.clone(), value.clone());
        }
    }
    postgresql.insert("parameters".to_owned(), Value::Object(parameters));
    postgresql
}

fn local_postgresql(local: &Value, postgresql: &mut Map<String, Value>, warnings: &mut Vec<Warning>) {
    for (key, value) in local.as_object().into_iter().flatten() {
        match key.as_str() {
            "parameters" => local_parameters(value, postgresql, warnings),
            "use_slots" => warnings.push(Warning::new(
                "postgresql.use_slots",
                "is ignored here: it is part of the dynamic configuration",
            )),
            _ => {
                postgresql.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Local parameters go over dynamic ones, GUC by GUC; controlled ones are not taken (contract CF-23, CF-24).
fn local_parameters(local: &Value, postgresql: &mut Map<String, Value>, warnings: &mut Vec<Warning>) {
    let Some(Value::Object(parameters)) = postgresql.get_mut("parameters") else { return };
    for (name, value) in local.as_object().into_iter().flatten() {
        if controlled::is_controlled(name) {
            let reason = "is ignored here: it is set through the dynamic configuration or follows from listen and scope";
            warnings.push(Warning::new(format!("postgresql.parameters.{name}"), reason));
        } else {
            insert_guc(parameters, name, value.clone());
        }
    }
}

/// Names of GUCs compare without case.
pub(crate) fn insert_guc(parameters: &mut Map<String, Value>, name: &str, value: Value) {
    if !parameters.contains_key(name) {
        parameters.retain(|known, _| !known.eq_ignore_ascii_case(name));
    }
    parameters.insert(name.to_owned(), value);
}

/// The forms of old releases (contract CF-27, CF-28).
fn legacy(config: &mut Map<String, Value>, postgresql: &mut Map<String, Value>, warnings: &mut Vec<Warning>) {
    if let Some(exhibitor) =
        config.get_mut("zookeeper").and_then(|section| section.as_object_mut()?.remove("exhibitor"))
    {
        config.insert("exhibitor".to_owned(), exhibitor);
        config.remove("zookeeper");
    }
    let rewind = postgresql.get("pg_rewind").cloned();
    if !postgresql.contains_key("authentication") {
        postgresql.insert("use_pg_rewind".to_owned(), Value::Bool(rewind.is_some()));
        let users = ["replication", "superuser"];
        let authentication: Map<String, Value> = users
            .iter()
            .filter_map(|user| postgresql.get(*user).map(|value| ((*user).to_owned(), value.clone())))
            .collect();
        postgresql.insert("authentication".to_owned(), Value::Object(authentication));
    }
    if let Some(Value::Object(authentication)) = postgresql.get_mut("authentication") {
        if let Some(rewind) = rewind.filter(Value::is_object) {
            authentication.entry("superuser").or_insert(rewind);
        }
        for (user, entry) in authentication.iter_mut() {
            let Value::Object(entry) = entry else {
                let key = format!("postgresql.authentication.{user}");
                warnings.push(Warning::new(key, "is not a mapping of keys to values: ignored"));
                *entry = json!({});
                continue;
            };
            entry.retain(|key, _| CREDENTIAL_KEYS.contains(&key.as_str()));
        }
    } else {
        warnings
            .push(Warning::new("postgresql.authentication", "is not a mapping of keys to values: ignored"));
        postgresql.insert("authentication".to_owned(), json!({}));
    }
    if !config.contains_key("name")
        && let Some(name) = postgresql.get("name")
    {
        config.insert("name".to_owned(), name.clone());
    }
}

/// The section where it is usable (contract CF-29).
fn citus(local: &Map<String, Value>) -> Option<&Value> {
    let section = local.get("citus")?;
    let group = section.get("group").is_some_and(|group| group.is_i64() || group.is_boolean());
    let database = section.get("database").is_some_and(Value::is_string);
    (group && database).then_some(section)
}

fn citus_bootstrap(config: &mut Map<String, Value>) {
    let bootstrap = config.entry("bootstrap").or_insert_with(|| json!({}));
    let Value::Object(bootstrap) = bootstrap else { return };
    let dcs = bootstrap.entry("dcs").or_insert_with(|| json!({}));
    if let Value::Object(dcs) = dcs {
        dcs.entry("synchronous_mode").or_insert_with(|| json!("quorum"));
    }
}
