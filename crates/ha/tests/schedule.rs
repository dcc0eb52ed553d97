//! Scheduled restarts (contract B.18); scheduled switchovers are in `locked.rs`.

mod support;

use ptarmigan_ha::{
    Action, Job,
    action::When,
    observation::{ControlState, JobEnd, JobKind, RestartFilter, ScheduledRestart},
    schedule::{Due, due, due_at, restart_refused},
};
use ptarmigan_types::{MemberState, Role, ScheduledAt};
use support::*;

#[test]
fn sa_1_to_sa_4_when_something_is_due() {
    let after = |seconds: i64| wall() + jiff::SignedDuration::from_secs(seconds);
    for (seconds, loop_wait, expected) in [
        (1, 10, Due::Wait(secs(1))),
        (86_400, 10, Due::Wait(secs(86_400))),
        (0, 10, Due::Now),
        (-15, 10, Due::Now),
        (-16, 10, Due::Stale),
        (-1, 1, Due::Now),
        (-2, 1, Due::Stale),
    ] {
        assert_eq!(due_at(after(seconds), wall(), secs(loop_wait)), expected, "{seconds} {loop_wait}");
        assert_eq!(due(&ScheduledAt::At(after(seconds)), wall(), secs(loop_wait)), expected);
    }
    assert_eq!(due(&ScheduledAt::Unusable("x".into()), wall(), secs(10)), Due::Unusable);
}

/// A restart's time is read when it is asked for; that of a switchover is whatever somebody wrote into the key.
#[test]
fn sa_4_a_time_that_is_none_is_cleared() {
    let wish = |at: &str| {
        Scene::primary().with(|scene| {
            let mut wish = failover(Some("a"), Some("c"));
            wish.scheduled_at = Some(ScheduledAt::Unusable(at.into()));
            scene.view().failover = Some(wish);
        })
    };
    for at in ["tomorrow", "2030-01-01T12:00:00", ""] {
        let played = wish(at).play();
        played.fired("SA-4").starts_nothing();
        assert!(played.has(|action| matches!(action, Action::ClearFailover(When::Revision(_)))), "{at}");
    }
}

fn scheduled(scene: Scene, seconds: i64, change: impl FnOnce(&mut ScheduledRestart)) -> Scene {
    let mut restart = ScheduledRestart {
        at: wall() + jiff::SignedDuration::from_secs(seconds),
        postmaster_start_time: Some("started once".into()),
        filter: RestartFilter::default(),
        timeout: Some(secs(60)),
    };
    change(&mut restart);
    scene.with(|scene| scene.obs.scheduled_restart = Some(restart))
}

const RESTART: Job = Job::Restart { timeout: Some(secs(60)) };

#[test]
fn sa_3_rs_4_rs_7_a_restart_that_is_due_begins_and_is_forgotten() {
    for scene in [Scene::primary(), Scene::standby()] {
        let played = scheduled(scene, 0, |_| {}).play();
        played.fired("SA-3").starts(&RESTART).line("restart scheduled");
        played.before(&Action::ClearScheduledRestart, &Action::StartJob(RESTART));
        assert!(played.memory().recovering);
    }
}

/// What the start may take is the request's own limit, as long as it runs; `primary_start_timeout` where it has none.
#[test]
fn rs_4_the_restart_is_verified_and_has_its_own_limit() {
    let restarted = Scene::primary().ended(JobKind::Restart, JobEnd::Done).with(|scene| {
        scene.pg().state = MemberState::Starting;
        scene.pg().server = None;
        scene.pg().in_state_for = secs(20);
        scene.obs.start_timeout = Some(secs(60));
    });
    let starting = restarted.play();
    starting.fired("HA-044").line("PostgreSQL is still starting up, 40 seconds until timeout");
    assert!(starting.memory().recovering, "it is verified once it has had its time");
    let plain = restarted.clone().with(|scene| scene.obs.start_timeout = None).play();
    plain.line("PostgreSQL is still starting up, 280 seconds until timeout");
    let died = restarted.down(MemberState::StartFailed, ControlState::InProduction).play();
    died.fired("HA-012").fired("HA-070").does(&Action::ReleaseLock(leader("a")));
    let up = Scene::primary().ended(JobKind::Restart, JobEnd::Done).play();
    up.fired("HA-012").fired("HA-072");
    assert!(!up.memory().recovering);
}

#[test]
fn sa_1_it_waits_for_its_time() {
    let soon = scheduled(Scene::primary(), 3, |_| {}).play();
    soon.fired("SA-1").starts_nothing().wakes_in(secs(3)).does_not(&Action::ClearScheduledRestart);
    soon.line("no action. I am (a), the leader with the lock");
}

#[test]
fn sa_2_too_late_is_dropped() {
    let played = scheduled(Scene::primary(), -16, |_| {}).play();
    played.fired("SA-2").starts_nothing().does(&Action::ClearScheduledRestart);
}

#[test]
fn rs_1_another_postmaster_is_not_meant() {
    for seconds in [0, 60] {
        let other = scheduled(Scene::primary(), seconds, |restart| {
            restart.postmaster_start_time = Some("started before".into());
        });
        other.play().fired("RS-1").starts_nothing().does(&Action::ClearScheduledRestart);
    }
    let silent =
        scheduled(Scene::primary(), 60, |_| {}).with(|scene| scene.pg().postmaster_start_time = None);
    silent.play().silent("RS-1").does_not(&Action::ClearScheduledRestart);
    scheduled(Scene::primary(), 0, |restart| restart.postmaster_start_time = None).play().starts(&RESTART);
}

#[test]
fn rs_2_conditions() {
    let filter = |role, older_than, pending| RestartFilter { role, older_than, pending };
    let mut postgres = Scene::primary().obs.postgres;
    for (filter, refused) in [
        (filter(None, None, false), None),
        (filter(Some(Role::Primary), None, false), None),
        (filter(Some(Role::Replica), None, false), Some("host role mismatch")),
        (filter(None, Some(150_019), false), None),
        (filter(None, Some(150_018), false), Some("postgres version mismatch")),
        (filter(None, None, true), Some("pending restart flag is not set")),
    ] {
        assert_eq!(restart_refused(&filter, &postgres).as_deref(), refused, "{filter:?}");
    }
    postgres.role = Role::Promoted;
    postgres.pending_restart = true;
    assert_eq!(restart_refused(&filter(Some(Role::Primary), None, true), &postgres), None);
    let promoting = scheduled(Scene::primary(), 0, |_| {}).with(|scene| {
        scene.pg().role = Role::Promoted;
        scene.server().in_recovery = true;
    });
    let played = promoting.play();
    played.fired("RS-2").starts_nothing().does_not(&Action::ClearScheduledRestart).wakes_in(secs(1));
    let reason = restart_refused(&RestartFilter::default(), &promoting.obs.postgres);
    assert_eq!(reason.as_deref(), Some("promotion in progress"));
    let played = scheduled(Scene::primary(), 0, |restart| restart.filter.pending = true).play();
    played.fired("RS-2").starts_nothing().does(&Action::ClearScheduledRestart);
}

#[test]
fn rs_3_not_while_anything_else_begins_or_is_unclear() {
    let refused = scheduled(Scene::primary(), 0, |_| {}).with(|scene| scene.renew = refused()).play();
    refused.fired("HA-172").silent("SA-3");
    let switchover = scheduled(Scene::primary(), 0, |_| {})
        .with(|scene| scene.view().failover = Some(failover(Some("a"), None)))
        .play();
    switchover.starts(&Job::Demote(ptarmigan_ha::DemoteMode::Graceful)).silent("SA-3");
    scheduled(Scene::unlocked(), 0, |_| {}).play().silent("SA-3");
    scheduled(Scene::primary(), 0, |_| {}).dark().play().silent("SA-3");
}
