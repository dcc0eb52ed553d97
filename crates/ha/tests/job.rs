//! A long action in flight (contract B.4).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job,
    observation::{ControlState, DataDirectory, JobKind},
};
use ptarmigan_types::{MemberState, Role};
use support::*;

const STOP: Job = Job::Demote(DemoteMode::ImmediateNoLock);

fn crash_recovery(started: u64) -> Scene {
    Scene::primary()
        .down(MemberState::Crashed, ControlState::Unknown)
        .job(JobKind::CrashRecovery)
        .with(|scene| scene.memory.crash_recovery_since = Some(at(started)))
}

#[test]
fn ha_030_overdue_crash_recovery_is_cancelled_where_somebody_can_take_over() {
    let overdue = crash_recovery(700).play();
    overdue
        .fired("HA-030")
        .before(&Action::CancelJob, &Action::StartJob(Job::Demote(DemoteMode::Immediate)))
        .line("terminated crash recovery because of startup timeout");
    for scene in [
        crash_recovery(701),
        crash_recovery(700).with(|scene| scene.peers.clear()),
        crash_recovery(0).with(|scene| scene.memory.crash_recovery_since = None),
        crash_recovery(0).with(|scene| scene.obs.job.as_mut().unwrap().kind = JobKind::Rewind),
    ] {
        scene.play().fired("HA-031").silent("HA-030").starts_nothing().does_not(&Action::CancelJob);
    }
}

#[test]
fn ha_031_the_lock_is_renewed_during_every_job() {
    for (kind, words) in [
        (JobKind::Restart, "restart"),
        (JobKind::Promote, "promote"),
        (JobKind::Demote(DemoteMode::Graceful), "demote"),
        (JobKind::StartPrimary, "restarting after failure"),
        (JobKind::CrashRecovery, "doing crash recovery in a single user mode"),
        (JobKind::Follow, "starting as a standby"),
        (JobKind::Bootstrap, "bootstrap"),
        (JobKind::PostBootstrap, "post_bootstrap"),
    ] {
        let played = Scene::primary().job(kind).play();
        played.fired("HA-009").fired("HA-031").starts_nothing();
        played.line(&format!("updated leader lock during {words}"));
        played.does_not(&Action::WriteStatus);
    }
}

#[test]
fn ha_032_a_promotion_that_has_not_begun_is_cancelled_without_the_lock() {
    for scene in [
        Scene::standby().led_by("a").with(|scene| scene.renew = refused()),
        Scene::standby(),
        Scene::unlocked(),
    ] {
        let played = scene.job(JobKind::Promote).play();
        played.fired("HA-032").does(&Action::CancelJob).starts_nothing();
        played.line("lost leader lock before promote").wakes_in(secs(0));
    }
}

#[test]
fn ha_033_a_server_that_is_or_becomes_writable_is_stopped_without_the_lock() {
    let begun = |scene: &mut Scene| scene.obs.job.as_mut().unwrap().cancellable = false;
    for (kind, scene) in [
        (JobKind::Restart, Scene::primary().unled()),
        (JobKind::Restart, Scene::primary().led_by("b")),
        (JobKind::Restart, Scene::primary().with(|scene| scene.renew = refused())),
        (JobKind::StartPrimary, Scene::primary().unled().down(MemberState::Starting, ControlState::Unknown)),
        (JobKind::Promote, Scene::unlocked().with(|scene| scene.pg().role = Role::Promoted)),
        (JobKind::Promote, Scene::unlocked().job(JobKind::Promote).with(begun)),
        (JobKind::Demote(DemoteMode::Graceful), Scene::primary().unled()),
        (JobKind::Demote(DemoteMode::Offline), Scene::primary().unled()),
    ] {
        let scene = if scene.obs.job.is_some() { scene } else { scene.job(kind) };
        let played = scene.play();
        played.fired("HA-033").starts(&STOP).before(&Action::CancelJob, &Action::StartJob(STOP));
        played.line(&format!("lost leader lock during {}", kind.words()));
        assert!(played.did(&Action::ForgetLease));
    }
}

#[test]
fn ha_034_everything_else_goes_on() {
    for (kind, scene) in [
        (JobKind::Clone, Scene::standby()),
        (JobKind::Follow, Scene::unlocked()),
        (JobKind::Demote(DemoteMode::Immediate), Scene::primary().unled()),
        (JobKind::Demote(DemoteMode::ImmediateNoLock), Scene::primary().led_by("b")),
        (
            JobKind::Demote(DemoteMode::Graceful),
            Scene::primary().unled().with(|scene| scene.pg().role = Role::Demoted),
        ),
    ] {
        let played = scene.job(kind).play();
        played.fired("HA-034").starts_nothing().does_not(&Action::CancelJob);
        played.does_not(&Action::AcquireLock).line(&format!("{} in progress", kind.words()));
    }
}

#[test]
fn ha_034_a_bootstrapping_node_has_no_lock_to_lose() {
    for kind in [JobKind::Bootstrap, JobKind::PostBootstrap] {
        let played =
            Scene::primary().unled().job(kind).with(|scene| scene.memory.bootstrapping = true).play();
        played.fired("HA-034").starts_nothing().does_not(&Action::CancelJob);
    }
}

#[test]
fn ha_009_a_long_action_in_flight_comes_before_every_other_rule() {
    let empty = Scene::stopped().with(|scene| scene.pg().data_directory = DataDirectory::Empty);
    for scene in [Scene::primary(), Scene::unlocked(), empty] {
        let played = scene.job(JobKind::Clone).play();
        played.fired("HA-009").silent("HA-014").silent("HA-015").silent("HA-016").silent("HA-080");
        played.starts_nothing();
    }
}

#[test]
fn ul_4_during_a_long_action_the_lock_is_renewed_without_a_status() {
    let played = Scene::primary().job(JobKind::Restart).play();
    played.does(&Action::RenewLock(leader("a"))).does_not(&Action::WriteStatus);
    let starting = Scene::primary().with(|scene| scene.pg().state = MemberState::Starting);
    starting.play().does(&Action::RenewLock(leader("a"))).does_not(&Action::WriteStatus);
}

#[test]
fn ha_034_a_start_behind_somebody_who_does_not_lead_any_more_is_cut_short() {
    let starting = || {
        Scene::standby().job(JobKind::Follow).with(|scene| {
            scene.pg().state = MemberState::Starting;
            scene.pg().server = None;
            scene.memory.starts_behind = Some(member("c"));
        })
    };
    let played = starting().play();
    played.does(&Action::CancelJob).wakes_in(secs(0));
    played.line("still starting, and b is to be followed by now");
    let others: [Change; 6] = [
        |scene| scene.memory.starts_behind = Some(member("b")),
        |scene| scene.pg().state = MemberState::Stopping,
        |scene| scene.pg().running = false,
        |scene| scene.obs.settings.pause = true,
        |scene| scene.view().leader = None,
        |scene| scene.obs.job.as_mut().unwrap().kind = JobKind::Clone,
    ];
    for (index, change) in others.into_iter().enumerate() {
        assert!(!starting().with(change).play().did(&Action::CancelJob), "case {index}");
    }
}

#[test]
fn ha_034_whom_a_start_follows_is_known_while_it_runs() {
    let started = Scene::stopped().play();
    assert_eq!(started.memory().starts_behind, Some(member("b")));
}
