//! Following (contract B.14).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job, Outcome, RewindState, Upstream,
    action::{Divergence, RecoveryDifference},
    node_to_follow,
    observation::Settings,
};
use ptarmigan_types::Role;
use serde_json::json;
use support::*;

fn with_tags(own: &serde_json::Value) -> Settings {
    Settings { tags: tags(own), ..settings() }
}

fn followed(holder: Option<&str>, own: &serde_json::Value) -> Option<Upstream> {
    let mut scene = Scene::standby();
    scene.view().leader = holder.map(leader);
    node_to_follow(&name("a"), &with_tags(own), scene.view())
}

#[test]
fn nf_1_nostream_follows_nobody() {
    for holder in [Some("a"), Some("b"), None] {
        for own in [json!({"nostream": true}), json!({"nostream": "on", "replicatefrom": "c"})] {
            assert_eq!(followed(holder, &own), None, "{holder:?} {own}");
        }
    }
    assert_eq!(followed(Some("b"), &json!({"nostream": "no"})), Some(member("b")));
}

#[test]
fn nf_3_replicatefrom_names_a_member_else_the_leader() {
    for (holder, wanted, expected) in [
        (Some("b"), "c", Some("c")),
        (Some("b"), "z", Some("b")),
        (Some("b"), "a", Some("b")),
        (Some("a"), "c", Some("c")),
        (None, "c", Some("c")),
        (None, "z", None),
    ] {
        let found = followed(holder, &json!({"replicatefrom": wanted}));
        assert_eq!(found, expected.map(member), "{holder:?} {wanted}");
    }
}

#[test]
fn nf_3_a_circle_takes_the_leader() {
    let circle = |tags_of_c: serde_json::Value, tags_of_b: serde_json::Value, holder: Option<&str>| {
        let mut scene = Scene::standby();
        scene.member("c").0.insert("tags".into(), tags_of_c);
        scene.member("b").0.insert("tags".into(), tags_of_b);
        scene.members().push(member_of("d", &json!({})));
        scene.view().leader = holder.map(leader);
        node_to_follow(&name("a"), &with_tags(&json!({"replicatefrom": "c"})), scene.view())
    };
    let from = |member: &str| json!({"replicatefrom": member});
    // c replicates from me: neither of us would ever get anything.
    assert_eq!(circle(from("a"), json!({}), Some("d")), Some(member("d")));
    assert_eq!(circle(from("b"), from("a"), Some("d")), Some(member("d")));
    assert_eq!(circle(from("a"), json!({}), None), None);
    // A chain that ends somewhere is one, and the leader's own tag does not count: it follows nobody.
    assert_eq!(circle(from("b"), json!({}), Some("d")), Some(member("c")));
    assert_eq!(circle(from("b"), from("a"), Some("b")), Some(member("c")));
    // A circle that I am not in is for others to break.
    assert_eq!(circle(from("b"), from("c"), Some("d")), Some(member("c")));
    assert_eq!(circle(from("c"), json!({}), Some("d")), Some(member("c")));
}

#[test]
fn nf_4_else_the_leader() {
    assert_eq!(followed(Some("b"), &json!({})), Some(member("b")));
    assert_eq!(followed(None, &json!({})), None);
}

#[test]
fn nf_5_nobody_follows_itself() {
    assert_eq!(followed(Some("a"), &json!({})), None);
    assert_eq!(followed(Some("a"), &json!({"replicatefrom": "z"})), None);
    let alone = node_to_follow(&name("b"), &with_tags(&json!({})), Scene::standby().view());
    assert_eq!(alone, None);
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
