//! The order of the cycle's steps (contract B.1): what comes first ends the cycle, whatever else would apply.

mod support;

use ptarmigan_ha::{
    Action, Job,
    observation::{ControlState, DataDirectory, JobKind, RestartFilter, ScheduledRestart},
};
use ptarmigan_types::{Lsn, MemberState, Role};
use support::*;

/// Everything that could go on, of a node with these troubles all at once.
fn troubled() -> Scene {
    Scene::unlocked().down(MemberState::Stopped, ControlState::ShutDown).with(|scene| {
        scene.memory.bootstrapping = true;
        scene.memory.post_bootstrap = Some(false);
        scene.memory.recovering = true;
        scene.pg().system_identifier = Some(OTHER_SYSTEM_IDENTIFIER.into());
    })
}

#[test]
fn ha_009_a_long_action_comes_before_everything() {
    let played = troubled().job(JobKind::Restart).play();
    played.fired("HA-009").fired("HA-034").starts_nothing().line("restart in progress");
    for later in ["HA-010", "HA-011", "HA-012", "HA-088", "HA-014", "HA-015"] {
        played.silent(later);
    }
    assert!(!played.has(|action| matches!(action, Action::Exit { .. } | Action::SyncSlots)));
}

#[test]
fn ha_011_a_bootstrap_comes_before_the_verification_of_a_start() {
    let played = troubled().play();
    played.fired("HA-011").fired("HA-060").silent("HA-012").silent("HA-088").silent("HA-014");
}

#[test]
fn ha_020_a_bootstrap_that_failed_ends_the_process() {
    let played = troubled().play();
    assert!(matches!(played.actions.last(), Some(Action::Exit { stop_postgres: true, .. })));
}

#[test]
fn ha_012_a_start_is_verified_before_identities_are_compared() {
    let played = troubled().with(|scene| scene.memory.bootstrapping = false).play();
    played.fired("HA-012").fired("HA-071").silent("HA-088").silent("HA-014").line("failed to start postgres");
}

#[test]
fn ha_013_whose_the_data_are_comes_before_what_the_server_does() {
    let foreign = |scene: &mut Scene| scene.pg().system_identifier = Some(OTHER_SYSTEM_IDENTIFIER.into());
    for scene in [Scene::stopped(), Scene::unlocked(), Scene::standby(), Scene::primary()] {
        let played = scene.with(foreign).play();
        played.fired("HA-088").silent("HA-014").silent("HA-015").silent("HA-016");
    }
    let empty = Scene::stopped().with(|scene| scene.pg().data_directory = DataDirectory::Empty).play();
    empty.fired("HA-080").silent("HA-014");
}

#[test]
fn ha_014_a_server_that_does_not_run_is_seen_to_whoever_leads() {
    for scene in [Scene::stopped(), Scene::stopped().unled(), Scene::stopped().led_by("a")] {
        let played = scene.play();
        played.fired("HA-014").silent("HA-015").silent("HA-016").does_not(&Action::AcquireLock);
        assert_eq!(played.jobs().len(), 1, "{}", played.decision.line);
    }
}

#[test]
fn ha_015_without_a_leader_there_is_a_race() {
    Scene::unlocked().play().fired("HA-015").silent("HA-016").does(&Action::AcquireLock);
}

#[test]
fn ha_016_with_a_leader_the_scheduled_restart_has_the_last_word() {
    let restart = ScheduledRestart {
        at: wall(),
        postmaster_start_time: Some("started once".into()),
        filter: RestartFilter::default(),
        timeout: None,
    };
    for scene in [Scene::primary(), Scene::standby()] {
        let played = scene.clone().play();
        played.fired("HA-016").silent("HA-015").starts_nothing();
        let due = scene.with(|scene| scene.obs.scheduled_restart = Some(restart.clone())).play();
        due.fired("HA-016").starts(&Job::Restart { timeout: None }).line("restart scheduled");
    }
    let unlocked = Scene::unlocked().with(|scene| scene.obs.scheduled_restart = Some(restart)).play();
    assert!(!unlocked.jobs().iter().any(|job| matches!(job, Job::Restart { .. })), "not without a leader");
}

#[test]
fn ha_019_a_server_that_does_not_answer_changes_no_state_and_no_role() {
    for scene in [Scene::primary(), Scene::standby(), Scene::primary().led_by("a")] {
        let played = scene.with(|scene| scene.pg().server = None).play();
        played.starts_nothing();
        let changes = |action: &Action| {
            matches!(action, Action::SetState(_) | Action::ReleaseLock(_) | Action::AcquireLock)
        };
        assert!(!played.has(changes), "{:?}", played.actions);
        assert!(!played.has(|action| matches!(action, Action::SetRole(role) if *role != Role::Replica)));
    }
    let racing = Scene::unlocked().with(|scene| scene.pg().server = None).play();
    racing.does_not(&Action::AcquireLock).starts_nothing();
}

#[test]
fn t_4_while_nobody_leads_the_wait_ends_with_the_backoff() {
    let scene = Scene::unlocked().with(|scene| {
        scene.obs.settings.primary_race_backoff = secs(12);
        scene.obs.settings.loop_wait = secs(10);
        scene.memory.last_lsn = Some(Lsn(HERE.0 - 1));
        scene.memory.race_backoff_since = Some(at(995));
    });
    scene.play().fired("HA-130").wakes_in(secs(7));
    scene.with(|scene| scene.memory.race_backoff_since = Some(NOW)).play().wakes_in(secs(10));
}
