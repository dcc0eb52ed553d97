//! Failsafe mode (contract B.15), of the primary that asks and of the members that promise.

mod support;

use std::collections::BTreeMap;

use ptarmigan_ha::{
    Action, DemoteMode, Job, Memory, Outcome,
    action::{PeerAddress, When},
    failsafe::{Ledger, Promise, Refusal, Seen, Standing, with_positions, with_promised_leader},
    observation::{JobKind, Observation},
};
use ptarmigan_types::{Cluster, FailsafeRequest, Lsn, MemberState, Role};
use serde_json::json;
use support::*;

const OFFLINE: Job = Job::Demote(DemoteMode::Offline);
const GOES_ON: &str =
    "continue to run as a leader because failsafe mode is enabled and all members are accessible";
const DEMOTES: &str = "demoting self because DCS is not accessible and I was a leader";

fn promised() -> Outcome {
    Outcome::Promised { until: NOW + secs(30), positions: BTreeMap::new() }
}

fn ask(members: &[&str]) -> Action {
    let addresses = members
        .iter()
        .map(|member| PeerAddress { name: name(member), api_url: format!("http://{member}:8008/patroni") });
    Action::AskFailsafe(addresses.collect())
}

fn seen(members: Option<&[&str]>) -> Seen {
    Seen { members: members.map(failsafe_of), revision: Some(5), ..Seen::default() }
}

/// A primary with the mode on that has seen these in `/failsafe`.
fn primary(members: Option<&[&str]>) -> Scene {
    Scene::primary().with(|scene| {
        scene.obs.settings.failsafe_mode = true;
        scene.memory.failsafe = seen(members);
        scene.failsafe = promised();
    })
}

fn all() -> Scene {
    primary(Some(&["a", "b", "c"]))
}

#[test]
fn fs_1_who_is_not_in_the_last_failsafe_fails() {
    for members in [None, Some(&["b", "c"][..]), Some(&[][..])] {
        let played = primary(members).dark().play();
        played.fired("FS-1").fired("HA-402").starts(&OFFLINE).line(DEMOTES);
        assert!(!played.has(|action| matches!(action, Action::AskFailsafe(_))));
    }
}

#[test]
fn fs_2_alone_in_it_nobody_is_asked() {
    let played = primary(Some(&["a"])).dark().play();
    played.fired("FS-2").fired("HA-401").does(&ask(&[])).starts_nothing().line(GOES_ON);
}

#[test]
fn fs_3_everybody_else_is_asked_and_also_who_may_have_been_added() {
    all().dark().play().fired("FS-3").does(&ask(&["b", "c"]));
    // A write without an answer may have been carried out: d may race.
    let mut scene = all();
    scene.memory.failsafe.written = Some(failsafe_of(&["a", "d"]));
    scene.dark().play().does(&ask(&["b", "c", "d"])).starts_nothing();
}

#[test]
fn fs_5_all_or_nothing() {
    all().dark().play().fired("FS-5").fired("HA-401").starts_nothing();
    for answer in [refused(), no_answer(), Outcome::Done] {
        let played = all().with(|scene| scene.failsafe = answer.clone()).dark().play();
        played.fired("FS-5").silent("HA-401").fired("HA-402").starts(&OFFLINE);
    }
}

#[test]
fn ha_400_whatever_the_store_does_not_answer_ends_here() {
    let mut view = all();
    view.view().failsafe = Some(failsafe_of(&["a", "b", "c"]));
    view.view().failsafe_revision = Some(5);
    let renewal = view.clone().with(|scene| scene.renew = no_answer());
    let race = view.clone().unled().with(|scene| scene.acquire = no_answer());
    let config = view.clone().with(|scene| {
        scene.view().config = None;
        scene.reloaded = Some(Err("no answer".into()));
    });
    for scene in [all().dark(), renewal, race, config] {
        let played = scene.play();
        played.fired("HA-400").fired("HA-401").does(&ask(&["b", "c"])).does_not(&Action::WriteMember);
        played.starts_nothing();
        assert_eq!(played.memory().failsafe.until, Some(NOW + secs(30)));
    }
}

#[test]
fn ha_401_goes_on_as_a_leader() {
    let played = all().dark().play();
    played.line(GOES_ON).does(&Action::SyncSlots).does_not(&Action::ForgetLease).wakes_in(secs(10));
    // The lock was not held before.
    all().led_by("b").dark().play().fired("HA-401");
    // It never waits longer than its lease allows.
    all().with(|scene| scene.obs.settings.loop_wait = secs(29)).dark().play().wakes_in(secs(10));
    // What is under way goes on, and does not get in the way of slots.
    let restart = all().job(JobKind::Restart).dark().play();
    restart.fired("HA-401").does_not(&Action::CancelJob).does_not(&Action::SyncSlots);
    let graceful = all().job(JobKind::Demote(DemoteMode::Graceful)).dark().play();
    graceful.fired("HA-401").does_not(&Action::CancelJob);
    let promoting = all()
        .with(|scene| scene.pg().role = Role::Promoted)
        .job(JobKind::Promote)
        .with(|scene| scene.obs.job.as_mut().unwrap().cancellable = false);
    promoting.dark().play().fired("HA-401").does_not(&Action::CancelJob);
}

#[test]
fn ha_401_only_with_the_mode_and_only_for_a_primary() {
    let off = all().with(|scene| scene.obs.settings.failsafe_mode = false).dark().play();
    off.fired("HA-402").starts(&OFFLINE);
    let stopping = all().job(JobKind::Demote(DemoteMode::Offline)).dark().play();
    stopping.fired("HA-402").silent("HA-401").starts_nothing();
    let standby = Scene::standby().with(|scene| {
        scene.obs.settings.failsafe_mode = true;
        scene.memory.failsafe = seen(Some(&["a", "b", "c"]));
    });
    // HA-403: a standby sees to its slots and nothing else.
    let played = standby.clone().dark().play();
    played.fired("HA-403").does(&Action::SyncSlots).starts_nothing().silent("FS-3").line(DARK_LINE);
    let off = standby.with(|scene| scene.obs.settings.failsafe_mode = false).dark().play();
    off.fired("HA-403").does_not(&Action::SyncSlots);
    all()
        .down(MemberState::Stopped, ptarmigan_ha::observation::ControlState::ShutDown)
        .dark()
        .play()
        .fired("HA-404")
        .silent("FS-3");
}

#[test]
fn ha_402_clears_what_was_known_of_a_round() {
    let mut scene = all().with(|scene| scene.failsafe = refused());
    scene.memory.failsafe.until = Some(NOW + secs(10));
    let played = scene.dark().play();
    played.does(&Action::ForgetLease).before(&ask(&["b", "c"]), &Action::ForgetLease);
    assert_eq!(played.memory().failsafe.until, None);
}

fn write(members: &[&str], when: When) -> Action {
    Action::WriteFailsafe { members: failsafe_of(members), when }
}

#[test]
fn ul_3_the_holder_keeps_failsafe_up_to_date() {
    let on = |scene: &mut Scene| scene.obs.settings.failsafe_mode = true;
    let absent = Scene::primary().with(on).play();
    absent.fired("UL-3").does(&write(&["a", "b", "c"], When::Absent)).wakes_in(secs(1));
    assert_eq!(absent.memory().failsafe.written, Some(failsafe_of(&["a", "b", "c"])));
    let present = |members: &'static [&'static str]| {
        move |scene: &mut Scene| {
            scene.view().failsafe = Some(failsafe_of(members));
            scene.view().failsafe_revision = Some(5);
        }
    };
    let same = Scene::primary().with(on).with(present(&["a", "b", "c"])).play();
    assert!(!same.has(|action| matches!(action, Action::WriteFailsafe { .. })));
    let changed = Scene::primary().with(on).with(present(&["a", "z"])).play();
    changed.does(&write(&["a", "b", "c"], When::Revision(5)));
    // Members without an address cannot be asked; the leader is in it in any case.
    let mine = Scene::primary().with(on).with(|scene| {
        scene.member("c").0.shift_remove("api_url");
        scene.members().retain(|member| member.name != name("a"));
    });
    mine.play().does(&write(&["a", "b"], When::Absent));
    for scene in [
        Scene::primary(),
        Scene::standby().with(on),
        Scene::primary().with(on).with(|scene| scene.renew = refused()),
    ] {
        assert!(!scene.play().has(|action| matches!(action, Action::WriteFailsafe { .. })));
    }
}

#[test]
fn ul_4_also_while_a_long_action_runs() {
    let mut scene = Scene::primary().job(JobKind::Restart);
    scene.obs.settings.failsafe_mode = true;
    let played = scene.play();
    played.fired("HA-031").does(&write(&["a", "b", "c"], When::Absent)).does_not(&Action::WriteStatus);
}

#[test]
fn what_was_written_counts_until_another_revision_is_seen() {
    let written = |revision| {
        let mut scene = Scene::primary();
        scene.obs.settings.failsafe_mode = true;
        scene.memory.failsafe = seen(Some(&["a", "b"]));
        scene.memory.failsafe.written = Some(failsafe_of(&["a", "c"]));
        scene.view().failsafe = Some(failsafe_of(&["a", "b", "c"]));
        scene.view().failsafe_revision = Some(revision);
        scene.play().memory().failsafe.clone()
    };
    assert_eq!(written(5).written, Some(failsafe_of(&["a", "c"])), "it may still be carried out");
    assert_eq!(written(6).written, None);
    assert_eq!((written(6).members, written(6).revision), (Some(failsafe_of(&["a", "b", "c"])), Some(6)));
    // Written in a cycle that the store left half-way.
    let mut scene = Scene::primary();
    scene.obs.settings.failsafe_mode = true;
    scene.view().config = None;
    scene.reloaded = Some(Err("no answer".into()));
    let played = scene.play();
    played.fired("HA-400").does(&write(&["a", "b", "c"], When::Absent));
    assert_eq!(played.memory().failsafe.written, Some(failsafe_of(&["a", "b", "c"])));
}

#[test]
fn ha_212_who_is_not_in_failsafe_does_not_race() {
    let scene = |members: Option<&[&str]>| {
        let mut scene = Scene::unlocked();
        scene.obs.settings.failsafe_mode = true;
        scene.view().failsafe = members.map(failsafe_of);
        scene.view().failsafe_revision = members.map(|_| 5);
        scene
    };
    let silent = |scene: &mut Scene| scene.peers.retain(|peer| peer.name != name("c"));
    let played = scene(Some(&["b", "c"])).with(silent).play();
    played.fired("HA-212").fired("HA-135").does_not(&Action::AcquireLock);
    let leads = |scene: &mut Scene| scene.peers[0].in_recovery = false;
    scene(Some(&["b", "c"])).with(leads).play().fired("HA-212").does_not(&Action::AcquireLock);
    // One without data does not lead, and is none to wait for (found by the simulation).
    let empty = |scene: &mut Scene| scene.peers[1] = ptarmigan_ha::facts::PeerAnswer::without_data(name("c"));
    scene(Some(&["b", "c"])).with(empty).play().silent("HA-212").does(&Action::AcquireLock);
    // Whoever goes on without the DCS is one of those: all of them answer, and none as a primary.
    scene(Some(&["b", "c"])).play().silent("HA-212").does(&Action::AcquireLock);
    for members in [Some(&["a", "b"][..]), Some(&[][..]), None] {
        scene(members).play().silent("HA-212").does(&Action::AcquireLock);
    }
    // Whoever was cut off when the mode was switched off may not have heard of it yet.
    for (off_since, races) in [(None, false), (Some(971), false), (Some(970), true)] {
        let mut off = scene(Some(&["b", "c"])).with(silent);
        off.obs.settings.failsafe_mode = false;
        off.memory.failsafe.off_since = off_since.map(at);
        let played = off.play();
        assert_eq!(played.did(&Action::AcquireLock), races, "{off_since:?}");
        assert_eq!(played.memory().failsafe.off_since, Some(off_since.map_or(NOW, at)));
    }
}

/// Found by the simulation: the leader went on alone without the DCS, and an operator's wish led to another one.
#[test]
fn ha_212_comes_before_an_operators_wish() {
    let scene = |members: &[&str], wish: (Option<&str>, Option<&str>)| {
        let mut scene = Scene::unlocked();
        scene.obs.settings.failsafe_mode = true;
        scene.view().failsafe = Some(failsafe_of(members));
        scene.view().failover = Some(failover(wish.0, wish.1));
        scene.with(|scene| scene.peers.retain(|peer| peer.name != name("b")))
    };
    for wish in [(Some("b"), None), (None, Some("a"))] {
        let played = scene(&["b"], wish).play();
        played.fired("HA-212").silent("HA-210").does_not(&Action::AcquireLock);
        scene(&["a", "b"], wish).play().silent("HA-212").fired("HA-210").does(&Action::AcquireLock);
    }
    // Nor does anybody leave the lock to a candidate whom that keeps from it.
    let left = scene(&["a", "b"], (Some("b"), Some("c")));
    left.play().fired("HA-212").fired("HA-225").silent("HA-224").does(&Action::AcquireLock);
    let answering = scene(&["a"], (Some("b"), Some("c"))).play();
    answering.fired("HA-224").does_not(&Action::AcquireLock);
}

#[test]
fn ha_213_who_is_only_in_failsafe_is_asked_too() {
    let mut scene = Scene::unlocked();
    scene.obs.settings.failsafe_mode = true;
    scene.members().retain(|member| member.name != name("c"));
    scene.memory.old_members = std::sync::Arc::new(vec![member_of("d", &json!({"api_url": "http://old/"}))]);
    let mut failsafe = failsafe_of(&["a", "c"]);
    failsafe.insert("b".into(), "http://elsewhere:1/patroni".into());
    failsafe.insert("d".into(), "http://new/".into());
    scene.view().failsafe = Some(failsafe);
    let played = scene.play();
    let asked = played.actions.iter().find_map(|action| match action {
        Action::AskPeers(asked) => Some(asked),
        _ => None,
    });
    let mut asked: Vec<(&str, &str)> =
        asked.unwrap().iter().map(|peer| (peer.name.as_str(), peer.api_url.as_str())).collect();
    asked.sort_unstable();
    // The view wins over /failsafe, which wins over members of long ago.
    assert_eq!(asked, [("b", "http://b:8008/patroni"), ("c", "http://c:8008/patroni"), ("d", "http://new/")]);
}

fn standing() -> Standing {
    Standing {
        me: name("b"),
        failsafe_mode: true,
        ttl: secs(30),
        may_write: false,
        leads: false,
        last_leader: Some((name("a"), 7)),
    }
}

fn request() -> FailsafeRequest {
    FailsafeRequest {
        name: name("a"),
        conn_url: "postgres://a:5432/postgres".into(),
        api_url: "http://a:8008/patroni".into(),
        slots: Some(BTreeMap::from([("b".to_owned(), Lsn(7))])),
        ttl: None,
        lock: None,
        guarded: false,
    }
}

#[test]
fn fs_6_without_the_mode_nothing_is_promised() {
    let off = Standing { failsafe_mode: false, ..standing() };
    let mut ledger = Ledger::default();
    assert_eq!(ledger.give(&off, &request(), NOW), Err(Refusal::Off));
    assert_eq!(ledger.promise(NOW), None);
}

#[test]
fn fs_7_who_may_lead_promises_nothing() {
    let refused = |standing: &Standing, request: &FailsafeRequest| {
        let mut ledger = Ledger::default();
        let refusal = ledger.give(standing, request, NOW).unwrap_err();
        assert_eq!(ledger, Ledger::default());
        refusal
    };
    assert_eq!(refused(&Standing { may_write: true, ..standing() }, &request()), Refusal::Primary);
    assert_eq!(refused(&Standing { leads: true, ..standing() }, &request()), Refusal::Leads);
    let mine = FailsafeRequest { name: name("b"), ..request() };
    assert_eq!(refused(&standing(), &mine), Refusal::MyName(name("b")));
    // A leader of long ago that stood still meanwhile; its own lock tells.
    let other = Standing { last_leader: Some((name("c"), 9)), ..standing() };
    for lock in [None, Some(8), Some(9)] {
        let request = FailsafeRequest { lock, ..request() };
        assert_eq!(refused(&other, &request), Refusal::OtherLeader(name("c")));
    }
    let newer = FailsafeRequest { lock: Some(10), ..request() };
    assert!(Ledger::default().give(&other, &newer, NOW).is_ok());
    let nobody = Standing { last_leader: None, ..standing() };
    assert!(Ledger::default().give(&nobody, &request(), NOW).is_ok());
}

#[test]
fn fs_7_a_race_and_a_promise_exclude_each_other() {
    let mut ledger = Ledger::default();
    ledger.begin(NOW).unwrap();
    ledger.begin(NOW).unwrap();
    assert_eq!(ledger.give(&standing(), &request(), NOW), Err(Refusal::Racing));
    ledger.end();
    assert_eq!(ledger.give(&standing(), &request(), NOW), Err(Refusal::Racing));
    ledger.end();
    ledger.give(&standing(), &request(), NOW).unwrap();
    assert_eq!(ledger.begin(NOW + secs(29)), Err(name("a")));
    ledger.begin(NOW + secs(30)).unwrap();
    ledger.end();
    ledger.end();
    assert!(ledger.give(&standing(), &request(), NOW).is_ok(), "one end too many does no harm");
}

#[test]
fn fs_8_a_leader_under_a_guardian_asks_for_no_more_than_its_lease() {
    for (guarded, lasts) in [(true, 3), (false, 20)] {
        let standing = Standing { ttl: secs(3), ..standing() };
        let request = FailsafeRequest { ttl: Some(secs(3)), guarded, ..request() };
        assert_eq!(Ledger::default().give(&standing, &request, NOW).unwrap().until, NOW + secs(lasts));
    }
}

#[test]
fn fs_8_the_promise_lasts_as_long_as_either_counts() {
    for (mine, theirs, lasts) in
        [(30, None, 30), (30, Some(60), 60), (60, Some(30), 60), (3, None, 20), (3, Some(5), 20)]
    {
        let standing = Standing { ttl: secs(mine), ..standing() };
        let request = FailsafeRequest { ttl: theirs.map(secs), ..request() };
        let mut ledger = Ledger::default();
        let promise = ledger.give(&standing, &request, NOW).unwrap();
        assert_eq!(promise.until, NOW + secs(lasts), "{mine} {theirs:?}");
        assert_eq!(ledger.promise(NOW + secs(lasts - 1)), Some(&promise));
        assert_eq!(ledger.promise(NOW + secs(lasts)), None);
    }
}

#[test]
fn fs_8_a_promise_is_kept_to_one_leader_and_never_gets_shorter() {
    let mut ledger = Ledger::default();
    let long = FailsafeRequest { ttl: Some(secs(100)), ..request() };
    ledger.give(&standing(), &long, NOW).unwrap();
    let again = ledger.give(&standing(), &request(), NOW + secs(10)).unwrap();
    assert_eq!(again.until, NOW + secs(100));
    let newer = FailsafeRequest { name: name("c"), lock: Some(99), ..request() };
    assert_eq!(ledger.give(&standing(), &newer, NOW + secs(20)), Err(Refusal::Promised(name("a"))));
    assert!(ledger.give(&standing(), &newer, NOW + secs(100)).is_ok());
    ledger.forget(NOW);
    assert!(ledger.promise(NOW + secs(100)).is_some(), "another one");
    ledger.forget(NOW + secs(130));
    assert_eq!(ledger.promise(NOW + secs(100)), None);
}

#[test]
fn fs_8_a_promise_survives_the_daemon() {
    let mut ledger = Ledger::with(Some(promise("a", NOW + secs(5))));
    assert_eq!(ledger.begin(NOW), Err(name("a")));
    ledger.begin(NOW + secs(5)).unwrap();
}

#[test]
fn fs_8_a_lock_that_was_won_unheard_is_given_up_for_the_promise() {
    let lock = Action::ReleaseLock(leader("a"));
    let scene = Scene::standby().led_by("a").with(|scene| scene.obs.promise = Some(promise("b", at(1001))));
    let played = scene.play();
    played.fired("FS-8").does(&lock).starts_nothing();
    played.line("released the leader lock: this node has promised b not to lead, in failsafe mode");
    for scene in [
        scene.clone().with(|scene| scene.obs.promise = Some(promise("b", NOW))),
        scene.clone().with(|scene| scene.obs.promise = None),
        scene.writable(),
    ] {
        scene.play().silent("FS-8").does_not(&lock);
    }
    // Where its view were not the one of LV-2, it would not race either.
    let unlocked = Scene::unlocked().with(|scene| scene.obs.promise = Some(promise("b", at(1001))));
    unlocked.play().fired("FS-8").does_not(&Action::AcquireLock);
}

/// Found by the simulation: a lock that was won in a race which the store never answered ended a promise that its leader
/// still led by.
#[test]
fn fs_8_a_promise_outlives_a_lock_of_its_leader() {
    let scene = Scene::standby().led_by("b").with(|scene| scene.obs.promise = Some(promise("b", at(1001))));
    let played = scene.play();
    assert!(!played.has(|action| matches!(action, Action::ForgetFailsafe(_))));
}

#[test]
fn ha_022_the_holder_forgets_promises_and_rounds() {
    let scene = Scene::primary().with(|scene| {
        scene.memory.failsafe.until = Some(at(1020));
        scene.obs.promise = Some(promise("z", at(1001)));
    });
    let played = scene.play();
    played.does(&Action::ForgetFailsafe(Some(at(1001))));
    assert_eq!(played.memory().failsafe.until, None);
    let forgets = |action: &Action| matches!(action, Action::ForgetFailsafe(_));
    assert!(!Scene::primary().play().has(forgets));
    for scene in [scene.clone().led_by("b"), scene.with(|scene| scene.renew = refused())] {
        assert!(!scene.play().has(forgets));
    }
}

/// The cluster of a scene.
fn cluster(mut scene: Scene) -> Cluster {
    scene.view().clone()
}

#[test]
fn lv_2_the_leader_that_has_my_promise_leads() {
    let unlocked = cluster(Scene::unlocked());
    let slots = Some(BTreeMap::from([("c".to_owned(), Lsn(9)), ("d_1".to_owned(), Lsn(8))]));
    let to_b = Promise { slots: slots.clone(), ..promise("b", at(1001)) };
    let seen = with_promised_leader(&unlocked, Some(&to_b), NOW).unwrap();
    assert_eq!(seen.leader_name(), Some(&name("b")));
    assert_eq!(seen.status.slots, slots);
    assert_eq!(seen.members, unlocked.members, "its own member key is there");
    // Its member key is gone with its lease: the addresses are those of the promise. Members that stream from another one
    // are where the leader says.
    let scene = Scene::unlocked().with(|scene| {
        scene.members().retain(|member| member.name != name("b"));
        scene.member("c").0.insert("tags".into(), json!({"replicatefrom": "a"}));
        scene.members().push(member_of("d-1", &json!({"tags": {"replicatefrom": "a"}})));
        scene.members().push(member_of("e", &json!({"tags": {"replicatefrom": "a"}})));
    });
    let seen = with_promised_leader(&cluster(scene), Some(&to_b), NOW).unwrap();
    let leader = seen.leader_member().unwrap();
    assert_eq!(leader.data.conn_url(), Some("postgres://b:5432/postgres"));
    assert_eq!(leader.data.api_url(), Some("http://b:8008/patroni"));
    let position = |member: &str| seen.member(&name(member)).unwrap().data.xlog_location();
    assert_eq!((position("c"), position("d-1"), position("e")), (Some(Lsn(9)), Some(Lsn(8)), None));
    // Not where somebody leads, and not for ever.
    for (cluster, promise) in [
        (cluster(Scene::standby()), Some(&to_b)),
        (unlocked.clone(), None),
        (unlocked, Some(&promise("b", NOW))),
    ] {
        assert_eq!(with_promised_leader(&cluster, promise, NOW), None);
    }
}

#[test]
fn lv_2_it_is_followed_and_nobody_races() {
    let seen = with_promised_leader(&cluster(Scene::unlocked()), Some(&promise("b", at(1001))), NOW);
    let mut scene = Scene::standby();
    scene.obs.promise = Some(promise("b", at(1001)));
    *scene.view() = seen.unwrap();
    let played = scene.play();
    played.fired("HA-176").starts_nothing().does_not(&Action::AcquireLock);
    played.line("no action. I am (a), a secondary, and following a leader (b)").wakes_in(secs(1));
}

#[test]
fn lv_6_the_leader_itself_sees_no_other_one_and_takes_the_lock_again() {
    let positions = BTreeMap::from([(name("c"), Lsn(9)), (name("b"), Lsn(8))]);
    let scene = Scene::unlocked().with(|scene| {
        scene.member("c").0.insert("tags".into(), json!({"replicatefrom": "b"}));
    });
    let seen = with_positions(&cluster(scene), &positions);
    assert!(seen.is_unlocked());
    assert_eq!(seen.member(&name("c")).unwrap().data.xlog_location(), Some(Lsn(9)));
    let of_b = |seen: &Cluster| seen.member(&name("b")).unwrap().data.xlog_location();
    assert_eq!(of_b(&seen), None, "it streams from the leader, and was not running");
    let ran =
        Scene::unlocked().with(|scene| drop(scene.member("b").0.insert("xlog_location".into(), json!(5))));
    assert_eq!(of_b(&with_positions(&cluster(ran), &positions)), Some(Lsn(8)), "it has gone on since");
    let back = all().unled().with(|scene| scene.memory.failsafe.until = Some(at(1020)));
    let played = back.play();
    played.fired("HA-205").fired("HA-131").starts_nothing();
}

#[test]
fn lv_4_the_promises_of_all_are_a_lease_of_their_own() {
    let forgets = |scene: Scene| scene.play().did(&Action::ForgetLease);
    let scene = all().unled().with(|scene| scene.memory.failsafe.until = Some(at(1020)));
    assert!(!forgets(scene.clone()));
    assert!(forgets(scene.clone().led_by("b")), "somebody else has the lock");
    assert!(forgets(scene.clone().with(|scene| scene.memory.failsafe.until = Some(NOW))));
    assert!(forgets(all().unled()));
    // The race is lost: it steps down as always.
    let lost = scene.with(|scene| scene.acquire = refused()).play();
    lost.does(&Action::ForgetLease).starts(&Job::Demote(DemoteMode::ImmediateNoLock));
}

#[test]
fn journals_from_before_failsafe_mode_are_read() {
    let mut memory = serde_json::to_value(Memory::default()).unwrap();
    memory.as_object_mut().unwrap().remove("failsafe");
    assert_eq!(serde_json::from_value::<Memory>(memory).unwrap(), Memory::default());
    let observation = Scene::standby().obs;
    let mut text = serde_json::to_value(&observation).unwrap();
    text.as_object_mut().unwrap().remove("promise");
    assert_eq!(serde_json::from_value::<Observation>(text).unwrap(), observation);
}
