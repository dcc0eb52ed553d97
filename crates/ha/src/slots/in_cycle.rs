//! The slots' place in the cycle (contract B.23.6).

use ptarmigan_types::Role;

use crate::{
    action::{Action, Job, Outcome},
    observation::JobKind,
    round::{Round, Step},
};

/// The end of a cycle: slots are created, advanced and dropped, and where logical ones have to come from the leader, that
/// is begun.
pub(crate) fn maintain(r: &mut Round<'_>, line: String) -> Step<String> {
    if is_busy(r) {
        return Ok(line);
    }
    r.fired("HA-017", "");
    if !may_copy(r) {
        r.request(Action::SyncSlots);
        return Ok(line);
    }
    match r.need(Action::SyncSlots)? {
        Outcome::SlotsToCopy(slots) => copy(r, slots.clone(), line),
        _ => Ok(line),
    }
}

/// A long action begins, but for a promotion, or the process ends: nothing is done to the server beside that.
fn is_busy(r: &Round<'_>) -> bool {
    let begins = |action: &Action| match action {
        Action::StartJob(job) => job.kind() != JobKind::Promote,
        Action::Exit { .. } | Action::StopImmediate | Action::RemoveDataDirectory => true,
        _ => false,
    };
    let done = r.obs.outcomes.iter().map(|(action, _)| action);
    r.obs.postgres.is_starting() || r.actions.iter().chain(done).any(begins)
}

/// A standby that follows somebody, where logical slots are configured at all: the answer is waited for only here. Not while
/// the leader is without the DCS.
fn may_copy(r: &Round<'_>) -> bool {
    let standby = r.obs.postgres.server.as_ref().is_some_and(|server| server.in_recovery);
    // Who has promised a leader without the DCS not to lead must not be away when it asks again.
    let failsafe = r.obs.promise.as_ref().is_some_and(|promise| promise.holds_at(r.obs.now));
    // An operator's candidate must not be away when the leader steps down.
    let wish = r.view.failover.is_some();
    r.obs.settings.has_logical_slots
        && !r.is_paused()
        && standby
        && !failsafe
        && !wish
        && !r.is_paused()
        && matches!(r.obs.postgres.role, Role::Replica)
        && !r.view.is_unlocked()
        && !r.has_lock()
        && r.obs.promise.is_none()
}

/// Contract B.23.5.
fn copy(r: &mut Round<'_>, slots: Vec<String>, line: String) -> Step<String> {
    let Some(leader) = r.view.leader_member().filter(|leader| leader.data.conn_url().is_some()) else {
        return Ok(line);
    };
    let failed = r.memory.failed.filter(|failed| failed.kind == JobKind::CopySlots);
    if let Some(failed) = failed
        && r.obs.now.since(failed.at) < r.obs.settings.loop_wait
    {
        r.fired("B.0.1", "copying logical slots failed a moment ago");
        return Ok(line);
    }
    let leader = leader.name.clone();
    let names = slots.join(", ");
    r.fired("B.23.5", format!("{names} from {leader}"));
    r.request(Action::StartJob(Job::CopySlots { leader, slots }));
    Ok(format!("Copying logical slots {names} from the primary"))
}
