//! Maintenance mode: nothing happens that no operator asked for.

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job, RewindState,
    action::{Divergence, RecoveryDifference, When},
    observation::{
        ControlState, DataDirectory, JobEnd, JobKind, RestartFilter, ScheduledRestart, WatchdogView,
    },
};
use ptarmigan_types::{Initialize, MemberState, Role, ScheduledAt};
use support::*;

const GRACEFUL: JobKind = JobKind::Demote(DemoteMode::Graceful);
const CLEAR: Action = Action::ClearFailover(When::Revision(9));
const SECONDARY: &str = "PAUSE: no action. I am (a), a secondary, and following a leader (b)";
const RELEASE: Action = Action::ForgetLease;

fn paused(mut scene: Scene) -> Scene {
    scene.obs.settings.pause = true;
    scene.memory.was_paused = true;
    scene
}

fn wished(scene: Scene, leader: Option<&str>, candidate: Option<&str>) -> Scene {
    paused(scene).with(|scene| scene.view().failover = Some(failover(leader, candidate)))
}

fn releases(played: &Played) -> bool {
    played.has(|action| matches!(action, Action::ReleaseLock(_)))
}

fn of_another_cluster(scene: &mut Scene) {
    scene.view().initialize = Some(Initialize { value: OTHER_SYSTEM_IDENTIFIER.into(), revision: 2 });
}

#[test]
fn ha_004_pause_is_in_every_line_and_takes_the_watchdog_off() {
    let running = WatchdogView { running: true, wanted: true, healthy: true };
    let leader = paused(Scene::primary()).with(|scene| scene.obs.watchdog = running).play();
    leader.fired("HA-004").does(&Action::DisableWatchdog).fired("HA-253");
    leader.line("PAUSE: no action. I am (a), the leader with the lock").starts_nothing();
    assert!(leader.memory().was_paused);
    let without = paused(Scene::primary()).play();
    without.does_not(&Action::DisableWatchdog);
    paused(Scene::standby()).play().line(SECONDARY);
    paused(Scene::standby()).dark().play().line("PAUSE: DCS is not accessible");
    let busy = paused(Scene::primary()).job(JobKind::Restart).play();
    busy.line("PAUSE: updated leader lock during restart");
}

#[test]
fn ha_005_the_end_of_pause_looks_at_the_data_directory_anew() {
    let scene = Scene::standby().with(|scene| {
        scene.memory.was_paused = true;
        scene.memory.rewind = RewindState::Failed;
    });
    let played = scene.play();
    played.fired("HA-005").does(&Action::ForgetIdentity);
    assert!(!played.memory().was_paused);
    // Whether the WAL left the leader's is asked anew, whatever was known or open before.
    played.fired("RW-2").fired("RW-8");
    assert_eq!(played.memory().rewind, RewindState::NotNeed);
    let primary = Scene::primary().with(|scene| {
        scene.memory.was_paused = true;
        scene.memory.rewind = RewindState::Failed;
    });
    assert_eq!(primary.play().memory().rewind, RewindState::Initial);
    Scene::standby().play().silent("HA-005").does_not(&Action::ForgetIdentity);
}

#[test]
fn ha_040_in_pause_the_state_follows_the_process() {
    use ControlState::{InProduction, ShutDown};
    use MemberState::{Crashed, Restarting, Running, StartFailed, Starting, Stopped, Stopping};
    // Down: the state before, what pg_control says, the state after.
    for (before, control, after) in [
        (Running, ShutDown, Some(Stopped)),
        (Running, InProduction, Some(Crashed)),
        (Stopping, ShutDown, Some(Stopped)),
        (Crashed, ShutDown, Some(Stopped)),
        (Crashed, InProduction, None),
        (StartFailed, InProduction, None),
        (StartFailed, ShutDown, None),
        (Stopped, InProduction, None),
    ] {
        let played = paused(Scene::standby().down(before, control)).play();
        let set = played.actions.iter().find(|action| matches!(action, Action::SetState(_)));
        assert_eq!(set, after.map(Action::SetState).as_ref(), "{before} {control:?}");
    }
    // Up: the state before, whether the server answers, the state after.
    for (before, answers, after) in [
        (Running, true, None),
        (Running, false, None),
        (Starting, false, None),
        (Stopped, false, Some(Starting)),
        (StartFailed, false, Some(Starting)),
        (Restarting, true, Some(Running)),
    ] {
        let played = paused(Scene::standby())
            .with(|scene| {
                scene.pg().state = before;
                if !answers {
                    scene.pg().server = None;
                }
            })
            .play();
        let set = played.actions.iter().find(|action| matches!(action, Action::SetState(_)));
        assert_eq!(set, after.map(Action::SetState).as_ref(), "{before} {answers}");
        played.silent("HA-010");
    }
    // Nobody stops a server that an operator starts, however long it takes and whoever has the lock.
    let slow = paused(Scene::primary()).with(|scene| {
        scene.pg().state = Starting;
        scene.pg().in_state_for = secs(3000);
        scene.renew = refused();
    });
    slow.play().silent("HA-041").silent("HA-042").starts_nothing();
}

#[test]
fn ha_083_an_empty_data_directory_stays_empty() {
    let scene = paused(Scene::stopped()).with(|scene| scene.pg().data_directory = DataDirectory::Empty);
    scene.play().fired("HA-083").starts_nothing().line("PAUSE: running with empty data directory");
    scene.led_by("a").play().fired("HA-081").silent("HA-083").starts_nothing();
}

#[test]
fn ha_086_the_lock_goes_where_the_data_are_of_another_cluster() {
    let played = paused(Scene::primary()).with(of_another_cluster).play();
    played.fired("HA-086").does(&Action::ReleaseLock(leader("a"))).starts_nothing();
    played.line("PAUSE: released leader key voluntarily due to the system ID mismatch");
    assert!(!played.has(|action| matches!(action, Action::Exit { .. })));
}

#[test]
fn ha_087_other_data_without_the_lock_are_left_alone() {
    let played = paused(Scene::standby()).with(of_another_cluster).play();
    played.fired("HA-087").fired("HA-281").starts_nothing().line(SECONDARY);
    assert!(!played.has(|action| matches!(action, Action::Exit { .. })));
    // HA-089 and HA-090 wait for the end of the pause.
    let nameless = paused(Scene::unlocked()).with(|scene| {
        scene.view().initialize = None;
        scene.memory.joined = false;
    });
    let played = nameless.play();
    played.fired("HA-091").silent("HA-089").starts_nothing();
    assert!(!played.memory().joined, "HA-089 is still to come");
}

#[test]
fn ha_095_a_stopped_server_stays_stopped() {
    for (state, control) in [
        (MemberState::Running, ControlState::ShutDown),
        (MemberState::Crashed, ControlState::InProduction),
        (MemberState::Stopped, ControlState::ShutDownInRecovery),
    ] {
        for scene in [Scene::standby(), Scene::unlocked()] {
            let played = paused(scene.down(state, control)).play();
            played.starts_nothing().silent("HA-098").line("PAUSE: postgres is not running");
        }
    }
}

#[test]
fn ha_096_the_lock_goes_with_the_server() {
    let down = Scene::primary().down(MemberState::Running, ControlState::ShutDown);
    let played = paused(down).play();
    played.fired("HA-096").does(&Action::ReleaseLock(leader("a"))).starts_nothing();
    played.line("PAUSE: removed leader lock because postgres is not running");
}

#[test]
fn ha_097_only_what_a_demotion_stopped_is_started() {
    let demoted = || {
        let down = Scene::standby().down(MemberState::Stopped, ControlState::ShutDown);
        paused(down.ended(GRACEFUL, JobEnd::Done)).with(|scene| scene.pg().role = Role::Demoted)
    };
    let follow = Job::Follow { upstream: Some(member("b")), role: Role::Replica, timeout: None };
    demoted().play().starts(&follow);
    let diverged = demoted().with(|scene| scene.divergence = Divergence::Diverged).play();
    diverged.starts(&Job::Rewind { leader: member("b"), checkpoint_first: false });
    assert!(diverged.memory().owes_start);
    // Rewound in a later cycle, and then started.
    let rewound = paused(Scene::stopped()).with(|scene| {
        scene.memory.owes_start = true;
        scene.memory.rewind = RewindState::Success;
    });
    rewound.play().starts(&follow);
    // A rewind or a start that failed is the operator's business.
    let failed = rewound.clone().with(|scene| scene.memory.rewind = RewindState::Failed).play();
    failed.fired("HA-097").starts_nothing();
    let failed = rewound.ended(JobKind::Follow, JobEnd::Failed("no".into())).play();
    failed.fired("HA-097").starts_nothing();
    assert!(!failed.memory().owes_start);
    // A pending check alone starts nothing: an operator stopped this one.
    let by_hand = paused(Scene::stopped()).with(|scene| scene.memory.rewind = RewindState::Check).play();
    by_hand.fired("HA-097").starts_nothing();
    let started = paused(Scene::standby()).with(|scene| scene.memory.owes_start = true).play();
    assert!(!started.memory().owes_start);
}

#[test]
fn ha_131_the_wish_loses_its_leader_and_stays_in_pause() {
    let candidate = wished(Scene::unlocked(), Some("b"), Some("a"));
    let played = candidate.play();
    let kept = Action::WriteFailover { value: r#"{"member":"a"}"#.into(), revision: 9 };
    played.fired("HA-220").fired("HA-131").does(&kept).starts(&Job::Promote { timeline: Some(1) });
    assert!(!played.has(|action| matches!(action, Action::ClearFailover(_))));
    played.line("PAUSE: promoted self to leader by acquiring session lock");
    // Without a leader in it there is nothing to keep, and without pause neither.
    let failover = wished(Scene::unlocked(), None, Some("a")).play();
    failover.does(&Action::ClearFailover(When::Always)).does_not(&kept);
    let unpaused = candidate.with(|scene| scene.obs.settings.pause = false).play();
    unpaused.does(&Action::ClearFailover(When::Always)).does_not(&kept);
    // The primary that takes its lock back keeps what was scheduled.
    let scheduled = wished(Scene::primary().unled(), Some("a"), Some("c")).with(|scene| {
        let wish = scene.view().failover.as_mut().unwrap();
        wish.scheduled_at = Some(ScheduledAt::At(wall()));
        wish.scheduled_at_text = Some("2030-01-01T12:00:00+00:00".into());
    });
    let value = r#"{"member":"c","scheduled_at":"2030-01-01T12:00:00+00:00"}"#.into();
    scheduled.play().fired("HA-204").does(&Action::WriteFailover { value, revision: 9 });
}

#[test]
fn ha_160_the_candidate_keeps_its_lock_until_it_is_promoted() {
    let promoted =
        wished(Scene::standby().led_by("a"), None, Some("a")).with(|scene| scene.pg().role = Role::Promoted);
    let played = promoted.play();
    played.fired("HA-160").starts_nothing().line("PAUSE: waiting to become primary after promote...");
    assert!(!releases(&played));
    // Also where the wish has gone meanwhile.
    let played = promoted.with(|scene| scene.view().failover = None).play();
    played.fired("HA-160").starts_nothing();
    assert!(!releases(&played));
    // A promotion that failed is tried again.
    let again = wished(Scene::standby().led_by("a"), None, Some("a")).play();
    again.fired("HA-160").starts(&Job::Promote { timeline: Some(1) });
}

#[test]
fn ha_161_a_holder_that_is_no_primary_gives_the_lock_up() {
    for wish in [None, Some(failover(None, Some("c"))), Some(failover(Some("a"), None))] {
        let scene = paused(Scene::standby().led_by("a")).with(|scene| scene.view().failover = wish);
        let played = scene.play();
        played.fired("HA-161").does(&Action::ReleaseLock(leader("a"))).starts_nothing();
        played.line("PAUSE: removed leader lock because postgres is not running as primary");
    }
    // The role that was noted last is not what the server is.
    let stale = paused(Scene::standby().led_by("a")).with(|scene| scene.pg().role = Role::Primary);
    stale.play().fired("HA-161").starts_nothing();
    let refusal = paused(Scene::standby().led_by("a")).with(|scene| scene.renew = refused()).play();
    refusal.fired("HA-173").silent("HA-161").starts_nothing();
}

#[test]
fn ha_171_a_primary_whose_renewal_was_refused_runs_on() {
    let played = paused(Scene::primary()).with(|scene| scene.renew = refused()).play();
    played.fired("HA-171").silent("HA-172").starts_nothing().does(&RELEASE);
    played.line("PAUSE: continue to run as primary after failing to update leader lock in DCS");
}

#[test]
fn ha_033_in_pause_no_lost_lock_stops_a_server() {
    let scene = paused(Scene::primary().led_by("b"));
    scene.job(JobKind::Restart).play().silent("HA-033").fired("HA-034").starts_nothing();
    // A promotion that has not begun is not begun without the lock.
    let standby = paused(Scene::standby()).job(JobKind::Promote).play();
    standby.fired("HA-032").does(&Action::CancelJob).starts_nothing();
}

#[test]
fn ha_201_a_manual_failover_works_in_pause() {
    let played = wished(Scene::unlocked(), None, Some("a")).play();
    played.fired("HA-201").fired("HA-220").fired("HA-131").starts(&Job::Promote { timeline: Some(1) });
    let nofailover = wished(Scene::unlocked(), None, Some("a"))
        .with(|scene| scene.obs.settings.tags = tags(&serde_json::json!({"nofailover": true})));
    nofailover.play().silent("HA-201").fired("HA-207").starts_nothing();
    let scheduled = wished(Scene::unlocked(), None, Some("a")).with(|scene| {
        scene.view().failover.as_mut().unwrap().scheduled_at = Some(ScheduledAt::At(wall()));
    });
    scheduled.play().silent("HA-201").fired("HA-207").starts_nothing();
    let elsewhere = wished(Scene::unlocked(), None, Some("a")).with(of_another_cluster);
    elsewhere.play().does_not(&Action::AcquireLock).starts_nothing();
    let alive = wished(Scene::unlocked(), Some("b"), Some("a")).with(|scene| {
        scene.peers[0].in_recovery = false;
    });
    alive.play().fired("HN-6").does_not(&Action::AcquireLock);
}

#[test]
fn ha_205_a_wish_in_pause_leads_nobody_to_a_timeline_that_others_have_left() {
    for (finished, takes) in [(vec![], true), (vec![1, 2], false)] {
        let scene = wished(Scene::unlocked().writable(), None, Some("a"))
            .with(|scene| scene.view().history = Some(history(&finished)));
        assert_eq!(scene.play().fired("HA-205").did(&Action::AcquireLock), takes, "{finished:?}");
    }
}

#[test]
fn ha_204_a_primary_takes_its_lock_back_where_the_data_are_the_clusters() {
    type Case = (Change, bool);
    let cases: [Case; 5] = [
        (|_| {}, true),
        (|scene| scene.view().initialize = None, true),
        (of_another_cluster, false),
        // Started by hand a moment ago, perhaps as a standby.
        (|scene| scene.obs.postgres.server = None, false),
        // HA-205: somebody else was promoted since.
        (|scene| scene.view().history = Some(history(&[1, 2])), false),
    ];
    for (index, (change, takes)) in cases.into_iter().enumerate() {
        let played = paused(Scene::primary().unled()).with(change).play();
        played.starts_nothing();
        assert_eq!(played.did(&Action::AcquireLock), takes, "case {index}");
        let line = if takes {
            "acquired session lock as a leader"
        } else {
            "continue to run as primary without lock"
        };
        played.line(&format!("PAUSE: {line}"));
    }
}

#[test]
fn ha_204_a_server_that_says_nothing_yet_is_no_primary() {
    let silent = paused(Scene::primary().unled()).with(|scene| {
        scene.pg().state = MemberState::Stopped;
        scene.pg().server = None;
    });
    silent.play().fired("HA-207").does_not(&Action::AcquireLock).starts_nothing();
}

#[test]
fn ha_207_in_pause_nobody_races() {
    let played = paused(Scene::unlocked()).play();
    played.fired("HA-207").fired("HA-281").does_not(&Action::AcquireLock).starts_nothing();
    played.line("PAUSE: no action. I am (a)");
    assert!(!played.has(|action| matches!(action, Action::AskPeers(_))));
}

#[test]
fn ha_221_a_wish_for_nobody_does_not_keep_the_primary_from_its_lock() {
    let played = wished(Scene::primary().unled(), None, Some("z")).play();
    played.fired("HA-221").does(&CLEAR).fired("HA-204").does(&Action::AcquireLock);
    let standby = wished(Scene::unlocked(), None, Some("z")).play();
    standby.fired("HA-222").does_not(&CLEAR).starts_nothing();
}

#[test]
fn ha_222_in_pause_the_others_leave_it_to_the_candidate() {
    for scene in [Scene::unlocked(), Scene::primary().unled()] {
        let played = wished(scene, None, Some("c")).play();
        played.fired("HA-222").does_not(&Action::AcquireLock).starts_nothing();
        assert!(!played.has(|action| matches!(action, Action::AskPeers(_))), "not even where it is not fit");
    }
}

#[test]
fn ha_226_in_pause_a_switchover_to_anybody_is_none() {
    for scene in [Scene::unlocked(), Scene::primary().unled()] {
        let played = wished(scene, Some("b"), None).play();
        played.fired("HA-226").does_not(&Action::AcquireLock).starts_nothing();
    }
}

#[test]
fn ha_230_in_pause_only_a_primary_hears_of_a_wish() {
    let played = wished(Scene::standby().led_by("a"), Some("a"), Some("c")).play();
    played.fired("HA-161").does_not(&CLEAR).starts_nothing();
}

#[test]
fn ha_234_in_pause_a_candidate_must_be_named() {
    let played = wished(Scene::primary(), Some("a"), None).play();
    played.fired("HA-234").does(&CLEAR).starts_nothing();
    let named = wished(Scene::primary(), Some("a"), Some("c")).play();
    named.fired("HA-235").starts(&Job::Demote(DemoteMode::Graceful));
    named.line("PAUSE: manual failover: demoting myself");
}

#[test]
fn sa_1_nothing_that_was_scheduled_is_carried_out_in_pause() {
    let switchover = wished(Scene::primary(), Some("a"), Some("c")).with(|scene| {
        scene.view().failover.as_mut().unwrap().scheduled_at = Some(ScheduledAt::At(wall()));
    });
    switchover.play().fired("HA-231").does_not(&CLEAR).starts_nothing();
    // Not even dropped where it is stale.
    let stale = switchover.with(|scene| {
        let long_ago = "2029-01-01T12:00:00Z".parse().unwrap();
        scene.view().failover.as_mut().unwrap().scheduled_at = Some(ScheduledAt::At(long_ago));
    });
    stale.play().does_not(&CLEAR).starts_nothing();
    let restart = paused(Scene::primary()).with(|scene| {
        scene.obs.scheduled_restart = Some(ScheduledRestart {
            at: wall(),
            postmaster_start_time: None,
            filter: RestartFilter::default(),
            timeout: None,
        });
    });
    restart.play().does_not(&Action::ClearScheduledRestart).starts_nothing();
}

#[test]
fn ha_280_a_primary_without_the_lock_runs_on() {
    for scene in [Scene::primary().led_by("b"), Scene::standby().writable()] {
        for rewind in [RewindState::Initial, RewindState::Need] {
            let played = paused(scene.clone()).with(|scene| scene.memory.rewind = rewind).play();
            played.fired("HA-280").silent("HA-282").starts_nothing();
            played.line("PAUSE: continue to run as primary without lock");
        }
    }
    // Started by hand, and not known as a primary yet.
    let unknown = paused(Scene::primary().led_by("b")).with(|scene| scene.pg().role = Role::Replica);
    unknown.play().does(&Action::SetRole(Role::Primary)).starts_nothing();
}

#[test]
fn ha_281_a_standby_is_repointed_but_not_restarted() {
    let reload = paused(Scene::standby()).with(|scene| scene.difference = RecoveryDifference::Reload);
    reload.play().fired("HA-291").starts_nothing().line(SECONDARY);
    let restart = paused(Scene::standby()).with(|scene| scene.difference = RecoveryDifference::Restart);
    restart.play().fired("HA-290").starts_nothing().line(SECONDARY);
    // Without a restart nobody could be followed there.
    let old = restart.with(|scene| scene.pg().major_version = 12).play();
    old.starts(&Job::Follow { upstream: Some(member("b")), role: Role::Replica, timeout: None });
    // The server is a standby by now, whatever it was when it was looked at last.
    let demoted = paused(Scene::standby()).with(|scene| scene.pg().role = Role::Primary).play();
    demoted.fired("HA-281").does(&Action::SetRole(Role::Replica)).starts_nothing();
    let nobody = paused(Scene::unlocked()).play();
    nobody.line("PAUSE: no action. I am (a)");
    assert!(!nobody.has(|action| matches!(action, Action::CompareRecovery { .. })));
    // Neither rewound nor copied anew while it runs.
    let diverged = paused(Scene::standby()).with(|scene| {
        scene.memory.rewind = RewindState::Need;
        scene.memory.leader_timeline = Some(2);
        scene.member("b").0.insert("timeline".into(), 2.into());
        scene.obs.settings.remove_data_directory_on_diverged_timelines = true;
    });
    diverged.play().starts_nothing().line(SECONDARY);
    let replay = paused(Scene::standby()).with(|scene| scene.server().replay_paused = true).play();
    replay.does_not(&Action::ResumeReplay);
}

#[test]
fn ha_282_only_without_pause_a_primary_steps_down_for_a_holder() {
    let scene = paused(Scene::primary().led_by("b"));
    scene.play().silent("HA-282").starts_nothing();
    let resumed = scene.with(|scene| scene.obs.settings.pause = false).play();
    resumed.fired("HA-282").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
}

#[test]
fn ha_404_in_pause_a_silent_dcs_changes_nothing() {
    let job = |kind| paused(Scene::primary()).dark().job(kind);
    let scenes = [paused(Scene::primary()).dark(), paused(Scene::standby()).dark(), job(JobKind::Restart)];
    for scene in scenes {
        let played = scene.play();
        played.fired("HA-404").silent("HA-402").silent("HA-403").starts_nothing();
        played.line("PAUSE: DCS is not accessible").does_not(&Action::CancelJob);
    }
    let refusing = paused(Scene::primary()).with(|scene| scene.renew = no_answer()).play();
    refusing.fired("HA-404").starts_nothing();
    let promoting = paused(Scene::standby()).dark().job(JobKind::Promote).play();
    promoting.does(&Action::CancelJob).starts_nothing();
}

#[test]
fn ha_162_a_standby_leader_keeps_its_lock_in_pause() {
    let played = paused(Scene::standby().led_by("a").in_standby_cluster()).play();
    played.fired("HA-162").fired("HA-163").silent("HA-161").starts_nothing();
    assert!(!releases(&played));
    assert!(played.decision.line.starts_with("PAUSE: "), "{}", played.decision.line);
}
