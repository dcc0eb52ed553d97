//! Standby clusters (contract B.14, B.16 `demote-cluster`, B.17.5).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job, Outcome, Remote, RewindState, Upstream,
    action::{Divergence, RecoveryDifference, ReloadAfter},
    memory::Source,
    node_to_follow,
    observation::{ControlState, DataDirectory, JobEnd, JobKind},
};
use ptarmigan_types::{Initialize, MemberState, Role};
use serde_json::json;
use support::*;

fn remote() -> Option<Upstream> {
    Some(Upstream::Remote)
}

fn follow(upstream: Option<Upstream>, role: Role, timeout: Option<u64>) -> Job {
    Job::Follow { upstream, role, timeout: timeout.map(secs) }
}

/// A primary with the lock that reads in `/config` that this is a standby cluster.
fn old_primary() -> Scene {
    Scene::primary().in_standby_cluster()
}

/// The holder of a standby cluster's lock, its server stopped.
fn stopped_leader(role: Role, control: ControlState) -> Scene {
    Scene::standby_leader().down(MemberState::Stopped, control).with(|scene| scene.pg().role = role)
}

const ARCHIVE_ONLY: Option<Remote> = Some(Remote { has_address: false });

#[test]
fn nf_2_the_leader_and_whoever_has_none_follow_the_remote_member() {
    for (holder, own, expected) in [
        (Some("a"), json!({}), remote()),
        (Some("a"), json!({"replicatefrom": "c"}), remote()),
        (None, json!({}), remote()),
        (None, json!({"replicatefrom": "c"}), remote()),
        (Some("b"), json!({}), Some(member("b"))),
        (Some("b"), json!({"replicatefrom": "c"}), Some(member("c"))),
        (Some("a"), json!({"nostream": true}), None),
        (None, json!({"nostream": true}), None),
    ] {
        let mut scene = Scene::standby().in_standby_cluster();
        scene.view().leader = holder.map(leader);
        scene.obs.settings.tags = tags(&own);
        let settings = scene.obs.settings.clone();
        assert_eq!(node_to_follow(&name("a"), &settings, scene.view()), expected, "{holder:?} {own}");
    }
    // In pause nobody leaves whom it follows only because there is no leader.
    let mut paused = Scene::standby().in_standby_cluster().unled();
    paused.obs.settings.pause = true;
    let settings = paused.obs.settings.clone();
    assert_eq!(node_to_follow(&name("a"), &settings, paused.view()), None);
}

#[test]
fn ha_101_the_holders_start_has_the_limit_of_a_primarys() {
    let played = stopped_leader(Role::StandbyLeader, ControlState::ShutDownInRecovery).play();
    played.fired("HA-101").starts(&follow(remote(), Role::StandbyLeader, Some(300)));
}

#[test]
fn ha_102_without_the_lock_there_is_no_limit() {
    for scene in [Scene::stopped().in_standby_cluster(), Scene::stopped()] {
        let played = scene.play();
        played.fired("HA-102").starts(&follow(Some(member("b")), Role::Replica, None));
    }
    let refused = stopped_leader(Role::StandbyLeader, ControlState::ShutDownInRecovery)
        .with(|scene| scene.renew = refused())
        .play();
    refused.fired("HA-102").silent("HA-101");
}

#[test]
fn ha_103_a_standby_cluster_starts_no_primary() {
    let played = old_primary().down(MemberState::Running, ControlState::InProduction).play();
    // Crash recovery first, so that it can be told where its WAL ends.
    played.silent("HA-103").fired("HA-106").starts(&Job::CrashRecovery);
    let without_rewind = old_primary()
        .down(MemberState::Running, ControlState::InProduction)
        .with(|scene| scene.pg().rewind_possible = false)
        .play();
    without_rewind.silent("HA-103").starts(&follow(remote(), Role::StandbyLeader, Some(300)));
}

#[test]
fn ha_110_the_holder_starts_as_a_standby_leader() {
    for role in [Role::StandbyLeader, Role::Demoted, Role::Replica] {
        let played = stopped_leader(role, ControlState::ShutDown).play();
        played.silent("HA-108").fired("HA-110").starts(&follow(remote(), Role::StandbyLeader, Some(300)));
        played.line("starting as a standby leader because I had the session lock");
        played.does(&Action::CheckDivergence { upstream: Upstream::Remote });
        assert!(played.memory().recovering);
    }
    // A failover that was preferred to the start and is not possible leaves the start without a limit.
    let zero = stopped_leader(Role::Demoted, ControlState::ShutDown).with(|scene| {
        scene.obs.settings.primary_start_timeout = secs(0);
        scene.peers = Vec::new();
    });
    zero.play().starts(&follow(remote(), Role::StandbyLeader, None));
}

#[test]
fn ha_111_without_a_leader_the_remote_member_is_followed() {
    for address in [Some(Remote { has_address: true }), ARCHIVE_ONLY] {
        let played =
            Scene::stopped().unled().with(|scene| scene.obs.settings.standby_cluster = address).play();
        played.fired("HA-111").starts(&follow(remote(), Role::Replica, None));
        played.line("trying to follow a remote member because standby cluster is unhealthy");
    }
    let led = Scene::stopped().in_standby_cluster().play();
    led.fired("HA-112").silent("HA-111").starts(&follow(Some(member("b")), Role::Replica, None));
}

#[test]
fn ha_114_the_start_is_verified_in_the_next_cycle() {
    for scene in [
        Scene::stopped(),
        Scene::stopped().unled().in_standby_cluster(),
        stopped_leader(Role::Demoted, ControlState::ShutDown),
    ] {
        let played = scene.play();
        played.fired("HA-114");
        assert!(played.memory().recovering);
        assert!(matches!(played.jobs()[..], [Job::Follow { .. }]));
    }
}

#[test]
fn ha_162_in_pause_a_standby_leader_keeps_the_lock() {
    let paused = |scene: Scene| scene.with(|scene| scene.obs.settings.pause = true).play();
    let played = paused(Scene::standby_leader());
    played.fired("HA-162").silent("HA-161").starts_nothing().does_not(&Action::ReleaseLock(leader("a")));
    // In a cluster of its own a holder that is no primary gives it up.
    paused(Scene::standby().led_by("a")).fired("HA-161").does(&Action::ReleaseLock(leader("a")));
}

#[test]
fn ha_165_the_standby_leader_with_the_lock() {
    let played = Scene::standby_leader().play();
    played.fired("HA-163").fired("HA-165").fired("HA-287").does(&Action::WriteStatus).starts_nothing();
    played.does(&Action::CompareRecovery { upstream: remote() });
    played.line("no action. I am (a), the standby leader with the lock");
    // A checkpoint is a primary's business, and nobody asks whether this lock was earned: nothing is promoted.
    played.silent("HA-164").silent("HA-166").does_not(&Action::EnsureCheckpoint);
    assert!(!played.has(|action| matches!(action, Action::AskPeers(_))));
    let new = Scene::standby_leader()
        .with(|scene| {
            scene.pg().role = Role::Replica;
            scene.difference = RecoveryDifference::Reload;
        })
        .play();
    new.line("promoted self to a standby leader because I had the session lock");
    new.before(&Action::SetRole(Role::StandbyLeader), &Action::ReloadRecovery { upstream: remote() });
}

#[test]
fn ha_165_a_lost_renewal_leaves_the_standby_as_it_is() {
    let played = Scene::standby_leader().with(|scene| scene.renew = refused()).play();
    played.fired("HA-173").starts_nothing().does(&Action::ForgetLease);
    let dark = Scene::standby_leader().dark().play();
    dark.fired("HA-403").starts_nothing();
}

#[test]
fn ha_131_a_new_standby_leader_follows_the_remote_member() {
    let lost = Scene::unlocked().in_standby_cluster().with(|scene| {
        scene.difference = RecoveryDifference::Reload;
    });
    let played = lost.play();
    played
        .fired("HA-131")
        .fired("HA-287")
        .line("promoted self to a standby leader by acquiring session lock");
    played.does(&Action::ReloadRecovery { upstream: remote() }).does(&Action::SetRole(Role::StandbyLeader));
    played.starts_nothing();
    // Where it is behind the others, one of them is to lead.
    let behind = lost.with(|scene| scene.server().lsn.0 -= 100).play();
    behind.fired("HN-7").fired("HA-135").does_not(&Action::AcquireLock);
}

#[test]
fn ha_130_a_standby_cluster_does_not_wait_for_its_wal_to_stand_still() {
    let waits = |scene: Scene| {
        let played = scene
            .with(|scene| {
                scene.obs.settings.primary_race_backoff = secs(60);
                scene.memory.last_lsn = Some(HERE);
            })
            .play();
        !played.did(&Action::AcquireLock)
    };
    assert!(waits(Scene::unlocked()));
    assert!(!waits(Scene::unlocked().in_standby_cluster()), "its WAL comes from elsewhere and goes on");
}

#[test]
fn hn_2_the_history_of_a_standby_cluster_is_an_old_one() {
    let race = |standby: bool| {
        let scene = Scene::unlocked().with(|scene| {
            scene.obs.settings.check_timeline = true;
            scene.view().history = Some(history(&[1, 2]));
        });
        let scene = if standby { scene.in_standby_cluster() } else { scene };
        scene.play().did(&Action::AcquireLock)
    };
    assert!(!race(false));
    assert!(race(true), "the timeline is the remote member's");
}

#[test]
fn ha_175_a_secondary_follows_the_standby_leader() {
    let played = Scene::standby().in_standby_cluster().play();
    played.fired("HA-175").silent("HA-176").starts_nothing();
    played.does(&Action::CompareRecovery { upstream: Some(member("b")) });
    played.line("no action. I am (a), a secondary, and following a standby leader (b)");
}

#[test]
fn ha_279_the_view_is_read_again_before_a_new_leader_is_followed() {
    // Won: the lock is looked at again before anything is followed on its account. Lost: whoever won is to be found.
    for (acquire, upstream) in [(held(), remote()), (refused(), Some(member("c")))] {
        let played = Scene::unlocked()
            .in_standby_cluster()
            .with(|scene| {
                if !matches!(acquire, Outcome::Held { .. }) {
                    scene.reloaded = Some(Ok(scene.clone().led_by("c").view().clone()));
                }
                scene.acquire = acquire;
            })
            .play();
        let compare = Action::CompareRecovery { upstream };
        played.before(&Action::ReloadView(ReloadAfter::Lock), &compare);
    }
}

#[test]
fn ha_283_a_primary_with_the_lock_steps_down_in_peace() {
    let played = old_primary().play();
    played.fired("HA-165").fired("HA-283").starts(&Job::Demote(DemoteMode::DemoteCluster));
    played.line("cannot be a real primary in a standby cluster");
    // The lock stays, and is renewed meanwhile.
    played.does_not(&Action::ForgetLease);
    let busy = old_primary().job(JobKind::Demote(DemoteMode::DemoteCluster)).play();
    busy.fired("HA-031").starts_nothing().line("updated leader lock during demote");
    // Nobody leads: the lock first.
    let unlocked = old_primary().unled().play();
    unlocked.fired("HA-131").starts(&Job::Demote(DemoteMode::DemoteCluster));
    let failed =
        old_primary().ended(JobKind::Demote(DemoteMode::DemoteCluster), JobEnd::Failed("no".into())).play();
    failed.starts_nothing();
}

#[test]
fn ha_283_a_primary_without_the_lock_gets_no_time() {
    let other = old_primary().led_by("b").play();
    other.fired("HA-175").fired("HA-282").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
    let refused = old_primary().with(|scene| scene.renew = refused()).play();
    refused.fired("HA-172").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
    let lost = old_primary()
        .job(JobKind::Demote(DemoteMode::DemoteCluster))
        .with(|scene| scene.renew = support::refused())
        .play();
    lost.fired("HA-033").does(&Action::CancelJob).starts(&Job::Demote(DemoteMode::ImmediateNoLock));
    let dark = old_primary().job(JobKind::Demote(DemoteMode::DemoteCluster)).dark().play();
    dark.fired("HA-402").starts(&Job::Demote(DemoteMode::Offline));
    let stopped = old_primary()
        .job(JobKind::Demote(DemoteMode::DemoteCluster))
        .with(|scene| {
            scene.pg().role = Role::Demoted;
            scene.pg().server = None;
            scene.renew = support::refused();
        })
        .play();
    stopped.fired("HA-034").starts_nothing();
}

#[test]
fn ha_032_a_promotion_that_was_meant_for_before_is_taken_back() {
    let promoting = |cancellable: bool| {
        Scene::standby_leader()
            .job(JobKind::Promote)
            .with(|scene| scene.obs.job.as_mut().unwrap().cancellable = cancellable)
            .play()
    };
    promoting(true).fired("HA-032").does(&Action::CancelJob).does_not(&Action::ForgetLease);
    // pg_ctl promote was called: the next cycle demotes what comes of it.
    promoting(false).fired("HA-031").does_not(&Action::CancelJob);
}

#[test]
fn dm_1_a_demotion_opens_the_rewind_question() {
    for mode in [
        DemoteMode::DemoteCluster,
        DemoteMode::Graceful,
        DemoteMode::Immediate,
        DemoteMode::ImmediateNoLock,
        DemoteMode::Offline,
    ] {
        let played = Scene::stopped().ended(JobKind::Demote(mode), JobEnd::Done).play();
        played.fired("RW-2").does(&Action::CheckDivergence { upstream: member("b") });
    }
}

#[test]
fn dm_8_the_view_is_read_again_before_somebody_is_chosen() {
    for mode in [DemoteMode::DemoteCluster, DemoteMode::Graceful, DemoteMode::ImmediateNoLock] {
        let played = Scene::stopped()
            .in_standby_cluster()
            .ended(JobKind::Demote(mode), JobEnd::Done)
            .with(|scene| scene.reloaded = Some(Ok(scene.clone().led_by("c").view().clone())))
            .play();
        played.does(&Action::ReloadView(ReloadAfter::Crash));
        played.starts(&follow(Some(member("c")), Role::Replica, None));
    }
}

#[test]
fn dm_10_who_kept_the_lock_comes_up_as_the_standby_leader() {
    let demoted = |holder: &str| {
        Scene::stopped()
            .led_by(holder)
            .in_standby_cluster()
            .ended(JobKind::Demote(DemoteMode::DemoteCluster), JobEnd::Done)
            .with(|scene| scene.pg().role = Role::Demoted)
            .play()
    };
    demoted("a").starts(&follow(remote(), Role::StandbyLeader, Some(300)));
    demoted("b").starts(&follow(Some(member("b")), Role::Replica, None));
}

#[test]
fn dm_11_what_must_be_rewound_is_not_started() {
    let demoted = Scene::stopped()
        .led_by("a")
        .in_standby_cluster()
        .ended(JobKind::Demote(DemoteMode::DemoteCluster), JobEnd::Done)
        .with(|scene| scene.divergence = Divergence::Diverged)
        .play();
    demoted.starts(&Job::Rewind { leader: Upstream::Remote, checkpoint_first: true });
    let graceful = Scene::stopped()
        .ended(JobKind::Demote(DemoteMode::Graceful), JobEnd::Done)
        .with(|scene| scene.divergence = Divergence::Diverged)
        .play();
    graceful.starts(&Job::Rewind { leader: member("b"), checkpoint_first: false });
}

#[test]
fn ha_284_a_newer_history_than_the_leaders_asks_for_a_rewind() {
    for (standby, newest, known, asks) in [
        (true, 2, true, true),
        (true, 3, true, true),
        (true, 1, true, false),
        (true, 0, true, false),
        (true, 2, false, false),
        (false, 2, true, false),
    ] {
        let scene = if standby { Scene::standby_leader() } else { Scene::standby() };
        let played = scene
            .with(|scene| {
                scene.pg().newest_history = newest;
                if !known {
                    scene.member("a").0.shift_remove("timeline");
                    scene.pg().server.as_mut().unwrap().timeline = None;
                }
                scene.divergence = Divergence::Diverged;
            })
            .play();
        assert_eq!(played.decision.rules().contains(&"HA-284"), asks, "{standby} {newest} {known}");
        if asks {
            played.starts(&Job::Rewind { leader: Upstream::Remote, checkpoint_first: true });
        }
    }
}

#[test]
fn ha_287_the_role_of_whoever_follows_the_remote_member() {
    let role = |scene: Scene| {
        let played = scene.with(|scene| scene.difference = RecoveryDifference::Restart).play();
        match played.jobs()[..] {
            [Job::Follow { role, .. }] => *role,
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(role(Scene::standby_leader()), Role::StandbyLeader);
    assert_eq!(role(Scene::standby().in_standby_cluster()), Role::Replica);
    // Unlocked, the remote member is followed without the lock.
    let unlocked = Scene::unlocked().in_standby_cluster().with(|scene| scene.acquire = refused());
    assert_eq!(role(unlocked), Role::Replica);
}

#[test]
fn ha_288_with_nobody_to_follow_everything_stays() {
    let lost = Scene::standby().in_standby_cluster().with(|scene| {
        scene.members().retain(|member| member.name != name("b"));
        scene.difference = RecoveryDifference::Restart;
    });
    let played = lost.play();
    played.fired("HA-288").starts_nothing().line("continue following the old known standby leader");
    assert!(!played.has(|action| matches!(action, Action::CompareRecovery { .. })));
    // An archive is no address. For its leader it is what there is to follow.
    let archive = Scene::unlocked().with(|scene| {
        scene.obs.settings.standby_cluster = ARCHIVE_ONLY;
        scene.obs.settings.tags = tags(&json!({"nofailover": true}));
        scene.memory.yielding = Some(ptarmigan_ha::memory::Yield { wish: 0, until: NOW });
        scene.difference = RecoveryDifference::Restart;
    });
    archive.play().fired("HA-288").starts_nothing();
    let leader = Scene::standby_leader().with(|scene| scene.obs.settings.standby_cluster = ARCHIVE_ONLY);
    leader.play().silent("HA-288").does(&Action::CompareRecovery { upstream: remote() });
    // A stale role goes all the same.
    let was_leader = lost.with(|scene| scene.pg().role = Role::StandbyLeader);
    was_leader.play().does(&Action::SetRole(Role::Replica));
}

#[test]
fn ha_292_only_the_role_differs() {
    let played = Scene::standby_leader().with(|scene| scene.pg().role = Role::Replica).play();
    played.fired("HA-292").does(&Action::SetRole(Role::StandbyLeader)).starts_nothing();
    let told = Action::RunCallback(ptarmigan_ha::callbacks::Event::RoleChange);
    played.before(&Action::SetRole(Role::StandbyLeader), &told);
    Scene::standby_leader().play().does_not(&told);
    Scene::standby_leader().play().silent("HA-292").does_not(&Action::SetRole(Role::StandbyLeader));
}

#[test]
fn ha_256_a_standby_cluster_that_became_a_cluster_of_its_own_is_promoted() {
    let played = Scene::standby_leader()
        .with(|scene| {
            scene.obs.settings.standby_cluster = None;
            scene.memory.won = Some(7);
        })
        .play();
    played.fired("HA-256").starts(&Job::Promote { timeline: Some(1) });
    // A lock of which this process does not know how it was won: whoever is ahead keeps it from promoting.
    let ahead = Scene::standby_leader()
        .with(|scene| {
            scene.obs.settings.standby_cluster = None;
            scene.peers[1].lsn.0 += 100;
        })
        .play();
    ahead.fired("HN-7").starts_nothing().does(&Action::ReleaseLock(leader("a")));
}

#[test]
fn rw_6_the_remote_member_publishes_no_role() {
    let diverged = |scene: Scene| {
        scene
            .down(MemberState::Stopped, ControlState::ShutDown)
            .with(|scene| scene.divergence = Divergence::Diverged)
            .play()
    };
    // Also a secondary of a standby cluster is compared with the remote member, not with its leader.
    for scene in [Scene::standby_leader(), Scene::standby().in_standby_cluster()] {
        diverged(scene).starts(&Job::Rewind { leader: Upstream::Remote, checkpoint_first: true });
    }
    let archive = Scene::standby_leader().with(|scene| scene.obs.settings.standby_cluster = ARCHIVE_ONLY);
    let played = diverged(archive);
    played.starts(&follow(remote(), Role::StandbyLeader, Some(300)));
    // A leader of this cluster has to publish it.
    let replica =
        Scene::standby().with(|scene| drop(scene.member("b").0.insert("role".into(), json!("replica"))));
    let played = diverged(replica);
    played.fired("RW-6").does_not(&Action::CheckDivergence { upstream: member("b") });
}

#[test]
fn rw_10_a_standby_cluster_removes_nothing_that_diverged() {
    for divergence in [Divergence::Diverged, Divergence::SameTimelineTwice] {
        let played = Scene::standby()
            .in_standby_cluster()
            .with(|scene| {
                scene.obs.settings.remove_data_directory_on_diverged_timelines = true;
                scene.pg().rewind_possible = false;
                scene.memory.rewind = RewindState::Check;
                scene.divergence = divergence;
            })
            .play();
        played.starts_nothing().does_not(&Action::RemoveDataDirectory);
    }
}

#[test]
fn rw_10_after_a_rewind_from_the_remote_member_it_is_asked_again() {
    let played = stopped_leader(Role::StandbyLeader, ControlState::InArchiveRecovery)
        .ended(JobKind::Rewind, JobEnd::Done)
        .with(|scene| scene.memory.rewind = RewindState::Need)
        .play();
    played.does(&Action::CheckDivergence { upstream: Upstream::Remote });
    played.starts(&follow(remote(), Role::StandbyLeader, Some(300)));
    assert_eq!(Source::remote().leader, Upstream::Remote);
}

#[test]
fn rw_12_of_the_remote_member_a_checkpoint_is_asked_by_sql() {
    let played = Scene::standby_leader()
        .with(|scene| {
            scene.memory.rewind = RewindState::Need;
            // What the leader of this cluster says of its checkpoint is not what counts.
            scene.member("a").0.insert("checkpoint_after_promote".into(), json!(false));
        })
        .play();
    played.starts(&Job::Rewind { leader: Upstream::Remote, checkpoint_first: true });
}

fn empty() -> Scene {
    Scene::stopped().in_standby_cluster().with(|scene| {
        let postgres = scene.pg();
        postgres.data_directory = DataDirectory::Empty;
        postgres.system_identifier = None;
        postgres.role = Role::Uninitialized;
    })
}

#[test]
fn b_17_5_the_first_member_copies_the_remote_member() {
    let nobody = empty().unled().with(|scene| {
        scene.view().initialize = None;
        scene.view().status = ptarmigan_types::Status::default();
        scene.members().clear();
    });
    let played = nobody.play();
    played
        .fired("BS-1")
        .starts(&Job::BootstrapStandbyLeader)
        .line("trying to bootstrap a new standby leader");
    assert!(played.memory().bootstrapping);
    let copied = Scene::unlocked()
        .in_standby_cluster()
        .ended(JobKind::BootstrapStandbyLeader, JobEnd::Done)
        .with(|scene| {
            scene.memory.bootstrapping = true;
            scene.memory.joined = false;
            scene.view().initialize = Some(Initialize { value: String::new(), revision: 2 });
        });
    let played = copied.play();
    played.fired("HA-064").line("initialized a new cluster").does(&Action::SetRole(Role::StandbyLeader));
    played.does(&Action::AcquireLock).does(&Action::WriteConfig).does_not(&Action::EnsureCheckpoint);
    assert!(!played.memory().bootstrapping);
    let failed = Scene::unlocked()
        .in_standby_cluster()
        .down(MemberState::Stopped, ControlState::Unknown)
        .ended(JobKind::BootstrapStandbyLeader, JobEnd::Failed("no".into()))
        .with(|scene| {
            scene.memory.bootstrapping = true;
            scene.view().initialize = Some(Initialize { value: String::new(), revision: 2 });
        });
    failed.play().fired("HA-060").does(&Action::DeleteInitialize).does(&Action::AbandonBootstrap);
}

#[test]
fn bs_3_without_a_standby_leader_the_remote_member_is_copied() {
    let waiting = empty().unled();
    let no_leader = waiting.clone().with(|scene| scene.obs.settings.can_clone_without_leader = true).play();
    no_leader.fired("BS-3").starts(&Job::Clone { source: remote() });
    // The others have data: one of them will lead.
    waiting.play().fired("BS-4").starts_nothing();
    // Nobody has: what was lost is where it came from.
    let lost = waiting.with(|scene| {
        for member in ["a", "b", "c"] {
            let data = scene.member(member);
            for field in ["timeline", "xlog_location"] {
                data.0.shift_remove(field);
            }
            data.0.insert("state".into(), json!("stopped"));
        }
    });
    lost.play().fired("BS-3").starts(&Job::Clone { source: remote() });
    let changes: [Change; 3] = [
        |scene| scene.obs.settings.standby_cluster = ARCHIVE_ONLY,
        |scene| scene.obs.settings.standby_cluster = None,
        |scene| scene.obs.settings.tags = tags(&json!({"nofailover": true})),
    ];
    for change in changes {
        lost.clone().with(change).play().fired("BS-4").starts_nothing();
    }
}

#[test]
fn bs_4_everybody_else_waits_for_the_standby_leader() {
    let played = empty().unled().play();
    played.fired("BS-4").starts_nothing().line("waiting for standby_leader to bootstrap");
    empty().play().fired("BS-2").starts(&Job::Clone { source: Some(member("b")) });
}

#[test]
fn b_12_a_standby_leader_switches_over_as_a_primary_does() {
    let played = Scene::standby_leader()
        .with(|scene| scene.view().failover = Some(failover(Some("a"), Some("c"))))
        .play();
    played.fired("HA-235").starts(&Job::Demote(DemoteMode::Graceful));
}
