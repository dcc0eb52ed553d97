//! A node is lost. Two times the time to live is waited for here, and by no other test.

use std::time::Duration;

use ptarmigan_testkit::Writer;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::{
    secrets::{self, CommandLines},
    site::{LIMIT, Site, TTL},
};

/// Rows that the leader acknowledged and nobody else has: its walsenders are frozen before.
async fn diverge(site: &Site, leader: usize, writer: &Writer) {
    let senders = site.servers(leader, "walsender");
    assert_eq!(senders.len(), 2);
    for sender in senders {
        kill_process(sender, Signal::STOP).unwrap();
    }
    site.sql(leader, "INSERT INTO only_here SELECT generate_series(1, 1000)").await.unwrap();
    writer.wait_for_rows(5, LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_lost_node_is_replaced_and_comes_back_through_pg_rewind() {
    let command_lines = CommandLines::watch();
    let (mut site, old) = Site::ready("failover", 3, |config| {
        let parameters = &mut config["bootstrap"]["dcs"]["postgresql"]["parameters"];
        parameters["log_statement"] = json!("all");
        parameters["log_min_messages"] = json!("debug1");
        parameters["logging_collector"] = json!("on");
    })
    .await;
    assert_eq!(site.said("trying to bootstrap a new cluster"), 1);
    site.assert_one_cluster().await;
    site.sql(old, "CREATE TABLE only_here (x int)").await.unwrap();
    let (prober, mut writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();

    let safe_until = site.everything_streamed(old).await;
    diverge(&site, old, &writer).await;
    writer.mark();
    site.node_mut(old).kill_machine().await.unwrap();
    let new = site.settled().await;
    assert_ne!(new, old);
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    let gap = writer.longest_gap();
    eprintln!("node lost: writes resumed after {gap:?}");
    assert!(gap < TTL + Duration::from_secs(5), "{gap:?}");

    site.node_mut(old).start().unwrap();
    assert_eq!(site.settled().await, new);
    assert!(site.log(old).contains("pg_rewind"), "no rewind in its log");
    for index in 0..3 {
        assert_eq!(site.timeline(index).await.unwrap(), 2);
        site.wait_for_sql(index, "SELECT count(*) FROM only_here", "0").await;
    }
    let slot = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", site.name(old));
    site.wait_for_sql(new, &slot, "t").await;
    let lost = writer.verify(&site.node(new).connect().await.unwrap()).await.unwrap();
    let rows = writer.acknowledged();
    let lost: Vec<_> = rows.iter().filter(|row| lost.contains(&row.id)).collect();
    eprintln!("{} of {} acknowledged rows lost, all of them never streamed", lost.len(), rows.len());
    assert!(lost.iter().all(|row| row.at > safe_until && row.target == old), "{lost:?}");
    assert!(lost.len() >= 5, "the old leader did not diverge");

    // the next one: an operator names who shall lead while the lock of the dead one has not run out yet
    let candidate = old;
    site.everything_streamed(new).await;
    site.node_mut(new).kill_machine().await.unwrap();
    let body = json!({"candidate": site.name(candidate)});
    let answer = site.ask(candidate, "POST", "/failover", &body).await;
    eprintln!("manual failover answered: {} {}", answer.status, answer.body);
    assert!(
        answer.status == 200 || answer.body.contains("status unknown"),
        "{} {}",
        answer.status,
        answer.body
    );
    assert_eq!(site.settled().await, candidate);
    assert_eq!(site.timeline(candidate).await.unwrap(), 3);
    site.node_mut(new).start().unwrap();
    assert_eq!(site.settled().await, candidate);

    writer.stop();
    prober.finish();
    secrets::assert_kept(&site, &command_lines.finish());
}
