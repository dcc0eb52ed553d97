//! What is to be done about the slots that a node has (contract B.23.3, SL-2 to SL-8).

use std::collections::BTreeMap;

use ptarmigan_types::{Lsn, scalar::is_truthy};
use serde_json::{Map, Value};

use super::{Actual, Kind, Wanted};

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
    /// Matchers of slots to leave alone.
    pub ignore_slots: &'a [Map<String, Value>],
}

impl Situation<'_> {
    /// Whether a slot must not be dropped, whatever is wanted (contract SL-3, SL-4).
    fn spares(&self, name: &str, actual: &Actual) -> bool {
        self.paused || self.ignore_slots.iter().any(|matcher| is_ignored(matcher, name, actual))
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

/// The actions that bring the existing slots to the wanted ones (contract B.23.3, SL-2 to SL-8), in order. Logical
/// slots are only ever dropped.
pub fn plan(
    wanted: &BTreeMap<String, Wanted>,
    actual: &BTreeMap<String, Actual>,
    situation: &Situation<'_>,
) -> Vec<SlotAction> {
    let mut actions = Vec::new();
    for (name, slot) in actual.iter().filter(|(_, slot)| !(slot.failover && slot.synced)) {
        if let Some(reason) = reason_to_drop(wanted.get(name), name, slot, situation) {
            actions.push(SlotAction::Drop { name: name.clone(), reason });
            if reason == DropReason::Lost && slot.kind == Kind::Physical {
                actions.push(SlotAction::Create { name: name.clone() });
            }
        }
    }
    for (name, wish) in wanted {
        match actual.get(name) {
            None if wish.kind != Kind::Physical => {}
            None => actions.push(SlotAction::Create { name: name.clone() }),
            Some(slot) if slot.kind == Kind::Physical && wish.kind == Kind::Physical && !slot.lost => {
                actions.extend(maintain(name, wish, slot, situation));
            }
            Some(_) => {}
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
    match wish {
        None if slot.failover => None,
        None => (!situation.spares(name, slot)).then_some(DropReason::NotWanted),
        Some(wish) if wish.kind != slot.kind => Some(DropReason::Different),
        Some(_) if slot.lost && !slot.failover => (!situation.spares(name, slot)).then_some(DropReason::Lost),
        Some(_) => None,
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
    match (slot.restart_lsn, wish.lsn) {
        (None, _) => vec![drop(DropReason::NothingReserved), create],
        (Some(reserved), Some(to)) if to > reserved => {
            vec![SlotAction::Advance { name: name.to_owned(), to }]
        }
        _ => Vec::new(),
    }
}
