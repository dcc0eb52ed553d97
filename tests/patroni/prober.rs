//! Writes to every server all the time, and knows afterwards whether two were writable at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use ptarmigan_testkit::postgres;
use ptarmigan_types::Monotonic;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

/// Time from one write to the next, for each server.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long an answer may take before the connection is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Fails on a standby; on a primary the transaction gets a number and is committed.
const WRITE: &str = "SELECT pg_postmaster_start_time(), pg_current_xact_id()";

/// One life of one server as a primary: a primary stays one until its postmaster ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reign {
    pub(crate) node: String,
    /// The postmaster's start time.
    pub(crate) started: String,
    /// The answer to the first write came.
    pub(crate) first_answer: Monotonic,
    /// The last write that was answered was sent.
    pub(crate) last_sent: Monotonic,
    pub(crate) writes: usize,
}

/// The reigns by node and start time.
type Reigns = BTreeMap<(String, String), Reign>;

/// Probes on a thread of its own until it is dropped.
pub(crate) struct Prober {
    reigns: Arc<Mutex<Reigns>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    pub(crate) fn start(mut servers: Vec<(String, Config)>) -> Self {
        for (_, config) in &mut servers {
            // standbys refuse fifty writes a second
            config.options("-c log_min_messages=fatal");
        }
        let (reigns, stopping) = (Arc::new(Mutex::new(Reigns::new())), Arc::new(AtomicBool::new(false)));
        let (record, stop) = (Arc::clone(&reigns), Arc::clone(&stopping));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || {
            let probes = servers.iter().map(|(name, config)| probe(name, config, &record, &stop));
            runtime.block_on(futures_util::future::join_all(probes));
        });
        Self { reigns, stopping, thread: Some(thread) }
    }

    /// Prints every reign.
    ///
    /// # Panics
    /// Two servers were writable at once, or nobody ever was.
    pub(crate) fn assert_one_primary(&self) {
        let reigns: Vec<Reign> = self.reigns.lock().unwrap().values().cloned().collect();
        for reign in &reigns {
            println!(
                "{} (started {}) was writable for {:?}: {} writes",
                reign.node,
                reign.started,
                reign.last_sent.since(reign.first_answer),
                reign.writes
            );
        }
        assert!(!reigns.is_empty(), "no server was ever writable");
        assert_eq!(overlapping(&reigns), None, "two writable primaries");
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Two reigns of different servers of which neither can have ended before the other began.
fn overlapping(reigns: &[Reign]) -> Option<(&Reign, &Reign)> {
    let precedes = |a: &Reign, b: &Reign| a.last_sent <= b.first_answer;
    reigns.iter().enumerate().find_map(|(index, a)| {
        let others = reigns[index + 1..].iter().filter(|b| a.node != b.node);
        others.into_iter().find(|b| !precedes(a, b) && !precedes(b, a)).map(|b| (a, b))
    })
}

async fn probe(name: &str, config: &Config, reigns: &Mutex<Reigns>, stopping: &AtomicBool) {
    let mut connection: Option<Client> = None;
    while !stopping.load(Ordering::Relaxed) {
        if connection.is_none() {
            connection = timeout(ANSWER_TIMEOUT, postgres::connect(config)).await.ok().and_then(Result::ok);
        }
        if let Some(client) = connection.take() {
            let sent = ptarmigan_clock::now();
            match timeout(ANSWER_TIMEOUT, write(&client)).await {
                Ok(Ok(started)) => {
                    record(reigns, name, started, sent);
                    connection = Some(client);
                }
                // a standby: the connection may see its promotion
                Ok(Err(_)) if !client.is_closed() => connection = Some(client),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn write(client: &Client) -> Result<String> {
    let answer = client.simple_query(WRITE).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.map(str::to_owned).context("no row")
}

fn record(reigns: &Mutex<Reigns>, name: &str, started: String, sent: Monotonic) {
    let answered = ptarmigan_clock::now();
    let mut reigns = reigns.lock().unwrap();
    let reign = reigns.entry((name.to_owned(), started.clone())).or_insert_with(|| Reign {
        node: name.to_owned(),
        started,
        first_answer: answered,
        last_sent: sent,
        writes: 0,
    });
    reign.last_sent = sent;
    reign.writes += 1;
}

#[test]
fn an_overlap_is_found_and_a_change_is_none() {
    let reign = |node: &str, first: u64, last: u64| Reign {
        node: node.into(),
        started: "now".into(),
        first_answer: Monotonic(first),
        last_sent: Monotonic(last),
        writes: 2,
    };
    assert_eq!(overlapping(&[reign("a", 10, 20), reign("b", 21, 30), reign("a", 31, 40)]), None);
    // one answered write each, each sent before the answer to the other came: their order is open
    assert_eq!(overlapping(&[reign("a", 10, 5), reign("b", 11, 6)]), None);
    let bad = [reign("a", 10, 20), reign("b", 19, 30)];
    assert_eq!(overlapping(&bad), Some((&bad[0], &bad[1])));
    let inside = [reign("a", 10, 50), reign("b", 22, 20)];
    assert!(overlapping(&inside).is_some());
}
