//! What the keys of a configuration must be (contract C.7, `config_keys.tsv`).

use serde_json::Value;

/// What a value must be.
pub(super) enum Check {
    Text,
    Flag,
    Integer,
    Mapping,
    Section(Vec<Entry>),
    /// A list that is not empty.
    List(Box<Self>),
    AnyOf(Vec<Self>),
    /// An integer in a range; `typed` takes no text for one.
    Number {
        least: i64,
        most: i64,
        unit: Option<&'static str>,
        typed: bool,
    },
    Word {
        words: &'static [&'static str],
        any_case: bool,
    },
    SynchronousMode,
    WatchdogMode,
    LogFormat,
    /// An address nobody listens on.
    Listen {
        many: bool,
    },
    /// An address for others: not this host's loopback.
    Connect,
    /// An address somebody listens on.
    Reachable,
    ReachableList,
    DataDir,
    Program,
    BinDir,
}

impl Check {
    /// Whether a value is of the kind that this check is about.
    pub(super) fn fits(&self, value: &Value) -> bool {
        match self {
            Self::List(_) => value.is_array(),
            Self::Section(_) | Self::Mapping => value.is_object(),
            _ => value.is_string(),
        }
    }
}

/// Keys of a section.
pub(super) enum Entry {
    Required(&'static str, Check),
    Optional(&'static str, Check),
    /// Checked with this value where absent.
    OrDefault(&'static str, &'static str, Check),
    OneOf(Vec<(&'static str, Check)>),
    AtMostOne(Vec<(&'static str, Check)>),
}

use Check::{Connect, Flag, Integer, Mapping, Program, Reachable, ReachableList, Section, Text};
use Entry::{AtMostOne, OneOf, Optional, OrDefault, Required};

const PORT_MAX: i64 = 65535;
const GUC_MAX: i64 = 262_143;

fn list(inner: Check) -> Check {
    Check::List(Box::new(inner))
}

/// An integer, as a number or a text.
const fn at_least(least: i64) -> Check {
    Check::Number { least, most: i64::MAX, unit: None, typed: false }
}

/// An integer, as a number.
const fn number(least: i64, most: i64) -> Check {
    Check::Number { least, most, unit: None, typed: true }
}

const fn word(words: &'static [&'static str]) -> Check {
    Check::Word { words, any_case: false }
}

fn texts(keys: &[&'static str]) -> Vec<Entry> {
    keys.iter().map(|key| Optional(key, Text)).collect()
}

fn section(fixed: Vec<Entry>, optional_texts: &[&'static str]) -> Check {
    let mut entries = fixed;
    entries.extend(texts(optional_texts));
    Section(entries)
}

/// The whole local configuration.
pub(super) fn root() -> Vec<Entry> {
    vec![
        Required("name", Text),
        Required("scope", Text),
        Optional("thread_pool_size", number(5, i64::MAX)),
        Optional("thread_stack_size", number(65536, i64::MAX)),
        Optional("log", log()),
        Optional(
            "ctl",
            section(vec![Optional("insecure", Flag)], &["cacert", "certfile", "keyfile", "keyfile_password"]),
        ),
        Required("restapi", restapi()),
        Optional("bootstrap", bootstrap()),
        OneOf(stores()),
        Optional("citus", Section(vec![Required("database", Text), Required("group", number(0, i64::MAX))])),
        Required("postgresql", postgresql()),
        Optional(
            "watchdog",
            Section(vec![
                Optional("mode", Check::WatchdogMode),
                Optional("device", Text),
                Optional("safety_margin", number(-1, i64::MAX)),
            ]),
        ),
        Optional("tags", tags()),
    ]
}

fn tags() -> Check {
    let pair = |flag, priority| AtMostOne(vec![(flag, Flag), (priority, number(0, i64::MAX))]);
    Section(vec![
        pair("nofailover", "failover_priority"),
        Optional("clonefrom", Flag),
        Optional("noloadbalance", Flag),
        Optional("replicatefrom", Text),
        pair("nosync", "sync_priority"),
        Optional("nostream", Flag),
    ])
}

fn log() -> Check {
    Section(vec![
        Optional("type", word(&["plain", "json"])),
        Optional("level", word(&["DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"])),
        Optional("traceback_level", Check::Word { words: &["DEBUG", "ERROR"], any_case: true }),
        Optional("format", Check::LogFormat),
        Optional("dateformat", Text),
        Optional("static_fields", Mapping),
        Optional("max_queue_size", Integer),
        Optional("dir", Text),
        Optional("file_num", Integer),
        Optional("file_size", Integer),
        Optional("mode", number(0, 0o777)),
        Optional("loggers", Mapping),
        Optional("deduplicate_heartbeat_logs", Flag),
    ])
}

fn restapi() -> Check {
    Section(vec![
        Optional("thread_pool_size", number(5, i64::MAX)),
        Required("listen", Check::Listen { many: false }),
        Required("connect_address", Connect),
        Optional("authentication", Section(vec![Required("username", Text), Required("password", Text)])),
        Optional("certfile", Text),
        Optional("keyfile", Text),
        Optional("keyfile_password", Text),
        Optional("cafile", Text),
        Optional("ciphers", Text),
        Optional("verify_client", word(&["none", "optional", "required"])),
        Optional("allowlist", list(Text)),
        Optional("allowlist_include_members", Flag),
        Optional("http_extra_headers", Mapping),
        Optional("https_extra_headers", Mapping),
        Optional("request_queue_size", number(0, 4096)),
        Optional(
            "server_tokens",
            Check::Word { words: &["minimal", "productonly", "original"], any_case: true },
        ),
    ])
}

fn bootstrap() -> Check {
    Section(vec![
        Required("dcs", dynamic()),
        Optional("initdb", list(Check::AnyOf(vec![Text, Mapping]))),
        Optional("method", Text),
    ])
}

fn dynamic() -> Check {
    let time = || Check::Number { least: 0, most: i64::MAX, unit: Some("s"), typed: false };
    Section(vec![
        Optional("primary_failure_action", Text),
        Optional("primary_failure_timeout", time()),
        Optional("minimum_failover_interval", time()),
        Optional("rto", Check::Number { least: 1, most: i64::MAX, unit: Some("s"), typed: false }),
        Optional("ttl", at_least(20)),
        Optional("loop_wait", at_least(1)),
        Optional("retry_timeout", at_least(3)),
        Optional("maximum_lag_on_failover", at_least(0)),
        Optional("maximum_lag_on_syncnode", at_least(-1)),
        Optional("member_slots_ttl", time()),
        Optional("postgresql", dynamic_postgresql()),
        Optional("primary_start_timeout", at_least(0)),
        Optional("primary_stop_timeout", at_least(0)),
        Optional("standby_cluster", standby_cluster()),
        Optional("synchronous_mode", Check::SynchronousMode),
        Optional("synchronous_mode_strict", Flag),
        Optional("synchronous_node_count", at_least(1)),
    ])
}

fn dynamic_postgresql() -> Check {
    let guc = |least, most| Check::Number { least, most, unit: None, typed: false };
    let parameters = vec![
        Optional("max_connections", guc(1, GUC_MAX)),
        Optional("max_locks_per_transaction", guc(10, i64::from(i32::MAX))),
        Optional("max_prepared_transactions", guc(0, GUC_MAX)),
        Optional("max_replication_slots", guc(0, GUC_MAX)),
        Optional("max_wal_senders", guc(0, GUC_MAX)),
        Optional("max_worker_processes", guc(0, GUC_MAX)),
    ];
    Section(vec![
        Optional("parameters", Section(parameters)),
        Optional("use_pg_rewind", Flag),
        Optional("pg_hba", list(Text)),
        Optional("pg_ident", list(Text)),
        Optional("pg_ctl_timeout", at_least(0)),
        Optional("use_slots", Flag),
    ])
}

fn standby_cluster() -> Check {
    let upstream = vec![("host", Text), ("port", number(i64::MIN, PORT_MAX)), ("restore_command", Text)];
    section(
        vec![OneOf(upstream), Optional("create_replica_methods", list(Text))],
        &["primary_slot_name", "archive_cleanup_command", "recovery_min_apply_delay"],
    )
}

fn stores() -> Vec<(&'static str, Check)> {
    let consul = section(
        vec![
            OneOf(vec![("host", Reachable), ("url", Text)]),
            Optional("port", number(i64::MIN, PORT_MAX)),
            Optional("verify", Flag),
            Optional("checks", list(Text)),
            Optional("register_service", Flag),
            Optional("service_tags", list(Text)),
            Optional("consistency", word(&["default", "consistent", "stale"])),
        ],
        &[
            "scheme",
            "token",
            "cacert",
            "cert",
            "key",
            "dc",
            "service_check_interval",
            "service_check_tls_server_name",
        ],
    );
    let other = || Section(Vec::new());
    vec![
        ("consul", consul),
        ("etcd", etcd()),
        ("etcd3", etcd()),
        ("exhibitor", other()),
        ("kubernetes", other()),
        ("raft", other()),
        ("zookeeper", other()),
    ]
}

fn etcd() -> Check {
    let hosts = Check::AnyOf(vec![ReachableList, list(Reachable)]);
    let endpoints = vec![
        ("host", Reachable),
        ("hosts", hosts),
        ("srv", Text),
        ("srv_suffix", Text),
        ("url", Text),
        ("proxy", Text),
    ];
    section(vec![OneOf(endpoints)], &["protocol", "username", "password", "cacert", "cert", "key"])
}

fn postgresql() -> Check {
    let user = || Section(vec![Required("username", Text), Optional("password", Text)]);
    let programs =
        ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind"];
    let parameters = Section(texts(&["unix_socket_directories"]));
    Section(vec![
        Required("listen", Check::Listen { many: true }),
        Required("connect_address", Connect),
        Optional("proxy_address", Connect),
        Required(
            "authentication",
            Section(vec![
                Required("replication", user()),
                Required("superuser", user()),
                Optional("rewind", user()),
            ]),
        ),
        Required("data_dir", Check::DataDir),
        Optional("bin_name", Section(programs.map(|name| Optional(name, Program)).into())),
        OrDefault("bin_dir", "", Check::BinDir),
        Optional("parameters", parameters),
        Optional("pg_hba", list(Text)),
        Optional("pg_ident", list(Text)),
        Optional("pg_ctl_timeout", at_least(0)),
        Optional("use_pg_rewind", Flag),
    ])
}
