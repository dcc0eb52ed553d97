//! PostgreSQL is not running (contract B.7, B.9).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job, RewindState,
    action::{Divergence, ReloadAfter},
    callbacks::Event,
    memory::FailedJob,
    observation::{ControlState, JobEnd, JobKind},
};
use ptarmigan_types::{MemberState, Monotonic, Role};
use support::*;

/// The holder's postmaster has just died.
fn crashed_leader() -> Scene {
    Scene::primary().down(MemberState::Running, ControlState::InProduction)
}

fn read_only(timeout: Option<u64>) -> Job {
    Job::Follow { upstream: None, role: Role::Replica, timeout: timeout.map(secs) }
}

fn secondary(upstream: Option<&str>) -> Job {
    Job::Follow { upstream: upstream.map(member), role: Role::Replica, timeout: None }
}

#[test]
fn ha_070_a_holder_that_did_not_start_gives_the_lock_up() {
    for (role, demoted) in [(Role::Primary, true), (Role::StandbyLeader, true), (Role::Replica, false)] {
        let played = Scene::primary()
            .down(MemberState::StartFailed, ControlState::InProduction)
            .with(|scene| {
                scene.memory.recovering = true;
                scene.pg().role = role;
            })
            .play();
        played.fired("HA-012").fired("HA-070").does(&Action::ReleaseLock(leader("a"))).starts_nothing();
        played.line("removed leader key after trying and failing to start postgres").wakes_in(secs(1));
        assert_eq!(played.did(&Action::SetRole(Role::Demoted)), demoted, "{role:?}");
        let told = Action::RunCallback(Event::RoleChange);
        assert_eq!(played.did(&told), demoted, "{role:?}");
        if demoted {
            played.before(&Action::SetRole(Role::Demoted), &told);
        }
        assert!(!played.memory().recovering);
    }
    let restarted = Scene::primary()
        .down(MemberState::RestartFailed, ControlState::ShutDown)
        .ended(JobKind::Restart, JobEnd::Failed("no".into()))
        .play();
    restarted.fired("HA-070");
}

#[test]
fn ha_071_others_just_try_again() {
    let played = Scene::stopped().with(|scene| scene.memory.recovering = true).play();
    played.fired("HA-071").starts_nothing().line("failed to start postgres").wakes_in(secs(1));
    assert!(!played.has(|action| matches!(action, Action::ReleaseLock(_))));
    let mut next = Scene::stopped();
    next.memory = played.decision.memory;
    next.play().starts(&secondary(Some("b")));
}

#[test]
fn ha_072_a_start_that_succeeded_closes_the_chapter() {
    for (before, after) in [
        (RewindState::Success, RewindState::Initial),
        (RewindState::NotNeed, RewindState::Initial),
        (RewindState::Failed, RewindState::Failed),
        (RewindState::Check, RewindState::NotNeed),
    ] {
        let played = Scene::standby()
            .with(|scene| {
                scene.memory.recovering = true;
                scene.memory.crash_recovery_since = Some(at(900));
                scene.memory.rewind = before;
            })
            .play();
        played.fired("HA-072").fired("HA-176");
        let memory = played.memory();
        assert!(!memory.recovering && memory.crash_recovery_since.is_none());
        assert_eq!(memory.rewind, after, "{before:?}");
    }
    let pending = Scene::stopped()
        .with(|scene| {
            scene.memory.recovering = true;
            scene.memory.rewind = RewindState::Need;
        })
        .play();
    pending.fired("HA-072").starts(&Job::Rewind { leader: member("b"), checkpoint_first: false });
}

#[test]
fn ha_098_a_server_that_died_unasked_has_crashed() {
    for (state, notes) in [
        (MemberState::Running, true),
        (MemberState::Starting, true),
        (MemberState::Crashed, false),
        (MemberState::Stopped, false),
        (MemberState::StartFailed, false),
    ] {
        let played = crashed_leader().with(|scene| scene.pg().state = state).play();
        assert_eq!(played.did(&Action::SetState(MemberState::Crashed)), notes, "{state}");
    }
}

#[test]
fn ha_100_a_start_timeout_of_zero_prefers_a_failover() {
    let zero = || crashed_leader().with(|scene| scene.obs.settings.primary_start_timeout = secs(0));
    let played = zero().play();
    played.fired("HA-100").starts(&Job::Demote(DemoteMode::Immediate));
    played.line("stopped PostgreSQL to fail over after a crash");
    let alone = zero().with(|scene| {
        scene.peers.clear();
        scene.pg().rewind_possible = false;
    });
    alone.play().fired("HA-101").silent("HA-103").starts(&read_only(None));
    let refused = zero().with(|scene| scene.renew = refused()).play();
    refused.fired("HA-102").silent("HA-100");
}

#[test]
fn ha_103_the_holder_starts_its_crashed_primary_in_place() {
    for control in [
        ControlState::InProduction,
        ControlState::InCrashRecovery,
        ControlState::ShuttingDown,
        ControlState::ShutDown,
    ] {
        let played = crashed_leader().with(|scene| scene.pg().control_state = control).play();
        played.fired("HA-101").fired("HA-103").starts(&Job::StartPrimary { timeout: secs(300) });
        played.line("starting primary after failure");
        assert!(played.memory().recovering);
    }
}

#[test]
fn ha_103_never_without_the_lock_and_only_what_was_a_primary() {
    let cases: [Change; 8] = [
        |scene| scene.renew = refused(),
        |scene| scene.view().leader = None,
        |scene| scene.view().leader = Some(leader("b")),
        |scene| scene.pg().role = Role::Demoted,
        |scene| scene.pg().role = Role::Promoted,
        |scene| scene.pg().has_recovery_signal = true,
        |scene| scene.pg().state = MemberState::Stopped,
        |scene| scene.pg().control_state = ControlState::InArchiveRecovery,
    ];
    for (index, change) in cases.into_iter().enumerate() {
        let played = crashed_leader().with(change).play();
        played.silent("HA-103");
        assert!(
            !played.jobs().iter().any(|job| matches!(job, Job::StartPrimary { .. })),
            "case {index}: {:?}",
            played.jobs()
        );
    }
}

/// A former primary that died, and somebody else leads or nobody.
fn old_primary(control: ControlState) -> Scene {
    Scene::standby().down(MemberState::Crashed, control).with(|scene| {
        scene.pg().role = Role::Demoted;
        scene.pg().has_recovery_signal = false;
    })
}

#[test]
fn ha_105_a_backup_goes_its_own_way() {
    for (version, label, skips) in [(15, true, true), (14, true, false), (15, false, false)] {
        let played = old_primary(ControlState::InProduction)
            .with(|scene| {
                scene.pg().major_version = version;
                scene.pg().has_backup_label = label;
            })
            .play();
        if skips {
            played.fired("HA-105").starts(&secondary(Some("b")));
        } else {
            played.fired("HA-106").starts(&Job::CrashRecovery);
        }
    }
}

#[test]
fn ha_106_crash_recovery_once() {
    for control in [ControlState::InProduction, ControlState::ShuttingDown, ControlState::InCrashRecovery] {
        for scene in [old_primary(control), old_primary(control).unled()] {
            let played = scene.play();
            played.fired("HA-106").starts(&Job::CrashRecovery);
            played.line("doing crash recovery in a single user mode");
            assert_eq!(played.memory().crash_recovery_since, Some(NOW));
        }
    }
    let impossible = |scene: &mut Scene| scene.pg().rewind_possible = false;
    old_primary(ControlState::InProduction).with(impossible).play().silent("HA-106");
    old_primary(ControlState::InProduction).unled().with(impossible).play().fired("HA-106");
    let tried = |scene: &mut Scene| scene.memory.crash_recovery_since = Some(at(900));
    old_primary(ControlState::InProduction).unled().with(tried).play().silent("HA-106");
    old_primary(ControlState::ShutDown).play().silent("HA-106");
}

#[test]
fn ha_106_crash_recovery_and_starts_that_fail_for_ever_do_not_spin() {
    let mut scene = old_primary(ControlState::InProduction).unled();
    let mut begun = Vec::new();
    // Every job fails at once and its end wakes the loop; one second passes where the decision asks for it.
    while scene.obs.now < NOW + secs(10) {
        let played = scene.play();
        scene.memory = played.decision.memory.clone();
        scene.obs.finished.clear();
        let kinds: Vec<JobKind> = played
            .jobs()
            .iter()
            .map(|job| if **job == Job::CrashRecovery { JobKind::CrashRecovery } else { JobKind::Follow })
            .collect();
        for kind in kinds {
            begun.push(kind);
            scene = scene.ended(kind, JobEnd::Failed("no".into()));
        }
        if scene.obs.finished.is_empty() {
            scene.obs.now = played.decision.wake_at;
        }
        assert!(begun.len() < 50, "{begun:?}");
    }
    assert!(begun.iter().filter(|kind| **kind == JobKind::Follow).count() >= 5, "still trying: {begun:?}");
}

#[test]
fn ha_107_the_view_is_read_again_before_anybody_is_followed() {
    let played = Scene::stopped()
        .with(|scene| {
            let mut view = scene.view().clone();
            view.leader = Some(leader("c"));
            scene.reloaded = Some(Ok(view));
        })
        .play();
    played.does(&Action::ReloadView(ReloadAfter::Crash)).starts(&secondary(Some("c")));
    let silent = Scene::stopped().with(|scene| scene.reloaded = Some(Err("timed out".into()))).play();
    silent.fired("HA-404").starts_nothing();
}

#[test]
fn ha_108_a_holder_that_cannot_start_in_place_comes_up_read_only() {
    let played = crashed_leader()
        .with(|scene| {
            scene.pg().role = Role::Demoted;
            scene.pg().control_state = ControlState::ShutDown;
            scene.memory.rewind = RewindState::Check;
        })
        .play();
    played.fired("HA-108").starts(&read_only(Some(300)));
    played.line("starting as readonly because i had the session lock");
    assert!(played.memory().recovering);
    assert_eq!(played.memory().rewind, RewindState::Initial);
}

#[test]
fn ha_109_the_rewind_question_comes_before_the_start() {
    let diverged = old_primary(ControlState::ShutDown).with(|scene| scene.divergence = Divergence::Diverged);
    let played = diverged.play();
    played
        .fired("HA-109")
        .fired("RW-8")
        .starts(&Job::Rewind { leader: member("b"), checkpoint_first: false });
    assert!(!played.memory().recovering);
    for executed in [RewindState::NotNeed, RewindState::Success, RewindState::Failed] {
        let played = diverged.clone().with(|scene| scene.memory.rewind = executed).play();
        played.silent("HA-109").starts(&secondary(Some("b")));
    }
}

#[test]
fn ha_112_ha_114_starts_as_a_standby_of_whoever_leads() {
    for (scene, upstream) in [
        (Scene::stopped(), Some("b")),
        (Scene::stopped().unled(), None),
        (Scene::stopped().led_by("c"), Some("c")),
    ] {
        let played = scene.play();
        played.fired("HA-014").fired("HA-112").starts(&secondary(upstream)).line("starting as a secondary");
        assert!(played.memory().recovering);
    }
    let failed = |at| {
        let failed = FailedJob { kind: JobKind::Follow, at };
        Scene::stopped().with(|scene| scene.memory.failed = Some(failed)).play()
    };
    failed(NOW).starts_nothing();
    failed(Monotonic(NOW.0 - 1_000_000)).starts(&secondary(Some("b")));
}

#[test]
fn ha_101_a_holder_starts_within_primary_start_timeout() {
    let crashed = Scene::primary().down(MemberState::Crashed, ControlState::InProduction);
    let played = crashed.with(|scene| scene.obs.settings.primary_start_timeout = secs(42)).play();
    played.fired("HA-101").starts(&Job::StartPrimary { timeout: secs(42) });
}

#[test]
fn ha_102_everybody_else_starts_without_a_limit_of_the_loop() {
    let played = Scene::stopped().play();
    played.fired("HA-102").silent("HA-101");
    played.starts(&Job::Follow { upstream: Some(member("b")), role: Role::Replica, timeout: None });
}

#[test]
fn ha_114_the_start_of_a_standby_is_verified_in_the_next_cycle() {
    let played = Scene::stopped().play();
    played.starts(&Job::Follow { upstream: Some(member("b")), role: Role::Replica, timeout: None });
    assert!(played.memory().recovering);
}
