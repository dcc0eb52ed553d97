//! Whether a logical slot on a standby may be relied on after a failover (contract SL-11).
//!
//! A slot that was copied, or that a start found, promises rows of the catalog that the primary may have vacuumed away:
//! only from the moment on at which the primary knows of it through `hot_standby_feedback` does it spare them. The slot
//! is ready once the primary has kept, without a gap, all that the local slot needs: its own slot of that name did until
//! the standby's physical slot there had passed it, and the local slot needs no more than that one asks for.
//!
//! That holds as long as the feedback's way is the same. Safer than the contract (docs/compatibility.md): on another timeline
//! another primary may have removed rows before this node's feedback reached it; and while nothing arrived here, its
//! physical slot may have been dropped and made anew.

use std::collections::{BTreeMap, BTreeSet};

use ptarmigan_types::Timeline;

use super::{Actual, Kind};

/// What the primary says of this node's physical slot and of the logical slots that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrimaryXmins {
    /// `catalog_xmin` of the physical slot by which this node's feedback arrives; `None` where there is none yet.
    pub physical: Option<u32>,
    /// `catalog_xmin` of logical slots, by name.
    pub logical: BTreeMap<String, u32>,
}

/// The way that feedback takes to the primary. What is unknown at the moment is `None`: a stream that is gone gives nothing
/// up yet, only the next one may have come too late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The life of this node's server: after a start nothing is known.
    pub server: Option<String>,
    /// The timeline of this standby's WAL.
    pub timeline: Option<Timeline>,
    /// The process that receives it: each has one connection.
    pub receiver: Option<i64>,
    /// The slot on the primary by which this node's feedback arrives there.
    pub slot: Option<String>,
}

impl Way {
    /// Takes over what is known now. True where that is something else than before.
    fn turns(&mut self, now: Self) -> bool {
        fn turns<T: PartialEq>(before: &mut Option<T>, now: Option<T>) -> bool {
            let turned = now.is_some() && *before != now;
            if turned {
                *before = now;
            }
            turned
        }
        turns(&mut self.server, now.server)
            | turns(&mut self.timeline, now.timeline)
            | turns(&mut self.receiver, now.receiver)
            | turns(&mut self.slot, now.slot)
    }
}

/// What the primary is asked; its answer counts only where no slot has become suspect meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    suspicions: u64,
    /// Slots whose `catalog_xmin` is to be told.
    pub slots: Vec<String>,
}

/// The logical slots of a standby that are not known to be safe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    way: Way,
    /// The logical slots that were there at the last look.
    there: BTreeSet<String>,
    /// How often slots became suspect.
    suspicions: u64,
    /// By name: `catalog_xmin` of the primary's slot when this node's feedback was first seen to have arrived.
    unready: BTreeMap<String, Option<u32>>,
}

/// True where transaction `a` is not after `b`, on the circle on which PostgreSQL compares them.
pub const fn precedes_or_equals(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() <= 0
}

impl Readiness {
    /// These slots were copied just now, or found by a start.
    pub fn suspect<'a>(&mut self, slots: impl IntoIterator<Item = &'a str>) {
        self.suspicions += 1;
        self.unready.extend(slots.into_iter().map(|slot| (slot.to_owned(), None)));
    }

    /// Every logical slot that is there: after a start nothing is known of them.
    pub fn suspect_all(&mut self, actual: &BTreeMap<String, Actual>) {
        self.look(actual);
        self.suspect_those_there();
    }

    fn look(&mut self, actual: &BTreeMap<String, Actual>) {
        let logical = |(_, slot): &(&String, &Actual)| slot.kind != Kind::Physical && !slot.is_synced();
        self.there = actual.iter().filter(logical).map(|(name, _)| name.clone()).collect();
    }

    fn suspect_those_there(&mut self) {
        self.suspicions += 1;
        self.unready.extend(self.there.iter().map(|slot| (slot.clone(), None)));
    }

    /// Looks at the way that feedback takes. Where it is another one, nobody knows what the primary spared meanwhile.
    pub fn watch(&mut self, way: Way, actual: &BTreeMap<String, Actual>) {
        self.look(actual);
        self.watch_way(way);
    }

    /// The same where the slots have not been looked at: right before a promotion.
    pub fn watch_way(&mut self, way: Way) {
        if self.way.turns(way) {
            self.suspect_those_there();
        }
    }

    /// What the primary has to be asked; nothing is to be asked where no slot is suspect.
    pub fn question(&self) -> Question {
        let unknown = self.unready.iter().filter(|(_, xmin)| xmin.is_none());
        Question { suspicions: self.suspicions, slots: unknown.map(|(name, _)| name.clone()).collect() }
    }

    /// True where every slot is known to be safe.
    pub fn is_empty(&self) -> bool {
        self.unready.is_empty()
    }

    /// The slots that may be unsafe.
    pub fn unready(&self) -> impl Iterator<Item = &str> {
        self.unready.keys().map(String::as_str)
    }

    /// The primary's answer. Returns the slots that are ready now.
    pub fn answered(
        &mut self,
        question: &Question,
        primary: &PrimaryXmins,
        actual: &BTreeMap<String, Actual>,
    ) -> Vec<String> {
        if question.suspicions != self.suspicions {
            return Vec::new();
        }
        self.unready.retain(|name, _| actual.contains_key(name));
        // Without feedback the primary spares nothing for this node, whatever its own slots need.
        let Some(physical) = primary.physical else { return Vec::new() };
        let mut ready = Vec::new();
        for (name, seen) in &mut self.unready {
            *seen = seen.or_else(|| primary.logical.get(name).copied());
            let local = actual.get(name).and_then(|slot| slot.catalog_xmin.as_ref()?.parse().ok());
            let is_ready = seen.zip(local).is_some_and(|(theirs, mine)| {
                precedes_or_equals(theirs, physical) && precedes_or_equals(physical, mine)
            });
            if is_ready {
                ready.push(name.clone());
            }
        }
        self.unready.retain(|name, _| !ready.contains(name));
        ready
    }
}
