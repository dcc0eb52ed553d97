//! `rto`: the leader keeps the timeouts of `/config` in step with it. And `guardian.mode: required`.

#![allow(clippy::unwrap_used, reason = "what fails in a helper is to fail the test")]

mod support;

use std::time::Duration;

use ptarmigan_ha::{
    Action,
    observation::GuardianView,
    rto::{self, Limit},
};
use ptarmigan_types::{DynamicConfig, MemberName};
use serde_json::{Map, Value, json};
use support::*;

const ARMED: GuardianView = GuardianView { armed: true, required: false };

/// The leader of three, all of them guarded, with that in `/config` besides `rto: 5s`.
fn leader(config: &Value) -> Scene {
    Scene::primary().with(|scene| {
        let mut value = config.as_object().unwrap().clone();
        value.insert("rto".into(), json!("5s"));
        scene.view().config = Some(DynamicConfig { value, revision: 8 });
        scene.obs.settings.recovery = rto::Settings { rto: Some(secs(5)), ttl_min: secs(3) };
        scene.obs.settings.failsafe_mode = true;
        scene.obs.guardian = ARMED;
        for member in ["b", "c"] {
            scene.member(member).0.insert("guardian".into(), json!("armed"));
        }
        // All has been well for long enough.
        let since = ptarmigan_types::Monotonic(NOW.0 - 20_000_000);
        scene.memory.recovery = rto::Memory { shorter_since: Some(since), kept: true, limits: Vec::new() };
    })
}

fn written(played: &Played) -> Option<Map<String, Value>> {
    played.actions.iter().find_map(|action| match action {
        Action::ChangeConfig { value, revision: 8 } => Some(serde_json::from_str(value).unwrap()),
        _ => None,
    })
}

fn ttl(played: &Played) -> Option<u64> {
    written(played).map(|config| config["ttl"].as_u64().unwrap())
}

#[test]
fn timeouts_are_written_and_nothing_else_is_changed() {
    let played =
        leader(&json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "pause": false, "x": [1]})).play();
    let config = written(played.fired("RTO-1")).unwrap();
    let expected =
        json!({"ttl": 4, "loop_wait": 1, "retry_timeout": 1, "pause": false, "x": [1], "rto": "5s"});
    assert_eq!(Value::Object(config), expected);
    // Once it is so, it stays so.
    let same = json!({"ttl": 4, "loop_wait": 1, "retry_timeout": 1});
    assert_eq!(written(leader(&same).play().silent("RTO-1")), None);
}

#[test]
fn what_is_longer_is_written_at_once_and_what_is_shorter_after_a_while() {
    let fresh = |scene: Scene| scene.with(|scene| scene.memory.recovery = rto::Memory::default());
    let long = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10});
    let played = fresh(leader(&long)).play();
    assert_eq!(ttl(&played), None);
    assert_eq!(played.memory().recovery.shorter_since, Some(NOW));
    let short = json!({"ttl": 4, "loop_wait": 1, "retry_timeout": 1});
    let unarmed = |scene: Scene| scene.with(|scene| drop(scene.member("b").0.remove("guardian")));
    let played = fresh(unarmed(leader(&short))).play();
    assert_eq!(ttl(played.fired("RTO-2")), Some(20), "a Patroni has appeared");
    let expected = vec![Limit::Unguarded(vec![MemberName::from("b")])];
    assert_eq!(played.memory().recovery.limits, expected);
    // Whoever is not well begins to wait anew.
    let played = unarmed(leader(&json!({"ttl": 20, "loop_wait": 6, "retry_timeout": 7}))).play();
    assert_eq!((ttl(&played), played.memory().recovery.shorter_since), (None, None));
}

#[test]
fn only_the_leader_writes_and_not_in_pause_nor_without_the_setting() {
    let long = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10});
    assert_eq!(ttl(&leader(&long).play()), Some(4));
    for change in [
        (|scene: &mut Scene| scene.obs.settings.pause = true) as fn(&mut Scene),
        |scene| scene.obs.settings.recovery.rto = None,
        |scene| scene.renew = refused(),
        |scene| scene.view().config.as_mut().unwrap().revision = 0,
    ] {
        let played = leader(&long).with(change).play();
        assert_eq!(ttl(&played), None);
    }
    let standby = Scene::standby().with(|scene| {
        scene.obs.settings.recovery = rto::Settings { rto: Some(secs(5)), ttl_min: secs(3) };
    });
    assert_eq!(ttl(&standby.play()), None);
}

#[test]
fn my_own_guardian_counts_as_it_is_now() {
    let short = json!({"ttl": 4, "loop_wait": 1, "retry_timeout": 1});
    let played = leader(&short).with(|scene| scene.obs.guardian.armed = false).play();
    assert_eq!(ttl(&played), Some(20));
    let played = leader(&short).with(|scene| scene.obs.dcs_latency = Some(Duration::from_millis(600))).play();
    assert_eq!(ttl(&played), Some(7));
}

#[test]
fn whoever_needs_a_guardian_and_has_none_does_not_race() {
    let guarded = |guardian| Scene::unlocked().with(|scene| scene.obs.guardian = guardian).play();
    let missing = GuardianView { armed: false, required: true };
    guarded(missing).fired("GD-1").does_not(&Action::AcquireLock).starts_nothing();
    guarded(GuardianView { armed: true, ..missing }).silent("GD-1").does(&Action::AcquireLock);
    guarded(GuardianView::default()).silent("GD-1").does(&Action::AcquireLock);
}
