//! Failsafe mode: the primary goes on without etcd while every member promises not to lead, and no longer.

use std::time::Duration;

use anyhow::{Result, ensure};
use ptarmigan_testkit::{store::Kind, wait_until};
use ptarmigan_types::Monotonic;
use serde_json::{Value, json};

use crate::{
    relay::Relay,
    site::{LIMIT, Site, TTL},
};

/// Switches the mode on and waits until every node knows all of `/failsafe`.
async fn switch_on(site: &Site) {
    let answer = site.ask(0, "PATCH", "/config", &json!({"failsafe_mode": true})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let names: Vec<String> = (0..site.cluster.nodes.len()).map(|index| site.name(index)).collect();
    wait_until("everybody to know /failsafe", LIMIT, || async {
        for index in 0..names.len() {
            let answer = site.node(index).get("/failsafe").await?;
            let known: Value = serde_json::from_str(&answer.body)?;
            for name in &names {
                ensure!(known[name].is_string(), "{name} is not in {known}");
            }
            let config: Value = serde_json::from_str(&site.node(index).get("/config").await?.body)?;
            ensure!(config["failsafe_mode"] == true, "{config}");
        }
        Ok(())
    })
    .await
    .unwrap();
}

async fn is_active(site: &Site, index: usize) -> Result<bool> {
    Ok(site.node(index).patroni().await?["failsafe_mode_is_active"] == true)
}

/// Looks all the time, until so long after `since`.
async fn all_along(since: Monotonic, time: Duration, mut look: impl AsyncFnMut()) {
    while ptarmigan_clock::now() < since + time {
        look().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn wait_for_read_only(site: &Site, index: usize) {
    wait_until("the leader to be read-only", LIMIT, || async {
        ensure!(site.sql(index, "SELECT pg_is_in_recovery()").await? == "t", "it is writable");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn ha_401_etcd_is_away_and_the_primary_goes_on_as_long_as_all_members_are_there() {
    let (mut site, leader) = Site::ready("failsafe", 3, |_| {}).await;
    let (prober, writer) = (site.prober(), site.writer());
    switch_on(&site).await;
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let timeline = site.timeline(leader).await.unwrap();
    let postmasters = [0, 1, 2].map(|index| site.node(index).postmaster_pid().unwrap());
    writer.mark();

    // silent first, then gone, for longer than any lease
    site.cluster.store.freeze(0).unwrap();
    let frozen_at = ptarmigan_clock::now();
    wait_until("everybody in failsafe mode", LIMIT, || async {
        for index in 0..3 {
            ensure!(is_active(&site, index).await?, "node {index}");
        }
        Ok(())
    })
    .await
    .unwrap();
    site.cluster.store.kill(0).unwrap();
    all_along(frozen_at, TTL + Duration::from_secs(8), async || {
        assert!(site.node(leader).is_primary().await, "the leader's /primary");
        for index in (0..3).filter(|index| *index != leader) {
            assert!(!site.node(index).is_primary().await);
        }
    })
    .await;
    site.everything_streamed(leader).await;
    assert_eq!(writer.failed(), []);
    let gap = writer.longest_gap();
    eprintln!("etcd away: the longest gap of the writer is {gap:?}");
    assert!(gap < Duration::from_secs(5), "{gap:?}");
    assert_eq!([0, 1, 2].map(|index| site.node(index).postmaster_pid().unwrap()), postmasters);
    assert!(site.log(leader).contains("continue to run as a leader because failsafe mode is enabled"));

    // back again: the same leader takes the lock, on the same timeline
    site.cluster.store.restart(0).await.unwrap();
    assert_eq!(site.settled().await, leader);
    assert_eq!(site.timeline(leader).await.unwrap(), timeline);
    wait_until("the end of failsafe mode on the leader", LIMIT, || async {
        ensure!(!is_active(&site, leader).await?, "it is active");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(writer.failed(), []);
    one_member_is_missing(&mut site, leader, &prober).await;
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    prober.finish();
}

/// The promises of all but one are not enough: the primary steps down before anybody could lead.
async fn one_member_is_missing(site: &mut Site, leader: usize, prober: &crate::prober::Prober) {
    let missing = (leader + 1) % 3;
    site.wait_for_cycles(leader, 1).await;
    site.node_mut(missing).kill_daemon().unwrap();
    site.cluster.store.kill(0).unwrap();
    let killed_at = ptarmigan_clock::now();
    wait_for_read_only(site, leader).await;
    let last = prober.last_of(leader).unwrap().since(killed_at);
    eprintln!("one member missing: the last write was acknowledged {last:?} after etcd was killed");
    assert!(last < TTL - TTL / 3, "still writable {last:?} after etcd was killed");
    let name = site.name(missing);
    assert!(site.log(leader).contains(&format!("failsafe: {name} does not promise")));
    site.cluster.store.restart(0).await.unwrap();
    site.node_mut(missing).start().unwrap();
    site.wait_for_cycles(missing, 1).await;
    site.settled().await;
    site.assert_one_cluster().await;
}

#[tokio::test]
async fn lv_2_members_that_see_etcd_keep_their_promise_and_a_new_node_does_not_race() {
    let mut site = Site::start("promise", 0, |_| {}).await;
    let relay = Relay::to(site.cluster.store.hosts()[0].clone());
    let first = site.another("node1", |config| match Kind::from_env() {
        Kind::Etcd => config["etcd3"] = json!({"hosts": [relay.address()], "use_proxies": true}),
        Kind::Consul => config["consul"] = json!({"host": relay.address()}),
    });
    site.cluster.nodes.push(first);
    site.node_mut(0).start().unwrap();
    site.settled().await;
    let second = site.another("node2", |_| {});
    site.cluster.nodes.push(second);
    site.node_mut(1).start().unwrap();
    assert_eq!(site.settled().await, 0);
    let (prober, writer) = (site.prober(), site.writer());
    switch_on(&site).await;
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let timeline = site.timeline(0).await.unwrap();
    writer.mark();

    // the leader alone loses etcd; the other one sees its lock run out, and a new one comes up meanwhile
    relay.cut();
    let cut_at = ptarmigan_clock::now();
    wait_until("the end of the lock", 2 * LIMIT, || async {
        ensure!(site.key("leader").await.is_none(), "it is there");
        Ok(())
    })
    .await
    .unwrap();
    let third = site.another("node3", |_| {});
    site.cluster.nodes.push(third);
    site.node_mut(2).start().unwrap();
    let lines = site.log_lines(1);
    all_along(cut_at, TTL + TTL / 2, async || {
        assert_eq!(site.key("leader").await, None, "somebody took the lock");
    })
    .await;
    assert!(site.node(0).is_primary().await);
    site.wait_for_log(1, lines, "no action. I am (node2), a secondary, and following a leader (node1)").await;
    site.everything_streamed(0).await;
    assert_eq!(writer.failed(), []);
    let gap = writer.longest_gap();
    eprintln!("the leader alone without etcd: the longest gap of the writer is {gap:?}");
    assert!(gap < Duration::from_secs(5), "{gap:?}");

    // a daemon that starts anew keeps what it promised, whatever the leader makes of its silence
    let lines = site.log_lines(1);
    site.node_mut(1).kill_daemon().unwrap();
    let killed_at = ptarmigan_clock::now();
    site.node_mut(1).start().unwrap();
    site.wait_for_log(1, lines, "this node promised node1 not to lead").await;
    all_along(killed_at, TTL / 2, async || {
        assert_eq!(site.key("leader").await, None, "somebody took the lock");
    })
    .await;

    relay.mend();
    let leader = site.settled().await;
    let now = site.timeline(leader).await.unwrap();
    assert!(now == timeline || now == timeline + 1, "timeline {now} after {timeline}");
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    site.assert_one_cluster().await;
    prober.finish();
}
