//! Restarts at a given time, and under conditions (contract B.18).

use std::time::Duration;

use anyhow::ensure;
use jiff::Timestamp;
use ptarmigan_testkit::wait_until;
use serde_json::{Value, json};

use crate::site::{LIMIT, Site};

async fn started(site: &Site, index: usize) -> String {
    site.sql(index, "SELECT pg_postmaster_start_time()").await.unwrap()
}

/// Asks for a restart in two seconds, once no other one waits; `conditions` are added to the request.
async fn schedule(site: &Site, index: usize, conditions: &Value) -> Timestamp {
    wait_until("the turn of another schedule", LIMIT, || async {
        let at = Timestamp::now() + Duration::from_secs(2);
        let mut body = json!({"schedule": at.to_string()});
        for (key, value) in conditions.as_object().unwrap() {
            body[key] = value.clone();
        }
        let answer = site.ask(index, "POST", "/restart", &body).await;
        ensure!((answer.status, answer.body.as_str()) == (202, "Restart scheduled"), "{}", answer.body);
        Ok(at)
    })
    .await
    .unwrap()
}

/// The schedule as the member's key shows it.
async fn published(site: &Site, index: usize) -> anyhow::Result<Value> {
    let key = site.key(&format!("members/{}", site.name(index))).await;
    let value: Value = serde_json::from_str(&key.map(|key| key.value).unwrap_or_default())?;
    Ok(value["scheduled_restart"].clone())
}

async fn wait_until_forgotten(site: &Site, index: usize) {
    wait_until("the schedule to be gone", LIMIT, || async {
        let shown = published(site, index).await?;
        ensure!(shown.is_null(), "{shown}");
        Ok(())
    })
    .await
    .unwrap();
}

async fn wait_until_restarted(site: &Site, index: usize, before: &str) {
    wait_until("another postmaster", LIMIT, || async {
        let now = site.sql(index, "SELECT pg_postmaster_start_time()").await?;
        ensure!(now != before);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn rs_7_restarts_at_a_given_time_under_conditions() {
    let (mut site, leader) = Site::ready("scheduled-restart", 2, |_| {}).await;
    let replica = 1 - leader;

    // one at a time, shown, and taken back
    let far = json!({"schedule": "2100-01-01T00:00:00+00:00", "role": "replica"});
    let answer = site.ask(replica, "POST", "/restart", &far).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let again = site.ask(replica, "POST", "/restart", &far).await;
    assert_eq!((again.status, again.body.as_str()), (409, "Another restart is already scheduled"));
    wait_until("the schedule in the member's key", LIMIT, || async {
        let shown = published(&site, replica).await?;
        ensure!(shown["schedule"] == far["schedule"] && shown["role"] == "replica", "{shown}");
        ensure!(shown["postmaster_start_time"].is_string(), "{shown}");
        Ok(())
    })
    .await
    .unwrap();
    let list = site.ptctl(&["list", "demo", "-e"]).await;
    assert!(list.contains("2100-01-01T00:00:00"), "{list}");
    let answer = site.ask(replica, "DELETE", "/restart", &json!({})).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "scheduled restart deleted"));
    assert_eq!(site.ask(replica, "DELETE", "/restart", &json!({})).await.status, 404);
    wait_until_forgotten(&site, replica).await;

    // conditions that do not hold: nothing is restarted, and nothing is left waiting
    let (primary, standby) = (started(&site, leader).await, started(&site, replica).await);
    schedule(&site, replica, &json!({"role": "primary"})).await;
    schedule(&site, leader, &json!({"postgres_version": "12.1"})).await;
    schedule(&site, leader, &json!({"restart_pending": true})).await;
    // Each was dropped when its time had come: there is room for another one.
    for index in [leader, replica] {
        let far = wait_until("the schedule to be gone", LIMIT, || async {
            let answer = site.ask(index, "POST", "/restart", &far).await;
            ensure!(answer.status == 202, "{}", answer.body);
            Ok(())
        });
        far.await.unwrap();
        assert_eq!(site.ask(index, "DELETE", "/restart", &json!({})).await.status, 200);
    }
    assert_eq!(
        (started(&site, leader).await, started(&site, replica).await),
        (primary.clone(), standby.clone())
    );

    // and that hold
    let at = schedule(&site, replica, &json!({"role": "replica", "postgres_version": "99.1"})).await;
    wait_until_restarted(&site, replica, &standby).await;
    let seconds = format!("SELECT extract(epoch FROM pg_postmaster_start_time() - '{at}') BETWEEN 0 AND 20");
    assert_eq!(site.sql(replica, &seconds).await.unwrap(), "t", "not before its time");
    wait_until_forgotten(&site, replica).await;
    assert_eq!(site.settled().await, leader);

    let patch = json!({"postgresql": {"parameters": {"max_connections": 60}}});
    assert_eq!(site.ask(leader, "PATCH", "/config", &patch).await.status, 200);
    for index in [leader, replica] {
        wait_until("a pending restart", LIMIT, || async {
            let status = site.node(index).patroni().await?;
            ensure!(status["pending_restart"] == json!(true), "{status}");
            Ok(())
        })
        .await
        .unwrap();
    }
    schedule(&site, leader, &json!({"restart_pending": true, "role": "primary", "timeout": "30s"})).await;
    wait_until_restarted(&site, leader, &primary).await;
    site.wait_for_sql(leader, "SHOW max_connections", "60").await;
    wait_until_forgotten(&site, leader).await;
    assert_eq!(site.settled().await, leader, "a restart is no reason for another leader");
    let status = site.node(leader).patroni().await.unwrap();
    assert_eq!(status["pending_restart"], Value::Null, "{status}");

    // a schedule is for the postmaster that it was made for
    let answer = site.ask(replica, "POST", "/restart", &far).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let answer = site.ask(replica, "POST", "/restart", &json!({"restart_pending": true})).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "restarted successfully"));
    wait_until_forgotten(&site, replica).await;
    site.wait_for_sql(replica, "SHOW max_connections", "60").await;
}
