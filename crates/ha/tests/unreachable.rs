//! The DCS does not answer (contract B.15).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job,
    observation::{ControlState, JobEnd, JobKind},
};
use ptarmigan_types::{MemberState, Role};
use support::*;

const OFFLINE: Job = Job::Demote(DemoteMode::Offline);

#[test]
fn ha_402_a_primary_steps_down() {
    let silent = Scene::primary().with(|scene| scene.pg().server = None);
    let told = Scene::standby().with(|scene| scene.pg().role = Role::Promoted);
    let starting = Scene::primary().with(|scene| {
        scene.pg().state = MemberState::Starting;
        scene.pg().server = None;
    });
    for scene in
        [Scene::primary(), Scene::primary().led_by("b"), Scene::primary().unled(), silent, told, starting]
    {
        let played = scene.dark().play();
        played.fired("HA-402").starts(&OFFLINE).does(&Action::ForgetLease).wakes_in(secs(10));
        played.line("demoting self because DCS is not accessible and I was a leader");
        played.does_not(&Action::CancelJob).does_not(&Action::WriteMember);
    }
}

#[test]
fn ha_402_a_job_that_may_lead_to_a_writable_server_is_cancelled() {
    let begun = |scene: &mut Scene| scene.obs.job.as_mut().unwrap().cancellable = false;
    for scene in [
        Scene::primary().job(JobKind::Restart),
        Scene::primary().job(JobKind::Demote(DemoteMode::Graceful)),
        Scene::primary().job(JobKind::StartPrimary).down(MemberState::Crashed, ControlState::Unknown),
        Scene::primary().job(JobKind::Restart).down(MemberState::Restarting, ControlState::Unknown),
        Scene::standby().job(JobKind::Promote).with(begun),
    ] {
        let played = scene.dark().play();
        played.fired("HA-402").starts(&OFFLINE).before(&Action::CancelJob, &Action::StartJob(OFFLINE));
    }
}

#[test]
fn ha_402_what_stops_the_server_already_goes_on() {
    for kind in [
        JobKind::Demote(DemoteMode::Offline),
        JobKind::Demote(DemoteMode::Immediate),
        JobKind::Demote(DemoteMode::ImmediateNoLock),
        JobKind::Reinitialize,
    ] {
        let played = Scene::primary().job(kind).dark().play();
        played.fired("HA-402").starts_nothing().does_not(&Action::CancelJob).line("DCS is not accessible");
    }
}

#[test]
fn ha_403_a_standby_stays() {
    Scene::standby().dark().play().fired("HA-403").starts_nothing().line("DCS is not accessible");
    let restarts = Scene::standby().job(JobKind::Restart).dark().play();
    restarts.fired("HA-403").does_not(&Action::CancelJob);
    let promoting = Scene::standby().job(JobKind::Promote).dark().play();
    promoting.fired("HA-403").does(&Action::CancelJob).starts_nothing().wakes_in(secs(1));
}

#[test]
fn ha_403_a_node_that_bootstraps_goes_on_until_it_reaches_for_the_lock() {
    let bootstrapping = |post_bootstrap| {
        Scene::primary().with(|scene| {
            scene.memory.bootstrapping = true;
            scene.memory.post_bootstrap = post_bootstrap;
        })
    };
    for scene in
        [bootstrapping(None), bootstrapping(None).job(JobKind::PostBootstrap), bootstrapping(Some(false))]
    {
        scene.dark().play().fired("HA-403").starts_nothing().does_not(&Action::CancelJob);
    }
    bootstrapping(Some(true)).dark().play().fired("HA-402").starts(&OFFLINE);
}

#[test]
fn ha_404_nothing_runs() {
    for scene in [
        Scene::stopped(),
        Scene::primary().down(MemberState::Crashed, ControlState::InProduction),
        Scene::primary().down(MemberState::Crashed, ControlState::Unknown).job(JobKind::CrashRecovery),
        Scene::stopped().job(JobKind::Restart),
    ] {
        let played = scene.dark().play();
        played.fired("HA-404").starts_nothing().does_not(&Action::CancelJob).line("DCS is not accessible");
    }
}

#[test]
fn ha_018_what_ran_before_the_silence_leaves_nothing_but_positions_and_results() {
    let played = Scene::primary()
        .down(MemberState::Running, ControlState::InProduction)
        .ended(JobKind::Restart, JobEnd::Failed("no".into()))
        .with(|scene| scene.renew = no_answer())
        .play();
    played.fired("HA-404").does_not(&Action::SetState(MemberState::Crashed));
    assert!(played.memory().recovering, "the result is heard once, so it must be kept");
    let late = Scene::unlocked()
        .with(|scene| {
            scene.acquire = no_answer();
            scene.obs.settings.primary_race_backoff = secs(1);
            scene.obs.settings.loop_wait = secs(1);
            scene.memory.last_lsn = Some(HERE);
            scene.memory.race_backoff_since = Some(at(900));
        })
        .play();
    late.fired("HA-403").wakes_in(secs(1));
    assert_eq!(late.memory().race_backoff_since, Some(at(900)));
}
