//! Logical slots over failovers: a consumer goes on where it was, and nothing of anybody else is touched.

use anyhow::{Result, ensure};
use ptarmigan_testkit::wait_until;
use serde_json::json;

use crate::site::{LIMIT, Site};

/// A consumer that reads rows by SQL and confirms them in batches, as one that keeps its own position does.
#[derive(Default)]
struct Consumer {
    /// Rows that it has, in the order in which they came.
    rows: Vec<i64>,
    /// How many of them it has confirmed.
    confirmed: usize,
}

impl Consumer {
    /// Reads everything that is there from its confirmed position on, without confirming it.
    async fn read(&mut self, site: &Site, primary: usize) -> Result<Vec<i64>> {
        let query = "SELECT string_agg(substring(data from 'x\\[bigint\\]:(\\d+)'), ',' ORDER BY lsn, data) \
                     FROM pg_logical_slot_peek_changes('cdc', NULL, NULL, 'skip-empty-xacts', '1') \
                     WHERE data LIKE 'table public.told%'";
        let text = site.sql(primary, query).await?;
        Ok(text.split(',').filter(|row| !row.is_empty()).map(|row| row.parse().unwrap()).collect())
    }

    /// Reads what came since and confirms it, in one step.
    async fn consume(&mut self, site: &Site, primary: usize) -> Result<()> {
        let rows = self.read(site, primary).await?;
        let query =
            "SELECT count(*) FROM pg_logical_slot_get_changes('cdc', NULL, NULL, 'skip-empty-xacts', '1')";
        self.take(&rows);
        site.sql(primary, query).await?;
        self.confirmed = self.rows.len();
        Ok(())
    }

    /// What comes after a failover begins right behind the confirmed position: nothing before it is repeated, nothing
    /// after it is missing.
    fn take(&mut self, rows: &[i64]) {
        let Some(first) = rows.first() else { return };
        let known = self.rows.iter().position(|row| row == first).unwrap_or(self.rows.len());
        assert!(known >= self.confirmed, "{first} was confirmed, and comes again");
        for (offset, row) in rows.iter().enumerate() {
            match self.rows.get(known + offset) {
                Some(old) => assert_eq!(old, row, "the same rows in the same order"),
                None => self.rows.push(*row),
            }
        }
    }
}

async fn tell(site: &Site, primary: usize, rows: std::ops::RangeInclusive<i64>) {
    for row in rows {
        site.sql(primary, &format!("INSERT INTO told VALUES ({row})")).await.unwrap();
    }
}

/// The replica has the slot, and as far as the consumer has confirmed.
async fn wait_for_slot(site: &Site, replica: usize, primary: usize) {
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'cdc'";
    let wanted = site.sql(primary, confirmed).await.unwrap();
    assert!(!wanted.is_empty());
    let reached = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'cdc' AND confirmed_flush_lsn >= '{wanted}'"
    );
    site.wait_for_sql(replica, &reached, "1").await;
}

async fn wait_for_ready(site: &Site, replica: usize, lines: usize) {
    site.wait_for_log(replica, lines, "logical slot cdc is safe to be used after a failover").await;
}

async fn restart_lsn(site: &Site, index: usize, slot: &str) -> String {
    let query = format!("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
    site.sql(index, &query).await.unwrap()
}

const THERE: &str = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'cdc'";

async fn slots_are_copied(site: &Site, first: usize, replicas: [usize; 2], consumer: &mut Consumer) {
    // The primary creates it, the replicas copy it: each of them is restarted once.
    site.wait_for_sql(first, THERE, "1").await;
    tell(site, first, 1..=20).await;
    consumer.consume(site, first).await.unwrap();
    for replica in replicas {
        site.wait_for_sql(replica, THERE, "1").await;
        site.wait_for_sql(replica, "SHOW hot_standby_feedback", "on").await;
        wait_for_slot(site, replica, first).await;
        wait_for_ready(site, replica, 0).await;
        assert!(site.log(replica).contains("Copying logical slots cdc from the primary"));
    }
}

async fn slots_are_advanced(site: &Site, first: usize, replicas: [usize; 2], consumer: &mut Consumer) {
    // Advancing: slots of members, of the archive and of the consumer follow on every replica.
    tell(site, first, 21..=40).await;
    consumer.consume(site, first).await.unwrap();
    site.sql(first, "SELECT pg_switch_wal()").await.unwrap();
    tell(site, first, 41..=45).await;
    site.sql(first, "SELECT pg_replication_slot_advance('archive', pg_current_wal_lsn())").await.unwrap();
    let archived = restart_lsn(site, first, "archive").await;
    for replica in replicas {
        wait_for_slot(site, replica, first).await;
        let query = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'archive' AND restart_lsn >= '{archived}'"
        );
        site.wait_for_sql(replica, &query, "1").await;
    }
    let unwanted = "SELECT string_agg(slot_name, ',') FROM pg_replication_slots WHERE slot_name IN ('foreign', 'unwanted')";
    site.wait_for_sql(first, unwanted, "foreign").await;
}

async fn slot_is_retained(site: &Site, away: usize, others: [usize; 2]) {
    // Its own slot waits for it, on the primary and on the replica that is left.
    let slot = site.name(away);
    for index in others {
        site.wait_for_cycles(index, 2).await;
        assert!(!restart_lsn(site, index, &slot).await.is_empty(), "{}", site.name(index));
    }
    let status: serde_json::Value = serde_json::from_str(&site.key("status").await.unwrap().value).unwrap();
    let retained = status["retain_slots"].as_array().unwrap();
    assert!(retained.contains(&json!(slot)), "{status}");
}

#[tokio::test]
async fn sl_10_a_consumer_misses_nothing_over_failovers() {
    let (mut site, first) = Site::ready("logical-slots", 3, |config| {
        let dcs = &mut config["bootstrap"]["dcs"];
        dcs["postgresql"]["parameters"]["wal_level"] = json!("logical");
        dcs["member_slots_ttl"] = json!("3min");
        dcs["ignore_slots"] = json!([{"name": "foreign", "type": "physical"}]);
        dcs["slots"] = json!({
            "cdc": {"type": "logical", "database": "postgres", "plugin": "test_decoding"},
            "archive": {"type": "physical"},
        });
    })
    .await;
    let (second, third) = ((first + 1) % 3, (first + 2) % 3);
    site.sql(first, "CREATE TABLE told (x bigint PRIMARY KEY)").await.unwrap();
    site.sql(first, "SELECT pg_create_physical_replication_slot('foreign', true)").await.unwrap();
    site.sql(first, "SELECT pg_create_physical_replication_slot('unwanted', true)").await.unwrap();

    let mut consumer = Consumer::default();
    slots_are_copied(&site, first, [second, third], &mut consumer).await;
    slots_are_advanced(&site, first, [second, third], &mut consumer).await;

    // The machine of the primary is lost. What was confirmed there is not repeated, what was not comes now.
    site.everything_streamed(first).await;
    assert_eq!(consumer.confirmed, 40);
    site.node_mut(first).kill_machine().await.unwrap();
    let new = site.settled().await;
    assert!(!site.log(new).contains("might be unsafe"), "its slot was ready");
    tell(&site, new, 46..=60).await;
    consumer.consume(&site, new).await.unwrap();
    assert_eq!(consumer.rows, (1..=60).collect::<Vec<_>>(), "none is missing, none is twice");
    let other = if new == second { third } else { second };
    slot_is_retained(&site, first, [new, other]).await;

    // It comes back, perhaps rewound, and copies the slot that it lost or advances the one that it has.
    let lines = site.log_lines(first);
    site.node_mut(first).start().unwrap();
    assert_eq!(site.settled().await, new);
    site.wait_for_sql(first, THERE, "1").await;
    wait_for_slot(&site, first, new).await;
    wait_for_ready(&site, first, lines).await;

    // A switchover back to it, while rows are not read yet.
    tell(&site, new, 61..=70).await;
    let body = json!({"leader": site.name(new), "candidate": site.name(first)});
    let answer = site.ask(other, "POST", "/switchover", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    wait_until("the switchover", LIMIT, || async {
        let leader = site.key("leader").await;
        ensure!(leader.as_ref().is_some_and(|key| key.value == site.name(first)), "{leader:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(site.settled().await, first);
    tell(&site, first, 71..=80).await;
    consumer.consume(&site, first).await.unwrap();
    assert_eq!(consumer.rows, (1..=80).collect::<Vec<_>>(), "none is missing, none is twice");

    // Nobody asks for it any more: it goes everywhere.
    let config = json!({"slots": {"cdc": null}});
    assert_eq!(site.ask(first, "PATCH", "/config", &config).await.status, 200);
    for index in 0..3 {
        site.wait_for_sql(index, THERE, "0").await;
        site.wait_for_sql(index, "SHOW hot_standby_feedback", "off").await;
    }
    assert_eq!(
        site.sql(first, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'archive'")
            .await
            .unwrap(),
        "1"
    );
}
