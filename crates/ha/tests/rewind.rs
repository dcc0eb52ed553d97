//! Rewind, or clone again (contract B.20).

mod support;

use ptarmigan_ha::{
    Action, Job, RewindState,
    action::Divergence,
    memory::{FailedJob, Source},
    observation::{ControlState, JobEnd, JobKind},
};
use ptarmigan_types::{MemberState, Monotonic, Role};
use serde_json::json;
use support::*;

const CHECK: fn() -> Action = || Action::CheckDivergence { upstream: member("b") };

fn in_state(state: RewindState) -> Scene {
    Scene::standby().with(|scene| scene.memory.rewind = state)
}

fn rewind(checkpoint_first: bool) -> Job {
    Job::Rewind { leader: member("b"), checkpoint_first }
}

#[test]
fn rw_2_a_question_only_where_its_answer_matters() {
    for (possible, remove, before, after) in [
        (true, false, RewindState::Initial, RewindState::Check),
        (false, true, RewindState::Success, RewindState::Check),
        (false, false, RewindState::Initial, RewindState::Initial),
        (true, false, RewindState::Need, RewindState::Need),
    ] {
        let played = in_state(before)
            .job(JobKind::Restart)
            .ended(JobKind::Demote(ptarmigan_ha::DemoteMode::Graceful), JobEnd::Done)
            .with(|scene| {
                scene.pg().rewind_possible = possible;
                scene.obs.settings.remove_data_directory_on_diverged_timelines = remove;
            })
            .play();
        assert_eq!(played.memory().rewind, after, "{possible} {remove} {before:?}");
    }
}

#[test]
fn rw_4_rw_6_whom_to_compare_with() {
    let cases: [(Change, bool); 5] = [
        (|_| {}, true),
        (|scene| scene.view().leader = Some(leader("z")), false),
        (
            |scene| {
                scene.member("b").0.shift_remove("conn_url");
            },
            false,
        ),
        (
            |scene| {
                scene.member("b").0.insert("role".into(), json!("replica"));
            },
            false,
        ),
        (
            |scene| {
                scene.member("b").0.insert("role".into(), json!("master"));
            },
            true,
        ),
    ];
    for (index, (change, asks)) in cases.into_iter().enumerate() {
        let played = in_state(RewindState::Check).with(change).play();
        assert_eq!(played.did(&CHECK()), asks, "case {index}");
        let after = if asks { RewindState::NotNeed } else { RewindState::Check };
        assert_eq!(played.memory().rewind, after, "case {index}");
    }
    for state in [RewindState::Initial, RewindState::NotNeed, RewindState::Success, RewindState::Need] {
        assert!(!in_state(state).play().did(&CHECK()), "{state:?}");
    }
}

#[test]
fn rw_5_rw_8_answers() {
    let answered =
        |divergence| in_state(RewindState::Check).with(|scene| scene.divergence = divergence).play();
    answered(Divergence::Diverged).fired("RW-8").fired("RW-10").starts(&rewind(false));
    assert_eq!(answered(Divergence::SameHistory).fired("RW-8").memory().rewind, RewindState::NotNeed);
    let unknown = answered(Divergence::Unknown);
    assert_eq!(unknown.fired("RW-5").memory().rewind, RewindState::Check);
    unknown.fired("HA-294");
}

#[test]
fn rw_7_same_timeline_twice_is_copied_anew_or_stays_down() {
    for (on_failure, on_diverged) in [(true, false), (false, true), (false, false)] {
        for (scene, running) in [(Scene::standby(), true), (Scene::stopped(), false)] {
            let played = scene
                .with(|scene| {
                    scene.memory.rewind = RewindState::Check;
                    scene.divergence = Divergence::SameTimelineTwice;
                    scene.obs.settings.remove_data_directory_on_rewind_failure = on_failure;
                    scene.obs.settings.remove_data_directory_on_diverged_timelines = on_diverged;
                })
                .play();
            assert!(played.facts("RW-7").contains("ptctl reinit"), "{}", played.facts("RW-7"));
            assert_eq!(played.memory().rewind, RewindState::Check, "asked again, whatever comes of it");
            played.does_not(&Action::RemoveDataDirectory);
            if on_failure || on_diverged {
                played.starts(&Job::Reinitialize { source: Some(member("b")) });
                played.line("reinitializing due to diverged timelines");
            } else if running {
                played.starts_nothing().fired("HA-294");
            } else {
                played.starts_nothing().silent("HA-112");
                played.line("not starting: began the timeline of b independently, needs `ptctl reinit`");
            }
        }
    }
}

#[test]
fn rw_7_without_rewind_or_after_a_copy_that_failed() {
    let twice = || {
        in_state(RewindState::Check).with(|scene| {
            scene.divergence = Divergence::SameTimelineTwice;
            scene.pg().rewind_possible = false;
            scene.obs.settings.remove_data_directory_on_diverged_timelines = true;
        })
    };
    twice().play().starts(&Job::Reinitialize { source: Some(member("b")) });
    let failed = FailedJob { kind: JobKind::Reinitialize, at: NOW };
    let held = twice().with(|scene| scene.memory.failed = Some(failed)).play();
    assert_eq!(held.starts_nothing().wakes_in(secs(1)).memory().rewind, RewindState::Check);
    let copied = twice()
        .with(|scene| scene.divergence = Divergence::SameHistory)
        .ended(JobKind::Reinitialize, JobEnd::Done)
        .play();
    assert_eq!(copied.memory().rewind, RewindState::Initial);
}

#[test]
fn rw_10_what_a_diverged_server_does() {
    let need = |possible, remove| {
        in_state(RewindState::Need).with(|scene| {
            scene.pg().rewind_possible = possible;
            scene.obs.settings.remove_data_directory_on_diverged_timelines = remove;
        })
    };
    let played = need(true, true).play();
    played.starts(&rewind(false)).line("running pg_rewind from b");
    let played = need(false, true).play();
    played.starts(&Job::Reinitialize { source: Some(member("b")) });
    played.line("reinitializing due to diverged timelines");
    assert_eq!(played.memory().rewind, RewindState::Initial);
    let played = need(false, false).play();
    played.fired("RW-10").starts_nothing().fired("HA-294");
    assert_eq!(played.memory().rewind, RewindState::Need);
}

#[test]
fn rw_10_a_crashed_standby_recovers_first() {
    let archive = |since: Option<u64>| {
        in_state(RewindState::Need)
            .down(MemberState::Crashed, ControlState::InArchiveRecovery)
            .with(|scene| scene.memory.crash_recovery_since = since.map(at))
            .play()
    };
    let played = archive(None);
    played.fired("HA-106").starts(&Job::CrashRecovery);
    assert_eq!(played.memory().crash_recovery_since, Some(NOW));
    archive(Some(900)).starts(&rewind(false));
    let stopped =
        in_state(RewindState::Need).down(MemberState::Stopped, ControlState::ShutDownInRecovery).play();
    stopped.silent("HA-106").starts(&rewind(false));
    let first_asked = in_state(RewindState::Check)
        .down(MemberState::Crashed, ControlState::InArchiveRecovery)
        .with(|scene| scene.divergence = Divergence::Diverged)
        .play();
    first_asked.fired("RW-8").fired("HA-106").starts(&Job::CrashRecovery);
    assert_eq!(first_asked.memory().rewind, RewindState::Need);
}

#[test]
fn rw_12_waits_for_the_leaders_checkpoint() {
    for (version, checkpoint, expected) in [
        (json!("4.1.4"), json!(null), Some(rewind(false))),
        (json!("4.1.4"), json!(false), None),
        (json!("1.5.7"), json!(false), None),
        (json!("1.5.6"), json!(false), Some(rewind(true))),
        (json!("devel"), json!(null), Some(rewind(true))),
        (json!(null), json!(null), Some(rewind(true))),
    ] {
        let played = in_state(RewindState::Need)
            .with(|scene| {
                let data = &mut scene.member("b").0;
                data.insert("version".into(), version.clone());
                if !checkpoint.is_null() {
                    data.insert("checkpoint_after_promote".into(), checkpoint);
                }
            })
            .play();
        match expected {
            Some(job) => {
                played.starts(&job);
            }
            None => {
                played.fired("RW-12").starts_nothing().line("waiting for checkpoint on b before rewind");
                assert_eq!(played.memory().rewind, RewindState::Need);
                assert_eq!(played.decision.wake_at.since(NOW).as_millis(), 500);
            }
        }
    }
}

#[test]
fn rw_4_what_was_found_against_another_leader_is_asked_again() {
    for other in [None, Some(against("c")), Some(Source { timeline: Some(9), ..against("b") })] {
        let scene = in_state(RewindState::Need).with(|scene| scene.memory.rewind_against = other.clone());
        let played = scene.play();
        played.fired("RW-4").does(&CHECK()).starts_nothing();
        assert_eq!(played.memory().rewind, RewindState::NotNeed);
        let diverged = in_state(RewindState::Need).with(|scene| {
            scene.memory.rewind_against = other;
            scene.divergence = Divergence::Diverged;
        });
        let played = diverged.play();
        played.does(&CHECK()).starts(&rewind(false));
        assert_eq!(played.memory().rewind_against, Some(against("b")));
    }
}

/// Found by the simulation: a standby was rewound to the remote member's history, the cluster was promoted on another one,
/// and the standby never asked again.
#[test]
fn rw_2_an_answer_holds_for_one_source() {
    for state in [RewindState::NotNeed, RewindState::Success] {
        let promoted = in_state(state).with(|scene| scene.memory.rewind_against = Some(Source::remote()));
        promoted.play().fired("RW-2").does(&CHECK());
        // Found by the simulation: it did not start while the leader changed, and its WAL was another one's.
        let changed = in_state(state).with(|scene| scene.memory.rewind_against = Some(against("c")));
        changed.play().fired("RW-2").does(&CHECK());
        in_state(state).play().silent("RW-2").does_not(&CHECK());
    }
    assert_eq!(in_state(RewindState::Check).play().memory().rewind_against, Some(against("b")));
}

/// Found by killing primaries for real: the leader that this node was to be rewound to died, and the server was started on WAL
/// that the next one never had. It waited for more of it for ever.
#[test]
fn rw_6_wal_that_had_left_one_leaders_is_not_started_on_before_it_is_compared_with_the_next_ones() {
    let stopped = |role: &str| {
        Scene::stopped().with(|scene| {
            scene.memory.rewind = RewindState::Need;
            scene.memory.rewind_against = Some(against("c"));
            scene.member("b").0.insert("role".into(), role.into());
        })
    };
    let waits = stopped("replica").play();
    waits.fired("RW-6").starts_nothing().wakes_in(secs(1));
    waits.line("not starting: waiting for b to be a primary, to compare with its WAL");
    let diverged = stopped("primary").with(|scene| scene.divergence = Divergence::Diverged);
    diverged.play().starts(&rewind(false));
    // Where nobody leads, it may be the one that shall.
    stopped("replica").unled().play().starts(&Job::Follow {
        upstream: None,
        role: Role::Replica,
        timeout: None,
    });
}

#[test]
fn rw_10_a_rewind_is_believed_only_where_its_source_stayed_what_it_was() {
    let ended = |change: fn(&mut Scene)| {
        let scene = in_state(RewindState::Need).ended(JobKind::Rewind, JobEnd::Done).job(JobKind::Restart);
        scene.with(change).play().decision.memory.rewind
    };
    assert_eq!(ended(|_| {}), RewindState::Success);
    let moved = |scene: &mut Scene| drop(scene.member("b").0.insert("timeline".into(), json!(2)));
    assert_eq!(ended(moved), RewindState::Check);
    assert_eq!(ended(|scene| scene.view().leader = Some(leader("c"))), RewindState::Check);
}

#[test]
fn rw_16_a_rewind_that_failed_is_tried_again_after_a_moment() {
    let failed = |kind, at| {
        in_state(RewindState::Need).with(|scene| scene.memory.failed = Some(FailedJob { kind, at }))
    };
    failed(JobKind::Rewind, NOW).play().starts_nothing().wakes_in(secs(1));
    failed(JobKind::Rewind, Monotonic(NOW.0 - 1_000_000)).play().starts(&rewind(false));
    let clone = failed(JobKind::Reinitialize, NOW).with(|scene| {
        scene.pg().rewind_possible = false;
        scene.obs.settings.remove_data_directory_on_diverged_timelines = true;
    });
    let played = clone.play();
    played.starts_nothing();
    assert_eq!(played.memory().rewind, RewindState::Need, "what it was about is not forgotten");
}

#[test]
fn rw_17_after_a_failure_for_good_the_data_directory_goes() {
    for (on_failure, on_diverged, removes) in
        [(true, false, true), (false, true, true), (false, false, false)]
    {
        let played = Scene::stopped()
            .with(|scene| {
                scene.memory.rewind = RewindState::Failed;
                scene.obs.settings.remove_data_directory_on_rewind_failure = on_failure;
                scene.obs.settings.remove_data_directory_on_diverged_timelines = on_diverged;
            })
            .play();
        assert_eq!(played.did(&Action::RemoveDataDirectory), removes);
        if removes {
            played.fired("RW-17").starts_nothing();
            assert_eq!(played.memory().rewind, RewindState::Initial);
        } else {
            played.fired("HA-112");
        }
    }
    let running = in_state(RewindState::Failed)
        .with(|scene| scene.obs.settings.remove_data_directory_on_rewind_failure = true)
        .play();
    running.does_not(&Action::RemoveDataDirectory);
    let holder = Scene::stopped()
        .led_by("a")
        .with(|scene| {
            scene.memory.rewind = RewindState::Failed;
            scene.obs.settings.remove_data_directory_on_rewind_failure = true;
        })
        .play();
    holder.fired("HA-108").does_not(&Action::RemoveDataDirectory);
}

#[test]
fn rw_15_after_a_rewind_the_server_starts_as_a_standby() {
    let played = Scene::stopped()
        .with(|scene| scene.memory.rewind = RewindState::Need)
        .ended(JobKind::Rewind, JobEnd::Done)
        .play();
    played.silent("HA-109").fired("HA-112");
    assert!(!played.did(&CHECK()));
    assert_eq!(played.memory().rewind, RewindState::Success);
}

/// Somebody's data directory, a moment after `pg_rewind` from b was cut off in it.
fn cut_off(running_leader: &str) -> Scene {
    Scene::stopped().led_by(running_leader).with(|scene| scene.pg().unfinished_rewind = Some(against("b")))
}

#[test]
fn rw_10_an_interrupted_rewind_is_run_again_from_the_same_source_alone() {
    let played = cut_off("b").play();
    played.starts(&rewind(false)).line("running pg_rewind from b").silent("HA-112");
    assert_eq!(played.memory().rewind, RewindState::Need);
    let waiting = "not starting: pg_rewind from b was interrupted, waiting for it";
    // Its PostgreSQL is down, or was when this was noted: what the timeline is, pg_rewind's own run finds out.
    for (noted, published) in [(None, Some(3)), (Some(3), None)] {
        let down = cut_off("b").with(|scene| {
            scene.pg().unfinished_rewind = Some(Source { timeline: noted, ..against("b") });
            scene.member("b").0.shift_remove("timeline");
            if let Some(timeline) = published {
                scene.member("b").0.insert("timeline".into(), json!(timeline));
            }
        });
        down.play().starts(&rewind(false));
    }
    let no_primary = cut_off("b").with(|scene| {
        scene.member("b").0.insert("role".into(), json!("replica"));
    });
    no_primary.play().starts_nothing().line(waiting).wakes_in(secs(1));
    let needs_copy = "not starting: pg_rewind from b was interrupted, needs `ptctl reinit`";
    let other_timeline = cut_off("b").with(|scene| {
        scene.pg().unfinished_rewind = Some(Source { timeline: Some(9), ..against("b") });
    });
    let failed = cut_off("b").with(|scene| scene.memory.rewind = RewindState::Failed);
    let no_program = cut_off("b").with(|scene| scene.pg().rewind_possible = false);
    for scene in [cut_off("c"), other_timeline, failed, no_program] {
        scene.play().starts_nothing().line(needs_copy);
    }
}

#[test]
fn rw_10_nothing_is_started_where_a_rewind_was_interrupted() {
    let alone = cut_off("b").unled();
    alone
        .play()
        .starts_nothing()
        .line("not starting: pg_rewind from b was interrupted, waiting for a leader");
    let holder = cut_off("b").led_by("a").with(|scene| scene.pg().role = Role::Primary);
    holder.play().starts_nothing().silent("HA-103").silent("HA-108");
    assert!(holder.play().has(|action| matches!(action, Action::ReleaseLock(_))));
}

#[test]
fn rw_17_an_interrupted_rewind_ends_in_a_copy_where_that_is_allowed() {
    for (on_failure, on_diverged) in [(true, false), (false, true)] {
        let allow = |scene: &mut Scene| {
            scene.obs.settings.remove_data_directory_on_rewind_failure = on_failure;
            scene.obs.settings.remove_data_directory_on_diverged_timelines = on_diverged;
        };
        cut_off("c").with(allow).play().starts(&Job::Reinitialize { source: Some(member("c")) });
        // From the same source there is still something to try.
        cut_off("b").with(allow).play().starts(&rewind(false));
        let failed = cut_off("b").with(allow).with(|scene| scene.memory.rewind = RewindState::Failed);
        failed.play().does(&Action::RemoveDataDirectory).starts_nothing();
        let remote = cut_off("c").in_standby_cluster().with(allow);
        remote.play().starts_nothing().does_not(&Action::RemoveDataDirectory);
    }
}

/// A copy that waits for WAL that it was to replay before it accepts connections.
fn inconsistent(running: bool) -> Scene {
    let scene = if running { Scene::standby() } else { Scene::stopped() };
    scene.with(|scene| {
        scene.memory.rewind = RewindState::Check;
        scene.divergence = Divergence::Diverged;
        scene.pg().inconsistent_copy = true;
        scene.pg().rewind_possible = !running;
        scene.pg().control_state = ControlState::InArchiveRecovery;
        if running {
            scene.pg().state = MemberState::Starting;
            scene.pg().server = None;
        }
    })
}

#[test]
fn rw_10_a_copy_that_can_never_be_consistent_is_not_rewound() {
    for running in [true, false] {
        let played = inconsistent(running).play();
        played.starts_nothing().fired("RW-8");
        played.line("cannot follow b: this copy's WAL was lost with the one copied, needs `ptctl reinit`");
        let allowed = |scene: &mut Scene| scene.obs.settings.remove_data_directory_on_rewind_failure = true;
        let copied = inconsistent(running).with(allowed).play();
        copied.starts(&Job::Reinitialize { source: Some(member("b")) });
        // Where the leader has what it lacks it only has to wait.
        let fine = inconsistent(running).with(|scene| scene.divergence = Divergence::SameHistory).play();
        assert_eq!(fine.memory().rewind, RewindState::NotNeed);
        // Another leader may have it.
        let found = inconsistent(running).with(|scene| {
            scene.memory.rewind = RewindState::Need;
            scene.memory.rewind_against = Some(against("c"));
            scene.divergence = Divergence::SameHistory;
        });
        assert_eq!(found.play().memory().rewind, RewindState::NotNeed);
    }
}

#[test]
fn rw_10_a_standby_leader_that_can_never_be_consistent_gives_the_lock_up() {
    let leader = |running| inconsistent(running).in_standby_cluster().led_by("a");
    let released = leader(false).play();
    assert!(released.has(|action| matches!(action, Action::ReleaseLock(_))), "{}", released.facts("RW-10"));
}

#[test]
fn rw_2_whether_a_copy_can_become_consistent_is_asked_once_of_every_source() {
    let known = |scene: &Scene| Source::of(scene.obs.view.as_ref().unwrap().member(&name("b")).unwrap());
    for (state, against, asks) in [
        (RewindState::Initial, None, true),
        (RewindState::Success, Some(against("c")), true),
        (RewindState::NotNeed, Some(Source { timeline: Some(9), ..against("b") }), true),
        (RewindState::NotNeed, Some(known(&Scene::standby())), false),
    ] {
        let scene = inconsistent(true).with(|scene| {
            scene.memory.rewind = state;
            scene.memory.rewind_against = against.clone();
            scene.divergence = Divergence::SameHistory;
        });
        let played = scene.play();
        assert_eq!(played.did(&CHECK()), asks, "{state:?} {against:?}");
        assert_eq!(played.memory().rewind, RewindState::NotNeed);
    }
}

#[test]
fn rw_31_a_copy_that_failed_leaves_no_answer_of_the_data_before() {
    for kind in [JobKind::Clone, JobKind::Reinitialize] {
        let scene = Scene::stopped().ended(kind, JobEnd::Failed("no space".into())).with(|scene| {
            scene.memory.rewind = RewindState::Need;
            scene.pg().control_state = ControlState::InArchiveRecovery;
        });
        scene.play().fired("RW-8").silent("HA-106");
    }
}

#[test]
fn ha_106_what_a_copy_lacks_is_not_made_up_for_by_crash_recovery() {
    for state in [ControlState::InArchiveRecovery, ControlState::InProduction] {
        for (copy, recovers) in [(true, false), (false, true)] {
            let scene = Scene::stopped().with(|scene| {
                scene.memory.rewind = RewindState::Need;
                scene.pg().control_state = state;
                scene.pg().inconsistent_copy = copy;
            });
            let played = scene.play();
            assert_eq!(played.jobs().contains(&&Job::CrashRecovery), recovers, "{state:?}");
        }
    }
}
