//! A long action is in flight (contract B.4).

use std::time::Duration;

use ptarmigan_types::Role;

use crate::{
    action::{Action, DemoteMode, Job},
    candidates, follow,
    observation::{JobKind, JobView},
    round::{Round, Step},
    standby,
};

/// Contract HA-030 to HA-034.
pub(crate) fn in_flight(r: &mut Round<'_>, job: &JobView, renewed: Option<bool>) -> Step<String> {
    let words = job.kind.words();
    if renewed == Some(true) {
        if !r.is_paused() && crash_recovery_overdue(r, job) && candidates::failover_possible(r, None)? {
            r.fired("HA-030", format!("{} s", r.obs.settings.primary_start_timeout.as_secs()));
            r.request(Action::CancelJob);
            return r.start(
                Job::Demote(DemoteMode::Immediate),
                "terminated crash recovery because of startup timeout",
            );
        }
        if standby::takes_back_promotion(r, job.kind, job.cancellable) {
            return Ok(standby::NO_PRIMARY.into());
        }
        r.fired("HA-031", words);
        return Ok(format!("updated leader lock during {words}"));
    }
    if !r.memory.bootstraps_without_lock() {
        let writable = r.obs.postgres.may_write() || job.is_promoting();
        if job.kind == JobKind::Promote && !writable {
            r.fired("HA-032", "");
            r.request(Action::CancelJob);
            // `pg_ctl promote` may have begun since this was observed: look again at once.
            r.wake_within(Duration::ZERO);
            return Ok("lost leader lock before promote".into());
        }
        if writable && !r.is_paused() && !is_stopping_at_once(r, job.kind) {
            r.fired("HA-033", words);
            r.request(Action::CancelJob);
            r.forget_lease();
            return r
                .start(Job::Demote(DemoteMode::ImmediateNoLock), format!("lost leader lock during {words}"));
        }
    }
    if let Some(line) = leader_changed_during_start(r, job.kind) {
        return Ok(line);
    }
    r.fired("HA-034", words);
    Ok(format!("{words} in progress"))
}

/// A standby that waits, before it accepts connections, for WAL of somebody who does not lead any more would wait until the
/// start is given up. The server stays: without the job the loop has it follow the new leader, or finds that it cannot.
fn leader_changed_during_start(r: &mut Round<'_>, kind: JobKind) -> Option<String> {
    let waits = kind == JobKind::Follow && r.obs.postgres.running && r.obs.postgres.is_starting();
    if !waits || r.is_paused() || r.view.is_unlocked() || r.has_lock() {
        return None;
    }
    let upstream = follow::node_to_follow(&r.obs.me, &r.obs.settings, r.view)?;
    if r.memory.starts_behind.as_ref() == Some(&upstream) {
        return None;
    }
    r.fired("HA-034", format!("{upstream} is to be followed by now"));
    r.request(Action::CancelJob);
    r.wake_within(Duration::ZERO);
    Some(format!("still starting, and {upstream} is to be followed by now"))
}

fn crash_recovery_overdue(r: &Round<'_>, job: &JobView) -> bool {
    job.kind == JobKind::CrashRecovery
        && r.memory
            .crash_recovery_since
            .is_some_and(|since| r.obs.now.since(since) >= r.obs.settings.primary_start_timeout)
}

/// The job in flight stops the server no slower than what HA-033 would begin, or has stopped it: the role `demoted`
/// comes with the shutdown checkpoint, while the postmaster may still wait for its archiver.
fn is_stopping_at_once(r: &Round<'_>, kind: JobKind) -> bool {
    match kind {
        JobKind::Demote(DemoteMode::Immediate | DemoteMode::ImmediateNoLock) => true,
        JobKind::Demote(_) => r.obs.postgres.role == Role::Demoted,
        _ => false,
    }
}
