//! The DCS does not answer (contract B.15).

use crate::{
    action::{Action, DemoteMode, Job},
    observation::JobKind,
    round::Round,
};

/// Contract HA-400 to HA-404. Failsafe mode (HA-401) and maintenance mode (HA-404) have their places here.
pub(crate) fn dcs_not_accessible(r: &mut Round<'_>, reason: &str) -> String {
    r.fired("HA-400", reason);
    let postgres = &r.obs.postgres;
    if !postgres.running {
        r.fired("HA-404", "");
        return "DCS is not accessible".into();
    }
    if !postgres.is_primary() || r.memory.bootstrapping {
        r.fired("HA-403", "");
        return "DCS is not accessible".into();
    }
    match r.obs.job.as_ref().map(|job| job.kind) {
        // The server is being stopped already, or its data directory replaced.
        Some(JobKind::Demote(_) | JobKind::Reinitialize | JobKind::Clone | JobKind::Rewind) => {
            r.fired("HA-402", "already stopping");
            return "DCS is not accessible".into();
        }
        Some(_) => r.request(Action::CancelJob),
        None => {}
    }
    r.fired("HA-402", "");
    r.request(Action::ForgetLease);
    r.request(Action::StartJob(Job::Demote(DemoteMode::Offline)));
    "demoting self because DCS is not accessible and I was a leader".into()
}
