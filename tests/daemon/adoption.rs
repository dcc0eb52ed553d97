//! A daemon that was killed takes its PostgreSQL and its lock over again; clients notice nothing.

use std::time::Duration;

use anyhow::ensure;
use ptarmigan_testkit::wait_until;

use crate::site::{LIMIT, Site};

/// Kills and restarts a node's daemon, and returns once the new one has run a cycle.
async fn replace_daemon(site: &mut Site, index: usize) {
    let (postmaster, guardian) =
        (site.node(index).postmaster_pid().unwrap(), site.node(index).guardian_pid());
    assert!(guardian.is_some());
    let lines = site.log_lines(index);
    site.node_mut(index).kill_daemon().unwrap();
    assert!(site.node(index).patroni().await.is_err());
    assert!(site.sql(index, "SELECT 1").await.is_ok(), "PostgreSQL went with its daemon");
    site.node_mut(index).start().unwrap();
    site.wait_for_log(index, lines, "taking care of the running PostgreSQL").await;
    site.wait_for_cycles(index, 2).await;
    assert_eq!(site.node(index).postmaster_pid().unwrap(), postmaster);
    assert_eq!(site.node(index).guardian_pid(), guardian);
}

#[tokio::test]
async fn a_restarted_daemon_adopts_postgresql_and_the_lock() {
    let (mut site, leader) = Site::ready("adoption", 2, |_| {}).await;
    let replica = 1 - leader;
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let (timeline, lock) = (site.timeline(leader).await.unwrap(), site.key("leader").await.unwrap());
    writer.mark();

    for index in [leader, replica, leader] {
        replace_daemon(&mut site, index).await;
        // the revision at which it was created: the key was never absent
        let now = site.key("leader").await.unwrap();
        assert_eq!((now.value, now.create_revision), (lock.value.clone(), lock.create_revision));
    }
    wait_until("the roles over REST", LIMIT, || async {
        let (primary, standby) =
            (site.node(leader).is_primary().await, site.node(replica).is_replica().await);
        ensure!(primary && standby, "primary: {primary}, replica: {standby}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(site.settled().await, leader);
    assert_eq!(site.timeline(leader).await.unwrap(), timeline);

    // nobody's write failed, and none waited
    let gap = writer.longest_gap();
    eprintln!("longest gap while daemons were killed: {gap:?}");
    assert_eq!(writer.failed(), []);
    assert!(gap < Duration::from_secs(1), "{gap:?}");
    prober.finish();
    assert_eq!(site.said("promoted self to leader"), 0);
}
