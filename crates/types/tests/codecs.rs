//! Every value of contract A: what is written reads back equal, and garbage falls back as documented, without a panic.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ptarmigan_types::{
    Cluster, ClusterPath, Failover, History, HistoryEntry, Key, LeaseId, Lsn, MemberData, MemberName,
    RawValue, Role, ScheduledAt, Status, SyncState, member::MemberState,
};
use serde_json::{Value, json};

fn raw(value: &str, revision: u64) -> RawValue {
    RawValue { value: value.into(), revision, create_revision: 1, lease: Some(LeaseId("7".into())) }
}

fn cluster(keys: &[(&str, &str)]) -> Cluster {
    let raws: Vec<_> = keys.iter().map(|(path, value)| (*path, raw(value, 5))).collect();
    Cluster::read(raws.iter().map(|(path, raw)| (*path, raw)))
}

fn slots(pairs: &[(&str, u64)]) -> BTreeMap<String, Lsn> {
    pairs.iter().map(|(name, lsn)| ((*name).to_owned(), Lsn(*lsn))).collect()
}

fn member(value: Value) -> MemberData {
    let Value::Object(map) = value else { panic!("not an object") };
    MemberData(map)
}

#[test]
fn a_1_paths_collapse_slashes_and_parse_back() {
    for namespace in ["service", "/service/", "//service", "service//"] {
        let path = ClusterPath::new(namespace, "batman");
        assert_eq!(path.base(), "/service/batman");
        assert_eq!(path.prefix(), "/service/batman/");
        assert_eq!(path.key(&Key::Member("n1".into())), "/service/batman/members/n1");
        assert_eq!(path.key(&Key::Optime), "/service/batman/optime/leader");
    }
    let member = Key::Member("n1".into());
    for key in [
        Key::Initialize,
        Key::Leader,
        member,
        Key::Status,
        Key::Optime,
        Key::Sync,
        Key::Config,
        Key::Failover,
        Key::History,
        Key::Failsafe,
    ] {
        assert_eq!(Key::parse(&key.relative()), Some(key));
    }
    for path in ["", "members/", "members/a/b", "0/leader", "leader/", "other"] {
        assert_eq!(Key::parse(path), None, "{path}");
    }
}

#[test]
fn a_3_1_initialize_knows_a_system_identifier() {
    let of = |value: &str| cluster(&[("initialize", value)]).system_identifier().map(str::to_owned);
    assert_eq!(of("7012345678901234567").as_deref(), Some("7012345678901234567"));
    for garbage in ["", "123456789", "70123456789x", "-7012345678901", "7012345678 "] {
        assert_eq!(of(garbage), None, "{garbage:?}");
    }
    assert_eq!(cluster(&[("initialize", "")]).initialize.map(|key| key.value).as_deref(), Some(""));
}

#[test]
fn a_3_2_an_empty_leader_is_no_leader() {
    assert!(cluster(&[("leader", "")]).is_unlocked());
    let locked = cluster(&[("leader", "n1")]);
    assert!(locked.is_leader(&"n1".into()) && !locked.is_leader(&"N1".into()));
    assert_eq!(locked.leader_member(), None, "no member key: a leader that published nothing");
}

#[test]
fn a_3_3_member_round_trip_keeps_fields_and_order() {
    let text = concat!(
        r#"{"conn_url":"postgres://[::1]:5432/postgres","api_url":"http://[::1]:8008/patroni","#,
        r#""state":"running","role":"standby_leader","version":"4.1.4","checkpoint_after_promote":false,"#,
        r#""tags":{"zone":"\u00fc","clonefrom":true},"pending_restart":true,"xlog_location":9223372036854775807,"#,
        r#""replay_lsn":5,"receive_lsn":6,"replication_state":"streaming","timeline":4,"#,
        r#""scheduled_restart":{"schedule":"2030-01-01T00:00:00+00:00"},"pause":true,"custom":[1.0,null]}"#
    );
    let data = MemberData::read(text);
    assert_eq!(data.to_json(), text);
    assert_eq!(MemberData::read(&data.to_json()), data);
    assert_eq!(data.state(), Some(MemberState::Running));
    assert_eq!(data.role(), Some(Role::StandbyLeader));
    assert_eq!(data.xlog_location(), Some(Lsn(9_223_372_036_854_775_807)));
    assert_eq!((data.timeline(), data.pause(), data.pending_restart()), (Some(4), true, true));
    assert_eq!(data.checkpoint_after_promote(), Some(false));
    assert!(data.tags().clonefrom() && data.scheduled_restart().is_some());
    assert_eq!(MemberData::read(r#"{"role":"master"}"#).role(), Some(Role::Primary));
}

#[test]
fn a_3_3_member_garbage_is_empty_and_wrong_types_are_absent() {
    for garbage in ["", "5", "[1]", "null", "\"x\"", "{\"conn_url\":1", "\u{fffd}\u{0}"] {
        assert_eq!(MemberData::read(garbage), MemberData::default(), "{garbage:?}");
    }
    let wrong = MemberData::read(
        r#"{"conn_url":5,"state":[],"role":{},"timeline":-1,"xlog_location":"x","tags":"t"}"#,
    );
    assert_eq!((wrong.conn_url(), wrong.state(), wrong.role()), (None, None, None));
    assert_eq!((wrong.timeline(), wrong.xlog_location()), (None, None));
    assert!(wrong.tags().0.is_empty());
}

#[test]
fn a_3_3_ancient_member_is_an_address() {
    let data = MemberData::read("postgres://h:5433/db?a=b&application_name=http%3A//h:8008/patroni");
    assert_eq!(data.conn_url(), Some("postgres://h:5433/db"));
    assert_eq!(data.api_url(), Some("http://h:8008/patroni"));
    assert_eq!(MemberData::read("postgres").api_url(), None);
}

#[test]
fn a_3_3_write_suppression_compares_text_deeply() {
    let one = member(json!({"timeline": 1, "tags": {"a": true, "b": [1, 2]}, "pause": null}));
    let same = member(json!({"pause": "None", "timeline": "1", "tags": {"b": "[1, 2]", "a": "True"}}));
    assert!(one.equal_by_text(&same) && same.equal_by_text(&one));
    for other in [
        json!({"timeline": 1, "tags": {"a": true, "b": [1, 2]}}),
        json!({"timeline": 1, "tags": {"a": "true", "b": [1, 2]}, "pause": null}),
        json!({"timeline": 1, "tags": {"a": true, "b": [2, 1]}, "pause": null}),
        json!({"timeline": 1.0, "tags": {"a": true, "b": [1, 2]}, "pause": null}),
    ] {
        let other = member(other);
        assert!(!one.equal_by_text(&other) && !other.equal_by_text(&one), "{other:?}");
    }
}

#[test]
fn a_3_4_status_text() {
    let status = Status {
        last_lsn: Lsn(67_109_376),
        slots: Some(slots(&[("b", 2), ("a", 1)])),
        retain_slots: Some(vec!["x".into()]),
    };
    assert_eq!(status.to_json(), r#"{"optime":67109376,"slots":{"a":1,"b":2},"retain_slots":["x"]}"#);
    let nothing =
        Status { slots: Some(BTreeMap::new()), retain_slots: Some(Vec::new()), ..Status::default() };
    assert_eq!(nothing.to_json(), r#"{"optime":0}"#);
}

#[test]
fn a_3_4_status_garbage_falls_back_part_by_part() {
    for garbage in
        ["", "[]", "null", "abc", "-5", "5.7", "true", "{", "{\"optime\":[]}", "{\"optime\":-1}", "\u{fffd}"]
    {
        assert_eq!(Status::read(garbage), Status::default(), "{garbage:?}");
    }
    let part =
        Status::read(r#"{"optime":7,"slots":{"a":"5","b":"x","c":null,"d":-1},"retain_slots":["x",5]}"#);
    assert_eq!(part.last_lsn, Lsn(7));
    assert_eq!(part.slots, Some(slots(&[("a", 5)])));
    assert_eq!(part.retain_slots, Some(vec!["x".to_owned()]));
}

#[test]
fn a_3_5_optime_is_read_where_status_is_missing() {
    assert_eq!(cluster(&[("optime/leader", "77")]).status.last_lsn, Lsn(77));
    assert_eq!(cluster(&[("optime/leader", "77"), ("status", "{\"optime\":5}")]).status.last_lsn, Lsn(5));
    assert_eq!(cluster(&[("optime/leader", "77"), ("status", "junk")]).status.last_lsn, Lsn::ZERO);
    for garbage in ["", "x", "{}", "0x5"] {
        assert_eq!(Status::read_optime(garbage), Status::default(), "{garbage:?}");
    }
}

#[test]
fn a_3_6_sync_text_is_sorted_and_null_when_empty() {
    let mut sync = SyncState {
        leader: Some("n1".into()),
        standbys: vec!["n3".into(), "N2".into()],
        quorum: 1,
        revision: 9,
    };
    assert_eq!(sync.to_json(), r#"{"leader":"n1","quorum":1,"sync_standby":"N2,n3"}"#);
    sync.standbys.clear();
    sync.quorum = 0;
    assert_eq!(sync.to_json(), r#"{"leader":"n1","quorum":0,"sync_standby":null}"#);
}

#[test]
fn a_3_6_names_match_in_any_case() {
    let sync = SyncState::read(r#"{"leader":"N1","sync_standby":"Ñ2, b"}"#, 3);
    assert!(sync.matches("ñ2") && sync.matches("B"));
    assert!(!sync.matches("n1") && !sync.matches(""));
    assert!(sync.matches_or_leads("n1") && sync.leader_matches("n1"));
    let empty = SyncState::read(r#"{"sync_standby":"b"}"#, 3);
    assert!(!empty.matches("b") && empty.members().is_empty());
}

#[test]
fn a_3_6_sync_garbage_is_empty_and_keeps_the_revision() {
    for garbage in [
        "",
        "{",
        "[]",
        "null",
        "{\"leader\":\"\"}",
        "{\"leader\":5}",
        "{\"leader\":\"a\",\"quorum\":\"x\"}",
        "{\"leader\":\"a\",\"quorum\":-1}",
        "{\"leader\":\"a\",\"quorum\":[1]}",
        "{\"leader\":\"a\",\"sync_standby\":[\"b\"]}",
    ] {
        let sync = SyncState::read(garbage, 42);
        assert_eq!(sync, SyncState { revision: 42, ..SyncState::default() }, "{garbage:?}");
        assert!(sync.is_empty());
    }
}

#[test]
fn a_3_7_config_garbage_is_no_valid_configuration() {
    for garbage in ["", "{", "[]", "5", "null"] {
        let config = cluster(&[("config", garbage)]).config.unwrap();
        assert!(!config.is_valid() && config.value.is_empty(), "{garbage:?}");
    }
    let config = cluster(&[("config", r#"{"ttl":30}"#)]).config.unwrap();
    assert!(config.is_valid() && config.value["ttl"] == 30);
}

#[test]
fn a_3_8_failover_round_trip() {
    let text = Failover::to_json(Some("a"), Some("b"), Some("2030-01-01T00:00:00+00:00"));
    assert_eq!(text, r#"{"leader":"a","member":"b","scheduled_at":"2030-01-01T00:00:00+00:00"}"#);
    let failover = Failover::read(&text, 8).unwrap();
    assert!(failover.is_switchover());
    assert_eq!(failover.candidate, Some("b".into()));
    assert_eq!(failover.scheduled_at, Some(ScheduledAt::At("2030-01-01T00:00:00Z".parse().unwrap())));
    let abroad = Failover::read(r#"{"leader":"a","scheduled_at":"2030-01-01 10:00+0100"}"#, 1).unwrap();
    assert_eq!(abroad.scheduled_at_text.as_deref(), Some("2030-01-01T10:00:00+01:00"));
    assert_eq!(failover.revision, 8);
    assert_eq!(Failover::to_json(None, None, None), "{}");
    assert_eq!(Failover::to_json(Some(""), Some("b"), None), r#"{"member":"b"}"#);
    assert!(!Failover::read(r#"{"member":"b"}"#, 1).unwrap().is_switchover());
}

#[test]
fn a_3_8_failover_plain_text_and_garbage() {
    let names = |text: &str| {
        Failover::read(text, 1).map(|it| (it.leader.map(|name| name.0), it.candidate.map(|name| name.0)))
    };
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(names("a:b"), Some((some("a"), some("b"))));
    assert_eq!(names(" a : b :c"), Some((some("a"), some("b"))));
    assert_eq!(names(":b"), Some((None, some("b"))));
    assert_eq!(names("a:"), Some((some("a"), None)));
    for nothing in ["", "{}", "null", "[]", "5", " : ", r#"{"leader":"","member":null}"#, r#"{"leader":5}"#] {
        assert_eq!(Failover::read(nothing, 1), None, "{nothing:?}");
        assert_eq!(cluster(&[("failover", nothing)]).failover_revision, Some(5));
    }
    for (text, schedule) in [
        (r#"{"leader":"a","scheduled_at":"junk"}"#, Some("junk")),
        (r#"{"leader":"a","scheduled_at":"2030-01-01T00:00"}"#, Some("2030-01-01T00:00")),
        (r#"{"leader":"a","scheduled_at":5}"#, Some("5")),
        (r#"{"leader":"a","scheduled_at":""}"#, None),
    ] {
        let expected = schedule.map(|text| ScheduledAt::Unusable(text.into()));
        assert_eq!(Failover::read(text, 1).unwrap().scheduled_at, expected, "{text}");
    }
}

#[test]
fn a_3_9_history_text() {
    let text =
        r#"[[1,83886080,"no recovery target specified"],[2,100,"r","2026-01-01T00:00:00+00:00","n1"]]"#;
    let history = History::read(text, 4);
    assert_eq!(history.to_json(), text);
    assert_eq!(history.timeline(), 3);
    assert_eq!(History { entries: None, revision: 1 }.to_json(), "[]");
}

#[test]
fn a_3_9_history_garbage_has_timeline_zero() {
    for garbage in ["", "{", "{}", "null", "[ ]", "[null]", "[[]]", "[[\"a\"]]", "[[1,5,\"x\"],5]", "[[-1]]"]
    {
        let history = History::read(garbage, 4);
        assert_eq!((history.timeline(), history.revision), (0, 4), "{garbage:?}");
    }
    let holes = History::read(r#"[[1,5,"x"],["q"],[3,6,"z"]]"#, 1);
    assert_eq!(holes.timeline(), 4);
    assert_eq!(holes.entries.map(|entries| entries.len()), Some(2));
    assert_eq!(History::read("[[4294967295]]", 1).timeline(), u32::MAX);
}

#[test]
fn a_3_10_failsafe() {
    let failsafe = cluster(&[("failsafe", r#"{"a":"http://a/patroni","b":5}"#)]).failsafe.unwrap();
    assert_eq!(failsafe, BTreeMap::from([("a".to_owned(), "http://a/patroni".to_owned())]));
    for garbage in ["", "[]", "null", "x"] {
        assert_eq!(cluster(&[("failsafe", garbage)]).failsafe, None, "{garbage:?}");
    }
}

#[test]
fn snapshot_is_ordered_and_ignores_other_keys() {
    let cluster = cluster(&[
        ("members/b", "{}"),
        ("members/a", r#"{"state":"running"}"#),
        ("members/a/x", "{}"),
        ("leader", "a"),
        ("unknown", "x"),
    ]);
    let names: Vec<_> = cluster.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(cluster.leader_member().is_some_and(|member| member.data.is_running()));
    assert_eq!((cluster.timeline(), cluster.sync.revision), (0, 0));
}

fn name() -> impl Strategy<Value = MemberName> {
    "[a-zA-Z0-9_.é-]{1,12}".prop_map(MemberName)
}

fn history_entry() -> impl Strategy<Value = HistoryEntry> {
    (1..1000_u32, 0..=i64::MAX as u64, ".*", proptest::option::of((".*", proptest::option::of(".*"))))
        .prop_map(|(timeline, lsn, reason, promotion)| {
            let (timestamp, new_leader) = promotion.unzip();
            HistoryEntry { timeline, lsn: Lsn(lsn), reason, timestamp, new_leader: new_leader.flatten() }
        })
}

/// Text that looks like the keys' values more often than random text does.
fn nearly_json() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just(",".to_owned()),
        Just(":".to_owned()),
        "\"(leader|member|optime|slots|retain_slots|quorum|sync_standby|scheduled_at|tags|timeline)\"",
        "-?[0-9]{1,25}(\\.[0-9]+)?",
        "\"[0-9T:+Z -]{0,30}\"",
        "\\PC{0,6}",
    ];
    proptest::collection::vec(word, 0..12).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn status_round_trip(
        lsn in 0..=i64::MAX as u64,
        slots in proptest::option::of(proptest::collection::btree_map("[a-z0-9_]{1,9}", (0..=u64::MAX).prop_map(Lsn), 1..5)),
        retain_slots in proptest::option::of(proptest::collection::vec("[a-z0-9_]{1,9}", 1..5)),
    ) {
        let status = Status { last_lsn: Lsn(lsn), slots, retain_slots };
        prop_assert_eq!(Status::read(&status.to_json()), status);
        prop_assert_eq!(Status::read_optime(&lsn.to_string()).last_lsn, Lsn(lsn));
    }

    #[test]
    fn sync_round_trip(leader in name(), mut standbys in proptest::collection::vec(name(), 0..4), quorum in 0..9_u32) {
        standbys.sort();
        let sync = SyncState { leader: Some(leader), standbys, quorum, revision: 3 };
        prop_assert_eq!(SyncState::read(&sync.to_json(), 3), sync);
    }

    #[test]
    fn history_round_trip(entries in proptest::collection::vec(history_entry(), 0..5)) {
        let history = History { entries: Some(entries), revision: 3 };
        prop_assert_eq!(History::read(&history.to_json(), 3), history);
    }

    #[test]
    fn failover_round_trip(leader in proptest::option::of(name()), candidate in proptest::option::of(name())) {
        let text = Failover::to_json(
            leader.as_ref().map(MemberName::as_str),
            candidate.as_ref().map(MemberName::as_str),
            None,
        );
        let read = Failover::read(&text, 1);
        prop_assert_eq!(read.is_some(), leader.is_some() || candidate.is_some());
        if let Some(read) = read {
            prop_assert_eq!((read.leader, read.candidate), (leader, candidate));
        }
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in nearly_json()) {
        let paths = ["initialize", "leader", "members/a", "status", "optime/leader", "sync", "config", "failover",
            "history", "failsafe"];
        let keys: Vec<_> = paths.iter().map(|path| (*path, text.as_str())).collect();
        let cluster = cluster(&keys);
        let Some(member) = cluster.member(&"a".into()) else { panic!("the member key is gone") };
        let read_back = MemberData::read(&member.data.to_json());
        // Floats that do not survive would make every cycle write the key again.
        prop_assert!(read_back.equal_by_text(&member.data));
        let _ = (cluster.timeline(), member.data.tags().published(), member.data.tags().conflicts());
    }
}
