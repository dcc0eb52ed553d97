//! Somebody holds the lock: me (contract B.11, B.13), or another one.

use std::time::Duration;

use ptarmigan_types::Role;

use crate::{
    action::{Action, DemoteMode, Job, Outcome},
    callbacks::Event,
    failsafe, follow, health, manual,
    observation::JobKind,
    pause, race,
    round::{Round, Step, finish},
    standby, sync, watchdog,
};

/// When a promotion that is under way is looked at again.
const SOON: Duration = Duration::from_millis(500);

/// Contract B.11.
pub(crate) fn process(r: &mut Round<'_>, renewed: Option<bool>) -> Step<String> {
    let Some(renewed) = renewed else { return without_lock(r) };
    if !renewed {
        return renewal_refused(r);
    }
    if let Some(line) = failsafe::keeps_promise(r) {
        return Ok(line);
    }
    if let Some(line) = pause::holder_is_no_primary(r) {
        return Ok(line);
    }
    r.fired("HA-163", "");
    r.request(Action::WriteStatus);
    if let Some(line) = manual::seen_by_leader(r)? {
        return Ok(line);
    }
    if r.in_standby_cluster() {
        return standby::lead(r);
    }
    health::gives_way(r)?;
    r.fired("HA-164", "");
    r.request(Action::EnsureCheckpoint);
    r.fired("HA-166", "");
    if let Some(line) = unearned(r)? {
        return Ok(line);
    }
    let line = format!("no action. I am ({}), the leader with the lock", r.obs.me);
    enforce_primary_role(r, &line, "promoted self to leader because I had the session lock")
}

/// Safer than the contract (docs/compatibility.md): a standby that finds the lock in its hands did not always win it. A race
/// that was not answered may have been carried out long after others had got ahead, and a daemon that starts knows nothing
/// of what the one before it had asked. Such a lock is kept only where this node would win it now.
fn unearned(r: &mut Round<'_>) -> Step<Option<String>> {
    let held = r.held().map(|held| held.create_revision);
    if r.obs.postgres.may_write() {
        r.memory.won = held;
        return Ok(None);
    }
    if r.memory.won == held || r.obs.postgres.lsn().is_none() || race::would_win(r)? {
        return Ok(None);
    }
    if let Some(line) = is_being_promoted(r)? {
        return Ok(Some(line));
    }
    r.release();
    Ok(Some("released the leader lock: it was not won, and others are ahead".into()))
}

/// The daemon before this one may have won the lock, and begun a promotion that ends in a moment: a primary without a lock,
/// if it were given away now. PostgreSQL refuses to resume replay in the middle of a promotion.
pub(crate) fn is_being_promoted(r: &mut Round<'_>) -> Step<Option<String>> {
    let won = r.memory.won.is_some() && r.memory.won == r.held().map(|held| held.create_revision);
    if won || matches!(r.need(Action::ResumeReplay)?, Outcome::Done) {
        return Ok(None);
    }
    // As far as it can be had: nothing keeps the server from what it was told.
    let _ = watchdog::activated(r)?;
    r.fired("HA-256", "the server is in the middle of a promotion, or does not answer");
    r.wake_within(SOON);
    Ok(Some("keeping the leader lock: PostgreSQL may be in the middle of a promotion".into()))
}

/// HA-171 to HA-173.
fn renewal_refused(r: &mut Round<'_>) -> Step<String> {
    if r.obs.postgres.may_write() && r.is_paused() {
        r.fired("HA-171", "");
        r.forget_lease();
        return Ok("continue to run as primary after failing to update leader lock in DCS".into());
    }
    if r.obs.postgres.may_write() {
        r.fired("HA-172", "");
        r.forget_lease();
        return r.start(
            Job::Demote(DemoteMode::ImmediateNoLock),
            "demoted self because failed to update leader lock in DCS",
        );
    }
    r.fired("HA-173", "");
    r.forget_lease();
    Ok("not promoting because failed to update leader lock in DCS".into())
}

/// HA-176.
fn without_lock(r: &mut Round<'_>) -> Step<String> {
    if r.in_standby_cluster() {
        return standby::follow_leader(r);
    }
    r.fired("HA-176", "");
    let leader = r.view.leader_name().map_or_else(String::new, ToString::to_string);
    let line = format!("no action. I am ({}), a secondary, and following a leader ({leader})", r.obs.me);
    follow::follow(r, &line, "demoting self because I do not have the lock and I was a leader")
}

/// Contract HA-250 to HA-256, for the holder.
pub(crate) fn enforce_primary_role(r: &mut Round<'_>, leads: &str, promoted: &str) -> Step<String> {
    watchdog::guard_leadership(r)?;
    // Within this time nobody here races (HA-200): whoever still holds the lock has not given it up yet.
    let gave_up = r.memory.released_at.is_some_and(|at| r.obs.now.since(at) < r.obs.settings.ttl);
    if gave_up && !r.obs.postgres.may_write() {
        r.fired("HA-252", "");
        r.release();
        return finish("Promotion cancelled because the pre-promote script failed");
    }
    if r.obs.postgres.is_primary() {
        r.fired("HA-253", "");
        note_primary(r);
        sync::replicate(r)?;
        update_history(r);
        return Ok(leads.into());
    }
    if matches!(r.obs.postgres.role, Role::Primary | Role::Promoted) {
        r.fired("HA-254", "");
        r.wake_within(Duration::from_secs(1));
        return Ok(leads.into());
    }
    r.hold_back(JobKind::Promote)?;
    sync::before_promotion(r)?;
    r.fired("HA-256", format!("timeline {:?}", r.obs.postgres.timeline()));
    r.start(Job::Promote { timeline: r.obs.postgres.timeline() }, promoted)
}

/// Safer than the contract (docs/compatibility.md): a server that was promoted by others, or whose promotion outlived the
/// daemon that ordered it, is a change of role like any other to whoever moves addresses.
pub(crate) fn note_primary(r: &mut Round<'_>) {
    let role = r.obs.postgres.role;
    if role == Role::Primary {
        return;
    }
    r.request(Action::SetRole(Role::Primary));
    if role != Role::Promoted {
        r.request(Action::RunCallback(Event::RoleChange));
    }
}

/// B.24: once for every timeline that this node leads, and again where the key does not fit.
fn update_history(r: &mut Round<'_>) {
    let Some(timeline) = r.obs.postgres.timeline() else { return };
    let fits = r.view.history.as_ref().is_some_and(|history| {
        history.entries.as_ref().is_some_and(|entries| match entries.last() {
            None => timeline == 1,
            Some(last) => {
                timeline > 1 && last.timeline.checked_add(1) == Some(timeline) && last.new_leader.is_some()
            }
        })
    });
    let absent_and_first = r.view.history.is_none() && timeline == 1;
    if fits || absent_and_first {
        r.memory.history_done = Some(timeline);
        return;
    }
    // Where the local file cannot say more than the key does, asking again every cycle would change nothing.
    if r.memory.history_done != Some(timeline) || r.view.timeline() != timeline {
        r.memory.history_done = Some(timeline);
        r.request(Action::UpdateHistory(timeline));
    }
}
