//! Maintenance mode: PostgreSQL is in an operator's hands, who stops and starts it, restarts a daemon, names another leader,
//! and loses etcd on top of it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use ptarmigan_testkit::wait_until;
use serde_json::Value;

use crate::site::{LIMIT, Site, TTL};

async fn member(site: &Site, index: usize) -> Value {
    let key = site.key(&format!("members/{}", site.name(index))).await;
    key.map_or(Value::Null, |key| serde_json::from_str(&key.value).unwrap())
}

async fn wait_for_state(site: &Site, index: usize, state: &str, role: &str) {
    wait_until(&format!("{} to be {state} as {role}", site.name(index)), LIMIT, || async {
        let member = member(site, index).await;
        ensure!(member["state"] == state && member["role"] == role, "{member}");
        Ok(())
    })
    .await
    .unwrap();
}

async fn wait_for_holder(site: &Site, holder: Option<usize>) {
    let wanted = holder.map(|index| site.name(index));
    wait_until(&format!("the lock to be held by {wanted:?}"), LIMIT, || async {
        let found = site.key("leader").await.map(|key| key.value);
        ensure!(found == wanted, "{found:?}");
        Ok(())
    })
    .await
    .unwrap();
}

/// Waits until a daemon has said that in so many further cycles.
async fn wait_for_lines(site: &Site, index: usize, text: &str, times: usize) {
    let start = site.log_lines(index);
    wait_until(&format!("{times} times {text:?} by {}", site.name(index)), LIMIT, || async {
        let seen = site.log_since(index, start).matches(text).count();
        ensure!(seen >= times, "{seen}");
        Ok(())
    })
    .await
    .unwrap();
}

async fn write(site: &Site, index: usize) {
    site.sql(index, "INSERT INTO written DEFAULT VALUES").await.unwrap();
}

#[tokio::test]
async fn in_pause_an_operator_stops_starts_and_moves_what_the_daemons_leave_alone() {
    let (mut site, primary) = Site::ready("pause", 2, |_| {}).await;
    let standby = 1 - primary;
    site.sql(primary, "CREATE TABLE written (at timestamptz DEFAULT now())").await.unwrap();
    let paused = site.ptctl(&["pause", "--wait"]).await;
    assert!(paused.ends_with("Success: cluster management is paused\n"), "{paused}");
    for index in 0..2 {
        assert_eq!(member(&site, index).await["pause"], true);
        assert_eq!(site.node(index).patroni().await.unwrap()["pause"], true);
    }
    standby_by_hand(&site, standby).await;
    primary_by_hand(&site, primary, standby).await;
    daemon_restarted(&mut site, primary).await;

    // A manual failover names its candidate, and the old primary comes back as a standby.
    let answer = site.ptctl(&["failover", "--candidate", &site.name(standby), "--force"]).await;
    assert!(answer.contains("Successfully failed over"), "{answer}");
    wait_for_holder(&site, Some(standby)).await;
    wait_for_state(&site, standby, "running", "primary").await;
    wait_for_state(&site, primary, "running", "replica").await;
    assert_eq!(site.timeline(standby).await.unwrap(), 2);
    let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    site.wait_for_sql(standby, streams, "1").await;

    without_etcd(&mut site, standby).await;

    let resumed = site.ptctl(&["resume", "--wait"]).await;
    assert!(resumed.ends_with("Success: cluster management is resumed\n"), "{resumed}");
    assert_eq!(site.settled().await, standby);
    assert_eq!(site.timeline(standby).await.unwrap(), 2);
    wait_for_lines(&site, standby, " INFO: no action. I am (", 1).await;
}

/// A standby that is stopped stays stopped, and is seen again when it runs.
async fn standby_by_hand(site: &Site, standby: usize) {
    site.pg_ctl(standby, &["stop", "-m", "fast"]).await;
    wait_for_state(site, standby, "stopped", "replica").await;
    wait_for_lines(site, standby, "PAUSE: postgres is not running", 2).await;
    assert!(site.node(standby).postmaster_pid().is_err());
    site.pg_ctl(standby, &["start"]).await;
    wait_for_state(site, standby, "running", "replica").await;
    wait_until("health checks to call it a replica", LIMIT, || async {
        ensure!(site.node(standby).is_replica().await);
        Ok(())
    })
    .await
    .unwrap();
}

/// With a primary that is stopped the lock goes, nobody takes it, and it comes back with the primary.
async fn primary_by_hand(site: &Site, primary: usize, standby: usize) {
    site.pg_ctl(primary, &["stop", "-m", "fast"]).await;
    wait_for_holder(site, None).await;
    wait_for_state(site, primary, "stopped", "primary").await;
    wait_for_lines(site, standby, "PAUSE: no action. I am (", 3).await;
    assert!(site.key("leader").await.is_none());
    assert!(site.node(primary).postmaster_pid().is_err());
    site.pg_ctl(primary, &["start"]).await;
    wait_for_holder(site, Some(primary)).await;
    wait_for_state(site, primary, "running", "primary").await;
    write(site, primary).await;
    assert_eq!(site.timeline(primary).await.unwrap(), 1);
    assert_eq!(site.said("promoted self to leader"), 0);
}

/// The end of a daemon touches neither PostgreSQL nor the lock, and its next life finds both.
async fn daemon_restarted(site: &mut Site, primary: usize) {
    let postmaster = site.node(primary).postmaster_pid().unwrap();
    let lock = site.key("leader").await.unwrap();
    site.node_mut(primary).stop(LIMIT).await.unwrap();
    write(site, primary).await;
    let kept = site.key("leader").await.unwrap();
    assert_eq!((kept.value, kept.create_revision), (lock.value, lock.create_revision));
    site.node_mut(primary).start().unwrap();
    wait_for_lines(site, primary, "PAUSE: no action. I am (", 2).await;
    wait_for_holder(site, Some(primary)).await;
    wait_until("health checks to call it a primary", LIMIT, || async {
        ensure!(site.node(primary).is_primary().await);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(site.node(primary).postmaster_pid().unwrap(), postmaster);
    wait_for_state(site, primary, "running", "primary").await;
}

/// Without etcd a paused primary stays one, also beyond the end of its lease.
async fn without_etcd(site: &mut Site, primary: usize) {
    let postmaster = site.node(primary).postmaster_pid().unwrap();
    let before = site.key("leader").await.unwrap().create_revision;
    site.cluster.store.freeze(0).unwrap();
    let over = ptarmigan_clock::now() + TTL + Duration::from_secs(3);
    wait_for_lines(site, primary, "PAUSE: DCS is not accessible", 1).await;
    while ptarmigan_clock::now() < over {
        write(site, primary).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(site.node(primary).is_primary().await, "health checks go by the role");
    site.cluster.store.thaw(0).unwrap();
    // The lease ran out meanwhile, and etcd deletes the key a moment after it wakes: until then the old one is there.
    wait_until("a leader key of a new lease", LIMIT, || async {
        let key = site.key("leader").await.context("no key")?;
        ensure!(key.value == site.name(primary) && key.create_revision > before, "{}", key.value);
        Ok(())
    })
    .await
    .unwrap();
    wait_until("the member keys", LIMIT, || async {
        let state = member(site, primary).await["state"].as_str().map(str::to_owned);
        ensure!(state.context("no key")? == "running");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(site.node(primary).postmaster_pid().unwrap(), postmaster);
    assert_eq!(site.said("demoting self"), 1, "the failover's alone");
}
