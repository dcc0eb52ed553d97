//! More ways in which a daemon cannot speak for its primary any more, at the shortest lease.

use std::time::Duration;

use anyhow::ensure;
use ptarmigan_testkit::wait_until;
use rustix::process::{Signal, kill_process};

use crate::{
    fence::is_fenced,
    short_lease::{ready, until},
    site::LIMIT,
};

/// Between two tries of the prober.
const OFTEN: Duration = Duration::from_millis(10);

const LEASE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn whatever_becomes_of_a_daemon_its_primary_ends_before_another_one_writes() {
    let (mut site, mut leader) = ready("ways", 1).await;
    let (prober, mut writer) = (site.prober_every(OFTEN), site.writer());
    for way in [
        "no memory",
        "frozen, with a session",
        "frozen, and its key deleted",
        "frozen, and its lease revoked",
    ] {
        writer.wait_for_rows(20, LIMIT).await.unwrap();
        site.everything_streamed(leader).await;
        let key = site.key("leader").await.unwrap();
        // What an allocation that fails ends with.
        let signal = if way == "no memory" { Signal::ABORT } else { Signal::STOP };
        site.node_mut(leader).signal(signal).unwrap();
        match way {
            "frozen, with a session" => {
                for pid in site.servers(leader, "postgres: ") {
                    kill_process(pid, Signal::STOP).unwrap();
                }
            }
            "frozen, and its key deleted" => assert!(site.delete("leader").await),
            "frozen, and its lease revoked" => {
                site.cluster.store.revoke(key.lease.as_ref().unwrap()).await.unwrap();
            }
            _ => {}
        }
        eprintln!("{way}:");
        let new = is_fenced(&mut site, leader, &prober, &writer).await;
        if way == "no memory" {
            site.node_mut(leader).kill_daemon().unwrap();
            site.node_mut(leader).start().unwrap();
        } else {
            site.node_mut(leader).signal(Signal::CONT).unwrap();
        }
        assert_eq!(site.settled().await, new, "{way}");
        leader = new;
    }
    writer.stop();
    prober.finish();
}

/// A replica whose daemon is gone or stands still goes on, and nobody is ended.
#[tokio::test]
async fn a_replica_without_its_daemon_goes_on() {
    let (mut site, leader) = ready("ways-replica", 1).await;
    let (prober, writer) = (site.prober(), site.writer());
    let replica = (leader + 1) % 3;
    for way in [Signal::STOP, Signal::KILL] {
        writer.wait_for_rows(20, LIMIT).await.unwrap();
        writer.mark();
        let postmaster = site.node(replica).postmaster_pid().unwrap();
        site.node_mut(replica).signal(way).unwrap();
        until(ptarmigan_clock::now() + 3 * LEASE).await;
        site.everything_streamed(leader).await;
        assert_eq!(site.node(replica).postmaster_pid().unwrap(), postmaster);
        assert_eq!(site.sql(replica, "SELECT pg_is_in_recovery()").await.unwrap(), "t");
        assert_eq!(writer.failed(), []);
        assert!(site.node(leader).is_primary().await);
        match way {
            Signal::STOP => site.node_mut(replica).signal(Signal::CONT).unwrap(),
            _ => {
                site.node_mut(replica).kill_daemon().unwrap();
                site.node_mut(replica).start().unwrap();
            }
        }
        assert_eq!(site.settled().await, leader);
    }
    prober.finish();
}

/// The store is silent and everybody has promised: a leader that stands still or is killed is ended at the end of the promise, and
/// another one leads once the store is back.
#[tokio::test]
async fn in_failsafe_mode_a_frozen_or_killed_daemon_is_fenced_too() {
    let (mut site, mut leader) = ready("ways-failsafe", 1).await;
    let (prober, mut writer) = (site.prober_every(OFTEN), site.writer());
    for way in [Signal::STOP, Signal::KILL] {
        writer.wait_for_rows(20, LIMIT).await.unwrap();
        site.everything_streamed(leader).await;
        let failed = writer.failed().len();
        site.cluster.store.freeze(0).unwrap();
        wait_until("failsafe mode", LIMIT, || async {
            let status = site.node(leader).patroni().await?;
            ensure!(status["failsafe_mode_is_active"] == true, "{status}");
            Ok(())
        })
        .await
        .unwrap();
        until(ptarmigan_clock::now() + 2 * LEASE).await;
        writer.wait_for_rows(20, LIMIT).await.unwrap();
        assert_eq!(writer.failed().len(), failed, "by their promise it goes on");
        site.node_mut(leader).signal(way).unwrap();
        wait_until("the end of the server", 2 * LEASE, || async {
            let left = site.servers(leader, "postgres");
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await
        .unwrap();
        site.cluster.store.thaw(0).unwrap();
        wait_until("another leader", LIMIT, || async {
            let key = site.key("leader").await;
            ensure!(key.as_ref().is_some_and(|key| key.value != site.name(leader)), "{key:?}");
            Ok(())
        })
        .await
        .unwrap();
        if way == Signal::STOP {
            site.node_mut(leader).signal(Signal::CONT).unwrap();
        } else {
            site.node_mut(leader).kill_daemon().unwrap();
            site.node_mut(leader).start().unwrap();
        }
        let new = site.settled().await;
        assert_ne!(new, leader);
        leader = new;
    }
    writer.stop();
    prober.finish();
}

/// The daemon says that nobody stands behind the server any more. What the guardian is told meanwhile, it hears too late: the
/// deadline that it knew has passed, so it ends the server, and the daemon, which leads, starts it again.
#[tokio::test]
async fn a_guardian_that_stood_still_past_its_deadline_ends_the_server_when_it_wakes() {
    let (mut site, leader) = ready("ways-guardian", 1).await;
    let (prober, mut writer) = (site.prober_every(OFTEN), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let armed = async |armed: bool| {
        wait_until(&format!("armed: {armed}"), LIMIT, || async {
            let status = site.node(leader).patroni().await?;
            ensure!(status["guardian"]["armed"] == armed, "{status}");
            Ok(())
        })
        .await
        .unwrap();
    };
    armed(true).await;
    writer.mark();
    let guardian = site.node(leader).guardian_pid().unwrap();
    let postmaster = site.node(leader).postmaster_pid().unwrap();
    kill_process(guardian, Signal::STOP).unwrap();
    armed(false).await;
    until(ptarmigan_clock::now() + 3 * LEASE).await;
    assert_eq!(writer.failed(), [], "the lease lives");
    kill_process(guardian, Signal::CONT).unwrap();
    wait_until("the end of the server", LIMIT, || async {
        ensure!(rustix::process::test_kill_process(postmaster).is_err(), "it lives");
        Ok(())
    })
    .await
    .unwrap();
    site.settled().await;
    writer.stop();
    prober.finish();
}
