//! What is to be done about the slots that a node has (contract B.23.3, SL-2 to SL-10).

use std::collections::{BTreeMap, BTreeSet};

use ptarmigan_types::{Lsn, scalar::is_truthy};
use serde_json::{Map, Value};

use super::{Actual, Kind, Lineage, Wanted};

/// What is to be done about a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotAction {
    /// Drop it; while it is active that fails and is tried again later.
    Drop {
        /// The slot.
        name: String,
        /// Why.
        reason: DropReason,
    },
    /// Create a physical slot; after a [`SlotAction::Drop`] of the same name that did not work it is left out.
    Create {
        /// The slot.
        name: String,
    },
    /// Move a physical slot's `restart_lsn` forward.
    Advance {
        /// The slot.
        name: String,
        /// To here.
        to: Lsn,
    },
    /// Create a logical slot, in its database. It waits for transactions that run, so nothing may wait for it.
    CreateLogical {
        /// The slot.
        name: String,
        /// Its database.
        database: String,
        /// Its output plugin.
        plugin: String,
    },
    /// Move a logical slot's `confirmed_flush_lsn` forward, in its database. It reads WAL, so nothing may wait for it.
    AdvanceLogical {
        /// The slot.
        name: String,
        /// Its database.
        database: String,
        /// To here.
        to: Lsn,
    },
    /// Copy a logical slot from the leader, which takes a restart: for the core to begin (contract B.23.5).
    Copy {
        /// The slot.
        name: String,
    },
}

impl SlotAction {
    /// The slot.
    pub const fn name(&self) -> &String {
        match self {
            Self::Drop { name, .. }
            | Self::Create { name }
            | Self::Advance { name, .. }
            | Self::CreateLogical { name, .. }
            | Self::AdvanceLogical { name, .. }
            | Self::Copy { name } => name,
        }
    }
}

/// Why a slot is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Nobody wants it (contract SL-3).
    NotWanted,
    /// The WAL it needs is gone (contract SL-3).
    Lost,
    /// Another type, plugin or database is wanted (contract SL-5).
    Different,
    /// It holds back vacuum though nobody should use it here (contract SL-6).
    Xmin,
    /// It reserves no WAL (contract SL-8).
    NothingReserved,
    /// A left-over of a former primary (contract SL-2).
    FailoverNotSynced,
}

/// What decides about existing slots, besides those wanted.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The cluster is paused.
    pub paused: bool,
    /// Somebody holds the leader lock.
    pub has_leader: bool,
    /// This node holds it.
    pub leader_is_me: bool,
    /// PostgreSQL is running as a primary.
    pub is_primary: bool,
    /// How far a standby has replayed; nothing on it is advanced beyond.
    pub replay_lsn: Option<Lsn>,
    /// A standby's WAL beside the leader's.
    ///
    /// Safer than the contract (docs/compatibility.md): the positions of consumers are those of the leader's WAL. In WAL that
    /// has left it they stand for something else, which nobody has read: where an operator lets such a server lead, its
    /// slots must still be where the consumers were when it left.
    pub lineage: Lineage,
    /// Logical slots that could not be advanced, and never will be: what they need is gone (SQLSTATE 58P01, 55000).
    pub broken: &'a BTreeSet<String>,
    /// Slots that are not wanted and stay ([`super::WantedSlots::kept`]).
    pub kept: &'a BTreeSet<String>,
    /// Matchers of slots to leave alone.
    pub ignore_slots: &'a [Map<String, Value>],
}

impl Situation<'_> {
    /// Whether a slot must not be dropped, whatever is wanted (contract SL-3, SL-4, B.23.4).
    fn spares(&self, name: &str, actual: &Actual) -> bool {
        self.paused
            || self.kept.contains(name)
            || self.ignore_slots.iter().any(|matcher| is_ignored(matcher, name, actual))
    }

    /// An inactive slot with an xmin may go (contract SL-6).
    fn may_clean(&self) -> bool {
        self.has_leader && (!self.leader_is_me || self.is_primary)
    }
}

/// True where the slot fits one entry of `ignore_slots` (contract SL-4).
pub fn is_ignored(matcher: &Map<String, Value>, name: &str, actual: &Actual) -> bool {
    let (kind, database, plugin) = match &actual.kind {
        Kind::Physical => ("physical", None, None),
        Kind::Logical { database, plugin } => ("logical", Some(database.as_str()), Some(plugin.as_str())),
    };
    let name_fits = matcher.get("name").is_none_or(|wanted| wanted.as_str() == Some(name));
    let fits = |key: &str, value: Option<&str>| {
        matcher.get(key).filter(|wanted| is_truthy(wanted)).is_none_or(|wanted| wanted.as_str() == value)
    };
    name_fits && fits("type", Some(kind)) && fits("database", database) && fits("plugin", plugin)
}

/// The actions that bring the existing slots to the wanted ones (contract B.23.3, SL-2 to SL-10), in order.
pub fn plan(
    wanted: &BTreeMap<String, Wanted>,
    actual: &BTreeMap<String, Actual>,
    situation: &Situation<'_>,
) -> Vec<SlotAction> {
    let mut actions = Vec::new();
    for (name, slot) in actual.iter().filter(|(_, slot)| !slot.is_synced()) {
        if let Some(reason) = reason_to_drop(wanted.get(name), name, slot, situation) {
            actions.push(SlotAction::Drop { name: name.clone(), reason });
            if reason == DropReason::Lost && slot.kind == Kind::Physical {
                actions.push(SlotAction::Create { name: name.clone() });
            }
        }
    }
    for (name, wish) in wanted {
        match (actual.get(name), &wish.kind) {
            (slot, Kind::Logical { database, plugin }) => {
                actions.extend(logical(name, (database, plugin), wish, slot, situation));
            }
            (None, Kind::Physical) => actions.push(SlotAction::Create { name: name.clone() }),
            (Some(slot), Kind::Physical) if slot.kind == Kind::Physical && !slot.lost => {
                actions.extend(maintain(name, wish, slot, situation));
            }
            (Some(_), Kind::Physical) => {}
        }
    }
    actions
}

fn reason_to_drop(
    wish: Option<&Wanted>,
    name: &str,
    slot: &Actual,
    situation: &Situation<'_>,
) -> Option<DropReason> {
    if slot.failover && !situation.is_primary && situation.has_leader && !situation.leader_is_me {
        return (!situation.paused).then_some(DropReason::FailoverNotSynced);
    }
    let reason = match wish {
        None => DropReason::NotWanted,
        Some(wish) if wish.kind != slot.kind => DropReason::Different,
        Some(_) if slot.lost => DropReason::Lost,
        Some(_) => return None,
    };
    (!slot.failover && !situation.spares(name, slot)).then_some(reason)
}

/// SL-9, SL-10. A slot that PostgreSQL itself keeps in step with the primary's is left to it.
fn logical(
    name: &str,
    (database, plugin): (&str, &str),
    wish: &Wanted,
    slot: Option<&Actual>,
    situation: &Situation<'_>,
) -> Option<SlotAction> {
    let name = name.to_owned();
    let shared = situation.lineage == Lineage::Shared;
    let copy = |name| wish.lsn.filter(|_| shared).map(|_| SlotAction::Copy { name });
    match slot {
        None if situation.is_primary => {
            Some(SlotAction::CreateLogical { name, database: database.to_owned(), plugin: plugin.to_owned() })
        }
        None => copy(name),
        Some(slot) if situation.is_primary || slot.kind != wish.kind || slot.lost || slot.failover => None,
        Some(_) if situation.broken.contains(&name) => copy(name),
        Some(slot) if slot.active || !shared => None,
        Some(slot) => {
            let to = wish.lsn?.min(situation.replay_lsn?);
            let behind = slot.confirmed_flush_lsn.is_none_or(|confirmed| confirmed < to);
            behind.then(|| SlotAction::AdvanceLogical { name, database: database.to_owned(), to })
        }
    }
}

fn maintain(name: &str, wish: &Wanted, slot: &Actual, situation: &Situation<'_>) -> Vec<SlotAction> {
    let drop = |reason| SlotAction::Drop { name: name.to_owned(), reason };
    let create = SlotAction::Create { name: name.to_owned() };
    if slot.xmin.is_some() {
        let unused = wish.expected_active == Some(false) && situation.may_clean();
        return if unused { vec![drop(DropReason::Xmin), create] } else { Vec::new() };
    }
    if wish.expected_active == Some(true) || slot.active {
        return Vec::new();
    }
    let lost = !situation.is_primary && situation.lineage == Lineage::Unknown;
    match (slot.restart_lsn, wish.lsn) {
        (None, _) => vec![drop(DropReason::NothingReserved), create],
        (Some(reserved), Some(to)) if to > reserved && !lost => {
            vec![SlotAction::Advance { name: name.to_owned(), to }]
        }
        _ => Vec::new(),
    }
}
