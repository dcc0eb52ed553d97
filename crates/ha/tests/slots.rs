//! Which slots a node should have, and what is done about those it has, by rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ptarmigan_ha::slots::{
    Actual, DropReason, Kind, Lineage, Published, Settings, Situation, SlotAction, View, Wanted, WantedSlots,
    is_ignored, lineage, needs_feedback, plan, positions, published, slot_on_primary, wanted,
};
use ptarmigan_types::{Cluster, Lsn, MemberName, RawValue, Role, Tags};
use serde_json::{Map, Value, json};

struct Node {
    cluster: Cluster,
    me: MemberName,
    role: Role,
    tags: Tags,
    permanent: Map<String, Value>,
    config: Value,
}

/// A cluster of `members` (name and value) led by `a`, seen by `me`.
fn node(me: &str, role: Role, members: &[(&str, Value)], status: &Value, config: &Value) -> Node {
    let mut keys: Vec<(String, String)> =
        members.iter().map(|(name, data)| (format!("members/{name}"), data.to_string())).collect();
    keys.push(("status".into(), status.to_string()));
    keys.push(("config".into(), config.to_string()));
    keys.push(("leader".into(), "a".into()));
    let keys: Vec<(String, RawValue)> = keys
        .into_iter()
        .map(|(path, value)| (path, RawValue { value, revision: 1, create_revision: 1, lease: None }))
        .collect();
    let cluster = Cluster::read(keys.iter().map(|(path, raw)| (path.as_str(), raw)));
    let me = MemberName::from(me);
    let tags = cluster.member(&me).map(|member| member.data.tags()).unwrap_or_default();
    let permanent = config["slots"].as_object().cloned().unwrap_or_default();
    Node { cluster, me, role, tags, permanent, config: config.clone() }
}

impl Node {
    fn view(&self) -> View<'_> {
        let ttl_s = self.config["member_slots_ttl"].as_u64().unwrap_or(1800);
        let settings = Settings {
            use_slots: self.config["postgresql"]["use_slots"].as_bool().unwrap_or(true),
            member_slots_ttl: Duration::from_secs(ttl_s),
            permanent: &self.permanent,
            standby_cluster: self.config.get("standby_cluster").is_some(),
        };
        View { cluster: &self.cluster, me: &self.me, role: self.role, tags: &self.tags, settings }
    }

    fn wanted(&self) -> WantedSlots {
        wanted(&self.view()).expect("the cluster has a configuration")
    }

    fn names(&self) -> Vec<String> {
        self.wanted().slots.into_keys().collect()
    }
}

fn members() -> Vec<(&'static str, Value)> {
    vec![
        ("a", json!({"version": "4.1.4"})),
        ("b", json!({"xlog_location": 800})),
        ("c", json!({"tags": {"replicatefrom": "b"}, "xlog_location": 900})),
        ("d", json!({"tags": {"replicatefrom": "gone"}})),
        ("e", json!({"tags": {"nostream": true}})),
    ]
}

fn physical() -> Actual {
    Actual {
        kind: Kind::Physical,
        active: false,
        xmin: None,
        catalog_xmin: None,
        restart_lsn: Some(Lsn(100)),
        confirmed_flush_lsn: None,
        lost: false,
        failover: false,
        synced: false,
    }
}

fn logical() -> Actual {
    Actual { kind: Kind::Logical { database: "d".into(), plugin: "p".into() }, ..physical() }
}

fn wish(lsn: Option<u64>, expected_active: Option<bool>) -> Wanted {
    Wanted { kind: Kind::Physical, lsn: lsn.map(Lsn), expected_active }
}

static NONE: BTreeSet<String> = BTreeSet::new();

const SITUATION: Situation<'static> = Situation {
    paused: false,
    has_leader: true,
    leader_is_me: false,
    is_primary: false,
    replay_lsn: Some(Lsn(600)),
    lineage: Lineage::Shared,
    broken: &NONE,
    kept: &NONE,
    ignore_slots: &[],
};

fn wish_logical(lsn: Option<u64>) -> Wanted {
    Wanted { kind: logical().kind, lsn: lsn.map(Lsn), expected_active: None }
}

fn planned(wanted: Option<Wanted>, actual: Option<Actual>, situation: &Situation<'_>) -> Vec<SlotAction> {
    let name = "s".to_owned();
    plan(
        &wanted.map(|slot| (name.clone(), slot)).into_iter().collect(),
        &actual.map(|slot| (name, slot)).into_iter().collect(),
        situation,
    )
}

fn drop_of(reason: DropReason) -> SlotAction {
    SlotAction::Drop { name: "s".into(), reason }
}

fn create() -> SlotAction {
    SlotAction::Create { name: "s".into() }
}

#[test]
fn sl_1_without_config_key_slots_are_left_alone() {
    let mut node = node("a", Role::Primary, &members(), &json!({}), &json!({}));
    node.cluster.config = None;
    assert_eq!(wanted(&node.view()), None);
}

#[test]
fn b_23_2_every_member_has_a_slot_everywhere() {
    let status = json!({"slots": {"b": 500, "c": 700}});
    let primary = node("a", Role::Primary, &members(), &status, &json!({})).wanted().slots;
    assert_eq!(primary.keys().collect::<Vec<_>>(), ["b", "c", "d"]);
    assert_eq!(primary["b"], wish(Some(500), Some(true)));
    assert_eq!(primary["c"], wish(Some(900), Some(false)), "cascading: its own position is ahead");
    assert_eq!(primary["d"].expected_active, Some(true), "its upstream does not exist");
    let standby = node("b", Role::Replica, &members(), &status, &json!({})).wanted().slots;
    assert_eq!(standby.keys().collect::<Vec<_>>(), ["a", "c", "d"]);
    assert_eq!(standby["c"].expected_active, Some(true));
    assert_eq!(standby["a"].expected_active, Some(false));
}

#[test]
fn b_23_2_without_ttl_only_those_that_stream_from_here() {
    let config = json!({"member_slots_ttl": 0});
    assert_eq!(node("a", Role::Primary, &members(), &json!({}), &config).names(), ["b", "d"]);
    assert_eq!(node("b", Role::Replica, &members(), &json!({}), &config).names(), ["c"]);
    let mut follows = members();
    follows[0].1 = json!({"tags": {"replicatefrom": "b"}});
    assert_eq!(
        node("b", Role::Replica, &follows, &json!({}), &config).names(),
        ["c"],
        "the leader does not stream"
    );
}

#[test]
fn b_23_2_nofailover_serves_its_own_only() {
    let mut all = members();
    all[1].1 = json!({"tags": {"nofailover": true}});
    let status = json!({"retain_slots": ["b", "c", "d", "old"]});
    let config = json!({"slots": {"archive": null}});
    let standby = node("b", Role::Replica, &all, &status, &config);
    assert_eq!(standby.names(), ["c"]);
    // One that left may have replicated from here; it is not there to say so.
    let mut leads = node("b", Role::Replica, &all, &status, &config);
    leads.cluster.leader.as_mut().unwrap().name = "c".into();
    assert_eq!(leads.names(), ["c"], "it leads now, and will come back");
    let kept = standby.wanted().kept;
    assert_eq!(kept, ["old".to_owned()].into());
    let situation = Situation { kept: &kept, ..SITUATION };
    let of = |name: &str| plan(&BTreeMap::new(), &[(name.to_owned(), physical())].into(), &situation);
    assert_eq!(of("old"), []);
    assert_eq!(of("d").len(), 1, "it is there, and does not replicate from here");
}

#[test]
fn b_23_2_a_leader_with_nofailover_holds_everybodys_wal() {
    let mut all = members();
    all[0].1 = json!({"tags": {"nofailover": true}});
    let status = json!({"retain_slots": ["old"]});
    let config = json!({"slots": {"archive": null}});
    let names = |role| node("a", role, &all, &status, &config).names();
    for role in [Role::Primary, Role::Promoted, Role::StandbyLeader] {
        assert_eq!(names(role), ["archive", "b", "c", "d", "old"], "{role:?}");
    }
    assert!(names(Role::Replica).is_empty());
}

#[test]
fn b_23_2_who_is_in_a_circle_has_a_slot_wherever_it_may_stream_from() {
    let mut all = members();
    all[1].1 = json!({"tags": {"replicatefrom": "c"}, "xlog_location": 800});
    all[3].1 = json!({"tags": {"replicatefrom": "d"}});
    for ttl_s in [0, 1800] {
        let config = json!({"member_slots_ttl": ttl_s});
        let slots = |me, role| node(me, role, &all, &json!({"slots": {"b": 500}}), &config).wanted().slots;
        let leader = slots("a", Role::Primary);
        assert_eq!(leader.keys().collect::<Vec<_>>(), ["b", "c", "d"]);
        // Unused on one of the two, it has to follow the member; used before, it is not dropped for its xmin.
        assert_eq!(leader["b"], wish(Some(800), None));
        assert_eq!(leader["d"].expected_active, Some(true), "it names itself, and follows the leader");
        assert_eq!(
            slots("c", Role::Replica)["b"],
            wish(Some(800), None),
            "a Patroni follows the one it names"
        );
    }
}

#[test]
fn b_23_2_no_slot_goes_beyond_what_its_member_says() {
    // After pg_rewind took b and c back, /status still says what the leader heard of them before.
    let status = json!({"slots": {"b": 500, "c": 700}});
    for (says, b, c) in
        [(Some(400), Some(400), Some(400)), (Some(600), Some(500), Some(600)), (None, None, None)]
    {
        let mut all = members();
        all[1].1 = json!({});
        all[2].1 = json!({"tags": {"replicatefrom": "b"}});
        if let Some(says) = says {
            all[1].1["xlog_location"] = json!(says);
            all[2].1["xlog_location"] = json!(says);
        }
        let slots = node("d", Role::Replica, &all, &status, &json!({})).wanted().slots;
        assert_eq!(slots["b"].lsn, b.map(Lsn), "{says:?}");
        assert_eq!(slots["c"].lsn, c.map(Lsn), "{says:?}");
    }
    // A permanent slot with a member's name is that member's, also where nobody keeps slots for members.
    let config = json!({"member_slots_ttl": 0, "slots": {"b": null, "e": null}});
    let mut all = members();
    all[1].1 = json!({"xlog_location": 400});
    let status = json!({"slots": {"b": 500, "e": 600}});
    let slots = node("d", Role::Replica, &all, &status, &config).wanted().slots;
    assert_eq!(slots["b"].lsn, Some(Lsn(400)));
    assert_eq!(slots["e"].lsn, Some(Lsn(600)), "it lives from the archive: somebody else uses the slot");
}

#[test]
fn b_23_2_old_leader_positions_come_from_members() {
    let mut all = members();
    all[0].1 = json!({"version": "3.3.0"});
    all[1].1 = json!({"xlog_location": 800});
    let slots = node("d", Role::Replica, &all, &json!({"slots": {"b": 500}}), &json!({})).wanted().slots;
    assert_eq!(slots["b"].lsn, Some(Lsn(800)));
}

#[test]
fn b_23_2_retained_slots_are_only_kept() {
    let status = json!({"retain_slots": ["a", "b", "old"], "slots": {"old": 5}});
    let slots = node("a", Role::Primary, &members(), &status, &json!({})).wanted().slots;
    assert_eq!(slots["old"], wish(None, None));
    assert_eq!(slots["b"].expected_active, Some(true));
    assert!(!slots.contains_key("a"));
}

#[test]
fn b_23_2_use_slots_off_wants_none() {
    let config = json!({"postgresql": {"use_slots": false}});
    assert!(node("a", Role::Primary, &members(), &json!({}), &config).names().is_empty());
}

#[test]
fn b_23_2_colliding_members_are_reported() {
    let all = [("a", json!({})), ("x-1", json!({})), ("x.1", json!({}))];
    let wanted = node("a", Role::Primary, &all, &json!({}), &json!({})).wanted();
    assert_eq!(wanted.slots.len(), 1);
    assert_eq!(wanted.complaints.len(), 1);
}

#[test]
fn b_23_2_permanent_slots() {
    let config = json!({"slots": {
        "archive": {"type": "physical"}, "a": null, "b": {"type": "physical"}, "Bad": null,
        "cdc": {"database": "d", "plugin": "p"}, "d": {"database": "d", "plugin": "p"},
    }});
    let status = json!({"slots": {"archive": 7, "cdc": 8}});
    let on_primary = node("a", Role::Primary, &members(), &status, &config).wanted();
    assert_eq!(on_primary.slots.keys().collect::<Vec<_>>(), ["archive", "b", "c", "cdc", "d"]);
    assert_eq!(on_primary.slots["archive"], wish(Some(7), Some(true)));
    assert_eq!(on_primary.slots["d"].kind, Kind::Physical, "the member wins");
    assert_eq!(on_primary.complaints.len(), 2, "{:?}", on_primary.complaints);
    let on_standby = node("b", Role::Replica, &members(), &status, &config).wanted();
    assert_eq!(on_standby.slots["archive"].expected_active, Some(false));
    assert!(on_standby.slots.contains_key("cdc"));
}

#[test]
fn b_23_2_logical_slots_need_a_streaming_chain() {
    let config = json!({"slots": {
        "cdc": {"database": "d", "plugin": "p"}, "p1": {"cluster_type": "primary"}, "p2": {"cluster_type": "standby"},
    }});
    let names =
        |me: &str, members: &[(&str, Value)]| node(me, Role::Replica, members, &json!({}), &config).names();
    assert!(names("c", &members()).contains(&"cdc".to_owned()));
    let mut looped = members();
    looped[1].1 = json!({"tags": {"replicatefrom": "c"}});
    assert!(!names("c", &looped).contains(&"cdc".to_owned()));
    assert!(!names("e", &members()).contains(&"cdc".to_owned()));
    let mut config = config.clone();
    config["standby_cluster"] = json!({"host": "h"});
    let standby_cluster = node("a", Role::StandbyLeader, &members(), &json!({}), &config).names();
    assert_eq!(standby_cluster, ["b", "c", "d", "p2"]);
}

#[test]
fn sl_2_failover_slots_of_a_former_primary_go() {
    let slot = Actual { failover: true, ..logical() };
    assert_eq!(planned(None, Some(slot.clone()), &SITUATION), [drop_of(DropReason::FailoverNotSynced)]);
    let primary = Situation { leader_is_me: true, is_primary: true, ..SITUATION };
    assert_eq!(planned(None, Some(slot.clone()), &primary), [], "SL-3: never drop logical failover slots");
    assert_eq!(planned(None, Some(Actual { synced: true, ..slot }), &SITUATION), [], "SL-1");
}

#[test]
fn sl_3_slots_that_nobody_wants_go() {
    assert_eq!(planned(None, Some(physical()), &SITUATION), [drop_of(DropReason::NotWanted)]);
    assert_eq!(planned(None, Some(logical()), &SITUATION), [drop_of(DropReason::NotWanted)]);
    assert_eq!(planned(None, Some(physical()), &Situation { paused: true, ..SITUATION }), []);
    let lost = Actual { lost: true, ..physical() };
    assert_eq!(
        planned(Some(wish(None, Some(true))), Some(lost), &SITUATION),
        [drop_of(DropReason::Lost), create()]
    );
}

#[test]
fn sl_4_ignore_slots_match_all_given_attributes() {
    let cases = [
        (json!({"name": "s"}), true, true),
        (json!({"name": "other"}), false, false),
        (json!({"type": "logical"}), false, true),
        (json!({"name": "s", "type": "logical", "database": "d", "plugin": "p"}), false, true),
        (json!({"name": "s", "database": "x"}), false, false),
        (json!({"name": "s", "plugin": ""}), true, true),
        (json!({"name": ""}), false, false),
        (json!({}), true, true),
    ];
    for (matcher, for_physical, for_logical) in cases {
        let matcher = matcher.as_object().unwrap();
        assert_eq!(is_ignored(matcher, "s", &physical()), for_physical, "{matcher:?}");
        assert_eq!(is_ignored(matcher, "s", &logical()), for_logical, "{matcher:?}");
        let situation = Situation { ignore_slots: std::slice::from_ref(matcher), ..SITUATION };
        assert_eq!(planned(None, Some(physical()), &situation).is_empty(), for_physical, "{matcher:?}");
    }
}

#[test]
fn sl_5_another_kind_is_dropped_and_recreated_later() {
    assert_eq!(
        planned(Some(wish(None, Some(true))), Some(logical()), &SITUATION),
        [drop_of(DropReason::Different)]
    );
    let other = Wanted {
        kind: Kind::Logical { database: "d".into(), plugin: "other".into() },
        lsn: None,
        expected_active: None,
    };
    let planned_for = |situation: &Situation<'_>| planned(Some(other.clone()), Some(logical()), situation);
    assert_eq!(planned_for(&SITUATION), [drop_of(DropReason::Different)]);
    // A consumer's position is lost with its slot: maintenance mode and ignore_slots spare it here too.
    assert_eq!(planned_for(&Situation { paused: true, ..SITUATION }), []);
    let matcher = json!({"name": "s"}).as_object().cloned().unwrap();
    let ignored = Situation { ignore_slots: std::slice::from_ref(&matcher), ..SITUATION };
    assert_eq!(planned_for(&ignored), []);
}

#[test]
fn sl_6_inactive_slots_must_not_hold_back_vacuum() {
    let slot = Actual { xmin: Some("700".into()), ..physical() };
    let unused = wish(Some(500), Some(false));
    let cleaned = [drop_of(DropReason::Xmin), create()];
    assert_eq!(planned(Some(unused.clone()), Some(slot.clone()), &SITUATION), cleaned);
    for (situation, cleans) in [
        (Situation { has_leader: false, ..SITUATION }, false),
        (Situation { leader_is_me: true, ..SITUATION }, false),
        (Situation { leader_is_me: true, is_primary: true, ..SITUATION }, true),
    ] {
        let actions = planned(Some(unused.clone()), Some(slot.clone()), &situation);
        assert_eq!(actions == cleaned, cleans, "{situation:?}");
        assert!(cleans || actions.is_empty());
    }
    for wanted in [wish(Some(500), Some(true)), wish(None, None)] {
        assert_eq!(planned(Some(wanted), Some(slot.clone()), &SITUATION), []);
    }
}

#[test]
fn sl_7_missing_slots_are_created() {
    assert_eq!(planned(Some(wish(None, Some(true))), None, &SITUATION), [create()]);
    assert_eq!(planned(Some(wish(None, None)), None, &SITUATION), [create()]);
}

#[test]
fn sl_8_unused_slots_follow_their_consumer() {
    let advance = SlotAction::Advance { name: "s".into(), to: Lsn(500) };
    let unused = wish(Some(500), Some(false));
    assert_eq!(planned(Some(unused.clone()), Some(physical()), &SITUATION), [advance]);
    assert_eq!(planned(Some(wish(Some(100), Some(false))), Some(physical()), &SITUATION), []);
    assert_eq!(planned(Some(wish(Some(500), Some(true))), Some(physical()), &SITUATION), []);
    assert_eq!(planned(Some(wish(None, None)), Some(physical()), &SITUATION), []);
    let busy = Actual { active: true, ..physical() };
    assert_eq!(planned(Some(unused.clone()), Some(busy), &SITUATION), []);
    let empty = Actual { restart_lsn: None, ..physical() };
    assert_eq!(
        planned(Some(unused), Some(empty), &SITUATION),
        [drop_of(DropReason::NothingReserved), create()]
    );
}

#[test]
fn sl_8_sl_10_positions_of_the_leader_mean_nothing_in_wal_that_left_it() {
    let advances = vec![SlotAction::Advance { name: "s".into(), to: Lsn(500) }];
    let logical_advances =
        vec![SlotAction::AdvanceLogical { name: "s".into(), database: "d".into(), to: Lsn(500) }];
    let copies = vec![SlotAction::Copy { name: "s".into() }];
    let broken = BTreeSet::from(["s".to_owned()]);
    for (lineage, physical_moves, logical_moves) in [
        (Lineage::Shared, true, true),
        (Lineage::Archived, true, false),
        (Lineage::Own, true, false),
        (Lineage::Unknown, false, false),
    ] {
        let situation = Situation { lineage, ..SITUATION };
        let broke = Situation { broken: &broken, ..situation };
        let unused = Some(wish(Some(500), Some(false)));
        let only_if = |moves: bool, actions: &[SlotAction]| if moves { actions.to_vec() } else { Vec::new() };
        let behind = Some(Actual { confirmed_flush_lsn: Some(Lsn(400)), ..logical() });
        let wanted = || Some(wish_logical(Some(500)));
        let expected = only_if(physical_moves, &advances);
        assert_eq!(planned(unused.clone(), Some(physical()), &situation), expected, "{lineage:?}");
        let expected = only_if(logical_moves, &logical_advances);
        assert_eq!(planned(wanted(), behind.clone(), &situation), expected, "{lineage:?}");
        let expected = only_if(logical_moves, &copies);
        assert_eq!(planned(wanted(), None, &situation), expected, "{lineage:?}");
        assert_eq!(planned(wanted(), behind, &broke), expected, "{lineage:?}");
        let primary = Situation { is_primary: true, leader_is_me: true, ..situation };
        assert_eq!(planned(unused.clone(), Some(physical()), &primary), advances, "its WAL is the leader's");
        // Found by the simulation: it has the lock and was away while others led.
        let about_to_lead = Situation { leader_is_me: true, ..situation };
        let expected = only_if(physical_moves, &advances);
        assert_eq!(planned(unused, Some(physical()), &about_to_lead), expected, "{lineage:?}");
    }
}

#[test]
fn sl_10_wal_is_the_leaders_where_it_arrives_on_its_timeline() {
    let leader = |role: &str, timeline: u64| ("a", json!({"role": role, "timeline": timeline}));
    let (shared, archived, unknown) = (Lineage::Shared, Lineage::Archived, Lineage::Unknown);
    let tells_nothing = ("a", json!({"role": "primary"}));
    for (case, leader, me, receiving, timeline, [streams, restores]) in [
        ("streams", leader("primary", 3), "b", Some(3), Some(3), [shared, shared]),
        ("streams from behind", leader("primary", 3), "b", Some(2), Some(2), [unknown, unknown]),
        ("left the leader's", leader("primary", 4), "b", None, Some(3), [unknown, unknown]),
        ("perhaps a timeline begun twice", leader("primary", 3), "b", None, Some(3), [unknown, archived]),
        ("who knows where", leader("primary", 3), "b", None, None, [unknown, unknown]),
        ("before the promotion", leader("replica", 3), "b", Some(3), Some(3), [unknown, unknown]),
        ("a standby cluster", leader("standby_leader", 3), "b", Some(3), Some(3), [shared, shared]),
        ("no timeline is told", tells_nothing, "b", Some(3), Some(3), [unknown, unknown]),
        ("the leader has no key", ("c", json!({})), "b", Some(3), Some(3), [unknown, unknown]),
        ("the leader itself", leader("standby_leader", 3), "a", Some(3), Some(3), [Lineage::Own; 2]),
        ("about to be promoted", leader("replica", 3), "a", None, Some(3), [unknown, unknown]),
    ] {
        let node = node(me, Role::Replica, &[leader], &json!({}), &json!({}));
        for (tags, expected) in [(json!({}), streams), (json!({"nostream": true}), restores)] {
            let tags = Tags(tags.as_object().cloned().unwrap());
            let found = lineage(&node.cluster, &node.me, &tags, receiving, timeline);
            assert_eq!(found, expected, "{case}, {tags:?}");
        }
    }
}

#[test]
fn a_3_4_status_shows_managed_slots_and_the_leaders_own_name() {
    let consumed = Actual { confirmed_flush_lsn: Some(Lsn(70)), ..logical() };
    let empty = Actual { restart_lsn: None, ..physical() };
    let actual = [("b", physical()), ("cdc", consumed), ("empty", empty), ("foreign", physical())];
    let actual = actual.map(|(name, slot)| (name.to_owned(), slot)).into();
    let mut managed: BTreeMap<_, _> =
        ["b", "empty", "missing"].map(|name| (name.to_owned(), wish(None, None))).into();
    managed.insert("cdc".into(), wish_logical(None));
    let positions = positions(&managed, &actual);
    assert_eq!(positions, [("b".to_owned(), Lsn(100)), ("cdc".to_owned(), Lsn(70))].into());

    let permanent = json!({"cdc": {"database": "d", "plugin": "p"}});
    let mut settings = Settings {
        use_slots: true,
        member_slots_ttl: Duration::from_secs(1800),
        permanent: permanent.as_object().unwrap(),
        standby_cluster: false,
    };
    let me = MemberName::from("A-1");
    let names = |settings: &Settings<'_>| {
        published(positions.clone(), &me, Lsn(500), settings)
            .map(|slots| slots.into_iter().map(|(name, lsn)| (name, lsn.0)).collect::<Vec<_>>())
    };
    let all = [("a_1".to_owned(), 500), ("b".to_owned(), 100), ("cdc".to_owned(), 70)];
    assert_eq!(names(&settings), Some(all.to_vec()));
    settings.member_slots_ttl = Duration::ZERO;
    assert_eq!(names(&settings), Some(vec![("cdc".to_owned(), 70)]));
    let none = Map::new();
    settings.permanent = &none;
    assert_eq!(names(&settings), None);
}

#[test]
fn a_3_4_a_slot_of_another_kind_says_nothing_of_the_consumer() {
    let confirmed = Actual { confirmed_flush_lsn: Some(Lsn(70)), ..logical() };
    for (wanted, actual, told) in [
        (wish_logical(None), confirmed.clone(), true),
        (wish(None, None), confirmed.clone(), false),
        (wish_logical(None), physical(), false),
        (wish(None, None), Actual { lost: true, ..physical() }, false),
        (wish_logical(None), Actual { failover: true, synced: true, ..confirmed.clone() }, false),
        (wish_logical(None), Actual { failover: true, ..confirmed }, true),
    ] {
        let told_of = positions(&[("s".into(), wanted)].into(), &[("s".into(), actual.clone())].into());
        assert_eq!(!told_of.is_empty(), told, "{actual:?}");
    }
}

#[test]
fn sl_9_primary_creates_logical_slots_in_their_database() {
    let primary = Situation { leader_is_me: true, is_primary: true, ..SITUATION };
    let create = SlotAction::CreateLogical { name: "s".into(), database: "d".into(), plugin: "p".into() };
    assert_eq!(planned(Some(wish_logical(None)), None, &primary), std::slice::from_ref(&create));
    assert_eq!(planned(Some(wish_logical(Some(70))), None, &primary), [create]);
    assert_eq!(
        planned(Some(wish_logical(Some(700))), Some(logical()), &primary),
        [],
        "its consumer moves it"
    );
    // PostgreSQL 17: what was a synchronised copy is the slot of that name after a promotion.
    let synced = Actual { failover: true, synced: true, ..logical() };
    assert_eq!(planned(Some(wish_logical(None)), Some(synced), &primary), []);
}

#[test]
fn sl_10_standby_advances_to_feedback_or_replay_and_copies_what_is_missing() {
    let advance =
        |to| vec![SlotAction::AdvanceLogical { name: "s".into(), database: "d".into(), to: Lsn(to) }];
    let copy = vec![SlotAction::Copy { name: "s".into() }];
    let at = |confirmed| Some(Actual { confirmed_flush_lsn: Some(Lsn(confirmed)), ..logical() });
    let broken = BTreeSet::from(["s".to_owned()]);
    let broke = Situation { broken: &broken, ..SITUATION };
    let unknown = Situation { replay_lsn: None, ..SITUATION };
    for (case, wanted, actual, situation, expected) in [
        ("feedback", Some(500), at(400), SITUATION, advance(500)),
        ("no further than replayed", Some(900), at(400), SITUATION, advance(600)),
        ("replayed is unknown", Some(900), at(400), unknown, vec![]),
        ("there already", Some(500), at(500), SITUATION, vec![]),
        ("ahead: a former primary", Some(500), at(550), SITUATION, vec![]),
        ("no feedback", None, at(400), SITUATION, vec![]),
        ("missing", Some(500), None, SITUATION, copy.clone()),
        ("missing, no feedback: the primary has none", None, None, SITUATION, vec![]),
        ("cannot be advanced", Some(500), at(400), broke, copy),
        ("cannot be advanced, no feedback", None, at(400), broke, vec![]),
        (
            "in use on the standby",
            Some(500),
            at(400).map(|slot| Actual { active: true, ..slot }),
            SITUATION,
            vec![],
        ),
        (
            "synchronised by PostgreSQL",
            Some(500),
            at(400).map(|slot| Actual { failover: true, synced: true, ..slot }),
            SITUATION,
            vec![],
        ),
        (
            "lost",
            Some(500),
            at(400).map(|slot| Actual { lost: true, ..slot }),
            SITUATION,
            vec![drop_of(DropReason::Lost)],
        ),
        (
            "another plugin",
            Some(500),
            at(400).map(|slot| Actual {
                kind: Kind::Logical { database: "d".into(), plugin: "x".into() },
                ..slot
            }),
            SITUATION,
            vec![drop_of(DropReason::Different)],
        ),
    ] {
        assert_eq!(planned(Some(wish_logical(wanted)), actual, &situation), expected, "{case}");
    }
}

#[test]
fn b_23_6_hot_standby_feedback_where_logical_slots_depend_on_it() {
    let logical = json!({"slots": {"cdc": {"database": "d", "plugin": "p"}, "archive": null}});
    let needs = |me: &str, members: &[(&str, Value)], config: &Value| {
        let role = if me == "a" { Role::Primary } else { Role::Replica };
        needs_feedback(&node(me, role, members, &json!({}), config).view())
    };
    for me in ["a", "b", "c", "d"] {
        assert!(needs(me, &members(), &logical), "{me}");
        assert!(!needs(me, &members(), &json!({"slots": {"archive": null}})), "{me}: only a physical slot");
    }
    assert!(!needs("e", &members(), &logical), "it does not stream");
    let off = json!({"slots": logical["slots"], "postgresql": {"use_slots": false}});
    assert!(!needs("b", &members(), &off));
    let standby_cluster = json!({"slots": logical["slots"], "standby_cluster": {"host": "h"}});
    assert!(!needs("b", &members(), &standby_cluster));
    // b itself will never lead, but c replicates through it.
    let mut through = members();
    through[1].1 = json!({"tags": {"nofailover": true}});
    assert!(needs("b", &through, &logical));
    through[2].1 = json!({"tags": {"nofailover": true, "replicatefrom": "b"}});
    assert!(!needs("b", &through, &logical), "nor will c");
    assert!(!needs("c", &through, &logical));
}

#[test]
fn sl_11_feedback_arrives_by_the_slot_of_the_head_of_the_cascade() {
    let of = |me: &str, members: &[(&str, Value)]| {
        let node = node(me, Role::Replica, members, &json!({}), &json!({}));
        slot_on_primary(&node.cluster, &node.me, &node.tags)
    };
    assert_eq!(of("b", &members()), Some("b".into()));
    assert_eq!(of("c", &members()), Some("b".into()));
    assert_eq!(of("d", &members()), Some("d".into()), "its upstream does not exist");
    assert_eq!(of("e", &members()), None, "it does not stream");
    let mut looped = members();
    looped[1].1 = json!({"tags": {"replicatefrom": "c"}});
    assert_eq!(of("c", &looped), None);
}

/// What a leader publishes of slots `b` (streams from it) and `archive`.
fn told(published: &mut Published, status: &Value, slots: &[(&str, u64, bool)]) -> Vec<(String, u64)> {
    let config = json!({"slots": {"archive": null}});
    let mut all = members();
    all[1].1 = json!({"xlog_location": 80});
    let node = node("a", Role::Primary, &all, status, &config);
    let actual = slots.iter().map(|(name, lsn, active)| {
        ((*name).to_owned(), Actual { restart_lsn: Some(Lsn(*lsn)), active: *active, ..physical() })
    });
    let positions = published.update(&node.cluster, &node.wanted().slots, &actual.collect());
    positions.into_iter().map(|(name, lsn)| (name, lsn.0)).collect()
}

#[test]
fn b_23_3_of_a_member_that_has_just_come_back_nothing_is_told() {
    let mut published = Published::default();
    let mut told_of = |member: Option<Value>, lsn, active| {
        let mut all = members();
        match member {
            Some(data) => all[1].1 = data,
            None => drop(all.remove(1)),
        }
        let status = json!({"retain_slots": ["b"], "slots": {"b": 0}});
        let node = node("a", Role::Primary, &all, &status, &json!({}));
        let slot = Actual { restart_lsn: Some(Lsn(lsn)), active, ..physical() };
        published.update(&node.cluster, &node.wanted().slots, &[("b".to_owned(), slot)].into())["b"].0
    };
    let says = |lsn| Some(json!({"xlog_location": lsn}));
    assert_eq!(told_of(Some(json!({})), 100, false), 0, "its server does not run, and it may be anywhere");
    assert_eq!(told_of(None, 100, false), 0, "gone again");
    assert_eq!(told_of(says(70), 100, false), 70);
    assert_eq!(told_of(None, 100, false), 70);
    assert_eq!(told_of(says(90), 100, true), 100, "it streams");
}

#[test]
fn b_23_3_a_slot_that_begins_beyond_its_consumer_does_not_speak_for_it() {
    let owned =
        |all: &[(&str, u64)]| all.iter().map(|(name, lsn)| ((*name).to_owned(), *lsn)).collect::<Vec<_>>();
    let status = json!({"slots": {"archive": 50, "b": 60}});
    let mut published = Published::default();
    // The former leader knew better than the slots that this one has.
    let first = told(&mut published, &status, &[("archive", 100, false), ("b", 100, false)]);
    assert_eq!(first, owned(&[("archive", 50), ("b", 60)]));
    let again = told(&mut published, &status, &[("archive", 100, false), ("b", 100, true)]);
    assert_eq!(again, owned(&[("archive", 50), ("b", 100)]), "b streams");
    // Somebody moved it by hand; b went away, and its key does not say that it was that far.
    let moved = told(&mut published, &status, &[("archive", 120, false), ("b", 110, false)]);
    assert_eq!(moved, owned(&[("archive", 120), ("b", 80)]));
    // Nothing was published: the member itself says where it is.
    let alone = told(&mut Published::default(), &json!({}), &[("archive", 100, false), ("b", 100, false)]);
    assert_eq!(alone, owned(&[("archive", 100), ("b", 80)]));
    // Rewound since: it is not there any more.
    let back = told(&mut Published::default(), &json!({"slots": {"b": 90}}), &[("b", 100, false)]);
    assert_eq!(back, owned(&[("b", 80)]));
    // A slot that lies behind speaks for itself.
    let behind = told(&mut Published::default(), &status, &[("archive", 40, false), ("b", 60, false)]);
    assert_eq!(behind, owned(&[("archive", 40), ("b", 60)]));
    // Made anew under the same lock: it begins wherever this node's WAL does.
    let mut published = Published::default();
    told(&mut published, &status, &[("archive", 50, false)]);
    published.made("archive");
    assert_eq!(told(&mut published, &status, &[("archive", 100, false)]), owned(&[("archive", 50)]));
}
