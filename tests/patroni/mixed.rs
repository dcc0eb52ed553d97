//! One cluster, one node run by Patroni and one by us.

use anyhow::{Context as _, ensure};
use ptarmigan_testkit::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::lab::{FAILOVER, Kind, Lab, SCOPE, SOON};

/// The index of the node that Patroni runs.
const PATRONI: usize = 0;
/// The index of ours.
const OURS: usize = 1;

async fn mixed() -> Option<Lab> {
    let mut lab = Lab::new(&[Kind::Patroni, Kind::Ptarmigan], |_, _| {}).await?;
    lab.up().await;
    Some(lab)
}

#[tokio::test]
async fn a_mixed_cluster_replicates_and_switches_over_by_either_rest() {
    let Some(mut lab) = mixed().await else { return };
    let agreed = lab.wait_until_all_agree(PATRONI).await;
    println!("/cluster: {agreed}");
    assert_slots(&lab).await;

    for (through, leader, candidate) in
        [(PATRONI, PATRONI, OURS), (OURS, OURS, PATRONI), (OURS, PATRONI, OURS), (PATRONI, OURS, PATRONI)]
    {
        lab.switch_over(through, leader, candidate).await;
        lab.wait_until_all_agree(candidate).await;
        assert_row_arrives(&lab, candidate, leader).await;
        assert_checkpoint_done(&lab, candidate).await;
    }
    assert_slots(&lab).await;
    assert_history(&lab, &json!(["node2", "node1", "node2", "node1"])).await;
    lab.prober.assert_one_primary();
}

/// Both show the same timelines, and who was promoted to them; each as of its last cycle.
async fn assert_history(lab: &Lab, leaders: &Value) {
    let same = wait_until("the same /history", SOON, || async {
        let [ours, theirs] = [lab.get(OURS, "/history").await, lab.get(PATRONI, "/history").await];
        ensure!(ours == theirs, "{ours}\n{theirs}");
        let promoted: Value = ours.as_array().into_iter().flatten().map(|entry| entry[4].clone()).collect();
        ensure!(promoted == *leaders, "{promoted}");
        Ok(ours)
    })
    .await;
    println!("/history: {}", same.unwrap());
}

/// A slot of the other member on both: the replica keeps one for the time when it leads.
async fn assert_slots(lab: &Lab) {
    for (index, other) in [(PATRONI, "node2"), (OURS, "node1")] {
        let found = wait_until("the slot of the other member", SOON, || async {
            let query = "SELECT string_agg(slot_name || ' ' || active, ',') FROM pg_replication_slots";
            let slots = lab.ask(index, query).await?;
            ensure!(slots.contains(other), "{slots:?}");
            Ok(slots)
        })
        .await;
        println!("slots on node{}: {}", index + 1, found.with_context(|| lab.cluster.logs(20)).unwrap());
    }
}

/// A row written on the leader reaches the replica.
async fn assert_row_arrives(lab: &Lab, leader: usize, replica: usize) {
    // It holds the lock a moment before its server is promoted.
    let written = wait_until("the new leader to take a row", SOON, || async {
        let client = lab.cluster.nodes[leader].connect().await?;
        let row = "CREATE TABLE IF NOT EXISTS rows (id serial); INSERT INTO rows DEFAULT VALUES";
        Ok(client.batch_execute(row).await?)
    })
    .await;
    written.with_context(|| lab.cluster.logs(20)).unwrap();
    let count = lab.ask(leader, "SELECT count(*)::text FROM rows").await.unwrap();
    let arrived = wait_until("the row on the replica", SOON, || async {
        let there = lab.ask(replica, "SELECT count(*)::text FROM rows").await?;
        ensure!(there == count, "{there} of {count}");
        Ok(())
    })
    .await;
    arrived.with_context(|| lab.cluster.logs(20)).unwrap();
}

/// The other's rewind waits for `checkpoint_after_promote` to go from the new leader's member key.
async fn assert_checkpoint_done(lab: &Lab, leader: usize) {
    let done = wait_until("the checkpoint after the promotion", SOON, || async {
        let key = format!("/service/{SCOPE}/members/node{}", leader + 1);
        let member = lab.cluster.store.get(&key).await?.context("no member key")?.value;
        let member: Value = serde_json::from_str(&member)?;
        ensure!(member["role"] == "primary" && member.get("checkpoint_after_promote").is_none(), "{member}");
        Ok(())
    })
    .await;
    done.with_context(|| lab.cluster.logs(20)).unwrap();
}

#[tokio::test]
async fn each_takes_over_from_the_other_and_rewinds_to_it() {
    let Some(mut lab) = mixed().await else { return };
    lab.patch_config(PATRONI, &json!({"maximum_lag_on_failover": 1 << 30})).await;
    lab.switch_over(PATRONI, PATRONI, OURS).await;
    assert_row_arrives(&lab, OURS, PATRONI).await;
    for (lost, heir) in [(OURS, PATRONI), (PATRONI, OURS)] {
        let start = ptarmigan_clock::now();
        let rewinds = count_rewinds(&lab, lost);
        lose_unreplicated(&mut lab, lost, heir).await;
        let leader = lab.cluster.wait_for_leader(FAILOVER).await.unwrap();
        assert_eq!(leader, heir);
        println!("node{} took over after {:?}", heir + 1, ptarmigan_clock::now().since(start));
        // Patroni answers 200 to /primary from the moment it has the lock
        wait_until("a write on the new primary", SOON, || async {
            let client = lab.cluster.nodes[heir].connect().await?;
            Ok(client.batch_execute("INSERT INTO rows DEFAULT VALUES").await?)
        })
        .await
        .unwrap();
        println!("node{} took a write after {:?}", heir + 1, ptarmigan_clock::now().since(start));
        lab.node(lost).start().unwrap();
        lab.cluster.wait_for_replicas(FAILOVER).await.unwrap();
        lab.wait_until_all_agree(heir).await;
        assert_row_arrives(&lab, heir, lost).await;
        assert!(count_rewinds(&lab, lost) > rewinds, "no rewind\n{}", lab.cluster.logs(60));
        println!("node{} was back, rewound, after {:?}", lost + 1, ptarmigan_clock::now().since(start));
    }
    lab.prober.assert_one_primary();
}

/// The whole node of the leader is lost, with transactions that the other never got: only `pg_rewind` brings it back.
async fn lose_unreplicated(lab: &mut Lab, leader: usize, replica: usize) {
    let receiver = lab.ask(replica, "SELECT pid::text FROM pg_stat_wal_receiver").await.unwrap();
    let receiver = Pid::from_raw(receiver.parse().unwrap()).unwrap();
    kill_process(receiver, Signal::STOP).unwrap();
    let client = lab.cluster.nodes[leader].connect().await.unwrap();
    // more than sockets and buffers between the two can hold
    let ballast = "DROP TABLE IF EXISTS ballast; \
                   CREATE TABLE ballast AS SELECT repeat(md5(i::text), 30) FROM generate_series(1, 40000) i";
    client.batch_execute(ballast).await.unwrap();
    lab.node(leader).kill_machine().await.unwrap();
    kill_process(receiver, Signal::CONT).unwrap();
}

/// Both daemons word it alike.
fn count_rewinds(lab: &Lab, index: usize) -> usize {
    lab.cluster.nodes[index].log_tail(100_000).matches("running pg_rewind from").count()
}

#[tokio::test]
async fn patronictl_works_on_our_members_and_config_reaches_everyone() {
    let Some(mut lab) = mixed().await else { return };
    lab.wait_until_all_agree(PATRONI).await;
    let list = list(&lab).await;
    println!("patronictl list: {list:?}");
    let column = |name: &str| -> Vec<&Value> { list.iter().map(|row| &row[name]).collect() };
    assert_eq!(column("Member"), ["node1", "node2"]);
    assert_eq!(column("Role"), ["Leader", "Replica"]);
    assert_eq!(column("State"), ["running", "streaming"]);

    // PATCH through one, seen by the other's REST and by both servers
    for (through, size) in [(PATRONI, "5MB"), (OURS, "6MB")] {
        lab.patch_config(through, &json!({"postgresql": {"parameters": {"work_mem": size}}})).await;
        assert_work_mem(&lab, size).await;
    }
    expect(&lab, "show-config", "", "work_mem: 6MB").await;
    expect(&lab, "edit-config", "--pg work_mem=7MB --force", "Configuration changed").await;
    assert_work_mem(&lab, "7MB").await;

    let to_ours = "--leader node1 --candidate node2 --force";
    expect(&lab, "switchover", to_ours, "Successfully switched over to \"node2\"").await;
    lab.wait_until_all_agree(OURS).await;
    expect(&lab, "version", "node2", "node2: Patroni 4.1.").await;
    expect(&lab, "history", "-f json", "\"New Leader\": \"node2\"").await;
    expect(&lab, "restart", "node2 --force", "Success: restart on member node2").await;
    expect(&lab, "reload", "node2 --force", "Reload request received for member node2").await;
    lab.wait_until_all_agree(OURS).await;
    let later = "--leader node2 --candidate node1 --scheduled 2199-01-01T10:00:00+00:00 --force";
    expect(&lab, "switchover", later, "Switchover scheduled").await;
    expect(&lab, "flush", "switchover", "Success: scheduled switchover deleted").await;
    expect(&lab, "failover", "--candidate node1 --force", "Successfully failed over to \"node1\"").await;
    lab.wait_until_all_agree(PATRONI).await;
    expect(&lab, "reinit", "node2 --force --wait", "Reinitialize is completed on: node2").await;
    lab.wait_until_all_agree(PATRONI).await;
    lab.prober.assert_one_primary();
}

/// `patronictl`, with our node's configuration file, prints `wanted`.
async fn expect(lab: &Lab, command: &str, arguments: &str, wanted: &str) {
    let words: Vec<&str> =
        [command, SCOPE].into_iter().chain(arguments.split(' ')).filter(|word| !word.is_empty()).collect();
    let printed = lab.patronictl(OURS, &words).await;
    println!("patronictl {}:\n{printed}", words.join(" "));
    assert!(printed.contains(wanted), "{wanted:?} is missing:\n{printed}{}", lab.cluster.logs(20));
}

async fn list(lab: &Lab) -> Vec<Value> {
    serde_json::from_str(&lab.patronictl(OURS, &["list", "-f", "json"]).await).unwrap()
}

async fn assert_work_mem(lab: &Lab, size: &str) {
    let everywhere = wait_until("the parameter everywhere", SOON, || async {
        for index in [PATRONI, OURS] {
            let config = lab.cluster.nodes[index].get("/config").await?.json()?;
            ensure!(config["postgresql"]["parameters"]["work_mem"] == size, "node{}: {config}", index + 1);
            let set = lab.ask(index, "SHOW work_mem").await?;
            ensure!(set == size, "node{}: {set}", index + 1);
        }
        Ok(())
    })
    .await;
    everywhere.with_context(|| lab.cluster.logs(20)).unwrap();
}
