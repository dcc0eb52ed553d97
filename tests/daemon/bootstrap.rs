//! How a cluster begins.

use anyhow::ensure;
use ptarmigan_testkit::{node::GUARDIAN, wait_until};
use serde_json::json;

use crate::site::{LIMIT, Site};

/// The other nodes cloned from the one that initialized, stream from it, and have a slot each.
async fn assert_bootstrapped_once(site: &Site, leader: usize) {
    site.assert_one_cluster().await;
    assert_eq!(site.said("trying to bootstrap a new cluster"), 1);
    assert_eq!(site.said("initialized a new cluster"), 1);
    assert!(site.log(leader).contains("initialized a new cluster"));
    let replicas: Vec<usize> = (0..site.cluster.nodes.len()).filter(|index| *index != leader).collect();
    site.sql(leader, "CREATE TABLE t AS SELECT 7 AS x").await.unwrap();
    for replica in replicas {
        let log = site.log(replica);
        assert!(log.contains(&format!("trying to bootstrap from leader '{}'", site.name(leader))), "{log}");
        let slot =
            format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", site.name(replica));
        site.wait_for_sql(leader, &slot, "t").await;
        site.wait_for_sql(replica, "SELECT status FROM pg_stat_wal_receiver", "streaming").await;
        site.wait_for_sql(replica, "SELECT x FROM t", "7").await;
        assert!(site.node(replica).is_replica().await && !site.node(replica).is_primary().await);
    }
}

#[tokio::test]
async fn bs_1_two_nodes_race_and_one_bootstraps() {
    let (site, leader) = Site::ready("race", 2, |_| {}).await;
    assert_bootstrapped_once(&site, leader).await;
    let key = site.key("leader").await.unwrap();
    assert_eq!(key.value, site.name(leader));
    assert!(key.lease.is_some(), "{key:?}");
}

#[tokio::test]
async fn a_cluster_whose_etcd_is_absent_waits_for_it_and_bootstraps_once() {
    let mut site = Site::asleep("absent", 2).await;
    for index in 0..2 {
        site.node_mut(index).start().unwrap();
    }
    for index in 0..2 {
        site.wait_for_log(index, 0, "waiting on DCS").await;
        // it goes on trying, and says so each time
        let first = site.log_lines(index);
        site.wait_for_log(index, first, "waiting on DCS").await;
        assert!(site.node_mut(index).is_running());
        assert!(
            !site.node(index).data_dir().exists()
                || std::fs::read_dir(site.node(index).data_dir()).unwrap().next().is_none()
        );
    }
    site.cluster.store.restart(0).await.unwrap();
    let leader = site.settled().await;
    assert_bootstrapped_once(&site, leader).await;

    // etcd comes and goes once more: what is initialized stays initialized
    site.cluster.store.kill(0).unwrap();
    site.cluster.store.restart(0).await.unwrap();
    site.wait_for_cycles(leader, 1).await;
    assert_eq!(site.said("trying to bootstrap a new cluster"), 1);
}

#[tokio::test]
async fn ha_060_a_failed_bootstrap_gives_the_initialize_key_back() {
    let mut site = Site::start("failed", 1, |config| {
        config["bootstrap"]["initdb"] = json!([{"encoding": "NO-SUCH-ENCODING"}]);
    })
    .await;
    let status = site.node_mut(0).wait_for_end(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(1));
    let log = site.log(0);
    assert!(log.contains("NO-SUCH-ENCODING") && log.contains("failed to bootstrap cluster"), "{log}");
    assert_eq!(site.key("initialize").await, None);
    assert_eq!(site.key("leader").await, None);

    // and one that fails once there is a data directory keeps that under another name
    let mut other = site.another("other", |config| {
        config["bootstrap"]["post_bootstrap"] = json!("/bin/false");
    });
    other.start().unwrap();
    let status = other.wait_for_end(LIMIT).await.unwrap();
    let log = other.log_tail(usize::MAX);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(!other.data_dir().exists(), "{log}");
    assert!(other.home().join("data.failed/PG_VERSION").is_file(), "{log}");
    // the guardian stays a little, in case a daemon comes again
    let left = other.processes();
    assert!(left.iter().all(|process| process.name == GUARDIAN), "{left:?}");
    assert_eq!(site.key("initialize").await, None);

    // the way is free for whoever can
    let mut able = site.another("able", |_| {});
    able.start().unwrap();
    wait_until("the able node to lead", LIMIT, || async {
        ensure!(able.is_primary().await, "{}", able.log_tail(10));
        Ok(())
    })
    .await
    .unwrap();
}
