//! A client that writes all the time, and knows afterwards which of its rows must be there.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use ptarmigan_types::Monotonic;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls};

/// Where a writer may find a writable server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// PostgreSQL's port.
    pub port: u16,
}

impl Target {
    /// A server on this machine.
    pub fn local(port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port }
    }
}

/// What a writer does.
#[derive(Clone)]
pub struct Options {
    /// The servers, all looked at until one is writable; a single HAProxy or PgBouncer is fine too.
    pub targets: Vec<Target>,
    /// Database user; the database is `postgres`.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// Time from one write to the next.
    pub interval: Duration,
    /// How long an answer may take before the connection is given up.
    pub answer_timeout: Duration,
}

impl Options {
    /// A write every 20 ms, an answer within 1 s.
    pub fn new(targets: Vec<Target>, user: &str, password: &str) -> Self {
        Self {
            targets,
            user: user.to_owned(),
            password: password.to_owned(),
            interval: Duration::from_millis(20),
            answer_timeout: Duration::from_secs(1),
        }
    }
}

/// A row that the server said it has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The row.
    pub id: i64,
    /// When the statement was sent.
    pub sent: Monotonic,
    /// When the answer arrived.
    pub at: Monotonic,
    /// The target's index in [`Options::targets`].
    pub target: usize,
}

/// A write without an answer that says it was committed: it may have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The row.
    pub id: i64,
    /// When it failed.
    pub at: Monotonic,
    /// Why.
    pub reason: String,
}

#[derive(Debug, Default)]
struct Record {
    acknowledged: Vec<Acknowledged>,
    failed: Vec<Failed>,
    last_refusal: String,
    mark: Option<Monotonic>,
}

/// A client that writes one row after the other on a thread of its own, so that a busy test does not look like an
/// outage.
#[derive(Debug)]
pub struct Writer {
    record: Arc<Mutex<Record>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts to write. The table `ptarmigan_writes` is created where it is missing.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(options: Options) -> Result<Self> {
        let (record, stopping) = (Arc::new(Mutex::new(Record::default())), Arc::new(AtomicBool::new(false)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = Work { options, record: Arc::clone(&record), stopping: Arc::clone(&stopping) };
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || runtime.block_on(work.run()))
            .context("cannot start the writer's thread")?;
        Ok(Self { record, stopping, thread: Some(thread) })
    }

    /// From now on [`Writer::longest_gap`] looks only at what comes.
    pub fn mark(&self) {
        self.record().mark = Some(ptarmigan_clock::now());
    }

    /// The longest time without an acknowledged write since the mark (or the first write), the time that is still
    /// running included.
    pub fn longest_gap(&self) -> Duration {
        let record = self.record();
        let times: Vec<Monotonic> = record.acknowledged.iter().map(|row| row.at).collect();
        longest_gap(&times, record.mark, ptarmigan_clock::now())
    }

    /// Every acknowledged row so far.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.record().acknowledged.clone()
    }

    /// The row that was acknowledged last.
    pub fn last_acknowledged(&self) -> Option<Acknowledged> {
        self.record().acknowledged.last().copied()
    }

    /// How many rows were acknowledged so far.
    pub fn count(&self) -> usize {
        self.record().acknowledged.len()
    }

    /// Every failed write so far.
    pub fn failed(&self) -> Vec<Failed> {
        self.record().failed.clone()
    }

    /// Every failed write since the mark, or at all where there is none.
    pub fn failed_since_mark(&self) -> Vec<Failed> {
        let record = self.record();
        let since = |failed: &&Failed| record.mark.is_none_or(|mark| failed.at >= mark);
        record.failed.iter().filter(since).cloned().collect()
    }

    /// Waits until `rows` more rows are acknowledged.
    ///
    /// # Errors
    /// They are not by the deadline; the message says why the servers refused.
    pub async fn wait_for_rows(&self, rows: usize, deadline: Duration) -> Result<()> {
        let goal = self.count() + rows;
        crate::wait_until(&format!("{rows} more acknowledged writes"), deadline, || async {
            let record = self.record();
            let count = record.acknowledged.len();
            ensure!(count >= goal, "{count} of {goal}; last refusal: {}", record.last_refusal);
            Ok(())
        })
        .await
    }

    /// Stops after the write that is under way. Reports stay readable.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // a panic of the writer is seen in the rows that are missing afterwards
            let _ = thread.join();
        }
    }

    /// The ids of acknowledged rows that the server does not have: each is a lost commit.
    ///
    /// # Errors
    /// The server's.
    pub async fn verify(&self, server: &Client) -> Result<Vec<i64>> {
        let acknowledged: Vec<i64> = self.record().acknowledged.iter().map(|row| row.id).collect();
        let rows = server.query("SELECT id FROM ptarmigan_writes", &[]).await?;
        let present: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        Ok(acknowledged.into_iter().filter(|id| !present.contains(id)).collect())
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("invariant: nothing panics while it holds this lock")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The longest distance between neighbours of `times` after `mark`, the open end up to `now` included.
fn longest_gap(times: &[Monotonic], mark: Option<Monotonic>, now: Monotonic) -> Duration {
    let Some(mut last) = mark.or_else(|| times.first().copied()) else { return Duration::ZERO };
    let mut longest = Duration::ZERO;
    for time in times.iter().filter(|time| **time >= last).chain([&now]).copied().collect::<Vec<_>>() {
        longest = longest.max(time.since(last));
        last = time;
    }
    longest
}

struct Work {
    options: Options,
    record: Arc<Mutex<Record>>,
    stopping: Arc<AtomicBool>,
}

impl Work {
    async fn run(self) {
        let mut connection: Option<(usize, Client)> = None;
        let mut id = 0;
        while !self.stopping.load(Ordering::Relaxed) {
            let start = ptarmigan_clock::now();
            if connection.is_none() {
                match self.find_writable().await {
                    Ok(found) => connection = Some(found),
                    Err(error) => self.record().last_refusal = format!("{error:#}"),
                }
            }
            if let Some((target, client)) = connection.take() {
                id += 1;
                if self.write(id, target, &client).await {
                    connection = Some((target, client));
                }
            }
            let elapsed = ptarmigan_clock::now().since(start);
            tokio::time::sleep(self.options.interval.saturating_sub(elapsed)).await;
        }
    }

    /// Whether the row was acknowledged.
    async fn write(&self, id: i64, target: usize, client: &Client) -> bool {
        let sent = ptarmigan_clock::now();
        let insert = "INSERT INTO ptarmigan_writes (id) VALUES ($1)";
        let answer = timeout(self.options.answer_timeout, client.execute(insert, &[&id])).await;
        let at = ptarmigan_clock::now();
        let reason = match answer {
            Ok(Ok(_)) => {
                self.record().acknowledged.push(Acknowledged { id, sent, at, target });
                return true;
            }
            Ok(Err(error)) => format!("{:#}", anyhow!(error)),
            Err(_) => format!("no answer within {:?}", self.options.answer_timeout),
        };
        let mut record = self.record();
        record.last_refusal.clone_from(&reason);
        record.failed.push(Failed { id, at, reason });
        false
    }

    /// All targets at once: a frozen one must not delay the others. The first writable one wins.
    async fn find_writable(&self) -> Result<(usize, Client)> {
        let mut attempts: FuturesUnordered<_> =
            (0..self.options.targets.len()).map(|target| self.open(target)).collect();
        let mut last = anyhow!("there are no targets");
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn open(&self, index: usize) -> Result<(usize, Client)> {
        let target = &self.options.targets[index];
        let client = timeout(self.options.answer_timeout, self.open_writable(target))
            .await
            .map_err(|_| anyhow!("no answer within {:?}", self.options.answer_timeout))
            .and_then(|client| client)
            .with_context(|| format!("{}:{}", target.host, target.port))?;
        Ok((index, client))
    }

    async fn open_writable(&self, target: &Target) -> Result<Client> {
        let mut config = Config::new();
        config.host(&target.host).port(target.port).dbname("postgres").application_name("ptarmigan-writer");
        config.user(&self.options.user).password(&self.options.password);
        let (client, connection) = config.connect(NoTls).await?;
        #[expect(clippy::disallowed_methods, reason = "ends with its client")]
        tokio::spawn(connection);
        let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
        ensure!(!row.get::<_, bool>(0), "in recovery");
        client
            .batch_execute(
                "SET client_min_messages = warning; CREATE TABLE IF NOT EXISTS ptarmigan_writes \
                 (id bigint PRIMARY KEY, written_at timestamptz DEFAULT now())",
            )
            .await?;
        Ok(client)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("invariant: nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(seconds: &[u64]) -> Vec<Monotonic> {
        seconds.iter().map(|second| Monotonic(second * 1_000_000)).collect()
    }

    #[test]
    fn the_longest_gap_lies_between_neighbours() {
        let gap = longest_gap(&times(&[1, 2, 7, 8]), None, Monotonic(9_000_000));
        assert_eq!(gap, Duration::from_secs(5));
    }

    #[test]
    fn a_gap_that_is_still_open_counts() {
        let gap = longest_gap(&times(&[1, 2]), None, Monotonic(20_000_000));
        assert_eq!(gap, Duration::from_secs(18));
    }

    #[test]
    fn nothing_before_the_mark_counts() {
        let mark = Some(Monotonic(7_500_000));
        let gap = longest_gap(&times(&[1, 2, 7, 8]), mark, Monotonic(9_000_000));
        assert_eq!(gap, Duration::from_secs(1));
    }

    #[test]
    fn no_write_is_no_gap() {
        assert_eq!(longest_gap(&[], None, Monotonic(9_000_000)), Duration::ZERO);
    }
}
