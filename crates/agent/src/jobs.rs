//! The one long action that may be in flight (contract B.0.1).

mod bootstrap;
mod clone;
mod copy_slots;
mod demote;
mod follow;
mod promote;
mod rewind;
mod start;

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::FutureExt;
use ptarmigan_ha::{
    action::Job,
    observation::{JobEnd, JobKind, JobResult, JobView},
};
use ptarmigan_types::Monotonic;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::node::Node;

/// The slot for the long action, and how the last ones ended.
#[derive(Debug, Default)]
pub struct Jobs {
    slot: Mutex<Slot>,
    wake: Arc<Notify>,
    /// Grows with every end of an action, also where it was cancelled.
    ends: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Slot {
    running: Option<Running>,
    finished: Vec<JobResult>,
    last_number: u64,
    closed: bool,
}

#[derive(Debug)]
struct Running {
    number: u64,
    kind: JobKind,
    since: Monotonic,
    cancellable: Cancellable,
    task: JoinHandle<()>,
}

/// Why a long action is not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another one is in flight (contract RS-3, RI-1).
    #[error("{} already in progress", .0.words())]
    Busy(JobKind),
    /// The daemon is on its way out: nothing may start a server that was just stopped.
    #[error("the daemon is shutting down")]
    Closed,
}

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
    /// An empty slot; every end of an action notifies `wake`.
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { slot: Mutex::default(), wake, ends: watch::Sender::default() }
    }

    /// A panic elsewhere must not keep the end of the daemon from cancelling what runs.
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an action unless one is in flight. Its end is kept for the next cycle, which it wakes.
    ///
    /// # Errors
    /// Another one is in flight, or the daemon ends.
    pub fn start<F, W>(self: &Arc<Self>, kind: JobKind, now: Monotonic, work: F) -> Result<(), Refused>
    where
        F: FnOnce(Cancellable) -> W,
        W: Future<Output = JobEnd> + Send + 'static,
    {
        let mut slot = self.slot();
        if slot.closed {
            return Err(Refused::Closed);
        }
        if let Some(running) = &slot.running {
            return Err(Refused::Busy(running.kind));
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
            // The panic itself is reported by the hook; here it must not leave the slot occupied and the loop asleep.
            let end = AssertUnwindSafe(work).catch_unwind().await;
            jobs.ended(number, kind, end.unwrap_or_else(|_| JobEnd::Failed("it panicked".into())));
            jobs.wake.notify_one();
        });
        slot.running = Some(Running { number, kind, since: now, cancellable, task });
        Ok(())
    }

    fn ended(&self, number: u64, kind: JobKind, end: JobEnd) {
        let mut slot = self.slot();
        if slot.running.as_ref().is_some_and(|running| running.number == number) {
            slot.running = None;
            slot.finished.push(JobResult { kind, end });
            self.ends.send_modify(|ends| *ends += 1);
        }
    }

    /// Changes whenever an action has ended or was cancelled.
    pub fn watch_ends(&self) -> watch::Receiver<u64> {
        self.ends.subscribe()
    }

    /// Cancels the action in flight and waits until nothing of it runs any more.
    pub async fn cancel(&self) {
        let Some(running) = self.slot().running.take() else { return };
        tracing::info!("cancelling {}", running.kind.words());
        running.task.abort();
        // The task is gone once this returns.
        drop(running.task.await);
        self.slot().finished.push(JobResult { kind: running.kind, end: JobEnd::Cancelled });
        self.ends.send_modify(|ends| *ends += 1);
    }

    /// Cancels the action in flight, for the end of the daemon: none can be begun after it.
    pub async fn close(&self) {
        self.slot().closed = true;
        self.cancel().await;
    }

    /// What is in flight.
    pub fn view(&self, now: Monotonic) -> Option<JobView> {
        view(&self.slot(), now)
    }

    /// What is in flight, and how the actions ended that no cycle has heard of yet: an action is in one of the two.
    pub fn observe(&self, now: Monotonic) -> (Option<JobView>, Vec<JobResult>) {
        let mut slot = self.slot();
        (view(&slot, now), std::mem::take(&mut slot.finished))
    }

    /// Gives back what a cycle took that came to no decision: the next one hears of it first.
    pub fn unobserve(&self, mut finished: Vec<JobResult>) {
        let mut slot = self.slot();
        finished.append(&mut slot.finished);
        slot.finished = finished;
    }
}

fn view(slot: &Slot, now: Monotonic) -> Option<JobView> {
    slot.running.as_ref().map(|running| JobView {
        kind: running.kind,
        running_for: now.since(running.since),
        cancellable: running.cancellable.0.load(Ordering::Acquire),
    })
}

/// Begins a job that the core asked for.
///
/// # Errors
/// Another one is in flight, or the daemon ends.
pub fn begin(node: &Arc<Node>, job: Job) -> Result<(), Refused> {
    let worker = Arc::clone(node);
    let kind = job.kind();
    node.jobs.start(kind, ptarmigan_clock::now(), move |cancellable| async move {
        let end = run(&worker, job, &cancellable).await;
        log_end(kind, &end);
        end
    })
}

fn log_end(kind: JobKind, end: &JobEnd) {
    match end {
        JobEnd::Done => tracing::info!("{}: done", kind.words()),
        JobEnd::Failed(reason) => tracing::error!("{} failed: {reason}", kind.words()),
        JobEnd::PrePromoteFailed => {
            tracing::error!("the promotion is called off, and the leader lock given up");
        }
        JobEnd::RewindFailedForGood(reason) => tracing::error!("pg_rewind failed: {reason}"),
        JobEnd::Cancelled => {}
    }
}

async fn run(node: &Arc<Node>, job: Job, cancellable: &Cancellable) -> JobEnd {
    let end = match job {
        Job::Bootstrap => bootstrap::run(node).await,
        Job::BootstrapStandbyLeader => bootstrap::standby_leader(node).await,
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
        Job::CopySlots { leader, slots } => copy_slots::run(node, &leader, &slots).await,
    };
    match end {
        Ok(()) => JobEnd::Done,
        Err(reason) => JobEnd::Failed(reason),
    }
}

/// Reinitialises on an operator's request (contract RI-2).
///
/// # Errors
/// Another action is in flight, or the daemon ends.
pub fn begin_reinitialize(node: &Arc<Node>, from_leader: bool) -> Result<(), Refused> {
    let worker = Arc::clone(node);
    node.jobs.start(JobKind::Reinitialize, ptarmigan_clock::now(), move |_| async move {
        let end = match clone::reinitialize(&worker, None, from_leader).await {
            Ok(()) => JobEnd::Done,
            Err(reason) => JobEnd::Failed(reason),
        };
        log_end(JobKind::Reinitialize, &end);
        end
    })
}

pub(crate) use demote::{ENFORCED_STOP, FAST_STOP_MIN, cannot_commit};
pub(crate) use follow::recovery;
pub use start::Restarted;

/// Restarts on an operator's request; the answer comes through `done`.
///
/// # Errors
/// Another action is in flight, or the daemon ends.
pub fn begin_restart(
    node: &Arc<Node>,
    timeout: Option<std::time::Duration>,
    done: tokio::sync::oneshot::Sender<Result<Restarted, String>>,
) -> Result<(), Refused> {
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
        end
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::until;

    const KIND: JobKind = JobKind::Clone;

    fn jobs() -> (Arc<Jobs>, Arc<Notify>) {
        let wake = Arc::new(Notify::new());
        (Arc::new(Jobs::new(Arc::clone(&wake))), wake)
    }

    fn now() -> Monotonic {
        ptarmigan_clock::now()
    }

    #[tokio::test]
    async fn b_0_1_one_at_a_time_and_its_end_wakes_the_loop() {
        let (jobs, wake) = jobs();
        let (go, waits) = tokio::sync::oneshot::channel::<()>();
        jobs.start(KIND, now(), |_| async {
            drop(waits.await);
            JobEnd::Done
        })
        .unwrap();
        let second = jobs.start(JobKind::Promote, now(), |_| async { JobEnd::Done });
        assert_eq!(second, Err(Refused::Busy(KIND)));
        assert_eq!(second.unwrap_err().to_string(), "bootstrap from leader already in progress");
        let (view, finished) = jobs.observe(now());
        assert_eq!((view.unwrap().kind, finished), (KIND, Vec::new()));
        go.send(()).unwrap();
        wake.notified().await;
        let (view, finished) = jobs.observe(now());
        let done = JobResult { kind: KIND, end: JobEnd::Done };
        assert_eq!((view, &finished), (None, &vec![done.clone()]));
        // A cycle that came to no decision gives back what it took.
        jobs.unobserve(finished);
        assert_eq!(jobs.observe(now()).1, [done]);
        assert_eq!(jobs.observe(now()).1, [], "nobody hears of it twice");
    }

    #[tokio::test]
    async fn b_0_1_panic_is_a_failure_that_wakes_the_loop() {
        let (jobs, wake) = jobs();
        jobs.start(KIND, now(), |_| async { panic!("planned by a test") }).unwrap();
        wake.notified().await;
        let (view, finished) = jobs.observe(now());
        assert_eq!(view, None);
        assert_eq!(finished, [JobResult { kind: KIND, end: JobEnd::Failed("it panicked".into()) }]);
        jobs.start(KIND, now(), |_| async { JobEnd::Done }).unwrap();
    }

    #[tokio::test]
    async fn cancelled_action_is_gone_before_the_next_begins() {
        struct Gone(Arc<AtomicBool>);
        impl Drop for Gone {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let (jobs, _) = jobs();
        let gone = Arc::new(AtomicBool::new(false));
        let guard = Gone(Arc::clone(&gone));
        let begun = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&begun);
        jobs.start(JobKind::Promote, now(), |cancellable| async move {
            let _guard = guard;
            cancellable.end();
            flag.store(true, Ordering::SeqCst);
            std::future::pending().await
        })
        .unwrap();
        until("the action began", || begun.load(Ordering::SeqCst)).await;
        let view = jobs.view(now()).unwrap();
        assert!(!view.cancellable && view.is_promoting());
        jobs.cancel().await;
        assert!(gone.load(Ordering::SeqCst));
        assert_eq!(jobs.observe(now()).1, [JobResult { kind: JobKind::Promote, end: JobEnd::Cancelled }]);
        jobs.cancel().await;
        assert_eq!(jobs.observe(now()), (None, Vec::new()), "nothing is left to cancel");
    }

    #[tokio::test]
    async fn sd_1_nothing_begins_once_the_daemon_ends() {
        let (jobs, _) = jobs();
        jobs.start(KIND, now(), |_| std::future::pending()).unwrap();
        jobs.close().await;
        let late = jobs.start(JobKind::Restart, now(), |_| async { JobEnd::Done });
        assert_eq!(late, Err(Refused::Closed));
        assert_eq!(jobs.view(now()), None);
    }
}
