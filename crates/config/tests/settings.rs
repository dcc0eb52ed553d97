//! From both configurations to typed settings (contract C.2).
#![allow(clippy::unwrap_used, reason = "what fails in a helper is to fail the test")]

use std::{fs, path::PathBuf};

use ptarmigan_config::{
    BootstrapMethod, DcsKind, DynamicSettings, Effective, GuardianMode, HostPort, LogFormat, SynchronousMode,
    VerifyClient, WatchdogMode,
    effective::{Error, adjust_timeouts},
    load::load_path,
    options::{NOT_FOR_BASEBACKUP, NOT_FOR_INITDB, user_options},
};
use ptarmigan_types::Role;
use serde_json::{Map, Value, json};

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other}"),
    }
}

/// The lines of a file, those of one recorded function where it has several.
fn vectors(file: &str, function: Option<&str>) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| function.is_none_or(|function| line["fn"] == function)).collect()
}

const UTIL: &str = "../types/testdata/util_vectors.jsonl";

fn local(file: &str) -> Map<String, Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/configs").join(file);
    load_path(&path, &mut Vec::new()).unwrap()
}

/// The least that a node needs.
fn least() -> Map<String, Value> {
    map(json!({
        "name": "n1", "scope": "s", "etcd3": {"host": "e:2379"}, "restapi": {"listen": "h:8008"},
        "postgresql": {"listen": "h:5432", "data_dir": "/d", "authentication": {"replication": {"username": "r"}}}
    }))
}

fn with(pointer: &str, value: Value) -> Map<String, Value> {
    let mut config = Value::Object(least());
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value);
    map(config)
}

fn build(local: &Map<String, Value>, dynamic: Value) -> Effective {
    Effective::build(local, &map(dynamic)).unwrap_or_else(|error| panic!("{error}"))
}

fn remarks(effective: &Effective) -> Vec<&str> {
    effective.warnings.iter().map(|warning| warning.key.as_str()).collect()
}

#[test]
fn cf_5_defaults_then_the_dynamic_configuration_then_the_local_one() {
    let parameters = |effective: &Effective| Value::Object(effective.settings.postgresql.parameters.clone());
    let dynamic =
        json!({"loop_wait": 5, "postgresql": {"use_pg_rewind": true, "parameters": {"work_mem": "4MB"}}});
    let effective = build(&least(), dynamic.clone());
    assert_eq!((effective.settings.loop_wait_s, effective.settings.ttl_s), (5, 30), "ttl by default");
    assert!(effective.settings.postgresql.use_pg_rewind);
    assert_eq!(parameters(&effective), json!({"work_mem": "4MB"}));
    let mut local = with("/postgresql/use_pg_rewind", json!(false));
    local["postgresql"]["parameters"] = json!({"work_mem": "8MB"});
    let effective = build(&local, dynamic);
    assert!(!effective.settings.postgresql.use_pg_rewind);
    assert_eq!(parameters(&effective), json!({"work_mem": "8MB"}));
}

#[test]
fn cf_20_defaults() {
    let effective = build(&least(), json!({}));
    let settings = &effective.settings;
    assert_eq!((settings.ttl_s, settings.loop_wait_s, settings.retry_timeout_s), (30, 10, 10));
    assert_eq!(settings.namespace, "service");
    assert!(settings.postgresql.use_slots && settings.bootstrap.is_none());
    assert_eq!(settings.postgresql.create_replica_methods, ["basebackup"]);
    assert_eq!(settings.postgresql.controlled["max_connections"], 100);
    assert!(settings.postgresql.parameters.is_empty());
    assert!(!effective.merged["postgresql"]["parameters"].as_object().unwrap().contains_key("wal_keep_size"));
    assert_eq!(effective.merged["standby_cluster"]["host"], "");
    assert_eq!(settings.restapi.api_url(), "http://h:8008/patroni");
    assert_eq!(settings.watchdog.mode, WatchdogMode::Automatic);
    assert_eq!(settings.guardian, GuardianMode::Automatic);
    assert_eq!(effective.warnings, []);
}

#[test]
fn cf_5_defaults_then_dynamic_then_local() {
    let local = with("/postgresql/parameters", json!({"work_mem": "3MB"}));
    let dynamic = json!({"ttl": 40, "postgresql": {"pg_ctl_timeout": 17, "use_pg_rewind": true,
        "parameters": {"work_mem": "2MB", "jit": "off"}}});
    let mut own = local.clone();
    own["postgresql"]["pg_ctl_timeout"] = json!(19);
    for (local, timeout) in [(&local, 17), (&own, 19)] {
        let effective = build(local, dynamic.clone());
        let postgresql = &effective.merged["postgresql"];
        assert_eq!((&effective.merged["ttl"], &effective.merged["loop_wait"]), (&json!(40), &json!(10)));
        assert_eq!(postgresql["pg_ctl_timeout"], timeout);
        assert_eq!(postgresql["use_pg_rewind"], true);
        let parameters = ["work_mem", "jit", "max_connections"].map(|name| &postgresql["parameters"][name]);
        assert_eq!(parameters, [&json!("3MB"), &json!("off"), &json!(100)]);
    }
}

#[test]
fn cf_21_node_addresses_are_not_taken_from_the_dynamic_configuration() {
    let dynamic = json!({"postgresql": {"listen": "x:1", "data_dir": "/x", "authentication": {}, "pgpass": "/p",
        "use_pg_rewind": true}, "restapi": {"listen": "x:1"}});
    let effective = build(&least(), dynamic);
    assert_eq!(effective.settings.postgresql.data_dir, PathBuf::from("/d"));
    assert_eq!(effective.settings.postgresql.pgpass, None);
    assert!(effective.settings.postgresql.use_pg_rewind);
    assert_eq!(effective.settings.restapi.listen.host, "h");
    assert_eq!(remarks(&effective).len(), 4);
}

#[test]
fn cf_22_local_timeouts_are_ignored() {
    let mut local = least();
    local.insert("ttl".to_owned(), json!(90));
    local.insert("standby_cluster".to_owned(), json!({"host": "x"}));
    let effective = build(&local, json!({"ttl": 40}));
    assert_eq!(effective.settings.ttl_s, 40);
    assert_eq!(effective.settings.global.standby_cluster, None);
    assert_eq!(remarks(&effective), ["ttl", "standby_cluster"]);
}

#[test]
fn cf_23_local_keys_replace_dynamic_ones_and_parameters_merge() {
    let mut local = with("/postgresql/pg_hba", json!(["local all all peer"]));
    local["postgresql"]["parameters"] = json!({"Work_Mem": "8MB"});
    local["postgresql"]["use_slots"] = json!(false);
    let effective = build(
        &local,
        json!({"postgresql": {"pg_hba": ["x", "y"], "parameters": {"work_mem": "4MB", "log_directory": "log"}}}),
    );
    let postgresql = &effective.settings.postgresql;
    assert_eq!(postgresql.pg_hba, ["local all all peer"]);
    assert_eq!(
        Value::Object(postgresql.parameters.clone()),
        json!({"log_directory": "log", "Work_Mem": "8MB"})
    );
    assert!(postgresql.use_slots);
    assert_eq!(remarks(&effective), ["postgresql.use_slots"]);
}

#[test]
fn cf_24_controlled_gucs_come_from_the_dynamic_configuration() {
    let local = with("/postgresql/parameters", json!({"max_connections": 500, "shared_buffers": "1GB"}));
    let dynamic =
        json!({"postgresql": {"parameters": {"max_connections": "20", "wal_level": "logical", "port": 1}}});
    let effective = build(&local, dynamic);
    let postgresql = &effective.settings.postgresql;
    assert_eq!(postgresql.controlled["max_connections"], 100);
    assert_eq!(postgresql.controlled["wal_level"], "logical");
    assert!(!postgresql.controlled.contains_key("port"));
    assert_eq!(Value::Object(postgresql.parameters.clone()), json!({"shared_buffers": "1GB"}));
    let mut keys = remarks(&effective);
    keys.sort_unstable();
    let guc = "postgresql.parameters.max_connections";
    assert_eq!(keys, [guc, guc, "postgresql.parameters.port"]);
}

#[test]
fn cf_25_a_role_has_its_own_parameters_and_lines() {
    let mut local =
        with("/postgresql/parameters_primary", json!({"ARCHIVE_MODE": "on", "wal_level": "logical"}));
    local["postgresql"]["parameters"] = json!({"archive_mode": "off", "work_mem": "4MB"});
    local["postgresql"]["pg_hba"] = json!(["all"]);
    local["postgresql"]["pg_hba_replica"] = json!(["replica"]);
    local["postgresql"]["bin_name"] = json!({"pg_ctl": "pg_ctl-15"});
    local["postgresql"]["bin_dir"] = json!("/opt/bin");
    let effective = build(&local, json!({}));
    let postgresql = &effective.settings.postgresql;
    let primary = json!({"work_mem": "4MB", "ARCHIVE_MODE": "on"});
    assert_eq!(Value::Object(postgresql.parameters_for(Role::Primary)), primary);
    assert_eq!(Value::Object(postgresql.parameters_for(Role::Promoted)), primary);
    for role in [Role::Replica, Role::Demoted, Role::StandbyLeader, Role::Uninitialized] {
        assert_eq!(postgresql.parameters_for(role), postgresql.parameters, "{role}");
    }
    assert_eq!(postgresql.pg_hba_for(Role::Demoted), ["replica"]);
    assert_eq!(postgresql.pg_hba_for(Role::Primary), ["all"]);
    assert_eq!(postgresql.program("pg_ctl"), PathBuf::from("/opt/bin/pg_ctl-15"));
    assert_eq!(postgresql.program("postgres"), PathBuf::from("/opt/bin/postgres"));
    assert_eq!(remarks(&effective), ["postgresql.parameters_primary.wal_level"]);
}

#[test]
fn cf_26_vectors() {
    let vectors = vectors(UTIL, Some("validate_and_adjust_timeouts"));
    assert_eq!(vectors.len(), 11);
    for vector in vectors {
        let mut dynamic = map(vector["in"].clone());
        let warnings = adjust_timeouts(&mut dynamic).unwrap();
        assert_eq!(Value::Object(dynamic), vector["out"], "{}", vector["in"]);
        assert_eq!(warnings.is_empty(), vector["in"] == vector["out"], "{}", vector["in"]);
    }
}

#[test]
fn cf_26_the_adjusted_values_are_kept_in_the_dynamic_configuration() {
    let effective = build(&least(), json!({"ttl": 60, "loop_wait": 10, "retry_timeout": 27}));
    assert_eq!(effective.settings.loop_wait_s, 6);
    assert_eq!(effective.dynamic["loop_wait"], 6);
    assert_eq!(remarks(&effective), ["loop_wait"]);
    let text = build(&least(), json!({"ttl": " 45 ", "loop_wait": 5.9}));
    assert_eq!((text.settings.ttl_s, text.settings.loop_wait_s), (45, 5));
}

/// Only the leader derives timeouts below the contract's, and only from `rto`.
#[test]
fn cf_26_shorter_timeouts_count_where_they_follow_rto() {
    let adjusted = |dynamic: Value| {
        let mut dynamic = map(dynamic);
        let warnings = adjust_timeouts(&mut dynamic).unwrap();
        let number = |key: &str| dynamic[key].as_i64().unwrap();
        let keys: Vec<String> = warnings.into_iter().map(|warning| warning.key).collect();
        ((number("ttl"), number("loop_wait"), number("retry_timeout")), keys)
    };
    let short = |rto: Value| json!({"rto": rto, "ttl": 4, "loop_wait": 1, "retry_timeout": 1});
    for rto in [json!("5s"), json!(5), json!("5000ms"), json!("1min")] {
        assert_eq!(adjusted(short(rto)), ((4, 1, 1), vec![]));
    }
    for (rto, warns) in
        [(Value::Null, false), (json!("soon"), true), (json!("-1s"), true), (json!([5]), true)]
    {
        let (timeouts, keys) = adjusted(short(rto.clone()));
        assert_eq!(timeouts, (20, 1, 3), "{rto}");
        assert_eq!(keys.contains(&"rto".to_owned()), warns, "{rto}: {keys:?}");
    }
    assert_eq!(adjusted(json!({"rto": 5, "ttl": 1, "loop_wait": 0, "retry_timeout": 0})).0, (3, 1, 1));
}

#[test]
fn settings_of_ours_that_cannot_be_read_are_named() {
    let wrong = json!({"primary_failure_action": "failver", "primary_failure_timeout": "soon",
                       "minimum_failover_interval": -5});
    let keys = ["primary_failure_action", "primary_failure_timeout", "minimum_failover_interval"];
    assert_eq!(remarks(&build(&least(), wrong)), keys);
    let right = json!({"primary_failure_action": "Failover", "primary_failure_timeout": "1min",
                       "minimum_failover_interval": 3600});
    let effective = build(&least(), right);
    assert!(remarks(&effective).is_empty());
    let global = &effective.settings.global;
    assert_eq!((global.gives_way_after_s, global.failover_interval_min_s), (Some(60), 3600));
}

#[test]
fn cf_9_a_broken_dynamic_configuration_is_rejected_as_a_whole() {
    let broken = [
        (json!({"ttl": "soon"}), "ttl"),
        (json!({"loop_wait": null, "ttl": 40}), "loop_wait"),
        (json!({"retry_timeout": [10]}), "retry_timeout"),
        (json!({"postgresql": {"parameters": ["work_mem"]}}), "postgresql.parameters"),
        (json!({"postgresql": "fast"}), "postgresql"),
        (json!({"standby_cluster": "10.0.0.1"}), "standby_cluster"),
    ];
    for (dynamic, key) in broken {
        match Effective::build(&least(), &map(dynamic)) {
            Err(Error::Dynamic(faults)) => {
                assert_eq!(faults.iter().map(|fault| fault.key.as_str()).collect::<Vec<_>>(), [key]);
            }
            other => panic!("{key}: {other:?}"),
        }
    }
    build(&least(), json!({"postgresql": null, "standby_cluster": null, "unknown": {"a": 1}}));
}

#[test]
fn cf_27_other_keys_of_a_user_are_dropped() {
    let effective = build(&local("whole_node.yml"), json!({}));
    let replication = &effective.settings.postgresql.replication;
    assert_eq!(replication.parameters.keys().collect::<Vec<_>>(), ["sslmode"]);
    assert!(effective.merged["postgresql"]["authentication"]["replication"].get("options").is_none());
}

#[test]
fn cf_28_forms_of_old_releases() {
    let mut config = least();
    config.remove("name");
    config["postgresql"] = json!({"name": "old", "listen": "h:5432", "data_dir": "/d",
        "replication": {"username": "r", "password": "p", "network": "10.0.0.0/8"},
        "pg_rewind": {"username": "w", "password": 5}});
    let settings = build(&config, json!({"postgresql": {"use_pg_rewind": false}})).settings;
    assert_eq!(settings.name.as_str(), "old");
    assert!(settings.postgresql.use_pg_rewind);
    assert_eq!(settings.postgresql.superuser.username.as_deref(), Some("w"));
    assert_eq!(settings.postgresql.superuser.password.as_ref().unwrap().expose(), "5");
    assert_eq!(settings.postgresql.replication.parameters.len(), 0);
    let odd = build(&least(), json!({"postgresql": {"pg_rewind": true}})).settings;
    assert!(!odd.postgresql.use_pg_rewind);
}

#[test]
fn cf_29_citus_needs_a_group_and_a_database() {
    let mut config = least();
    config.insert("citus".to_owned(), json!({"group": 0, "database": "d"}));
    let effective = build(&config, json!({}));
    assert_eq!(effective.merged["bootstrap"], json!({"dcs": {"synchronous_mode": "quorum"}}));
    assert_eq!(effective.warnings[0].to_string(), "citus: is not supported yet");
    assert_eq!(Value::Object(Effective::bootstrap_dynamic(&config)), json!({"synchronous_mode": "quorum"}));
    config.insert("citus".to_owned(), json!({"group": "0", "database": "d"}));
    let effective = build(&config, json!({}));
    assert!(!effective.merged.contains_key("citus") && effective.settings.bootstrap.is_none());
    assert_eq!(remarks(&effective), ["citus"]);
}

#[test]
fn cf_31_the_first_store_by_name_counts() {
    let mut config = least();
    config.insert("consul".to_owned(), json!({"host": "c"}));
    assert_eq!(build(&config, json!({})).settings.dcs.kind, DcsKind::Consul);
    config.remove("consul");
    config.remove("etcd3");
    config.insert("zookeeper".to_owned(), json!({"hosts": "z:2181"}));
    let error = Effective::build(&config, &Map::new()).unwrap_err().to_string();
    assert!(error.contains("zookeeper: is a store that is not supported"), "{error}");
}

#[test]
fn what_a_node_cannot_do_without_is_named() {
    let error = Effective::build(&Map::new(), &Map::new()).unwrap_err();
    let Error::Local(faults) = error else { panic!("{error}") };
    let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    for key in ["name", "scope", "etcd3", "restapi.listen", "postgresql.listen", "postgresql.data_dir"] {
        assert!(keys.contains(&key), "{key} is not in {keys:?}");
    }
    let error = Effective::build(&with("/name", json!({"a": 1})), &Map::new()).unwrap_err().to_string();
    assert!(error.contains("name: is not a text"), "{error}");
    let reserved = with("/name", json!("__patroni_strict_sync_replica_placeholder__"));
    assert!(Effective::build(&reserved, &Map::new()).is_err());
    let error = Effective::build(&with("/postgresql/listen", json!("h:port")), &Map::new()).unwrap_err();
    assert!(error.to_string().contains("postgresql.listen: is not host:port: 'port'"), "{error}");
}

#[test]
fn local_sections_of_a_wrong_kind_are_refused_not_passed_over() {
    for key in ["parameters", "authentication"] {
        let error =
            Effective::build(&with(&format!("/postgresql/{key}"), json!(["a"])), &Map::new()).unwrap_err();
        assert!(matches!(error, Error::Local(_)), "{error}");
        assert!(error.to_string().contains(&format!("postgresql.{key}: is not a mapping")), "{error}");
    }
    build(&with("/postgresql/parameters", Value::Null), json!({}));
    build(&with("/tags", json!(false)), json!({}));
}

#[test]
fn a_whole_node() {
    let local = local("whole_node.yml");
    let effective = build(&local, Value::Object(Effective::bootstrap_dynamic(&local)));
    let settings = &effective.settings;
    assert_eq!((settings.ttl_s, settings.loop_wait_s, settings.retry_timeout_s), (60, 6, 27));
    assert_eq!(settings.restapi.api_url(), "https://[fd00::11]:8008/patroni");
    assert!(settings.restapi.listen.is_wildcard());
    assert_eq!(settings.restapi.verify_client, VerifyClient::Optional);
    assert_eq!(settings.restapi.server_tokens, "minimal");
    assert_eq!(settings.restapi.http_extra_headers["X-Age"], "5");
    assert_eq!(settings.ctl.authentication.as_ref().unwrap().1.expose(), "p:w");
    assert_eq!(settings.ctl.cacert.as_deref(), Some("/etc/orchard/ca.pem".as_ref()));
    assert_eq!((settings.log.mode, settings.log.level.as_str()), (Some(0o640), "WARNING"));
    assert_eq!(settings.log.format, LogFormat::default());
    assert_eq!(settings.dcs.kind, DcsKind::Consul);
    assert_eq!(settings.global.synchronous_mode, SynchronousMode::Quorum);
    assert_eq!(settings.global.primary_start_timeout_s, 120);
    assert_eq!(settings.watchdog.mode, WatchdogMode::Required);
    assert_eq!(settings.watchdog.safety_margin_s, -1);
    assert_eq!(settings.guardian, GuardianMode::Off);
    let bootstrap = settings.bootstrap.as_ref().unwrap();
    let BootstrapMethod::Custom { command, arguments, no_params, .. } = &bootstrap.method else {
        panic!("{bootstrap:?}")
    };
    assert!(*no_params && command == "/usr/local/bin/restore --fast");
    assert_eq!(arguments, &[("stanza".to_owned(), "main".to_owned())]);
    assert_eq!(bootstrap.post_bootstrap.as_deref(), Some("/usr/local/bin/seed"));
}

#[test]
fn the_postgresql_section_of_a_whole_node() {
    let local = local("whole_node.yml");
    let effective = build(&local, Value::Object(Effective::bootstrap_dynamic(&local)));
    let postgresql = &effective.settings.postgresql;
    assert_eq!(postgresql.listen, HostPort { host: "10.6.0.11,127.0.0.1".to_owned(), port: 5433 });
    assert_eq!(postgresql.config_dir, PathBuf::from("/etc/postgresql/orchard"));
    assert!(postgresql.rewind_configured && postgresql.use_slots && postgresql.use_unix_socket);
    let parameters = json!({"shared_buffers": "1GB", "Work_Mem": "16MB", "log_directory": "log"});
    assert_eq!(Value::Object(postgresql.parameters.clone()), parameters);
    assert_eq!(postgresql.controlled["wal_keep_segments"], 64);
    let primary = postgresql.parameters_by_role.primary.clone().unwrap();
    assert_eq!(Value::Object(primary), json!({"archive_mode": true}));
    assert_eq!(postgresql.pg_hba_by_role.replica.as_deref().unwrap(), ["host all all all reject"]);
    assert_eq!(postgresql.create_replica_methods, ["barman", "basebackup"]);
    let barman = &postgresql.replica_methods["barman"];
    assert!(barman.no_leader && barman.command == "barman-clone");
    assert_eq!(barman.arguments, [("no_leader".to_owned(), "True".to_owned())]);
    let (options, refused) =
        user_options("postgresql.basebackup", &postgresql.basebackup, NOT_FOR_BASEBACKUP);
    assert_eq!(options, ["--verbose", "--max-rate=100M"]);
    assert_eq!(refused[0].key, "postgresql.basebackup.pgdata");
    assert_eq!(Value::Object(postgresql.recovery_conf.clone()), json!({"restore_command": "cp %f %p"}));
    let replica = effective.settings.tags.replicatefrom().unwrap();
    assert_eq!(replica.as_str(), "pear-1");
}

#[test]
fn integers_where_texts_are_meant_are_taken_as_texts() {
    let local = local("integers_for_texts.yml");
    let settings = build(&local, json!({})).settings;
    assert_eq!(
        (settings.name.as_str(), settings.scope.as_str(), settings.namespace.as_str()),
        ("7", "12", "2024")
    );
    let password = settings.postgresql.replication.password.as_ref().unwrap();
    assert_eq!(password.expose(), "123456");
    assert_eq!(settings.postgresql.superuser.password.as_ref().unwrap().expose(), "1e3");
    // `0123` is octal to YAML.
    assert_eq!(settings.restapi.authentication.as_ref().unwrap().1.expose(), "83");
    assert_eq!(settings.restapi.listen, HostPort { host: "8008".to_owned(), port: 8008 });
    assert_eq!(settings.postgresql.pg_hba[0], "1");
    assert!((settings.postgresql.pg_ctl_timeout_s - 90.0).abs() < f64::EPSILON);
    let method = &settings.postgresql.replica_methods["pgback"];
    assert!(method.keep_data && method.no_leader && method.command == "pgback");
    assert!(method.arguments.contains(&("full".to_owned(), "True".to_owned())));
    let (options, warnings) = user_options("initdb", &settings.bootstrap.unwrap().initdb, NOT_FOR_INITDB);
    assert_eq!(options, ["--encoding=UTF8", "--wal-segsize=128", "--data-checksums", "--locale=C.UTF-8"]);
    assert_eq!(warnings, []);
}

#[test]
fn null_sections_are_empty() {
    let settings = build(&local("null_sections.yml"), json!({})).settings;
    assert!(settings.bootstrap.is_some_and(|bootstrap| bootstrap.pg_hba.is_empty()));
    assert_eq!(settings.postgresql.superuser.username, None);
    assert_eq!(settings.watchdog.mode, WatchdogMode::Automatic);
    assert!(settings.tags.0.is_empty());
}

#[test]
fn wrong_kinds_take_their_default_with_a_remark_and_never_panic() {
    let wrong = [
        json!([1, {"a": 2}]),
        json!({"x": [null]}),
        json!("\u{1F600}"),
        json!(-1),
        json!(1e300),
        json!(true),
    ];
    let sections = fs::read_to_string(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/configs/whole_node.json"),
    )
    .unwrap();
    let whole: Value = serde_json::from_str(&sections).unwrap();
    let mut paths = Vec::new();
    collect(&whole, "", &mut paths);
    assert!(paths.len() > 80);
    for path in &paths {
        for value in &wrong {
            let mut config = whole.clone();
            *config.pointer_mut(path).unwrap() = value.clone();
            let config = map(config);
            let dynamic = Effective::bootstrap_dynamic(&config);
            let _ = DynamicSettings::read(&dynamic);
            match Effective::build(&config, &dynamic) {
                Ok(effective) => assert!(!format!("{effective:?}").is_empty()),
                Err(error) => assert!(error.to_string().contains(": "), "{path} {value}: {error}"),
            }
        }
    }
}

fn collect(value: &Value, path: &str, paths: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
        paths.push(path.clone());
        collect(value, &path, paths);
    }
}

#[test]
fn settings_do_not_show_their_secrets() {
    let mut local = local("whole_node.yml");
    local["postgresql"]["authentication"]["superuser"]["password"] = json!("sesame-1");
    local["postgresql"]["authentication"]["superuser"]["sslpassword"] = json!("sesame-2");
    local["restapi"]["authentication"]["password"] = json!("sesame-3");
    local["consul"]["token"] = json!("sesame-4");
    let shown = format!("{:?}", build(&local, json!({})));
    assert!(shown.contains("orchard") && !shown.contains("sesame"), "{shown}");
}

#[test]
fn user_option_vectors() {
    let vectors = vectors(UTIL, Some("process_user_options"));
    assert_eq!(vectors.len(), 10);
    for vector in vectors {
        let (arguments, warnings) = user_options("o", &vector["in"]["opts"], &["not-ok"]);
        // A number is taken as its text, where Patroni leaves it out.
        if vector["in"]["opts"] == json!([{"a": 1}]) {
            assert_eq!((arguments.as_slice(), warnings.len()), (&["--a=1".to_owned()][..], 0));
            continue;
        }
        assert_eq!(json!(arguments), vector["out"]["args"], "{vector}");
        assert_eq!(json!(warnings.len()), vector["out"]["n_errors"], "{vector}");
    }
}

#[test]
fn address_vectors() {
    for vector in vectors("testdata/addresses.jsonl", None) {
        let input = &vector["in"];
        if vector["fn"] == "uri" {
            let address = match &input[1] {
                Value::String(text) => HostPort::parse(text, 0).unwrap(),
                pair => HostPort {
                    host: pair[0].as_str().unwrap().to_owned(),
                    port: u16::try_from(pair[1].as_u64().unwrap()).unwrap(),
                },
            };
            let uri = address.uri(input[0].as_str().unwrap(), input[2].as_str().unwrap());
            assert_eq!(uri, vector["out"].as_str().unwrap());
            continue;
        }
        // A text without a port has no default in one vector.
        let Some(default) = input[1].as_u64() else { continue };
        let read = HostPort::parse(input[0].as_str().unwrap(), u16::try_from(default).unwrap());
        match vector["out"].as_array() {
            Some(out) => {
                let read = read.unwrap();
                assert_eq!(
                    (json!(read.host), json!(read.port)),
                    (out[0].clone(), out[1].clone()),
                    "{vector}"
                );
            }
            None => assert!(read.is_err(), "{vector}"),
        }
    }
}
