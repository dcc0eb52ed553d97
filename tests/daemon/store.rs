//! etcd falls silent, loses a member, or holds what nobody can read.

use std::time::Duration;

use anyhow::ensure;
use ptarmigan_testkit::{store::Kind, wait_until};
use serde_json::Value;

use crate::site::{LIMIT, Site, TTL};

#[tokio::test]
async fn ha_402_a_leader_without_etcd_is_read_only_before_its_lease_can_end() {
    let (mut site, leader) = Site::ready("silent", 2, |_| {}).await;
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let timeline = site.timeline(leader).await.unwrap();

    // the last renewal was sent at most a third of the time to live before this
    site.cluster.store.freeze(0).unwrap();
    let frozen_at = ptarmigan_clock::now();
    wait_until("the leader to be read-only", LIMIT, || async {
        ensure!(site.sql(leader, "SELECT pg_is_in_recovery()").await? == "t", "it is writable");
        Ok(())
    })
    .await
    .unwrap();
    let last = prober.last_of(leader).unwrap().since(frozen_at);
    eprintln!("etcd silent: the last write was acknowledged {last:?} after");
    assert!(last < TTL - TTL / 3, "still writable {last:?} after etcd fell silent");
    for index in 0..2 {
        assert!(!site.node(index).is_primary().await);
        assert!(site.node_mut(index).is_running());
    }
    // reads go on, and so it stays beyond the end of the lease
    let reads = site.sql(leader, "SELECT count(*) FROM ptarmigan_writes").await.unwrap();
    assert!(reads.parse::<usize>().unwrap() >= 20);
    wait_until("the end of the lease", 2 * TTL, || async {
        ensure!(ptarmigan_clock::now().since(frozen_at) > TTL, "not yet");
        Ok(())
    })
    .await
    .unwrap();
    assert!(prober.writes().iter().all(|write| write.at < frozen_at + (TTL - TTL / 3)));

    site.cluster.store.thaw(0).unwrap();
    let new = site.settled().await;
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    let now = site.timeline(new).await.unwrap();
    assert!(now == timeline || now == timeline + 1, "timeline {now} after {timeline}");
    site.assert_one_cluster().await;
    assert_eq!(site.said("trying to bootstrap a new cluster"), 1);
    prober.finish();
    let lost = writer.verify(&site.node(new).connect().await.unwrap()).await.unwrap();
    assert!(new != leader || lost.is_empty(), "the same node leads, and lost {lost:?}");
}

#[tokio::test]
async fn a_member_of_etcd_is_lost_and_nothing_happens() {
    let mut site = Site::start_on("member", 2, Kind::from_env(), 3, |_| {}).await;
    let leader = site.settled().await;
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let lock = site.key("leader").await.unwrap();
    let postmasters = [0, 1].map(|index| site.node(index).postmaster_pid().unwrap());
    writer.mark();

    // each of the three once: whichever the nodes talk to, and etcd's own leader
    for member in 0..3 {
        site.cluster.store.kill(member).unwrap();
        for index in 0..2 {
            site.wait_for_cycles(index, 2).await;
        }
        site.cluster.store.restart(member).await.unwrap();
    }
    let gap = writer.longest_gap();
    eprintln!("etcd lost each of its members: longest gap {gap:?}");
    assert_eq!(writer.failed(), []);
    assert!(gap < Duration::from_secs(1), "{gap:?}");
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.create_revision), (lock.value, lock.create_revision));
    assert_eq!([0, 1].map(|index| site.node(index).postmaster_pid().unwrap()), postmasters);
    assert_eq!(site.said("DCS is not accessible"), 0);
    assert_eq!(site.settled().await, leader);
    prober.finish();
}

const GARBAGE: [&str; 4] = ["not json", "{\"a\": ", "[1, null]", "\"\u{1F427}\""];
const KEYS: [&str; 9] = [
    "config",
    "failover",
    "status",
    "sync",
    "history",
    "failsafe",
    "initialize",
    "members/node1",
    "members/ghost",
];

#[tokio::test]
async fn garbage_in_any_key_disturbs_nobody() {
    let (mut site, leader) = Site::ready("garbage", 2, |_| {}).await;
    let prober = site.prober();
    let lock = site.key("leader").await.unwrap();
    let postmasters = [0, 1].map(|index| site.node(index).postmaster_pid().unwrap());
    let identity = site.key("initialize").await.unwrap().value;
    for garbage in GARBAGE {
        for key in KEYS {
            site.put(key, garbage).await;
        }
        for index in 0..2 {
            site.wait_for_cycles(index, 2).await;
            assert!(site.node_mut(index).is_running());
            for path in ["/patroni", "/cluster", "/history", "/config"] {
                let answer = site.node(index).get(path).await.unwrap();
                assert!(answer.status != 500, "{path} with {garbage}: {} {}", answer.status, answer.body);
            }
        }
        assert!(site.node(leader).is_primary().await, "{garbage}");
        assert_eq!(site.key("leader").await.unwrap().create_revision, lock.create_revision);
    }
    // what the leader and the members own is right again, and a wish that says nothing is gone
    for key in ["config", "status", "members/node1"] {
        wait_until(&format!("a good {key}"), LIMIT, || async {
            let value = site.key(key).await.map(|key| key.value).unwrap_or_default();
            let object = serde_json::from_str::<Value>(&value).is_ok_and(|value| value.is_object());
            ensure!(object, "{value}");
            Ok(())
        })
        .await
        .unwrap();
    }
    let config: Value = serde_json::from_str(&site.key("config").await.unwrap().value).unwrap();
    assert_eq!(config["ttl"], 20, "{config}");
    assert_eq!(site.key("initialize").await.unwrap().value, identity);
    site.delete("members/ghost").await;
    assert_eq!(site.settled().await, leader);
    assert_eq!([0, 1].map(|index| site.node(index).postmaster_pid().unwrap()), postmasters);
    prober.finish();
    another_identity_ends_everybody(&mut site, leader).await;
}

/// `initialize` is written again where it is missing. Where it names another cluster nobody goes on, as with Patroni
/// (HA-088), and nothing is lost.
async fn another_identity_ends_everybody(site: &mut Site, leader: usize) {
    let identity = site.key("initialize").await.unwrap().value;
    assert!(site.delete("initialize").await);
    wait_until("the identity", LIMIT, || async {
        let value = site.key("initialize").await.map(|key| key.value);
        ensure!(value.as_ref() == Some(&identity), "{value:?}");
        Ok(())
    })
    .await
    .unwrap();
    site.sql(leader, "CREATE TABLE kept AS SELECT 7 AS x").await.unwrap();
    site.everything_streamed(leader).await;
    let other = "7000000000000000001";
    site.put("initialize", other).await;
    for index in 0..2 {
        let status = site.node_mut(index).wait_for_end(LIMIT).await.unwrap();
        assert_eq!(status.code(), Some(1));
        let reason =
            format!("node {} belongs to a different cluster: {other} != {identity}", site.name(index));
        assert!(site.log(index).contains(&reason), "{}", site.log(index));
        assert!(site.servers(index, "postgres").is_empty());
    }
    site.put("initialize", &identity).await;
    for index in 0..2 {
        site.node_mut(index).start().unwrap();
    }
    let leader = site.settled().await;
    assert_eq!(site.sql(leader, "SELECT x FROM kept").await.unwrap(), "7");
    site.assert_one_cluster().await;
}
