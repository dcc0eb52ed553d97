//! The cycle, in the order of contract B.1.

use std::time::Duration;

use ptarmigan_types::{Cluster, MemberState};

use crate::{
    action::{Action, DemoteMode, ReloadAfter},
    bootstrap,
    decision::Decision,
    failsafe, health, identity, job, leader,
    memory::{FailedJob, Memory, RewindState},
    observation::{JobEnd, JobKind, JobResult, Observation},
    pause, recover,
    round::{Round, Step, Stop},
    rto, schedule, startup, sync, unlocked, unreachable,
};

/// One round: what to do now, given what this cycle has brought so far.
pub fn decide(memory: &Memory, obs: &Observation) -> Decision {
    let nothing = Cluster::default();
    let view = obs.view.as_deref().unwrap_or(&nothing);
    let mut round = Round::new(memory, obs, view);
    let step = match &obs.view {
        Ok(_) => cycle(&mut round),
        Err(reason) => {
            round.fired("HA-003", reason.clone());
            Err(Stop::NoDcs(reason.clone()))
        }
    };
    match step {
        Ok(line) | Err(Stop::Finish(line)) => complete(round, line),
        Err(Stop::NoDcs(reason)) => {
            // The rules that ran before the store fell silent must not leave half of their work behind.
            let report = round.report;
            let mut round = Round { report, ..Round::new(memory, obs, view) };
            account_for_jobs(&mut round);
            note_position(&mut round);
            if let Ok(view) = &obs.view {
                failsafe::note_view(&mut round, view);
                failsafe::note_writes(&mut round);
            }
            match unreachable::dcs_not_accessible(&mut round, &reason) {
                Err(Stop::Pause) => unanswered(memory, round),
                Ok(line) | Err(Stop::Finish(line) | Stop::NoDcs(line)) => into_decision(round, line, false),
            }
        }
        Err(Stop::Pause) => unanswered(memory, round),
    }
}

/// A round that ends early: memory stays as it was.
fn unanswered(memory: &Memory, round: Round<'_>) -> Decision {
    Decision { memory: memory.clone(), ..into_decision(round, String::new(), true) }
}

/// HA-022: every complete cycle ends by telling the others about this node.
fn complete(mut round: Round<'_>, line: String) -> Decision {
    round.actions.retain(|action| *action != Action::WriteMember);
    let exit = round.actions.iter().position(|action| matches!(action, Action::Exit { .. }));
    let end = exit.unwrap_or(round.actions.len());
    round.actions.insert(end, Action::WriteMember);
    into_decision(round, line, false)
}

fn into_decision(round: Round<'_>, line: String, again: bool) -> Decision {
    let line = if round.is_paused() && !line.is_empty() { format!("{}{line}", pause::PREFIX) } else { line };
    Decision {
        actions: round.actions,
        again,
        memory: round.memory,
        line,
        report: round.report,
        wake_at: round.wake_at,
    }
}

fn cycle(r: &mut Round<'_>) -> Step<String> {
    account_for_jobs(r);
    note_position(r);
    note_view(r);
    health::report(r);

    // Renewal comes before everything else that a leader does, whatever the rules below make of it: it waits for no
    // query, peer or job (DESIGN, "The lease").
    let renewed = renew(r)?;

    if renewed == Some(true) {
        failsafe::write_key(r);
    }
    failsafe::clear(r, renewed == Some(true));
    failsafe::end_of_promise(r);

    pause::note(r);
    keep_keys(r, renewed)?;
    // The view may have been read again after the renewal: the lock that vanished in between is lost.
    let renewed = renewed.map(|renewed| renewed && r.has_lock());

    if let Some(job) = &r.obs.job {
        r.fired("HA-009", job.kind.words());
        return job::in_flight(r, job, renewed);
    }
    pause::follow_process(r);
    if r.obs.postgres.is_starting() && r.obs.postgres.running && !r.is_paused() {
        r.fired("HA-010", "");
        startup::starting(r, renewed)?;
    }
    if r.memory.bootstrapping {
        r.fired("HA-011", "");
        return bootstrap::finish_bootstrap(r, renewed);
    }
    if r.memory.recovering {
        r.fired("HA-012", "");
        recover::verify(r)?;
    }
    identity::check(r, renewed)?;
    if !r.obs.postgres.running {
        r.fired("HA-014", "");
        return recover::recover(r, renewed);
    }
    join(r);
    let line = if r.view.is_unlocked() && renewed.is_none() {
        r.fired("HA-015", "");
        unlocked::process(r)?
    } else {
        r.fired("HA-016", "");
        locked(r, renewed)?
    };
    crate::slots::in_cycle::maintain(r, line)
}

/// HA-016 and B.11, then the scheduled restart, whose message comes first.
fn locked(r: &mut Round<'_>, renewed: Option<bool>) -> Step<String> {
    let outcome = leader::process(r, renewed);
    match outcome {
        Err(Stop::Pause | Stop::NoDcs(_)) => outcome,
        Ok(line) | Err(Stop::Finish(line)) => {
            let busy =
                r.actions.iter().any(|action| matches!(action, Action::StartJob(_) | Action::Exit { .. }));
            if !busy {
                schedule::scheduled_restart(r)?;
            }
            Ok(line)
        }
    }
}

/// Renews where the view shows the lock as mine: `None` without it, else whether the store still agrees.
fn renew(r: &mut Round<'_>) -> Step<Option<bool>> {
    let Some(held) = r.held() else {
        r.fired("LV-4", "");
        // Once, at the beginning: a later round may run on a lock that this very cycle has acquired.
        if !failsafe::keeps_lease(r) && r.outcome(&Action::ForgetLease).is_none() {
            r.request(Action::ForgetLease);
        }
        return Ok(None);
    };
    if health::lets_lock_go(r.obs.job.as_ref()) {
        r.fired("FD-4", "");
        r.forget_lease();
        return Ok(None);
    }
    let renewed = r.lock(Action::RenewLock(held.clone()))?;
    r.fired("UL-2", if renewed { "renewed" } else { "refused" });
    r.wake_within(r.obs.settings.ttl / 3);
    Ok(Some(renewed))
}

/// LV-1, LV-3, LV-5.
fn note_view(r: &mut Round<'_>) {
    let view = r.view;
    if !view.is_unlocked() || r.memory.old_members.is_empty() {
        r.memory.old_members.clone_from(&view.members);
        r.memory.old_leader = view.leader_name().cloned();
    }
    if view.is_unlocked() {
        r.memory.unlocked_since.get_or_insert(r.obs.now);
    } else {
        r.memory.unlocked_since = None;
        r.memory.race_backoff_since = None;
        r.memory.yielding = None;
    }
    if !r.has_lock() {
        r.memory.synchronous = sync::Memory::default();
    } else if !r.obs.postgres.may_write() {
        r.memory.synchronous.settled = None;
    }
    r.memory.leader_timeline = view.leader_member().and_then(|member| member.data.timeline());
    failsafe::note_view(r, view);
}

/// HA-001.
fn note_position(r: &mut Round<'_>) {
    r.memory.previous_lsn = r.memory.last_lsn;
    if let Some(lsn) = r.obs.postgres.lsn() {
        r.memory.last_lsn = Some(lsn);
    }
}

/// What the long actions that ended since the last cycle mean for the rules.
fn account_for_jobs(r: &mut Round<'_>) {
    for result in &r.obs.finished {
        let done = result.end == JobEnd::Done;
        note_failure(r, result);
        pause::note_job(r, result);
        match result.kind {
            JobKind::PostBootstrap => r.memory.post_bootstrap = Some(done),
            JobKind::Bootstrap if !done => r.memory.post_bootstrap = Some(false),
            JobKind::Restart | JobKind::CopySlots => r.memory.recovering = true,
            // B.17.5: as if `post_bootstrap` had run.
            JobKind::BootstrapStandbyLeader => r.memory.post_bootstrap = Some(done),
            JobKind::Rewind if done => crate::rewind::done(r),
            JobKind::Rewind if matches!(result.end, JobEnd::RewindFailedForGood(_)) => {
                r.memory.rewind = RewindState::Failed;
            }
            JobKind::Promote if result.end == JobEnd::PrePromoteFailed => {
                r.memory.released_at = Some(r.obs.now);
            }
            // RW-31.
            JobKind::Clone | JobKind::Reinitialize | JobKind::Promote if done => {
                r.memory.rewind = RewindState::Initial;
            }
            // What lies there now is what the copy has left, or still the old.
            JobKind::Clone | JobKind::Reinitialize => {
                r.memory.rewind = RewindState::Initial;
                crate::rewind::trigger(r, "a copy failed");
            }
            // DM-1. An offline demotion ends with a start, every other one with a stopped server.
            JobKind::Demote(mode) => {
                crate::rewind::trigger(r, "demoted");
                r.memory.recovering = mode == DemoteMode::Offline;
            }
            _ => {}
        }
    }
}

fn note_failure(r: &mut Round<'_>, result: &JobResult) {
    match result.end {
        JobEnd::Failed(_) => r.memory.failed = Some(FailedJob { kind: result.kind, at: r.obs.now }),
        JobEnd::Done if r.memory.failed.is_some_and(|failed| failed.kind == result.kind) => {
            r.memory.failed = None;
        }
        _ => {}
    }
}

/// HA-006 to HA-008. A leader whose renewal was refused is none, whatever the view says: it writes nothing.
fn keep_keys(r: &mut Round<'_>, renewed: Option<bool>) -> Step<()> {
    if r.view.member(&r.obs.me).is_none() {
        r.fired("HA-006", "");
        r.request(Action::WriteMember);
    }
    if renewed != Some(true) {
        return Ok(());
    }
    if r.view.system_identifier().is_none()
        && let Some(value) = r.obs.postgres.system_identifier.clone()
    {
        r.fired("HA-007", value.clone());
        let when = identity::unchanged_initialize(r.view);
        r.request(Action::WriteInitialize { value, when });
    }
    let config = r.view.config.as_ref();
    if !config.is_some_and(|config| config.is_valid() && !config.value.is_empty()) {
        r.fired("HA-008", "");
        r.request(Action::WriteConfig);
        r.reload_view(ReloadAfter::Config)?;
        return Ok(());
    }
    rto::keep(r);
    Ok(())
}

/// RW-3: the first cycle on a running standby asks whether it can follow at all.
fn join(r: &mut Round<'_>) {
    let server = r.obs.postgres.server.as_ref();
    if r.memory.joined || r.obs.postgres.state != MemberState::Running || server.is_none() {
        return;
    }
    if r.is_paused() && r.view.is_unlocked() && r.view.system_identifier().is_none() {
        // HA-089 is to see it once the cluster is not paused any more.
        return;
    }
    r.memory.joined = true;
    if !r.obs.postgres.is_primary() {
        crate::rewind::trigger(r, "first cycle on a running standby");
    }
}

/// The longest time that a standby gives the named candidate before it looks for somebody to follow (HA-133).
pub(crate) const YIELD: Duration = Duration::from_secs(2);
