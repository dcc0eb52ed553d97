//! The commands that only need the DCS, against a real etcd.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use ptarmigan_dcs::{Condition, Dcs as _, Timing, Written};
use ptarmigan_dcs_etcd::{Etcd as Store, EtcdSettings};
use ptarmigan_testkit::{Etcd, Workspace};
use ptarmigan_types::{ClusterPath, Key};
use serde_json::{Value, json};
use support::Ptctl;

const CONFIG: &str = r#"{"ttl":30,"loop_wait":10,"retry_timeout":10,"postgresql":{"use_pg_rewind":true}}"#;

struct Fixture {
    store: Store,
    etcd: Etcd,
    ptctl: Ptctl,
    workspace: Workspace,
}

impl Fixture {
    /// A cluster `demo`; every member's REST API is at `api`.
    async fn start(api: &str) -> Self {
        let workspace = Workspace::new("ptctl").unwrap();
        let etcd = Etcd::start(&workspace, 1).await.unwrap();
        let host = etcd.hosts().remove(0);
        let section = json!({"host": host});
        let settings = EtcdSettings::from_config(section.as_object().unwrap(), false).unwrap();
        let seconds = std::time::Duration::from_secs;
        let timing = Timing { ttl: seconds(30), loop_wait: seconds(10), retry_timeout: seconds(10) };
        let path = ClusterPath::new("service", "demo");
        let store = Store::connect(&settings, path, "test".into(), timing, false).unwrap();
        let ptctl = Ptctl::default().with("PATRONI_ETCD3_HOST", &host).with("PATRONI_SCOPE", "demo");
        let fixture = Self { store, etcd, ptctl, workspace };
        let member = |name: &str, role: &str, more: Value| {
            let mut value = json!({"conn_url": format!("postgres://{name}:5432/postgres"),
                "api_url": format!("http://{api}/patroni"), "state": "running", "role": role,
                "version": "4.1.4", "xlog_location": 67_393_608, "timeline": 3});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            (Key::Member(name.into()), value.to_string())
        };
        let streaming =
            json!({"receive_lsn": 67_393_608, "replay_lsn": 67_393_608, "replication_state": "streaming"});
        let history = r#"[[1,25623960,"no recovery target specified","2019-09-23T16:57:57+02:00","b"]]"#;
        for (key, value) in [
            (Key::Initialize, "7500000000000000001".to_owned()),
            (Key::Leader, "b".to_owned()),
            (Key::Config, CONFIG.to_owned()),
            (Key::Status, r#"{"optime":67393608}"#.to_owned()),
            (Key::History, history.to_owned()),
            member("b", "primary", json!({})),
            member("a", "replica", streaming.clone()),
            member("c", "replica", json!({"tags": {"nofailover": true, "replicatefrom": "a"}})),
        ] {
            fixture.put(&key, &value).await;
        }
        fixture
    }

    async fn put(&self, key: &Key, value: &str) {
        let written = self.store.write(key, value, Condition::Always).await.unwrap();
        assert!(matches!(written, Written::Applied(_)));
    }

    async fn get(&self, key: &str) -> Option<String> {
        self.etcd.get(&format!("/service/demo/{key}")).await.unwrap().map(|found| found.value)
    }
}

#[tokio::test]
async fn c_4_list_topology_history_and_show_config() {
    let fixture = Fixture::start("127.0.0.1:1").await;
    let ptctl = &fixture.ptctl;
    let out = ptctl.run("list -f json").await.ok();
    let first = r#"[{"Cluster": "demo", "Member": "a", "Host": "a", "Role": "Replica", "State": "streaming", "TL": 3, "#;
    assert!(out.starts_with(first), "{out}");
    let leader =
        r#"{"Cluster": "demo", "Member": "b", "Host": "b", "Role": "Leader", "State": "running", "TL": 3}"#;
    assert!(out.contains(leader) && out.lines().count() == 1, "{out}");
    assert_eq!(ptctl.run("list nobody -f json").await.ok(), "[]\n");
    assert_eq!(ptctl.run("list nobody --format=yaml").await.ok(), "[]\n\n");
    let out = ptctl.run("list demo nobody").await.ok();
    assert!(out.starts_with("+ Cluster: demo (7500000000000000001) "), "{out}");
    assert!(out.contains("\n+ Cluster: nobody (uninitialized) "), "{out}");
    let out = ptctl.run("list -t").await.ok();
    assert_eq!(out.lines().next().unwrap().len(), "2026-11-20 17:10:30".len());
    let out = ptctl.run("topology").await.ok();
    let members: Vec<&str> = out.lines().skip(3).take(3).map(|line| &line[2..9]).collect();
    assert_eq!(members, ["b      ", "+ a    ", "  + c  "], "{out}");
    let out = ptctl.run("history -f json").await.ok();
    let expected = concat!(
        r#"[{"TL": 1, "LSN": 25623960, "Reason": "no recovery target specified", "#,
        r#""Timestamp": "2019-09-23T16:57:57+02:00", "New Leader": "b"}]"#,
        "\n"
    );
    assert_eq!(out, expected);
    let out = ptctl.run("show-config").await.ok();
    assert_eq!(out, "loop_wait: 10\npostgresql:\n  use_pg_rewind: true\nretry_timeout: 10\nttl: 30\n\n");
    assert_eq!(ptctl.run("show-config nobody").await.ok(), "");
    let url = format!("-d etcd3://{}/service", fixture.etcd.hosts()[0]);
    let by_url = Ptctl::default().run(&format!("{url} list demo -f tsv")).await.ok();
    assert_eq!(by_url, ptctl.run("list -f tsv").await.ok());
}

#[tokio::test]
async fn c_5_edit_config() {
    let fixture = Fixture::start("127.0.0.1:1").await;
    let ptctl = &fixture.ptctl;
    let out = ptctl.run("edit-config -s ttl=20 --force").await.ok();
    assert!(out.starts_with("--- \n+++ \n@@ ") && out.contains("\n-ttl: 30\n+ttl: 20\n"), "{out}");
    assert!(out.ends_with("Configuration changed\n"), "{out}");
    let changed = CONFIG.replace("30", "20");
    assert_eq!(fixture.get("config").await.as_deref(), Some(changed.as_str()));
    assert_eq!(ptctl.run("edit-config -s ttl=20").await.ok(), "Not changed\n");
    assert_eq!(ptctl.run("edit-config -q -s ttl=20").await.ok(), "");
    let out = ptctl.typed("edit-config --apply -", "ttl: 40\n").await.ok();
    assert!(out.contains("+ttl: 40") && out.ends_with("Use --force option to apply changes\n"), "{out}");
    let out = ptctl.typed("edit-config -s ttl=50", "x\nn\n").await.ok();
    assert!(out.ends_with("changes? [y/N]: Error: invalid input\nApply these changes? [y/N]: "), "{out}");
    let run = ptctl.typed("edit-config -s ttl=50", "").await;
    run.fails_with("Aborted!");
    assert_eq!(fixture.get("config").await.as_deref(), Some(changed.as_str()), "nothing was applied");
    let out = ptctl.typed("edit-config --replace=- --force", r#"{"ttl": 25, "a": {"b": [1]}}"#).await.ok();
    assert!(out.contains("+a:\n+  b:\n+  - 1\n"), "{out}");
    assert_eq!(fixture.get("config").await.as_deref(), Some(r#"{"ttl":25,"a":{"b":[1]}}"#));
    let run = ptctl.run("edit-config nobody -s ttl=20 --force").await;
    run.fails_with("Error: The config key does not exist in the cluster nobody");
    let run = ptctl.typed("edit-config --apply - --force", "- a\n").await;
    assert_eq!(run.code, 1);
    assert!(run.err.contains("standard input") && run.err.contains("list"), "{}", run.err);
}

#[tokio::test]
async fn c_5_a_concurrent_change_ends_edit_config() {
    let fixture = Fixture::start("127.0.0.1:1").await;
    // The editor is where time passes: it changes the key behind the operator's back.
    let script = fixture.workspace.path().join("editor.sh");
    let host = fixture.etcd.hosts().remove(0);
    let text = format!(
        "etcdctl --endpoints http://{host} put /service/demo/config '{{\"ttl\":99}}' >&2 || exit 1\n\
         echo 'x: 1' >> \"$1\"\n"
    );
    std::fs::write(&script, text).unwrap();
    let ptctl = fixture
        .ptctl
        .clone()
        .with("EDITOR", &format!("/bin/sh {}", script.display()))
        .with("ETCDCTL_API", "3")
        .with("PATH", "/usr/bin:/bin:/usr/local/bin");
    let run = ptctl.typed("edit-config", "y\n").await;
    assert_eq!(run.code, 1, "{} {}", run.out, run.err);
    assert!(run.out.contains("\n+x: 1\n"), "{}", run.out);
    assert!(
        run.err.ends_with("Error: Config modification aborted due to concurrent changes\n"),
        "{}",
        run.err
    );
    assert_eq!(fixture.get("config").await.as_deref(), Some(r#"{"ttl":99}"#));
}

#[tokio::test]
async fn c_5_a_switchover_nobody_answers_goes_through_the_dcs() {
    let port = ptarmigan_testkit::Port::reserve().unwrap();
    let fixture = Fixture::start(&port.address()).await;
    let ptctl = fixture.ptctl.clone().with("PATRONI_LOG_LEVEL", "ERROR");
    let out = ptctl.run("switchover --force --candidate a --scheduled 2199-01-01T10:00Z").await.ok();
    assert!(out.contains(" Could not switchover using Patroni api, falling back to DCS\n"), "{out}");
    assert!(out.contains(" Switchover scheduled at: 2199-01-01T10:00:00+00:00\n"), "{out}");
    let expected = r#"{"leader":"b","member":"a","scheduled_at":"2199-01-01T10:00:00+00:00"}"#;
    assert_eq!(fixture.get("failover").await.as_deref(), Some(expected));
    ptctl.run("failover --force --candidate a").await.ok();
    assert_eq!(fixture.get("failover").await.as_deref(), Some(r#"{"member":"a"}"#));
}

#[tokio::test]
async fn c_5_questions_come_in_patronictls_order() {
    let fixture = Fixture::start("127.0.0.1:1").await;
    let ptctl = &fixture.ptctl;
    let run = ptctl.typed("switchover", "\n\n2199-01-01 10:00\nn\n").await;
    run.fails_with("Error: Aborting scheduled switchover");
    let questions = run.out.lines().last().unwrap();
    assert!(questions.starts_with("Primary [b]: Candidate ['a'] []: When should the switchover take place"));
    assert!(questions.ends_with(
        ")  [now]: Are you sure you want to schedule switchover of cluster demo at 2199-01-01T10:00:00+00:00, \
         demoting current leader b? [y/N]: "
    ));
    ptctl.typed("switchover", "").await.fails_with("Aborted!");
    let run = ptctl.typed("switchover --leader a", "").await;
    run.fails_with("Error: Member a is not the leader of cluster demo");
    let run = ptctl.typed("switchover --force --candidate c", "").await;
    run.fails_with("Error: Member c does not exist in cluster demo or is tagged as nofailover");
    let run = ptctl.typed("failover", "b\n").await;
    run.fails_with("Error: Member b is already the leader of cluster demo");
    let run = ptctl.typed("failover --force", "").await;
    run.fails_with("Error: Failover could be performed only to a specific candidate");
    let run = ptctl.typed("restart demo", "\nn\n").await;
    run.fails_with("Error: Aborted restart");
    assert!(
        run.out.ends_with("[now]: Are you sure you want to restart members a, b, c? [y/N]: "),
        "{}",
        run.out
    );
    let run = ptctl.typed("restart demo b", "\ny\nx\n").await;
    assert!(run.err.contains("Error: x is not a PostgreSQL version"), "{}", run.err);
    let run = ptctl.typed("reinit demo", "c\nn\n").await;
    run.fails_with("Error: Aborted reinitialize");
    assert!(run.out.contains("reinitialize [a, c]? []: Are you sure you want to reinitialize members c? ["));
    ptctl.run("reinit demo b --force").await.fails_with("Error: No replica among provided members");
    ptctl.run("reinit demo --force").await.ok();
    ptctl.run("restart demo --pending --force").await.ok();
    ptctl.run("restart nobody --force").await.fails_with("Error: nobody cluster doesn't have any members");
    fixture.put(&Key::Config, r#"{"pause":true}"#).await;
    let scheduled = "--force --scheduled 2199-01-01T10:00Z";
    let run = ptctl.run(&format!("switchover {scheduled}")).await;
    run.fails_with("Error: Can't schedule switchover in the paused state");
    let run = ptctl.run(&format!("restart demo {scheduled}")).await;
    run.fails_with("Error: Can't schedule restart in the paused state");
    fixture.put(&Key::Leader, "").await;
    ptctl.run("switchover --force").await.fails_with("Error: This cluster has no leader");
}

#[tokio::test]
async fn c_5_remove_takes_three_confirmations() {
    let fixture = Fixture::start("127.0.0.1:1").await;
    let ptctl = &fixture.ptctl;
    let name = "Please confirm the cluster name to remove: ";
    let consent =
        "You are about to remove all information in DCS for demo, please type: \"Yes I am aware\": ";
    let leader = "This cluster currently is healthy. Please specify the leader name to continue: ";
    for (typed, questions, error) in [
        ("demo2\n", vec![name], "Error: Cluster names specified do not match"),
        ("demo\nyes\n", vec![name, consent], "Error: You did not exactly type \"Yes I am aware\""),
        (
            "demo\nYes I am aware\na\n",
            vec![name, consent, leader],
            "Error: You did not specify the current leader of the cluster",
        ),
        ("\ndemo\n", vec![name, name, consent], "Aborted!"),
    ] {
        let run = ptctl.typed("remove demo", typed).await;
        run.fails_with(error);
        assert!(run.out.starts_with("+ Cluster: demo (7500000000000000001) "), "{}", run.out);
        assert!(run.out.ends_with(&questions.concat()), "{}", run.out);
    }
    assert!(fixture.get("config").await.is_some(), "nothing is gone yet");
    let other = "/service/demo2/leader";
    fixture.etcd.put(other, "x").await.unwrap();
    let out = ptctl.typed("remove demo -f json", "demo\nYes I am aware\nb\n").await.ok();
    assert!(out.starts_with("[{\"Cluster\": \"demo\","), "{out}");
    for key in ["config", "leader", "initialize", "members/a", "history", "status"] {
        assert_eq!(fixture.get(key).await, None, "{key}");
    }
    assert!(fixture.etcd.get(other).await.unwrap().is_some(), "another cluster");
    // Without a leader there is one question less.
    let out = ptctl.typed("remove demo", "demo\nYes I am aware\n").await.ok();
    assert!(out.ends_with(consent), "{out}");
}
