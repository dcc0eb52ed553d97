//! `--validate-config` (contract C.7).
#![allow(clippy::unwrap_used, reason = "what fails in a helper is to fail the test")]

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path};

use ptarmigan_config::validate::{Checks, Options, SystemChecks, validate};
use serde_json::{Map, Value, json};

/// Everything is as it should be: ports to listen on are free, stores answer.
struct Fine;

impl Checks for Fine {
    fn is_listening(&self, host: &str, _: u16) -> Result<bool, String> {
        Ok(host == "store")
    }

    fn folder(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn has_program(&self, _: &str, _: Option<&str>) -> bool {
        true
    }

    fn data_dir(&self, _: &str, _: Option<&str>, _: &str) -> Result<(), String> {
        Ok(())
    }
}

fn good() -> Value {
    json!({
        "name": "n", "scope": "s", "etcd3": {"hosts": "store:2379"},
        "restapi": {"listen": "10.0.0.1:8008", "connect_address": "10.0.0.1:8008"},
        "postgresql": {"listen": "10.0.0.1:5432", "connect_address": "10.0.0.1:5432", "data_dir": "/d",
            "authentication": {"replication": {"username": "r"}, "superuser": {"username": "p"}}}
    })
}

fn faults_with(checks: &dyn Checks, options: Options, config: &Value) -> Vec<String> {
    let config = config.as_object().cloned().unwrap_or_default();
    validate(&config, options, checks).iter().map(ToString::to_string).collect()
}

fn faults(config: &Value) -> Vec<String> {
    faults_with(&Fine, Options::default(), config)
}

fn changed(pointer: &str, value: Value) -> Vec<String> {
    let mut config = good();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    if config.pointer(parent).is_none() {
        config.as_object_mut().unwrap().insert(parent.trim_start_matches('/').to_owned(), json!({}));
    }
    config.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value);
    faults(&config)
}

#[test]
fn a_good_configuration_has_no_fault_and_unknown_keys_are_accepted() {
    assert_eq!(faults(&good()), Vec::<String>::new());
    assert_eq!(changed("/anything", json!({"goes": 1})), Vec::<String>::new());
}

#[test]
fn c_7_missing_keys() {
    let faults = faults_with(&Fine, Options::default(), &Value::Object(Map::new()));
    let expected: Vec<String> = [
        "name",
        "scope",
        "restapi",
        "consul",
        "etcd",
        "etcd3",
        "exhibitor",
        "kubernetes",
        "raft",
        "zookeeper",
        "postgresql",
    ]
    .iter()
    .map(|key| format!("{key}  is not defined."))
    .collect();
    assert_eq!(faults, expected);
    assert_eq!(changed("/bootstrap/initdb", json!(["x"])), ["bootstrap.dcs  is not defined."]);
    assert_eq!(changed("/etcd3", json!({}))[0], "etcd3.host  is not defined.");
}

#[test]
fn c_7_kinds_and_ranges() {
    assert_eq!(changed("/scope", json!(5)), ["scope 5 is not a string"]);
    assert_eq!(
        changed("/restapi/verify_client", json!(false)),
        ["restapi.verify_client False didn't pass validation: Wrong value"]
    );
    assert_eq!(changed("/restapi/allowlist", json!([])), ["restapi.allowlist [] is an empty list"]);
    assert_eq!(changed("/postgresql/pg_hba", json!(["a", 1])), ["postgresql.pg_hba.1 1 is not a string"]);
    let ttl = changed("/bootstrap/dcs", json!({"ttl": 10, "loop_wait": "5", "synchronous_mode": "quorum"}));
    assert_eq!(ttl, ["bootstrap.dcs.ttl 10 didn't pass validation: Wrong value"]);
    assert_eq!(changed("/watchdog/mode", json!(false)), Vec::<String>::new());
    assert_eq!(
        changed("/watchdog/safety_margin", json!("5")),
        ["watchdog.safety_margin 5 is not an integer"]
    );
    assert_eq!(changed("/log/mode", json!(0o1000)), ["log.mode 512 didn't pass validation: Wrong value"]);
    assert_eq!(
        changed("/log/format", json!([])),
        ["log.format [] didn't pass validation: should contain at least one item"]
    );
}

#[test]
fn c_7_at_most_one_of_a_flag_and_its_priority() {
    assert_eq!(
        changed("/tags", json!({"nofailover": false, "failover_priority": 1})),
        ["tags  Multiple of ('nofailover', 'failover_priority') provided"]
    );
    assert_eq!(changed("/tags", json!({"nosync": "yes"})), ["tags.nosync yes is not a boolean"]);
    assert_eq!(
        changed("/tags", json!({"sync_priority": -1})),
        ["tags.sync_priority -1 didn't pass validation: Wrong value"]
    );
}

#[test]
fn c_7_addresses() {
    for host in ["127.0.0.1", "0.0.0.0", "*", "[::1]", "localhost"] {
        let found = changed("/postgresql/connect_address", json!(format!("{host}:5432")));
        assert!(found[0].contains("must not contain \"127.0.0.1\""), "{found:?}");
    }
    assert_eq!(
        changed("/restapi/connect_address", json!("h:x")),
        ["restapi.connect_address h:x didn't pass validation: contains a wrong value"]
    );
    assert_eq!(
        changed("/postgresql/listen", json!("*,10.0.0.1:5432")),
        ["postgresql.listen *,10.0.0.1:5432 didn't pass validation: expecting '*' alone"]
    );
    let hosts = changed("/etcd3/hosts", json!(["store:2379", "gone:2379"]));
    assert_eq!(hosts, ["etcd3.hosts.1 gone:2379 didn't pass validation: gone:2379 is not reachable"]);
    let busy = changed("/postgresql/listen", json!("store:5432"));
    assert_eq!(busy, ["postgresql.listen store:5432 didn't pass validation: Port 5432 is already in use."]);
    let mut config = good();
    config["postgresql"]["listen"] = json!("store:5432");
    let options = Options { ignore_listen_port: true };
    assert_eq!(faults_with(&Fine, options, &config), Vec::<String>::new());
}

#[test]
fn a_store_that_is_not_supported_is_named() {
    let mut config = good();
    config.as_object_mut().unwrap().remove("etcd3");
    config["raft"] = json!({"self_addr": "h:1"});
    assert_eq!(faults(&config), ["raft  is a store that is not supported: use etcd3, etcd or consul"]);
}

#[test]
fn cf_29_a_citus_section_is_checked_and_named() {
    let not_yet = "citus  Citus clusters are not supported yet";
    assert_eq!(changed("/citus", json!({"group": 0, "database": "d"})), [not_yet]);
    assert_eq!(changed("/citus", json!({"group": 0})), ["citus.database  is not defined.", not_yet]);
}

#[test]
fn a_secret_of_the_wrong_kind_is_not_shown() {
    let found =
        changed("/postgresql/authentication/replication", json!({"username": "r", "password": 123_456}));
    assert_eq!(found, ["postgresql.authentication.replication.password *** is not a string"]);
}

#[test]
fn c_7_ports_folders_and_programs_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres"] {
        fs::write(bin.join(name), "").unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(bin.join("pg_isready"), "").unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let checks = SystemChecks::new(|program: &Path| {
        assert!(program.ends_with("postgres"), "{}", program.display());
        Some("15".to_owned())
    });
    let mut config = good();
    config["etcd3"]["hosts"] = json!(format!("127.0.0.1:{port}"));
    config["restapi"]["listen"] = json!(format!("127.0.0.1:{port}"));
    config["postgresql"]["listen"] = json!("127.0.0.1:1");
    config["postgresql"]["bin_dir"] = json!(bin);
    config["postgresql"]["data_dir"] = json!(data);
    let found = faults_with(&checks, Options::default(), &config);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].ends_with(&format!("didn't pass validation: Port {port} is already in use.")),
        "{found:?}"
    );
    assert_eq!(found[1], format!("postgresql.bin_dir  does not contain 'pg_isready' in '{}'", bin.display()));

    fs::set_permissions(bin.join("pg_isready"), fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options { ignore_listen_port: true };
    let reason = |found: Vec<String>| found.join("\n");
    assert_eq!(reason(faults_with(&checks, options, &config)), "");
    fs::write(data.join("base"), "").unwrap();
    assert!(
        reason(faults_with(&checks, options, &config)).contains("doesn't look like a valid data directory")
    );
    fs::write(data.join("PG_VERSION"), "14\n").unwrap();
    assert!(reason(faults_with(&checks, options, &config)).contains("doesn't contain \"pg_wal\" directory"));
    fs::create_dir(data.join("pg_wal")).unwrap();
    assert!(reason(faults_with(&checks, options, &config)).contains("version (14) doesn't match"));
    fs::write(data.join("PG_VERSION"), "15\n").unwrap();
    assert_eq!(reason(faults_with(&checks, options, &config)), "");
    config["postgresql"]["bin_dir"] = json!("/nonexistent");
    assert!(
        reason(faults_with(&checks, options, &config)).contains("Directory '/nonexistent' does not exist.")
    );
}

/// As Patroni 4.1 judges it: any word for a boolean, and `quorum`.
#[test]
fn c_7_synchronous_mode_is_a_boolean_in_any_notation_or_quorum() {
    for fine in [json!(true), json!("on"), json!("Off"), json!("quorum"), json!("QUORUM")] {
        let faults = changed("/bootstrap/dcs", json!({"synchronous_mode": fine}));
        assert_eq!(faults, Vec::<String>::new(), "{fine}");
    }
    for wrong in [json!("quorums"), json!("maybe"), json!([])] {
        let faults = changed("/bootstrap/dcs", json!({"synchronous_mode": wrong}));
        assert!(faults.len() == 1 && faults[0].contains("synchronous_mode"), "{wrong}: {faults:?}");
    }
}
