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
}

#[test]
fn the_time_counts_from_when_the_lock_was_seen_to_be_gone() {
    let first = vanished().with(|scene| scene.memory.unlocked_since = None).play();
    assert_eq!(first.memory().unlocked_since, Some(NOW));
    assert_eq!(vanished().play().memory().unlocked_since, Some(Monotonic(NOW.0 - 1_000_000)));
    let led = Scene::standby().with(|scene| scene.memory.unlocked_since = Some(NOW)).play();
    assert_eq!(led.memory().unlocked_since, None);
}
