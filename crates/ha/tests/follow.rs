//! Following (contract B.14).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job, Outcome, RewindState,
    action::{Divergence, RecoveryDifference},
    node_to_follow,
};
use ptarmigan_types::{Role, Tags};
use serde_json::json;
use support::*;

#[test]
fn nf_1_to_nf_5_whom_to_follow() {
    for (holder, own, expected) in [
        (Some("b"), json!({}), Some("b")),
        (Some("b"), json!({"nostream": true}), None),
        (Some("b"), json!({"replicatefrom": "c"}), Some("c")),
        (Some("b"), json!({"replicatefrom": "z"}), Some("b")),
        (Some("b"), json!({"replicatefrom": "a"}), Some("b")),
        (Some("a"), json!({}), None),
        (Some("a"), json!({"replicatefrom": "c"}), Some("c")),
        (None, json!({}), None),
        (None, json!({"replicatefrom": "c"}), Some("c")),
    ] {
        let mut scene = Scene::standby();
        scene.view().leader = holder.map(leader);
        let found = node_to_follow(&name("a"), &tags(&own), scene.view());
        assert_eq!(found, expected.map(member), "{holder:?} {own}");
    }
    assert_eq!(node_to_follow(&name("b"), &Tags::default(), Scene::standby().view()), None);
}

#[test]
fn ha_282_a_server_that_may_write_is_stopped() {
    let told = Scene::standby().with(|scene| scene.pg().role = Role::Promoted);
    let silent = Scene::primary().led_by("b").with(|scene| scene.pg().server = None);
    for scene in [Scene::primary().led_by("b"), told, silent] {
        let played = scene.play();
        played.fired("HA-282").starts(&Job::Demote(DemoteMode::ImmediateNoLock)).does(&Action::ForgetLease);
        assert!(!played.has(|action| matches!(action, Action::ReleaseLock(_))));
    }
}

#[test]
fn ha_285_rewind_comes_before_anything_else() {
    let played = Scene::standby()
        .with(|scene| {
            scene.memory.rewind = RewindState::Need;
            scene.difference = RecoveryDifference::Restart;
        })
        .play();
    played.starts(&Job::Rewind { leader: member("b"), checkpoint_first: false });
    assert!(!played.has(|action| matches!(action, Action::CompareRecovery { .. })));
}

#[test]
fn ha_286_paused_replay_is_resumed() {
    for (version, paused, resumes) in [(14, true, true), (13, true, false), (15, false, false)] {
        let played = Scene::standby()
            .with(|scene| {
                scene.pg().major_version = version;
                scene.server().replay_paused = paused;
            })
            .play();
        assert_eq!(played.did(&Action::ResumeReplay), resumes);
    }
}

#[test]
fn ha_290_a_restart_to_follow_somebody_else() {
    let played = Scene::standby().with(|scene| scene.difference = RecoveryDifference::Restart).play();
    let job = Job::Follow { upstream: Some(member("b")), role: Role::Replica, timeout: None };
    played.fired("HA-290").fired("RW-2").starts(&job);
    assert_eq!(played.memory().rewind, RewindState::Check);
    played.line("no action. I am (a), a secondary, and following a leader (b)");
}

#[test]
fn ha_291_a_reload_is_enough() {
    let played = Scene::unlocked()
        .with(|scene| {
            scene.difference = RecoveryDifference::Reload;
            scene.peers[0].in_recovery = false;
            scene.pg().role = Role::Demoted;
        })
        .play();
    played.fired("HA-291").fired("RW-2").starts_nothing().wakes_in(secs(1));
    played.does(&Action::ReloadRecovery { upstream: None }).does(&Action::SetRole(Role::Replica));
    assert_eq!(played.facts("HA-291"), "nobody");
}

#[test]
fn ha_293_a_leader_on_a_newer_timeline() {
    let newer = |change: Change| {
        let scene = Scene::standby().with(|scene| {
            scene.member("b").0.insert("timeline".into(), json!(2));
        });
        scene.with(change).play()
    };
    let check = Action::CheckDivergence { upstream: member("b") };
    let same = newer(|_| {});
    same.fired("HA-293").does(&check).starts_nothing();
    assert_eq!(same.memory().rewind, RewindState::NotNeed);
    newer(|scene| scene.divergence = Divergence::Diverged)
        .fired("HA-293")
        .starts(&Job::Rewind { leader: member("b"), checkpoint_first: false });
    let unknown = newer(|scene| {
        scene.memory.rewind = RewindState::Check;
        scene.divergence = Divergence::Unknown;
    });
    assert_eq!(unknown.actions.iter().filter(|action| **action == check).count(), 1);
    for (mine, leaders) in
        [(Some(2), json!(2)), (Some(3), json!(2)), (None, json!(2)), (Some(1), json!(null))]
    {
        let played = Scene::standby()
            .with(|scene| {
                scene.server().timeline = mine;
                scene.member("b").0.insert("timeline".into(), leaders);
            })
            .play();
        played.silent("HA-293").fired("HA-294");
    }
}

#[test]
fn ha_294_nothing_to_do() {
    let played = Scene::standby().play();
    played.fired("HA-294").starts_nothing().wakes_in(secs(10));
    assert!(!played.has(|action| matches!(action, Action::SetRole(_))));
    Scene::standby()
        .with(|scene| scene.pg().role = Role::Demoted)
        .play()
        .does(&Action::SetRole(Role::Replica));
    // A comparison that fails is no difference.
    let scene = Scene::standby();
    let (decision, actions) = drive(&scene.memory, &scene.obs, |action| match action {
        Action::CompareRecovery { .. } => Outcome::Failed("no conn_url".into()),
        _ => Outcome::Done,
    });
    assert!(decision.rules().contains(&"HA-294"), "{actions:?}");
}
