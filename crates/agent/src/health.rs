//! Looks whether a PostgreSQL that runs also works: by a connection of its own, a query, and a write to its file system. On a
//! thread of its own: what hangs here keeps nobody waiting.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use ptarmigan_ha::health::{Ailment, Fault};
use ptarmigan_postgres::{
    connection::{Error, Purpose},
    postmaster::Running,
};
use ptarmigan_types::{MemberState, Monotonic};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use crate::node::Node;

/// Between two looks: `loop_wait`, within these.
const INTERVAL: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// Between two writes, each of which costs the disk a flush, where all was well and nothing is made of it but a report.
const WRITE_INTERVAL: Duration = Duration::from_secs(30);

/// A query of nothing takes longer only where something is wrong.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// So much is written; a file system with less is full.
const PAGE_BYTES: usize = 8192;

/// What was seen last, and of which postmaster.
#[derive(Debug, Default)]
pub struct Health(Mutex<Option<(Running, Ailment)>>);

impl Health {
    fn seen(&self) -> MutexGuard<'_, Option<(Running, Ailment)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with the server that `running` tells of. It is asked only where something was seen, and where another one
    /// runs by now, that one has done nothing wrong.
    pub fn ailment(&self, running: impl FnOnce() -> Option<Running>) -> Option<Ailment> {
        let (whose, ailment) = self.seen().clone()?;
        (running() == Some(whose)).then_some(ailment)
    }

    /// The same for `GET /patroni`.
    pub fn document(&self, running: impl FnOnce() -> Option<Running>) -> Option<Value> {
        let ailment = self.ailment(running)?;
        let for_s = ptarmigan_clock::now().since(ailment.since).as_secs();
        Some(json!({"fault": ailment.fault, "reason": ailment.reason, "seconds": for_s}))
    }

    /// Notes what a look has brought; true where that is news.
    fn note(&self, whose: Running, found: Result<(), (Fault, String)>, now: Monotonic) -> bool {
        let mut seen = self.seen();
        let before = seen.take().filter(|(before, _)| *before == whose).map(|(_, ailment)| ailment);
        match (found, before) {
            (Ok(()), None) => false,
            (Ok(()), Some(_)) => {
                tracing::info!("PostgreSQL works again");
                true
            }
            (Err((fault, reason)), before) => {
                let since = before.as_ref().map_or(now, |before| before.since);
                let is_news = before.is_none_or(|before| before.fault != fault);
                if is_news {
                    tracing::error!("PostgreSQL runs, and {fault}: {reason}");
                }
                *seen = Some((whose, Ailment { fault, reason, since }));
                is_news
            }
        }
    }
}

/// Looks for the life of the node, on a thread of its own.
///
/// # Errors
/// There is no thread to be had.
pub fn watch(node: &Arc<Node>) -> io::Result<()> {
    let node = Arc::downgrade(node);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
    std::thread::Builder::new().name("health".into()).spawn(move || {
        runtime.block_on(look_again(&node));
        // A file system that does not answer keeps a thread of ours.
        runtime.shutdown_background();
    })?;
    Ok(())
}

async fn look_again(node: &Weak<Node>) {
    let mut before = Before::default();
    loop {
        let Some(living) = node.upgrade() else { return };
        if let Some(whose) = at_work(&living) {
            let found = look(&living, &mut before).await;
            // One that was stopped meanwhile had nothing wrong with it.
            if at_work(&living) == Some(whose) && living.health.note(whose, found, ptarmigan_clock::now()) {
                living.wake();
            }
        } else {
            living.health.seen().take();
        }
        let wait = living.configuration.timing().loop_wait.clamp(INTERVAL[0], INTERVAL[1]);
        drop(living);
        tokio::time::sleep(wait).await;
    }
}

/// The server that is up and at its work: no job starts, stops or moves it.
fn at_work(node: &Node) -> Option<Running> {
    let is_left_alone = node.postgres.state() == MemberState::Running && node.known().job.is_none();
    is_left_alone.then(|| node.postgres.running()).flatten()
}

/// What need not be tried again so soon.
#[derive(Debug, Default)]
struct Before {
    looked: Monotonic,
    wrote: Monotonic,
}

async fn look(node: &Node, before: &mut Before) -> Result<(), (Fault, String)> {
    let now = ptarmigan_clock::now();
    let looked = std::mem::replace(&mut before.looked, now);
    accepts(node).await.map_err(|reason| (Fault::NoConnection, reason))?;
    // The heartbeat was answered since.
    if node.known().figures.as_ref().is_none_or(|figures| figures.at <= looked) {
        answers(node).await.map_err(|reason| (Fault::NoAnswer, reason))?;
    }
    let gives_way = node.configuration.current().settings.global.gives_way_after_s.is_some();
    if gives_way || now.since(before.wrote) >= WRITE_INTERVAL {
        writes(node).await.map_err(|reason| (Fault::CannotWrite, reason))?;
        before.wrote = now;
    }
    Ok(())
}

/// A query over the connection that health checks use.
async fn answers(node: &Node) -> Result<(), String> {
    let answers = tokio::time::timeout(ANSWER_MAX, async {
        match node.postgres.session(Purpose::RestApi).await {
            Ok(session) => session.query_text("SELECT 1").await.map(drop),
            // It is there, and full: who asked for so few connections wanted that.
            Err(Error::Denied(_)) => Ok(()),
            Err(error) => Err(error),
        }
    });
    match answers.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            // Whoever asks next does so over a connection of its own.
            node.postgres.forget_session(Purpose::RestApi).await;
            Err(format!("nothing within {ANSWER_MAX:?}"))
        }
    }
}

async fn writes(node: &Node) -> Result<(), String> {
    let wal = node.postgres.data_dir().join("pg_wal");
    let shown = wal.display().to_string();
    let written = tokio::task::spawn_blocking(move || write_to(&wal));
    let reason = match tokio::time::timeout(ANSWER_MAX, written).await {
        Ok(Ok(Ok(()))) => return Ok(()),
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("nothing within {ANSWER_MAX:?}"),
    };
    Err(format!("{shown}: {reason}"))
}

/// A new connection, as far as the server's first word: what a login costs, is the heartbeat's to pay.
async fn accepts(node: &Node) -> Result<(), String> {
    match tokio::time::timeout(ANSWER_MAX, node.postgres.greeting()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(reason),
        Err(_) => Err(format!("nothing within {ANSWER_MAX:?}")),
    }
}

/// Writes to the file system of a folder what leaves no trace in it. A file system without files that have no name cannot be tried
/// so, and counts as well.
fn write_to(folder: &Path) -> io::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    let opened = rustix::fs::open(folder, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode);
    let file: OwnedFd = match opened {
        Ok(file) => file,
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut file = File::from(file);
    file.write_all(&[0; PAGE_BYTES])?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTMASTER: Running = Running { pid: 7, start_time_ticks: 1 };

    fn ill(fault: Fault) -> Result<(), (Fault, String)> {
        Err((fault, "no".to_owned()))
    }

    #[test]
    fn an_ailment_lasts_from_its_first_sign_on() {
        let health = Health::default();
        let note = |found, now| health.note(POSTMASTER, found, Monotonic(now));
        let runs = || Some(POSTMASTER);
        assert!(!note(Ok(()), 1));
        assert!(note(ill(Fault::NoConnection), 2));
        assert!(!note(ill(Fault::NoConnection), 3), "no news");
        assert!(note(ill(Fault::NoAnswer), 4), "another fault");
        assert_eq!(health.ailment(runs).unwrap().since, Monotonic(2));
        let document = health.document(runs).unwrap();
        assert_eq!((&document["fault"], &document["reason"]), (&json!("no_answer"), &json!("no")));
        assert!(note(Ok(()), 5));
        assert_eq!((health.ailment(runs), health.document(runs)), (None, None));
    }

    #[test]
    fn an_ailment_is_that_of_one_postmaster() {
        let health = Health::default();
        let next = Running { start_time_ticks: 2, ..POSTMASTER };
        health.note(POSTMASTER, ill(Fault::NoConnection), Monotonic(2));
        assert_eq!(health.ailment(|| Some(next)), None, "that of its predecessor");
        assert_eq!(health.ailment(|| None), None, "nothing runs");
        assert!(health.note(next, ill(Fault::NoConnection), Monotonic(9)), "news of this one");
        assert_eq!(health.ailment(|| Some(next)).unwrap().since, Monotonic(9));
        assert!(!health.note(POSTMASTER, Ok(()), Monotonic(10)), "it had nothing");
    }

    #[test]
    fn a_folder_that_can_be_written_to_keeps_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        write_to(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(write_to(Path::new("/proc/self")).is_err());
        assert!(write_to(&folder.path().join("missing")).is_err());
    }
}
