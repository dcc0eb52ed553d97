//! PostgreSQL is starting (contract B.5).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job,
    observation::{ControlState, JobKind},
};
use ptarmigan_types::{MemberState, Role};
use support::*;

fn starting(spent: u64) -> Scene {
    Scene::primary().with(|scene| {
        scene.pg().state = MemberState::Starting;
        scene.pg().server = None;
        scene.pg().in_state_for = secs(spent);
    })
}

#[test]
fn ha_040_a_running_server_is_not_starting() {
    Scene::primary().play().silent("HA-010");
}

#[test]
fn ha_041_the_lost_lock_stops_a_starting_server() {
    let played = starting(5).with(|scene| scene.renew = refused()).play();
    played.fired("HA-041").starts(&Job::Demote(DemoteMode::ImmediateNoLock)).does(&Action::ForgetLease);
    played.line("stopped PostgreSQL while starting up because leader key was lost");
}

#[test]
fn ha_042_ha_043_a_start_that_takes_too_long() {
    for (spent, one_shot, peers, fails_over) in [
        (300, None, true, true),
        (60, Some(60), true, true),
        (300, None, false, false),
        (301, None, false, false),
    ] {
        let played = starting(spent)
            .with(|scene| {
                scene.obs.start_timeout = one_shot.map(secs);
                if !peers {
                    scene.peers.clear();
                }
            })
            .play();
        if fails_over {
            played.fired("HA-042").starts(&Job::Demote(DemoteMode::Immediate));
            played.line("stopped PostgreSQL because of startup timeout");
        } else {
            played.fired("HA-043").starts_nothing();
            played
                .line("master start has timed out, but continuing to wait because failover is not possible");
            assert!(played.decision.wake_at >= NOW + secs(1), "no busy waiting");
        }
    }
}

#[test]
fn ha_043_nobody_to_fail_over_to() {
    for peers in [Vec::new(), vec![ptarmigan_ha::facts::PeerAnswer { watchdog_failed: true, ..peer("b") }]] {
        let played = starting(400).with(|scene| scene.peers = peers).play();
        played.fired("HA-043").starts_nothing().does_not(&Action::ReleaseLock(leader("a")));
        played.does(&Action::RenewLock(leader("a")));
    }
}

#[test]
fn ha_044_time_left() {
    for (spent, line, wake) in [
        (5, "PostgreSQL is still starting up, 295 seconds until timeout", 10),
        (297, "PostgreSQL is still starting up, 3 seconds until timeout", 3),
    ] {
        let played = starting(spent).play();
        played.fired("HA-044").line(line).wakes_in(secs(wake)).starts_nothing();
    }
    let custom =
        starting(5).with(|scene| scene.pg().state = MemberState::StartingAfterCustomBootstrap).play();
    custom.fired("HA-044");
}

#[test]
fn ha_044_a_switchover_comes_first() {
    let played =
        starting(5).with(|scene| scene.view().failover = Some(failover(Some("a"), Some("b")))).play();
    played.fired("HA-235").line("manual failover: demoting myself");
    played.starts(&Job::Demote(DemoteMode::Graceful));
}

#[test]
fn ha_045_without_the_lock_the_cycle_goes_on() {
    let played = Scene::standby()
        .with(|scene| {
            scene.pg().state = MemberState::Starting;
            scene.pg().server = None;
        })
        .play();
    played.fired("HA-045").fired("HA-176").starts_nothing().wakes_in(secs(1));
    let primary = starting(5).led_by("b").play();
    primary.fired("HA-045").fired("HA-282").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
    let unlocked = Scene::unlocked().with(|scene| scene.pg().state = MemberState::Starting).play();
    unlocked.fired("HA-203").does_not(&Action::AcquireLock);
}

#[test]
fn ha_010_a_server_that_died_while_starting_is_not_waited_for() {
    let dead = || starting(5).down(MemberState::Starting, ControlState::InProduction);
    let played = dead().play();
    played.silent("HA-010").fired("HA-098").fired("HA-103").starts(&Job::StartPrimary { timeout: secs(300) });
    let verified = dead().with(|scene| scene.memory.recovering = true).play();
    verified.fired("HA-070").starts_nothing().does(&Action::ReleaseLock(leader("a")));
    let job = dead().job(JobKind::StartPrimary).play();
    job.fired("HA-031");
    assert_eq!(dead().obs.postgres.role, Role::Primary);
}

#[test]
fn ha_043_a_start_that_takes_too_long_goes_on_where_nobody_can_take_over() {
    let slow = Scene::primary().with(|scene| {
        scene.pg().state = MemberState::Starting;
        scene.pg().in_state_for = secs(301);
        scene.peers.clear();
    });
    let played = slow.play();
    played.fired("HA-043").silent("HA-042").starts_nothing();
    played.line("master start has timed out, but continuing to wait because failover is not possible");
}
