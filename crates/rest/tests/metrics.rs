//! `GET /metrics` (contract surface B): every row of its table in every situation of the vectors, and what a scraper
//! gets from a running server. Rows are cited by their numbers in `metrics.tsv`.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use ptarmigan_clock::now;
use ptarmigan_rest::{Reported, Request, Snapshot, metrics::metrics_text};
use ptarmigan_types::{MemberState, Monotonic, Role};
use serde_json::{Value, json};
use support::{
    exposition::{Family, parse},
    primary, replica, set_tags, settings, situation, start, start_replica, willing,
};

const NOW: Monotonic = Monotonic(3_600_000_000);

/// 2026-07-24 12:00:00.123456 UTC, when everything begins in the vectors.
const START: &str = "1784894400.123456";

fn families(snapshot: &Snapshot) -> Vec<Family> {
    let text = metrics_text(&Reported::at(snapshot, NOW));
    parse(&text).unwrap_or_else(|fault| panic!("{fault}\n{text}"))
}

fn values(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let families = families(snapshot).into_iter();
    families.map(|family| (family.name, family.samples[0].value.clone())).collect()
}

/// The value of one metric; `absent` where there is none.
fn value(snapshot: &Snapshot, metric: &str) -> String {
    values(snapshot).remove(metric).unwrap_or_else(|| "absent".to_owned())
}

/// Each case is a name, what is changed, and the value after it.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Snapshot), &'a str);

fn assert_values(metric: &str, cases: &[Case<'_>]) {
    for (scenario, change, wanted) in cases {
        let mut snapshot = situation(scenario, NOW);
        change(&mut snapshot);
        assert_eq!(value(&snapshot, metric), *wanted, "{metric} of {scenario}");
    }
}

const AS_IT_IS: &dyn Fn(&mut Snapshot) = &|_| {};

/// The scenarios of the vectors with their status documents.
fn documents() -> Vec<(&'static str, Value)> {
    let lines = include_str!("../testdata/status_bodies.tsv").lines();
    let pairs = lines.map(|line| line.split_once('\t').unwrap());
    pairs.map(|(scenario, body)| (scenario, serde_json::from_str(body).unwrap())).collect()
}

/// A row of the contract's table.
struct Row {
    metric: &'static str,
    kind: &'static str,
    labels: &'static str,
    presence: &'static str,
    semantics: &'static str,
}

fn rows() -> Vec<Row> {
    let lines = include_str!("../testdata/metrics.tsv").lines().skip(1);
    lines
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [_, metric, kind, labels, presence, _, semantics] => {
                Row { metric, kind, labels, presence, semantics }
            }
            _ => panic!("{line}"),
        })
        .collect()
}

#[test]
fn surface_b_the_families_of_the_table_in_its_order() {
    let rows = rows();
    assert_eq!(rows.len(), 26);
    for (scenario, document) in documents() {
        let has_version = document.get("server_version").is_some();
        let wanted: Vec<&Row> = rows.iter().filter(|row| has_version || row.presence == "always").collect();
        let mut families = families(&situation(scenario, NOW));
        families.retain(|family| family.name.starts_with("patroni_"));
        assert_eq!(families.len(), wanted.len(), "{scenario}");
        for (family, row) in families.iter().zip(wanted) {
            assert_eq!((family.name.as_str(), family.kind.as_str()), (row.metric, row.kind), "{scenario}");
            let labels: Vec<(&str, &str)> = family.samples[0]
                .labels
                .iter()
                .map(|(label, value)| (label.as_str(), value.as_str()))
                .collect();
            assert_eq!(labels, [("scope", "demo"), ("name", "pg-1")], "{scenario}");
            assert_eq!(row.labels, "scope,name");
            assert_eq!(family.samples.len(), 1, "{scenario}");
        }
    }
}

/// What the table says of a metric, in terms of the status document; `None` where that does not tell.
fn by_document(metric: &str, document: &Value) -> Option<Value> {
    let number = |pointer: &str| document.pointer(pointer).filter(|value| !value.is_null()).cloned();
    let number = |pointer| Some(number(pointer).unwrap_or_else(|| 0.into()));
    let flag = |is_set| Some(u8::from(is_set).into());
    let is = |field: &str, word: &str| flag(document[field] == word);
    let is_true = |pointer: &str| flag(document.pointer(pointer) == Some(&Value::Bool(true)));
    let time = |pointer: &str| {
        let is_set = document.pointer(pointer).is_some_and(Value::is_string);
        Some(if is_set { serde_json::from_str(START).unwrap() } else { 0.into() })
    };
    match metric {
        "patroni_postgres_running" => is("state", "running"),
        "patroni_postmaster_start_time" => time("/postmaster_start_time"),
        "patroni_primary" => is("role", "primary"),
        "patroni_xlog_location" => number("/xlog/location"),
        "patroni_standby_leader" => is("role", "standby_leader"),
        "patroni_replica" => is("role", "replica"),
        "patroni_sync_standby" => is_true("/sync_standby"),
        "patroni_quorum_standby" => is_true("/quorum_standby"),
        "patroni_xlog_received_location" => number("/xlog/received_location"),
        "patroni_xlog_replayed_location" => number("/xlog/replayed_location"),
        "patroni_xlog_replayed_timestamp" => time("/xlog/replayed_timestamp"),
        "patroni_xlog_paused" => is_true("/xlog/paused"),
        "patroni_postgres_streaming" => is("replication_state", "streaming"),
        "patroni_postgres_in_archive_recovery" => is("replication_state", "in archive recovery"),
        "patroni_postgres_server_version" => number("/server_version"),
        "patroni_cluster_unlocked" => is_true("/cluster_unlocked"),
        "patroni_failsafe_mode_is_active" => is_true("/failsafe_mode_is_active"),
        "patroni_postgres_timeline" => number("/timeline"),
        "patroni_dcs_last_seen" => number("/dcs_last_seen"),
        "patroni_pending_restart" => is_true("/pending_restart"),
        "patroni_is_paused" => is_true("/pause"),
        "patroni_postgres_state" => {
            let state = document["state"].as_str().unwrap().parse::<MemberState>().ok();
            Some(state.map_or_else(|| json!(-1), |state| json!(state as u8)))
        }
        _ => None,
    }
}

#[test]
fn surface_b_the_values_are_those_of_the_status_document() {
    let mut checked = 0;
    for (scenario, document) in documents() {
        for (metric, value) in values(&situation(scenario, NOW)) {
            let Some(wanted) = by_document(&metric, &document) else { continue };
            assert_eq!(value, wanted.to_string(), "{metric} of {scenario}");
            checked += 1;
        }
    }
    assert!(checked > 36 * 20, "{checked}");
}

#[test]
fn surface_b_1_the_version_has_two_digits_for_each_part() {
    let version = |text: &str| {
        let mut snapshot = replica(NOW);
        snapshot.version = text.into();
        value(&snapshot, "patroni_version")
    };
    assert_eq!(version("4.1.4"), "040104");
    assert_eq!(version("4.10.12"), "041012");
    assert_eq!(version("none"), "0", "a number whatever happens");
}

#[test]
fn surface_b_2_running_means_that_postgresql_answers() {
    let cases: [Case<'_>; 5] = [
        ("primary_locked", AS_IT_IS, "1"),
        ("replica_sqlfail", AS_IT_IS, "0"),
        ("replica_starting_sqlok", AS_IT_IS, "0"),
        ("primary_locked", &|node| node.postmaster_alive = false, "0"),
        ("primary_locked", &|node| node.figures.as_mut().unwrap().at = Monotonic(0), "0"),
    ];
    assert_values("patroni_postgres_running", &cases);
}

#[test]
fn surface_b_3_b_12_moments_are_seconds_with_a_fraction() {
    for (text, wanted) in [
        ("2026-07-24 12:00:00.123456+00:00", START),
        ("2026-07-24 12:00:00.000000+00:00", "1784894400.0"),
        ("2026-07-24 14:00:00.5+02:00", "1784894400.5"),
        ("infinity", "0"),
    ] {
        let mut snapshot = replica(NOW);
        let figures = snapshot.figures.as_mut().unwrap();
        figures.postmaster_start_time = text.into();
        figures.replayed_timestamp = Some(text.into());
        assert_eq!(value(&snapshot, "patroni_postmaster_start_time"), wanted, "{text}");
        assert_eq!(value(&snapshot, "patroni_xlog_replayed_timestamp"), wanted, "{text}");
    }
    let mut snapshot = replica(NOW);
    snapshot.figures.as_mut().unwrap().replayed_timestamp = None;
    assert_eq!(value(&snapshot, "patroni_xlog_replayed_timestamp"), "0");
}

#[test]
fn surface_b_4_the_role_is_postgresqls_and_not_the_locks() {
    let cases: [Case<'_>; 6] = [
        ("primary_nolock_paused", AS_IT_IS, "1"),
        ("primary_dcsdown_lease_expired", AS_IT_IS, "1"),
        ("primary_lock_held_not_promoted", AS_IT_IS, "0"),
        ("primary_locked_starting", AS_IT_IS, "1"),
        ("primary_locked_stopped", AS_IT_IS, "0"),
        ("standby_leader", AS_IT_IS, "0"),
    ];
    assert_values("patroni_primary", &cases);
}

#[test]
fn surface_b_8_b_9_a_listed_standby_that_does_not_answer_is_none() {
    let silent: &dyn Fn(&mut Snapshot) = &|node| node.figures = None;
    assert_values("patroni_sync_standby", &[("sync_standby", AS_IT_IS, "1"), ("sync_standby", silent, "0")]);
    let cases = [("quorum_standby", AS_IT_IS, "1"), ("quorum_standby", silent, "0")];
    assert_values("patroni_quorum_standby", &cases);
    assert_values("patroni_sync_standby", &[("quorum_standby", AS_IT_IS, "0")]);
}

#[test]
fn surface_b_13_paused_replay_counts_on_a_standby_only() {
    let pause: &dyn Fn(&mut Snapshot) = &|node| node.figures.as_mut().unwrap().replay_paused = true;
    let cases: [Case<'_>; 3] = [
        ("replica_streaming", AS_IT_IS, "0"),
        ("replica_streaming", pause, "1"),
        ("primary_locked", pause, "0"),
    ];
    assert_values("patroni_xlog_paused", &cases);
}

#[test]
fn surface_b_14_b_15_absent_without_a_version_that_has_them() {
    let version = |number| move |node: &mut Snapshot| node.figures.as_mut().unwrap().server_version = number;
    let (old, new) = (version(90_599), version(90_600));
    let cases: [Case<'_>; 5] = [
        ("replica_archive", &old, "absent"),
        ("replica_archive", &new, "1"),
        ("replica_streaming", AS_IT_IS, "0"),
        ("primary_locked", AS_IT_IS, "0"),
        ("replica_stopped", AS_IT_IS, "absent"),
    ];
    assert_values("patroni_postgres_in_archive_recovery", &cases);
    let left: &dyn Fn(&mut Snapshot) =
        &|node| node.figures.as_mut().unwrap().replication_state = Some("streaming".into());
    assert_values(
        "patroni_postgres_streaming",
        &[
            ("replica_streaming", &old, "absent"),
            ("replica_streaming", &new, "1"),
            ("primary_locked", left, "0"),
        ],
    );
}

#[test]
fn surface_b_17_unlocked_is_without_a_leader_or_without_a_view() {
    let cases: [Case<'_>; 4] = [
        ("primary_locked", AS_IT_IS, "0"),
        ("replica_unlocked", AS_IT_IS, "1"),
        ("replica_dcsdown", AS_IT_IS, "1"),
        ("replica_streaming", &|node| node.view.as_mut().unwrap().at = Monotonic(0), "1"),
    ];
    assert_values("patroni_cluster_unlocked", &cases);
}

#[test]
fn surface_b_18_to_b_20_failsafe() {
    let until = |moment| move |node: &mut Snapshot| node.failsafe_until = Some(Monotonic(moment));
    let (over, goes_on) = (until(NOW.0), until(NOW.0 + 1));
    let cases: [Case<'_>; 3] = [
        ("primary_failsafe", AS_IT_IS, "1"),
        ("primary_failsafe", &over, "0"),
        ("replica_dcsdown", &goes_on, "1"),
    ];
    assert_values("patroni_failsafe_mode_is_active", &cases);
    let enabled: &dyn Fn(&mut Snapshot) = &|node| node.global.failsafe_mode = true;
    let cases = [("replica_dcsdown", AS_IT_IS, "0"), ("replica_dcsdown", enabled, "1")];
    assert_values("patroni_failsafe_mode_enabled", &cases);
    let members = |name: &'static str| {
        move |node: &mut Snapshot| node.failsafe = Some([(name.to_owned(), String::new())].into())
    };
    let (mine, another) = (members("pg-1"), members("pg-10"));
    let cases: [Case<'_>; 3] = [
        ("replica_dcsdown", AS_IT_IS, "0"),
        ("replica_dcsdown", &mine, "1"),
        ("replica_dcsdown", &another, "0"),
    ];
    assert_values("patroni_failsafe_member", &cases);
}

#[test]
fn surface_b_21_b_22_zero_where_nothing_is_known() {
    let timeline: &dyn Fn(&mut Snapshot) = &|node| node.figures.as_mut().unwrap().timeline = None;
    let cases = [
        ("replica_streaming", AS_IT_IS, "3"),
        ("replica_streaming", timeline, "0"),
        ("replica_stopped", AS_IT_IS, "0"),
    ];
    assert_values("patroni_postgres_timeline", &cases);
    let cases: [Case<'_>; 2] = [
        ("replica_dcsdown", AS_IT_IS, "1753358400"),
        ("replica_dcsdown", &|node| node.dcs_last_seen = 0, "0"),
    ];
    assert_values("patroni_dcs_last_seen", &cases);
}

#[test]
fn surface_b_23_b_24_pending_restart_and_pause() {
    let reason: &dyn Fn(&mut Snapshot) = &|node| {
        let change = json!({"old_value": "100", "new_value": "200"});
        node.pending_restart_reason.insert("max_connections".into(), change);
    };
    let cases = [
        ("primary_locked", AS_IT_IS, "0"),
        ("primary_locked", reason, "1"),
        ("replica_stopped", reason, "1"),
    ];
    assert_values("patroni_pending_restart", &cases);
    let cases = [
        ("primary_locked", AS_IT_IS, "0"),
        ("primary_locked_paused", AS_IT_IS, "1"),
        ("replica_dcsdown_paused", AS_IT_IS, "1"),
    ];
    assert_values("patroni_is_paused", &cases);
}

#[test]
fn surface_b_25_states_have_the_numbers_of_the_table_and_a_comment_lists_them() {
    let row = rows().into_iter().find(|row| row.metric == "patroni_postgres_state").unwrap();
    let (codes, other) = row.semantics.split_once(", -1 ").unwrap();
    assert!(other.contains("unknown"));
    let listed = codes.split(", ").map(|code| code.replacen(' ', "=", 1)).collect::<Vec<_>>().join(", ");
    let mut snapshot = replica(NOW);
    for (index, state) in MemberState::ALL.iter().enumerate() {
        snapshot.state = *state;
        assert_eq!(value(&snapshot, row.metric), index.to_string(), "{state}");
    }
    assert_eq!(codes.split(", ").count(), MemberState::ALL.len());
    assert_values(row.metric, &[("replica_sqlfail", AS_IT_IS, "-1")]);
    let families = families(&snapshot);
    for family in &families {
        let is_it = family.name == row.metric;
        let wanted = if is_it { vec![format!("Values: {listed}")] } else { Vec::new() };
        assert_eq!(family.comments, wanted, "{}", family.name);
    }
    let text = metrics_text(&Reported::at(&snapshot, NOW));
    let comment = text.lines().position(|line| line.starts_with("# Values: ")).unwrap();
    let around = [comment - 1, comment + 1].map(|index| text.lines().nth(index).unwrap());
    assert!(around[0].starts_with("# HELP patroni_postgres_state "), "{}", around[0]);
    assert_eq!(around[1], "# TYPE patroni_postgres_state gauge");
}

#[test]
fn surface_b_26_the_priority_is_that_of_the_configured_tags() {
    for (tags, wanted) in [
        (json!({}), "1"),
        (json!({"failover_priority": 3}), "3"),
        (json!({"failover_priority": "2"}), "2"),
        (json!({"failover_priority": "high"}), "1"),
        (json!({"nofailover": true}), "0"),
        (json!({"nofailover": "false", "failover_priority": 5}), "0"),
        (json!({"nofailover": false, "failover_priority": 5}), "5"),
    ] {
        let mut snapshot = replica(NOW);
        set_tags(&mut snapshot, tags.clone());
        snapshot.effective_tags = Default::default();
        assert_eq!(value(&snapshot, "patroni_failover_priority"), wanted, "{tags}");
    }
}

#[test]
fn our_own_come_last_and_are_absent_where_there_is_nothing_to_tell() {
    let own = |snapshot: &Snapshot| -> Vec<(String, String)> {
        let families = families(snapshot);
        let first = families.iter().position(|family| !family.name.starts_with("patroni_"));
        let own = families[first.unwrap_or(families.len())..].iter();
        own.map(|family| (family.name.clone(), family.samples[0].value.clone())).collect()
    };
    let mut snapshot = primary(NOW);
    let well = || ("ptarmigan_postgres_ailing".to_owned(), "0".to_owned());
    assert_eq!(own(&snapshot), [well()]);
    snapshot.guardian_armed = Some(false);
    assert_eq!(own(&snapshot), [("ptarmigan_guardian_armed".into(), "0".into()), well()]);
    snapshot.ailment = Some(json!({"fault": "no_answer"}));
    snapshot.guardian_armed = Some(true);
    snapshot.lease_headroom = Some(Duration::from_millis(19_750));
    snapshot.dcs_latency = Some(Duration::from_micros(1));
    let all = [
        ("ptarmigan_guardian_armed", "1"),
        ("ptarmigan_lease_headroom_seconds", "19.75"),
        ("ptarmigan_dcs_latency_seconds", "0.000001"),
        ("ptarmigan_postgres_ailing", "1"),
    ];
    assert_eq!(own(&snapshot), all.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn surface_b_what_a_scraper_gets() {
    let mut snapshot = replica(now());
    snapshot.scope = "d\u{e9}\"mo\\n\n{,}".into();
    snapshot.name = "pg 1\\".into();
    snapshot.guardian_armed = Some(true);
    let (scope, name) = (snapshot.scope.clone(), snapshot.name.to_string());
    let mut decorated = settings();
    decorated.http_extra_headers = [("X-Frame".to_owned(), "deny".to_owned())].into();
    let node = start(decorated, snapshot, willing);
    for path in ["/metrics", "//metrics", "/metrics/foo", "/metrics?name[]=up"] {
        let answer = node.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains("\r\ncontent-type: text/plain\r\n"), "{}", answer.head);
        assert!(answer.head.contains("\r\nx-frame: deny"), "{}", answer.head);
        let families = parse(&answer.body).unwrap_or_else(|fault| panic!("{fault}\n{}", answer.body));
        assert_eq!(families.len(), 28, "{path}");
        for family in families {
            let labels = [("scope".to_owned(), scope.clone()), ("name".to_owned(), name.clone())];
            assert_eq!(family.samples.len(), 1, "{}", family.name);
            assert_eq!(family.samples[0].labels, labels, "{}", family.name);
        }
    }
    assert_eq!(node.get("/metricsx").status, 503, "a health check of an unknown path");
    assert_eq!(node.send("HEAD", "/metrics", "", "").status, 503);
    assert_eq!(node.send("POST", "/metrics", "", "").status, 501);
}

/// The agent gets to know that fresher figures would be welcome, and is not waited for.
#[test]
fn surface_b_postgresql_is_not_waited_for() {
    let node = start(settings(), replica(now()), |_, _| None);
    let mut aged = replica(now());
    aged.figures.as_mut().unwrap().at = Monotonic(now().0 - 2_000_000);
    node.snapshot.store(Arc::new(aged));
    let began = now();
    for _ in 0..20 {
        let answer = node.get("/metrics");
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("patroni_postgres_running{scope=\"demo\",name=\"pg-1\"} 1\n"));
    }
    assert!(now().since(began) < Duration::from_secs(2), "the agent answers nothing and delays nothing");
    let asked = || node.asked.lock().unwrap().clone();
    let deadline = now() + Duration::from_secs(5);
    while asked().is_empty() && now() < deadline {
        thread::park_timeout(Duration::from_millis(10));
    }
    let seconds = usize::try_from(now().since(began).as_secs()).unwrap();
    assert!((1..=1 + seconds).contains(&asked().len()), "{:?}", asked());
    assert!(asked().iter().all(|request| *request == Request::RefreshFigures), "{:?}", asked());
}

#[test]
fn sd_9_a_stopping_node_still_tells_its_metrics() {
    let node = start_replica();
    let mut stopping = replica(now());
    stopping.state = MemberState::Stopping;
    stopping.role = Role::Replica;
    node.snapshot.store(Arc::new(stopping));
    node.handle.begin_shutdown();
    let answer = node.get("/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("patroni_postgres_state{scope=\"demo\",name=\"pg-1\"} 11\n"));
    assert!(answer.body.contains("patroni_postgres_running{scope=\"demo\",name=\"pg-1\"} 0\n"));
}

#[test]
fn the_reader_of_this_test_is_strict() {
    let good = "# HELP a A.\n# TYPE a gauge\na{b=\"c\"} 1\n";
    assert_eq!(parse(good).unwrap().len(), 1);
    for bad in [
        "",
        "\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\"} 1",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\"} 1\n\n",
        "# HELP a A.\n# TYPE a gauge\n",
        "# HELP a\n# TYPE a gauge\na{b=\"c\"} 1\n",
        "# HELP a A.\n# TYPE a speed\na{b=\"c\"} 1\n",
        "# HELP a A.\n# TYPE b gauge\nb{b=\"c\"} 1\n",
        "# TYPE a gauge\n# HELP a A.\na{b=\"c\"} 1\n",
        "# HELP a A.\na{b=\"c\"} 1\n",
        "# HELP 1a A.\n# TYPE 1a gauge\n1a{b=\"c\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\"} 1\na{b=\"c\"} 2\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\",b=\"d\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\",} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"\\t\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\"d\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{b:=\"c\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\"} None\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\"} 1 \n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\"}  1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\"} 1.\n",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
    let another = "# HELP z Z.\n# TYPE z gauge\nz{b=\"c\"} 1\n";
    assert_eq!(parse(&format!("{good}{another}")).unwrap().len(), 2);
    for pieces in [format!("{good}{another}{good}"), format!("{good}{another}a{{b=\"d\"}} 1\n")] {
        assert!(parse(&pieces).is_err(), "a family in two pieces: {pieces:?}");
    }
}
