//! What can be wrong with a PostgreSQL whose process lives: it takes no connection, answers no query, or cannot write. It is always
//! reported; a leader gives way only where the configuration says so.

use std::time::Duration;

use ptarmigan_types::{Cluster, LeaseId, MemberName, Monotonic};
use serde::{Deserialize, Serialize};

use crate::{
    action::{DemoteMode, Job},
    candidates,
    observation::{JobKind, JobView},
    round::{Round, Step},
    watchdog,
};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A new connection is not accepted.
    NoConnection,
    /// A connection is accepted, and a query is not answered.
    NoAnswer,
    /// Its file system is full, read-only, or does not answer.
    CannotWrite,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoConnection => "accepts no connection",
            Self::NoAnswer => "answers no query",
            Self::CannotWrite => "cannot write",
        })
    }
}

/// Something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ailment {
    /// What.
    pub fault: Fault,
    /// What the system or the server said.
    pub reason: String,
    /// Since when nothing else was seen.
    pub since: Monotonic,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// A leader that has been so for that long gives way where another member can take over; `None`: it is reported.
    pub gives_way_after: Option<Duration>,
}

/// How long a leader that gives way keeps its lock while its server does not end. By then every process of it has got a SIGKILL,
/// also where the guardian is slow to answer each time that it is asked: what is left is in the kernel, on storage that does not
/// answer, and comes back from there to nothing but its end.
const KILLED_AFTER: Duration = Duration::from_secs(25);

/// FD-4: whether the lock is not renewed any more, because the server was killed and does not end.
pub fn lets_lock_go(job: Option<&JobView>) -> bool {
    job.is_some_and(|job| {
        job.kind == JobKind::Demote(DemoteMode::Immediate) && job.running_for >= KILLED_AFTER
    })
}

/// Whether the lock is this node's and hangs on that lease: whoever lets it go leaves the lease with it, once.
pub fn lock_hangs_on(cluster: &Cluster, me: &MemberName, lease: Option<&LeaseId>) -> bool {
    let held = cluster.leader.as_ref().filter(|leader| leader.name == *me);
    held.is_some_and(|held| held.lease.is_some() && held.lease.as_ref() == lease)
}

/// FD-1, for everybody.
pub(crate) fn report(r: &mut Round<'_>) {
    let Some(ailment) = &r.obs.ailment else { return };
    let for_s = r.obs.now.since(ailment.since).as_secs();
    r.fired("FD-1", format!("it {} for {for_s} s: {}", ailment.fault, ailment.reason));
}

/// FD-2 and FD-3, for the leader.
pub(crate) fn gives_way(r: &mut Round<'_>) -> Step<()> {
    let (Some(ailment), Some(after)) = (&r.obs.ailment, r.obs.settings.health.gives_way_after) else {
        return Ok(());
    };
    if r.is_paused() || !r.obs.postgres.may_write() || r.obs.now.since(ailment.since) < after {
        return Ok(());
    }
    let fault = ailment.fault;
    if !candidates::failover_possible(r, None)? {
        r.fired("FD-3", "");
        return Ok(());
    }
    r.fired("FD-2", format!("it {fault}"));
    watchdog::disable(r);
    r.start(Job::Demote(DemoteMode::Immediate), format!("stopped PostgreSQL to fail over: it {fault}"))
}
