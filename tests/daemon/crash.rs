//! A postmaster that is killed under load comes back in place.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use ptarmigan_testkit::{node::Node, postgres, wait_until};
use rustix::process::{Signal, kill_process};
use serde_json::json;
use tokio_postgres::Config;

use crate::site::{LIMIT, Site};

const CLIENTS: i32 = 16;
const PIPELINING_CLIENTS: i32 = 4;
const PIPELINE: i64 = 32;
const ROUNDS: usize = 3;

/// Clients that insert as fast as they can, some with many statements under way at once.
struct Load {
    acknowledged: Arc<Mutex<Vec<(i32, i64)>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(config: Config) -> Self {
        let (acknowledged, stopping) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (rows, stop) = (Arc::clone(&acknowledged), Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let clients = (0..CLIENTS + PIPELINING_CLIENTS).map(|number| {
                let width = if number < CLIENTS { 1 } else { PIPELINE };
                client(number, width, &config, &rows, &stop)
            });
            runtime.block_on(join_all(clients));
        });
        Self { acknowledged, stopping, thread: Some(thread) }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    async fn wait_for_more(&self, rows: usize) {
        let goal = self.count() + rows;
        wait_until(&format!("{rows} more rows"), LIMIT, || async {
            ensure!(self.count() >= goal, "{} of {goal}", self.count());
            Ok(())
        })
        .await
        .unwrap();
    }

    fn finish(mut self) -> Vec<(i32, i64)> {
        self.stop();
        std::mem::take(&mut self.acknowledged.lock().unwrap())
    }

    fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

async fn client(number: i32, width: i64, config: &Config, rows: &Mutex<Vec<(i32, i64)>>, stop: &AtomicBool) {
    let mut id = 0;
    while !stop.load(Ordering::Relaxed) {
        if insert(number, width, &mut id, config, rows, stop).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Until the server ends the connection.
async fn insert(
    number: i32,
    width: i64,
    id: &mut i64,
    config: &Config,
    rows: &Mutex<Vec<(i32, i64)>>,
    stop: &AtomicBool,
) -> Result<()> {
    let client = postgres::connect(config).await?;
    let insert = client.prepare("INSERT INTO load (client, id) VALUES ($1, $2)").await?;
    while !stop.load(Ordering::Relaxed) {
        let ids: Vec<i64> = (*id + 1..=*id + width).collect();
        *id += width;
        let one = async |id: &i64| client.execute(&insert, &[&number, id]).await.map(|_| (number, *id));
        let answers = tokio::time::timeout(Duration::from_secs(5), join_all(ids.iter().map(one))).await?;
        rows.lock().unwrap().extend(answers.iter().flatten());
        for answer in answers {
            answer?;
        }
    }
    Ok(())
}

async fn new_postmaster(node: &Node, old: rustix::process::Pid) -> rustix::process::Pid {
    wait_until("a new postmaster", LIMIT, || async {
        let pid = node.postmaster_pid()?;
        ensure!(pid != old && node.is_primary().await, "{pid:?}");
        Ok(pid)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn ha_103_a_killed_postmaster_under_load_recovers_in_place() {
    let (mut site, leader) = Site::ready("crash", 2, |config| {
        config["bootstrap"]["dcs"]["postgresql"]["parameters"]["track_commit_timestamp"] = json!("on");
        config["bootstrap"]["dcs"]["postgresql"]["parameters"]["max_connections"] = json!(60);
    })
    .await;
    let table = "CREATE TABLE load (client int, id bigint, postmaster timestamptz DEFAULT pg_postmaster_start_time())";
    site.sql(leader, table).await.unwrap();
    let (timeline, lock) = (site.timeline(leader).await.unwrap(), site.key("leader").await.unwrap());
    let prober = site.prober();
    let load = Load::start(site.node(leader).postgres_config());
    for _ in 0..ROUNDS {
        load.wait_for_more(500).await;
        let killed_at = ptarmigan_clock::now();
        kill_leader_postmaster(&site, leader).await;
        load.wait_for_more(100).await;
        eprintln!("postmaster killed, writable again within {:?}", ptarmigan_clock::now().since(killed_at));
    }
    guardian_and_standby(&site, leader, &load).await;
    load.wait_for_more(100).await;
    let acknowledged = load.finish();
    prober.finish();

    // in place: same timeline, same lock, no other leader
    assert_eq!(site.timeline(leader).await.unwrap(), timeline);
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.create_revision), (lock.value, lock.create_revision));
    assert_eq!(site.said("promoted self to leader"), 0);

    // every acknowledged row is there, and none of a dead postmaster's was committed after its successor started
    let client = site.node(leader).connect().await.unwrap();
    let rows = client.query("SELECT client, id FROM load", &[]).await.unwrap();
    let present: std::collections::BTreeSet<(i32, i64)> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|row| !present.contains(row)).collect();
    assert!(lost.is_empty(), "{} acknowledged rows lost: {lost:?}", lost.len());
    let late = "WITH lives AS (SELECT DISTINCT postmaster FROM load), \
                ends AS (SELECT postmaster, lead(postmaster) OVER (ORDER BY postmaster) AS next FROM lives) \
                SELECT count(*) FROM load JOIN ends USING (postmaster) WHERE pg_xact_commit_timestamp(load.xmin) >= next";
    assert_eq!(site.sql(leader, late).await.unwrap(), "0");
    let lives = site.sql(leader, "SELECT count(DISTINCT postmaster) FROM load").await.unwrap();
    assert_eq!(lives, (ROUNDS + 3).to_string(), "the first, and one after each kill, the guardian's too");
    assert_eq!(site.settled().await, leader);
}

/// PostgreSQL ends with a guardian that is killed, and comes back in place under another one, whose postmaster is watched as
/// before. A standby's postmaster comes back, too.
async fn guardian_and_standby(site: &Site, leader: usize, load: &Load) {
    let (old, guardian) =
        (site.node(leader).postmaster_pid().unwrap(), site.node(leader).guardian_pid().unwrap());
    let lines = site.log_lines(leader);
    kill_process(guardian, Signal::KILL).unwrap();
    site.wait_for_log(leader, lines, "the guardian is gone").await;
    wait_until("another postmaster", LIMIT, || async {
        let new = site.node(leader).postmaster_pid()?;
        ensure!(new != old, "{new:?} still runs");
        Ok(())
    })
    .await
    .unwrap();
    load.wait_for_more(500).await;
    kill_leader_postmaster(site, leader).await;
    assert!(site.node(leader).guardian_pid().is_some_and(|pid| pid != guardian));

    let standby = site.node(1 - leader);
    let old = standby.postmaster_pid().unwrap();
    kill_process(old, Signal::KILL).unwrap();
    wait_until("the standby to come back", LIMIT, || async {
        let pid = standby.postmaster_pid()?;
        ensure!(pid != old && standby.is_replica().await, "{pid:?}");
        Ok(())
    })
    .await
    .unwrap();
}

/// Kills the postmaster alone, and returns once there is a new one and nothing is left of the old.
async fn kill_leader_postmaster(site: &Site, leader: usize) {
    let old = site.node(leader).postmaster_pid().unwrap();
    let backends = site.servers(leader, "postgres postgres 127.0.0.1");
    assert!(backends.len() >= 20, "{backends:?}");
    kill_process(old, Signal::KILL).unwrap();
    new_postmaster(site.node(leader), old).await;
    let alive = site.servers(leader, "postgres postgres 127.0.0.1");
    let left: Vec<_> = backends.iter().filter(|pid| alive.contains(pid)).collect();
    assert!(left.is_empty(), "backends of the dead postmaster live: {left:?}");
}
