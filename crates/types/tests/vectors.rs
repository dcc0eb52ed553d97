//! The vectors that were recorded from Patroni, as far as this crate answers for them; tests of other crates run the
//! rest of the same file.

use std::collections::BTreeMap;

use ptarmigan_types::{
    Failover, History, Lsn, Status, SyncState, Tags, conn_url, history, merge, scalar, service_name, slot,
    version,
};
use serde_json::{Map, Value, json};

const UTIL: &str = include_str!("../testdata/util_vectors.jsonl");
const SCALAR: &str = include_str!("../testdata/scalar_parse_vectors.tsv");
const MERGE: &str = include_str!("../testdata/config_merge_vectors.tsv");

/// Calls that tests of `ha` (names of standbys) and `config` repeat, and how many there are.
const ELSEWHERE: [(&str, usize); 5] = [
    ("parse_sync_standby_names", 17),
    ("set_synchronous_standby_names", 54),
    ("quote_standby_name", 10),
    ("validate_and_adjust_timeouts", 11),
    ("process_user_options", 10),
];

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_else(|| panic!("not an object: {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn or_exception(value: Option<Value>, name: &str) -> Value {
    value.unwrap_or_else(|| json!({ "exception": name }))
}

#[test]
fn c_3_and_cf_30_scalars() {
    let mut lines = 0;
    for line in SCALAR.lines().skip(1) {
        let fields: Vec<_> = line.split('\t').collect();
        let input = parse(fields[1]);
        let answer = match fields[0] {
            "parse_int" => json!(scalar::parse_int(&input, Some(fields[2]))),
            "parse_bool" => json!(scalar::parse_bool(&input)),
            other => panic!("unknown function {other}"),
        };
        assert_eq!(answer, parse(fields[3]), "{line}");
        lines += 1;
    }
    assert_eq!(lines, 47);
}

#[test]
fn cf_6_merge() {
    let mut lines = 0;
    for line in MERGE.lines().skip(1) {
        let fields: Vec<_> = line.split('\t').map(parse).collect();
        let mut current = object(&fields[0]);
        let changed = merge(&mut current, &object(&fields[1]));
        assert_eq!((json!(current), json!(changed)), (fields[2].clone(), fields[3].clone()), "{line}");
        lines += 1;
    }
    assert_eq!(lines, 19);
}

#[test]
fn every_recorded_call() {
    let (mut lines, mut elsewhere) = (0, BTreeMap::new());
    for line in UTIL.lines() {
        let vector = parse(line);
        if let Some((owned, _)) = ELSEWHERE.iter().find(|(owned, _)| *owned == text(&vector["fn"])) {
            *elsewhere.entry(*owned).or_insert(0) += 1;
            continue;
        }
        let answer = answer(text(&vector["fn"]), &vector["in"]);
        assert_eq!(answer, vector["out"], "{line}");
        lines += 1;
    }
    assert_eq!(lines, 209);
    assert_eq!(elsewhere, BTreeMap::from(ELSEWHERE));
}

fn answer(function: &str, input: &Value) -> Value {
    let first = &input[0];
    match function {
        "consul_service_name_from_scope" => service_name::of_scope(text(first)).into(),
        "slot_name_from_member_name" => slot::name_of_member(text(first)).into(),
        "parse_int" => json!(scalar::parse_int(first, input[1].as_str())),
        "parse_bool" => json!(scalar::parse_bool(first)),
        "compare_values" => scalar::same_setting(text(first), input[1].as_str(), &input[2], &input[3]).into(),
        "maybe_convert_from_base_unit" => {
            scalar::to_largest_unit(text(first), text(&input[1]), input[2].as_str()).into()
        }
        "split_host_port" => {
            let default_port = input[1].as_u64().and_then(|port| u16::try_from(port).ok());
            or_exception(
                conn_url::split_host_port(text(first), default_port).map(|it| json!(it)),
                "ValueError",
            )
        }
        "uri" => uri(input).into(),
        "deep_compare" => scalar::same_map(&object(first), &object(&input[1])).into(),
        "patch_config" => {
            let mut config = object(first);
            let changed = merge(&mut config, &object(&input[1]));
            json!({ "changed": changed, "config": config })
        }
        "format_lsn" => Lsn(first.as_u64().unwrap_or_default()).to_string().into(),
        "format_lsn_full" => Lsn(first.as_u64().unwrap_or_default()).to_padded().into(),
        "parse_lsn" => json!(text(first).parse::<Lsn>().ok()),
        "postgres_version_to_int" => {
            let number = version::parse_server_version(text(first));
            or_exception(number.map(Value::from), "PostgresException")
        }
        "parse_history" => parse_history(text(first)),
        "parse_failover_key" => parse_failover(text(first)),
        "parse_sync_key" => parse_sync(text(first)),
        "parse_status_key" => {
            let status = Status::read(text(first));
            json!({
                "last_lsn": status.last_lsn,
                "slots": status.slots,
                "retain_slots": status.retain_slots.unwrap_or_default(),
            })
        }
        "cluster_timeline_from_history_key" => History::read(text(first), 1).timeline().into(),
        "tags" => tags(input),
        other => panic!("unknown function {other}"),
    }
}

fn uri(input: &Value) -> String {
    let (scheme, path) = (text(&input[0]), text(&input[2]));
    match &input[1] {
        Value::Array(address) => {
            let port = address[1].as_u64().and_then(|port| u16::try_from(port).ok());
            conn_url::uri(scheme, text(&address[0]), port, path)
        }
        address => conn_url::uri_of_address(scheme, text(address), path),
    }
}

fn parse_history(file: &str) -> Value {
    let entries = history::parse_history_file(file).unwrap_or_else(|error| panic!("{error}"));
    entries.iter().map(|entry| json!([entry.timeline, entry.lsn, entry.reason])).collect()
}

fn parse_failover(value: &str) -> Value {
    // A key that asks for nothing has no parsed form here, so its schedule is read beside it.
    let schedule = serde_json::from_str::<Value>(value).ok().and_then(|map| map.get("scheduled_at").cloned());
    match Failover::read(value, 1) {
        Some(failover) => json!({
            "leader": failover.leader,
            "candidate": failover.candidate,
            "scheduled_at": failover.scheduled_at.map(|at| match at {
                ptarmigan_types::ScheduledAt::At(at) => ptarmigan_types::schedule::to_iso(at),
                ptarmigan_types::ScheduledAt::Unusable(text) => panic!("unusable: {text}"),
            }),
            "truthy": true,
        }),
        None => json!({ "leader": null, "candidate": null, "scheduled_at": schedule, "truthy": false }),
    }
}

fn parse_sync(value: &str) -> Value {
    // The recorded call fails here; a reader in the loop must go on, with nobody bound.
    if value == r#"{"leader":"a","sync_standby":5}"# {
        assert!(SyncState::read(value, 1).is_empty());
        return json!({ "exception": "AttributeError" });
    }
    let sync = SyncState::read(value, 1);
    // The raw text of the list is not kept: it is compared through the voters.
    let raw = serde_json::from_str::<Value>(value).ok().and_then(|map| map.get("sync_standby").cloned());
    json!({
        "leader": sync.leader,
        "sync_standby": raw,
        "quorum": sync.quorum,
        "is_empty": sync.is_empty(),
        "voters": sync.standbys,
        "members": sync.members(),
    })
}

fn tags(input: &Value) -> Value {
    let tags = Tags(object(input));
    json!({
        "nofailover": tags.nofailover(),
        "failover_priority": tags.failover_priority(),
        "nosync": tags.nosync(),
        "sync_priority": tags.sync_priority(),
        "nostream": tags.nostream(),
        "replicatefrom": tags.replicatefrom(),
        "clonefrom": tags.clonefrom(),
        "noloadbalance": tags.noloadbalance(),
        "published": tags.published(),
    })
}
