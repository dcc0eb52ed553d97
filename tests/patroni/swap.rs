//! The daemon of a node is replaced by the other one while its PostgreSQL runs on.

use anyhow::{Context as _, ensure};
use ptarmigan_testkit::wait_until;

use crate::lab::{Kind, Lab, SOON};

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
    for index in [1, 0] {
        let guardian = lab.node(index).guardian_pid();
        assert!(guardian.is_some(), "node{} has a guardian", index + 1);
        swap(&mut lab, index, Kind::Patroni).await;
        println!("guardian of node{}: {guardian:?}, then {:?}", index + 1, lab.node(index).guardian_pid());
    }
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

/// Kills the node's daemon, starts the other one, and waits until it manages the very same postmaster.
async fn swap(lab: &mut Lab, index: usize, kind: Kind) {
    let leader = lab.cluster.wait_for_leader(SOON).await.unwrap();
    let before = lab.node(index).postmaster_pid().unwrap();
    let started = lab.ask(index, "SELECT pg_postmaster_start_time()::text").await.unwrap();
    let agreed = lab.wait_until_all_agree(leader).await;
    lab.node(index).kill_daemon().unwrap();
    lab.swap(index, kind);
    lab.node(index).start().unwrap();
    let this = &*lab;
    let taken = wait_until("the new daemon's own document", SOON, || async {
        let own = this.cluster.nodes[index].patroni().await?;
        ensure!(own["state"] == "running", "{own}");
        let role = if index == leader { "/primary" } else { "/replica" };
        let answer = this.cluster.nodes[index].get(role).await?;
        ensure!(answer.status == 200, "{role}: {}", answer.body);
        Ok(own)
    })
    .await;
    let own = taken.with_context(|| lab.cluster.logs(30)).unwrap();
    println!("node{} is {kind:?}'s now: {own}", index + 1);
    // name, role, timeline, addresses: nothing has changed, only the daemon
    assert_eq!(lab.wait_until_all_agree(leader).await, agreed);
    assert_eq!(lab.node(index).postmaster_pid().unwrap(), before, "restarted\n{}", lab.cluster.logs(30));
    assert_eq!(lab.ask(index, "SELECT pg_postmaster_start_time()::text").await.unwrap(), started);
}
