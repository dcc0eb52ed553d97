//! Planned changes of the leader: over REST, with `ptctl`, and at a given time.

use std::time::Duration;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use ptarmigan_testkit::wait_until;
use serde_json::{Value, json};

use crate::site::{LIMIT, Site};

async fn wait_for_new_leader(site: &mut Site, leader: usize, timeline: u64) {
    wait_until("the new leader", LIMIT, || async {
        let key = site.key("leader").await;
        ensure!(key.as_ref().is_some_and(|key| key.value == site.name(leader)), "{key:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(site.settled().await, leader);
    for index in 0..site.cluster.nodes.len() {
        wait_until(&format!("timeline {timeline} on {}", site.name(index)), LIMIT, || async {
            let found = site.timeline(index).await?;
            ensure!(found == timeline, "timeline {found}");
            Ok(())
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn sw_the_leader_changes_by_rest_by_ptctl_and_at_a_given_time() {
    let (mut site, first) = Site::ready("switchover", 3, |_| {}).await;
    let (second, third) = ((first + 1) % 3, (first + 2) % 3);
    let (prober, mut writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();

    // over REST, to a named candidate
    writer.mark();
    let body = json!({"leader": site.name(first), "candidate": site.name(second)});
    let answer = site.ask(third, "POST", "/switchover", &body).await;
    assert_eq!(
        (answer.status, answer.body),
        (200, format!("Successfully switched over to \"{}\"", site.name(second)))
    );
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    eprintln!("switchover over REST: writes resumed after {:?}", writer.longest_gap());
    wait_for_new_leader(&mut site, second, 2).await;

    // with ptctl
    writer.mark();
    let (leader, candidate) = (site.name(second), site.name(third));
    let said =
        site.ptctl(&["switchover", "demo", "--leader", &leader, "--candidate", &candidate, "--force"]).await;
    assert!(said.contains(&format!("Successfully switched over to \"{candidate}\"")), "{said}");
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    eprintln!("switchover with ptctl: writes resumed after {:?}", writer.longest_gap());
    wait_for_new_leader(&mut site, third, 3).await;
    let list: Value = serde_json::from_str(&site.ptctl(&["list", "demo", "-f", "json"]).await).unwrap();
    let roles: Vec<&str> =
        list.as_array().unwrap().iter().filter_map(|member| member["Role"].as_str()).collect();
    assert_eq!(roles.iter().filter(|role| **role == "Leader").count(), 1, "{list}");
    assert_eq!(roles.iter().filter(|role| **role == "Replica").count(), 2, "{list}");

    // a little later
    let at = Timestamp::now() + Duration::from_secs(6);
    let body =
        json!({"leader": site.name(third), "candidate": site.name(first), "scheduled_at": at.to_string()});
    let answer = site.ask(second, "POST", "/switchover", &body).await;
    assert_eq!((answer.status, answer.body.as_str()), (202, "Switchover scheduled"));
    let cluster = site.node(first).get("/cluster").await.unwrap().json().unwrap();
    assert_eq!(cluster["scheduled_switchover"]["to"], json!(site.name(first)));
    wait_for_new_leader(&mut site, first, 4).await;
    // the leader writes its history in the rounds after its promotion
    let entry = wait_until("three entries in the history", LIMIT, || async {
        let history = site.node(first).get("/history").await?.json()?;
        let entries = history.as_array().context("not a list")?;
        ensure!(entries.len() == 3, "{history}");
        Ok(entries[2].clone())
    })
    .await
    .unwrap();
    let moved: Timestamp = entry[3].as_str().unwrap().parse().unwrap();
    let late = moved.duration_since(at);
    assert!(!late.is_negative() && late.as_secs() < 15, "{late:?} after the scheduled time");

    // what cannot be is refused and changes nothing
    for (body, status) in [
        (json!({"leader": site.name(second), "candidate": site.name(third)}), 412),
        (json!({"leader": site.name(first), "candidate": "nobody"}), 412),
        (json!({"leader": site.name(first), "candidate": site.name(first)}), 400),
        (json!({"candidate": site.name(second)}), 400),
    ] {
        let answer = site.ask(second, "POST", "/switchover", &body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
    }
    assert_eq!(site.key("leader").await.unwrap().value, site.name(first));

    writer.stop();
    prober.finish();
    let lost = writer.verify(&site.node(first).connect().await.unwrap()).await.unwrap();
    assert_eq!(lost, Vec::<i64>::new(), "acknowledged rows lost by a switchover");
    assert!(!site.log(first).contains("pg_rewind"), "a clean switchover needs no rewind");
}
