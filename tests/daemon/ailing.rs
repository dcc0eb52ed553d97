//! A PostgreSQL that runs and does not work.

use std::time::Duration;

use anyhow::ensure;
use ptarmigan_testkit::wait_until;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::{
    fence::configure,
    site::{LIMIT, Site},
};

/// The postmaster is frozen: sessions that are there go on, and there are no new ones.
#[tokio::test]
async fn a_frozen_postmaster_is_reported_and_replaced_where_that_is_configured() {
    let (mut site, leader) = Site::ready("ailing", 2, configure).await;
    let (prober, mut writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let lock = site.key("leader").await.unwrap();
    let postmaster = site.node(leader).postmaster_pid().unwrap();
    kill_process(postmaster, Signal::STOP).unwrap();
    wait_until("the ailment", LIMIT, || async {
        let status = site.node(leader).patroni().await?;
        ensure!(status["ailment"]["fault"] == "no_connection", "{status}");
        let metrics = site.node(leader).get("/metrics").await?.body;
        ensure!(metrics.contains(&format!(
            "ptarmigan_postgres_ailing{{scope=\"demo\",name=\"{}\"}} 1",
            site.name(leader)
        )));
        Ok(())
    })
    .await
    .unwrap();
    // By default that is all: it leads on, and its lease is renewed as before.
    site.wait_for_cycles(leader, 5).await;
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.create_revision), (lock.value, lock.create_revision));
    let told = site.ptctl(&["why", &site.name(leader)]).await;
    assert!(told.contains("PostgreSQL runs and does not work") && told.contains("[FD-1]"), "{told}");

    let change = json!({"primary_failure_action": "failover", "primary_failure_timeout": "5s"});
    assert_eq!(site.ask(1 - leader, "PATCH", "/config", &change).await.status, 200);
    let begin = ptarmigan_clock::now();
    wait_until("another leader", LIMIT, || async {
        let key = site.key("leader").await;
        ensure!(key.as_ref().is_some_and(|key| key.value == site.name(1 - leader)), "{key:?}");
        Ok(())
    })
    .await
    .unwrap();
    eprintln!("it gave way {:?} after it was configured so", ptarmigan_clock::now().since(begin));
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    assert_eq!(site.settled().await, 1 - leader);
    let status = site.node(leader).patroni().await.unwrap();
    assert_eq!(status.get("ailment"), None, "{status}");
    assert!(site.log(leader).contains("stopped PostgreSQL to fail over: it accepts no connection"));
    writer.stop();
    prober.finish();
}

/// At the shortest lease a primary that answers nothing is no reason to lose it.
#[tokio::test]
async fn a_silent_postgresql_delays_no_renewal() {
    let (mut site, leader) = crate::short_lease::ready("ailing-short", 1).await;
    let lock = site.key("leader").await.unwrap();
    let pids = site.servers(leader, "postgres");
    for &pid in &pids {
        kill_process(pid, Signal::STOP).unwrap();
    }
    crate::short_lease::until(ptarmigan_clock::now() + Duration::from_secs(12)).await;
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.create_revision), (lock.value, lock.create_revision));
    for pid in pids {
        kill_process(pid, Signal::CONT).unwrap();
    }
    assert_eq!(site.settled().await, leader);
}
