//! A long action is in flight (contract B.4).

use ptarmigan_types::Role;

use crate::{
    action::{Action, DemoteMode, Job},
    candidates,
    observation::{JobKind, JobView},
    round::{Round, Step},
};

/// Contract HA-030 to HA-034.
pub(crate) fn in_flight(r: &mut Round<'_>, job: &JobView, renewed: Option<bool>) -> Step<String> {
    let words = job.kind.words();
    if renewed == Some(true) {
        if crash_recovery_overdue(r, job) && candidates::failover_possible(r, None)? {
            r.fired("HA-030", format!("{} s", r.obs.settings.primary_start_timeout.as_secs()));
            r.request(Action::CancelJob);
            return r.start(
                Job::Demote(DemoteMode::Immediate),
                "terminated crash recovery because of startup timeout",
            );
        }
        r.fired("HA-031", words);
        return Ok(format!("updated leader lock during {words}"));
    }
    if !r.memory.bootstrapping {
        if job.kind == JobKind::Promote && job.cancellable && !is_or_becomes_primary(r) {
            r.fired("HA-032", "");
            r.request(Action::CancelJob);
            return Ok("lost leader lock before promote".into());
        }
        if is_or_becomes_primary(r) && !already_stopping_at_once(job.kind) {
            r.fired("HA-033", words);
            r.request(Action::CancelJob);
            r.request(Action::ForgetLease);
            return r
                .start(Job::Demote(DemoteMode::ImmediateNoLock), format!("lost leader lock during {words}"));
        }
    }
    r.fired("HA-034", words);
    Ok(format!("{words} in progress"))
}

fn crash_recovery_overdue(r: &Round<'_>, job: &JobView) -> bool {
    job.kind == JobKind::CrashRecovery
        && r.memory
            .crash_recovery_since
            .is_some_and(|since| r.obs.now.since(since) >= r.obs.settings.primary_start_timeout)
}

/// The contract asks for the role `primary` only; a server that was told to promote is as dangerous.
fn is_or_becomes_primary(r: &Round<'_>) -> bool {
    matches!(r.obs.postgres.role, Role::Primary | Role::Promoted)
        || r.obs.postgres.server.as_ref().is_some_and(|server| !server.in_recovery)
}

/// The job in flight stops the server no slower than what HA-033 would begin.
const fn already_stopping_at_once(kind: JobKind) -> bool {
    matches!(kind, JobKind::Demote(DemoteMode::Immediate | DemoteMode::ImmediateNoLock))
}
