//! A primary that runs on without its daemon (DESIGN, "Failsafe, pause, race").

mod support;

use ptarmigan_ha::Action;
use serde_json::json;
use support::*;

const RULE: &str = "unmanaged_primary";

/// `b` led, and its keys are gone; its WAL still arrives.
fn left_behind() -> Scene {
    Scene::unlocked().with(|scene| {
        scene.memory.old_leader = Some(name("b"));
        scene.memory.old_members = scene.view().members.clone();
        scene.members().retain(|member| member.name != name("b"));
        scene.peers.retain(|peer| peer.name != name("b"));
        scene.server().streaming = true;
        // Receivers are not waited for any more.
        scene.memory.unlocked_since = Some(ptarmigan_types::Monotonic(NOW.0 - 1_000_000));
    })
}

#[test]
fn by_default_a_replica_takes_over_and_the_log_says_what_still_runs() {
    let played = left_behind().play();
    played.fired("HA-131").does(&Action::AcquireLock);
    assert!(played.facts(RULE).starts_with("b still sends WAL"), "{}", played.facts(RULE));
    left_behind().with(|scene| scene.server().streaming = false).play().silent(RULE);
    let managed = Scene::unlocked().with(|scene| {
        scene.memory.old_leader = Some(name("b"));
        scene.memory.old_members = scene.view().members.clone();
    });
    managed.play().silent(RULE);
}

#[test]
fn with_wait_nobody_takes_over_while_wal_arrives() {
    let waits = left_behind().with(|scene| scene.obs.settings.unmanaged_primary_waits = true);
    let played = waits.play();
    played.fired(RULE).does_not(&Action::AcquireLock).starts_nothing().wakes_in(secs(1));
    assert!(played.facts(RULE).contains("ptctl failover"));
    // What arrives is what tells that it lives: nothing stops it.
    played.silent("HA-135").line("not racing: the former primary may still be writable");
    // Nor where it arrives at another replica.
    let elsewhere = waits.clone().with(|scene| {
        scene.server().streaming = false;
        scene.peers[0].streaming = true;
    });
    elsewhere.play().does_not(&Action::AcquireLock);
    // Who follows another standby receives WAL without a primary too.
    let cascade = elsewhere.clone().with(|scene| scene.peers[0].tags = tags(&json!({"replicatefrom": "a"})));
    cascade.play().does(&Action::AcquireLock);
    let gone = elsewhere.with(|scene| scene.peers[0].streaming = false);
    gone.play().does(&Action::AcquireLock);
    // Its daemon is there: it stops what may not write.
    let managed = waits.clone().with(|scene| scene.memory.old_leader = Some(name("c")));
    managed.play().silent(RULE).does(&Action::AcquireLock);
    // A daemon that has just started knows of no former leader.
    let fresh = waits.clone().with(|scene| scene.memory.old_leader = None);
    fresh.play().does_not(&Action::AcquireLock);
    // An operator has the last word.
    let named = waits.with(|scene| scene.view().failover = Some(failover(None, Some("a"))));
    named.play().fired("HA-220").does(&Action::AcquireLock);
}
