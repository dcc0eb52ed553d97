//! The daemon of a node is replaced by the other one while its PostgreSQL runs on.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use ptarmigan_testkit::{Writer, wait_until};
use serde_json::Value;

use crate::lab::{Kind, Lab, SCOPE, SOON};

#[tokio::test]
async fn we_take_over_patronis_running_servers_and_patroni_takes_over_ours() {
    let Some(mut lab) = Lab::new(&[Kind::Patroni, Kind::Patroni], |_, _| {}).await else { return };
    lab.up().await;
    // the replica first, as one would
    for index in [1, 0] {
        swap(&mut lab, index, Kind::Ptarmigan).await;
    }
    // there and back: both servers were stopped and started by us then, below guardians
    lab.switch_over(0, 0, 1).await;
    lab.wait_until_all_agree(1).await;
    lab.switch_over(1, 1, 0).await;
    lab.wait_until_all_agree(0).await;
    let guardians = [0, 1].map(|index| lab.node(index).guardian_pid());
    assert!(guardians.iter().all(Option::is_some), "{guardians:?}");
    // In pause: the guardian of a daemon that is killed ends PostgreSQL in time, whoever manages it by then.
    replace_everywhere(&mut lab, Kind::Patroni).await;
    // Patroni restarts both servers, and we take those over, beside what is left of the guardians
    lab.switch_over(0, 0, 1).await;
    lab.switch_over(1, 1, 0).await;
    lab.wait_until_all_agree(0).await;
    for index in [1, 0] {
        swap(&mut lab, index, Kind::Ptarmigan).await;
    }
    lab.switch_over(0, 0, 1).await;
    lab.wait_until_all_agree(1).await;
    lab.prober.assert_one_primary();
}

/// What `docs/migration.md` says: a whole cluster of Patroni moves over, node by node, and back again, under a client that writes.
#[tokio::test]
async fn a_cluster_moves_over_node_by_node_and_back_under_a_writer() {
    let Some(mut lab) = Lab::new(&[Kind::Patroni; 3], |_, _| {}).await else { return };
    lab.up().await;
    let mut writer = lab.writer();
    writer.wait_for_rows(20, SOON).await.unwrap();

    writer.mark();
    replace_everywhere(&mut lab, Kind::Ptarmigan).await;
    assert_no_gap(&lab, &writer);
    // The guardian stands behind a server from its next start on: the replicas are restarted, then one of them leads.
    let (leader, candidate) = (0, 1);
    writer.mark();
    for index in [1, 2] {
        let name = format!("node{}", index + 1);
        let printed = lab.ptctl(leader, &["restart", SCOPE, &name, "--force"]).await;
        assert!(printed.contains("Success"), "{printed}");
        lab.wait_until_all_agree(leader).await;
    }
    assert_no_gap(&lab, &writer);
    switch_over(&mut lab, &writer, leader, candidate).await;
    let this = &lab;
    let armed = wait_until("a guardian behind every server", SOON, || async {
        for node in &this.cluster.nodes {
            let own = node.patroni().await?;
            ensure!(own["guardian"]["armed"] == true, "{}: {own}", node.name());
        }
        Ok(())
    })
    .await;
    armed.with_context(|| lab.cluster.logs(30)).unwrap();

    writer.mark();
    replace_everywhere(&mut lab, Kind::Patroni).await;
    assert_no_gap(&lab, &writer);
    switch_over(&mut lab, &writer, candidate, leader).await;
    writer.stop();
    let lost = writer.verify(&lab.cluster.nodes[leader].connect().await.unwrap()).await.unwrap();
    assert_eq!(lost, Vec::<i64>::new(), "acknowledged rows are lost");
    lab.prober.assert_one_primary();
}

/// In pause, in which a daemon that ends leaves its PostgreSQL alone, every daemon is ended and the other one started, the leader's
/// last.
async fn replace_everywhere(lab: &mut Lab, kind: Kind) {
    let leader = lab.cluster.wait_for_leader(SOON).await.unwrap();
    let nodes = lab.cluster.nodes.len();
    lab.set_pause(leader, Kind::Patroni, true).await;
    for step in 1..=nodes {
        let index = (leader + step) % nodes;
        let before = lab.node(index).postmaster_pid().unwrap();
        lab.node(index).stop(SOON).await.unwrap();
        lab.swap(index, kind);
        lab.node(index).start().unwrap();
        wait_until_managed(lab, index, leader).await;
        assert_eq!(lab.node(index).postmaster_pid().unwrap(), before, "restarted\n{}", lab.cluster.logs(30));
        lab.wait_until_all_agree(leader).await;
    }
    lab.set_pause(leader, Kind::Ptarmigan, false).await;
    lab.wait_until_all_agree(leader).await;
    println!("every node is {kind:?}'s now");
}

/// Nothing happened to the client since its mark.
fn assert_no_gap(lab: &Lab, writer: &Writer) {
    let gap = writer.longest_gap();
    assert!(gap < Duration::from_secs(1), "writes stood still for {gap:?}\n{}", lab.cluster.logs(30));
    assert_eq!(writer.failed_since_mark(), vec![], "no statement failed\n{}", lab.cluster.logs(30));
}

async fn switch_over(lab: &mut Lab, writer: &Writer, leader: usize, candidate: usize) {
    writer.mark();
    lab.switch_over(candidate, leader, candidate).await;
    lab.wait_until_all_agree(candidate).await;
    writer.wait_for_rows(5, SOON).await.unwrap();
    println!("switchover: writes stood still for {:?}", writer.longest_gap());
}

/// Kills the node's daemon, starts the other one, and waits until it manages the very same postmaster.
async fn swap(lab: &mut Lab, index: usize, kind: Kind) {
    let leader = lab.cluster.wait_for_leader(SOON).await.unwrap();
    let before = lab.node(index).postmaster_pid().unwrap();
    let started = lab.ask(index, "SELECT pg_postmaster_start_time()::text").await.unwrap();
    let agreed = lab.wait_until_all_agree(leader).await;
    lab.node(index).kill_daemon().unwrap();
    lab.swap(index, kind);
    lab.node(index).start().unwrap();
    let own = wait_until_managed(lab, index, leader).await;
    println!("node{} is {kind:?}'s now: {own}", index + 1);
    // name, role, timeline, addresses: nothing has changed, only the daemon
    assert_eq!(lab.wait_until_all_agree(leader).await, agreed);
    assert_eq!(lab.node(index).postmaster_pid().unwrap(), before, "restarted\n{}", lab.cluster.logs(30));
    assert_eq!(lab.ask(index, "SELECT pg_postmaster_start_time()::text").await.unwrap(), started);
}

/// Waits until the daemon answers for its server, and returns its document.
async fn wait_until_managed(lab: &Lab, index: usize, leader: usize) -> Value {
    let taken = wait_until("the new daemon's own document", SOON, || async {
        let own = lab.cluster.nodes[index].patroni().await?;
        ensure!(own["state"] == "running", "{own}");
        let role = if index == leader { "/primary" } else { "/replica" };
        let answer = lab.cluster.nodes[index].get(role).await?;
        ensure!(answer.status == 200, "{role}: {}", answer.body);
        Ok(own)
    })
    .await;
    taken.with_context(|| lab.cluster.logs(30)).unwrap()
}
