//! The skeleton of the cycle (contract B.0.3, B.1, B.3).

mod support;

use std::sync::Arc;

use ptarmigan_ha::{
    Action, DemoteMode, Job, RewindState,
    action::{ReloadAfter, When},
    memory::{FailedJob, Yield},
    observation::{ControlState, JobEnd, JobKind},
};
use ptarmigan_types::{DynamicConfig, Lsn, MemberState, Role};
use serde_json::Map;
use support::*;

#[test]
fn lv_1_the_members_of_the_last_view_with_a_leader_are_remembered() {
    let locked = Scene::standby().play();
    assert_eq!(locked.memory().old_leader, Some(name("b")));
    assert_eq!(locked.memory().old_members.len(), 3);
    let unlocked = Scene::unlocked()
        .with(|scene| {
            scene.memory.old_members = Arc::new(vec![member_of("z", &serde_json::json!({}))]);
            scene.memory.old_leader = Some(name("z"));
        })
        .play();
    assert_eq!(unlocked.memory().old_leader, Some(name("z")), "an unlocked view changes nothing");
    let first = Scene::unlocked().play();
    assert_eq!(
        (first.memory().old_members.len(), &first.memory().old_leader),
        (3, &None),
        "the first one ever"
    );
}

#[test]
fn lv_3_a_leader_ends_countdowns() {
    let played = Scene::standby()
        .with(|scene| {
            scene.memory.race_backoff_since = Some(at(990));
            scene.memory.yielding = Some(Yield { wish: 0, until: at(1001) });
        })
        .play();
    assert_eq!((played.memory().race_backoff_since, played.memory().yielding), (None, None));
}

#[test]
fn lv_4_without_the_lock_the_lease_is_forgotten() {
    Scene::standby().play().fired("LV-4").does(&Action::ForgetLease);
    let won = Scene::unlocked().play();
    won.before(&Action::ForgetLease, &Action::AcquireLock);
    let forgets = won.actions.iter().filter(|action| **action == Action::ForgetLease).count();
    assert_eq!(forgets, 1, "what was won is not forgotten again: {:?}", won.actions);
    Scene::primary().play().silent("LV-4").does_not(&Action::ForgetLease);
}

#[test]
fn lv_5_the_leaders_timeline_is_remembered() {
    assert_eq!(Scene::standby().play().memory().leader_timeline, Some(1));
    assert_eq!(Scene::unlocked().play().memory().leader_timeline, None);
}

#[test]
fn ul_2_renewal_is_the_first_action_and_wakes_at_a_third_of_the_ttl() {
    for scene in [
        Scene::primary(),
        Scene::primary().job(JobKind::Restart),
        Scene::primary().with(|scene| scene.members().clear()),
        Scene::primary().down(MemberState::Running, ControlState::InProduction),
    ] {
        let played = scene.with(|scene| scene.obs.settings.ttl = secs(6)).play();
        assert_eq!(played.actions.first(), Some(&Action::RenewLock(leader("a"))));
        assert!(played.decision.wake_at <= NOW + secs(2), "{:?}", played.decision.wake_at);
    }
}

#[test]
fn ha_001_positions_of_this_cycle_and_the_one_before() {
    let played = Scene::standby().with(|scene| scene.memory.last_lsn = Some(Lsn(5))).play();
    assert_eq!((played.memory().previous_lsn, played.memory().last_lsn), (Some(Lsn(5)), Some(HERE)));
    let silent = Scene::standby()
        .with(|scene| {
            scene.memory.last_lsn = Some(Lsn(5));
            scene.pg().server = None;
        })
        .play();
    assert_eq!((silent.memory().previous_lsn, silent.memory().last_lsn), (Some(Lsn(5)), Some(Lsn(5))));
    let dark = Scene::standby().dark().play();
    assert_eq!(dark.memory().last_lsn, Some(HERE), "also without the DCS");
}

#[test]
fn ha_003_a_view_that_cannot_be_read_goes_to_ha_400() {
    Scene::standby().dark().play().fired("HA-003").fired("HA-400").line(DARK_LINE);
}

#[test]
fn ha_006_a_missing_member_key_is_written_and_every_cycle_ends_with_it() {
    let played = Scene::standby().with(|scene| scene.members().clear()).play();
    played.fired("HA-006").does(&Action::WriteMember);
    for scene in [Scene::standby(), Scene::primary(), Scene::unlocked(), Scene::stopped()] {
        let played = scene.play();
        assert_eq!(played.decision.actions.last(), Some(&Action::WriteMember), "{:?}", played.actions);
    }
}

#[test]
fn ha_007_the_leader_writes_its_system_identifier_where_there_is_none() {
    let value = SYSTEM_IDENTIFIER.to_owned();
    let absent = Scene::primary().with(|scene| scene.view().initialize = None).play();
    absent.fired("HA-007").does(&Action::WriteInitialize { value: value.clone(), when: When::Absent });
    let empty = Scene::primary().with(|scene| scene.view().initialize.as_mut().unwrap().value.clear()).play();
    empty.fired("HA-007").does(&Action::WriteInitialize { value, when: When::Revision(2) });
    Scene::primary().play().silent("HA-007");
}

#[test]
fn ha_008_the_leader_restores_a_config_that_is_missing_empty_or_garbage() {
    let garbage = DynamicConfig { value: Map::new(), revision: 0 };
    let empty = DynamicConfig { value: Map::new(), revision: 5 };
    for config in [None, Some(garbage), Some(empty)] {
        let played = Scene::primary().with(|scene| scene.view().config = config).play();
        played.fired("HA-008").before(&Action::WriteConfig, &Action::ReloadView(ReloadAfter::Config));
        assert_eq!(played.actions.iter().filter(|action| **action == Action::WriteConfig).count(), 1);
    }
    Scene::standby().with(|scene| scene.view().config = None).play().does_not(&Action::WriteConfig);
}

#[test]
fn ha_007_ha_008_a_refused_leader_writes_neither() {
    let played = Scene::primary()
        .with(|scene| {
            scene.renew = refused();
            scene.view().config = None;
            scene.view().initialize = None;
        })
        .play();
    played.silent("HA-007").silent("HA-008").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
}

#[test]
fn ha_008_a_lock_that_is_gone_when_the_view_is_read_again_is_lost() {
    for next in [None, Some("b")] {
        let lost = |mut scene: Scene| {
            let mut view = scene.view().clone();
            view.leader = next.map(leader);
            scene.reloaded = Some(Ok(view));
            scene.view().config = None;
            scene.play()
        };
        lost(Scene::primary()).fired("HA-172").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
        lost(Scene::standby().led_by("a")).fired("HA-173").starts_nothing();
    }
}

#[test]
fn ha_018_no_answer_discards_the_rest_of_the_cycle() {
    let played = Scene::primary().with(|scene| scene.renew = no_answer()).play();
    played.fired("HA-402").does_not(&Action::WriteMember).starts(&Job::Demote(DemoteMode::Offline));
    let reload = Scene::primary()
        .with(|scene| {
            scene.view().config = None;
            scene.reloaded = Some(Err("timed out".into()));
        })
        .play();
    reload.fired("HA-402").does_not(&Action::WriteMember);
}

#[test]
fn ha_018_an_answer_after_the_end_of_its_lease_is_none() {
    let late = ptarmigan_ha::Outcome::Held { until: NOW, waited: std::time::Duration::ZERO };
    Scene::primary().with(|scene| scene.renew = late.clone()).play().fired("HA-402");
    Scene::unlocked().with(|scene| scene.acquire = late).play().fired("HA-403").starts_nothing();
}

#[test]
fn b_0_1_results_of_jobs_reach_memory_whatever_the_store_says() {
    for dark in [false, true] {
        let heard = |kind, end: JobEnd| {
            let scene = Scene::standby().with(|scene| scene.view().leader = None).ended(kind, end);
            // A job in flight keeps the rest of the cycle from using up what the result meant.
            let scene = scene.job(JobKind::Restart);
            let scene = if dark { scene.dark() } else { scene };
            scene.play().decision.memory
        };
        let failed = || JobEnd::Failed("no".into());
        assert_eq!(heard(JobKind::PostBootstrap, JobEnd::Done).post_bootstrap, Some(true));
        assert_eq!(heard(JobKind::PostBootstrap, failed()).post_bootstrap, Some(false));
        assert_eq!(heard(JobKind::Bootstrap, failed()).post_bootstrap, Some(false));
        assert_eq!(heard(JobKind::Bootstrap, JobEnd::Done).post_bootstrap, None);
        assert!(heard(JobKind::Restart, failed()).recovering);
        assert_eq!(
            heard(JobKind::Rewind, JobEnd::Done).rewind,
            RewindState::Check,
            "nobody leads to compare with"
        );
        assert_eq!(
            heard(JobKind::Rewind, JobEnd::RewindFailedForGood("x".into())).rewind,
            RewindState::Failed
        );
        assert_eq!(heard(JobKind::Rewind, failed()).rewind, RewindState::Initial, "to be tried again");
        assert_eq!(heard(JobKind::Promote, JobEnd::PrePromoteFailed).released_at, Some(NOW));
        assert_eq!(heard(JobKind::Clone, failed()).failed, Some(FailedJob { kind: JobKind::Clone, at: NOW }));
        assert_eq!(heard(JobKind::Clone, JobEnd::Cancelled).failed, None);
        for (mode, recovering) in [
            (DemoteMode::Offline, true),
            (DemoteMode::Graceful, false),
            (DemoteMode::Immediate, false),
            (DemoteMode::ImmediateNoLock, false),
        ] {
            let memory = heard(JobKind::Demote(mode), JobEnd::Done);
            assert_eq!((memory.rewind, memory.recovering), (RewindState::Check, recovering), "{mode:?}");
        }
    }
}

#[test]
fn rw_31_a_clone_and_a_promotion_answer_the_rewind_question() {
    for kind in [JobKind::Clone, JobKind::Reinitialize, JobKind::Promote] {
        let played = Scene::standby()
            .with(|scene| scene.memory.rewind = RewindState::Need)
            .ended(kind, JobEnd::Done)
            .job(JobKind::Restart)
            .play();
        assert_eq!(played.memory().rewind, RewindState::Initial, "{kind:?}");
    }
}

#[test]
fn b_0_1_a_job_that_failed_is_not_begun_again_at_once() {
    let failed = |kind, ago| Some(FailedJob { kind, at: Monotonic(NOW.0 - ago) });
    use ptarmigan_types::Monotonic;
    let promote = |ago| {
        Scene::standby().led_by("a").with(|scene| scene.memory.failed = failed(JobKind::Promote, ago)).play()
    };
    promote(0).starts_nothing().line("promote failed, trying again").wakes_in(secs(1));
    promote(1_000_000).starts(&Job::Promote { timeline: Some(1) });
    let done = Scene::standby()
        .with(|scene| scene.memory.failed = failed(JobKind::Clone, 0))
        .ended(JobKind::Clone, JobEnd::Done)
        .play();
    assert_eq!(done.memory().failed, None);
}

#[test]
fn rw_3_the_first_cycle_on_a_running_standby_asks_whether_it_can_follow() {
    let fresh =
        |change: Change| Scene::standby().with(|scene| scene.memory.joined = false).with(change).play();
    let joined = fresh(|_| {});
    joined.fired("RW-2").does(&Action::CheckDivergence { upstream: member("b") });
    assert!(joined.memory().joined);
    assert_eq!(joined.memory().rewind, RewindState::NotNeed);
    let silent = fresh(|scene| scene.pg().server = None);
    assert!(!silent.memory().joined, "whether it is a standby is not known yet");
    let starting = fresh(|scene| scene.pg().state = MemberState::Starting);
    assert!(!starting.memory().joined);
    let primary = Scene::primary().with(|scene| scene.memory.joined = false).play();
    assert!(primary.silent("RW-2").memory().joined);
}

#[test]
fn ha_017_slots_follow_every_cycle_of_a_running_server() {
    let loses = Scene::unlocked().with(|scene| scene.acquire = refused());
    for scene in [Scene::standby(), Scene::primary(), loses] {
        scene.play().does(&Action::SyncSlots);
    }
    Scene::stopped().play().does_not(&Action::SyncSlots);
    Scene::standby().job(JobKind::Restart).play().does_not(&Action::SyncSlots);
}

#[test]
fn wake_at_is_never_in_the_past_and_never_later_than_loop_wait() {
    for scene in [
        Scene::standby(),
        Scene::primary(),
        Scene::unlocked(),
        Scene::stopped(),
        Scene::primary().dark(),
        Scene::standby().dark(),
        Scene::standby().with(|scene| scene.pg().role = Role::Primary),
    ] {
        let played = scene.play();
        assert!(played.decision.wake_at >= NOW && played.decision.wake_at <= NOW + secs(10));
    }
}

#[test]
fn ha_011_a_bootstrapping_node_does_nothing_else() {
    let played = Scene::unlocked().with(|scene| scene.memory.bootstrapping = true).play();
    played.fired("HA-011").fired("HA-061").silent("HA-015").starts_nothing();
}

#[test]
fn ha_012_a_start_is_verified_first() {
    let played = Scene::standby().with(|scene| scene.memory.recovering = true).play();
    played.fired("HA-012").fired("HA-072").fired("HA-016");
    assert!(!played.memory().recovering);
    Scene::standby().play().silent("HA-012");
}

#[test]
fn ha_013_whose_data_they_are_comes_before_what_runs_on_them() {
    let played = Scene::stopped()
        .with(|scene| scene.pg().system_identifier = Some(OTHER_SYSTEM_IDENTIFIER.into()))
        .play();
    played.fired("HA-088").silent("HA-014").starts_nothing();
}

#[test]
fn ha_014_a_server_that_does_not_run_is_recovered_whoever_leads() {
    for scene in [Scene::stopped(), Scene::stopped().unled(), Scene::stopped().led_by("a")] {
        scene.play().fired("HA-014").silent("HA-015").silent("HA-016");
    }
}

#[test]
fn ha_015_without_a_leader_there_is_a_race() {
    Scene::unlocked().play().fired("HA-015").silent("HA-016");
}

#[test]
fn ha_016_with_a_leader_there_is_none() {
    Scene::standby().play().fired("HA-016").silent("HA-015").does_not(&Action::AcquireLock);
    Scene::primary().play().fired("HA-016").silent("HA-015").does_not(&Action::AcquireLock);
}

#[test]
fn ha_019_a_server_that_does_not_answer_keeps_its_role() {
    for scene in [Scene::primary(), Scene::standby()] {
        let played = scene.with(|scene| scene.pg().server = None).play();
        played.starts_nothing();
        assert!(!played.has(|action| matches!(action, Action::SetRole(_) | Action::ReleaseLock(_))));
    }
}

#[test]
fn ha_020_a_bootstrap_that_failed_ends_the_process() {
    let played = Scene::unlocked()
        .with(|scene| {
            scene.memory.bootstrapping = true;
            scene.memory.post_bootstrap = Some(false);
        })
        .play();
    played.fired("HA-060");
    assert!(matches!(played.actions.last(), Some(Action::Exit { stop_postgres: true, .. })));
}

#[test]
fn ha_022_every_cycle_ends_with_the_member_key_but_one_without_the_dcs() {
    for scene in [Scene::standby(), Scene::primary(), Scene::unlocked(), Scene::stopped()] {
        let played = scene.clone().play();
        assert_eq!(played.actions.last(), Some(&Action::WriteMember));
        scene.dark().play().does_not(&Action::WriteMember);
    }
}

#[test]
fn t_1_the_next_cycle_begins_a_loop_wait_after_this_one_did() {
    Scene::standby().play().wakes_in(secs(10));
    Scene::standby().with(|scene| scene.obs.settings.loop_wait = secs(3)).play().wakes_in(secs(3));
}
