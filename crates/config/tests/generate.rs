//! Generated configurations (contract D.1).
#![allow(clippy::unwrap_used, reason = "what fails in a helper is to fail the test")]

use ptarmigan_config::{
    Effective, Environment,
    generate::{Host, Parameter, Server, of_server, render, sample},
    validate::{Checks, Options, validate},
    yaml,
};
use serde_json::{Map, Value, json};

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment::read(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn host(environment: &Environment) -> Host<'_> {
    Host { name: "n1", address: "10.0.0.5", environment }
}

/// Ports to listen on are free, stores answer, programs are there.
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

fn faults(config: &Map<String, Value>) -> Vec<String> {
    validate(config, Options::default(), &Fine).iter().map(ToString::to_string).collect()
}

/// The text reads back as what it was made of.
fn read_back(config: &Map<String, Value>) -> String {
    let text = render(config);
    let (read, warnings) = yaml::parse_mapping(&text).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(Value::Object(read), Value::Object(config.clone()), "{text}");
    text
}

#[test]
fn d_1_sample_by_version() {
    let none = environment(&[]);
    for (version, rewind, method, wal_keep, wal_level) in [
        (90624, false, "md5", ("wal_keep_segments", json!(8)), "replica"),
        (100_001, false, "scram-sha-256", ("wal_keep_segments", json!(8)), "replica"),
        (120_003, true, "scram-sha-256", ("wal_keep_segments", json!(8)), "replica"),
        (150_004, true, "scram-sha-256", ("wal_keep_size", json!("128MB")), "replica"),
        (180_000, true, "scram-sha-256", ("wal_keep_size", json!("128MB")), "replica"),
    ] {
        let config = sample(host(&none), version);
        read_back(&config);
        let config = Value::Object(config);
        let parameters = &config["bootstrap"]["dcs"]["postgresql"]["parameters"];
        assert_eq!(parameters[wal_keep.0], wal_keep.1, "{version}");
        assert_eq!(parameters["wal_level"], wal_level, "{version}");
        assert_eq!(parameters["max_connections"], 100, "{version}");
        assert_eq!(config["postgresql"]["authentication"].get("rewind").is_some(), rewind, "{version}");
        assert_eq!(config["postgresql"]["parameters"]["password_encryption"], method, "{version}");
        assert_eq!(config["postgresql"]["pg_hba"][1], format!("host replication replicator all {method}"));
        assert_eq!(config["restapi"]["connect_address"], "10.0.0.5:8008");
    }
}

#[test]
fn d_1_variables_win_and_complete_a_sample() {
    let variables = environment(&[
        ("PATRONI_SCOPE", "batman"),
        ("PATRONI_NAME", "robin"),
        ("PATRONI_ETCD3_HOSTS", "store:2379"),
        ("PATRONI_REPLICATION_USERNAME", "copier"),
        ("PATRONI_POSTGRESQL_DATA_DIR", "/d"),
        ("PATRONI_RESTAPI_LISTEN", "0.0.0.0:8010"),
    ]);
    let config = sample(host(&variables), 150_004);
    assert_eq!(faults(&config), Vec::<String>::new());
    let text = read_back(&config);
    assert!(text.starts_with("scope: batman\nname: robin\n\nlog:\n"), "{text}");
    assert!(!text.contains("Where the members"), "{text}");
    let effective = Effective::build(&config, &Effective::bootstrap_dynamic(&config)).unwrap();
    assert_eq!(effective.settings.postgresql.replication.username.as_deref(), Some("copier"));
    assert_eq!(effective.settings.restapi.listen.to_string(), "0.0.0.0:8010");
    assert!(effective.settings.postgresql.use_pg_rewind);
    let lines = config["postgresql"]["pg_hba"].as_array().unwrap();
    assert_eq!(lines[1], "host replication copier all scram-sha-256");
    // Without a store the text says what is missing.
    let text = render(&sample(host(&environment(&[])), 150_004));
    assert!(text.contains("\n#etcd3:\n") && text.contains("scope: '#FIXME'"), "{text}");
}

fn server() -> Server {
    let parameters = [
        ("archive_command", "cp %p '/a b/%f'"),
        ("ssl_passphrase_command", "echo x"),
        ("config_file", "/etc/pg/main.conf"),
        ("hba_file", "/elsewhere/hba"),
        ("cluster_name", ""),
        ("listen_addresses", "localhost, 10.0.0.5"),
        ("port", "5433"),
        ("primary_conninfo", "host=a password=secret"),
        ("recovery_target_timeline", "latest"),
        ("wal_keep_size", "0"),
        ("max_connections", "61"),
        ("hot_standby", "on"),
        ("work_mem", "5MB"),
        ("auto_explain.log_min_duration", "1s"),
    ];
    let parameter =
        |(name, value): (&str, &str)| Parameter { name: name.to_owned(), value: value.to_owned() };
    Server {
        listen_addresses: "localhost, 10.0.0.5".to_owned(),
        port: 5433,
        data_dir: "/data".to_owned(),
        bin_dir: "/bin".to_owned(),
        config_dir: Some("/etc/pg".to_owned()),
        config_base_name: Some("main".to_owned()),
        parameters: parameters.map(parameter).into(),
        pg_hba: vec!["local all all peer".to_owned()],
        superuser: json!({"username": "postgres", "password": "geheim"}).as_object().unwrap().clone(),
        ..Server::default()
    }
}

#[test]
fn d_1_configuration_of_a_running_server() {
    let variables = environment(&[
        ("PATRONI_SCOPE", "batman"),
        ("PATRONI_ETCD3_HOSTS", "store:2379"),
        ("PATRONI_POSTGRESQL_LISTEN", "9.9.9.9:1"),
        ("PATRONI_POSTGRESQL_DATA_DIR", "/other"),
        ("PATRONI_REPLICATION_USERNAME", "copier"),
    ]);
    let generated = of_server(host(&variables), &server());
    assert_eq!(generated.notes, ["wal_keep_size is left out: the value 0 is not used: 0 is less than 16MB"]);
    let config = generated.config;
    assert_eq!(faults(&config), Vec::<String>::new());
    read_back(&config);
    assert_eq!(
        config["postgresql"],
        json!({
            "connect_address": "10.0.0.5:5433", "listen": "localhost,10.0.0.5:5433", "data_dir": "/data",
            "bin_dir": "/bin", "config_dir": "/etc/pg", "config_base_name": "main",
            "parameters": {"archive_command": "cp %p '/a b/%f'", "hba_file": "/elsewhere/hba",
                "ssl_passphrase_command": "echo x"},
            "pg_hba": ["local all all peer"],
            "authentication": {"superuser": {"username": "postgres", "password": "geheim"},
                "replication": {"username": "copier"}},
        })
    );
    assert_eq!(
        config["bootstrap"]["dcs"],
        json!({"loop_wait": 10, "retry_timeout": 10, "ttl": 30, "postgresql": {"use_slots": true, "parameters":
            {"auto_explain.log_min_duration": "1s", "hot_standby": "on", "max_connections": "61", "work_mem": "5MB"}}})
    );
    assert_eq!(config["scope"], "batman");
    let named = Server { cluster_name: "demo".to_owned(), ..server() };
    let named = of_server(host(&variables), &named).config;
    assert_eq!(named["scope"], "demo", "the server knows");
    Effective::build(&named, &Effective::bootstrap_dynamic(&named)).unwrap();
}

#[test]
fn d_1_an_ipv6_address_has_its_brackets() {
    let none = environment(&[]);
    let host = Host { name: "n", address: "fd00::2", environment: &none };
    assert_eq!(sample(host, 150_004)["restapi"]["listen"], "[fd00::2]:8008");
    assert_eq!(of_server(host, &server()).config["postgresql"]["connect_address"], "[fd00::2]:5433");
}
