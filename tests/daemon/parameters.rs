//! Server parameters that need an order of restarts, and what each role has of its own.

use anyhow::ensure;
use ptarmigan_testkit::wait_until;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::site::{LIMIT, Site};

/// Sets `max_connections` for the whole cluster and waits until every member says that it waits for a restart.
async fn set_connections(site: &Site, from: u32, to: u32) {
    let patch = json!({"postgresql": {"parameters": {"max_connections": to}}});
    assert_eq!(site.ask(0, "PATCH", "/config", &patch).await.status, 200);
    let reason = json!({"max_connections": {"old_value": from.to_string(), "new_value": to.to_string()}});
    for index in 0..2 {
        wait_for_reason(site, index, Some(&reason)).await;
    }
}

/// Over REST, and in the member key as `ptctl list` shows it.
async fn wait_for_reason(site: &Site, index: usize, reason: Option<&Value>) {
    let name = site.name(index);
    wait_until(&format!("{reason:?} pending on {name}"), LIMIT, || async {
        let status = site.node(index).patroni().await?;
        ensure!(status.get("pending_restart_reason") == reason, "{status}");
        let listed = site.ptctl(&["list", "demo", "--format", "json"]).await;
        let members: Value = serde_json::from_str(&listed)?;
        let member = members.as_array().and_then(|all| all.iter().find(|it| it["Member"] == name.as_str()));
        let flag = member.and_then(|member| member.get("Pending restart"));
        ensure!(flag.is_some() == reason.is_some(), "{listed}");
        Ok(())
    })
    .await
    .unwrap();
}

async fn restart(site: &Site, index: usize) {
    let answer = site.ask(index, "POST", "/restart", &json!({})).await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.body, site.node(index).log_tail(20));
}

async fn wait_for_connections(site: &Site, index: usize, value: u32) {
    site.wait_for_sql(index, "SHOW max_connections", &value.to_string()).await;
}

/// Contract PR-7, B.26 "standby GUC floor", HA-286.
#[tokio::test]
async fn pr_7_increases_begin_with_standbys_and_decreases_with_the_primary() {
    let (mut site, leader) = Site::ready("parameters", 2, |_| {}).await;
    let replica = 1 - leader;

    // up, in the right order
    set_connections(&site, 50, 60).await;
    for index in [replica, leader] {
        restart(&site, index).await;
        wait_for_connections(&site, index, 60).await;
        wait_for_reason(&site, index, None).await;
    }

    // up in the wrong order: the standby cannot replay with less than the primary has, pauses, and comes up with enough
    set_connections(&site, 60, 70).await;
    restart(&site, leader).await;
    wait_for_connections(&site, leader, 70).await;
    wait_for_connections(&site, replica, 70).await;
    assert_eq!(site.settled().await, leader);
    wait_for_reason(&site, replica, None).await;

    // down in the wrong order: the standby keeps what the primary has, and what is pending stays pending
    set_connections(&site, 70, 55).await;
    restart(&site, replica).await;
    let reason = json!({"max_connections": {"old_value": "70", "new_value": "55"}});
    wait_for_connections(&site, replica, 70).await;
    wait_for_reason(&site, replica, Some(&reason)).await;
    restart(&site, leader).await;
    wait_for_connections(&site, leader, 55).await;
    // the standby learns it from the WAL
    let lsn = site.sql(leader, "SELECT pg_current_wal_lsn()").await.unwrap();
    site.wait_for_sql(replica, &format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t").await;
    restart(&site, replica).await;
    wait_for_connections(&site, replica, 55).await;
    wait_for_reason(&site, replica, None).await;
    assert_eq!(site.settled().await, leader);
}

fn rules(role: &str) -> Value {
    json!([
        "local all all md5",
        "host all all 127.0.0.1/32 md5",
        "host replication replicator 127.0.0.1/32 md5",
        format!("host {role} all 10.9.9.9/32 reject"),
    ])
}

/// Waits until a node has the parameters and access rules of a role.
async fn wait_for_overlay(site: &Site, index: usize, role: &str, work_mem: &str) {
    site.wait_for_sql(index, "SHOW work_mem", work_mem).await;
    let query = "SELECT database::text FROM pg_hba_file_rules WHERE address = '10.9.9.9'";
    site.wait_for_sql(index, query, &format!("{{{role}}}")).await;
    let ident = std::fs::read_to_string(site.node(index).data_dir().join("pg_ident.conf")).unwrap();
    assert!(ident.ends_with(&format!("\nmap {role} postgres\n")), "{ident}");
}

/// Contract CF-25, C.5, CF-10.
#[tokio::test]
async fn cf_25_each_role_has_its_own_parameters_and_access_rules() {
    let (mut site, leader) = Site::ready("overlays", 2, |config| {
        for role in ["primary", "replica"] {
            config["postgresql"][format!("pg_hba_{role}")] = rules(role);
            config["postgresql"][format!("pg_ident_{role}")] = json!([format!("map {role} postgres")]);
        }
        config["bootstrap"]["dcs"]["postgresql"]["parameters_primary"] = json!({"work_mem": "9MB"});
        config["bootstrap"]["dcs"]["postgresql"]["parameters_replica"] =
            json!({"work_mem": "6MB", "max_connections": 99});
    })
    .await;
    let replica = 1 - leader;
    wait_for_overlay(&site, leader, "primary", "9MB").await;
    wait_for_overlay(&site, replica, "replica", "6MB").await;
    assert_eq!(
        site.sql(replica, "SHOW max_connections").await.unwrap(),
        "50",
        "no role changes what is controlled"
    );

    // a changed dynamic configuration, and a changed file after SIGHUP
    let patch = json!({"postgresql": {"parameters_replica": {"work_mem": "7MB"}}});
    assert_eq!(site.ask(leader, "PATCH", "/config", &patch).await.status, 200);
    site.wait_for_sql(replica, "SHOW work_mem", "7MB").await;
    let mut config = site.config(replica);
    config["postgresql"]["parameters"]["maintenance_work_mem"] = json!("33MB");
    config["postgresql"]["pg_ident_replica"] = json!(["map other postgres", "map replica postgres"]);
    site.node(replica).write_config(&config).unwrap();
    site.node_mut(replica).signal(Signal::HUP).unwrap();
    site.wait_for_sql(replica, "SHOW maintenance_work_mem", "33MB").await;
    wait_for_overlay(&site, replica, "replica", "7MB").await;
    assert_eq!(site.sql(leader, "SHOW maintenance_work_mem").await.unwrap(), "64MB");

    // a reload rewrites what somebody has edited by hand
    let hba = site.node(replica).data_dir().join("pg_hba.conf");
    let managed = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, "host all all 127.0.0.1/32 trust\n").unwrap();
    let said = site.ptctl(&["reload", "demo", &site.name(replica), "--force"]).await;
    assert!(said.contains("Reload request received"), "{said}");
    wait_until("pg_hba.conf as configured", LIMIT, || async {
        ensure!(std::fs::read_to_string(&hba)? == managed);
        Ok(())
    })
    .await
    .unwrap();

    // the roles change, and what belongs to them
    let target = site.name(replica);
    let said = site.ptctl(&["switchover", "demo", "--candidate", &target, "--force"]).await;
    assert!(said.contains("Successfully switched over"), "{said}");
    assert_eq!(site.settled().await, replica);
    wait_for_overlay(&site, replica, "primary", "9MB").await;
    wait_for_overlay(&site, leader, "replica", "7MB").await;
}
