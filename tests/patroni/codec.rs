//! Every key that a Patroni cluster wrote, read and written by our own code (contract A.3).

use std::time::Duration;

use anyhow::{Context as _, ensure};
use ptarmigan_dcs::{Condition, Dcs, Timing, Written};
use ptarmigan_dcs_consul::{Consul, ConsulSettings};
use ptarmigan_dcs_etcd::{Etcd, EtcdSettings};
use ptarmigan_testkit::{Store, http, wait_until};
use ptarmigan_types::{
    Cluster, ClusterPath, Failover, Key, MemberName, MemberState, Role, ScheduledAt, pyjson, schedule::to_iso,
};
use serde_json::{Value, json};

use crate::lab::{Kind, Lab, SCOPE, SOON, without_positions};

const SCHEDULED_AT: &str = "2199-01-01T10:00:00+00:00";

/// Every key below the prefix, as raw text.
type Keys = std::collections::BTreeMap<String, String>;

#[tokio::test]
async fn every_key_of_a_patroni_cluster_is_read_and_written_back() {
    let Some(mut lab) = Lab::new(&[Kind::Patroni, Kind::Patroni], tags).await else { return };
    lab.up().await;
    fill_every_key(&mut lab).await;

    let dcs = connect(&lab);
    let (keys, view) = steady(&lab, dcs.as_ref()).await;
    for (key, value) in &keys {
        println!("{key} = {value}");
    }
    assert_fields(&lab, &view, &keys).await;
    assert_encoders(&view, &keys);
    write_back(&lab, dcs.as_ref(), &view, &keys).await;
    lab.prober.assert_one_primary();
}

fn tags(index: usize, config: &mut Value) {
    config["tags"] =
        json!({"clonefrom": true, "datacenter": "Zürich 1", "failover_priority": 1 + index, "nosync": false});
}

/// A synchronous standby, failsafe's members, a promotion, a pending restart and a scheduled switchover.
async fn fill_every_key(lab: &mut Lab) {
    lab.patch_config(0, &json!({"synchronous_mode": true, "failsafe_mode": true})).await;
    wait_for_sync(lab, "node1", "node2").await;
    lab.ask_for_switchover(0, 0, 1).await;
    wait_for_sync(lab, "node2", "node1").await;
    lab.patch_config(1, &json!({"postgresql": {"parameters": {"max_connections": 60}}})).await;
    let body = json!({"leader": "node2", "candidate": "node1", "scheduled_at": SCHEDULED_AT});
    let answer = http::post(&lab.address(1), "/switchover", &body).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
}

async fn wait_for_sync(lab: &Lab, leader: &str, standby: &str) {
    let wanted = json!([leader, standby]);
    let filled = wait_until("a filled /sync", SOON, || async {
        let sync = lab.cluster.store.get("/service/lab/sync").await?.context("no /sync")?;
        let sync: Value = serde_json::from_str(&sync.value)?;
        ensure!(json!([sync["leader"], sync["sync_standby"]]) == wanted, "{sync}");
        Ok(())
    })
    .await;
    filled.with_context(|| lab.cluster.logs(20)).unwrap();
}

fn connect(lab: &Lab) -> Box<dyn Dcs> {
    let (store, section) = lab.cluster.store.section();
    let section = section.as_object().unwrap();
    let (path, name) = (ClusterPath::new("/service/", SCOPE), MemberName::from("reader"));
    let seconds = Duration::from_secs;
    let timing = Timing { ttl: seconds(20), loop_wait: seconds(2), retry_timeout: seconds(5) };
    if store == "consul" {
        let settings = ConsulSettings::from_config(section).unwrap();
        return Box::new(Consul::connect(settings, path, SCOPE, name, timing, false).unwrap());
    }
    let settings = EtcdSettings::from_config(section, false).unwrap();
    Box::new(Etcd::connect(&settings, path, name, timing, false).unwrap())
}

/// A snapshot that did not change while it was taken twice, once as raw text and once by our reader, with everything
/// in place.
async fn steady(lab: &Lab, dcs: &dyn Dcs) -> (Keys, Cluster) {
    let found = wait_until("every key, steady", SOON, || async {
        let before = raw(lab).await?;
        let view = dcs.view_fresh().await?.cluster;
        ensure!(before == raw(lab).await?, "the keys are changing");
        for key in ["config", "failover", "failsafe", "history", "initialize", "leader", "status", "sync"] {
            ensure!(before.contains_key(key), "no {key}: {before:?}");
        }
        ensure!(before["status"].contains("slots"), "{}", before["status"]);
        let member = |name: &str| before.get(name).map(String::as_str).unwrap_or_default();
        for name in ["members/node1", "members/node2"] {
            ensure!(member(name).contains("pending_restart"), "{name}: {}", member(name));
        }
        ensure!(member("members/node1").contains("streaming"), "{}", member("members/node1"));
        ensure!(!member("members/node2").contains("checkpoint_after_promote"), "{}", member("members/node2"));
        Ok((before, view))
    })
    .await;
    found.with_context(|| lab.cluster.logs(20)).unwrap()
}

async fn raw(lab: &Lab) -> anyhow::Result<Keys> {
    let prefix = "/service/lab/";
    let keys = lab.cluster.store.get_prefix(prefix).await?;
    Ok(keys.into_iter().map(|entry| (entry.key[prefix.len()..].to_owned(), entry.value)).collect())
}

/// What we read against what Patroni's REST says.
async fn assert_fields(lab: &Lab, view: &Cluster, keys: &Keys) {
    let (topology, config) = (lab.get(0, "/cluster").await, lab.get(0, "/config").await);
    let history = lab.get(0, "/history").await;
    assert_eq!(Value::Object(view.config.as_ref().unwrap().value.clone()), config);
    assert_eq!(view.leader_name().unwrap().as_str(), "node2");
    assert_eq!(
        view.leader.as_ref().unwrap().lease,
        view.leader_member().unwrap().lease,
        "one lease per node"
    );
    assert_eq!((view.sync.leader.as_ref().unwrap().as_str(), view.sync.quorum), ("node2", 0));
    assert_eq!(view.sync.standbys, [MemberName::from("node1")]);
    for index in 0..2 {
        assert_member(view, &topology["members"][index], &lab.get(index, "/patroni").await);
    }
    let entries = view.history.as_ref().unwrap().entries.as_ref().unwrap();
    let lines: Vec<Value> = entries
        .iter()
        .map(|one| json!([one.timeline, one.lsn.0, one.reason, one.timestamp, one.new_leader]))
        .collect();
    assert_eq!(Value::from(lines), history, "{}", keys["history"]);
    assert_eq!((entries.len(), entries[0].new_leader.as_deref()), (1, Some("node2")));
    entries[0].timestamp.as_deref().unwrap();
    let failover = view.failover.as_ref().unwrap();
    assert_eq!(failover.candidate, Some(MemberName::from("node1")));
    assert!(failover.is_switchover() && failover.leader == Some(MemberName::from("node2")));
    let ScheduledAt::At(at) = failover.scheduled_at.as_ref().unwrap() else { panic!("{failover:?}") };
    assert_eq!(topology["scheduled_switchover"], json!({"at": to_iso(*at), "from": "node2", "to": "node1"}));
    let urls: Value = view.failsafe.iter().flatten().map(|(name, url)| json!([name, url])).collect();
    let wanted: Value = topology["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| json!([member["name"], member["api_url"]]))
        .collect();
    assert_eq!(urls, wanted);
    assert!(view.status.last_lsn.0 > 0 && !view.status.slots.as_ref().unwrap().is_empty());
    println!("status: {:?}", view.status);
}

fn assert_member(view: &Cluster, listed: &Value, own: &Value) {
    let name = listed["name"].as_str().unwrap();
    let member = &view.member(&MemberName::from(name)).unwrap().data;
    let is_leader = view.is_leader(&MemberName::from(name));
    assert_eq!(member.state(), Some(MemberState::Running));
    assert_eq!(member.role(), Some(if is_leader { Role::Primary } else { Role::Replica }));
    assert_eq!(own["role"], member.role().unwrap().as_str());
    assert_eq!(listed["api_url"], member.api_url().unwrap());
    let url = format!("postgres://{}:{}/postgres", listed["host"].as_str().unwrap(), listed["port"]);
    assert_eq!(member.conn_url(), Some(url.as_str()));
    assert_eq!(json!(member.timeline()), own["timeline"]);
    assert_eq!(listed["timeline"], own["timeline"]);
    assert_eq!(Value::Object(member.tags().0), own["tags"]);
    assert_eq!(member.tags().0["datacenter"], "Zürich 1");
    assert!(member.pending_restart() && own["pending_restart"] == true);
    assert_eq!(member.0["pending_restart_reason"], own["pending_restart_reason"]);
    assert_eq!(member.version(), own["patroni"]["version"].as_str());
    assert_eq!(view.system_identifier(), own["database_system_identifier"].as_str());
    assert_eq!(member.replication_state(), own["replication_state"].as_str());
    assert_eq!(member.checkpoint_after_promote(), None);
    assert!(member.xlog_location().is_some());
    assert_eq!((member.receive_lsn().is_some(), member.replay_lsn().is_some()), (!is_leader, !is_leader));
}

/// What our encoders make of what was read, by relative key.
fn encoded(view: &Cluster) -> Keys {
    let mut keys = Keys::new();
    let mut put = |key: Key, value: String| keys.insert(key.relative(), value);
    put(Key::Initialize, view.initialize.as_ref().unwrap().value.clone());
    put(Key::Leader, view.leader.as_ref().unwrap().name.to_string());
    for member in view.members.iter() {
        put(Key::Member(member.name.clone()), member.data.to_json());
    }
    put(Key::Status, view.status.to_json());
    put(Key::Sync, view.sync.to_json());
    put(Key::Config, pyjson::compact_map(&view.config.as_ref().unwrap().value));
    let failover = view.failover.as_ref().unwrap();
    let at = match &failover.scheduled_at {
        Some(ScheduledAt::At(at)) => Some(to_iso(*at)),
        _ => None,
    };
    let name = |name: &Option<MemberName>| name.as_ref().map(|name| name.as_str().to_owned());
    let (leader, candidate) = (name(&failover.leader), name(&failover.candidate));
    put(Key::Failover, Failover::to_json(leader.as_deref(), candidate.as_deref(), at.as_deref()));
    put(Key::History, view.history.as_ref().unwrap().to_json());
    put(Key::Failsafe, pyjson::compact(&json!(view.failsafe)));
    keys
}

fn assert_encoders(view: &Cluster, keys: &Keys) {
    let ours = encoded(view);
    assert_eq!(ours.keys().collect::<Vec<_>>(), keys.keys().collect::<Vec<_>>());
    for (key, theirs) in keys {
        let ours = &ours[key];
        println!("{key}: {}", if ours == theirs { "the same bytes" } else { "the same JSON" });
        if matches!(key.as_str(), "leader" | "initialize") {
            assert_eq!(ours, theirs, "{key}");
        } else {
            let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            assert_eq!(json(ours), json(theirs), "{key}");
        }
    }
}

/// Patroni reads what we wrote: its answers stay the same.
async fn write_back(lab: &Lab, dcs: &dyn Dcs, view: &Cluster, keys: &Keys) {
    let before = answers(lab).await;
    let ours = encoded(view);
    for key in [Key::Config, Key::Failover, Key::History, Key::Failsafe, Key::Sync, Key::Initialize] {
        let found =
            lab.cluster.store.get(&format!("/service/lab/{}", key.relative())).await.unwrap().unwrap();
        assert_eq!(found.value, keys[&key.relative()], "it was steady");
        let revision = Condition::Revision(u64::try_from(found.mod_revision).unwrap());
        let written = dcs.write(&key, &ours[&key.relative()], revision).await.unwrap();
        assert!(matches!(written, Written::Applied(_)), "{key:?}");
        // For Consul the same value once more is no change.
        if matches!(lab.cluster.store, Store::Etcd(_)) || found.value != ours[&key.relative()] {
            assert_eq!(dcs.write(&key, "stale", revision).await.unwrap(), Written::Conflict, "{key:?}");
        }
    }
    wait_until("a cycle of every member after it", SOON, || async {
        let seen: Vec<Value> = [
            lab.get(0, "/patroni").await["dcs_last_seen"].clone(),
            lab.get(1, "/patroni").await["dcs_last_seen"].clone(),
        ]
        .into();
        ensure!(seen.iter().zip(&before.1).all(|(now, then)| now.as_u64() > then.as_u64()), "{seen:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(answers(lab).await.0, before.0);
}

/// The answers that come from the DCS, and when each member last saw it.
async fn answers(lab: &Lab) -> (Vec<Value>, Vec<Value>) {
    let (mut documents, mut seen) = (Vec::new(), Vec::new());
    for index in 0..2 {
        documents.push(without_positions(lab.get(index, "/cluster").await));
        documents.push(lab.get(index, "/config").await);
        documents.push(lab.get(index, "/history").await);
        seen.push(lab.get(index, "/patroni").await["dcs_last_seen"].clone());
    }
    (documents, seen)
}
