//! Standbys of standbys, and one that lives from the archive.

use std::path::Path;

use ptarmigan_testkit::wait_until;
use serde_json::{Value, json};

use crate::site::{LIMIT, Site};

async fn wait_for_sender(site: &Site, index: usize, sender: usize) {
    let port = site.node(sender).postgres_port().to_string();
    site.wait_for_sql(
        index,
        "SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'",
        &port,
    )
    .await;
}

/// A folder beside those of the nodes.
fn archive(config: &Value) -> String {
    let data_dir = Path::new(config["postgresql"]["data_dir"].as_str().unwrap());
    let workspace = data_dir.ancestors().nth(2).unwrap();
    workspace.join("archive").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn nf_3_a_cascade_whose_middle_dies_goes_on_from_the_leader_and_back() {
    let (leader, middle, leaf) = (0, 1, 2);
    let (mut site, found) = Site::ready("cascade", 3, |config| {
        config["tags"] = match config["name"].as_str().unwrap() {
            "node1" => json!({}),
            "node2" => json!({"nofailover": true}),
            _ => json!({"nofailover": true, "replicatefrom": "node2"}),
        };
        let folder = archive(config);
        let parameters = &mut config["bootstrap"]["dcs"]["postgresql"]["parameters"];
        parameters["archive_mode"] = json!("on");
        parameters["archive_command"] = json!(format!("mkdir -p {folder} && cp %p {folder}/%f"));
    })
    .await;
    assert_eq!(found, leader);
    wait_for_sender(&site, leaf, middle).await;
    wait_for_sender(&site, middle, leader).await;
    site.sql(leader, "CREATE TABLE sent (x int)").await.unwrap();
    site.wait_for_sql(leaf, "SELECT count(*) FROM sent", "0").await;
    let topology = site.ptctl(&["topology"]).await;
    assert!(topology.contains("  + node3"), "{topology}");

    // Archive recovery alone: no stream, no slot.
    let mut archivist = site.another("node4", |config| {
        let folder = archive(config);
        config["tags"] = json!({"nostream": true});
        config["postgresql"]["recovery_conf"] = json!({"restore_command": format!("cp {folder}/%f %p")});
    });
    archivist.start().unwrap();
    wait_until("node4 in archive recovery", 2 * LIMIT, || async {
        let status = archivist.patroni().await?;
        anyhow::ensure!(status["replication_state"] == "in archive recovery", "{status}");
        Ok(())
    })
    .await
    .unwrap();
    site.sql(leader, "INSERT INTO sent VALUES (1)").await.unwrap();
    site.sql(leader, "SELECT pg_switch_wal()").await.unwrap();
    wait_until("the row on node4", LIMIT, || async {
        let row = archivist.connect().await?.query_one("SELECT count(*) FROM sent", &[]).await?;
        anyhow::ensure!(row.get::<_, i64>(0) == 1);
        Ok(())
    })
    .await
    .unwrap();
    let slot = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'node4'";
    assert_eq!(site.sql(leader, slot).await.unwrap(), "0");

    site.node_mut(middle).kill_machine().await.unwrap();
    wait_for_sender(&site, leaf, leader).await;
    site.sql(leader, "INSERT INTO sent VALUES (2)").await.unwrap();
    site.wait_for_sql(leaf, "SELECT count(*) FROM sent", "2").await;

    site.node_mut(middle).start().unwrap();
    wait_for_sender(&site, middle, leader).await;
    wait_for_sender(&site, leaf, middle).await;
    site.sql(leader, "INSERT INTO sent VALUES (3)").await.unwrap();
    site.wait_for_sql(leaf, "SELECT count(*) FROM sent", "3").await;
}
