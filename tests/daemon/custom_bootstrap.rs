//! A new cluster from a backup of another one, recovered to a point in time (contract B.17.2, B.17.4).

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use ptarmigan_testkit::{Node, postgres, process, wait_until};
use serde_json::{Value, json};

use crate::site::{LIMIT, Site, script};

/// Where the first cluster's WAL and base backup are kept.
struct Archive(PathBuf);

impl Archive {
    fn wal(&self) -> PathBuf {
        self.0.join("wal")
    }

    fn base(&self) -> PathBuf {
        self.0.join("base")
    }

    fn restore_command(&self) -> String {
        format!("cp {}/%f %p", self.wal().display())
    }
}

async fn take_base_backup(site: &Site, archive: &Archive) {
    let pg_basebackup = postgres::bin_dir().unwrap().join("pg_basebackup");
    let node = site.node(0);
    let mut command = process::command(&site.workspace, node.home(), pg_basebackup);
    command
        .env("PGPASSWORD", &site.cluster.credentials.replication)
        .args(["-h", "127.0.0.1", "-p", &node.postgres_port().to_string(), "-U", "replicator"])
        .args(["-X", "none", "-c", "fast", "-D"])
        .arg(archive.base());
    process::run(command, LIMIT).await.unwrap();
}

/// Waits until everything written up to now is in the archive.
async fn archived(site: &Site, archive: &Archive) {
    let segment = site.sql(0, "SELECT pg_walfile_name(pg_current_wal_lsn())").await.unwrap();
    site.sql(0, "SELECT pg_switch_wal()").await.unwrap();
    wait_until(&format!("{segment} in the archive"), LIMIT, || async {
        ensure!(archive.wal().join(&segment).exists());
        Ok(())
    })
    .await
    .unwrap();
}

/// A cluster of one node beside the first, made by a command that restores the backup.
fn restored(site: &Site, name: &str, archive: &Archive, change: impl FnOnce(&mut Value)) -> Node {
    let restore = script(
        &archive.0.join(format!("{name}.sh")),
        &format!(
            "echo \"$@\" > {0}/{name}.arguments\nfor word; do case $word in --datadir=*) data=${{word#--datadir=}};; esac; done\n\
             cp -a {1} \"$data\"\nchmod 700 \"$data\"\ntouch \"$data/standby.signal\"",
            archive.0.display(),
            archive.base().display(),
        ),
    );
    site.another(name, |config| {
        config["scope"] = json!(name);
        config["bootstrap"]["method"] = json!("from_backup");
        config["bootstrap"]["from_backup"] = json!({
            "command": format!("{restore} 'two words'"),
            "stanza": "demo",
            "delta": true,
            "recovery_conf": {"restore_command": archive.restore_command(), "recovery_target_action": "promote"},
        });
        change(config);
    })
}

async fn sql(node: &Node, query: &str) -> Result<String> {
    let client = node.connect().await?;
    let rows = client.simple_query(query).await?;
    let value = rows.iter().find_map(|row| match row {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    value.context("no row")
}

async fn leads(node: &Node) {
    wait_until(&format!("{} to lead its cluster", node.name()), LIMIT, || async {
        ensure!(node.is_primary().await, "{}", node.log_tail(15));
        Ok(())
    })
    .await
    .unwrap();
}

/// The first cluster: rows before the backup, rows up to a name, rows after it, all of it archived.
async fn first_cluster() -> (Site, Archive) {
    let (site, _) = Site::ready("custom-bootstrap", 1, |config| {
        let parameters = &mut config["bootstrap"]["dcs"]["postgresql"]["parameters"];
        parameters["archive_mode"] = json!("on");
        parameters["archive_command"] = json!("mkdir -p ../archive/wal && cp %p ../archive/wal/%f");
        // More than the restored cluster has: with hot_standby on its recovery would stop at that.
        parameters["max_connections"] = json!(120);
    })
    .await;
    let archive = Archive(site.node(0).home().join("archive"));
    site.sql(0, "CREATE TABLE t AS SELECT 1 AS x").await.unwrap();
    take_base_backup(&site, &archive).await;
    site.sql(0, "INSERT INTO t VALUES (2)").await.unwrap();
    site.sql(0, "SELECT pg_create_restore_point('before the accident')").await.unwrap();
    site.sql(0, "DELETE FROM t").await.unwrap();
    site.sql(0, "INSERT INTO t VALUES (3)").await.unwrap();
    archived(&site, &archive).await;
    (site, archive)
}

#[tokio::test]
async fn b_17_2_a_backup_is_restored_to_a_point_in_time() {
    let (site, archive) = first_cluster().await;
    let folder = archive.0.clone();
    let told = folder.join("post_init");
    let callbacks = folder.join("callbacks");
    let psql = postgres::bin_dir().unwrap().join("psql");
    let post_init = script(
        &folder.join("post_init.sh"),
        &format!(
            "echo \"$# $1 $2\" > {0}\necho \"$PGOPTIONS\" >> {0}\n{1} -Atc \"SELECT 'in recovery ' || pg_is_in_recovery()\" \"$2\" >> {0}\n\
             {1} -qc 'CREATE TABLE made_by_post_init ()' \"$2\"",
            told.display(),
            psql.display(),
        ),
    );
    let callback = script(&folder.join("callback.sh"), &format!("echo \"$@\" >> {}", callbacks.display()));
    let mut node = restored(&site, "pitr", &archive, |config| {
        let section = &mut config["bootstrap"]["from_backup"]["recovery_conf"];
        section["recovery_target_name"] = json!("before the accident");
        section["recovery_target_timeline"] = json!("latest");
        config["bootstrap"]["post_init"] = json!(format!("{post_init} first"));
        config["bootstrap"]["dcs"]["postgresql"]["parameters"]["max_connections"] = json!(60);
        for event in ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"] {
            config["postgresql"]["callbacks"][event] = json!(callback);
        }
    });
    node.start().unwrap();
    leads(&node).await;

    assert_eq!(sql(&node, "SELECT string_agg(x::text, ',' ORDER BY x) FROM t").await.unwrap(), "1,2");
    let status = node.patroni().await.unwrap();
    assert_eq!(status["timeline"], json!(2), "the end of the recovery begins a timeline: {status}");
    let arguments = fs::read_to_string(folder.join("pitr.arguments")).unwrap();
    let data = node.data_dir();
    assert_eq!(
        arguments,
        format!("two words --scope=pitr --datadir={} --stanza=demo --delta=True\n", data.display())
    );
    let told = fs::read_to_string(&told).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].starts_with("2 first ") && lines[0].contains("dbname=postgres"), "{told}");
    assert!(!told.contains(&site.cluster.credentials.superuser), "{told}");
    assert!(lines[1].contains("synchronous_commit=local") && lines[2] == "in recovery false", "{told}");
    sql(&node, "SELECT count(*) FROM made_by_post_init").await.unwrap();

    // What was different while it recovered is as configured again, after the restart that this took.
    assert_eq!(sql(&node, "SHOW max_connections").await.unwrap(), "60");
    assert_eq!(sql(&node, "SHOW hot_standby").await.unwrap(), "on");
    let hba = fs::read_to_string(data.join("pg_hba.conf")).unwrap();
    assert!(hba.contains("replicator 127.0.0.1/32 md5") && !hba.contains("trust"), "{hba}");
    for file in ["recovery.signal", "standby.signal"] {
        assert!(!data.join(file).exists(), "{file}");
    }
    let conf = fs::read_to_string(data.join("postgresql.conf")).unwrap();
    assert!(!conf.contains("recovery_target"), "{conf}");
    assert_eq!(status["pending_restart"], Value::Null, "{status}");
    // Nothing is told before the cluster is there, and then that it started.
    wait_until("on_start", LIMIT, || async {
        let lines = fs::read_to_string(&callbacks).unwrap_or_default();
        ensure!(lines.lines().next() == Some("on_start primary pitr"), "{lines}");
        Ok(())
    })
    .await
    .unwrap();
    let log = node.log_tail(usize::MAX);
    assert!(
        log.contains("waiting for end of recovery after bootstrap") || log.contains("running post_bootstrap")
    );

    ends_that_fail(&site, &archive).await;
}

/// A target that is not in the archive, and a command that fails: the data are put aside, and the process ends.
async fn ends_that_fail(site: &Site, archive: &Archive) {
    let mut node = restored(site, "beyond", archive, |config| {
        config["bootstrap"]["from_backup"]["recovery_conf"]["recovery_target_name"] = json!("never");
    });
    node.start().unwrap();
    let status = node.wait_for_end(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", node.log_tail(20));
    assert!(node.home().join("data.failed/PG_VERSION").exists() && !node.data_dir().exists());
    let initialize = site.cluster.store.get("/service/beyond/initialize").await.unwrap();
    assert!(initialize.is_none(), "{initialize:?}");

    let mut node = restored(site, "broken", archive, |config| {
        config["bootstrap"]["from_backup"]["command"] =
            json!("/bin/sh -c 'echo the tape is torn >&2; exit 7'");
    });
    node.start().unwrap();
    assert_eq!(node.wait_for_end(LIMIT).await.unwrap().code(), Some(1));
    assert!(node.log_tail(usize::MAX).contains("the tape is torn"));
}
