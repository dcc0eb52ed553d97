//! Synchronous replication: what the leader does for it, and what it means for who may lead (contract B.21, B.22).

mod support;

use std::time::Duration;

use ptarmigan_ha::{
    Action, DemoteMode, Job,
    action::When,
    facts::PeerAnswer,
    observation::JobKind,
    sync::{Facts, Mode, PLACEHOLDER, Settled, Standby, Told, Wanted},
};
use ptarmigan_types::{Lsn, MemberState, Monotonic, Role, SyncState};
use serde_json::json;
use support::*;

const SOON: Duration = Duration::from_millis(100);
const STEP_ASIDE: &str = "released the leader lock: /sync does not let this node take over any more";

fn write(leader: &str, standbys: &[&str], quorum: u32, when: When) -> Action {
    Action::WriteSync { state: SyncState { revision: 0, ..sync(leader, standbys, quorum) }, when }
}

/// Over the `/sync` of these scenes.
fn rewrite(leader: &str, standbys: &[&str], quorum: u32) -> Action {
    write(leader, standbys, quorum, When::Revision(20))
}

fn names(text: &str) -> Action {
    Action::SetStandbyNames(Wanted::Text(text.into()))
}

fn writes_sync(action: &Action) -> bool {
    matches!(action, Action::WriteSync { .. } | Action::DeleteSync(_))
}

fn sets_names(action: &Action) -> bool {
    matches!(action, Action::SetStandbyNames(_))
}

fn standby(name: &str, sync_state: &str) -> Standby {
    Standby {
        application_name: name.into(),
        state: "streaming".into(),
        sync_state: sync_state.into(),
        lsn: Some(HERE),
    }
}

fn with_lsn(member: &str, lsn: Lsn) -> PeerAnswer {
    PeerAnswer { lsn, ..peer(member) }
}

fn primary(member: &str) -> PeerAnswer {
    PeerAnswer { in_recovery: false, lsn: Lsn(0), ..peer(member) }
}

trait Synchronous {
    fn mode(self, mode: Mode) -> Self;
    fn strict(self) -> Self;
    fn count(self, count: u32) -> Self;
    fn key(self, leader: &str, standbys: &[&str], quorum: u32) -> Self;
    fn in_force(self, text: &str) -> Self;
    fn streaming(self, standbys: &[(&str, &str)]) -> Self;
    fn fenced(self) -> Self;
}

impl Synchronous for Scene {
    fn mode(mut self, mode: Mode) -> Self {
        self.obs.settings.synchronous.mode = mode;
        self.obs.postgres.synchronous = Facts { names: Some(String::new()), owned: true, ..Facts::default() };
        self
    }

    fn strict(mut self) -> Self {
        self.obs.settings.synchronous.strict = true;
        self
    }

    fn count(mut self, count: u32) -> Self {
        self.obs.settings.synchronous.node_count = count;
        self
    }

    fn key(mut self, leader: &str, standbys: &[&str], quorum: u32) -> Self {
        self.view().sync = sync(leader, standbys, quorum);
        self
    }

    /// These names are in force, and have been for long.
    fn in_force(mut self, text: &str) -> Self {
        self.pg().synchronous.names = Some(text.into());
        self.memory.synchronous.settled = Some(Settled {
            names: text.into(),
            postmaster: self.obs.postgres.postmaster_start_time.clone(),
            position: HERE,
        });
        self.memory.synchronous.waits_in = self.obs.postgres.postmaster_start_time.clone();
        self
    }

    fn streaming(mut self, standbys: &[(&str, &str)]) -> Self {
        self.pg().synchronous.standbys =
            standbys.iter().map(|(name, sync_state)| standby(name, sync_state)).collect();
        self
    }

    /// Nothing that was asked of `/sync` before is still on its way.
    fn fenced(mut self) -> Self {
        self.memory.synchronous.fenced = Some(20);
        self
    }
}

fn priority() -> Scene {
    Scene::primary().mode(Mode::Priority)
}

fn quorum() -> Scene {
    Scene::primary().mode(Mode::Quorum)
}

/// `b` is the synchronous standby, `c` is none.
fn steady() -> Scene {
    priority().key("a", &["b"], 0).in_force("b").streaming(&[("b", "sync"), ("c", "async")]).fenced()
}

// Priority mode

#[test]
fn sy_1_an_absent_key_is_created_and_only_if_it_is_absent() {
    let played = priority().streaming(&[("b", "async")]).play();
    played.fired("SY-1").does(&write("a", &[], 0, When::Absent));
    // What cannot be read is overwritten by its revision.
    let garbage = priority().with(|scene| scene.view().sync.revision = 20);
    garbage.play().does(&rewrite("a", &[], 0));
    // Where that fails nothing else is done.
    for failure in [refused(), no_answer()] {
        let played = priority().streaming(&[("b", "async")]).with(|scene| scene.sync = failure).play();
        played.fired("SY-1").fired("HA-253").starts_nothing();
        assert!(!played.has(sets_names));
    }
}

#[test]
fn sy_2_a_new_leader_takes_the_key_over() {
    let played = priority().key("b", &["a", "c"], 0).streaming(&[("b", "async")]).play();
    played.fired("SY-2").does(&rewrite("a", &[], 0));
    played.before(&rewrite("a", &[], 0), &names("b"));
    // By what quorum mode left no single voter has every commit.
    let left = steady().key("a", &["b", "c"], 1).in_force("ANY 1 (b,c)").play();
    left.fired("SY-2").does(&rewrite("a", &[], 0)).before(&rewrite("a", &[], 0), &names("b"));
    // In whatever case.
    steady().key("A", &["B"], 0).play().silent("SY-2").fired("SY-5");
}

#[test]
fn sy_3_who_is_listed_and_not_confirmed_is_not_listed_any_more() {
    let scene = priority().key("a", &["b"], 0).in_force("c").streaming(&[("b", "async")]);
    scene.play().fired("SY-3").does(&rewrite("a", &[], 0));
    let failed = scene.with(|scene| scene.sync = refused()).play();
    failed.fired("SY-3");
    assert!(!failed.has(sets_names));
}

#[test]
fn sy_4_strict_with_nobody_there_holds_commits_back() {
    // The last known standby is waited for, and stays the only one that may take over.
    let alone = steady().strict().streaming(&[]);
    let played = alone.play();
    played.fired("SY-4").silent("SY-6").wakes_in(secs(1));
    assert!(!played.has(writes_sync) && !played.has(sets_names));
    // Nobody is known: the placeholder.
    let never = priority().strict().key("a", &[], 0).in_force("").fenced();
    let played = never.play();
    played.does(&names(PLACEHOLDER)).fired("SY-4");
    assert!(!played.has(writes_sync));
    // A standby is back.
    let back = alone.streaming(&[("b", "sync")]).play();
    back.fired("SY-5");
    // Without strict mode commits wait for nobody.
    let played = steady().streaming(&[]).play();
    played.before(&rewrite("a", &[], 0), &names(""));
    let cleared = priority().key("a", &[], 0).in_force("b").fenced().play();
    cleared.fired("SY-4").does(&names(""));
}

#[test]
fn sy_5_nothing_is_done_where_both_places_are_as_they_should_be() {
    let played = steady().play();
    played.fired("SY-5").wakes_in(secs(10));
    assert!(!played.has(writes_sync) && !played.has(sets_names));
    let nobody = priority().key("a", &[], 0).in_force("").play();
    nobody.fired("SY-5");
    // Left by quorum mode: the same standby, but another notation.
    let notation = steady().in_force("ANY 1 (b)").streaming(&[("b", "sync")]).play();
    notation.fired("SY-5").does(&names("b"));
}

#[test]
fn sy_6_a_lost_standby_leaves_the_key_before_the_names() {
    let scene = steady().streaming(&[("c", "async")]);
    let played = scene.play();
    played.fired("SY-6").before(&rewrite("a", &[], 0), &names("c")).wakes_in(SOON);
    // Whoever was not taken out of the key is still waited for.
    for failure in [refused(), no_answer()] {
        let failed = scene.clone().with(|scene| scene.sync = failure).play();
        failed.fired("SY-6").starts_nothing();
        assert!(!failed.has(sets_names));
    }
}

#[test]
fn sy_7_the_best_candidates_are_named() {
    let added = steady().count(2);
    added.play().fired("SY-7").does(&names("2 (b,c)")).wakes_in(SOON);
    // The names are in force, and what was written before cannot follow any more.
    let late = added.with(|scene| scene.memory.synchronous.fenced = None).play();
    late.before(&rewrite("a", &["b"], 0), &names("2 (b,c)"));
}

#[test]
fn sy_8_a_standby_that_has_not_caught_up_is_looked_at_again() {
    let behind = priority().key("a", &[], 0).in_force("b").streaming(&[("b", "sync")]).fenced();
    let scene =
        behind.with(|scene| scene.memory.synchronous.settled.as_mut().unwrap().position = Lsn(HERE.0 + 1));
    let played = scene.play();
    played.fired("SY-8").wakes_in(SOON);
    assert!(!played.has(writes_sync));
    // Where it takes its time it is not asked for ten times a second.
    let slow =
        scene.with(|scene| scene.memory.synchronous.changing_since = Some(Monotonic::default())).play();
    slow.fired("SY-8").wakes_in(secs(1));
}

#[test]
fn sy_9_a_standby_that_has_everything_joins_the_key_last() {
    let caught_up = priority().key("a", &[], 0).in_force("b").streaming(&[("b", "sync")]).fenced();
    caught_up.play().fired("SY-9").does(&rewrite("a", &["b"], 0));
    // Not before the names are in force everywhere,
    let fresh = caught_up.clone().with(|scene| {
        scene.memory.synchronous.settled = None;
        scene.memory.synchronous.waits_in = None;
        scene.settled = None;
    });
    let played = fresh.play();
    played.does(&Action::SettleStandbyNames { names: "b".into(), from_nothing: true }).wakes_in(SOON);
    assert!(!played.has(writes_sync));
    // nor on what it had before that.
    let position = Lsn(HERE.0 + 1);
    let played = fresh.with(|scene| scene.settled = Some(position)).play();
    assert!(!played.has(writes_sync));
    assert_eq!(played.memory().synchronous.settled.as_ref().unwrap().position, position);
    // A standby that the server does not count as synchronous is none.
    let potential = caught_up.streaming(&[("b", "potential")]).play();
    assert!(!potential.has(writes_sync));
}

#[test]
fn b_21_changed_names_are_asked_for_again() {
    let changed = steady().with(|scene| scene.pg().synchronous.names = Some("c".into())).play();
    changed.does(&Action::SettleStandbyNames { names: "c".into(), from_nothing: false });
    let restarted = steady().with(|scene| scene.pg().postmaster_start_time = Some("again".into())).play();
    restarted.does(&Action::SettleStandbyNames { names: "b".into(), from_nothing: true });
    let silent = steady().with(|scene| scene.pg().synchronous.names = None).play();
    assert!(!silent.has(writes_sync) && !silent.has(sets_names), "nothing is decided on old answers");
}

/// Found by the simulation: the names were taken back and given again while the server still showed the old ones, and looked
/// as if they had been in force all the time.
#[test]
fn b_21_names_that_are_on_their_way_out_are_nothing_to_count_on() {
    let told = |names: Option<&str>| Some(Told { names: names.map(Into::into), at: NOW });
    for (names, then) in [(Some(""), secs(1)), (Some("c"), secs(1)), (None, Duration::from_millis(500))] {
        let scene = steady().key("a", &[], 0).with(|scene| scene.memory.synchronous.told = told(names));
        let played = scene.clone().with(|scene| scene.obs.now = NOW + then).play();
        played.starts_nothing();
        assert!(!played.has(writes_sync) && !played.has(sets_names), "{names:?}");
        // Somebody else set them.
        let later = scene.with(|scene| scene.obs.now = NOW + secs(11)).play();
        later.fired("SY-9");
    }
    let back = steady().with(|scene| scene.memory.synchronous.told = told(Some("b"))).play();
    back.fired("SY-5");
    let set = steady().streaming(&[]).play();
    assert_eq!(set.memory().synchronous.told, told(Some("")));
    let off = steady().mode(Mode::Off).play();
    assert_eq!((&off.memory().synchronous.told, &off.memory().synchronous.settled), (&told(None), &None));
}

#[test]
fn b_21_mode_off_deletes_the_key_and_gives_the_names_back() {
    let scene = steady().mode(Mode::Off);
    let played = scene.play();
    played.before(&Action::DeleteSync(20), &Action::SetStandbyNames(Wanted::Configured));
    for failure in [refused(), no_answer()] {
        let failed = scene.clone().with(|scene| scene.sync = failure).play();
        failed.starts_nothing();
        assert!(!failed.has(sets_names), "whoever is listed may still take over");
    }
    let done = Scene::primary().play();
    assert!(!done.has(writes_sync) && !done.has(sets_names));
}

#[test]
fn a_8_a_write_without_answer_is_made_impossible_before_the_names_change() {
    // The key was to grow, and nobody answered: it may grow any moment.
    let growing = priority().key("a", &[], 0).in_force("b").streaming(&[("b", "sync")]).fenced();
    let played = growing.with(|scene| scene.sync = no_answer()).play();
    assert_eq!(played.memory().synchronous.fenced, None);
    // The standby is lost before it is seen: the names change only after the revision has.
    let lost = priority().key("a", &[], 0).in_force("b").play();
    lost.before(&rewrite("a", &[], 0), &names(""));
    let failed = priority().key("a", &[], 0).in_force("b").with(|scene| scene.sync = refused()).play();
    assert!(!failed.has(sets_names));
}

// Before a promotion

fn promoting(mode: Mode) -> Scene {
    let mut scene = Scene::standby().led_by("a").mode(mode);
    scene.memory.won = scene.view().leader.as_ref().map(|leader| leader.create_revision);
    scene.memory.synchronous.raced_on = Some(20);
    scene
}

const PROMOTE: Job = Job::Promote { timeline: Some(1) };

#[test]
fn ha_255_before_a_promotion_the_key_names_nobody() {
    let played = promoting(Mode::Priority).key("b", &["a", "c"], 0).play();
    played.does(&rewrite("a", &[], 0)).starts(&PROMOTE);
    for failure in [refused(), no_answer()] {
        let scene = promoting(Mode::Priority).key("b", &["a"], 0).with(|scene| scene.sync = failure);
        let played = scene.play();
        played.fired("HA-255").starts_nothing().line("promotion postponed: /sync could not be written");
    }
    // Strict: whoever was in it stays, and every commit of the new primary waits for them all.
    let strict = promoting(Mode::Priority).strict().key("b", &["a", "c"], 0);
    let first = strict.play();
    first.before(&rewrite("a", &["b", "c"], 0), &names("2 (b,c)")).starts_nothing().wakes_in(SOON);
    let in_force = strict.with(|scene| scene.pg().synchronous.names = Some("2 (b,c)".into()));
    in_force.play().starts(&PROMOTE);
    in_force.with(|scene| scene.settled = None).play().starts_nothing().wakes_in(SOON);
    // By what quorum mode left no single one has every commit.
    let left = promoting(Mode::Priority).strict().key("b", &["a", "c"], 1).play();
    left.before(&rewrite("a", &[], 0), &names(PLACEHOLDER)).starts_nothing();
}

#[test]
fn ha_255_in_quorum_mode_the_key_is_handed_over() {
    let scene = promoting(Mode::Quorum).key("b", &["a", "c"], 1);
    let first = scene.play();
    first.before(&rewrite("a", &["b", "c"], 1), &names("ANY 1 (b,c)")).starts_nothing();
    let in_force = scene.with(|scene| scene.pg().synchronous.names = Some("ANY 1 (b,c)".into()));
    in_force.play().starts(&PROMOTE);
    in_force.with(|scene| scene.sync = refused()).play().starts_nothing();
    // Nobody is in it: nobody is waited for, unless strict.
    promoting(Mode::Quorum).key("a", &[], 0).play().starts(&PROMOTE);
    let strict = promoting(Mode::Quorum).strict().key("a", &[], 0).play();
    strict.does(&names(&format!("ANY 1 ({PLACEHOLDER})"))).starts_nothing();
}

#[test]
fn ha_255_who_is_not_in_the_key_any_more_gives_the_lock_back() {
    // The key was shrunk between the race and now.
    let scene = promoting(Mode::Priority).key("b", &["c"], 0).with(|scene| {
        scene.memory.synchronous.raced_on = Some(19);
    });
    scene.play().line(STEP_ASIDE).starts_nothing().does(&Action::ReleaseLock(leader("a")));
    // An operator wanted this node.
    let wished = scene.clone().with(|scene| scene.memory.synchronous.wished = scene.memory.won).play();
    wished.starts(&PROMOTE);
    // Still in it.
    scene.key("b", &["a"], 0).play().starts(&PROMOTE);
}

#[test]
fn ha_254_nothing_is_decided_on_what_a_promoting_standby_sees() {
    let played = Scene::standby().led_by("a").mode(Mode::Priority).key("a", &[], 0).with(|scene| {
        scene.pg().role = Role::Promoted;
    });
    let played = played.play();
    played.fired("HA-254").line("no action. I am (a), the leader with the lock");
    assert!(!played.has(writes_sync) && !played.has(sets_names));
}

#[test]
fn ha_064_a_new_strict_cluster_waits_for_its_first_standby() {
    let scene = Scene::primary().unled().mode(Mode::Priority).with(|scene| {
        scene.memory.bootstrapping = true;
        scene.memory.post_bootstrap = Some(true);
    });
    scene.play().fired("HA-064").does(&names(""));
    scene.clone().strict().play().does(&names(PLACEHOLDER));
    let off = scene.mode(Mode::Off).play();
    assert!(!off.has(sets_names));
}

#[test]
fn ha_113_a_server_that_starts_as_a_standby_names_nobody() {
    let scene = Scene::stopped().mode(Mode::Priority);
    let start = |played: &Played| played.jobs().into_iter().cloned().map(Action::StartJob).next().unwrap();
    let played = scene.play();
    played.fired("HA-112").before(&names(""), &start(&played));
    let off = scene.clone().mode(Mode::Off).play();
    assert!(!off.has(sets_names));
    // HA-108: it is the leader still.
    let leads = scene.led_by("a").play();
    leads.fired("HA-108");
    assert!(!leads.has(sets_names));
}

// Quorum mode

/// Both may take over with the other's vote, one of them acknowledges.
fn agreed() -> Scene {
    quorum()
        .key("a", &["b", "c"], 1)
        .in_force("ANY 1 (b,c)")
        .streaming(&[("b", "quorum"), ("c", "quorum")])
        .fenced()
}

#[test]
fn qs_1_an_absent_key_is_created() {
    let played = quorum().streaming(&[("b", "async")]).play();
    played.fired("QS-1").does(&write("a", &[], 0, When::Absent)).does(&names("ANY 1 (b)"));
    let failed = quorum().streaming(&[("b", "async")]).with(|scene| scene.sync = refused()).play();
    assert!(!failed.has(sets_names));
}

#[test]
fn qs_2_strict_with_nobody_there_waits_for_as_many_as_the_key_promises() {
    let scene = agreed().strict().streaming(&[]);
    let held = scene.play();
    assert!(!held.has(writes_sync) && !held.has(sets_names), "these names hold commits back");
    let other = scene.in_force("ANY 2 (b,c)").play();
    other.fired("QS-2").does(&names("ANY 1 (b,c)"));
    let nobody = quorum().strict().key("a", &[], 0).in_force("").fenced().play();
    nobody.fired("QS-2").does(&names(&format!("ANY 1 ({PLACEHOLDER})")));
    // Of somebody else's key it is not the leader that holds back.
    let theirs = agreed().strict().key("b", &["a", "c"], 1).streaming(&[]).play();
    theirs.silent("QS-2");
}

#[test]
fn qs_3_one_step_after_the_other() {
    // A standby joins: first the key with a quorum that does not count on it, then the names.
    let joins = quorum().key("a", &["b"], 0).in_force("ANY 1 (b)").fenced();
    let joins = joins.streaming(&[("b", "quorum"), ("c", "async")]).play();
    joins.before(&rewrite("a", &["b", "c"], 1), &names("ANY 1 (b,c)"));
    // More of them shall acknowledge: the names first, and the key once it is true.
    let more = agreed().count(2);
    let played = more.play();
    played.does(&names("ANY 2 (b,c)")).wakes_in(SOON);
    assert!(!played.has(writes_sync));
    let fresh = more.with(|scene| scene.pg().synchronous.names = Some("ANY 2 (b,c)".into()));
    let unsettled = fresh.clone().with(|scene| scene.settled = None).play();
    assert!(!unsettled.has(writes_sync));
    let behind = fresh.clone().with(|scene| scene.settled = Some(Lsn(HERE.0 + 1))).play();
    assert!(!behind.has(writes_sync), "one of them may lack what the other one acknowledged");
    fresh.play().fired("QS-3").does(&rewrite("a", &["b", "c"], 0));
    // A failure ends the steps.
    let failed = quorum().key("a", &["b"], 0).in_force("ANY 1 (b)").with(|scene| scene.sync = refused());
    let failed = failed.streaming(&[("b", "quorum"), ("c", "async")]).play();
    assert!(!failed.has(sets_names));
}

#[test]
fn qs_3_standbys_that_are_gone_take_no_commits_along() {
    // Two of four acknowledge. `d` and `e` may be the two that have the last commit.
    let four = quorum().count(2).key("a", &["b", "c", "d", "e"], 2).in_force("ANY 2 (b,c,d,e)").fenced();
    let four = four.streaming(&[("b", "quorum"), ("c", "quorum")]);
    let played = four.play();
    played.does(&names("ANY 2 (b,c)"));
    assert!(!played.has(writes_sync));
    let behind = four.in_force("ANY 2 (b,c)").with(|scene| {
        scene.memory.synchronous.settled.as_mut().unwrap().position = Lsn(HERE.0 + 1);
    });
    assert!(!behind.play().has(writes_sync), "neither has what the lost ones had");
    let caught_up = behind.in_force("ANY 2 (b,c)").play();
    caught_up.does(&rewrite("a", &["b", "c"], 0));
}

#[test]
fn qs_3_what_does_not_fit_is_begun_anew() {
    let broken = quorum().key("a", &["b", "c"], 1).in_force("ANY 2 (b,c,d)");
    let broken = broken.streaming(&[("c", "quorum"), ("d", "quorum"), ("e", "async")]).with(|scene| {
        for member in ["d", "e"] {
            scene.members().push(member_of(member, &json!({"role": "replica"})));
        }
    });
    broken.play().fired("QS-3").does(&rewrite("a", &[], 0));
}

#[test]
fn qs_4_names_of_priority_mode_are_written_anew() {
    let played = agreed().in_force("1 (b,c)").play();
    played.fired("QS-4").does(&names("ANY 1 (b,c)"));
    assert!(!played.has(writes_sync));
    // As PostgreSQL counts by such names. Found by the simulation: nobody was confirmed, and QS-5 went on for ever.
    let first = quorum().key("a", &[], 0).in_force("b").streaming(&[("b", "sync"), ("c", "async")]).fenced();
    first.play().silent("QS-5").does(&rewrite("a", &["b", "c"], 1));
    let steady = agreed().play();
    steady.silent("QS-3").silent("QS-4").wakes_in(secs(10));
    assert!(!steady.has(writes_sync) && !steady.has(sets_names));
}

#[test]
fn qs_5_a_restart_is_the_next_cycle() {
    let scene = quorum().key("a", &[], 0).in_force("ANY 1 (b)").streaming(&[("b", "quorum")]).fenced();
    let scene =
        scene.with(|scene| scene.memory.synchronous.settled.as_mut().unwrap().position = Lsn(HERE.0 + 1));
    scene.play().fired("QS-5").wakes_in(SOON);
}

// Who may lead

fn racing(mode: Mode) -> Scene {
    Scene::unlocked().mode(mode).with(|scene| {
        scene.memory.old_members = scene.view().members.clone();
        scene.memory.old_leader = Some(name("b"));
    })
}

fn takes(scene: &Scene) -> bool {
    scene.play().did(&Action::AcquireLock)
}

#[test]
fn ha_214_only_who_is_in_the_key_races() {
    for (standbys, wins) in [(&["a"][..], true), (&["A", "c"], true), (&["c"], false), (&[], false)] {
        let scene = racing(Mode::Priority).key("b", standbys, 0);
        assert_eq!(takes(&scene), wins, "{standbys:?}");
        assert!(takes(&scene.mode(Mode::Off)), "{standbys:?}: not in synchronous mode");
    }
    racing(Mode::Priority).key("b", &["c"], 0).play().fired("HA-214");
    assert!(takes(&racing(Mode::Priority).key("a", &["c"], 0)), "its leader");
    assert!(takes(&racing(Mode::Priority)), "without a key everybody does");
}

#[test]
fn ha_215_who_is_not_in_the_key_keeps_nobody_from_the_lock() {
    let ahead = |scene: &mut Scene| scene.peers = vec![with_lsn("c", Lsn(HERE.0 + 1))];
    assert!(takes(&racing(Mode::Priority).key("b", &["a"], 0).with(ahead)));
    assert!(!takes(&racing(Mode::Priority).key("b", &["a", "c"], 0).with(ahead)));
    // Whoever led last is asked in any case whether it still does.
    let alive = |scene: &mut Scene| {
        scene.memory.old_leader = Some(name("c"));
        scene.peers = vec![primary("c")];
    };
    let played = racing(Mode::Priority).key("b", &["a"], 0).with(alive).play();
    played.fired("HN-6").does_not(&Action::AcquireLock);
}

#[test]
fn ha_216_lag_counts_under_synchronous_replication_too() {
    let far = racing(Mode::Priority).key("b", &["a"], 0).with(|scene| {
        scene.view().status.last_lsn = Lsn(HERE.0 + 0x100_0000);
    });
    assert!(!takes(&far));
    far.play().fired("HN-1");
}

#[test]
fn ha_209_a_switchover_goes_to_who_is_in_the_key() {
    let switched = |mode, standbys: &[&str]| {
        let scene = racing(mode).key("b", standbys, 0);
        scene.with(|scene| scene.view().failover = Some(failover(Some("b"), Some("a"))))
    };
    assert!(takes(&switched(Mode::Priority, &["a"])));
    for mode in [Mode::Priority, Mode::Quorum] {
        let outsider = switched(mode, &["c"]);
        assert!(!takes(&outsider));
        outsider.play().fired("HA-209").silent("HA-210");
    }
    // A failover without a leader is an operator's word.
    let wished = racing(Mode::Priority).key("b", &["c"], 0);
    let wished = wished.with(|scene| scene.view().failover = Some(failover(None, Some("a"))));
    let played = wished.play();
    played.fired("HA-220").does(&Action::AcquireLock);
    assert_eq!(played.memory().synchronous.wished, played.memory().won);
}

#[test]
fn ha_203_a_starting_server_does_not_race() {
    let scene =
        racing(Mode::Priority).key("b", &["a"], 0).with(|scene| scene.pg().state = MemberState::Starting);
    scene.play().fired("HA-203").does_not(&Action::AcquireLock);
}

#[test]
fn ha_208_nofailover_does_not_race_though_it_is_in_the_key() {
    let scene = racing(Mode::Quorum).key("b", &["a"], 0).with(|scene| {
        scene.obs.settings.tags.0.insert("nofailover".into(), json!(true));
    });
    scene.play().fired("HA-208").does_not(&Action::AcquireLock);
}

#[test]
fn ha_210_a_wish_is_looked_at_before_the_race() {
    let scene = racing(Mode::Priority).key("b", &["a", "c"], 0);
    let scene = scene.with(|scene| scene.view().failover = Some(failover(Some("b"), Some("c"))));
    scene.play().fired("HA-210").fired("HA-224").does_not(&Action::AcquireLock);
}

#[test]
fn ha_223_an_outsider_does_not_stand_in_for_a_candidate() {
    let wish = |mode, standbys: &[&str]| {
        let scene = racing(mode).key("b", standbys, 0);
        scene.with(|scene| {
            scene.view().failover = Some(failover(None, Some("z")));
        })
    };
    assert!(takes(&wish(Mode::Priority, &["a"])));
    let outsider = wish(Mode::Priority, &["c"]);
    outsider.play().fired("HA-223").does_not(&Action::AcquireLock);
    // Found by the simulation: the mode is on, `/sync` was never written, and everybody waited for somebody whom it names.
    assert!(takes(&outsider.with(|scene| scene.view().sync = SyncState::default())));
}

/// Found by the simulation: everybody left the lock to a candidate whom HA-209 kept from taking it.
#[test]
fn ha_224_a_candidate_that_may_not_take_over_is_not_waited_for() {
    for mode in [Mode::Priority, Mode::Quorum] {
        let scene = racing(mode).key("b", &["a"], 0).with(|scene| {
            scene.view().failover = Some(failover(Some("b"), Some("c")));
            scene.peers = vec![peer("c")];
        });
        scene.play().fired("HA-209").silent("HA-224").does(&Action::AcquireLock);
        let named = scene.clone().key("b", &["a", "c"], 0);
        named.play().fired("HA-224").does_not(&Action::AcquireLock);
        // An operator's word counts for whoever is meant.
        let wished = scene.with(|scene| scene.view().failover = Some(failover(None, Some("c"))));
        wished.play().fired("HA-224").does_not(&Action::AcquireLock);
    }
}

#[test]
fn ha_228_only_voters_stand_in_for_a_candidate() {
    let scene = racing(Mode::Priority).key("b", &["a"], 0).with(|scene| {
        scene.view().failover = Some(failover(Some("b"), Some("z")));
        scene.peers = vec![with_lsn("c", Lsn(HERE.0 + 1))];
    });
    scene.play().fired("HA-228").does(&Action::AcquireLock);
    let voter = scene.key("b", &["a", "c"], 0);
    voter.play().fired("HA-228").does_not(&Action::AcquireLock);
}

#[test]
fn hn_5_a_peer_with_a_limitation_has_no_vote() {
    let scene = racing(Mode::Quorum).key("b", &["a", "c"], 1).with(|scene| scene.peers = vec![peer("c")]);
    assert!(takes(&scene));
    for limit in ["nofailover", "watchdog"] {
        let limited = scene.clone().with(|scene| {
            let peer = &mut scene.peers[0];
            match limit {
                "nofailover" => drop(peer.tags.0.insert("nofailover".into(), json!(true))),
                _ => peer.watchdog_failed = true,
            }
        });
        limited.play().fired("HN-5").does_not(&Action::AcquireLock);
    }
}

#[test]
fn hn_6_a_primary_that_is_alive_keeps_the_lock_from_everybody() {
    let scene = racing(Mode::Quorum).key("b", &["a", "c"], 0).with(|scene| scene.peers = vec![primary("b")]);
    scene.play().fired("HN-6").does_not(&Action::AcquireLock);
}

#[test]
fn hn_7_the_leader_of_the_key_may_have_more_that_nobody_was_told_of() {
    let ahead = |who: &str| vec![with_lsn(who, Lsn(HERE.0 + 1))];
    let scene = racing(Mode::Priority).key("b", &["a", "c"], 0);
    assert!(takes(&scene.clone().with(|scene| scene.peers = ahead("b"))));
    assert!(!takes(&scene.with(|scene| scene.peers = ahead("c"))));
    // It has no vote then.
    let scene = racing(Mode::Quorum).key("b", &["a", "c"], 1).with(|scene| scene.peers = ahead("b"));
    scene.play().fired("HN-9").does_not(&Action::AcquireLock);
    let one_more = scene.with(|scene| scene.peers.push(peer("c")));
    assert!(takes(&one_more));
}

/// Found by the simulation: a primary that had failed came back with WAL that nobody had confirmed, and took over from those who
/// had what was acknowledged since.
#[test]
fn hn_7_whoever_is_on_a_later_timeline_is_ahead() {
    let on =
        |who: &str, timeline: u32, lsn: Lsn| PeerAnswer { timeline: Some(timeline), ..with_lsn(who, lsn) };
    let mine = racing(Mode::Quorum).obs.postgres.timeline().expect("a timeline");
    // By position alone it would have the vote that it needs as one who is not in /sync.
    let outsider = racing(Mode::Quorum).key("b", &[], 0);
    let later = outsider.clone().with(|scene| scene.peers = vec![on("b", mine + 1, Lsn(HERE.0 - 1))]);
    later.play().fired("HN-7").fired("HN-9").does_not(&Action::AcquireLock);
    let voter = racing(Mode::Quorum).key("b", &["a", "c"], 1);
    let voter = voter.with(|scene| scene.peers = vec![on("c", mine + 1, Lsn(HERE.0 - 1))]);
    voter.play().fired("HN-7").does_not(&Action::AcquireLock);
    // Whoever is on an earlier one is behind, however far it is.
    assert!(takes(&outsider.with(|scene| scene.peers = vec![on("b", mine - 1, Lsn(HERE.0 + 1))])));
}

#[test]
fn hn_8_priority_counts_but_not_that_of_the_leader_of_the_key() {
    let preferred = |who: &str| {
        let mut peer = peer(who);
        peer.tags.0.insert("failover_priority".into(), json!(5));
        vec![peer]
    };
    let scene = racing(Mode::Priority)
        .key("b", &["a", "c"], 0)
        .with(|scene| scene.memory.old_leader = Some(name("c")));
    assert!(takes(&scene.clone().with(|scene| scene.peers = preferred("b"))));
    let other = scene.with(|scene| scene.peers = preferred("c")).play();
    other.fired("HN-8").does_not(&Action::AcquireLock);
}

#[test]
fn hn_9_votes_of_those_who_have_no_more() {
    for (voters, quorum, reachable, wins) in [
        (&["a", "c"][..], 1, &["c"][..], true),
        (&["a", "c"], 1, &[], false),
        (&["a", "c"], 1, &["b"], true),
        (&["a", "c"], 2, &["b", "c"], true),
        (&["a", "c"], 2, &["c"], false),
        (&["a", "c"], 0, &[], true),
        // Whoever is none of them needs one more.
        (&["c"], 0, &[], false),
        (&["c"], 0, &["c"], true),
        (&["c", "d"], 1, &["c"], false),
    ] {
        let scene = racing(Mode::Quorum).key("b", voters, quorum);
        let scene = scene.with(|scene| scene.peers = reachable.iter().map(|name| peer(name)).collect());
        assert_eq!(takes(&scene), wins, "{voters:?} {quorum} {reachable:?}");
    }
    // The leader of the key needs nobody.
    assert!(takes(&racing(Mode::Quorum).key("a", &["b", "c"], 1).with(|scene| scene.peers.clear())));
    // What quorum mode left counts until it is written anew.
    let left = racing(Mode::Priority).key("b", &["a", "c"], 1).with(|scene| scene.peers.clear());
    left.play().fired("HN-9").does_not(&Action::AcquireLock);
    // A lock in hand that nobody is known to have won is kept by the same votes.
    let found = Scene::standby().led_by("a").mode(Mode::Quorum).key("b", &["a", "c"], 1);
    let found = found.with(|scene| scene.peers.clear()).play();
    found.starts_nothing().does(&Action::ReleaseLock(leader("a")));
}

#[test]
fn hn_10_without_a_quorum_no_votes_are_counted() {
    let scene = racing(Mode::Priority).key("b", &["a", "c"], 0).with(|scene| scene.peers.clear());
    scene.play().silent("HN-9").does(&Action::AcquireLock);
}

#[test]
fn ha_220_a_switchover_under_a_quorum_needs_the_votes() {
    let scene = racing(Mode::Quorum).key("b", &["a", "c"], 1);
    let scene = scene.with(|scene| scene.view().failover = Some(failover(Some("b"), Some("a"))));
    assert!(takes(&scene));
    let alone = scene.clone().with(|scene| scene.peers.clear()).play();
    alone.fired("HN-9").does_not(&Action::AcquireLock).does_not(&Action::ClearFailover(When::Revision(9)));
    // A priority is no reason to refuse who was named: the others leave it to this node. Found by the simulation.
    let preferred = scene.clone().with(|scene| {
        scene.peers[0].tags.0.insert("failover_priority".into(), json!(5));
    });
    assert!(takes(&preferred));
    // The other one has a commit that this one lacks: it leads, and the wish is given up.
    let behind = scene.with(|scene| scene.peers = vec![with_lsn("c", Lsn(HERE.0 + 1))]).play();
    behind.does_not(&Action::AcquireLock).does(&Action::ClearFailover(When::Revision(9)));
}

#[test]
fn b_10_4_only_voters_can_take_over_and_enough_of_them_must_agree() {
    let graceful = Job::Demote(DemoteMode::Graceful);
    let switch = |mode, standbys: &[&str], quorum, candidate: Option<&str>, reachable: &[&str]| {
        let scene = Scene::primary().mode(mode).key("a", standbys, quorum).with(|scene| {
            scene.view().failover = Some(failover(Some("a"), candidate));
            scene.peers = reachable.iter().map(|name| peer(name)).collect();
        });
        scene.play().jobs().contains(&&graceful)
    };
    let both = &["b", "c"][..];
    assert!(switch(Mode::Priority, &["b"], 0, None, both));
    assert!(!switch(Mode::Priority, &["b"], 0, None, &["c"]));
    assert!(!switch(Mode::Priority, &["b"], 0, Some("c"), both));
    assert!(switch(Mode::Quorum, both, 1, None, both));
    assert!(!switch(Mode::Quorum, both, 1, None, &["b"]), "nobody would have its vote");
    assert!(switch(Mode::Quorum, both, 1, Some("b"), &["b"]));
    assert!(switch(Mode::Off, &["b"], 0, Some("c"), both));
    // An operator who names somebody without a leader takes what that one has.
    let wished = Scene::primary().mode(Mode::Priority).key("a", &["b"], 0).with(|scene| {
        scene.view().failover = Some(failover(None, Some("c")));
    });
    wished.play().starts(&graceful);
}

#[test]
fn ha_032_a_lock_that_is_lost_before_the_promotion_is_not_promoted_on() {
    let lost = promoting(Mode::Priority).key("b", &["a"], 0).job(JobKind::Promote).led_by("c").play();
    lost.fired("HA-032").does(&Action::CancelJob);
}
