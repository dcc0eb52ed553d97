//! The REST answers of a Patroni node and of one of ours, in the same situation (contract surface A).

use anyhow::{Context as _, ensure};
use ptarmigan_testkit::{
    http::{self, Request},
    wait_until,
};
use serde_json::{Value, json};

use crate::lab::{Kind, Lab, SOON};

/// A moment that no test sees.
const AHEAD: &str = "2199-01-01T10:00:00+00:00";

/// Paths whose status both must agree on, in each role. The prober writes all the time: a small lag decides nothing.
const CHECKS: [&str; 31] = [
    "/",
    "/primary",
    "/read-write",
    "/leader",
    "/standby-leader",
    "/standby_leader",
    "/replica",
    "/read-only",
    "/synchronous",
    "/sync",
    "/asynchronous",
    "/async",
    "/read-only-sync",
    "/quorum",
    "/read-only-quorum",
    "/health",
    "/liveness",
    "/readiness",
    "/master",
    "/no-such-check",
    "/replica?lag=10MB",
    "/async?lag=10MB",
    "/replica?replication_state=streaming",
    "/replica?datacenter=here",
    "/replica?datacenter=there",
    "/primary?datacenter=there",
    "/leader?clonefrom=true",
    "/readiness?lag=10MB&mode=apply",
    "/readiness?mode=write",
    "/cluster",
    "/config",
];

/// Requests that are refused or find nothing to do. The status must be the same; the words are each one's own, but for
/// the phrase by which `patronictl` knows an unsupported operation.
const REFUSED: [(&str, &str, &str); 21] = [
    ("POST", "/nothing", "{}"),
    ("PUT", "/switchover", "{}"),
    ("DELETE", "/failover", "{}"),
    ("PATCH", "/restart", "{}"),
    ("POST", "/switchover", "{}"),
    ("POST", "/switchover", "nonsense"),
    ("POST", "/switchover", r#"{"leader": "node9"}"#),
    ("POST", "/switchover", r#"{"leader": "node1", "candidate": "node1"}"#),
    ("POST", "/switchover", r#"{"leader": "node9", "candidate": "node1"}"#),
    ("POST", "/switchover", r#"{"leader": "node1", "scheduled_at": "2001-01-01T00:00:00+00:00"}"#),
    ("POST", "/switchover", r#"{"leader": "node1", "scheduled_at": "2199-01-01T00:00:00"}"#),
    ("POST", "/failover", "{}"),
    ("POST", "/failover", r#"{"candidate": "node9"}"#),
    ("POST", "/restart", r#"{"nonsense": 1}"#),
    ("POST", "/restart", r#"{"role": "nobody"}"#),
    ("POST", "/restart", r#"{"postgres_version": "x"}"#),
    ("POST", "/restart", r#"{"role": "standby_leader"}"#),
    ("POST", "/restart", r#"{"postgres_version": "9.6.1"}"#),
    ("PATCH", "/config", "nonsense"),
    ("DELETE", "/switchover", ""),
    ("DELETE", "/restart", ""),
];

#[tokio::test]
async fn both_answer_alike_in_the_same_situation() {
    let tags =
        |_: usize, config: &mut Value| config["tags"] = json!({"datacenter": "here", "clonefrom": true});
    let Some(mut lab) = Lab::new(&[Kind::Patroni, Kind::Ptarmigan], tags).await else { return };
    lab.up().await;
    let change = json!({"postgresql": {"parameters": {"max_connections": 60}}});
    lab.patch_config(0, &change).await;
    let first = observe(&mut lab, 0).await;
    // a restart and an unlocked moment between them: the pending restart is made anew
    lab.switch_over(0, 0, 1).await;
    lab.patch_config(1, &json!({"postgresql": {"parameters": {"max_connections": 70}}})).await;
    let second = observe(&mut lab, 1).await;

    for (role, patroni, ours) in [("leader", &first[0], &second[1]), ("replica", &second[0], &first[1])] {
        println!("--- {role}\nPatroni:   {}\nPtarmigan: {}", patroni.document, ours.document);
        // Ours alone, behind all the others.
        let ours_alone = r#","guardian":{"armed":"boolean"}}"#;
        let shape_of_ours = shape(&ours.document);
        let alike = shape_of_ours.strip_suffix(ours_alone).map(|text| format!("{text}}}"));
        assert_eq!(alike, Some(shape(&patroni.document)), "{role}: fields, order and types");
        assert_same(role, &ours.statuses, &patroni.statuses);
        assert_same(role, &ours.refused, &patroni.refused);
    }
    for observed in [&first, &second] {
        assert_eq!(observed[0].history, observed[1].history);
        assert_eq!(observed[0].config, observed[1].config);
        assert_eq!(observed[0].cluster, observed[1].cluster, "fields, order and types");
    }
    lab.prober.assert_one_primary();
}

fn assert_same(role: &str, ours: &[String], theirs: &[String]) {
    let different: Vec<String> = ours
        .iter()
        .zip(theirs)
        .filter(|(ours, theirs)| ours != theirs)
        .map(|(ours, theirs)| format!("Ptarmigan: {ours}\nPatroni:   {theirs}\n"))
        .collect();
    assert!(different.is_empty(), "{role}:\n{}", different.concat());
    assert_eq!(ours.len(), theirs.len());
    println!("{role}: {} answers are the same, for example {:?}", ours.len(), &ours[..3]);
}

/// What one node answers.
struct Observed {
    document: Value,
    statuses: Vec<String>,
    refused: Vec<String>,
    cluster: String,
    history: String,
    config: String,
}

/// Both nodes, once everything has settled.
async fn observe(lab: &mut Lab, leader: usize) -> [Observed; 2] {
    lab.wait_until_all_agree(leader).await;
    let this = &*lab;
    let settled = wait_until("both documents with everything in them", SOON, || async {
        for index in [0, 1] {
            let own = this.cluster.nodes[index].patroni().await?;
            ensure!(own["pending_restart"] == true, "{own}");
            let wanted =
                if index == leader { &own["replication"][0]["state"] } else { &own["replication_state"] };
            ensure!(wanted == "streaming", "{own}");
            ensure!(index == leader || own["xlog"]["replayed_timestamp"].is_string(), "{own}");
        }
        Ok(())
    })
    .await;
    settled.with_context(|| lab.cluster.logs(20)).unwrap();
    // asked for one after the other: /history and /config are each node's as of its last cycle
    wait_until("the same history", SOON, || async {
        let [a, b] = [this.get(0, "/history").await, this.get(1, "/history").await];
        ensure!(a == b, "{a}\n{b}");
        Ok(())
    })
    .await
    .unwrap();
    let refused = [refused(lab, 0).await, refused(lab, 1).await];
    schedule(lab, leader).await;
    let [refused_first, refused_second] = refused;
    let observed = [look(lab, 0, refused_first).await, look(lab, 1, refused_second).await];
    for index in [0, 1] {
        delete(lab, index, "/restart", "scheduled restart deleted").await;
    }
    delete(lab, 1 - leader, "/switchover", "scheduled switchover deleted").await;
    observed
}

/// A scheduled restart of every member and a scheduled switchover, shown by both.
async fn schedule(lab: &mut Lab, leader: usize) {
    let restart = json!({"schedule": AHEAD, "restart_pending": true});
    for index in [0, 1] {
        let answer = http::post(&lab.address(index), "/restart", &restart).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (202, "Restart scheduled"), "node{}", index + 1);
    }
    let body = json!({"leader": lab.node(leader).name(), "scheduled_at": AHEAD});
    let answer = http::post(&lab.address(1 - leader), "/switchover", &body).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (202, "Switchover scheduled"));
    let this = &*lab;
    let shown = wait_until("both schedules in both documents", SOON, || async {
        for index in [0, 1] {
            let cluster = this.cluster.nodes[index].get("/cluster").await?.json()?;
            ensure!(cluster["scheduled_switchover"]["at"] == AHEAD, "{cluster}");
            for member in cluster["members"].as_array().into_iter().flatten() {
                ensure!(member["scheduled_restart"]["schedule"] == AHEAD, "{cluster}");
                ensure!(member["pending_restart"] == true, "{cluster}");
            }
        }
        Ok(())
    })
    .await;
    shown.with_context(|| lab.cluster.logs(20)).unwrap();
    lab.wait_until_all_agree(leader).await;
}

async fn delete(lab: &Lab, index: usize, path: &str, text: &str) {
    let answer = Request::new("DELETE", &lab.address(index), path).send().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, text), "node{}", index + 1);
}

/// What a node says to requests that it refuses.
async fn refused(lab: &Lab, index: usize) -> Vec<String> {
    let address = lab.address(index);
    let mut answers = Vec::new();
    for (method, path, body) in REFUSED {
        let answer = Request::new(method, &address, path).body(body).send().await.unwrap();
        answers.push(format!("{method} {path} {body}: {}", answer.status));
        assert_eq!(answer.status == 501, answer.body.contains("Server does not support this operation"));
    }
    answers
}

async fn look(lab: &Lab, index: usize, refused: Vec<String>) -> Observed {
    let address = lab.address(index);
    let mut statuses = Vec::new();
    for path in CHECKS {
        let mut row = path.to_owned();
        for method in ["GET", "HEAD", "OPTIONS"] {
            let answer = Request::new(method, &address, path).send().await.unwrap();
            let content = answer.header("content-type").unwrap_or("untyped");
            row.push_str(&format!(" {} {content}", answer.status));
        }
        statuses.push(row);
    }
    let text = |path: &'static str| async move { lab.cluster.nodes[index].get(path).await.unwrap().body };
    Observed {
        document: lab.get(index, "/patroni").await,
        statuses,
        refused,
        cluster: shape(&lab.get(index, "/cluster").await),
        history: text("/history").await,
        config: text("/config").await,
    }
}

/// The fields in their order, with the type of each value in the place of the value.
fn shape(value: &Value) -> String {
    fn types(value: &Value) -> Value {
        match value {
            Value::Object(map) => map.iter().map(|(field, value)| (field.clone(), types(value))).collect(),
            Value::Array(items) => items.iter().map(types).collect(),
            Value::String(_) => "string".into(),
            Value::Number(_) => "number".into(),
            Value::Bool(_) => "boolean".into(),
            Value::Null => Value::Null,
        }
    }
    types(value).to_string()
}
