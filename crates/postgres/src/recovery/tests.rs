//! The wanted recovery parameters and their comparison, by rule.

use ptarmigan_config::Secret;
use serde_json::json;

use super::*;

pub(super) fn upstream() -> Upstream {
    Upstream::of_conn_url("leader".into(), "postgres://10.0.0.1:5433/postgres").unwrap()
}

fn login() -> ConnInfo {
    ConnInfo::new()
        .with("user", "rep")
        .with("password", Secret::from("p w").expose())
        .with("options", "-c x=y")
}

fn wanted_of(settings: &PostgresSettings, major: u32, source: &Source) -> Wanted {
    let version = ServerVersion::major_of(major);
    let node = Node { name: "node-1", settings, version, pgpass: Path::new("/var/pgpass") };
    wanted(&node, &login(), source)
}

fn settings(postgresql: Value) -> PostgresSettings {
    crate::testing::settings(postgresql)
}

fn streaming() -> Source {
    Source { upstream: Some(upstream()), ..Source::default() }
}

#[test]
fn b_19_1_wanted_parameters_of_a_streaming_standby() {
    let recovery_conf =
        json!({"recovery_conf": {"restore_command": "cp /a/%f %p", "recovery_target_time": "x"}});
    let wanted = wanted_of(&settings(recovery_conf), 15, &streaming());
    let parameters = &wanted.parameters;
    assert_eq!(parameters["recovery_target_timeline"], "latest");
    for target in ["", "_name", "_time", "_xid", "_lsn"] {
        assert_eq!(parameters[&format!("recovery_target{target}")], "");
    }
    assert_eq!(parameters["restore_command"], "cp /a/%f %p");
    assert_eq!(parameters["primary_slot_name"], "node_1");
    assert_eq!(
        parameters["primary_conninfo"],
        "dbname=postgres user=rep passfile=/var/pgpass host=10.0.0.1 port=5433 sslmode=prefer \
         application_name=node-1 gssencmode=prefer channel_binding=prefer"
    );
    assert_eq!(wanted.passfile_lines, ["10.0.0.1:5433:*:rep:p w"]);
}

#[test]
fn b_19_1_recovery_gucs_among_parameters_replace_recovery_conf() {
    let both = json!({"recovery_conf": {"restore_command": "a", "recovery_end_command": "b"},
                      "parameters": {"Restore_Command": "c", "work_mem": "1MB"}});
    let parameters = wanted_of(&settings(both), 15, &streaming()).parameters;
    assert_eq!(parameters["restore_command"], "c");
    assert!(!parameters.contains_key("recovery_end_command") && !parameters.contains_key("work_mem"));
}

#[test]
fn b_19_1_standby_cluster_overrides_and_slot() {
    let source = Source {
        slot: SlotChoice::None,
        is_remote: true,
        restore_command: Some("remote".to_owned()),
        recovery_min_apply_delay: Some("5min".to_owned()),
        ..streaming()
    };
    let own = settings(json!({"recovery_conf": {"restore_command": "own"}}));
    let parameters = wanted_of(&own, 15, &source).parameters;
    assert_eq!(
        (&*parameters["restore_command"], &*parameters["recovery_min_apply_delay"]),
        ("remote", "5min")
    );
    assert!(!parameters.contains_key("primary_slot_name"));
    let source = Source { slot: SlotChoice::Named("My-Slot".to_owned()), ..source };
    assert_eq!(wanted_of(&own, 15, &source).parameters["primary_slot_name"], "my_slot");
}

#[test]
fn b_19_2_several_remote_hosts_with_a_slot_want_the_writable_one() {
    let address = ConnInfo::new().with("host", "a,b").with("port", "5432");
    let several = Upstream { name: "remote".into(), address };
    let source = Source {
        upstream: Some(several),
        slot: SlotChoice::Named("s".to_owned()),
        is_remote: true,
        ..Source::default()
    };
    let text = wanted_of(&settings(json!({})), 15, &source).parameters["primary_conninfo"].clone();
    assert!(text.contains("target_session_attrs=read-write"), "{text}");
    let source = Source { slot: SlotChoice::None, ..source };
    let text = wanted_of(&settings(json!({})), 15, &source).parameters["primary_conninfo"].clone();
    assert!(!text.contains("target_session_attrs"), "{text}");
}

#[test]
fn b_19_2_defaults_by_version() {
    for (major, tail) in [
        (12, "application_name=node-1 gssencmode=prefer"),
        (13, "gssencmode=prefer channel_binding=prefer"),
        (17, "channel_binding=prefer sslnegotiation=postgres"),
        (18, "channel_binding=prefer sslnegotiation=postgres"),
    ] {
        let text =
            wanted_of(&settings(json!({})), major, &streaming()).parameters["primary_conninfo"].clone();
        assert!(text.ends_with(tail), "{major}: {text}");
    }
}

#[test]
fn b_19_1_trigger_file_has_the_name_of_the_version() {
    let trigger = settings(json!({"recovery_conf": {"trigger_file": "/t"}}));
    let at = |major| wanted_of(&trigger, major, &streaming()).parameters;
    assert_eq!(at(15)["promote_trigger_file"], "/t");
    assert!(!at(15).contains_key("trigger_file") && !at(16).contains_key("promote_trigger_file"));
}

#[test]
fn b_19_1_no_upstream_no_conninfo_and_no_slot() {
    let wanted = wanted_of(&settings(json!({})), 15, &Source::default());
    assert!(!wanted.parameters.contains_key("primary_conninfo"));
    assert!(!wanted.parameters.contains_key("primary_slot_name"));
    let no_slots = json!({"use_slots": false});
    assert!(!wanted_of(&settings(no_slots), 15, &streaming()).parameters.contains_key("primary_slot_name"));
}
