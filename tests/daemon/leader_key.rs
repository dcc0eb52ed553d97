//! The leader key is lost or changed under a leader that is well.

use anyhow::ensure;
use ptarmigan_testkit::wait_until;

use crate::site::{LIMIT, Site};

/// Waits until a node holds the key that was created after `revision`, and is the primary.
async fn wait_for_holder(site: &mut Site, revision: i64) -> usize {
    wait_until("a new holder of the lock", 2 * LIMIT, || async {
        let key = site.key("leader").await;
        ensure!(key.as_ref().is_some_and(|key| key.create_revision > revision), "{key:?}");
        Ok(())
    })
    .await
    .unwrap();
    let leader = site.settled().await;
    assert_eq!(site.key("leader").await.unwrap().value, site.name(leader));
    leader
}

#[tokio::test]
async fn ul_2_a_leader_whose_key_is_lost_steps_down_or_wins_it_again() {
    let (mut site, _) = Site::ready("key", 2, |_| {}).await;
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();

    // deleted while its lease lives
    let key = site.key("leader").await.unwrap();
    assert!(site.delete("leader").await);
    wait_for_holder(&mut site, key.create_revision).await;

    // the lease itself is gone, and with it the key and the member
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    let key = site.key("leader").await.unwrap();
    site.cluster.store.revoke(key.lease.as_ref().unwrap()).await.unwrap();
    let leader = wait_for_holder(&mut site, key.create_revision).await;

    // it names somebody who does not exist: nobody is writable until it is gone again
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    site.put("leader", "nobody").await;
    let revision = site.key("leader").await.unwrap().mod_revision;
    wait_until("the leader to step down", LIMIT, || async {
        let standby = site.sql(leader, "SELECT pg_is_in_recovery()").await?;
        ensure!(standby == "t" && !site.node(leader).is_primary().await, "in recovery: {standby}");
        Ok(())
    })
    .await
    .unwrap();
    let rows = writer.count();
    for index in 0..2 {
        assert_eq!(site.sql(index, "SELECT pg_is_in_recovery()").await.unwrap(), "t");
    }
    assert_eq!(writer.count(), rows);
    assert!(site.delete("leader").await);
    let leader = wait_for_holder(&mut site, revision).await;

    // it names the other node
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    let other = 1 - leader;
    site.put("leader", &site.name(other)).await;
    wait_until("somebody to lead", 2 * LIMIT, || async {
        let (key, primaries) = (site.key("leader").await, site.cluster.primaries().await);
        let held = key.as_ref().filter(|key| key.lease.is_some()).map(|key| key.value.clone());
        let leading = primaries.first().map(|index| site.name(*index));
        ensure!(primaries.len() == 1 && held == leading, "{key:?}, primaries: {primaries:?}");
        Ok(())
    })
    .await
    .unwrap();
    site.settled().await;
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    site.assert_one_cluster().await;
    prober.finish();
}
