//! Synchronous replication: whom commits wait for, who takes over, and that no acknowledged commit is lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use ptarmigan_testkit::{Writer, wait_until};
use serde_json::{Value, json};

use crate::site::{LIMIT, Site};

/// What [`Writer`] gets no answer within this time did not come through.
const SILENCE: Duration = Duration::from_secs(3);

/// Fast, as far as the contract allows it.
fn configure(config: &mut Value, synchronous: &Value) {
    let dcs = config["bootstrap"]["dcs"].as_object_mut().unwrap();
    for (key, value) in [("ttl", 20), ("loop_wait", 1), ("retry_timeout", 3)] {
        dcs.insert(key.into(), json!(value));
    }
    dcs.extend(synchronous.as_object().unwrap().clone());
}

impl Site {
    async fn sync_key(&self) -> Value {
        self.key("sync").await.map_or(Value::Null, |key| serde_json::from_str(&key.value).unwrap())
    }

    /// Waits until `/sync` of this leader lists these members, and `synchronous_standby_names` is this text.
    async fn wait_for_sync(&self, leader: usize, quorum: u64, standbys: &[usize], names: &str) {
        let mut listed: Vec<String> = standbys.iter().map(|index| self.name(*index)).collect();
        listed.sort_unstable();
        let listed = if listed.is_empty() { Value::Null } else { json!(listed.join(",")) };
        let wanted = json!({"leader": self.name(leader), "quorum": quorum, "sync_standby": listed});
        wait_until(&format!("/sync to be {wanted}"), LIMIT, || async {
            let key = self.sync_key().await;
            ensure!(key == wanted, "it is {key}");
            Ok(())
        })
        .await
        .unwrap();
        self.wait_for_sql(leader, "SHOW synchronous_standby_names", names).await;
    }

    async fn patch(&self, change: &Value) {
        let answer = self.ask(0, "PATCH", "/config", change).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    async fn status_of(&self, index: usize, path: &str) -> Result<u16> {
        Ok(self.node(index).get(path).await?.status)
    }

    async fn wait_for_status(&self, index: usize, path: &str, status: u16) {
        wait_until(&format!("{path} of {} to answer {status}", self.name(index)), LIMIT, || async {
            let found = self.status_of(index, path).await?;
            ensure!(found == status, "{found}");
            Ok(())
        })
        .await
        .unwrap();
    }

    /// Everything that was acknowledged is there.
    async fn assert_nothing_lost(&self, leader: usize, writer: &Writer) {
        let lost = writer.verify(&self.node(leader).connect().await.unwrap()).await.unwrap();
        assert!(lost.is_empty(), "{} of {} acknowledged rows are lost: {lost:?}", lost.len(), writer.count());
    }

    async fn roles(&self) -> Vec<String> {
        let list: Value = serde_json::from_str(&self.ptctl(&["list", "demo", "-f", "json"]).await).unwrap();
        let members = list.as_array().unwrap();
        let mut roles: Vec<String> =
            members.iter().filter_map(|member| member["Role"].as_str()).map(str::to_owned).collect();
        roles.sort_unstable();
        roles
    }
}

/// One of the two that do not lead, and the other one.
async fn synchronous_standby(site: &Site, leader: usize) -> (usize, usize) {
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    wait_until("a synchronous standby", LIMIT, || async {
        let key = site.sync_key().await;
        ensure!(key["sync_standby"].is_string(), "{key}");
        Ok(())
    })
    .await
    .unwrap();
    if site.sync_key().await["sync_standby"] == json!(site.name(one)) { (one, other) } else { (other, one) }
}

#[tokio::test]
async fn a_lost_synchronous_standby_is_replaced_and_strict_mode_waits_for_one() {
    let synchronous = json!({"synchronous_mode": true, "synchronous_mode_strict": true});
    let (mut site, leader) = Site::ready("sync-priority", 3, |config| configure(config, &synchronous)).await;
    let (standby, other) = synchronous_standby(&site, leader).await;
    site.wait_for_sync(leader, 0, &[standby], &site.name(standby)).await;
    let mut writer = site.writer();
    writer.wait_for_rows(20, LIMIT).await.unwrap();

    // what everybody is told
    for (index, path, status) in [
        (standby, "/sync", 200),
        (standby, "/async", 503),
        (standby, "/read-only-sync", 200),
        (other, "/sync", 503),
        (other, "/async", 200),
        (other, "/read-only-sync", 503),
        (leader, "/sync", 503),
        (leader, "/read-only-sync", 200),
        (standby, "/quorum", 503),
    ] {
        site.wait_for_status(index, path, status).await;
    }
    assert_eq!(site.node(standby).patroni().await.unwrap()["sync_standby"], json!(true));
    assert_eq!(site.roles().await, ["Leader", "Replica", "Sync Standby"]);

    // a switchover goes to the synchronous standby alone
    let body = json!({"leader": site.name(leader), "candidate": site.name(other)});
    let answer = site.ask(leader, "POST", "/switchover", &body).await;
    let refusal = "candidate name does not match with sync_standby";
    assert_eq!((answer.status, answer.body.as_str()), (412, refusal));

    // one that restarts is not waited for meanwhile
    writer.mark();
    let answer = site.ask(standby, "POST", "/restart", &json!({})).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "restarted successfully"));
    eprintln!("restart of the synchronous standby: no write for {:?}", writer.longest_gap());
    assert!(writer.longest_gap() < Duration::from_secs(5), "{:?}", writer.longest_gap());
    site.wait_for_sync(leader, 0, &[other], &site.name(other)).await;

    // one that is lost is replaced
    writer.mark();
    site.node_mut(other).kill_machine().await.unwrap();
    site.wait_for_sync(leader, 0, &[standby], &site.name(standby)).await;
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    eprintln!("synchronous standby lost: no write for {:?}", writer.longest_gap());

    // nobody is left: commits wait, and nobody but the last one may take over
    site.node_mut(standby).kill_machine().await.unwrap();
    site.wait_for_log(leader, 0, "No active replication connections from Patroni members").await;
    let before = writer.count();
    tokio::time::sleep(SILENCE).await;
    assert!(writer.count() <= before + 1, "{} rows were acknowledged by nobody", writer.count() - before);
    assert_eq!(site.sync_key().await["sync_standby"], json!(site.name(standby)));

    // the one that was not waited for comes back first
    site.node_mut(other).start().unwrap();
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    site.wait_for_sync(leader, 0, &[other], &site.name(other)).await;
    site.node_mut(standby).start().unwrap();

    // and takes over
    site.node_mut(leader).kill_machine().await.unwrap();
    writer.wait_for_rows(20, 2 * LIMIT).await.unwrap();
    site.node_mut(leader).start().unwrap();
    let new = site.settled().await;
    assert_eq!(new, other);
    writer.stop();
    site.assert_nothing_lost(new, &writer).await;
}

#[tokio::test]
async fn a_quorum_follows_its_settings_under_load() {
    let synchronous = json!({"synchronous_mode": "quorum"});
    let (mut site, leader) = Site::ready("sync-quorum", 3, |config| {
        configure(config, &synchronous);
        config["bootstrap"]["dcs"]["postgresql"]["parameters"]["synchronous_standby_names"] = json!("own");
    })
    .await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut both = [site.name(one), site.name(other)];
    both.sort_unstable();
    let both = both.join(",");
    site.wait_for_sync(leader, 1, &[one, other], &format!("ANY 1 ({both})")).await;
    let mut writer = site.writer();
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    for index in [one, other] {
        site.wait_for_status(index, "/quorum", 200).await;
        site.wait_for_status(index, "/read-only-quorum", 200).await;
        site.wait_for_status(index, "/sync", 503).await;
        site.wait_for_status(index, "/async", 503).await;
        assert_eq!(site.node(index).patroni().await.unwrap()["quorum_standby"], json!(true));
    }
    assert_eq!(site.roles().await, ["Leader", "Quorum Standby", "Quorum Standby"]);

    writer.mark();
    site.patch(&json!({"synchronous_node_count": 2})).await;
    site.wait_for_sync(leader, 0, &[one, other], &format!("ANY 2 ({both})")).await;
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    site.patch(&json!({"synchronous_node_count": 1})).await;
    site.wait_for_sync(leader, 1, &[one, other], &format!("ANY 1 ({both})")).await;
    writer.wait_for_rows(20, LIMIT).await.unwrap();

    // one of two is enough, and the other one does not matter any more
    site.node_mut(one).kill_machine().await.unwrap();
    let name = site.name(other);
    site.wait_for_sync(leader, 0, &[other], &format!("ANY 1 ({name})")).await;
    site.node_mut(one).start().unwrap();
    site.wait_for_sync(leader, 1, &[one, other], &format!("ANY 1 ({both})")).await;
    eprintln!("node counts changed, a standby lost: no write for {:?}", writer.longest_gap());

    // the other modes, there and back
    site.patch(&json!({"synchronous_mode": true, "synchronous_node_count": 2})).await;
    site.wait_for_sync(leader, 0, &[one, other], &format!("2 ({both})")).await;
    site.patch(&json!({"synchronous_mode": "quorum", "synchronous_node_count": 1})).await;
    site.wait_for_sync(leader, 1, &[one, other], &format!("ANY 1 ({both})")).await;
    writer.wait_for_rows(20, LIMIT).await.unwrap();

    // a daemon that is started again goes on with what the server has
    site.node_mut(leader).kill_daemon().unwrap();
    site.node_mut(leader).start().unwrap();
    assert_eq!(site.settled().await, leader);
    site.wait_for_sync(leader, 1, &[one, other], &format!("ANY 1 ({both})")).await;

    site.node_mut(leader).kill_machine().await.unwrap();
    writer.wait_for_rows(20, 2 * LIMIT).await.unwrap();
    site.node_mut(leader).start().unwrap();
    let new = site.settled().await;
    assert_ne!(new, leader);
    writer.stop();
    site.assert_nothing_lost(new, &writer).await;

    // off: the operator's own names are back, and nobody is bound by the key
    site.patch(&json!({"synchronous_mode": null})).await;
    site.wait_for_sql(new, "SHOW synchronous_standby_names", "own").await;
    assert_eq!(site.key("sync").await, None);
}

/// How often the primary is killed: a few times, and as often as `PTARMIGAN_TORTURE_ROUNDS` says (`make torture`).
fn rounds() -> usize {
    std::env::var("PTARMIGAN_TORTURE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Moments that differ from run to run: nobody knows when a machine dies.
fn some_time(round: usize) -> Duration {
    let now = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs();
    Duration::from_millis(u64::from(now / 1000) % 3000 + u64::try_from(round % 3).unwrap() * 100)
}

/// The primary is killed over and over, at moments that are not chosen; the writer loses nothing that it was told is there.
/// In every second round that is before the one killed last is back.
async fn kill_primaries(name: &str, synchronous: &Value) {
    let (mut site, _) = Site::ready(name, 3, |config| {
        configure(config, synchronous);
        // Whoever is killed while another one is rewound from it may take WAL along that the other cannot do without.
        config["postgresql"]["remove_data_directory_on_rewind_failure"] = json!(true);
    })
    .await;
    let mut writer = site.writer();
    for round in 1..=rounds() {
        writer.wait_for_rows(5, 2 * LIMIT).await.unwrap();
        tokio::time::sleep(some_time(round)).await;
        let leader = writer.last_acknowledged().unwrap().target;
        let (key, rows) = (site.sync_key().await, writer.count());
        writer.mark();
        site.node_mut(leader).kill_machine().await.unwrap();
        // Where nobody could take over at that moment, the dead one has to come back.
        let replaced = writer.wait_for_rows(5, Duration::from_secs(40)).await.is_ok();
        site.node_mut(leader).start().unwrap();
        writer.wait_for_rows(5, 2 * LIMIT).await.unwrap();
        let new = writer.last_acknowledged().unwrap().target;
        let how = if replaced { "replaced" } else { "came back" };
        let (from, to, gap) = (site.name(leader), site.name(new), writer.longest_gap());
        eprintln!("{name} round {round}: {key}, {from} to {to}, {rows} rows before, {how} after {gap:?}");
        if round % 2 == 0 {
            let settled = site.settled().await;
            site.assert_nothing_lost(settled, &writer).await;
        }
    }
    writer.stop();
    let leader = site.settled().await;
    site.assert_nothing_lost(leader, &writer).await;
    eprintln!("{name}: {} rows acknowledged, {} not, none lost", writer.count(), writer.failed().len());
}

#[tokio::test]
async fn torture_strict_synchronous_mode_loses_nothing() {
    let synchronous = json!({"synchronous_mode": true, "synchronous_mode_strict": true});
    kill_primaries("torture-strict", &synchronous).await;
}

#[tokio::test]
async fn torture_quorum_commit_loses_nothing() {
    kill_primaries("torture-quorum", &json!({"synchronous_mode": "quorum"})).await;
}
