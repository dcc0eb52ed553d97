//! Scheduled switchovers and restarts (contract B.18).

use std::time::Duration;

use ptarmigan_types::{Role, failover::ScheduledAt};

use crate::{
    action::{Action, Job},
    observation::{PostgresView, RestartFilter},
    round::{Round, Step},
};

/// Contract SA-1 to SA-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Not yet; wake up then.
    Wait(Duration),
    /// Now.
    Now,
    /// Too late by more than one and a half `loop_wait`.
    Stale,
    /// Not a time.
    Unusable,
}

/// When a scheduled action is due. The contract begins up to one `loop_wait` early and sleeps the rest; here the loop
/// wakes up at the very moment.
pub fn due(at: &ScheduledAt, wall: jiff::Timestamp, loop_wait: Duration) -> Due {
    match at {
        ScheduledAt::Unusable(_) => Due::Unusable,
        ScheduledAt::At(at) => due_at(*at, wall, loop_wait),
    }
}

/// The same for a moment.
pub fn due_at(at: jiff::Timestamp, wall: jiff::Timestamp, loop_wait: Duration) -> Due {
    let left = at.duration_since(wall);
    if left.is_positive() {
        return Due::Wait(left.unsigned_abs());
    }
    let stale_after =
        Duration::from_secs((loop_wait.as_millis() * 3 / 2 / 1000).try_into().unwrap_or(u64::MAX));
    if left.unsigned_abs() > stale_after { Due::Stale } else { Due::Now }
}

/// Contract RS-2: why the restart's conditions do not hold; `None` where they do. Nothing restarts a server that is being
/// promoted.
pub fn restart_refused(filter: &RestartFilter, postgres: &PostgresView) -> Option<String> {
    if postgres.is_promoting() {
        return Some("promotion in progress".into());
    }
    if let Some(role) = filter.role {
        let mine = if postgres.role == Role::Promoted { Role::Primary } else { postgres.role };
        if role != mine {
            return Some("host role mismatch".into());
        }
    }
    if let Some(limit) = filter.older_than
        && postgres.server_version >= limit
    {
        return Some("postgres version mismatch".into());
    }
    (filter.pending && !postgres.pending_restart).then(|| "pending restart flag is not set".into())
}

/// Contract HA-016, RS-1, RS-2, RS-7.
pub(crate) fn scheduled_restart(r: &mut Round<'_>) -> Step<()> {
    let Some(restart) = r.obs.scheduled_restart.clone() else { return Ok(()) };
    if r.is_paused() {
        r.fired("SA-1", "paused: nothing that was scheduled is carried out");
        return Ok(());
    }
    let started = r.obs.postgres.postmaster_start_time.as_ref();
    // A server that did not answer just now was not restarted for that.
    if restart.postmaster_start_time.as_ref().is_some_and(|meant| started.is_some_and(|now| now != meant)) {
        r.fired("RS-1", "the postmaster was restarted meanwhile");
        r.request(Action::ClearScheduledRestart);
        return Ok(());
    }
    match due_at(restart.at, r.obs.wall, r.obs.settings.loop_wait) {
        Due::Wait(left) => {
            r.fired("SA-1", format!("{} s left", left.as_secs()));
            r.wake_within(left);
            Ok(())
        }
        stale_or_unusable @ (Due::Stale | Due::Unusable) => {
            r.fired(if stale_or_unusable == Due::Stale { "SA-2" } else { "SA-4" }, "");
            r.request(Action::ClearScheduledRestart);
            Ok(())
        }
        Due::Now if r.obs.postgres.is_promoting() => {
            r.fired("RS-2", "promotion in progress");
            r.wake_within(Duration::from_secs(1));
            Ok(())
        }
        Due::Now => {
            r.request(Action::ClearScheduledRestart);
            if let Some(reason) = restart_refused(&restart.filter, &r.obs.postgres) {
                r.fired("RS-2", reason);
                return Ok(());
            }
            r.fired("SA-3", "");
            r.memory.recovering = true;
            r.start(Job::Restart { timeout: restart.timeout }, "restart scheduled")
        }
    }
}
