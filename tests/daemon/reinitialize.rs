//! Replicas from nothing, by other ways than `pg_basebackup`, and anew (contract B.17.3, RI-1, RI-2).

use std::{fs, path::PathBuf};

use anyhow::ensure;
use ptarmigan_testkit::{postgres, wait_until};
use serde_json::{Value, json};

use crate::site::{LIMIT, Site, home_of, script};

/// Two methods of the operator's before `basebackup`: one that fails, and one that copies with the arguments it is given. Where
/// the file `hang` lies beside them, the second one never ends.
fn with_methods(config: &mut Value) {
    let home = home_of(config);
    let broken = script(
        &home.join("broken.sh"),
        "cd \"$(dirname \"$0\")\"\nif [ -e data/marker ]; then kept=' with its data'; fi\n\
         echo \"broken $@${kept:-}\" >> methods\nexit 1",
    );
    let copier = script(
        &home.join("copier.sh"),
        &format!(
            "here=$(dirname \"$0\")\necho \"copier $@\" >> \"$here/methods\"\n\
             for word; do case $word in --datadir=*) data=${{word#*=}};; --connstring=*) source=${{word#*=}};; esac; done\n\
             if [ -e \"$here/hang\" ]; then sleep 600; fi\n\
             rm -f \"$data/kept\"\n{}/pg_basebackup -X stream -c fast -D \"$data\" --dbname=\"$source\"",
            postgres::bin_dir().unwrap().display()
        ),
    );
    let section = &mut config["postgresql"];
    section["create_replica_methods"] = json!(["broken", "copier", "basebackup"]);
    section["broken"] = json!({"command": broken, "no_params": true, "level": 3, "keep_data": true});
    section["copier"] = json!({"command": format!("{copier} first"), "fast": true, "name": "a b"});
    section["basebackup"] = json!([{"checkpoint": "fast"}, {"max-rate": "'500M'"}, {"pgdata": "/nowhere"}]);
}

struct Methods(PathBuf);

impl Methods {
    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.join("methods")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

async fn reinitialize(site: &Site, index: usize, body: &Value) -> (u16, String) {
    let answer = site.ask(index, "POST", "/reinitialize", body).await;
    (answer.status, answer.body)
}

/// Waits until a file that the old data directory had is gone, and the node streams again.
async fn wait_for_new_data(site: &mut Site, index: usize, marker: &str) {
    let path = site.node(index).data_dir().join(marker);
    wait_until("another data directory", LIMIT, || async {
        ensure!(!path.exists());
        Ok(())
    })
    .await
    .unwrap();
    site.settled().await;
    site.wait_for_sql(index, "SELECT x FROM t", "7").await;
}

#[tokio::test]
async fn ri_2_replicas_are_made_anew_by_the_configured_methods_or_from_the_leader() {
    let (mut site, leader) = Site::ready("reinitialize", 2, with_methods).await;
    let replica = 1 - leader;
    let methods = Methods(site.node(replica).home().to_owned());
    let data = site.node(replica).data_dir();

    let lines = methods.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], "broken --level=3");
    let port = site.node(leader).postgres_port();
    let expected = format!(
        "copier first --fast=True --name=a b --scope=demo --role=replica --datadir={} --connstring=",
        data.display()
    );
    let connstring = lines[1].strip_prefix(&expected).unwrap_or_else(|| panic!("{lines:?}"));
    assert!(
        connstring.contains(&format!("port={port}")) && connstring.contains("user=replicator"),
        "{connstring}"
    );
    assert!(!connstring.contains(&site.cluster.credentials.replication), "{connstring}");
    site.sql(leader, "CREATE TABLE t AS SELECT 7 AS x").await.unwrap();
    site.wait_for_sql(replica, "SELECT x FROM t", "7").await;

    // RI-1
    let refused = reinitialize(&site, leader, &json!({})).await;
    assert_eq!(refused, (503, "I am the leader, can not reinitialize".to_owned()));

    // by the methods
    fs::write(data.join("marker"), "").unwrap();
    let accepted = reinitialize(&site, replica, &json!({})).await;
    assert_eq!(accepted, (200, "reinitialize started".to_owned()));
    wait_for_new_data(&mut site, replica, "marker").await;
    let lines = methods.lines();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[2], "broken --level=3 with its data");

    // from the leader: nothing but pg_basebackup
    fs::write(data.join("marker"), "").unwrap();
    let said = site.ptctl(&["reinit", "demo", &site.name(replica), "--force", "--from-leader"]).await;
    assert!(said.contains("Success: reinitialize for member"), "{said}");
    wait_for_new_data(&mut site, replica, "marker").await;
    assert_eq!(methods.lines().len(), 4, "{:?}", methods.lines());
    assert!(site.log(replica).contains("replica has been created using basebackup"));
    assert!(
        site.log(replica).contains("postgresql.basebackup.pgdata"),
        "an option that may not be set is told of"
    );

    // one that hangs is in the way, unless it is forced out of it
    fs::write(site.node(replica).home().join("hang"), "").unwrap();
    assert_eq!(reinitialize(&site, replica, &json!({})).await.0, 200);
    wait_until("a method that hangs", LIMIT, || async {
        ensure!(methods.lines().len() == 6, "{:?}", methods.lines());
        Ok(())
    })
    .await
    .unwrap();
    let busy = reinitialize(&site, replica, &json!({})).await;
    assert_eq!(busy, (503, "reinitialize already in progress".to_owned()));
    fs::remove_file(site.node(replica).home().join("hang")).unwrap();
    assert_eq!(reinitialize(&site, replica, &json!({"force": true})).await.0, 200);
    assert_eq!(site.settled().await, leader);
    site.wait_for_sql(replica, "SELECT x FROM t", "7").await;
}
