//! The recorded layouts, drawn from the clusters that they were recorded from.

use ptarmigan_types::{ClusterPath, Key, RawValue};

use super::*;
use crate::commands::layouts::{self, Recorded};

const PG_1: (&str, &str) = (
    "members/pg-1",
    r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running",
        "role":"primary","version":"4.1.4","xlog_location":67393608,"timeline":3}"#,
);
const PG_2: (&str, &str) = (
    "members/pg-2",
    r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","state":"running","role":"replica","version":"4.1.4",
        "xlog_location":67393608,"receive_lsn":67393608,"replay_lsn":67393608,"replication_state":"streaming",
        "timeline":3}"#,
);
const PG_3: (&str, &str) = (
    "members/pg-3",
    r#"{"conn_url":"postgres://10.0.0.3:5432/postgres","state":"running","role":"replica","version":"4.1.4",
        "receive_lsn":62393608,"replay_lsn":50331648,"replication_state":"in archive recovery","timeline":3,
        "tags":{"replicatefrom":"pg-2","clonefrom":true,"nofailover":true},"pending_restart":true,
        "pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"101"},
          "shared_preload_libraries":{"old_value":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "new_value":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}},
        "scheduled_restart":{"schedule":"2030-01-01T10:00:00+00:00","postgres_version":"17.4"}}"#,
);
const PG_4: (&str, &str) = (
    "members/pg-4",
    r#"{"conn_url":"postgres://10.0.0.4:5432/postgres","state":"stopped","role":"replica","version":"4.1.4"}"#,
);
const LEADER: (&str, &str) = ("leader", "pg-1");
const STATUS: (&str, &str) = ("status", r#"{"optime":67393608}"#);
const INITIALIZE: (&str, &str) = ("initialize", "7500000000000000001");

fn cluster(keys: &[(&str, &str)]) -> Cluster {
    let keys: Vec<(String, RawValue)> = keys
        .iter()
        .map(|(key, value)| {
            let raw = RawValue { value: (*value).to_owned(), revision: 1, create_revision: 1, lease: None };
            ((*key).to_owned(), raw)
        })
        .collect();
    Cluster::read(keys.iter().map(|(key, raw)| (key.as_str(), raw)))
}

fn two(more: &[(&str, &str)]) -> Cluster {
    cluster(&[&[INITIALIZE, LEADER, STATUS, PG_1, PG_2], more].concat())
}

fn rows<'a>(cluster: &'a Cluster, extended: bool) -> ClusterRows<'a> {
    ClusterRows { name: "demo", groups: vec![(None, cluster)], only_group: false, extended }
}

fn check(recorded: &Recorded, shown: &str) {
    assert_eq!(shown, recorded.output, "{}", recorded.command);
}

const FORMATS: [(&str, Format); 5] = [
    ("pretty", Format::Pretty),
    ("tsv", Format::Tsv),
    ("json", Format::Json),
    ("yaml", Format::Yaml),
    ("yml", Format::Yml),
];

#[test]
fn c_4_every_format_of_two_members_and_of_four() {
    let recorded = layouts::recorded();
    let small = two(&[]);
    let large = two(&[PG_3, PG_4]);
    for (word, format) in FORMATS {
        for (command, cluster) in [("list", &small), ("list demo", &large)] {
            let command = format!("{command} -f {word}");
            check(layouts::first(&recorded, &command), &rows(cluster, false).render(Style::List(format)));
        }
    }
}

#[test]
fn c_4_extended_columns_stay_out_of_json_and_yaml() {
    let recorded = layouts::recorded();
    let cluster = two(&[]);
    for (command, format) in [
        ("list -e", Format::Pretty),
        ("list -e -f json", Format::Json),
        ("list -e -f yaml", Format::Yaml),
        ("list -e -f tsv", Format::Tsv),
    ] {
        check(layouts::first(&recorded, command), &rows(&cluster, true).render(Style::List(format)));
    }
}

#[test]
fn the_guardian_is_shown_to_whoever_wants_to_know_more() {
    let cluster = two(&[]);
    let armed = {
        let mut cluster = cluster.clone();
        std::sync::Arc::make_mut(&mut cluster.members)[0].data.0.insert("guardian".into(), "armed".into());
        cluster
    };
    let shown = |cluster: &Cluster, extended| rows(cluster, extended).render(Style::List(Format::Tsv));
    assert!(shown(&armed, true).lines().next().unwrap().ends_with("\tGuardian"));
    assert!(shown(&armed, true).contains("\tarmed\n"));
    for text in [shown(&armed, false), shown(&cluster, true)] {
        assert!(!text.contains("Guardian"), "{text}");
    }
}

#[test]
fn c_4_topology() {
    let recorded = layouts::all(&layouts::recorded(), "topology");
    assert_eq!(recorded.len(), 2);
    let with_leader = two(&[PG_3, PG_4]);
    check(&recorded[0], &rows(&with_leader, false).render(Style::Topology));
    let without_leader = cluster(&[INITIALIZE, STATUS, PG_2, PG_3]);
    check(&recorded[1], &rows(&without_leader, false).render(Style::Topology));
}

#[test]
fn c_4_members_that_replicate_in_a_circle_are_left_out_of_the_topology() {
    let circle = |name: &str, from: &str| {
        format!(r#"{{"state":"running","role":"replica","tags":{{"replicatefrom":"{from}"}}}}"#)
            .replace("NAME", name)
    };
    let (a, b, own) = (circle("a", "b"), circle("b", "a"), circle("c", "c"));
    let keys = [("members/a", a.as_str()), ("members/b", &b), ("members/c", &own), LEADER, PG_1];
    let text = rows(&cluster(&keys), false).render(Style::Topology);
    assert!(text.contains("| pg-1 ") && text.contains("| + c "), "{text}");
    assert!(!text.contains("+ a ") && !text.contains("+ b "), "{text}");
}

#[test]
fn c_4_every_plain_list() {
    let recorded = layouts::all(&layouts::recorded(), "list");
    let scheduled = r#"{"leader":"pg-1","member":"pg-2","scheduled_at":"2030-01-01T10:00:00+00:00"}"#;
    let sync = ("sync", r#"{"leader":"pg-1","sync_standby":"pg-2","quorum":0}"#);
    let shared_host = |url: &str| PG_1.1.replace("10.0.0.1:5432", url);
    let standby_leader = shared_host("10.0.0.2:5432")
        .replace("\"primary\"", "\"standby_leader\",\"replication_state\":\"streaming\"");
    let other_port = shared_host("10.0.0.1:5433");
    let old = |state: &str| {
        format!(
            r#"{{"conn_url":"postgres://10.0.0.2:5432/postgres","state":"running","role":"replica",
                 "xlog_location":67393608,"replication_state":"{state}","timeline":3}}"#
        )
    };
    let (streaming, archive) = (old("streaming"), old("in archive recovery"));
    let ahead = ("status", r#"{"optime":77879368}"#);
    let quorum = ("config", r#"{"synchronous_mode":"quorum"}"#);
    let clusters = [
        cluster(&[("initialize", "")]),
        two(&[("config", r#"{"pause":true}"#), ("failover", scheduled)]),
        two(&[("config", r#"{"synchronous_mode":true}"#), sync, PG_3]),
        two(&[quorum, sync]),
        cluster(&[
            INITIALIZE,
            LEADER,
            STATUS,
            ("members/pg-1", &standby_leader),
            PG_2,
            ("config", r#"{"standby_cluster":{"host":"10.9.9.9"}}"#),
        ]),
        cluster(&[INITIALIZE, LEADER, STATUS, ("members/pg-1", &other_port), PG_2]),
        cluster(&[INITIALIZE, LEADER, ahead, PG_1, ("members/pg-2", &streaming)]),
        cluster(&[INITIALIZE, LEADER, ahead, PG_1, ("members/pg-2", &archive)]),
    ];
    let single: Vec<&Recorded> =
        recorded.iter().filter(|recorded| recorded.output.starts_with("+ Cluster")).collect();
    assert_eq!(single.len(), clusters.len());
    for (recorded, cluster) in single.into_iter().zip(&clusters) {
        check(recorded, &rows(cluster, false).render(Style::List(Format::Pretty)));
    }
    let json = layouts::all(&layouts::recorded(), "list -f json");
    let shown = |cluster| rows(cluster, false).render(Style::List(Format::Json));
    check(&json[1], &shown(&clusters[0]));
    check(&json[2], &shown(&clusters[1]));
    check(&json[3], &shown(&clusters[7]));
}

#[test]
fn c_4_nothing_was_initialized() {
    let recorded = layouts::recorded();
    let text = rows(&cluster(&[]), false).render(Style::List(Format::Pretty));
    let recorded = &layouts::first(&recorded, "list -t").output;
    assert_eq!(recorded.split_once('\n').unwrap().1, text);
}

#[test]
fn c_4_citus_groups() {
    let recorded = layouts::recorded();
    let worker = PG_1.1.replace("10.0.0.1", "10.0.1.1");
    let group_1 = cluster(&[INITIALIZE, ("leader", "w-1"), STATUS, ("members/w-1", &worker)]);
    let group_0 = two(&[]);
    let paused = two(&[("config", r#"{"pause":true}"#)]);
    let both = |first| ClusterRows {
        name: "demo",
        groups: vec![(Some(0), first), (Some(1), &group_1)],
        only_group: false,
        extended: false,
    };
    let pretty = Style::List(Format::Pretty);
    let plain: Vec<Recorded> = layouts::all(&recorded, "list")
        .into_iter()
        .filter(|recorded| recorded.output.starts_with("+ Citus"))
        .collect();
    check(&plain[0], &both(&group_0).render(pretty));
    check(&plain[1], &both(&paused).render(pretty));
    let json = layouts::all(&recorded, "list -f json");
    check(&json[4], &both(&group_0).render(Style::List(Format::Json)));
    let only =
        ClusterRows { name: "demo", groups: vec![(Some(0), &group_0)], only_group: true, extended: false };
    check(layouts::first(&recorded, "list --group 0"), &only.render(pretty));
}

#[test]
fn c_4_lags_are_rounded_half_to_even() {
    for (bytes, expected) in
        [(0, 0), (524_288, 0), (524_289, 1), (1_572_864, 2), (2_621_440, 2), (5_000_000, 5)]
    {
        assert_eq!(megabytes(&Value::from(bytes)), Value::from(expected), "{bytes}");
    }
    assert_eq!(megabytes(&Value::from("unknown")), Value::Null);
}

#[test]
fn keys_of_the_test_are_keys_of_the_contract() {
    let path = ClusterPath::new("service", "demo");
    assert_eq!(path.key(&Key::Member("pg-1".into())), "/service/demo/members/pg-1");
}
