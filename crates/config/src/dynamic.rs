//! What is read straight from `/config` (contract C.3, CF-26, CF-30, CF-32).

use ptarmigan_types::scalar::{is_truthy, parse_bool, parse_int};
use serde_json::{Map, Value};

/// Synchronous replication as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynchronousMode {
    /// Asynchronous; always in a standby cluster.
    #[default]
    Off,
    /// Priority mode.
    On,
    /// Quorum commit.
    Quorum,
}

/// What happens about a primary that runs on without its daemon and holds no lock: it was left running in pause, and the
/// cluster was resumed. An addition to Patroni's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnmanagedPrimary {
    /// `promote`: a replica takes over beside it, as with Patroni.
    #[default]
    Promote,
    /// `wait`: nobody takes over as long as WAL still arrives from it, until an operator names a candidate.
    Wait,
}

/// The upstream of a standby cluster (contract CF-32).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StandbyCluster {
    /// Host, may be several, comma-separated.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Slot on the upstream; without it no slot is used.
    pub primary_slot_name: Option<String>,
    /// Replica methods of the standby leader; `None` for `basebackup`.
    pub create_replica_methods: Option<Vec<String>>,
    /// `restore_command`.
    pub restore_command: Option<String>,
    /// `archive_cleanup_command`.
    pub archive_cleanup_command: Option<String>,
    /// `recovery_min_apply_delay` of the standby leader.
    pub recovery_min_apply_delay: Option<String>,
}

/// The dynamic configuration as the decision core reads it in every cycle. Reading never fails: what cannot
/// be read takes its default.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicSettings {
    /// Seconds a crashed primary may take to start before a failover; 0 prefers the failover.
    pub primary_start_timeout_s: u64,
    /// Seconds a demoted synchronous primary may take to stop; 0 for no limit.
    pub primary_stop_timeout_s: u64,
    /// Replicas further behind than this many bytes do not race.
    pub maximum_lag_on_failover_bytes: i64,
    /// Synchronous standbys further behind than this many bytes are replaced; not positive: never.
    pub maximum_lag_on_syncnode_bytes: i64,
    /// Lines of `/history` kept; 0 for all.
    pub max_timelines_history: u64,
    /// Maintenance mode.
    pub pause: bool,
    /// What happens about a primary that runs without its daemon.
    pub unmanaged_primary: UnmanagedPrimary,
    /// Synchronous replication; off in a standby cluster.
    pub synchronous_mode: SynchronousMode,
    /// Whether a primary without a synchronous standby holds back commits.
    pub synchronous_mode_strict: bool,
    /// Synchronous standbys wanted.
    pub synchronous_node_count: u32,
    /// Whether a leader stays when the DCS is gone and every member agrees.
    pub failsafe_mode: bool,
    /// Whether replicas on an older timeline do not race.
    pub check_timeline: bool,
    /// Seconds for which the slot of a member that is gone stays.
    pub member_slots_ttl_s: u64,
    /// The longest time without a primary that is wished for, in seconds: the leader derives the timeouts from it.
    pub rto_s: Option<u64>,
    /// Seconds after which a leader whose PostgreSQL runs and does not work gives way; `None`: that is only reported. An
    /// addition to Patroni's settings.
    pub gives_way_after_s: Option<u64>,
    /// Seconds that have to lie between two changes of leader that nobody asked for; 0 for none. An addition to Patroni's
    /// settings.
    pub failover_interval_min_s: u64,
    /// Seconds racers wait after the leader's end; 0 for none.
    pub primary_race_backoff_s: u64,
    /// Whether replication slots are used.
    pub use_slots: bool,
    /// Permanent slots: name and specification.
    pub slots: Map<String, Value>,
    /// Slots to leave alone: each a set of attributes that must all match.
    pub ignore_slots: Vec<Map<String, Value>>,
    /// Present where this is a standby cluster.
    pub standby_cluster: Option<StandbyCluster>,
}

impl Default for DynamicSettings {
    fn default() -> Self {
        Self::read(&Map::new())
    }
}

impl DynamicSettings {
    /// Reads the dynamic configuration (contract C.3).
    pub fn read(config: &Map<String, Value>) -> Self {
        let flag = |key: &str| config.get(key).and_then(parse_bool).unwrap_or(false);
        let int = |key: &str, default: i64| integer(config.get(key), None).unwrap_or(default);
        let unsigned = |key: &str, default: i64| u64::try_from(int(key, default)).unwrap_or(0);
        let either = |key: &str, old: &str, default: i64| {
            unsigned(if config.contains_key(key) { key } else { old }, default)
        };
        let standby_cluster = StandbyCluster::read(config.get("standby_cluster"));
        let strict = flag("synchronous_mode_strict");
        Self {
            primary_start_timeout_s: either("primary_start_timeout", "master_start_timeout", 300),
            primary_stop_timeout_s: either("primary_stop_timeout", "master_stop_timeout", 0),
            maximum_lag_on_failover_bytes: int("maximum_lag_on_failover", 1_048_576),
            maximum_lag_on_syncnode_bytes: int("maximum_lag_on_syncnode", -1),
            max_timelines_history: unsigned("max_timelines_history", 0),
            pause: flag("pause"),
            unmanaged_primary: UnmanagedPrimary::read(config.get("unmanaged_primary")),
            synchronous_mode: if standby_cluster.is_some() {
                SynchronousMode::Off
            } else {
                SynchronousMode::read(config.get("synchronous_mode"))
            },
            synchronous_mode_strict: strict,
            synchronous_node_count: u32::try_from(int("synchronous_node_count", 1))
                .unwrap_or(0)
                .max(u32::from(strict)),
            failsafe_mode: flag("failsafe_mode"),
            check_timeline: flag("check_timeline"),
            member_slots_ttl_s: integer(config.get("member_slots_ttl"), Some("s"))
                .map_or(1800, |seconds| u64::try_from(seconds).unwrap_or(0)),
            rto_s: rto_s(config),
            gives_way_after_s: gives_way_after_s(config),
            failover_interval_min_s: time_s(config, "minimum_failover_interval").unwrap_or(0),
            primary_race_backoff_s: unsigned("primary_race_backoff", 0),
            use_slots: use_slots(config),
            slots: permanent_slots(config),
            ignore_slots: ignore_slots(config.get("ignore_slots")),
            standby_cluster,
        }
    }
}

impl SynchronousMode {
    fn read(value: Option<&Value>) -> Self {
        match value {
            Some(Value::String(text)) if text.eq_ignore_ascii_case("quorum") => Self::Quorum,
            Some(value) if parse_bool(value) == Some(true) => Self::On,
            _ => Self::Off,
        }
    }
}

impl UnmanagedPrimary {
    fn read(value: Option<&Value>) -> Self {
        match value.and_then(Value::as_str) {
            Some(text) if text.eq_ignore_ascii_case("wait") => Self::Wait,
            _ => Self::Promote,
        }
    }
}

impl StandbyCluster {
    /// The section, where it is active: a mapping with a host, a port or a restore command (contract CF-32).
    pub fn read(value: Option<&Value>) -> Option<Self> {
        let section = value?.as_object()?;
        let active = ["host", "port", "restore_command"];
        if !active.iter().any(|key| section.get(*key).is_some_and(is_truthy)) {
            return None;
        }
        let text = |key: &str| section.get(key).filter(|value| is_truthy(value)).and_then(scalar_text);
        Some(Self {
            host: text("host"),
            port: integer(section.get("port"), None).and_then(|port| u16::try_from(port).ok()),
            primary_slot_name: text("primary_slot_name"),
            create_replica_methods: section.get("create_replica_methods").and_then(name_list),
            restore_command: text("restore_command"),
            archive_cleanup_command: text("archive_cleanup_command"),
            recovery_min_apply_delay: text("recovery_min_apply_delay"),
        })
    }
}

/// `rto`, where it is a time of at least a second.
pub(crate) fn rto_s(config: &Map<String, Value>) -> Option<u64> {
    time_s(config, "rto").filter(|&rto| rto > 0)
}

/// `primary_failure_action: failover` and its `primary_failure_timeout`.
fn gives_way_after_s(config: &Map<String, Value>) -> Option<u64> {
    let action = config.get("primary_failure_action").and_then(Value::as_str)?;
    action.eq_ignore_ascii_case("failover").then(|| time_s(config, "primary_failure_timeout").unwrap_or(30))
}

/// A time in seconds that is not negative.
pub(crate) fn time_s(config: &Map<String, Value>, key: &str) -> Option<u64> {
    integer(config.get(key), Some("s")).and_then(|seconds| u64::try_from(seconds).ok())
}

/// An integer as contract C.3 reads it; units count only where `base_unit` is given.
fn integer(value: Option<&Value>, base_unit: Option<&str>) -> Option<i64> {
    value.and_then(|value| parse_int(value, base_unit))
}

/// Text of a string, number or boolean.
pub(crate) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        scalar => Some(ptarmigan_types::scalar::python_str(scalar)),
    }
}

/// Names of replica methods: a list, the keys of a mapping, or one name; empty counts as absent.
pub(crate) fn name_list(value: &Value) -> Option<Vec<String>> {
    let names: Vec<String> = match value {
        Value::Array(items) => items.iter().filter_map(scalar_text).collect(),
        Value::Object(map) => map.keys().cloned().collect(),
        Value::String(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
        _ => Vec::new(),
    };
    let names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
    if names.is_empty() { None } else { Some(names) }
}

fn use_slots(config: &Map<String, Value>) -> bool {
    match config.get("postgresql").and_then(|section| section.get("use_slots")) {
        None => true,
        Some(value) => parse_bool(value).unwrap_or(false),
    }
}

fn permanent_slots(config: &Map<String, Value>) -> Map<String, Value> {
    ["permanent_replication_slots", "permanent_slots", "slots"]
        .iter()
        .filter_map(|key| config.get(*key))
        .find(|value| is_truthy(value))
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default()
}

/// A list of matchers; a mapping of names is taken as matchers by those names.
fn ignore_slots(value: Option<&Value>) -> Vec<Map<String, Value>> {
    match value {
        Some(Value::Array(items)) => items.iter().filter_map(|item| item.as_object().cloned()).collect(),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(name, attributes)| {
                let mut matcher = attributes.as_object().cloned().unwrap_or_default();
                matcher.entry("name").or_insert_with(|| Value::String(name.clone()));
                matcher
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> DynamicSettings {
        DynamicSettings::read(config.as_object().unwrap())
    }

    #[test]
    fn defaults_of_c_3() {
        let empty = read(&json!({}));
        assert_eq!(empty.primary_start_timeout_s, 300);
        assert_eq!(empty.primary_stop_timeout_s, 0);
        assert_eq!(empty.maximum_lag_on_failover_bytes, 1_048_576);
        assert_eq!(empty.maximum_lag_on_syncnode_bytes, -1);
        assert_eq!(empty.member_slots_ttl_s, 1800);
        assert_eq!(empty.synchronous_node_count, 1);
        assert!(empty.use_slots && !empty.pause && empty.standby_cluster.is_none());
    }

    #[test]
    fn unmanaged_primary_waits_only_where_it_is_told_to() {
        for (value, expected) in [
            (json!("wait"), UnmanagedPrimary::Wait),
            (json!("WAIT"), UnmanagedPrimary::Wait),
            (json!("promote"), UnmanagedPrimary::Promote),
            (json!(true), UnmanagedPrimary::Promote),
            (json!(null), UnmanagedPrimary::Promote),
        ] {
            let read = read(&json!({"unmanaged_primary": value}));
            assert_eq!(read.unmanaged_primary, expected, "{value}");
        }
    }

    #[test]
    fn what_cannot_be_read_takes_its_default() {
        let broken = read(&json!({
            "primary_start_timeout": "soon", "maximum_lag_on_failover": "1MB", "max_timelines_history": [],
            "pause": "maybe", "synchronous_mode": {}, "standby_cluster": "10.0.0.1", "slots": [1],
            "ignore_slots": "all", "member_slots_ttl": "1 fortnight", "postgresql": 5, "synchronous_node_count": null,
        }));
        assert_eq!(broken, read(&json!({})));
    }

    #[test]
    fn the_old_name_counts_only_where_the_new_one_is_absent() {
        assert_eq!(read(&json!({"master_start_timeout": 5})).primary_start_timeout_s, 5);
        let both = json!({"master_start_timeout": 5, "primary_start_timeout": null});
        assert_eq!(read(&both).primary_start_timeout_s, 300);
        assert_eq!(read(&json!({"master_stop_timeout": "7"})).primary_stop_timeout_s, 7);
        assert_eq!(read(&json!({"primary_start_timeout": 0})).primary_start_timeout_s, 0);
    }

    #[test]
    fn units_and_strings() {
        assert_eq!(read(&json!({"member_slots_ttl": "30min"})).member_slots_ttl_s, 1800);
        assert_eq!(read(&json!({"member_slots_ttl": 0})).member_slots_ttl_s, 0);
        assert_eq!(read(&json!({"maximum_lag_on_failover": "0x10"})).maximum_lag_on_failover_bytes, 16);
    }

    #[test]
    fn cf_30_flags_are_read_as_postgresql_reads_them() {
        for on in [json!(true), json!("on"), json!("YES"), json!("1"), json!(1)] {
            assert!(read(&json!({"pause": on.clone()})).pause, "{on}");
        }
        for off in [json!(false), json!("off"), json!("t"), json!(null), json!({})] {
            assert!(!read(&json!({"pause": off.clone()})).pause, "{off}");
        }
        assert!(!read(&json!({"postgresql": {"use_slots": "no"}})).use_slots);
    }

    #[test]
    fn synchronous_mode_has_three_words() {
        assert_eq!(read(&json!({"synchronous_mode": "Quorum"})).synchronous_mode, SynchronousMode::Quorum);
        assert_eq!(read(&json!({"synchronous_mode": "on"})).synchronous_mode, SynchronousMode::On);
        assert_eq!(read(&json!({"synchronous_mode": "quorums"})).synchronous_mode, SynchronousMode::Off);
        let strict = read(&json!({"synchronous_mode_strict": true, "synchronous_node_count": 0}));
        assert_eq!(strict.synchronous_node_count, 1);
        assert_eq!(read(&json!({"synchronous_node_count": 0})).synchronous_node_count, 0);
    }

    #[test]
    fn cf_32_a_standby_cluster_needs_host_port_or_restore_command() {
        let inactive = read(&json!({"standby_cluster": {"host": "", "primary_slot_name": "s"}}));
        assert_eq!(inactive.standby_cluster, None);
        let active = read(&json!({"synchronous_mode": "quorum", "standby_cluster":
            {"host": "a,b", "port": "5433", "create_replica_methods": ["barman", "basebackup"]}}));
        assert_eq!(active.synchronous_mode, SynchronousMode::Off);
        let upstream = active.standby_cluster.unwrap();
        assert_eq!((upstream.host.as_deref(), upstream.port), (Some("a,b"), Some(5433)));
        assert_eq!(upstream.primary_slot_name, None);
        assert_eq!(upstream.create_replica_methods.unwrap(), ["barman", "basebackup"]);
        let restore = read(&json!({"standby_cluster": {"restore_command": "cp %f %p"}}));
        assert!(restore.standby_cluster.is_some());
    }

    #[test]
    fn the_first_alias_that_says_something_names_the_permanent_slots() {
        let config =
            json!({"permanent_replication_slots": {}, "permanent_slots": {"b": {}}, "slots": {"c": {}}});
        assert_eq!(read(&config).slots.keys().collect::<Vec<_>>(), ["b"]);
        let mapping = read(&json!({"ignore_slots": {"barman": {"type": "physical"}}}));
        assert_eq!(Value::from(mapping.ignore_slots), json!([{"type": "physical", "name": "barman"}]));
    }
}
