//! Configurations made for the operator: a sample, and one of a running server (contract D.1).
//!
//! Pure: what the machine and the server say is handed in.

use serde_json::{Map, Value, json};

use crate::{Environment, controlled, settings::STORES, yaml};

/// Stands where only the operator knows.
pub const UNKNOWN: &str = "#FIXME";

/// The machine that a configuration is made on.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Its name, which becomes the member's.
    pub name: &'a str,
    /// An address under which others reach it.
    pub address: &'a str,
    /// The `PATRONI_*` variables, whose values count.
    pub environment: &'a Environment,
}

/// A server parameter in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its value as `SHOW` gives it.
    pub value: String,
}

/// What a running server says about itself.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// `cluster_name`; empty where it has none.
    pub cluster_name: String,
    /// `listen_addresses`.
    pub listen_addresses: String,
    /// `port`.
    pub port: u16,
    /// `data_directory`.
    pub data_dir: String,
    /// Folder of its programs; empty where unknown.
    pub bin_dir: String,
    /// Folder of its configuration file, where that is not the data directory.
    pub config_dir: Option<String>,
    /// Name of its configuration file without `.conf`, where that is not `postgresql`.
    pub config_base_name: Option<String>,
    /// Parameters that were configured, and those that the manager controls.
    pub parameters: Vec<Parameter>,
    /// Lines of `pg_hba.conf`; empty where that file is not in the configuration's folder.
    pub pg_hba: Vec<String>,
    /// Lines of `pg_ident.conf`; as above.
    pub pg_ident: Vec<String>,
    /// How its superuser connects: the keys of contract CF-27.
    pub superuser: Map<String, Value>,
}

/// A configuration, and what the operator should know about it.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The configuration.
    pub config: Map<String, Value>,
    /// Parameters that were left out, and why.
    pub notes: Vec<String>,
}

/// A sample for a server of this version (such as 150004).
pub fn sample(host: Host<'_>, server_version: u32) -> Map<String, Value> {
    let method = if server_version >= 100_000 { "scram-sha-256" } else { "md5" };
    let (gucs, _) = controlled::controlled_gucs(&Map::new(), server_version);
    let number = |text: &String| text.parse::<i64>().map_or_else(|_| json!(text), Value::from);
    let gucs: Map<String, Value> = gucs.iter().map(|(name, value)| (name.clone(), number(value))).collect();
    let mut authentication = json!({
        "superuser": {"username": "postgres", "password": UNKNOWN},
        "replication": {"username": "replicator", "password": UNKNOWN},
    });
    if server_version >= 110_000 {
        authentication["rewind"] = json!({"username": "rewind_user", "password": UNKNOWN});
    }
    let address = format!("{}:5432", bracketed(host.address));
    let mut config = common(host);
    config.insert(
        "bootstrap".to_owned(),
        json!({"dcs": {"postgresql": {"parameters": gucs, "use_pg_rewind": true, "use_slots": true}}}),
    );
    config.insert(
        "postgresql".to_owned(),
        json!({
            "authentication": authentication, "bin_dir": "", "connect_address": address, "data_dir": UNKNOWN,
            "listen": address, "parameters": {"password_encryption": method},
        }),
    );
    add_environment(&mut config, host.environment);
    let user = lookup(&config, &["postgresql", "authentication", "replication", "username"]);
    let user = user.and_then(Value::as_str).unwrap_or("replicator").to_owned();
    if let Some(postgresql) = config.get_mut("postgresql") {
        postgresql["pg_hba"] =
            json!([format!("host all all all {method}"), format!("host replication {user} all {method}")]);
    }
    with_timeouts(config)
}

/// The configuration with which a daemon takes over this very server.
pub fn of_server(host: Host<'_>, server: &Server) -> Generated {
    let mut notes = Vec::new();
    let (own, shared) = split(server, &mut notes);
    let mut config = common(host);
    let connect_address = format!("{}:{}", bracketed(host.address), server.port);
    config.insert("postgresql".to_owned(), json!({"connect_address": connect_address}));
    add_environment(&mut config, host.environment);
    if !server.cluster_name.is_empty() {
        config.insert("scope".to_owned(), json!(server.cluster_name));
    }
    config.insert(
        "bootstrap".to_owned(),
        json!({"dcs": {"postgresql": {"parameters": shared, "use_slots": true}}}),
    );
    // The server knows better than variables what it is.
    let hosts: Vec<&str> = server.listen_addresses.split(',').map(str::trim).collect();
    let unknown = json!({"username": UNKNOWN, "password": UNKNOWN});
    let Some(Value::Object(postgresql)) = config.get_mut("postgresql") else {
        return Generated { config, notes };
    };
    let mut put = |key: &str, value: Value| drop(postgresql.insert(key.to_owned(), value));
    put("listen", json!(format!("{}:{}", hosts.join(","), server.port)));
    put("data_dir", json!(server.data_dir));
    put("bin_dir", json!(server.bin_dir));
    put("parameters", Value::Object(own));
    for (key, value) in [("config_dir", &server.config_dir), ("config_base_name", &server.config_base_name)] {
        if let Some(value) = value {
            put(key, json!(value));
        }
    }
    for (key, lines) in [("pg_hba", &server.pg_hba), ("pg_ident", &server.pg_ident)] {
        if !lines.is_empty() {
            put(key, json!(lines));
        }
    }
    let authentication = postgresql.entry("authentication").or_insert_with(|| json!({}));
    authentication["superuser"] = Value::Object(server.superuser.clone());
    if authentication.get("replication").is_none() {
        authentication["replication"] = unknown;
    }
    Generated { config: with_timeouts(config), notes }
}

/// Parameters that each node keeps for itself, and those for all of them.
fn split(server: &Server, notes: &mut Vec<String>) -> (Map<String, Value>, Map<String, Value>) {
    let (mut own, mut shared) = (Map::new(), Map::new());
    for Parameter { name, value } in &server.parameters {
        let lower = name.to_lowercase();
        if is_derived(&lower) {
            continue;
        }
        if lower.ends_with("_command") || matches!(lower.as_str(), "hba_file" | "ident_file") {
            own.insert(name.clone(), json!(value));
            continue;
        }
        match controlled::checked(name, &json!(value)) {
            Ok(_) => drop(shared.insert(name.clone(), json!(value))),
            Err(reason) => notes.push(format!("{name} is left out: {reason}")),
        }
    }
    own.sort_keys();
    shared.sort_keys();
    (own, shared)
}

/// What other keys say, and what the manager decides by itself: whom the server follows and where it ends its recovery.
fn is_derived(name: &str) -> bool {
    let derived = [
        "listen_addresses",
        "port",
        "cluster_name",
        "config_file",
        "data_directory",
        "primary_conninfo",
        "primary_slot_name",
        "promote_trigger_file",
    ];
    derived.contains(&name) || name.starts_with("recovery_target")
}

/// What every configuration begins with.
fn common(host: Host<'_>) -> Map<String, Value> {
    let address = format!("{}:8008", bracketed(host.address));
    let config = json!({
        "scope": UNKNOWN,
        "name": host.name,
        "log": {
            "type": "plain", "level": "INFO", "traceback_level": "ERROR", "max_queue_size": 1000,
            "format": "%(asctime)s %(levelname)s: %(message)s",
        },
        "restapi": {"connect_address": address, "listen": address},
        "tags": {
            "clonefrom": true, "failover_priority": 1, "noloadbalance": false, "nostream": false,
            "sync_priority": 1,
        },
    });
    let Value::Object(config) = config else { return Map::new() };
    config
}

/// Variables win over what was made up, key by key.
fn add_environment(config: &mut Map<String, Value>, environment: &Environment) {
    fn add(into: &mut Map<String, Value>, from: &Map<String, Value>) {
        for (key, value) in from {
            match (into.get_mut(key), value) {
                (Some(Value::Object(into)), Value::Object(from)) => add(into, from),
                _ => drop(into.insert(key.clone(), value.clone())),
            }
        }
    }
    add(config, &environment.config);
}

fn with_timeouts(mut config: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Object(dcs)) = config.get_mut("bootstrap").and_then(|section| section.get_mut("dcs")) {
        for (key, value) in [("loop_wait", 10), ("retry_timeout", 10), ("ttl", 30)] {
            dcs.insert(key.to_owned(), json!(value));
        }
    }
    config
}

fn lookup<'a>(config: &'a Map<String, Value>, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(config.get(*first)?, |value, key| value.get(key))
}

/// An IPv6 address before its port.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

const BOOTSTRAP: &str = "\
# What a new cluster begins with. Where the cluster exists already, nothing below `bootstrap` has any effect.
";

const DCS: &str = "  \
  # Becomes the dynamic configuration of the whole cluster when it is made (the key `config` in the store).
  # Later changes: `ptctl edit-config`.
";

const NO_STORE: &str = "\
# Where the members of the cluster meet. Without it the configuration is not complete:
#etcd3:
#  hosts:
#  - 10.0.0.1:2379
";

/// The text of a generated configuration, with comments where they help.
pub fn render(config: &Map<String, Value>) -> String {
    let mut left = config.clone();
    let mut parts = vec![take(&mut left, &["scope", "namespace", "name"])];
    parts.extend(["log", "restapi", "ctl"].map(|key| take(&mut left, &[key])));
    let stores = take(&mut left, STORES);
    parts.push(if stores.is_empty() { NO_STORE.to_owned() } else { stores });
    if let Some(bootstrap) = left.shift_remove("bootstrap") {
        parts.push(bootstrap_text(bootstrap));
    }
    parts.extend(["postgresql", "watchdog"].map(|key| take(&mut left, &[key])));
    let tags = take(&mut left, &["tags"]);
    // What nobody has thought of here.
    let rest: Vec<String> = left.keys().cloned().collect();
    parts.push(take(&mut left, &rest.iter().map(String::as_str).collect::<Vec<_>>()));
    parts.push(tags);
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

/// Takes keys out of a mapping and writes them.
fn take(map: &mut Map<String, Value>, keys: &[&str]) -> String {
    let found = keys.iter().filter_map(|key| map.shift_remove_entry(*key));
    found.map(|entry| text(entry.0, entry.1)).collect()
}

fn text(key: String, value: Value) -> String {
    yaml::to_yaml_with(&Value::Object(Map::from_iter([(key, value)])), yaml::Layout::PYYAML)
}

fn bootstrap_text(bootstrap: Value) -> String {
    let Value::Object(mut bootstrap) = bootstrap else { return String::new() };
    let mut out = format!("{BOOTSTRAP}bootstrap:\n");
    let indented =
        |text: &str, by: &str| -> String { text.lines().map(|line| format!("{by}{line}\n")).collect() };
    if let Some(Value::Object(mut dcs)) = bootstrap.shift_remove("dcs") {
        out.push_str(&format!("{DCS}  dcs:\n"));
        let postgresql = dcs.shift_remove("postgresql");
        dcs.sort_keys();
        for (key, value) in dcs.into_iter().chain(postgresql.map(|value| ("postgresql".to_owned(), value))) {
            out.push_str(&indented(&text(key, value), "    "));
        }
    }
    for (key, value) in bootstrap {
        out.push_str(&indented(&text(key, value), "  "));
    }
    out
}
