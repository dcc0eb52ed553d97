//! `rto`: the leader derives a lease far shorter than the contract's, and its cluster lives with it.

use std::time::Duration;

use anyhow::ensure;
use ptarmigan_testkit::{Writer, store::Kind, wait_until};
use ptarmigan_types::Monotonic;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    prober::Prober,
    site::{LIMIT, Site},
};

async fn wait_for_timeouts(site: &Site, ttl: u64, loop_wait: u64, retry_timeout: u64) {
    wait_until(&format!("ttl {ttl} in /config"), LIMIT, || async {
        let key = site.key("config").await.unwrap();
        let config: Value = serde_json::from_str(&key.value)?;
        let found = (&config["ttl"], &config["loop_wait"], &config["retry_timeout"]);
        ensure!(found == (&json!(ttl), &json!(loop_wait), &json!(retry_timeout)), "{config}");
        Ok(())
    })
    .await
    .unwrap();
}

pub(crate) async fn ready(name: &str, etcd_members: usize) -> (Site, usize) {
    // Consul takes no lease so short.
    let mut site = Site::start_on(name, 3, Kind::Etcd, etcd_members, |config| {
        let dcs = config["bootstrap"]["dcs"].as_object_mut().unwrap();
        dcs.insert("rto".into(), json!("4s"));
        dcs.insert("failsafe_mode".into(), json!(true));
    })
    .await;
    let leader = site.settled().await;
    wait_for_timeouts(&site, 3, 1, 1).await;
    (site, leader)
}

pub(crate) async fn until(time: Monotonic) {
    wait_until("a moment", LIMIT, || async {
        ensure!(ptarmigan_clock::now() >= time, "not yet");
        Ok(())
    })
    .await
    .unwrap();
}

/// Nothing happens to the cluster: its primary goes on, and no statement fails.
async fn goes_on(site: &Site, leader: usize, writer: &Writer, what: &str) {
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    assert!(site.node(leader).is_primary().await, "{what}: {}", site.node(leader).log_tail(20));
    assert_eq!(writer.failed(), [], "{what}");
    eprintln!("{what}: the longest gap of the writer is {:?}", writer.longest_gap());
    assert!(writer.longest_gap() < Duration::from_secs(1), "{what}: {:?}", writer.longest_gap());
}

#[tokio::test]
async fn at_ttl_3_an_etcd_leader_may_freeze_or_die_and_no_primary_is_fenced() {
    let (mut site, leader) = ready("short-etcd", 3).await;
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let postmaster = site.node(leader).postmaster_pid().unwrap();
    for way in ["frozen", "killed", "frozen", "killed"] {
        let etcd = site.cluster.store.leader().await.unwrap();
        writer.mark();
        let since = ptarmigan_clock::now();
        if way == "frozen" {
            site.cluster.store.freeze(etcd).unwrap();
        } else {
            site.cluster.store.kill(etcd).unwrap();
        }
        until(since + Duration::from_secs(8)).await;
        goes_on(&site, leader, &writer, &format!("etcd's leader {way}")).await;
        if way == "frozen" {
            site.cluster.store.thaw(etcd).unwrap();
        } else {
            site.cluster.store.restart(etcd).await.unwrap();
        }
        wait_until("etcd's leader", LIMIT, || async { site.cluster.store.leader().await }).await.unwrap();
        assert_eq!(site.settled().await, leader);
    }
    assert_eq!(site.node(leader).postmaster_pid().unwrap(), postmaster);
    let metrics = site.node(leader).get("/metrics").await.unwrap().body;
    let shown = metrics.lines().filter(|line| line.starts_with("ptarmigan_"));
    eprintln!("{}", shown.collect::<Vec<_>>().join("\n"));
    assert!(metrics.contains("ptarmigan_lease_headroom_seconds{"), "{metrics}");
    prober.finish();
}

/// The node is gone, its daemon frozen, its daemon killed: the others write again within the objective, and a little.
#[tokio::test]
async fn at_rto_4_s_another_node_writes_soon() {
    let (mut site, mut leader) = ready("short-lost", 1).await;
    let prober: Prober = site.prober_every(Duration::from_millis(10));
    let mut writer = site.writer();
    for way in ["lost", "frozen", "killed"] {
        writer.wait_for_rows(20, LIMIT).await.unwrap();
        site.everything_streamed(leader).await;
        writer.mark();
        match way {
            "lost" => site.node_mut(leader).kill_machine().await.unwrap(),
            "frozen" => site.node_mut(leader).signal(Signal::STOP).unwrap(),
            _ => site.node_mut(leader).kill_daemon().unwrap(),
        }
        let old = leader;
        wait_until("another primary's row", LIMIT, || async {
            let row = writer.last_acknowledged().unwrap();
            ensure!(row.target != old, "{row:?}");
            Ok(())
        })
        .await
        .unwrap();
        let gap = writer.longest_gap();
        eprintln!("{way}: nobody wrote for {gap:?}");
        assert!(gap < Duration::from_secs(6), "{way}: {gap:?}");
        if way == "frozen" {
            site.node_mut(old).signal(Signal::CONT).unwrap();
        } else {
            site.node_mut(old).start().unwrap();
        }
        leader = site.settled().await;
        assert_ne!(leader, old);
    }
    // A daemon that is back before the end of the lease goes on where it was.
    writer.mark();
    let before = writer.failed().len();
    site.node_mut(leader).kill_daemon().unwrap();
    site.node_mut(leader).start().unwrap();
    assert_eq!(site.settled().await, leader);
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    assert_eq!(writer.failed().len(), before);
    writer.stop();
    prober.finish();
}

/// A member without a guardian appears: from that moment on the contract's timeouts count.
#[tokio::test]
async fn without_a_guardian_behind_every_member_the_lease_is_the_contracts() {
    let (mut site, leader) = ready("short-mixed", 1).await;
    let other = (leader + 1) % 3;
    let mut config = site.config(other);
    config["guardian"] = json!({"mode": "off"});
    site.node(other).write_config(&config).unwrap();
    let lines = site.log_lines(leader);
    site.node_mut(other).signal(Signal::HUP).unwrap();
    wait_for_timeouts(&site, 20, 6, 7).await;
    let reason = format!("rto cannot be kept: no armed guardian stands behind {}", site.name(other));
    site.wait_for_log(leader, lines, &reason).await;
    assert_eq!(site.settled().await, leader);
    let told = site.ptctl(&["why", &site.name(leader), "-n", "100"]).await;
    assert!(told.contains("rto cannot be kept") && told.contains("[RTO-2]"), "{told}");
    config["guardian"] = json!({"mode": "automatic"});
    site.node(other).write_config(&config).unwrap();
    site.node_mut(other).signal(Signal::HUP).unwrap();
    wait_for_timeouts(&site, 3, 1, 1).await;
    assert_eq!(site.settled().await, leader);
}
