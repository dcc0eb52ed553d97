//! The DCS does not answer (contract B.15).

use std::time::Duration;

use crate::{
    action::{Action, DemoteMode, Job},
    failsafe,
    observation::{JobKind, JobView, Observation},
    round::{Round, Step},
};

const LINE: &str = "DCS is not accessible";

/// HA-401.
const GOES_ON: &str =
    "continue to run as a leader because failsafe mode is enabled and all members are accessible";

/// Contract HA-400 to HA-404.
pub(crate) fn dcs_not_accessible(r: &mut Round<'_>, reason: &str) -> Step<String> {
    r.fired("HA-400", reason);
    let job = r.obs.job.as_ref();
    let kind = job.map(|job| job.kind);
    if !r.obs.postgres.running && !starts_a_primary(r.obs) {
        r.fired("HA-404", "");
        return Ok(LINE.into());
    }
    // A promotion that has not begun is not begun without the lock, in pause neither.
    let may_cancel = kind == Some(JobKind::Promote) && !job.is_some_and(JobView::is_promoting);
    if r.is_paused() && (r.obs.postgres.may_write() || !may_cancel) {
        r.fired("HA-404", "paused");
        return Ok(LINE.into());
    }
    if !r.obs.postgres.may_write() && !job.is_some_and(JobView::is_promoting) {
        r.fired("HA-403", "");
        if kind == Some(JobKind::Promote) {
            // It would refuse by itself once the lease is about to end; there is no reason to wait for that.
            r.request(Action::CancelJob);
            r.wake_within(Duration::from_secs(1));
        }
        if r.obs.settings.failsafe_mode && job.is_none() {
            r.request(Action::SyncSlots);
        }
        return Ok(LINE.into());
    }
    if r.memory.bootstraps_without_lock() {
        r.fired("HA-403", "bootstrapping, the lock was not tried for yet");
        return Ok(LINE.into());
    }
    if is_stopping(kind) {
        r.fired("HA-402", "already stopping");
        return Ok(LINE.into());
    }
    if failsafe::everybody_promises(r)? {
        r.fired("HA-401", "");
        r.wake_within(r.obs.settings.ttl / 3);
        if job.is_none() {
            r.request(Action::SyncSlots);
        }
        return Ok(GOES_ON.into());
    }
    if job.is_some() {
        r.request(Action::CancelJob);
    }
    r.fired("HA-402", "");
    r.memory.failsafe.until = None;
    r.forget_lease();
    r.request(Action::StartJob(Job::Demote(DemoteMode::Offline)));
    Ok("demoting self because DCS is not accessible and I was a leader".into())
}

/// The server is being stopped already, or its data directory replaced. A graceful demotion is not of these: its checkpoint
/// may take longer than the lease lasts, and clients go on writing until it is done.
const fn is_stopping(kind: Option<JobKind>) -> bool {
    matches!(
        kind,
        Some(
            JobKind::Demote(DemoteMode::Offline | DemoteMode::Immediate | DemoteMode::ImmediateNoLock)
                | JobKind::Reinitialize
                | JobKind::Clone
                | JobKind::Rewind
        )
    )
}

/// The long action in flight is about to start a writable server.
fn starts_a_primary(obs: &Observation) -> bool {
    obs.postgres.may_write()
        && obs.job.as_ref().is_some_and(|job| matches!(job.kind, JobKind::StartPrimary | JobKind::Restart))
}
