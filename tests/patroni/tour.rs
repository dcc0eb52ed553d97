//! What operators do with a cluster, where Patroni runs some of its nodes and we run the others.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use ptarmigan_testkit::{Writer, wait_until};
use serde_json::{Value, json};

use crate::{
    lab::{FAILOVER, Kind, Lab, SCOPE, SOON},
    warnings::{self, Situation},
};

const TWO_OF_PATRONI: [Kind; 3] = [Kind::Patroni, Kind::Patroni, Kind::Ptarmigan];
const TWO_OF_OURS: [Kind; 3] = [Kind::Ptarmigan, Kind::Ptarmigan, Kind::Patroni];
const ALL_PATRONI: [Kind; 3] = [Kind::Patroni; 3];

/// A logical slot that the configuration asks for.
const SLOT: &str = "kept";

#[tokio::test]
async fn a_9_two_of_patroni_and_one_of_ours() {
    let Some(lab) = tour(&TWO_OF_PATRONI).await else { return };
    warnings::assert_known(&lab, Situation::Tour);
}

#[tokio::test]
async fn a_9_two_of_ours_and_one_of_patroni() {
    let Some(lab) = tour(&TWO_OF_OURS).await else { return };
    warnings::assert_known(&lab, Situation::Tour);
}

#[tokio::test]
async fn a_9_two_of_patroni_and_one_of_ours_without_the_dcs() {
    let Some(lab) = without_dcs(&TWO_OF_PATRONI).await else { return };
    warnings::assert_known(&lab, Situation::WithoutDcs);
}

#[tokio::test]
async fn a_9_two_of_ours_and_one_of_patroni_without_the_dcs() {
    let Some(lab) = without_dcs(&TWO_OF_OURS).await else { return };
    warnings::assert_known(&lab, Situation::WithoutDcs);
}

/// Adds to the files in `warnings` what Patroni says among its own: `cargo test --test patroni patroni_alone -- --ignored`, with each store
/// (`DCS`).
#[tokio::test]
#[ignore = "writes the files in tests/patroni/warnings"]
async fn what_patroni_alone_says() {
    for _ in 0..3 {
        warnings::learn(&tour(&ALL_PATRONI).await.unwrap(), Situation::Tour);
        warnings::learn(&without_dcs(&ALL_PATRONI).await.unwrap(), Situation::WithoutDcs);
    }
}

async fn start(kinds: &[Kind]) -> Option<(Lab, Writer)> {
    let mut lab = Lab::new(kinds, |_, config| {
        config["bootstrap"]["dcs"]["postgresql"]["parameters"]["wal_level"] = json!("logical");
    })
    .await?;
    // The first node begins the cluster.
    lab.up().await;
    let writer = lab.writer();
    writer.wait_for_rows(20, SOON).await.unwrap();
    Some((lab, writer))
}

/// Every row that was acknowledged is there, and never were two servers writable.
async fn finish(lab: &Lab, mut writer: Writer, leader: usize) {
    writer.stop();
    let lost = writer.verify(&lab.cluster.nodes[leader].connect().await.unwrap()).await.unwrap();
    assert_eq!(lost, Vec::<i64>::new(), "acknowledged rows are lost");
    lab.prober.assert_one_primary();
}

async fn tour(kinds: &[Kind; 3]) -> Option<Lab> {
    let (mut lab, writer) = start(kinds).await?;
    let (first, second, third) = (0, 1, 2);
    wait_for_slot(&mut lab, first, third).await;

    // From one kind to the other and back, by either tool; the tools ask whatever node they find first.
    switch_over_with(&mut lab, Kind::Patroni, first, third).await;
    assert_slot_goes_on(&lab, third).await;
    switch_over_with(&mut lab, Kind::Ptarmigan, third, second).await;
    assert_slot_goes_on(&lab, second).await;

    // Synchronous: one standby, then a quorum; then the primary's machine is lost.
    lab.patch_config(third, &json!({"synchronous_mode": true})).await;
    let standby = wait_for_sync_standby(&lab, second).await;
    switch_over_with(&mut lab, Kind::Ptarmigan, second, standby).await;
    let standby = wait_for_sync_standby(&lab, standby).await;
    let leader = lab.cluster.wait_for_leader(SOON).await.unwrap();
    println!("node{} is node{}'s synchronous standby", standby + 1, leader + 1);
    lab.patch_config(first, &json!({"synchronous_mode": "quorum"})).await;
    wait_for_quorum(&lab, leader).await;
    let leader = lose_machine(&mut lab, &writer, leader).await;
    lab.patch_config(second, &json!({"synchronous_mode": null})).await;
    lab.wait_for_answer(leader, "SHOW synchronous_standby_names", "").await;

    let leader = in_pause(&mut lab, leader).await;
    lab.wait_until_all_agree(leader).await;
    finish(&lab, writer, leader).await;
    Some(lab)
}

/// Switches over with `ptctl` or `patronictl`, through the candidate's configuration file.
async fn switch_over_with(lab: &mut Lab, tool: Kind, leader: usize, candidate: usize) {
    let (from, to) = (name(leader), name(candidate));
    let words = ["switchover", SCOPE, "--leader", &from, "--candidate", &to, "--force"];
    let printed = lab.tool_of(tool, candidate, &words).await;
    assert!(printed.contains(&format!("Successfully switched over to \"{to}\"")), "{printed}");
    assert_eq!(lab.cluster.wait_for_replicas(SOON).await.unwrap(), candidate);
    lab.wait_until_all_agree(candidate).await;
}

fn name(index: usize) -> String {
    format!("node{}", index + 1)
}

/// A permanent logical slot, asked for through one node, comes to be on every one.
async fn wait_for_slot(lab: &mut Lab, leader: usize, through: usize) {
    let slot =
        json!({"slots": {SLOT: {"type": "logical", "database": "postgres", "plugin": "test_decoding"}}});
    lab.patch_config(through, &slot).await;
    assert_slot_goes_on(lab, leader).await;
}

/// What its consumer confirms on the primary arrives at the slots of the others.
async fn assert_slot_goes_on(lab: &Lab, leader: usize) {
    let advanced = wait_until("the slot on the primary", SOON, || async {
        lab.ask(
            leader,
            &format!("SELECT count(*)::text FROM pg_logical_slot_get_changes('{SLOT}', NULL, NULL)"),
        )
        .await?;
        let query =
            format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
        lab.ask(leader, &query).await
    })
    .await;
    let confirmed = advanced.with_context(|| lab.cluster.logs(30)).unwrap();
    for index in 0..lab.cluster.nodes.len() {
        let query = format!(
            "SELECT (confirmed_flush_lsn >= '{confirmed}')::text FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        );
        lab.wait_for_answer(index, &query, "true").await;
    }
}

/// `/sync`, as everybody reads it.
async fn sync(lab: &Lab) -> anyhow::Result<Value> {
    let key = lab.cluster.store.get(&format!("/service/{SCOPE}/sync")).await?.context("no /sync")?;
    Ok(serde_json::from_str(&key.value)?)
}

/// One other node is named in `/sync`, and the primary waits for it.
async fn wait_for_sync_standby(lab: &Lab, leader: usize) -> usize {
    let found = wait_until("a synchronous standby", SOON, || async {
        let sync = sync(lab).await?;
        ensure!(sync["leader"] == name(leader), "{sync}");
        let standby = sync["sync_standby"].as_str().unwrap_or_default().to_owned();
        let query =
            "SELECT coalesce(string_agg(application_name, ','), '') FROM pg_stat_replication WHERE sync_state = 'sync'";
        let waits_for = lab.ask(leader, query).await?;
        ensure!(!standby.is_empty() && waits_for == standby, "{sync}, the primary waits for {waits_for:?}");
        (0..3).find(|index| name(*index) == standby).with_context(|| format!("{sync}"))
    })
    .await;
    found.with_context(|| lab.cluster.logs(30)).unwrap()
}

/// Both other nodes are named in `/sync`, one answer of them is enough, and the primary waits for that.
async fn wait_for_quorum(lab: &Lab, leader: usize) {
    let found = wait_until("a quorum", SOON, || async {
        let sync = sync(lab).await?;
        let voters = sync["sync_standby"].as_str().unwrap_or_default().split(',').count();
        ensure!(sync["leader"] == name(leader) && voters == 2 && sync["quorum"] == 1, "{sync}");
        let query = "SELECT count(*)::text FROM pg_stat_replication WHERE sync_state = 'quorum'";
        let quorum = lab.ask(leader, query).await?;
        ensure!(quorum == "2", "{quorum} standbys of the quorum");
        Ok(())
    })
    .await;
    found.with_context(|| lab.cluster.logs(30)).unwrap();
}

/// The leader's machine is lost, another one takes over, and it comes back as its standby. Who leads now.
async fn lose_machine(lab: &mut Lab, writer: &Writer, leader: usize) -> usize {
    lab.node(leader).kill_machine().await.unwrap();
    let heir = lab.cluster.wait_for_leader(FAILOVER).await.unwrap();
    assert_ne!(heir, leader);
    writer.wait_for_rows(20, SOON).await.with_context(|| lab.cluster.logs(30)).unwrap();
    println!("node{} was lost, and node{} took over", leader + 1, heir + 1);
    lab.node(leader).start().unwrap();
    assert_eq!(lab.cluster.wait_for_replicas(FAILOVER).await.unwrap(), heir);
    heir
}

/// In pause a daemon that ends leaves its PostgreSQL alone, and the next one finds it. Who leads now.
async fn in_pause(lab: &mut Lab, leader: usize) -> usize {
    let other = (leader + 1) % 3;
    lab.set_pause(other, Kind::Patroni, true).await;
    for index in [other, leader] {
        let before = lab.node(index).postmaster_pid().unwrap();
        lab.node(index).stop(SOON).await.unwrap();
        assert_eq!(lab.node(index).postmaster_pid().unwrap(), before, "it was left alone");
        lab.ask(index, "SELECT 1::text").await.unwrap();
        lab.node(index).start().unwrap();
        let this = &*lab;
        wait_until("the daemon's answer", SOON, || async {
            let own = this.cluster.nodes[index].patroni().await?;
            ensure!(own["pause"] == true && own["state"] == "running", "{own}");
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(lab.node(index).postmaster_pid().unwrap(), before, "it was taken over");
    }
    lab.set_pause(other, Kind::Ptarmigan, false).await;
    let now = lab.cluster.wait_for_leader(SOON).await.unwrap();
    assert_eq!(now, leader, "{}", lab.cluster.logs(30));
    now
}

/// Failsafe mode: nobody steps down while the store is away and every member answers. Led by the one that is of another kind.
async fn without_dcs(kinds: &[Kind; 3]) -> Option<Lab> {
    let (mut lab, writer) = start(kinds).await?;
    let (first, leader) = (0, 2);
    lab.patch_config(1, &json!({"failsafe_mode": true})).await;
    lab.switch_over(1, first, leader).await;
    lab.wait_until_all_agree(leader).await;
    wait_for_failsafe(&lab, leader).await;
    writer.mark();
    lab.cluster.store.kill(0).unwrap();
    let killed = ptarmigan_clock::now();
    // ttl is 20 s, and Patroni gives up after loop_wait and retry_timeout
    wait_until("the time after which nobody leads without failsafe mode", SOON, || async {
        ensure!(ptarmigan_clock::now().since(killed) > Duration::from_secs(25), "not yet");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(lab.cluster.wait_for_leader(SOON).await.unwrap(), leader);
    lab.cluster.store.restart(0).await.unwrap();
    assert_eq!(lab.cluster.wait_for_leader(FAILOVER).await.unwrap(), leader);
    lab.wait_until_all_agree(leader).await;
    let gap = writer.longest_gap();
    assert!(gap < Duration::from_secs(2), "writes stood still for {gap:?}\n{}", lab.cluster.logs(40));
    finish(&lab, writer, leader).await;
    Some(lab)
}

/// The leader has named every member whose promise it asks for.
async fn wait_for_failsafe(lab: &Lab, leader: usize) {
    let named = wait_until("/failsafe with every member", SOON, || async {
        let key =
            lab.cluster.store.get(&format!("/service/{SCOPE}/failsafe")).await?.context("no /failsafe")?;
        let members: Value = serde_json::from_str(&key.value)?;
        ensure!(members.as_object().is_some_and(|members| members.len() == 3), "{members}");
        let answer = lab.cluster.nodes[leader].get("/failsafe").await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .await;
    named.with_context(|| lab.cluster.logs(30)).unwrap();
}
