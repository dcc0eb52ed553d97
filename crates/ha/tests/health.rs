//! A PostgreSQL that runs and does not work; and the time that has to lie between two changes of leader.

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job,
    health::{Ailment, Fault, Settings},
    observation::{JobKind, JobView},
};
use ptarmigan_types::{History, Monotonic, history::HistoryEntry};
use support::*;

fn ailing(scene: Scene, for_s: u64, gives_way_after_s: Option<u64>) -> Scene {
    scene.with(|scene| {
        let since = Monotonic(NOW.0 - for_s * 1_000_000);
        scene.obs.ailment = Some(Ailment { fault: Fault::NoAnswer, reason: "silence".into(), since });
        scene.obs.settings.health = Settings { gives_way_after: gives_way_after_s.map(secs) };
    })
}

#[test]
fn it_is_reported_and_nothing_is_done_about_it_by_default() {
    for scene in [Scene::primary(), Scene::standby()] {
        let played = ailing(scene, 600, None).play();
        assert_eq!(played.facts("FD-1"), "it answers no query for 600 s: silence");
        played.silent("FD-2").starts_nothing();
    }
    Scene::primary().play().silent("FD-1");
}

#[test]
fn a_leader_gives_way_after_its_time_where_another_one_can_take_over() {
    let played = ailing(Scene::primary(), 29, Some(30)).play();
    played.fired("FD-1").silent("FD-2").starts_nothing();
    let played = ailing(Scene::primary(), 30, Some(30)).play();
    played.fired("FD-2").starts(&Job::Demote(DemoteMode::Immediate));
    played.line("stopped PostgreSQL to fail over: it answers no query");
    let alone = ailing(Scene::primary(), 600, Some(30)).with(|scene| scene.peers.clear()).play();
    alone.fired("FD-3").silent("FD-2").starts_nothing();
    // Nor to whoever has the same fault.
    let shared = ailing(Scene::primary(), 600, Some(30));
    let shared = shared.with(|scene| scene.peers.iter_mut().for_each(|peer| peer.ailing = true));
    shared.play().fired("FD-3").silent("FD-2").starts_nothing();
    for scene in [
        ailing(Scene::standby(), 600, Some(30)),
        ailing(Scene::primary(), 600, Some(30)).with(|scene| scene.obs.settings.pause = true),
    ] {
        scene.play().fired("FD-1").silent("FD-2").starts_nothing();
    }
}

/// Storage that hangs: what was killed waits in the kernel, and the others need not.
#[test]
fn a_lock_is_left_to_run_out_where_what_was_killed_does_not_end() {
    let demoting = |mode, running_for_s| {
        Scene::primary().with(|scene| {
            scene.obs.job = Some(JobView {
                kind: JobKind::Demote(mode),
                running_for: secs(running_for_s),
                cancellable: false,
            });
        })
    };
    let played = demoting(DemoteMode::Immediate, 24).play();
    played.silent("FD-4").fired("UL-2").starts_nothing();
    let played = demoting(DemoteMode::Immediate, 25).play();
    played.fired("FD-4").silent("UL-2").does(&Action::ForgetLease).starts_nothing();
    played.line("demote in progress");
    // A shutdown in peace may take its time.
    demoting(DemoteMode::Graceful, 600).play().silent("FD-4").fired("UL-2");
}

/// The leader changed ten minutes ago, to `new_leader`.
fn changed(new_leader: &str, least_s: u64) -> Scene {
    Scene::unlocked().with(|scene| {
        let began = wall() - jiff::SignedDuration::from_mins(10);
        let entry = HistoryEntry {
            timeline: 1,
            lsn: HERE,
            reason: "no recovery target specified".into(),
            timestamp: Some(began.to_string()),
            new_leader: Some(new_leader.into()),
        };
        scene.view().history = Some(History { entries: Some(vec![entry]), ..History::default() });
        scene.obs.settings.failover_interval_min = secs(least_s);
    })
}

#[test]
fn nobody_takes_over_too_soon_but_whoever_led_last() {
    changed("b", 601).play().fired("FO-1").does_not(&Action::AcquireLock);
    for scene in [
        changed("b", 0),
        changed("b", 600),
        changed("a", 601),
        changed("b", 601).with(|scene| scene.view().history = None),
    ] {
        scene.play().silent("FO-1").does(&Action::AcquireLock);
    }
    // The clock was set back since.
    let ahead = changed("b", 601).with(|scene| scene.obs.wall -= jiff::SignedDuration::from_hours(1));
    ahead.play().silent("FO-1").does(&Action::AcquireLock);
}
