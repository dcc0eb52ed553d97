//! Leadership under a kernel watchdog (contract D.6).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job, Outcome,
    observation::{ControlState, DataDirectory, WatchdogView},
};
use ptarmigan_types::MemberState;
use support::*;

const WANTED: WatchdogView = WatchdogView { running: false, wanted: true, healthy: true };
const RUNNING: WatchdogView = WatchdogView { running: true, wanted: true, healthy: true };
const UNHEALTHY: WatchdogView = WatchdogView { running: false, wanted: true, healthy: false };

fn guarded(scene: Scene, watchdog: WatchdogView) -> Scene {
    scene.with(|scene| scene.obs.watchdog = watchdog)
}

fn impossible(scene: Scene) -> Scene {
    guarded(scene, WANTED).with(|scene| scene.watchdog = Outcome::Failed("no such device".into()))
}

#[test]
fn ha_250_a_primary_without_its_watchdog_steps_down() {
    let leads = guarded(Scene::primary(), WANTED).play();
    leads.does(&Action::ActivateWatchdog).fired("HA-253").silent("HA-250").starts_nothing();
    guarded(Scene::primary(), RUNNING).play().does_not(&Action::ActivateWatchdog).fired("HA-253");
    Scene::primary().play().does_not(&Action::ActivateWatchdog);
    let played = impossible(Scene::primary()).play();
    played.fired("HA-250").starts(&Job::Demote(DemoteMode::Immediate));
    played.line("demoting self because watchdog could not be activated");
}

#[test]
fn ha_251_a_standby_does_not_promote_without_its_watchdog() {
    let promotes = guarded(Scene::standby().led_by("a"), WANTED).play();
    promotes.before(&Action::ActivateWatchdog, &Action::StartJob(Job::Promote { timeline: Some(1) }));
    for scene in [Scene::standby().led_by("a"), Scene::unlocked()] {
        let played = impossible(scene).play();
        played.fired("HA-251").does(&Action::ReleaseLock(leader("a"))).starts_nothing();
        played.line("Not promoting self because watchdog could not be activated");
    }
}

#[test]
fn ha_211_whoever_needs_a_watchdog_and_has_none_does_not_race() {
    let played = guarded(Scene::unlocked(), UNHEALTHY).play();
    played.fired("HA-211").does_not(&Action::AcquireLock).starts_nothing();
    guarded(Scene::unlocked(), WANTED).play().silent("HA-211").does(&Action::AcquireLock);
}

#[test]
fn ha_063_no_new_cluster_without_its_watchdog() {
    let bootstrapped = || {
        guarded(Scene::primary().unled(), WANTED).with(|scene| {
            scene.memory.bootstrapping = true;
            scene.memory.post_bootstrap = Some(true);
            scene.view().initialize = None;
        })
    };
    bootstrapped().play().fired("HA-064").does(&Action::ActivateWatchdog).does(&Action::AcquireLock);
    let played = impossible(bootstrapped()).play();
    played.fired("HA-063").fired("HA-060").does(&Action::AbandonBootstrap);
    played.does_not(&Action::AcquireLock);
}

#[test]
fn ha_104_the_watchdog_is_off_where_nothing_runs() {
    let crashed = |scene: Scene| scene.down(MemberState::Crashed, ControlState::InProduction);
    let played = guarded(crashed(Scene::primary()).unled(), RUNNING).play();
    played.fired("HA-104").does(&Action::DisableWatchdog);
    // The holder's own crashed primary comes back under it (HA-103).
    let in_place = guarded(crashed(Scene::primary()), RUNNING).play();
    in_place.fired("HA-103").silent("HA-104").does_not(&Action::DisableWatchdog);
    // Given up for another node (HA-100), or the start has failed (HA-070, HA-071), or the data are gone (HA-080).
    let fails_over = guarded(crashed(Scene::primary()), RUNNING)
        .with(|scene| scene.obs.settings.primary_start_timeout = secs(0));
    fails_over.play().fired("HA-100").does(&Action::DisableWatchdog);
    for holder in ["a", "b"] {
        let failed = guarded(crashed(Scene::primary()).led_by(holder), RUNNING)
            .with(|scene| scene.memory.recovering = true);
        failed.play().does(&Action::DisableWatchdog);
    }
    let empty =
        guarded(Scene::stopped(), RUNNING).with(|scene| scene.pg().data_directory = DataDirectory::Empty);
    empty.play().fired("HA-080").does(&Action::DisableWatchdog);
}
