//! Bootstrap and replica creation (contract B.6, B.17.1).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job, Outcome, RewindState,
    action::When,
    callbacks::Event,
    memory::FailedJob,
    observation::{ControlState, DataDirectory, JobEnd, JobKind},
    sync::Mode,
};
use ptarmigan_types::{Initialize, Lsn, MemberState, Monotonic, Role, Status};
use serde_json::json;
use support::*;

fn empty() -> Scene {
    Scene::standby().down(MemberState::Stopped, ControlState::Unknown).with(|scene| {
        scene.pg().data_directory = DataDirectory::Empty;
        scene.pg().system_identifier = None;
        scene.pg().role = Role::Uninitialized;
    })
}

fn nothing_yet() -> Scene {
    empty().unled().with(|scene| {
        scene.view().initialize = None;
        scene.view().status = Status::default();
        for member in scene.members() {
            member.data.0.shift_remove("timeline");
        }
    })
}

fn claim() -> Action {
    Action::WriteInitialize { value: String::new(), when: When::Absent }
}

#[test]
fn bs_1_one_node_bootstraps() {
    let won = nothing_yet().play();
    won.fired("BS-1").starts(&Job::Bootstrap).does(&claim()).line("trying to bootstrap a new cluster");
    assert!(won.memory().bootstrapping);
    assert_eq!(won.memory().post_bootstrap, None);
    let lost = nothing_yet().with(|scene| scene.write = refused()).play();
    lost.fired("BS-1").starts_nothing().line("failed to acquire initialize lock");
    assert!(!lost.memory().bootstrapping);
    let unknown = nothing_yet().with(|scene| scene.write = no_answer()).play();
    unknown.fired("HA-404").starts_nothing();
    assert!(!unknown.memory().bootstrapping);
}

#[test]
fn bs_1_a_cluster_that_lost_its_key_is_not_begun_anew() {
    let traces: [Change; 4] = [
        |scene| scene.view().status.last_lsn = Lsn(1),
        |scene| scene.view().history = Some(history(&[])),
        |scene| drop(scene.member("c").0.insert("timeline".into(), json!(3))),
        |scene| drop(scene.member("b").0.insert("xlog_location".into(), json!(100))),
    ];
    for change in traces {
        let played = nothing_yet().with(change).play();
        played.fired("BS-1").fired("BS-4").starts_nothing().does_not(&claim());
    }
    let mine = nothing_yet().with(|scene| drop(scene.member("a").0.insert("timeline".into(), json!(3))));
    mine.play().starts(&Job::Bootstrap);
}

#[test]
fn bs_1_only_where_everything_allows_it() {
    let cases: [Change; 4] = [
        |scene| scene.obs.settings.tags = tags(&json!({"nofailover": true})),
        |scene| scene.obs.settings.can_bootstrap = false,
        |scene| scene.view().initialize = Some(Initialize { value: String::new(), revision: 2 }),
        |scene| {
            scene.view().initialize = Some(Initialize { value: SYSTEM_IDENTIFIER.into(), revision: 2 });
        },
    ];
    for change in cases {
        let played = nothing_yet().with(change).play();
        played.fired("BS-4").starts_nothing().does_not(&claim()).line("waiting for leader to bootstrap");
    }
}

#[test]
fn bs_2_clones_from_the_leader_or_a_member_that_offers_itself() {
    let played = empty().play();
    played.fired("BS-2").starts(&Job::Clone { source: Some(member("b")) });
    played.line("trying to bootstrap from leader 'b'");
    let offered = empty().with(|scene| {
        scene.member("c").0.insert("tags".into(), json!({"clonefrom": true}));
    });
    let played = offered.play();
    played.starts(&Job::Clone { source: Some(member("c")) }).line("trying to bootstrap from replica 'c'");
    for (field, value) in [("state", json!("stopped")), ("conn_url", json!(""))] {
        let unusable = offered.clone().with(|scene| {
            scene.member("c").0.insert(field.into(), value);
        });
        if field == "state" {
            unusable.play().starts(&Job::Clone { source: Some(member("b")) });
        }
    }
    let silent = empty().with(|scene| {
        scene.member("b").0.shift_remove("conn_url");
    });
    silent.play().fired("BS-4").starts_nothing();
}

/// Found by the simulation: the leader was gone, its synchronous standby was reinitialised from an asynchronous one, and
/// could have taken over without what it had confirmed.
#[test]
fn bs_2_whoever_sync_names_copies_the_leader_alone() {
    let named = empty().with(|scene| {
        scene.member("c").0.insert("tags".into(), json!({"clonefrom": true}));
        scene.obs.settings.synchronous.mode = Mode::Priority;
        scene.view().sync = sync("b", &["a"], 0);
    });
    named.play().fired("BS-2").starts(&Job::Clone { source: Some(member("b")) });
    let away = named.with(|scene| {
        scene.view().leader = None;
        scene.obs.settings.can_clone_without_leader = true;
    });
    let line = "waiting for leader to bootstrap: named in /sync, so only the leader is copied";
    away.play().fired("BS-4").starts_nothing().line(line);
    let other = away.clone().with(|scene| scene.view().sync = sync("b", &["c"], 0));
    other.play().fired("BS-3").starts(&Job::Clone { source: None });
    let off = away.with(|scene| scene.obs.settings.synchronous.mode = Mode::Off);
    off.play().fired("BS-3").starts(&Job::Clone { source: None });
}

#[test]
fn bs_2_several_offers_are_tried_in_turn() {
    let offered = empty().with(|scene| {
        scene.members().push(member_of("d", &json!({})));
        for member in ["c", "d"] {
            scene.member(member).0.insert("tags".into(), json!({"clonefrom": true}));
        }
    });
    let source = |minutes: u64| {
        let scene = offered.clone().with(|scene| scene.obs.now = at(minutes * 60));
        scene.play().jobs().first().map(|job| (*job).clone())
    };
    assert_eq!(source(1), source(1));
    assert_ne!(source(1), source(2), "not for ever one that cannot be copied");
}

#[test]
fn bs_2_a_clone_that_failed_waits_a_moment() {
    let failed =
        |at| empty().with(|scene| scene.memory.failed = Some(FailedJob { kind: JobKind::Clone, at })).play();
    failed(NOW).starts_nothing().wakes_in(secs(1)).line("bootstrap from leader failed, trying again");
    failed(Monotonic(NOW.0 - 1_000_000)).starts(&Job::Clone { source: Some(member("b")) });
    let heard = empty().ended(JobKind::Clone, JobEnd::Failed("no".into())).play();
    heard.starts_nothing().wakes_in(secs(1));
}

#[test]
fn bs_3_without_a_leader_by_a_method_that_needs_none() {
    let able = |scene: &mut Scene| {
        scene.obs.settings.can_clone_without_leader = true;
        scene.obs.settings.can_bootstrap = false;
    };
    let played = nothing_yet().with(able).play();
    played.fired("BS-3").starts(&Job::Clone { source: None }).line("trying to bootstrap (without leader)");
    let initializing = nothing_yet().with(able).with(|scene| {
        scene.view().initialize = Some(Initialize { value: String::new(), revision: 2 });
    });
    initializing.play().fired("BS-4").starts_nothing();
}

#[test]
fn bs_4_whoever_can_do_nothing_waits() {
    let cases: [Change; 3] = [
        |scene| scene.view().initialize = Some(Initialize { value: SYSTEM_IDENTIFIER.into(), revision: 2 }),
        |scene| scene.view().initialize = Some(Initialize { value: String::new(), revision: 2 }),
        |scene| {
            scene.view().leader = Some(leader("b"));
            scene.member("b").0.shift_remove("conn_url");
        },
    ];
    for change in cases {
        let played = nothing_yet().with(change).play();
        played.fired("BS-4").starts_nothing().does_not(&claim()).line("waiting for leader to bootstrap");
        played.wakes_in(secs(10));
    }
}

/// The bootstrapping node, its server up.
fn bootstrapping(post_bootstrap: Option<bool>) -> Scene {
    Scene::standby().writable().unled().with(|scene| {
        scene.memory.joined = false;
        scene.memory.bootstrapping = true;
        scene.memory.post_bootstrap = post_bootstrap;
        scene.view().initialize = Some(Initialize { value: String::new(), revision: 2 });
        scene.view().config = None;
    })
}

#[test]
fn ha_060_a_failed_bootstrap_is_cleared_away() {
    let stopped = |scene: &mut Scene| scene.pg().running = false;
    for scene in [
        bootstrapping(None).with(stopped),
        bootstrapping(Some(true)).with(stopped),
        bootstrapping(Some(false)),
        bootstrapping(None).ended(JobKind::PostBootstrap, JobEnd::Failed("script".into())),
        bootstrapping(None).with(stopped).ended(JobKind::Bootstrap, JobEnd::Failed("initdb".into())),
        bootstrapping(Some(true)).with(|scene| scene.pg().system_identifier = None),
    ] {
        let played = scene.play();
        played.fired("HA-060").line("failed to bootstrap cluster").starts_nothing();
        played.before(&Action::DeleteInitialize, &Action::AbandonBootstrap);
        let exit = Action::Exit { stop_postgres: true, reason: "failed to bootstrap cluster".into() };
        assert_eq!(played.actions.last(), Some(&exit));
    }
}

#[test]
fn ha_020_a_bootstrap_that_failed_ends_the_process() {
    let played = bootstrapping(None)
        .with(|scene| scene.pg().running = false)
        .ended(JobKind::Bootstrap, JobEnd::Failed("exit status: 1".into()))
        .play();
    let exit = Action::Exit { stop_postgres: true, reason: "failed to bootstrap cluster".into() };
    played.before(&Action::AbandonBootstrap, &exit).before(&Action::DeleteInitialize, &exit);
    assert_eq!(played.actions.last(), Some(&exit), "nothing comes after the end");
}

#[test]
fn ha_061_waits_for_the_end_of_recovery() {
    let played = bootstrapping(None).with(|scene| scene.server().in_recovery = true).play();
    played.fired("HA-061").starts_nothing().line("waiting for end of recovery after bootstrap");
    assert!(played.memory().bootstrapping);
    played.wakes_in(secs(1));
}

/// A restored backup may recover for hours, and answers nobody where `hot_standby` is off.
#[test]
fn ha_061_a_recovery_that_takes_long_has_no_limit() {
    let mut scene = bootstrapping(None).with(|scene| {
        scene.obs.settings.primary_start_timeout = secs(0);
        scene.pg().state = MemberState::StartingAfterCustomBootstrap;
        scene.pg().role = Role::Uninitialized;
        scene.pg().server = None;
        scene.pg().in_state_for = secs(100_000);
    });
    let played = scene.play();
    played.fired("HA-045").fired("HA-061").starts_nothing().wakes_in(secs(1));
    played.does_not(&Action::AbandonBootstrap).line("waiting for end of recovery after bootstrap");
    scene.memory = played.decision.memory;
    // Nothing was taken from the store that could be lost meanwhile.
    let dark = scene.clone().dark().play();
    dark.starts_nothing().does_not(&Action::AbandonBootstrap);
    assert!(dark.memory().bootstrapping);
    // It ended without having reached its target.
    scene.clone().with(|scene| scene.pg().running = false).play().fired("HA-060");
    let done = scene.with(|scene| {
        scene.pg().state = MemberState::Running;
        scene.pg().server = Some(facts(false));
    });
    done.play().fired("HA-062").starts(&Job::PostBootstrap).does(&Action::SetRole(Role::Primary));
}

#[test]
fn ha_062_then_come_the_users_and_the_script() {
    let played = bootstrapping(None).play();
    played.fired("HA-062").starts(&Job::PostBootstrap).does(&Action::SetRole(Role::Primary));
}

#[test]
fn ha_064_the_new_cluster_is_written_then_the_lock_is_taken() {
    let played = bootstrapping(None).ended(JobKind::PostBootstrap, JobEnd::Done).play();
    let identity = Action::WriteInitialize { value: SYSTEM_IDENTIFIER.into(), when: When::Revision(2) };
    played.fired("HA-064").line("initialized a new cluster").wakes_in(secs(0));
    played.before(&identity, &Action::WriteConfig).before(&Action::WriteConfig, &Action::AcquireLock);
    played.does(&Action::EnsureCheckpoint).does(&Action::SetRole(Role::Primary)).starts_nothing();
    let on_start = Action::RunCallback(Event::Start);
    played.before(&Action::AcquireLock, &on_start).before(&Action::SetRole(Role::Primary), &on_start);
    let memory = played.memory();
    assert!(!memory.bootstrapping && memory.joined && memory.post_bootstrap.is_none());
    assert_eq!(memory.rewind, RewindState::Initial);
}

#[test]
fn ha_064_a_store_that_refuses_is_asked_again() {
    let played = bootstrapping(Some(true)).with(|scene| scene.write = Outcome::Failed("full".into())).play();
    played.wakes_in(secs(1)).does_not(&Action::AcquireLock).starts_nothing();
    assert!(played.memory().bootstrapping);
}

#[test]
fn ha_064_nothing_is_put_over_what_somebody_else_wrote() {
    let other_cluster = bootstrapping(Some(true)).with(|scene| {
        scene.view().initialize = Some(Initialize { value: OTHER_SYSTEM_IDENTIFIER.into(), revision: 5 });
    });
    for scene in [other_cluster, bootstrapping(Some(true)).led_by("b")] {
        let played = scene.play();
        played.fired("HA-060").does(&Action::AbandonBootstrap).does_not(&Action::DeleteInitialize);
        played.does_not(&Action::WriteConfig).does_not(&Action::AcquireLock);
        assert!(!played.has(|action| matches!(action, Action::WriteInitialize { .. })));
    }
    let lost = bootstrapping(Some(true)).with(|scene| scene.acquire = refused()).play();
    lost.line("lost the leader lock after bootstrap").does_not(&Action::SetRole(Role::Primary));
    lost.does_not(&Action::RunCallback(Event::Start));
    assert!(!lost.memory().bootstrapping, "from now on it steps down like any primary without the lock");
}

#[test]
fn ha_064_a_lost_answer_about_the_lock_is_made_up_for() {
    let unknown = bootstrapping(Some(true)).with(|scene| scene.acquire = no_answer());
    unknown.play().fired("HA-402").starts(&Job::Demote(DemoteMode::Offline));
    // The key turns out to be there, and the server came up read-only meanwhile.
    let mut scene = bootstrapping(Some(true)).led_by("a").with(|scene| {
        scene.view().initialize = Some(Initialize { value: SYSTEM_IDENTIFIER.into(), revision: 5 });
        scene.pg().role = Role::Replica;
        scene.server().in_recovery = true;
    });
    let played = scene.play();
    played.does_not(&Action::AcquireLock).does_not(&Action::SetRole(Role::Primary));
    played.does_not(&Action::EnsureCheckpoint).line("initialized a new cluster");
    scene.memory = played.decision.memory;
    scene.play().starts(&Job::Promote { timeline: Some(1) });
}

#[test]
fn ha_064_a_bootstrapper_that_holds_the_lock_steps_down_when_the_dcs_is_lost() {
    let mut scene = bootstrapping(Some(true));
    scene.memory = scene.play().decision.memory;
    scene.dark().play().fired("HA-402").starts(&Job::Demote(DemoteMode::Offline));
}
