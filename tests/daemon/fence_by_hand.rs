//! A PostgreSQL that somebody else started: the guardian takes hold of it, and ends it as it would its own.

use std::time::Duration;

use anyhow::ensure;
use ptarmigan_testkit::wait_until;
use rustix::process::Signal;
use serde_json::json;

use crate::{
    fence::{configure, is_fenced},
    site::{LIMIT, Site},
};

async fn wait_for_armed(site: &Site, index: usize, armed: bool) {
    wait_until(&format!("{} armed: {armed}", site.name(index)), LIMIT, || async {
        let status = site.node(index).patroni().await?;
        ensure!(status["guardian"] == json!({"armed": armed}) && status["state"] == "running", "{status}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_restart_by_hand_while_the_daemon_is_frozen_does_not_outlive_its_lease() {
    let (mut site, leader) = Site::ready("by-hand-frozen", 2, configure).await;
    let (prober, mut writer) = (site.prober_every(Duration::from_millis(10)), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let before = site.node(leader).postmaster_pid().unwrap();
    site.node_mut(leader).signal(Signal::STOP).unwrap();
    site.pg_ctl(leader, &["restart", "-m", "fast"]).await;
    assert_ne!(site.node(leader).postmaster_pid().unwrap(), before);
    // It is a primary, and whoever looks may write.
    assert_eq!(site.sql(leader, "SELECT pg_is_in_recovery()").await.unwrap(), "f");
    let new = is_fenced(&mut site, leader, &prober, &writer).await;
    site.node_mut(leader).signal(Signal::CONT).unwrap();
    assert_eq!(site.settled().await, new);
    writer.stop();
    prober.finish();
}

#[tokio::test]
async fn what_an_operator_started_in_a_pause_is_under_a_deadline_after_it() {
    let (mut site, leader) = Site::ready("by-hand-pause", 2, configure).await;
    let (prober, mut writer) = (site.prober_every(Duration::from_millis(10)), site.writer());
    for index in 0..2 {
        wait_for_armed(&site, index, true).await;
    }
    site.ptctl(&["pause", "--wait"]).await;
    for index in 0..2 {
        site.pg_ctl(index, &["restart", "-m", "fast"]).await;
        wait_for_armed(&site, index, false).await;
    }
    site.ptctl(&["resume", "--wait"]).await;
    assert_eq!(site.settled().await, leader);
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    // It would go on if its guardian died, which is why it is not armed; the deadline it has all the same.
    assert_eq!(site.node(leader).patroni().await.unwrap()["guardian"], json!({"armed": false}));
    site.node_mut(leader).kill_daemon().unwrap();
    let new = is_fenced(&mut site, leader, &prober, &writer).await;
    site.node_mut(leader).start().unwrap();
    assert_eq!(site.settled().await, new);
    wait_for_armed(&site, leader, true).await;
    // Promoted, it is under a deadline too.
    site.node_mut(new).kill_daemon().unwrap();
    let last = is_fenced(&mut site, new, &prober, &writer).await;
    assert_eq!(last, leader);
    site.node_mut(new).start().unwrap();
    assert_eq!(site.settled().await, leader);
    writer.stop();
    prober.finish();
}

/// Nobody leads rather than a server that would outlive its guardian.
#[tokio::test]
async fn where_the_guardian_is_required_a_server_that_it_did_not_start_is_not_promoted() {
    let (mut site, leader) = Site::ready("by-hand-required", 2, |config| {
        configure(config);
        config["guardian"] = json!({"mode": "required"});
    })
    .await;
    let prober = site.prober();
    let other = 1 - leader;
    wait_for_armed(&site, other, true).await;
    // Outside of a pause its daemon would start it first.
    site.ptctl(&["pause", "--wait"]).await;
    site.pg_ctl(other, &["restart", "-m", "fast"]).await;
    wait_for_armed(&site, other, false).await;
    site.ptctl(&["resume", "--wait"]).await;
    let lines = site.log_lines(other);
    site.node_mut(leader).kill_machine().await.unwrap();
    site.wait_for_log(other, lines, "the guardian is required").await;
    for _ in 0..3 {
        let lines = site.log_lines(other);
        site.wait_for_log(other, lines, "the guardian is required").await;
    }
    assert_eq!(site.key("leader").await, None);
    assert_eq!(site.sql(other, "SELECT pg_is_in_recovery()").await.unwrap(), "t");
    let told = site.ptctl(&["why", &site.name(other)]).await;
    assert!(told.contains("[GD-1]"), "{told}");
    // What the log asks for.
    let ask = site.ask(other, "POST", "/restart", &json!({})).await;
    assert_eq!(ask.status, 200, "{}", ask.body);
    site.wait_for_sql(other, "SELECT pg_is_in_recovery()", "f").await;
    wait_for_armed(&site, other, true).await;
    site.node_mut(leader).start().unwrap();
    assert_eq!(site.settled().await, other);
    prober.finish();
}
