//! Two primaries at once would be seen here: a client that tries to write on every node all the time, whatever its role
//! is said to be.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use ptarmigan_types::Monotonic;
use tokio_postgres::{Client, Config, NoTls, error::SqlState};

/// Longer than a server that is not frozen needs. A connection that is given up would miss a late acknowledgement.
const ANSWER: Duration = Duration::from_secs(5);

/// The timeline comes with the row: a primary has one of its own, whatever happened before.
const WRITE: &str = "INSERT INTO ptarmigan_probe (node, id) VALUES ($1, $2) RETURNING \
                     ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int";

/// The next row's number: no two probers of a program use the same.
static NEXT_ID: AtomicI64 = AtomicI64::new(1);

/// A row that a server said it has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// The node's index.
    pub node: usize,
    /// The row.
    pub id: i64,
    /// The timeline that the row is on.
    pub timeline: i32,
    /// When the statement was sent.
    pub sent: Monotonic,
    /// When the answer arrived.
    pub at: Monotonic,
}

/// Writes on a thread of its own until it is stopped.
#[derive(Debug)]
pub struct Prober {
    writes: Arc<Mutex<Vec<Write>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts to write on each of `nodes` once in `interval`. The table `ptarmigan_probe` is created where it is
    /// missing.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(mut nodes: Vec<Config>, interval: Duration) -> Result<Self> {
        for config in &mut nodes {
            // standbys refuse a hundred writes a second
            config.options("-c log_min_messages=fatal");
        }
        let (writes, stopping) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (record, stop) = (Arc::clone(&writes), Arc::clone(&stopping));
        let work = move || {
            let probes =
                nodes.iter().enumerate().map(|(node, config)| probe(node, config, interval, &record, &stop));
            runtime.block_on(join_all(probes));
        };
        let thread = std::thread::Builder::new()
            .name("prober".to_owned())
            .spawn(work)
            .context("cannot start the prober's thread")?;
        Ok(Self { writes, stopping, thread: Some(thread) })
    }

    /// Every acknowledged row so far, in the order of the answers.
    pub fn writes(&self) -> Vec<Write> {
        lock(&self.writes).clone()
    }

    /// Stops after the writes that are under way. Reports stay readable.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // a panic of the prober is seen in the rows that are missing afterwards
            let _ = thread.join();
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How long two nodes both acknowledged writes: the longest time that two reigns of different nodes have in common. A
/// reign is a node's time on one timeline, from the answer to its first write until its last one was sent.
pub fn overlap(writes: &[Write]) -> Duration {
    let mut reigns: BTreeMap<(usize, i32), (Monotonic, Monotonic)> = BTreeMap::new();
    for write in writes {
        let reign = reigns.entry((write.node, write.timeline)).or_insert((write.at, write.sent));
        *reign = (reign.0.min(write.at), reign.1.max(write.sent));
    }
    let mut longest = Duration::ZERO;
    for (one, (one_begin, one_end)) in &reigns {
        for (_, (begin, end)) in reigns.iter().filter(|(other, _)| other.0 > one.0) {
            let (begin, end) = (*one_begin.max(begin), *one_end.min(end));
            if end > begin {
                longest = longest.max(end.since(begin));
            }
        }
    }
    longest
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
        let (id, sent) = (NEXT_ID.fetch_add(1, Ordering::Relaxed), ptarmigan_clock::now());
        connection = match tokio::time::timeout(ANSWER, attempt(node, id, config, connection.take())).await {
            Ok(Ok((client, Some(timeline)))) => {
                lock(record).push(Write { node, id, timeline, sent, at: ptarmigan_clock::now() });
                Some(client)
            }
            Ok(Ok((client, None))) => Some(client),
            Ok(Err(_)) | Err(_) => None,
        };
        tokio::time::sleep(interval.saturating_sub(ptarmigan_clock::now().since(sent))).await;
    }
}

/// The timeline of the row, `None` where the server refused it and stays connected.
async fn attempt(
    node: usize,
    id: i64,
    config: &Config,
    open: Option<Client>,
) -> Result<(Client, Option<i32>)> {
    let client = match open {
        Some(client) => client,
        None => {
            let (client, connection) = config.connect(NoTls).await?;
            #[expect(clippy::disallowed_methods, reason = "ends with its client")]
            tokio::spawn(connection);
            client
        }
    };
    match client.query_one(WRITE, &[&i32::try_from(node)?, &id]).await {
        Ok(row) => Ok((client, Some(row.try_get(0)?))),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            let create = "SET client_min_messages = warning; \
                          CREATE TABLE IF NOT EXISTS ptarmigan_probe (node int, id bigint)";
            // a standby refuses, and is asked again
            let _ = client.batch_execute(create).await;
            Ok((client, None))
        }
        Err(error) if client.is_closed() => Err(error.into()),
        Err(_) => Ok((client, None)),
    }
}

fn lock(record: &Mutex<Vec<Write>>) -> MutexGuard<'_, Vec<Write>> {
    record.lock().expect("invariant: nothing panics while it holds this lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(node: usize, timeline: i32, sent: u64) -> Write {
        Write { node, id: 0, timeline, sent: Monotonic(sent), at: Monotonic(sent + 2) }
    }

    #[test]
    fn one_primary_after_the_other_has_no_time_in_common() {
        let writes = [write(0, 1, 10), write(0, 1, 20), write(1, 2, 22), write(1, 2, 30), write(0, 3, 40)];
        assert_eq!(overlap(&writes), Duration::ZERO);
        assert_eq!(overlap(&[]), Duration::ZERO);
    }

    #[test]
    fn two_primaries_have_the_time_between_the_news_first_answer_and_the_olds_last_statement() {
        let writes = [write(0, 1, 10), write(1, 2, 20), write(0, 1, 30), write(1, 2, 90)];
        assert_eq!(overlap(&writes), Duration::from_micros(8));
    }

    #[test]
    fn a_write_that_was_sent_before_the_other_answered_is_not_later() {
        let writes = [write(0, 1, 10), write(1, 2, 20), write(0, 1, 21)];
        assert_eq!(overlap(&writes), Duration::ZERO);
    }
}
