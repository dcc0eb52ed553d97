//! The data directory, and whose it is (contract B.8).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job, Outcome,
    action::When,
    observation::{ControlState, DataDirectory},
};
use ptarmigan_types::{Initialize, MemberState, Role};
use support::*;

#[test]
fn ha_080_a_server_without_its_data_is_stopped_first() {
    for directory in [DataDirectory::Empty, DataDirectory::Unreadable("permission denied".into())] {
        let running = Scene::primary().with(|scene| scene.pg().data_directory = directory);
        let played = running.clone().play();
        played.fired("HA-080").fired("HA-081").does(&Action::SetRole(Role::Uninitialized));
        played.before(&Action::StopImmediate, &Action::ReleaseLock(leader("a"))).starts_nothing();
        played.line("released leader key voluntarily as data dir is empty or not accessible");
        let stuck = running.with(|scene| scene.stop = Outcome::Failed("it will not die".into())).play();
        stuck.fired("HA-080").does_not(&Action::ReleaseLock(leader("a"))).starts_nothing();
        stuck.does_not(&Action::SetRole(Role::Uninitialized)).wakes_in(secs(1));
        assert!(stuck.decision.line.contains("it will not die"));
    }
}

#[test]
fn ha_081_the_lock_is_released_before_a_new_data_directory_is_made() {
    let played = Scene::primary()
        .down(MemberState::Stopped, ControlState::Unknown)
        .with(|scene| scene.pg().data_directory = DataDirectory::Empty)
        .play();
    played.fired("HA-081").does(&Action::ReleaseLock(leader("a"))).starts_nothing();
    played.does_not(&Action::StopImmediate);
}

#[test]
fn ha_082_an_unreadable_data_directory() {
    let played = Scene::stopped()
        .with(|scene| scene.pg().data_directory = DataDirectory::Unreadable("permission denied".into()))
        .play();
    played.fired("HA-082").starts_nothing().line("data directory is not accessible: permission denied");
}

#[test]
fn ha_084_an_empty_one_is_filled() {
    let played = Scene::stopped().with(|scene| scene.pg().data_directory = DataDirectory::Empty).play();
    played.fired("HA-084").starts(&Job::Clone { source: Some(member("b")) });
}

#[test]
fn ha_085_without_a_system_identifier_nothing_is_started_and_no_lock_is_kept() {
    const LINE: &str =
        "data dir for the cluster is not empty, but system ID is invalid; consider doing reinitialize";
    let unknown = |scene: Scene| scene.with(|scene| scene.pg().system_identifier = None).play();
    unknown(Scene::stopped()).fired("HA-085").starts_nothing().line(LINE);
    let holder = unknown(Scene::primary().down(MemberState::Crashed, ControlState::Unknown));
    holder.fired("HA-085").does(&Action::ReleaseLock(leader("a"))).starts_nothing();
    let leading = unknown(Scene::primary());
    leading.starts_nothing().does_not(&Action::ReleaseLock(leader("a")));
    for scene in [Scene::primary().led_by("b"), Scene::primary().with(|scene| scene.renew = refused())] {
        unknown(scene).fired("HA-085").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
    }
    unknown(Scene::primary().unled()).starts_nothing().does_not(&Action::AcquireLock);
}

#[test]
fn ha_088_a_node_of_another_cluster_leaves() {
    for scene in [Scene::standby(), Scene::primary(), Scene::stopped(), Scene::unlocked()] {
        let played =
            scene.with(|scene| scene.pg().system_identifier = Some(OTHER_SYSTEM_IDENTIFIER.into())).play();
        let reason = "system ID mismatch, node a belongs to a different cluster: \
                      7000000000000000001 != 7000000000000000002";
        played.fired("HA-088").line(reason).starts_nothing();
        let exit = Action::Exit { stop_postgres: true, reason: reason.into() };
        assert_eq!(played.actions.last(), Some(&exit));
    }
}

/// No leader, no `/initialize`, and this node's first look at it.
fn anonymous(scene: Scene) -> Scene {
    scene.unled().with(|scene| {
        scene.view().initialize = None;
        scene.memory.joined = false;
    })
}

fn name_it(when: When) -> Action {
    Action::WriteInitialize { value: SYSTEM_IDENTIFIER.into(), when }
}

#[test]
fn ha_089_a_running_standby_does_not_become_a_new_cluster() {
    let garbage = |scene: &mut Scene| {
        scene.view().initialize = Some(Initialize { value: "garbage".into(), revision: 2 });
    };
    for scene in [anonymous(Scene::standby()), anonymous(Scene::standby()).with(garbage)] {
        let played = scene.play();
        played.fired("HA-089").starts_nothing().does_not(&Action::AcquireLock);
        assert!(played.has(|action| matches!(action, Action::Exit { stop_postgres: false, .. })));
        assert!(!played.has(|action| matches!(action, Action::WriteInitialize { .. })));
    }
}

#[test]
fn ha_089_as_long_as_it_does_not_say_what_it_is_it_is_not_trusted() {
    let silent = anonymous(Scene::standby()).with(|scene| scene.pg().server = None).play();
    silent.fired("HA-089").starts_nothing().does_not(&Action::AcquireLock);
    assert!(!silent.has(|action| matches!(action, Action::Exit { .. } | Action::WriteInitialize { .. })));
    assert!(!silent.memory().joined, "the question stays open");
    let candidate = anonymous(Scene::standby())
        .with(|scene| {
            scene.pg().server = None;
            scene.view().failover = Some(failover(None, Some("a")));
        })
        .play();
    candidate.does_not(&Action::AcquireLock);
}

#[test]
fn ha_090_a_primary_and_a_stopped_server_name_the_cluster() {
    let absent = anonymous(Scene::primary()).play();
    absent.fired("HA-090").before(&name_it(When::Absent), &Action::AcquireLock);
    let garbage = anonymous(Scene::primary())
        .with(|scene| scene.view().initialize = Some(Initialize { value: "x".into(), revision: 2 }))
        .play();
    garbage.fired("HA-090").does(&name_it(When::Revision(2)));
    let stopped = anonymous(Scene::stopped()).play();
    stopped.fired("HA-090").does(&name_it(When::Absent)).fired("HA-112");
}

#[test]
fn ha_090_whoever_was_not_first_does_not_race() {
    let played = anonymous(Scene::primary()).with(|scene| scene.write = refused()).play();
    played.fired("HA-090").does_not(&Action::AcquireLock).starts_nothing().wakes_in(secs(1));
    let unknown = anonymous(Scene::primary()).with(|scene| scene.write = no_answer()).play();
    unknown.fired("HA-402");
}

#[test]
fn ha_091_everybody_else_goes_on() {
    let locked = Scene::standby().with(|scene| scene.view().initialize = None).play();
    locked.fired("HA-091").fired("HA-176");
    let joined = Scene::unlocked().with(|scene| scene.view().initialize = None).play();
    joined.fired("HA-091").fired("HA-131");
    assert!(!joined.has(|action| matches!(action, Action::WriteInitialize { .. })), "HA-007 will");
}
