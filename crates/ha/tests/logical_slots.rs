//! Logical slots on a standby: readiness, and when they are copied from the leader.

mod support;

use std::collections::BTreeMap;

use ptarmigan_ha::{
    Action, Job, Outcome,
    action::DemoteMode,
    failsafe::Promise,
    memory::FailedJob,
    observation::{JobEnd, JobKind},
    slots::{Actual, Kind, PrimaryXmins, Readiness, Way, precedes_or_equals},
};
use ptarmigan_types::{Lsn, MemberState, Role};
use support::{Change, NOW, Scene, at, failover, name, secs};

fn slot(catalog_xmin: Option<&str>) -> Actual {
    Actual {
        kind: Kind::Logical { database: "d".into(), plugin: "p".into() },
        active: false,
        xmin: None,
        catalog_xmin: catalog_xmin.map(str::to_owned),
        restart_lsn: Some(Lsn(10)),
        confirmed_flush_lsn: Some(Lsn(20)),
        lost: false,
        failover: false,
        synced: false,
    }
}

fn local(catalog_xmin: Option<&str>) -> BTreeMap<String, Actual> {
    [("cdc".to_owned(), slot(catalog_xmin))].into()
}

fn primary(physical: Option<u32>, logical: Option<u32>) -> PrimaryXmins {
    PrimaryXmins { physical, logical: logical.map(|xmin| ("cdc".to_owned(), xmin)).into_iter().collect() }
}

/// The answer to what is asked now.
fn answered(
    readiness: &mut Readiness,
    xmins: &PrimaryXmins,
    actual: &BTreeMap<String, Actual>,
) -> Vec<String> {
    let question = readiness.question();
    readiness.answered(&question, xmins, actual)
}

#[test]
fn sl_11_ready_once_the_primary_spares_what_the_slot_needs() {
    let mut readiness = Readiness::default();
    readiness.suspect_all(&local(Some("100")));
    assert_eq!(readiness.question().slots, ["cdc"]);
    // No feedback yet: what the primary's own slot needs counts only from then on.
    assert!(answered(&mut readiness, &primary(None, Some(90)), &local(Some("100"))).is_empty());
    assert_eq!(readiness.question().slots, ["cdc"]);
    // Feedback arrived, but it asks for more than the slot needs is not known to be kept from here on.
    assert!(answered(&mut readiness, &primary(Some(95), Some(98)), &local(Some("100"))).is_empty());
    assert!(readiness.question().slots.is_empty(), "the primary's slot is asked for once");
    // The local slot needs rows from before what the primary spares.
    assert!(answered(&mut readiness, &primary(Some(99), None), &local(Some("97"))).is_empty());
    assert_eq!(readiness.unready().collect::<Vec<_>>(), ["cdc"]);
    assert_eq!(answered(&mut readiness, &primary(Some(99), None), &local(Some("99"))), ["cdc"]);
    assert!(readiness.is_empty());
}

#[test]
fn sl_11_suspicion_ends_with_the_slot_and_begins_with_a_copy() {
    let mut readiness = Readiness::default();
    readiness.suspect(["cdc", "other"]);
    assert!(answered(&mut readiness, &primary(None, None), &local(Some("100"))).is_empty());
    assert_eq!(readiness.unready().collect::<Vec<_>>(), ["cdc"], "the other is gone");
    assert!(
        answered(&mut readiness, &primary(Some(99), Some(99)), &local(None)).is_empty(),
        "it needs who knows what"
    );
    assert_eq!(answered(&mut readiness, &primary(Some(99), None), &local(Some("100"))), ["cdc"]);
    readiness.suspect(["cdc"]);
    assert_eq!(readiness.question().slots, ["cdc"], "copied again: everything is asked anew");
    // PostgreSQL's own copies are none of ours.
    let synced = Actual { failover: true, synced: true, ..slot(None) };
    let mut readiness = Readiness::default();
    readiness.suspect_all(&[("s".to_owned(), synced)].into());
    assert!(readiness.is_empty());
}

fn usual_way() -> Way {
    Way { server: Some("noon".into()), timeline: Some(1), receiver: Some(70), slot: Some("a".into()) }
}

/// A slot that is ready by the usual way of feedback.
fn ready() -> Readiness {
    let mut readiness = Readiness::default();
    readiness.watch(usual_way(), &local(Some("100")));
    assert_eq!(answered(&mut readiness, &primary(Some(99), Some(99)), &local(Some("100"))), ["cdc"]);
    readiness
}

#[test]
fn sl_11_what_another_way_of_feedback_let_go_nobody_knows() {
    let none = Way { server: None, timeline: None, receiver: None, slot: None };
    for (case, way, doubtful) in [
        ("as before", usual_way(), false),
        ("nothing arrives: the primary may be dead", Way { receiver: None, ..usual_way() }, false),
        ("nothing is known at the moment", none, false),
        ("started again", Way { server: Some("one".into()), ..usual_way() }, true),
        ("another primary, on whose timeline this server is", Way { timeline: Some(2), ..usual_way() }, true),
        ("connected again: the slot there may be another", Way { receiver: Some(71), ..usual_way() }, true),
        ("by another member's slot", Way { slot: Some("b".into()), ..usual_way() }, true),
    ] {
        let mut readiness = ready();
        readiness.watch(way.clone(), &local(Some("100")));
        assert_eq!(!readiness.is_empty(), doubtful, "{case}");
        let mut readiness = ready();
        readiness.watch_way(Way { receiver: None, ..usual_way() });
        readiness.watch_way(way);
        assert_eq!(!readiness.is_empty(), doubtful, "right before a promotion: {case}");
    }
}

#[test]
fn sl_11_an_answer_from_before_the_doubt_says_nothing() {
    let mut readiness = ready();
    readiness.suspect(["cdc"]);
    let question = readiness.question();
    readiness.watch(Way { timeline: Some(2), ..usual_way() }, &local(Some("100")));
    let xmins = primary(Some(99), Some(99));
    assert!(readiness.answered(&question, &xmins, &local(Some("100"))).is_empty());
    assert_eq!(answered(&mut readiness, &xmins, &local(Some("100"))), ["cdc"]);
}

#[test]
fn sl_11_transaction_numbers_are_compared_on_their_circle() {
    for (a, b, expected) in
        [(3, 3, true), (3, 4, true), (4, 3, false), (u32::MAX, 3, true), (3, u32::MAX, false)]
    {
        assert_eq!(precedes_or_equals(a, b), expected, "{a} {b}");
    }
}

fn to_copy() -> Outcome {
    Outcome::SlotsToCopy(vec!["cdc".into(), "more".into()])
}

fn standby() -> Scene {
    let mut scene = Scene::standby();
    scene.obs.settings.has_logical_slots = true;
    scene.slots = to_copy();
    scene
}

fn copies() -> Action {
    Action::StartJob(Job::CopySlots { leader: name("b"), slots: vec!["cdc".into(), "more".into()] })
}

#[test]
fn b_23_5_missing_slots_are_copied_from_the_leader() {
    standby().play().does(&copies()).line("Copying logical slots cdc, more from the primary");
}

#[test]
fn b_23_6_slots_are_copied_only_beside_nothing_else() {
    let cases: &[(&str, Change)] = &[
        ("nothing to copy", |s| s.slots = Outcome::Done),
        ("the query failed", |s| s.slots = Outcome::Failed("no answer".into())),
        ("nobody leads", |s| s.view().leader = None),
        ("the leader has no address", |s| drop(s.member("b").0.shift_remove("conn_url"))),
        ("copying failed a moment ago", |s| {
            s.memory.failed = Some(FailedJob { kind: JobKind::CopySlots, at: at(995) });
        }),
        ("a switchover is asked for", |s| s.view().failover = Some(failover(Some("b"), Some("a")))),
        ("a leader in failsafe mode was promised not to lead", |s| {
            s.obs.promise = Some(Promise {
                to: name("b"),
                conn_url: "postgres://b:5432/postgres".into(),
                api_url: "http://b:8008/patroni".into(),
                slots: None,
                until: NOW + secs(1),
            });
        }),
        ("maintenance mode: nobody asked for a restart", |s| s.obs.settings.pause = true),
        ("promoted", |s| s.pg().role = Role::Promoted),
        ("no logical slots are configured", |s| s.obs.settings.has_logical_slots = false),
    ];
    for (case, change) in cases {
        let mut scene = standby();
        change(&mut scene);
        let played = scene.play();
        assert!(!played.did(&copies()), "{case}: {:?}", played.actions);
    }
    let failed = Some(FailedJob { kind: JobKind::CopySlots, at: at(990) });
    standby().with(|s| s.memory.failed = failed).play().does(&copies());
}

#[test]
fn ha_017_slots_are_left_alone_beside_a_long_action() {
    let starting = standby().with(|s| s.pg().state = MemberState::Starting);
    let demotes = standby().writable();
    for (case, scene) in [("starting", &starting), ("demoting", &demotes)] {
        let played = scene.play();
        assert!(!played.did(&Action::SyncSlots), "{case}: {:?}", played.actions);
    }
    demotes.play().does(&Action::StartJob(Job::Demote(DemoteMode::ImmediateNoLock)));
    standby().play().does(&Action::SyncSlots);
    // Beside a promotion they are seen to, and nothing is copied.
    let played = standby().led_by("a").with(|s| s.memory.won = Some(7)).play();
    played.does(&Action::SyncSlots).does(&Action::StartJob(Job::Promote { timeline: Some(1) }));
    assert!(!played.did(&copies()), "{:?}", played.actions);
}

#[test]
fn b_23_5_the_start_after_a_copy_is_verified() {
    let down = Scene::stopped().ended(JobKind::CopySlots, JobEnd::Failed("disk full".into()));
    down.play().fired("HA-071");
}
