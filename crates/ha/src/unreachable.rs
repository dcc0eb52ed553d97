//! The DCS does not answer (contract B.15).

use std::time::Duration;

use crate::{
    action::{Action, DemoteMode, Job},
    observation::{JobKind, JobView, Observation},
    round::Round,
};

const LINE: &str = "DCS is not accessible";

/// Contract HA-400 to HA-404. Failsafe mode (HA-401) and maintenance mode (HA-404) have their places here.
pub(crate) fn dcs_not_accessible(r: &mut Round<'_>, reason: &str) -> String {
    r.fired("HA-400", reason);
    let job = r.obs.job.as_ref();
    let kind = job.map(|job| job.kind);
    if !r.obs.postgres.running && !starts_a_primary(r.obs) {
        r.fired("HA-404", "");
        return LINE.into();
    }
    if !r.obs.postgres.may_write() && !job.is_some_and(JobView::is_promoting) {
        r.fired("HA-403", "");
        if kind == Some(JobKind::Promote) {
            // It would refuse by itself once the lease is about to end; there is no reason to wait for that.
            r.request(Action::CancelJob);
            r.wake_within(Duration::from_secs(1));
        }
        return LINE.into();
    }
    if r.memory.bootstraps_without_lock() {
        r.fired("HA-403", "bootstrapping, the lock was not tried for yet");
        return LINE.into();
    }
    match kind {
        // The server is being stopped already, or its data directory replaced. A graceful demotion is not of these: its
        // checkpoint may take longer than the lease lasts, and clients go on writing until it is done.
        Some(
            JobKind::Demote(DemoteMode::Offline | DemoteMode::Immediate | DemoteMode::ImmediateNoLock)
            | JobKind::Reinitialize
            | JobKind::Clone
            | JobKind::Rewind,
        ) => {
            r.fired("HA-402", "already stopping");
            return LINE.into();
        }
        Some(_) => r.request(Action::CancelJob),
        None => {}
    }
    r.fired("HA-402", "");
    r.forget_lease();
    r.request(Action::StartJob(Job::Demote(DemoteMode::Offline)));
    "demoting self because DCS is not accessible and I was a leader".into()
}

/// The long action in flight is about to start a writable server.
fn starts_a_primary(obs: &Observation) -> bool {
    obs.postgres.may_write()
        && obs.job.as_ref().is_some_and(|job| matches!(job.kind, JobKind::StartPrimary | JobKind::Restart))
}
