//! Somebody holds the lock (contract B.11 to B.13).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job, Outcome,
    action::When,
    memory::FailedJob,
    observation::{JobEnd, JobKind},
};
use ptarmigan_types::{Lsn, MemberState, Role, ScheduledAt};
use serde_json::json;
use support::*;

const STEP_DOWN: Job = Job::Demote(DemoteMode::ImmediateNoLock);
const GRACEFUL: Job = Job::Demote(DemoteMode::Graceful);

#[test]
fn ha_163_to_ha_166_the_leader_with_the_lock() {
    let played = Scene::primary().play();
    played.fired("HA-016").fired("HA-163").fired("HA-230").fired("HA-164").fired("HA-166").fired("HA-253");
    played.line("no action. I am (a), the leader with the lock").starts_nothing();
    played.before(&Action::RenewLock(leader("a")), &Action::WriteStatus);
    played.does(&Action::EnsureCheckpoint).wakes_in(secs(10));
    assert!(!played.has(|action| matches!(action, Action::SetRole(_) | Action::AskPeers(_))));
}

#[test]
fn ha_172_renewal_refused_on_primary_demotes_without_release() {
    let told_to_promote = Scene::standby().led_by("a").with(|scene| scene.pg().role = Role::Promoted);
    let silent = Scene::primary().with(|scene| scene.pg().server = None);
    for scene in [Scene::primary(), told_to_promote, silent] {
        let played = scene.with(|scene| scene.renew = refused()).play();
        played.fired("HA-172").starts(&STEP_DOWN).does(&Action::ForgetLease);
        played.line("demoted self because failed to update leader lock in DCS");
        assert!(!played.has(|action| matches!(action, Action::ReleaseLock(_) | Action::WriteStatus)));
    }
}

#[test]
fn ha_173_renewal_refused_on_a_standby_does_not_promote() {
    let played = Scene::standby().led_by("a").with(|scene| scene.renew = refused()).play();
    played.fired("HA-173").starts_nothing().does(&Action::ForgetLease);
    played.line("not promoting because failed to update leader lock in DCS");
}

#[test]
fn ha_176_a_secondary_follows() {
    let played = Scene::standby().play();
    played.fired("HA-176").fired("HA-294").starts_nothing();
    played.line("no action. I am (a), a secondary, and following a leader (b)");
    let primary = Scene::primary().led_by("b").play();
    primary.fired("HA-282").starts(&STEP_DOWN);
    primary.line("demoting self because I do not have the lock and I was a leader");
}

fn wished(leader: Option<&str>, candidate: Option<&str>) -> Scene {
    Scene::primary().with(|scene| scene.view().failover = Some(failover(leader, candidate)))
}

const CLEAR: Action = Action::ClearFailover(When::Revision(9));

#[test]
fn ha_231_to_ha_236_the_leader_and_an_operators_wish() {
    struct Case {
        wish: (Option<&'static str>, Option<&'static str>),
        change: Change,
        rule: &'static str,
        demotes: bool,
    }
    let far_behind = |scene: &mut Scene| {
        scene.peers[1].lsn = Lsn(1);
    };
    let cases = [
        Case { wish: (Some("b"), Some("c")), change: |_| {}, rule: "HA-232", demotes: false },
        Case { wish: (None, Some("a")), change: |_| {}, rule: "HA-233", demotes: false },
        Case { wish: (Some("a"), Some("c")), change: |_| {}, rule: "HA-235", demotes: true },
        Case { wish: (None, Some("c")), change: |_| {}, rule: "HA-235", demotes: true },
        Case { wish: (Some("a"), None), change: |_| {}, rule: "HA-235", demotes: true },
        Case { wish: (Some("a"), None), change: far_behind, rule: "HA-235", demotes: true },
        Case { wish: (Some("a"), Some("c")), change: far_behind, rule: "HA-236", demotes: false },
        Case { wish: (Some("a"), Some("z")), change: |_| {}, rule: "HA-236", demotes: false },
        Case { wish: (Some("a"), None), change: |scene| scene.peers.clear(), rule: "HA-236", demotes: false },
        Case {
            wish: (Some("a"), Some("c")),
            change: |scene| {
                scene.member("c").0.insert("tags".into(), json!({"nofailover": true}));
            },
            rule: "HA-236",
            demotes: false,
        },
        Case {
            wish: (Some("a"), Some("c")),
            change: |scene| {
                scene.obs.settings.check_timeline = true;
                scene.view().history = Some(history(&[1]));
            },
            rule: "HA-236",
            demotes: false,
        },
    ];
    for (index, Case { wish, change, rule, demotes }) in cases.into_iter().enumerate() {
        let played = wished(wish.0, wish.1).with(change).play();
        played.fired(rule);
        assert_eq!(played.did(&CLEAR), !demotes, "case {index}: the key stays for the followers");
        if demotes {
            played.starts(&GRACEFUL).line("manual failover: demoting myself").silent("HA-166");
        } else {
            played.starts_nothing().line("no action. I am (a), the leader with the lock");
        }
    }
}

#[test]
fn ha_235_not_again_at_once_after_a_stop_that_failed() {
    let failed = FailedJob { kind: JobKind::Demote(DemoteMode::Graceful), at: NOW };
    let played = wished(Some("a"), Some("c")).with(|scene| scene.memory.failed = Some(failed)).play();
    played.starts_nothing().wakes_in(secs(1)).does_not(&CLEAR);
}

/// Whoever stepped down for a candidate that has promised not to lead would leave the cluster without a primary.
#[test]
fn fs_8_a_switchover_waits_until_the_others_may_lead_again() {
    let promised = |until| {
        let wished = wished(Some("a"), Some("c"));
        wished.with(|scene| scene.memory.failsafe.binds_until = Some(until)).play()
    };
    promised(at(1004)).fired("FS-8").starts_nothing().does_not(&CLEAR).wakes_in(secs(4));
    promised(NOW).silent("FS-8").starts(&GRACEFUL);
}

#[test]
fn ha_231_sa_2_sa_4_a_scheduled_switchover() {
    let scheduled = |at: ScheduledAt| {
        let scene = wished(Some("a"), Some("c"));
        scene.with(|scene| scene.view().failover.as_mut().unwrap().scheduled_at = Some(at)).play()
    };
    let after = |seconds: i64| ScheduledAt::At(wall() + jiff::SignedDuration::from_secs(seconds));
    scheduled(after(3)).fired("HA-231").starts_nothing().does_not(&CLEAR).wakes_in(secs(3));
    scheduled(after(60)).fired("HA-231").starts_nothing().wakes_in(secs(10));
    for due in [0, -15] {
        scheduled(after(due)).fired("HA-235").starts(&GRACEFUL);
    }
    for (dropped, rule) in [(after(-16), "SA-2"), (ScheduledAt::Unusable("soon".into()), "SA-4")] {
        scheduled(dropped).fired(rule).starts_nothing().does(&CLEAR);
    }
}

fn gave_up(ago: u64) -> Scene {
    Scene::standby().led_by("a").with(|scene| scene.memory.released_at = Some(at(1000 - ago)))
}

#[test]
fn ha_252_a_failed_pre_promote_gives_the_lock_up() {
    let heard = Scene::standby().led_by("a").ended(JobKind::Promote, JobEnd::PrePromoteFailed).play();
    // As long as the lock is still here, it was not given up: the store may not have answered.
    for played in [heard, gave_up(0).play(), gave_up(29).play()] {
        played.fired("HA-252").does(&Action::ReleaseLock(leader("a"))).starts_nothing();
        played.line("Promotion cancelled because the pre-promote script failed");
    }
    gave_up(30).play().silent("HA-252").starts(&Job::Promote { timeline: Some(1) });
}

#[test]
fn ha_252_a_writable_server_does_not_give_its_lock_away() {
    let played = Scene::primary().with(|scene| scene.memory.released_at = Some(NOW)).play();
    played.fired("HA-253").does_not(&Action::ReleaseLock(leader("a")));
}

#[test]
fn ha_252_the_result_survives_a_cycle_without_the_dcs() {
    let mut scene = Scene::standby().led_by("a").ended(JobKind::Promote, JobEnd::PrePromoteFailed);
    scene.memory = scene.clone().dark().play().decision.memory;
    scene.obs.finished.clear();
    scene.obs.now = at(1005);
    scene.play().fired("HA-252").starts_nothing();
}

#[test]
fn ha_253_the_role_is_noted() {
    let played = Scene::primary().with(|scene| scene.pg().role = Role::Promoted).play();
    played.fired("HA-253").does(&Action::SetRole(Role::Primary));
}

#[test]
fn ha_254_a_promotion_that_is_not_done_yet() {
    for role in [Role::Promoted, Role::Primary] {
        let played = Scene::standby().led_by("a").with(|scene| scene.pg().role = role).play();
        played.fired("HA-254").starts_nothing().wakes_in(secs(1));
    }
}

#[test]
fn ha_256_a_standby_with_the_lock_promotes() {
    let played = Scene::standby().led_by("a").play();
    played.fired("HA-256").starts(&Job::Promote { timeline: Some(1) });
    played.line("promoted self to leader because I had the session lock");
    played.before(&Action::RenewLock(leader("a")), &Action::StartJob(Job::Promote { timeline: Some(1) }));
}

#[test]
fn b_24_history_is_brought_up_to_date_once() {
    for (timeline, finished, done, writes) in [
        (1, None, None, false),
        (1, Some(&[][..]), None, false),
        (1, Some(&[1][..]), None, true),
        (2, Some(&[1][..]), None, false),
        (2, None, None, true),
        (2, None, Some(2), true),
        (3, Some(&[1][..]), None, true),
        (3, Some(&[1][..]), Some(3), true),
    ] {
        let played = Scene::primary()
            .with(|scene| {
                scene.server().timeline = Some(timeline);
                scene.view().history = finished.map(history);
                scene.memory.history_done = done;
            })
            .play();
        assert_eq!(played.did(&Action::UpdateHistory(timeline)), writes, "{timeline} {finished:?} {done:?}");
        assert_eq!(played.memory().history_done, Some(timeline));
    }
    let nameless = Scene::primary().with(|scene| {
        scene.server().timeline = Some(2);
        scene.view().history = Some(history(&[1]));
        let entries = scene.view().history.as_mut().unwrap().entries.as_mut().unwrap();
        entries[0].new_leader = None;
    });
    nameless.play().does(&Action::UpdateHistory(2));
    let told = nameless.with(|scene| scene.memory.history_done = Some(2)).play();
    told.does_not(&Action::UpdateHistory(2));
    let unknown = Scene::primary().with(|scene| scene.server().timeline = None).play();
    assert!(!unknown.has(|action| matches!(action, Action::UpdateHistory(_))));
}

#[test]
fn b_1_a_primary_that_does_not_answer_stays_one() {
    let played = Scene::primary().with(|scene| scene.pg().server = None).play();
    played.fired("HA-253").starts_nothing();
    assert_eq!(Scene::primary().obs.postgres.state, MemberState::Running);
}

#[test]
fn ha_256_a_lock_that_was_not_won_is_kept_only_by_who_would_win_it() {
    let holder = |won: Option<u64>, change: fn(&mut Scene)| {
        let scene = Scene::standby().with(|scene| {
            scene.view().leader = Some(leader("a"));
            scene.memory.won = won;
        });
        scene.with(change).play()
    };
    let ahead = |scene: &mut Scene| scene.peers[0].lsn = Lsn(HERE.0 + 1);
    let primary = |scene: &mut Scene| scene.peers[1].in_recovery = false;
    let promote = Job::Promote { timeline: Some(1) };
    holder(Some(7), ahead).starts(&promote);
    for won in [None, Some(3)] {
        holder(won, |_| {}).starts(&promote);
        holder(won, |scene| scene.peers.clear()).starts(&promote);
        holder(won, |scene| scene.view().status.last_lsn = Lsn(u64::MAX)).starts(&promote);
        for (change, rule) in [(ahead as fn(&mut Scene), "HN-7"), (primary, "HN-6")] {
            let played = holder(won, change);
            played.fired(rule).starts_nothing().does(&Action::ReleaseLock(leader("a")));
        }
    }
    // Found by the simulation: the daemon before had begun to promote, and a primary without a lock was about to be there.
    let promoting = holder(None, |scene| {
        scene.peers[0].lsn = Lsn(HERE.0 + 1);
        scene.resume = Outcome::Failed("standby promotion is ongoing".into());
    });
    promoting.does_not(&Action::ReleaseLock(leader("a"))).starts_nothing();
    promoting.line("keeping the leader lock: PostgreSQL may be in the middle of a promotion");
    // A server that was a primary under this lock needs no race to be one again.
    let played = Scene::primary().play();
    assert_eq!(played.memory().won, Some(7));
}

#[test]
fn ha_164_the_checkpoint_after_a_promotion_is_seen_to_by_the_leader() {
    Scene::primary().play().fired("HA-164").does(&Action::EnsureCheckpoint);
    Scene::standby().play().silent("HA-164").does_not(&Action::EnsureCheckpoint);
    Scene::primary().with(|scene| scene.renew = refused()).play().does_not(&Action::EnsureCheckpoint);
}

#[test]
fn ha_166_the_holder_is_made_the_primary() {
    Scene::primary().play().fired("HA-166").line("no action. I am (a), the leader with the lock");
    let standby = Scene::standby().led_by("a").play();
    standby.fired("HA-166").starts(&Job::Promote { timeline: Some(1) });
    standby.line("promoted self to leader because I had the session lock");
}

#[test]
fn ha_232_a_switchover_from_somebody_else_is_dropped() {
    let played = wished(Some("b"), Some("c")).play();
    played.fired("HA-232").does(&CLEAR).starts_nothing();
}

#[test]
fn ha_233_a_wish_for_the_leader_itself_is_dropped() {
    for leader in [None, Some("a")] {
        let played = wished(leader, Some("a")).play();
        played.fired("HA-233").does(&CLEAR).starts_nothing();
    }
}

#[test]
fn ha_236_a_wish_that_nobody_can_fulfil_is_dropped() {
    for candidate in [None, Some("c"), Some("z")] {
        let played = wished(Some("a"), candidate).with(|scene| scene.peers.clear()).play();
        played.fired("HA-236").does(&CLEAR).starts_nothing();
        played.line("no action. I am (a), the leader with the lock");
    }
}
