//! Maintenance mode: PostgreSQL is in an operator's hands. It is not stopped, started, promoted or demoted here, but for
//! what an operator asked for (contract HA-004, HA-005, HA-040, HA-095 to HA-097, HA-160 to HA-162, HA-280, HA-281).

use ptarmigan_types::{Failover, MemberState, Role};

use crate::{
    action::Action,
    follow, leader, manual,
    memory::RewindState,
    observation::{ControlState, JobEnd, JobKind, JobResult},
    rewind,
    round::{Round, Step, finish},
    watchdog,
};

/// Before every status line while the cluster is paused, as operators know it.
pub(crate) const PREFIX: &str = "PAUSE: ";

/// HA-004, HA-005.
pub(crate) fn note(r: &mut Round<'_>) {
    if r.is_paused() {
        r.fired("HA-004", "");
        watchdog::disable(r);
        r.memory.was_paused = true;
    } else if r.memory.was_paused {
        r.fired("HA-005", "");
        r.memory.was_paused = false;
        r.memory.rewind = RewindState::Initial;
        // Safer than the contract (docs/compatibility.md): the question may have been open when the pause began, or come up
        // in it, and on the leader's own timeline nothing else asks it again (HA-293).
        if !r.obs.postgres.is_primary() {
            rewind::trigger(r, "the pause is over");
        }
        // An operator may have put another data directory in its place.
        r.request(Action::ForgetIdentity);
    }
}

/// What a server that this node itself has stopped is owed: to be started again, also in pause (HA-097). A start that
/// failed is the operator's business.
pub(crate) fn note_job(r: &mut Round<'_>, result: &JobResult) {
    match (result.kind, &result.end) {
        (JobKind::Demote(_), JobEnd::Done) => r.memory.owes_start = true,
        (JobKind::Follow, _) => r.memory.owes_start = false,
        _ => {}
    }
}

/// HA-040, HA-095: in pause PostgreSQL comes and goes without this node. Unlike the contract's, failures stay in sight
/// until the server runs again (docs/compatibility.md).
pub(crate) fn follow_process(r: &mut Round<'_>) {
    if r.obs.postgres.running {
        r.memory.owes_start = false;
    }
    if !r.is_paused() {
        return;
    }
    r.fired("HA-040", "");
    let postgres = &r.obs.postgres;
    let clean = matches!(postgres.control_state, ControlState::ShutDown | ControlState::ShutDownInRecovery);
    let state = match postgres.state {
        state @ (MemberState::Running | MemberState::Starting) if postgres.running => state,
        // Whether it accepts connections is found out in that state.
        _ if postgres.running && postgres.server.is_none() => MemberState::Starting,
        _ if postgres.running => MemberState::Running,
        MemberState::Running
        | MemberState::Starting
        | MemberState::StartingAfterCustomBootstrap
        | MemberState::Restarting
        | MemberState::Stopping
        | MemberState::StopFailed
        | MemberState::Crashed => {
            if clean {
                MemberState::Stopped
            } else {
                MemberState::Crashed
            }
        }
        failed => failed,
    };
    if state != r.obs.postgres.state {
        r.request(Action::SetState(state));
    }
}

/// HA-096, HA-097. Goes on where this node's own demotion has stopped the server: after a manual failover it is rewound
/// and started as a standby.
pub(crate) fn not_running(r: &mut Round<'_>) -> Step<()> {
    if !r.is_paused() {
        return Ok(());
    }
    if r.has_lock() {
        r.fired("HA-096", "");
        r.release();
        return finish("removed leader lock because postgres is not running");
    }
    if r.memory.owes_start && r.memory.rewind != RewindState::Failed {
        r.fired("HA-097", "demoted here, and to be started again");
        return Ok(());
    }
    r.fired("HA-097", "");
    finish("postgres is not running")
}

/// HA-160 to HA-162: the lock in the hands of a server that is no primary.
pub(crate) fn holder_is_no_primary(r: &mut Round<'_>) -> Option<String> {
    let postgres = &r.obs.postgres;
    if !r.is_paused() || postgres.is_primary() {
        return None;
    }
    if r.in_standby_cluster() {
        r.fired("HA-162", "");
        return None;
    }
    if postgres.role == Role::Promoted {
        r.fired("HA-160", "");
        r.wake_within(std::time::Duration::from_secs(1));
        return Some("waiting to become primary after promote...".into());
    }
    if manual::is_candidate(r) {
        // The promotion has failed, or the daemon that began it is gone.
        r.fired("HA-160", "not promoted yet");
        return None;
    }
    r.fired("HA-161", "");
    r.release();
    Some("removed leader lock because postgres is not running as primary".into())
}

/// HA-280, HA-281: the line where nothing more is to be done.
pub(crate) fn left_alone(r: &mut Round<'_>) -> Option<String> {
    if !r.is_paused() {
        return None;
    }
    let postgres = &r.obs.postgres;
    if postgres.is_primary() || postgres.role == Role::Promoted {
        r.fired("HA-280", "");
        if postgres.is_primary() {
            leader::note_primary(r);
        }
        return Some("continue to run as primary without lock".into());
    }
    r.fired("HA-281", "");
    if !matches!(postgres.role, Role::Replica | Role::StandbyLeader) {
        r.request(Action::SetRole(Role::Replica));
    }
    let nobody = follow::node_to_follow(&r.obs.me, &r.obs.settings, r.view).is_none();
    nobody.then(|| format!("no action. I am ({})", r.obs.me))
}

/// HA-131: what stays of the wish once its candidate, or the primary itself, has the lock: without the leader that is gone
/// it keeps HA-161 from taking the lock away from a server that is being promoted. `None`: nothing stays.
pub(crate) fn wish_that_stays(r: &Round<'_>, wish: &Failover) -> Option<Action> {
    let candidate = wish.candidate.as_ref().filter(|_| r.is_paused() && wish.leader.is_some())?;
    let value = Failover::to_json(None, Some(candidate.as_str()), wish.scheduled_at_text.as_deref());
    Some(Action::WriteFailover { value, revision: wish.revision })
}

/// Nobody leads a cluster of another system identifier, whatever was asked for.
pub(crate) fn belongs_elsewhere(r: &Round<'_>) -> bool {
    let mine = r.obs.postgres.system_identifier.as_deref();
    r.view.system_identifier().is_some_and(|theirs| mine != Some(theirs))
}
