//! A main cluster and a standby cluster: bootstrapped from it, its leader lost, and the two change their places.

use std::time::Duration;

use anyhow::{Result, ensure};
use ptarmigan_testkit::{Node, wait_until};
use serde_json::{Value, json};

use crate::site::{LIMIT, Site};

/// Nodes of the standby cluster.
const ELSEWHERE: [&str; 2] = ["elsewhere1", "elsewhere2"];

async fn members(node: &Node) -> Result<Vec<Value>> {
    let cluster = node.get("/cluster").await?.json()?;
    Ok(cluster["members"].as_array().cloned().unwrap_or_default())
}

/// The index of the leader of a standby cluster, once it streams as the others do.
async fn standby_leader(nodes: &[Node]) -> Result<usize> {
    let mut last = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let Ok(members) = members(node).await else { continue };
        let leads =
            members.iter().any(|member| member["name"] == node.name() && member["role"] == "standby_leader");
        let streaming = members.iter().filter(|member| member["state"] == "streaming").count();
        if leads && streaming == nodes.len() {
            return Ok(index);
        }
        last = members;
    }
    anyhow::bail!("{}", Value::from(last))
}

async fn settled(what: &str, nodes: &[Node]) -> usize {
    let found = wait_until(what, 2 * LIMIT, || standby_leader(nodes)).await;
    if found.is_err() {
        for node in nodes {
            eprintln!("--- {}\n{}", node.name(), node.log_tail(40));
        }
    }
    found.unwrap()
}

async fn value(node: &Node, query: &str) -> Result<String> {
    let rows = node.connect().await?.simple_query(query).await?;
    let value = rows.iter().find_map(|row| match row {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(value.unwrap_or_default())
}

async fn has(node: &Node, query: &str, wanted: &str) {
    wait_until(&format!("{query} on {} to say {wanted}", node.name()), LIMIT, || async {
        let found = value(node, query).await?;
        ensure!(found == wanted, "it says {found}\n{}", node.log_tail(10));
        Ok(())
    })
    .await
    .unwrap();
}

async fn status(node: &Node, path: &str) -> u16 {
    node.get(path).await.unwrap().status
}

async fn checks(leader: &Node, replica: &Node) {
    for (path, of_leader, of_replica) in [
        ("/standby-leader", 200, 503),
        ("/standby_leader", 200, 503),
        ("/leader", 200, 503),
        ("/primary", 503, 503),
        ("/replica", 503, 200),
        ("/read-only", 200, 200),
        ("/health", 200, 200),
    ] {
        wait_until(&format!("{path} to answer {of_leader} and {of_replica}"), LIMIT, || async {
            let found = (status(leader, path).await, status(replica, path).await);
            ensure!(found == (of_leader, of_replica), "{found:?}: {}", replica.patroni().await?);
            Ok(())
        })
        .await
        .unwrap();
    }
}

/// The daemons of a standby cluster of whoever listens at `port`.
fn start_elsewhere(site: &Site, port: u16) -> Vec<Node> {
    let start = |name: &str| {
        let mut node = site.another(name, |config| {
            config["scope"] = json!("elsewhere");
            config["bootstrap"]["dcs"]["standby_cluster"] = json!({"host": "127.0.0.1", "port": port});
        });
        node.start().unwrap();
        node
    };
    ELSEWHERE.map(start).into()
}

#[tokio::test]
async fn b_17_5_a_standby_cluster_and_the_main_one_change_their_places() {
    let (mut site, main) = Site::ready("standby", 2, |_| {}).await;
    let mut writer = site.writer();
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    site.sql(main, "CREATE TABLE sent (x int)").await.unwrap();
    let port = site.node(main).postgres_port();
    let mut elsewhere = start_elsewhere(&site, port);
    let first = settled("a standby cluster that streams", &elsewhere).await;
    let second = 1 - first;
    checks(&elsewhere[first], &elsewhere[second]).await;
    let list = site.ptctl(&["list", "elsewhere"]).await;
    assert!(list.contains("Standby Leader"), "{list}");
    site.sql(main, "INSERT INTO sent VALUES (1)").await.unwrap();
    has(&elsewhere[second], "SELECT count(*) FROM sent", "1").await;

    // Its leader is lost: the other one turns to the main cluster.
    elsewhere[first].kill_machine().await.unwrap();
    wait_until("another standby leader", 2 * LIMIT, || async {
        ensure!(
            status(&elsewhere[second], "/standby-leader").await == 200,
            "{}",
            elsewhere[second].log_tail(10)
        );
        Ok(())
    })
    .await
    .unwrap();
    site.sql(main, "INSERT INTO sent VALUES (2)").await.unwrap();
    has(&elsewhere[second], "SELECT count(*) FROM sent", "2").await;
    elsewhere[first].start().unwrap();
    let leader = settled("the lost one to come back", &elsewhere).await;
    assert_eq!(leader, second);

    // The main cluster is demoted, with a writer at work, and the standby cluster promoted.
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let new_port = elsewhere[leader].postgres_port().to_string();
    let arguments = ["demote-cluster", "demo", "--host", "127.0.0.1", "--port", &new_port, "--force"];
    let output = site.ptctl(&arguments).await;
    assert!(output.contains("successfully demoted"), "{output}");
    assert_eq!(site.cluster.primaries().await, Vec::<usize>::new());
    for node in site.cluster.nodes.iter().chain(&elsewhere) {
        has(node, "SELECT pg_is_in_recovery()", "t").await;
    }
    let output = site.ptctl(&["promote-cluster", "elsewhere", "--force"]).await;
    assert!(output.contains("successfully promoted"), "{output}");
    assert_eq!(status(&elsewhere[leader], "/primary").await, 200);
    let old = settled("the main cluster to follow", &site.cluster.nodes).await;
    checks(site.node(old), site.node(1 - old)).await;
    value(&elsewhere[leader], "INSERT INTO sent VALUES (3)").await.unwrap();
    for node in site.cluster.nodes.iter().chain(&elsewhere) {
        has(node, "SELECT count(*) FROM sent", "3").await;
    }
    // Nothing that anybody was told is lost, and nobody but the new one has been told anything since.
    writer.stop();
    let lost = writer.verify(&elsewhere[leader].connect().await.unwrap()).await.unwrap();
    assert!(lost.is_empty(), "{} of {} rows", lost.len(), writer.count());

    // And back again.
    let back = site.node(old).postgres_port();
    let config = json!({"standby_cluster": {"host": "127.0.0.1", "port": back}});
    let address = elsewhere[leader].rest_address();
    let request = ptarmigan_testkit::http::Request::new("PATCH", &address, "/config");
    let answer = request.body(config.to_string()).timeout(Duration::from_secs(10)).send().await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    // Whoever has all of its WAL may lead there now.
    let leader = settled("the other cluster to be demoted", &elsewhere).await;
    let output = site.ptctl(&["promote-cluster", "demo", "--force"]).await;
    assert!(output.contains("successfully promoted"), "{output}");
    assert_eq!(site.settled().await, old);
    assert_eq!(settled("the other cluster to follow again", &elsewhere).await, leader);
    site.sql(old, "INSERT INTO sent VALUES (4)").await.unwrap();
    has(&elsewhere[1 - leader], "SELECT count(*) FROM sent", "4").await;
}
