//! The kernel watchdog, as far as leadership depends on it (contract D.6, HA-063, HA-211, HA-250, HA-251).

use crate::{
    action::{Action, DemoteMode, Job, Outcome},
    round::{Round, Step, finish},
};

/// It is told to let the host live without it. Only where nothing may write, or an operator has taken over.
pub(crate) fn disable(r: &mut Round<'_>) {
    if r.obs.watchdog.running {
        r.request(Action::DisableWatchdog);
    }
}

/// Whether leading is allowed: it counts down, or is not wanted, or the cluster is paused.
pub(crate) fn activated(r: &mut Round<'_>) -> Step<bool> {
    if r.is_paused() || r.obs.watchdog.running || !r.obs.watchdog.wanted {
        return Ok(true);
    }
    Ok(matches!(r.need(Action::ActivateWatchdog)?, Outcome::Done))
}

/// HA-250, HA-251.
pub(crate) fn guard_leadership(r: &mut Round<'_>) -> Step<()> {
    if activated(r)? {
        return Ok(());
    }
    if r.obs.postgres.may_write() {
        r.fired("HA-250", "");
        return r.start(
            Job::Demote(DemoteMode::Immediate),
            "demoting self because watchdog could not be activated",
        );
    }
    r.fired("HA-251", "");
    r.release();
    finish("Not promoting self because watchdog could not be activated")
}
