//! PostgreSQL is starting (contract B.5).

use std::time::Duration;

use crate::{
    action::{DemoteMode, Job},
    candidates, manual,
    round::{Round, Step, finish},
};

/// Contract HA-041 to HA-045.
pub(crate) fn starting(r: &mut Round<'_>, renewed: Option<bool>) -> Step<()> {
    match renewed {
        None => {
            r.fired("HA-045", "");
            r.wake_within(Duration::from_secs(1));
            Ok(())
        }
        Some(false) => {
            r.fired("HA-041", "");
            r.forget_lease();
            r.start(
                Job::Demote(DemoteMode::ImmediateNoLock),
                "stopped PostgreSQL while starting up because leader key was lost",
            )
        }
        Some(true) => with_lock(r),
    }
}

fn with_lock(r: &mut Round<'_>) -> Step<()> {
    let limit = r.obs.start_timeout.unwrap_or(r.obs.settings.primary_start_timeout);
    let spent = r.obs.postgres.in_state_for;
    if spent >= limit {
        if candidates::failover_possible(r, None)? {
            r.fired("HA-042", format!("{} s", limit.as_secs()));
            return r
                .start(Job::Demote(DemoteMode::Immediate), "stopped PostgreSQL because of startup timeout");
        }
        r.fired("HA-043", format!("{} s", limit.as_secs()));
        return finish("master start has timed out, but continuing to wait because failover is not possible");
    }
    if let Some(line) = manual::seen_by_leader(r)? {
        return finish(line);
    }
    r.fired("HA-044", "");
    let left = limit.saturating_sub(spent);
    r.wake_within(left);
    finish(format!("PostgreSQL is still starting up, {} seconds until timeout", left.as_secs()))
}
