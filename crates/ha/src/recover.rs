//! PostgreSQL is not running (contract B.7, B.9).

use std::time::Duration;

use ptarmigan_types::{MemberState, Role};

use crate::{
    action::{Action, DemoteMode, Job, ReloadAfter},
    callbacks, candidates, follow,
    memory::RewindState,
    observation::{ControlState, JobKind},
    pause, rewind,
    round::{Round, Step, finish},
    standby,
    sync::Wanted,
    watchdog,
};

/// When a leader that is no primary yet is looked at again.
const SOON: Duration = Duration::from_secs(1);

/// Contract HA-070 to HA-072: did the start that the loop began succeed?
pub(crate) fn verify(r: &mut Round<'_>) -> Step<()> {
    if !r.memory.rewind.is_pending() && !r.obs.postgres.running {
        r.memory.recovering = false;
        r.wake_within(Duration::from_secs(1));
        watchdog::disable(r);
        if r.has_lock() {
            r.fired("HA-070", "");
            if matches!(r.obs.postgres.role, Role::Primary | Role::StandbyLeader) {
                r.request(Action::SetRole(Role::Demoted));
                r.request(Action::RunCallback(callbacks::Event::RoleChange));
            }
            r.release();
            return finish("removed leader key after trying and failing to start postgres");
        }
        r.fired("HA-071", "");
        return finish("failed to start postgres");
    }
    r.fired("HA-072", "");
    r.memory.recovering = false;
    r.memory.crash_recovery_since = None;
    if r.memory.rewind.was_executed() && r.memory.rewind != RewindState::Failed {
        r.memory.rewind = RewindState::Initial;
    }
    Ok(())
}

/// Contract HA-095 to HA-114.
pub(crate) fn recover(r: &mut Round<'_>, renewed: Option<bool>) -> Step<String> {
    pause::not_running(r)?;
    rewind::unfinished(r)?;
    let crashed =
        matches!(r.obs.postgres.state, MemberState::Running | MemberState::Starting | MemberState::Crashed);
    if crashed && r.obs.postgres.state != MemberState::Crashed {
        r.fired("HA-098", "");
        r.request(Action::SetState(MemberState::Crashed));
    }
    let timeout = start_timeout(r, renewed)?;
    start_crashed_primary(r, timeout, crashed)?;
    r.fired("HA-104", "");
    watchdog::disable(r);
    r.hold_back(JobKind::Follow)?;
    let skip = r.obs.postgres.major_version >= 15 && r.obs.postgres.has_backup_label;
    if skip && needs_crash_recovery(r.obs.postgres.control_state) {
        r.fired("HA-105", "backup_label");
    } else {
        crash_recovery(r)?;
    }
    r.reload_view(ReloadAfter::Crash)?;
    if r.has_lock() && !r.in_standby_cluster() {
        r.fired("HA-108", "");
        r.memory.rewind = RewindState::Initial;
        r.memory.recovering = true;
        return r.start(
            Job::Follow {
                upstream: None,
                role: Role::Replica,
                timeout: timeout.filter(|limit| !limit.is_zero()),
            },
            "starting as readonly because i had the session lock",
        );
    }
    if !r.memory.rewind.was_executed() {
        r.fired("HA-109", "");
        rewind::trigger(r, "PostgreSQL is not running");
    }
    let diverged = r.memory.rewind == RewindState::Need;
    rewind::act(r)?;
    if diverged && let Some(leader) = rewind::awaits(r) {
        r.fired("RW-6", format!("WAL that had left the last leader's is compared with {leader}'s first"));
        r.wake_within(SOON);
        return finish(format!(
            "not starting: waiting for {leader} to be a primary, to compare with its WAL"
        ));
    }
    let (upstream, role, line) = standby::recover(r).unwrap_or_else(|| {
        r.fired("HA-112", "");
        let upstream = follow::node_to_follow(&r.obs.me, &r.obs.settings, r.view);
        (upstream, Role::Replica, "starting as a secondary")
    });
    r.fired("HA-114", "");
    r.memory.recovering = true;
    if r.obs.settings.synchronous.is_on() {
        r.fired("HA-113", "");
        r.request(Action::SetStandbyNames(Wanted::Text(String::new())));
    }
    // Zero asks for a failover where one is possible; where this node starts all the same, it is no limit.
    let timeout = timeout.filter(|limit| !limit.is_zero());
    r.start(Job::Follow { upstream, role, timeout }, line)
}

/// HA-100 to HA-102: how long the start of a leader may take; zero prefers a failover.
fn start_timeout(r: &mut Round<'_>, renewed: Option<bool>) -> Step<Option<Duration>> {
    if renewed != Some(true) {
        r.fired("HA-102", "");
        return Ok(None);
    }
    let timeout = r.obs.settings.primary_start_timeout;
    if timeout.is_zero() && candidates::failover_possible(r, None)? {
        r.fired("HA-100", "");
        watchdog::disable(r);
        return r.start(Job::Demote(DemoteMode::Immediate), "stopped PostgreSQL to fail over after a crash");
    }
    r.fired("HA-101", format!("{} s", timeout.as_secs()));
    Ok(Some(timeout))
}

/// HA-103: the holder's own postmaster died: start it in place, on the same timeline.
fn start_crashed_primary(r: &mut Round<'_>, timeout: Option<Duration>, crashed: bool) -> Step<()> {
    let Some(timeout) = timeout.filter(|timeout| !timeout.is_zero()) else { return Ok(()) };
    // Safer than the contract (docs/compatibility.md): it would write until it is stopped again, and nobody wants that.
    if r.in_standby_cluster() {
        return Ok(());
    }
    let postgres = &r.obs.postgres;
    let was_primary = postgres.control_state.is_of_primary();
    if crashed && was_primary && postgres.role == Role::Primary && !postgres.has_recovery_signal {
        r.fired("HA-103", "");
        r.memory.recovering = true;
        return r.start(Job::StartPrimary { timeout }, "starting primary after failure");
    }
    Ok(())
}

const fn needs_crash_recovery(state: ControlState) -> bool {
    matches!(state, ControlState::InProduction | ControlState::ShuttingDown | ControlState::InCrashRecovery)
}

/// HA-106: without it pg_control would not tell where the old primary's WAL ends.
pub(crate) fn crash_recovery(r: &mut Round<'_>) -> Step<()> {
    let state = r.obs.postgres.control_state;
    let wanted = needs_crash_recovery(state)
        || state == ControlState::InArchiveRecovery && r.memory.rewind == RewindState::Need;
    let wanted = wanted && !r.obs.postgres.inconsistent_copy;
    let first = r.memory.crash_recovery_since.is_none();
    if wanted && first && (r.view.is_unlocked() || r.obs.postgres.rewind_possible) {
        r.fired("HA-106", "");
        r.memory.crash_recovery_since = Some(r.obs.now);
        return r.start(Job::CrashRecovery, "doing crash recovery in a single user mode");
    }
    Ok(())
}
