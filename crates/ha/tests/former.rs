//! The former leader's server, which its guardian has yet to end (DESIGN, "Failsafe, pause, race").

mod support;

use ptarmigan_ha::Action;
use ptarmigan_types::Monotonic;
use serde_json::json;
use support::*;

/// The lock of `b`, whose guardian is armed, has vanished a second ago; its server still writes.
fn vanished() -> Scene {
    Scene::unlocked().with(|scene| {
        scene.memory.old_leader = Some(name("b"));
        scene.member("b").0.insert("guardian".into(), json!("armed"));
        scene.memory.old_members = scene.view().members.clone();
        scene.memory.unlocked_since = Some(Monotonic(NOW.0 - 1_000_000));
        scene.former_writes = true;
        scene.peers.retain(|peer| peer.name != name("b"));
    })
}

#[test]
fn nobody_races_while_a_server_under_a_guardian_still_writes() {
    let played = vanished().play();
    played.fired("GD-2").does_not(&Action::AcquireLock).wakes_in(std::time::Duration::from_millis(100));
    // A revoked lease takes the member key with it.
    let revoked = vanished().with(|scene| scene.members().retain(|member| member.name != name("b")));
    revoked.play().fired("GD-2").does_not(&Action::AcquireLock);
    for scene in [
        vanished().with(|scene| scene.former_writes = false),
        // Of one without a guardian nobody knows when it ends.
        vanished().with(|scene| {
            scene.member("b").0.remove("guardian");
            scene.memory.old_members = scene.view().members.clone();
        }),
        vanished().with(|scene| scene.memory.old_leader = None),
        vanished().with(|scene| scene.memory.old_leader = Some(name("a"))),
        // By now its guardian has ended it.
        vanished().with(|scene| scene.memory.unlocked_since = Some(Monotonic(NOW.0 - 30_000_000))),
    ] {
        scene.play().silent("GD-2").does(&Action::AcquireLock);
    }
    let named = vanished().with(|scene| scene.view().failover = Some(failover(None, Some("a"))));
    named.play().silent("GD-2").does(&Action::AcquireLock);
    // A switchover is from a leader that is alive. Found by the simulation.
    for candidate in [None, Some("a")] {
        let wish = |scene: &mut Scene| scene.view().failover = Some(failover(Some("b"), candidate));
        let switchover = vanished().with(wish);
        switchover.play().fired("GD-2").does_not(&Action::AcquireLock);
        let ended = switchover.with(|scene| scene.former_writes = false);
        ended.play().silent("GD-2").does(&Action::AcquireLock);
    }
}

#[test]
fn the_time_counts_from_when_the_lock_was_seen_to_be_gone() {
    let first = vanished().with(|scene| scene.memory.unlocked_since = None).play();
    assert_eq!(first.memory().unlocked_since, Some(NOW));
    assert_eq!(vanished().play().memory().unlocked_since, Some(Monotonic(NOW.0 - 1_000_000)));
    let led = Scene::standby().with(|scene| scene.memory.unlocked_since = Some(NOW)).play();
    assert_eq!(led.memory().unlocked_since, None);
}

/// The lock has vanished; nobody of the former leader is there.
fn receiving(me: bool, peer: bool) -> Scene {
    Scene::unlocked().with(|scene| {
        for member in ["b", "c"] {
            scene.member(member).0.insert("guardian".into(), json!("armed"));
        }
        scene.server().streaming = me;
        scene.peers.iter_mut().for_each(|answer| answer.streaming = peer);
    })
}

#[test]
fn positions_are_compared_once_nobody_receives_any_more() {
    let played = receiving(true, false).play();
    // HA-135 is what stops it.
    played.fired("RC-1").fired("HA-135").does_not(&Action::AcquireLock);
    played.wakes_in(std::time::Duration::from_millis(20));
    receiving(false, true).play().fired("RC-1").does_not(&Action::AcquireLock);
    receiving(false, false).play().silent("RC-1").does(&Action::AcquireLock);
    for change in [
        // Whoever does not stop within a second keeps nobody from racing.
        (|scene: &mut Scene| scene.memory.unlocked_since = Some(Monotonic(NOW.0 - 1_000_000)))
            as fn(&mut Scene),
        // It would take a restart.
        |scene| scene.obs.postgres.major_version = 12,
    ] {
        receiving(true, true).with(change).play().silent("RC-1").does(&Action::AcquireLock);
    }
    // Members of Patroni stop once they have lost.
    let mixed = receiving(false, true).with(|scene| {
        for member in ["b", "c"] {
            scene.member(member).0.remove("guardian");
        }
    });
    mixed.play().silent("RC-1").does(&Action::AcquireLock);
}

/// Won on facts of then, and asked again: a receiver that has begun since is no reason to give the lock up.
#[test]
fn a_lock_that_is_held_waits_for_no_receiver() {
    let late = receiving(false, false).with(|scene| {
        scene.acquire = held_late();
        scene.peers_later = Some(scene.peers.clone());
        scene.peers_later.iter_mut().flatten().for_each(|answer| answer.streaming = true);
    });
    let played = late.play();
    played.silent("RC-1").does(&Action::AcquireLock);
    assert!(!played.has(|action| matches!(action, Action::ReleaseLock(_))));
}
