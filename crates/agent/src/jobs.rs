//! The one long action that may be in flight (contract B.0.1).

mod bootstrap;
mod clone;
mod demote;
mod follow;
mod promote;
mod rewind;
mod start;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use ptarmigan_ha::{
    action::Job,
    observation::{JobEnd, JobKind, JobResult, JobView},
};
use ptarmigan_types::Monotonic;
use tokio::task::JoinHandle;

use crate::node::Node;

/// The slot for the long action, and how the last ones ended.
#[derive(Debug, Default)]
pub struct Jobs {
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    running: Option<Running>,
    finished: Vec<JobResult>,
    last_number: u64,
}

#[derive(Debug)]
struct Running {
    number: u64,
    kind: JobKind,
    since: Monotonic,
    cancellable: Cancellable,
    task: JoinHandle<()>,
}

/// Another long action is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} already in progress", .0.words())]
pub struct Busy(pub JobKind);

/// True until the part of an action begins that must not be left half done.
#[derive(Debug, Clone)]
pub struct Cancellable(Arc<AtomicBool>);

impl Cancellable {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// From here on the action cannot be taken back.
    pub fn end(&self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Jobs {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().expect("invariant: nobody panics while holding the job slot")
    }

    /// Starts an action unless one is in flight. Its end is kept for the next cycle, which it wakes.
    pub fn start<F, W>(self: &Arc<Self>, kind: JobKind, now: Monotonic, work: F) -> Result<(), Busy>
    where
        F: FnOnce(Cancellable) -> W,
        W: Future<Output = (JobEnd, Arc<Node>)> + Send + 'static,
    {
        let mut slot = self.slot();
        if let Some(running) = &slot.running {
            return Err(Busy(running.kind));
        }
        slot.last_number += 1;
        let number = slot.last_number;
        let cancellable = Cancellable::new();
        let work = work(cancellable.clone());
        let jobs = Arc::clone(self);
        #[expect(
            clippy::disallowed_methods,
            reason = "the slot owns the task: it is cancelled and awaited here"
        )]
        let task = tokio::spawn(async move {
            let (end, node) = work.await;
            jobs.ended(number, kind, end);
            node.wake();
        });
        slot.running = Some(Running { number, kind, since: now, cancellable, task });
        Ok(())
    }

    fn ended(&self, number: u64, kind: JobKind, end: JobEnd) {
        let mut slot = self.slot();
        if slot.running.as_ref().is_some_and(|running| running.number == number) {
            slot.running = None;
            slot.finished.push(JobResult { kind, end });
        }
    }

    /// Cancels the action in flight and waits until nothing of it runs any more.
    pub async fn cancel(&self) {
        let Some(running) = self.slot().running.take() else { return };
        tracing::info!("cancelling {}", running.kind.words());
        running.task.abort();
        // The task is gone once this returns; a panic in it was reported by the hook.
        drop(running.task.await);
        self.slot().finished.push(JobResult { kind: running.kind, end: JobEnd::Cancelled });
    }

    /// What is in flight. A task that panicked counts as ended and failed.
    pub fn view(&self, now: Monotonic) -> Option<JobView> {
        let mut slot = self.slot();
        if slot.running.as_ref().is_some_and(|running| running.task.is_finished()) {
            let kind = slot.running.take()?.kind;
            slot.finished.push(JobResult { kind, end: JobEnd::Failed("it ended without a result".into()) });
        }
        slot.running.as_ref().map(|running| JobView {
            kind: running.kind,
            running_for: now.since(running.since),
            cancellable: running.cancellable.0.load(Ordering::Acquire),
        })
    }

    /// How the actions ended that no cycle has heard of yet.
    pub fn take_finished(&self) -> Vec<JobResult> {
        std::mem::take(&mut self.slot().finished)
    }
}

/// What kind of action a job is.
pub const fn kind(job: &Job) -> JobKind {
    match job {
        Job::Bootstrap => JobKind::Bootstrap,
        Job::PostBootstrap => JobKind::PostBootstrap,
        Job::Clone { .. } => JobKind::Clone,
        Job::Reinitialize { .. } => JobKind::Reinitialize,
        Job::Promote { .. } => JobKind::Promote,
        Job::Demote(mode) => JobKind::Demote(*mode),
        Job::StartPrimary { .. } => JobKind::StartPrimary,
        Job::Follow { .. } => JobKind::Follow,
        Job::Restart { .. } => JobKind::Restart,
        Job::Rewind { .. } => JobKind::Rewind,
        Job::CrashRecovery => JobKind::CrashRecovery,
    }
}

/// Begins a job that the core asked for.
pub fn begin(node: &Arc<Node>, job: Job) -> Result<(), Busy> {
    let worker = Arc::clone(node);
    let kind = kind(&job);
    node.jobs.start(kind, ptarmigan_clock::now(), move |cancellable| async move {
        let end = run(&worker, job, &cancellable).await;
        log_end(kind, &end);
        (end, worker)
    })
}

fn log_end(kind: JobKind, end: &JobEnd) {
    match end {
        JobEnd::Done => tracing::info!("{}: done", kind.words()),
        JobEnd::Failed(reason) => tracing::error!("{} failed: {reason}", kind.words()),
        JobEnd::PrePromoteFailed => {
            tracing::error!("the pre_promote script failed, the leader lock is given up");
        }
        JobEnd::RewindFailedForGood(reason) => tracing::error!("pg_rewind failed: {reason}"),
        JobEnd::Cancelled => {}
    }
}

async fn run(node: &Arc<Node>, job: Job, cancellable: &Cancellable) -> JobEnd {
    let end = match job {
        Job::Bootstrap => bootstrap::run(node).await,
        Job::PostBootstrap => bootstrap::post_bootstrap(node).await,
        Job::Clone { source } => clone::run(node, source.as_ref(), false).await,
        Job::Reinitialize { source } => clone::reinitialize(node, source.as_ref(), false).await,
        Job::Promote { timeline } => return promote::run(node, timeline, cancellable).await,
        Job::Demote(mode) => demote::run(node, mode).await,
        Job::StartPrimary { timeout } => start::primary(node, timeout).await,
        Job::Follow { upstream, role, timeout } => follow::run(node, upstream.as_ref(), role, timeout).await,
        Job::Restart { timeout } => start::restart(node, timeout).await.map(drop),
        Job::Rewind { leader, checkpoint_first } => {
            return rewind::run(node, &leader, checkpoint_first).await;
        }
        Job::CrashRecovery => rewind::crash_recovery(node).await,
    };
    match end {
        Ok(()) => JobEnd::Done,
        Err(reason) => JobEnd::Failed(reason),
    }
}

/// Reinitialises on an operator's request (contract RI-2).
pub fn begin_reinitialize(node: &Arc<Node>, from_leader: bool) -> Result<(), Busy> {
    let worker = Arc::clone(node);
    node.jobs.start(JobKind::Reinitialize, ptarmigan_clock::now(), move |_| async move {
        let end = match clone::reinitialize(&worker, None, from_leader).await {
            Ok(()) => JobEnd::Done,
            Err(reason) => JobEnd::Failed(reason),
        };
        log_end(JobKind::Reinitialize, &end);
        (end, worker)
    })
}

pub(crate) use follow::recovery;
pub use start::Restarted;

/// Restarts on an operator's request; the answer comes through `done`.
pub fn begin_restart(
    node: &Arc<Node>,
    timeout: Option<std::time::Duration>,
    done: tokio::sync::oneshot::Sender<Result<Restarted, String>>,
) -> Result<(), Busy> {
    let worker = Arc::clone(node);
    node.jobs.start(JobKind::Restart, ptarmigan_clock::now(), move |_| async move {
        let result = start::restart(&worker, timeout).await;
        let end = match &result {
            Ok(_) => JobEnd::Done,
            Err(reason) => JobEnd::Failed(reason.clone()),
        };
        log_end(JobKind::Restart, &end);
        // Nobody may be waiting for the answer any more.
        drop(done.send(result));
        (end, worker)
    })
}
