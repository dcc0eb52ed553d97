//! A daemon that cannot speak for its primary any more: the guardian ends the server before somebody else leads.

use std::time::Duration;

use anyhow::ensure;
use ptarmigan_testkit::{Writer, wait_until};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    prober::Prober,
    site::{LIMIT, Site, TTL},
};

fn configure(config: &mut Value) {
    let dcs = config["bootstrap"]["dcs"].as_object_mut().unwrap();
    for (key, value) in [("ttl", 20), ("loop_wait", 1), ("retry_timeout", 3)] {
        dcs.insert(key.into(), json!(value));
    }
}

/// Somebody else leads, and by then nothing of the old one's server is left.
async fn is_fenced(site: &mut Site, old: usize, prober: &Prober, writer: &Writer) -> usize {
    wait_until("another leader", 3 * LIMIT, || async {
        let key = site.key("leader").await;
        ensure!(key.as_ref().is_some_and(|key| key.value != site.name(old)), "{key:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(site.servers(old, "postgres"), [], "{}", site.node(old).log_tail(10));
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    let new = writer.last_acknowledged().unwrap().target;
    assert_ne!(new, old);
    let last = prober.last_of(old).unwrap();
    let row = writer.acknowledged().into_iter().filter(|row| row.target == old).map(|row| row.at).max();
    eprintln!(
        "{}: its last write {:?} ago",
        site.name(old),
        ptarmigan_clock::now().since(last.max(row.unwrap()))
    );
    new
}

#[tokio::test]
async fn a_primary_whose_daemon_is_killed_or_frozen_is_ended_before_another_leads() {
    let (mut site, mut leader) = Site::ready("fence", 3, configure).await;
    let (prober, mut writer) = (site.prober(), site.writer());
    for way in ["killed", "frozen", "killed, and its postmaster frozen"] {
        writer.wait_for_rows(20, LIMIT).await.unwrap();
        let begin = ptarmigan_clock::now();
        if way == "frozen" {
            site.node_mut(leader).signal(Signal::STOP).unwrap();
        } else {
            site.node_mut(leader).kill_daemon().unwrap();
        }
        if way.contains("postmaster") {
            kill_process(site.node(leader).postmaster_pid().unwrap(), Signal::STOP).unwrap();
        }
        let new = is_fenced(&mut site, leader, &prober, &writer).await;
        let after = ptarmigan_clock::now().since(begin);
        eprintln!("{way}: another one writes after {after:?}");
        assert!(after < TTL + Duration::from_secs(10), "{way}: {after:?}");
        if way == "frozen" {
            site.node_mut(leader).signal(Signal::CONT).unwrap();
        } else {
            site.node_mut(leader).start().unwrap();
        }
        assert_eq!(site.settled().await, new);
        leader = new;
    }
    writer.stop();
    prober.finish();
}

#[tokio::test]
async fn the_guardians_own_death_and_a_pause() {
    let (mut site, leader) = Site::ready("fence-guardian", 2, configure).await;
    let (prober, mut writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let postmaster = site.node(leader).postmaster_pid().unwrap();
    kill_process(site.node(leader).guardian_pid().unwrap(), Signal::KILL).unwrap();
    wait_until("the end of the server", Duration::from_secs(5), || async {
        ensure!(rustix::process::test_kill_process(postmaster).is_err(), "it lives");
        Ok(())
    })
    .await
    .unwrap();
    // Its daemon leads, and starts it again under another guardian.
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    assert_eq!(site.settled().await, leader);
    assert_ne!(site.node(leader).postmaster_pid().unwrap(), postmaster);

    // In pause a server is the operator's.
    site.ptctl(&["pause", "--wait"]).await;
    let postmaster = site.node(leader).postmaster_pid().unwrap();
    let lines = site.log_lines(leader);
    site.wait_for_log(leader, lines, "PAUSE: no action").await;
    let paused_at = ptarmigan_clock::now();
    site.node_mut(leader).kill_daemon().unwrap();
    wait_until("a ttl and more", 2 * LIMIT, || async {
        ensure!(ptarmigan_clock::now().since(paused_at) > TTL + Duration::from_secs(3), "not yet");
        Ok(())
    })
    .await
    .unwrap();
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    assert_eq!(site.node(leader).postmaster_pid().unwrap(), postmaster);
    site.node_mut(leader).start().unwrap();
    wait_until("the leader key", LIMIT, || async {
        let key = site.key("leader").await;
        ensure!(key.as_ref().is_some_and(|key| key.value == site.name(leader)), "{key:?}");
        Ok(())
    })
    .await
    .unwrap();
    site.ptctl(&["resume", "--wait"]).await;
    assert_eq!(site.settled().await, leader);
    writer.stop();
    prober.finish();
}
