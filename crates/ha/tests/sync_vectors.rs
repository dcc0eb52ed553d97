//! What was recorded from Patroni: the quorum resolver, and the notation of `synchronous_standby_names`.

#![expect(clippy::unwrap_used, reason = "a vector that cannot be read fails the test")]

use ptarmigan_ha::sync::{
    Mode, NameSet,
    quorum::{Situation, Transition, resolve},
    standby_names::{Abilities, Kind, parse, print},
};
use ptarmigan_types::MemberName;
use serde_json::{Value, json};

const QUORUM: &str = include_str!("../testdata/quorum_vectors.jsonl");
const UTIL: &str = include_str!("../../types/testdata/util_vectors.jsonl");

fn names(value: &Value) -> NameSet {
    value.as_array().unwrap().iter().map(|name| MemberName::from(name.as_str().unwrap())).collect()
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn text(step: &Transition, leader: &str) -> Value {
    match step {
        Transition::Quorum { leader, quorum, voters } => json!(["quorum", leader, quorum, voters]),
        Transition::Sync { count, names } => json!(["sync", leader, count, names]),
        Transition::Restart => json!(["restart", leader, 0, []]),
    }
}

#[test]
fn b_22_quorum_vectors() {
    let mut lines = 0;
    for line in QUORUM.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        let input = &vector["in"];
        let name = |key: &str| MemberName::from(input[key].as_str().unwrap());
        let answer = resolve(Situation {
            leader: name("leader"),
            quorum: number(&input["quorum"]),
            voters: names(&input["voters"]),
            count: number(&input["numsync"]),
            sync: names(&input["sync"]),
            confirmed: number(&input["numsync_confirmed"]),
            active: names(&input["active"]),
            wanted: number(&input["sync_wanted"]),
            leader_wanted: name("leader_wanted"),
        });
        match answer {
            Err(violation) => assert_ne!(vector["error"], Value::Null, "{line}: {violation}"),
            Ok(steps) => {
                assert_eq!(vector["error"], Value::Null, "{line}: {steps:?}");
                let recorded = vector["out"].as_array().unwrap();
                assert_eq!(steps.len(), recorded.len(), "{line}: {steps:?}");
                for (step, recorded) in steps.iter().zip(recorded) {
                    // The leader of a step that does not write /sync is nobody's business.
                    let leader = recorded[1].as_str().unwrap();
                    let mut recorded = recorded.clone();
                    if *step == Transition::Restart {
                        recorded = json!(["restart", leader, 0, []]);
                    }
                    assert_eq!(text(step, leader), recorded, "{line}");
                }
            }
        }
        lines += 1;
    }
    assert_eq!(lines, 1000);
}

#[test]
fn b_21_standby_names_vectors() {
    let mut lines = 0;
    for line in UTIL.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        let input = &vector["in"];
        let answer = match vector["fn"].as_str().unwrap() {
            "parse_sync_standby_names" => parsed(input[0].as_str().unwrap()),
            "set_synchronous_standby_names" => printed(input),
            // Where only one name can be given it stands alone.
            "quote_standby_name" => {
                let alone = Abilities { several: false, any: false };
                print(Mode::Priority, &names(input), Some(1), alone).into()
            }
            _ => continue,
        };
        assert_eq!(answer, vector["out"], "{line}");
        lines += 1;
    }
    assert_eq!(lines, 81);
}

fn printed(input: &Value) -> Value {
    let mode = if input["synchronous_mode"] == "quorum" { Mode::Quorum } else { Mode::Priority };
    let abilities =
        Abilities { several: input["pg>=9.6"].as_bool().unwrap(), any: input["pg>=10"].as_bool().unwrap() };
    let count = input["num"].as_u64().map(|count| u32::try_from(count).unwrap());
    let text = print(mode, &names(&input["nodes"]), count, abilities);
    if text.is_empty() { Value::Null } else { text.into() }
}

fn parsed(text: &str) -> Value {
    match parse(text) {
        Err(_) => json!({"exception": "ValueError"}),
        Ok(names) => json!({
            "type": match names.kind {
                Kind::Off => "off",
                Kind::Priority => "priority",
                Kind::Quorum => "quorum",
            },
            "has_star": names.has_star,
            "num": names.count,
            "members": names.members,
        }),
    }
}
