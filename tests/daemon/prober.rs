//! Never two writable primaries: a write on every node every 50 ms or more often, whatever its role is said to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Result;
use futures_util::future::join_all;
use ptarmigan_types::Monotonic;
use tokio_postgres::{Client, Config, NoTls, error::SqlState};

const INTERVAL: Duration = Duration::from_millis(50);
/// Longer than a server that is not frozen needs. A connection that is given up would miss a late acknowledgement.
const ANSWER: Duration = Duration::from_secs(5);

/// The timeline comes with the row: a primary has one of its own, whatever happened before.
const WRITE: &str = "INSERT INTO ptarmigan_probe (node) VALUES ($1) RETURNING \
                     ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int";

/// A write that a server said it has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) node: usize,
    pub(crate) timeline: i32,
    pub(crate) sent: Monotonic,
    pub(crate) at: Monotonic,
}

/// Writes on threads of its own until it is stopped.
pub(crate) struct Prober {
    writes: Arc<Mutex<Vec<Write>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    pub(crate) fn start(nodes: Vec<Config>) -> Self {
        Self::start_every(INTERVAL, nodes)
    }

    pub(crate) fn start_every(interval: Duration, mut nodes: Vec<Config>) -> Self {
        for config in &mut nodes {
            // standbys refuse twenty writes a second
            config.options("-c log_min_messages=fatal");
        }
        let (writes, stopping) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (record, stop) = (Arc::clone(&writes), Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let probes =
                nodes.iter().enumerate().map(|(node, config)| probe(node, config, interval, &record, &stop));
            runtime.block_on(join_all(probes));
        });
        Self { writes, stopping, thread: Some(thread) }
    }

    /// Every acknowledged write so far.
    pub(crate) fn writes(&self) -> Vec<Write> {
        self.writes.lock().unwrap().clone()
    }

    /// When a node's last write was acknowledged.
    pub(crate) fn last_of(&self, node: usize) -> Option<Monotonic> {
        self.writes().iter().filter(|write| write.node == node).map(|write| write.at).max()
    }

    /// Stops, and fails where two nodes took writes at once.
    pub(crate) fn finish(mut self) -> Vec<Write> {
        self.stop();
        let writes = self.writes();
        assert!(!writes.is_empty(), "the prober never found a primary");
        assert_eq!(violations(&writes), Vec::<String>::new());
        writes
    }

    fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn probe(
    node: usize,
    config: &Config,
    interval: Duration,
    record: &Mutex<Vec<Write>>,
    stop: &AtomicBool,
) {
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let sent = ptarmigan_clock::now();
        connection = match tokio::time::timeout(ANSWER, attempt(node, config, connection.take())).await {
            Ok(Ok((client, Some(timeline)))) => {
                record.lock().unwrap().push(Write { node, timeline, sent, at: ptarmigan_clock::now() });
                Some(client)
            }
            Ok(Ok((client, None))) => Some(client),
            Ok(Err(_)) | Err(_) => None,
        };
        tokio::time::sleep(interval.saturating_sub(ptarmigan_clock::now().since(sent))).await;
    }
}

/// The timeline of the row, `None` where the server refused it and stays connected.
async fn attempt(node: usize, config: &Config, open: Option<Client>) -> Result<(Client, Option<i32>)> {
    let client = match open {
        Some(client) => client,
        None => {
            let (client, connection) = config.connect(NoTls).await?;
            #[allow(clippy::disallowed_methods, reason = "ends with the client")]
            tokio::spawn(connection);
            client
        }
    };
    let number = i32::try_from(node)?;
    match client.query_one(WRITE, &[&number]).await {
        Ok(row) => Ok((client, Some(row.get(0)))),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            let create =
                "SET client_min_messages = warning; CREATE TABLE IF NOT EXISTS ptarmigan_probe (node int)";
            // a standby refuses, and is asked again
            let _ = client.batch_execute(create).await;
            Ok((client, None))
        }
        Err(error) if client.is_closed() => Err(error.into()),
        Err(_) => Ok((client, None)),
    }
}

/// What cannot be where at most one node is writable: two nodes that write on one timeline, and a write on a timeline
/// that was sent after the next one had acknowledged one.
fn violations(writes: &[Write]) -> Vec<String> {
    let mut timelines: BTreeMap<i32, Vec<&Write>> = BTreeMap::new();
    for write in writes {
        timelines.entry(write.timeline).or_default().push(write);
    }
    let mut found = Vec::new();
    for (timeline, on_it) in &timelines {
        let nodes: BTreeSet<usize> = on_it.iter().map(|write| write.node).collect();
        if nodes.len() > 1 {
            found.push(format!("nodes {nodes:?} wrote on timeline {timeline}"));
        }
        let last = on_it.iter().max_by_key(|write| write.sent);
        for (later, others) in timelines.range(timeline + 1..) {
            let first = others.iter().min_by_key(|write| write.at);
            if let (Some(last), Some(first)) = (last, first)
                && last.sent > first.at
            {
                let late = last.sent.since(first.at);
                found
                    .push(format!("{late:?} after the first write of timeline {later}, {first:?}: {last:?}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(node: usize, timeline: i32, sent: u64) -> Write {
        Write { node, timeline, sent: Monotonic(sent), at: Monotonic(sent + 2) }
    }

    #[test]
    fn one_primary_after_the_other_is_fine() {
        assert_eq!(
            violations(&[write(0, 1, 10), write(0, 1, 20), write(1, 2, 22), write(0, 3, 40)]),
            [""; 0]
        );
    }

    #[test]
    fn two_primaries_on_one_timeline_are_caught() {
        assert_eq!(violations(&[write(0, 1, 10), write(1, 1, 20)]).len(), 1);
    }

    #[test]
    fn an_old_primary_that_goes_on_is_caught() {
        assert_eq!(violations(&[write(0, 1, 10), write(1, 2, 20), write(0, 1, 23)]).len(), 1);
        assert_eq!(violations(&[write(0, 1, 10), write(1, 2, 20), write(0, 1, 21)]).len(), 0);
    }
}
