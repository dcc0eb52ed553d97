//! Replication slots: which a node should have, what is to be done about those it has, what `/status` tells of them
//! (contract B.23).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ptarmigan_types::{
    Cluster, Lsn, Member, MemberName, Role, Tags, scalar::is_truthy, slot::name_of_member,
};
use serde_json::{Map, Value};

use crate::follow::{comes_back, named_upstream};

mod feedback;
pub(crate) mod in_cycle;
mod lineage;
mod plan;
mod publish;
mod readiness;
mod retain;

pub use feedback::{needs_feedback, slot_on_primary};
pub use lineage::{Lineage, lineage};
pub use plan::{DropReason, Situation, SlotAction, is_ignored, plan};
pub use publish::{Published, positions, published};
pub use readiness::{PrimaryXmins, Question, Readiness, Way, precedes_or_equals};
pub use retain::Retained;

/// What a slot serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A standby or another receiver of WAL.
    Physical,
    /// Logical decoding.
    Logical {
        /// Its database.
        database: String,
        /// Its output plugin.
        plugin: String,
    },
}

/// A slot that a node should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it serves.
    pub kind: Kind,
    /// How far its consumer is, for advancing it where nobody uses it here; `None`: never advanced.
    pub lsn: Option<Lsn>,
    /// Whether somebody should be using it on this node; `None` for retained slots: never dropped for its xmin.
    pub expected_active: Option<bool>,
}

/// A slot that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actual {
    /// What it serves.
    pub kind: Kind,
    /// Somebody is using it.
    pub active: bool,
    /// It holds back vacuum.
    pub xmin: Option<String>,
    /// It holds back vacuum of catalogs.
    pub catalog_xmin: Option<String>,
    /// From where on WAL is kept.
    pub restart_lsn: Option<Lsn>,
    /// Logical: what the consumer confirmed.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `wal_status` is `lost`: the WAL it needs is gone (PostgreSQL 13 and newer).
    pub lost: bool,
    /// Logical: is copied to standbys by PostgreSQL itself (17 and newer).
    pub failover: bool,
    /// Logical: is such a copy.
    pub synced: bool,
}

/// What decides which slots a node should have.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// This node.
    pub me: &'a MemberName,
    /// Its role as it is published.
    pub role: Role,
    /// Its own tags.
    pub tags: &'a Tags,
    /// The dynamic configuration, as far as it speaks of slots.
    pub settings: Settings<'a>,
}

/// The dynamic configuration, as far as it speaks of slots (contract C.3).
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Whether slots are used at all.
    pub use_slots: bool,
    /// How long the slot of a member that is gone stays; zero: only those that stream from here have one.
    pub member_slots_ttl: Duration,
    /// Permanent slots: name and specification.
    pub permanent: &'a Map<String, Value>,
    /// This is a standby cluster.
    pub standby_cluster: bool,
}

/// The result of [`wanted`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedSlots {
    /// By name.
    pub slots: BTreeMap<String, Wanted>,
    /// Those that are not made here, and stay where they are (contract B.23.4).
    ///
    /// Safer than the contract (docs/compatibility.md): a member that must not lead has slots only for those that replicate
    /// from it, and cannot know whether one that left was among them. Those whose slots it has were.
    pub kept: BTreeSet<String>,
    /// What an operator should know: names that collide or are invalid.
    pub complaints: Vec<String>,
}

impl View<'_> {
    fn leads(&self) -> bool {
        matches!(self.role, Role::Primary | Role::Promoted | Role::StandbyLeader)
    }

    /// Whether `member` streams from this node, as far as its tags say (contract B.23.2).
    ///
    /// Safer than the contract (docs/compatibility.md): whoever is in a circle of `replicatefrom` follows the leader where it
    /// is one of ours, and the one that it names where it is a Patroni, so both have its slot.
    fn serves(&self, member: &Member, tags: &Tags) -> Serves {
        let here = |it_is| if it_is { Serves::Certainly } else { Serves::No };
        let Some(upstream) = named_upstream(&member.name, tags, self.cluster) else {
            return here(self.leads());
        };
        let named = upstream == *self.me && (self.leads() || !self.cluster.is_leader(&member.name));
        if comes_back(&member.name, &upstream, self.cluster) {
            return if named || self.leads() { Serves::Perhaps } else { Serves::No };
        }
        here(named)
    }

    /// Nobody will miss this node's slots but those who stream from it.
    ///
    /// Safer than the contract (docs/compatibility.md): a leader that was given the tag goes on as the leader, and its slots
    /// hold the WAL of everybody.
    fn serves_its_own_only(&self) -> bool {
        self.tags.nofailover() && !self.leads()
    }

    /// A member that is there has this slot's name.
    fn has_member(&self, slot: &str) -> bool {
        self.cluster.members.iter().any(|member| name_of_member(member.name.as_str()) == *slot)
    }

    fn has_member_slot(&self, member: &Member, tags: &Tags) -> bool {
        if member.name == *self.me || tags.nostream() {
            return false;
        }
        if self.settings.member_slots_ttl.is_zero() {
            return self.serves(member, tags) != Serves::No;
        }
        // It may lead now, and come back.
        let names_this = tags.replicatefrom().as_ref() == Some(self.me);
        !self.serves_its_own_only() || names_this || self.serves(member, tags) != Serves::No
    }

    /// The way from this node to the primary passes a member that does not stream, or never ends.
    fn chain_is_broken(&self) -> bool {
        !self.leads() && feedback::chain(self.cluster, self.me, self.tags).is_none()
    }

    fn status_lsn(&self, slot: &str) -> Option<Lsn> {
        self.cluster.status.slots.as_ref().and_then(|slots| slots.get(slot)).copied()
    }

    /// The leader does not maintain the positions of all members.
    fn leader_is_old(&self) -> bool {
        self.cluster
            .leader_member()
            .and_then(|leader| leader.data.version())
            .is_some_and(|version| ptarmigan_types::version::is_below(version, &[4, 0, 0]))
    }

    /// How far this member is, whose slot is not in use here (contract B.23.2). One that replicates from another may be
    /// connected there, and its slot on the leader moves only with what it says itself.
    ///
    /// Safer than the contract (docs/compatibility.md): never further than the member says. `/status` still tells where it
    /// was before `pg_rewind` took it back, and the leader that would know better may be away itself. Of one that says
    /// nothing, because it is being rewound or copied, nothing is known.
    fn member_lsn(&self, slot: &str, member: &Member, old_leader: bool) -> Option<Lsn> {
        let says = member.data.xlog_location()?;
        if old_leader || member.data.tags().replicatefrom().is_some() {
            return Some(says);
        }
        self.status_lsn(slot).map(|published| published.min(says))
    }
}

/// Whether a member streams from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serves {
    Certainly,
    /// It depends on who the member is.
    Perhaps,
    No,
}

impl Serves {
    /// A slot that may be used is neither dropped for its xmin nor left behind where it is not used.
    const fn expected_active(self) -> Option<bool> {
        match self {
            Self::Certainly => Some(true),
            Self::Perhaps => None,
            Self::No => Some(false),
        }
    }
}

/// The slots that this node should have (contract B.23.2). `None` while the cluster has no `/config`: then slots are
/// left alone (contract SL-1). With `use_slots` off the set is empty.
pub fn wanted(view: &View<'_>) -> Option<WantedSlots> {
    view.cluster.config.as_ref()?;
    let mut wanted = WantedSlots::default();
    if !view.settings.use_slots {
        return Some(wanted);
    }
    add_member_slots(view, &mut wanted);
    add_retained_slots(view, &mut wanted);
    if !view.serves_its_own_only() {
        add_permanent_slots(view, &mut wanted);
    }
    Some(wanted)
}

fn add_member_slots(view: &View<'_>, wanted: &mut WantedSlots) {
    let old_leader = view.leader_is_old();
    for member in view.cluster.members.iter() {
        let tags = member.data.tags();
        if !view.has_member_slot(member, &tags) {
            continue;
        }
        let slot = name_of_member(member.name.as_str());
        let lsn = view.member_lsn(&slot, member, old_leader);
        let expected_active = view.serves(member, &tags).expected_active();
        if wanted.slots.contains_key(&slot) {
            wanted.complaints.push(collision(view, member, &slot));
        }
        wanted.slots.insert(slot, Wanted { kind: Kind::Physical, lsn, expected_active });
    }
}

fn collision(view: &View<'_>, member: &Member, slot: &str) -> String {
    let before = view.cluster.members.iter().take_while(|other| other.name != member.name);
    let names = before
        .filter(|other| view.has_member_slot(other, &other.data.tags()))
        .map(|other| other.name.as_str());
    let other = names.filter(|other| name_of_member(other) == slot).last().unwrap_or_default();
    format!("members {other} and {} share the replication slot {slot}", member.name)
}

fn add_retained_slots(view: &View<'_>, wanted: &mut WantedSlots) {
    let mine = name_of_member(view.me.as_str());
    for slot in view.cluster.status.retain_slots.iter().flatten() {
        if *slot == mine || wanted.slots.contains_key(slot) {
            continue;
        }
        if view.serves_its_own_only() {
            if !view.has_member(slot) {
                wanted.kept.insert(slot.clone());
            }
        } else {
            let retained = Wanted { kind: Kind::Physical, lsn: None, expected_active: None };
            wanted.slots.insert(slot.clone(), retained);
        }
    }
}

fn add_permanent_slots(view: &View<'_>, wanted: &mut WantedSlots) {
    let standby_cluster = view.settings.standby_cluster;
    let physical_only = standby_cluster || view.chain_is_broken();
    let mine = name_of_member(view.me.as_str());
    for (name, spec) in view.settings.permanent {
        let Some(kind) = kind_of(name, spec) else {
            wanted.complaints.push(format!("invalid permanent replication slot {name:?}: {spec}"));
            continue;
        };
        let physical = kind == Kind::Physical;
        if physical_only && (!physical || is_for_primary_clusters(spec)) {
            continue;
        }
        if physical && *name == mine {
            continue;
        }
        let is_member = view.cluster.members.iter().any(|member| {
            name_of_member(member.name.as_str()) == *name && view.has_member_slot(member, &member.data.tags())
        });
        if is_member {
            if !physical {
                let text =
                    format!("permanent logical replication slot {name:?} has the name of a member's slot");
                wanted.complaints.push(text);
            }
            continue;
        }
        let permanent = permanent_slot(view, name, kind);
        wanted.slots.insert(name.clone(), permanent);
    }
}

fn permanent_slot(view: &View<'_>, name: &str, kind: Kind) -> Wanted {
    if kind != Kind::Physical {
        return Wanted { lsn: view.status_lsn(name), kind, expected_active: None };
    }
    let namesake = view.cluster.members.iter().find(|member| name_of_member(member.name.as_str()) == name);
    let cascades = namesake.is_some_and(|member| member.data.tags().replicatefrom().is_some());
    // The slot of a member that lives from the archive has somebody else as its consumer.
    let member = namesake.filter(|member| !member.data.tags().nostream());
    Wanted {
        kind,
        lsn: member.map_or_else(|| view.status_lsn(name), |member| view.member_lsn(name, member, false)),
        expected_active: Some(view.leads() && !cascades),
    }
}

fn is_for_primary_clusters(spec: &Value) -> bool {
    spec.get("cluster_type").and_then(Value::as_str) == Some("primary")
}

/// What a permanent slot's specification asks for; `None` where the name or the specification is invalid.
pub fn kind_of(name: &str, spec: &Value) -> Option<Kind> {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(valid) {
        return None;
    }
    let empty = Map::new();
    let spec = match spec {
        Value::Object(map) => map,
        other if is_truthy(other) => return None,
        _ => &empty,
    };
    let text = |key: &str| spec.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let logical = text("database").zip(text("plugin"));
    match (text("type"), logical) {
        (Some("physical"), _) | (None, None) => Some(Kind::Physical),
        (Some("logical") | None, Some((database, plugin))) => {
            Some(Kind::Logical { database: database.to_owned(), plugin: plugin.to_owned() })
        }
        _ => None,
    }
}

impl Actual {
    /// PostgreSQL itself keeps this slot in step with the primary's (contract SL-1): it is none of ours.
    pub const fn is_synced(&self) -> bool {
        self.failover && self.synced
    }

    /// How far its consumer is, as `/status` tells it (contract A.3.4).
    pub const fn position(&self) -> Option<Lsn> {
        match self.kind {
            Kind::Physical => self.restart_lsn,
            Kind::Logical { .. } => self.confirmed_flush_lsn,
        }
    }
}
