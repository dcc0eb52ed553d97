//! Whoever reads by a logical slot misses nothing: no slot stands beyond what its consumer has, and one that was said to
//! be ready for a failover can be read after it. The consumer of a permanent physical slot finds the WAL that it needs. In
//! the end every standby has what it needs to take over; but for those with `nofailover`, and those whose tags lead over a
//! member with `nostream`, or in a circle: they have no logical slots, whomever they stream from (contract B.23.2). And in
//! the end every slot is known to be ready, but for one that needs older rows than the leader's while its consumer stands
//! still: it moves on, and is cleared, with the consumer (contract SL-10, SL-11). While a failover or switchover is asked for,
//! nothing is copied (docs/compatibility.md, B.23.6): a wish that nobody can fulfil leaves standbys without the slot.

use std::collections::BTreeSet;

use ptarmigan_ha::slots::{Actual, Kind as SlotKind};
use ptarmigan_types::{Lsn, Monotonic};

use super::{Kind, Violation, wrong};
use crate::{logical::CDC, postgres::Record, world::World};

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    /// Records that the consumer has, or that were there when its slot was created.
    has: BTreeSet<u64>,
    /// Members whose slot was not ready when they were promoted.
    doubtful: BTreeSet<usize>,
    /// Records that the consumer of the physical slot has, of whatever history, or that were gone when it came.
    archived: BTreeSet<u64>,
    /// Promotions with a slot that was ready.
    pub ready: u64,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    fn object(&mut self, at: Monotonic, what: impl FnOnce() -> String) {
        self.violation.get_or_insert_with(|| wrong("logical_slots", at, what()));
    }

    /// The slot was created: the consumer begins here.
    pub fn begins_anew(&mut self, member: usize, there: impl Iterator<Item = u64>) {
        self.has.extend(there);
        self.doubtful.remove(&member);
    }

    /// The consumer said that it has these.
    pub fn confirmed(&mut self, records: impl Iterator<Item = u64>) {
        self.has.extend(records);
    }

    /// The consumer reads, and everything before `from` is not sent.
    pub fn reads(&mut self, at: Monotonic, member: usize, wal: &[Record], from: Lsn, usable: bool) {
        let sent = wal.partition_point(|record| record.end <= from);
        let missed = wal[..sent].iter().find(|record| !self.has.contains(&record.number)).copied();
        if let Some(missed) = missed {
            self.object(at, || {
                format!("m{member}'s slot is at {from}, and its consumer never had {missed:?}")
            });
        } else if !usable && !self.doubtful.contains(&member) {
            self.object(at, || format!("m{member}'s slot at {from} cannot be read from"));
        }
    }

    /// A standby was promoted; `usable`: its slot, where it has one.
    pub fn promoted(&mut self, at: Monotonic, member: usize, ready: bool, usable: Option<bool>) {
        if !ready {
            self.doubtful.insert(member);
            return;
        }
        self.doubtful.remove(&member);
        match usable {
            Some(false) => {
                self.object(at, || {
                    format!("m{member} is promoted, and its slot, said to be ready, cannot be read from")
                });
            }
            Some(true) => self.ready += 1,
            None => {}
        }
    }

    /// The consumer of the physical slot reads all of this WAL that its slot, at `reserved`, has kept since `born`. Where a
    /// member leads whose WAL had left that of the one before, it has the beginning from there and from here. Not asked for
    /// where this is a standby cluster at times: when the other one loses WAL, all members here take over its history, and
    /// positions in the former say nothing any more.
    pub fn archives(&mut self, at: Monotonic, member: usize, wal: &[Record], reserved: Lsn, born: Lsn) {
        let kept = wal.partition_point(|record| record.end <= born);
        let sent = wal.partition_point(|record| record.end <= reserved);
        let let_go = wal.get(kept..sent).unwrap_or_default();
        let has = |record: &Record| self.archived.contains(&record.number);
        // A slot that was made beyond the consumer promises nothing.
        let follows = wal[..kept].last().is_none_or(has) && !self.archived.is_empty();
        let missed = let_go.iter().find(|record| !has(record)).copied();
        if let Some(missed) = missed.filter(|_| follows) {
            self.object(at, || {
                format!("m{member}'s permanent slot is at {reserved}, and its consumer never had {missed:?}")
            });
        }
        self.archived.extend(wal.iter().map(|record| record.number));
    }
}

/// The tags of this member lead to no primary: over one with `nostream`, or in a circle.
fn is_cut_off(world: &World, leader: usize, member: usize) -> bool {
    let mut at = member;
    for _ in 0..world.members.len() {
        let tags = &world.members[at].settings.tags;
        let upstream = tags.replicatefrom().and_then(|name| world.index(&name.0));
        match upstream.filter(|upstream| *upstream != leader) {
            _ if tags.nostream() => return true,
            Some(upstream) => at = upstream,
            None => return false,
        }
    }
    true
}

/// An operator waits for a failover or a switchover.
fn is_asked_for(world: &World) -> bool {
    world.store.keys.get("failover").is_some_and(|raw| raw.value != "{}")
}

/// A standby's slot is as far as the consumer, and needs rows that the leader's needs no more.
fn waits_for_consumer(mine: &Actual, leaders: &Actual) -> bool {
    let needs = |slot: &Actual| slot.catalog_xmin.as_ref().and_then(|xmin| xmin.parse::<u64>().ok());
    mine.confirmed_flush_lsn >= leaders.confirmed_flush_lsn
        && needs(mine).zip(needs(leaders)).is_some_and(|(mine, theirs)| mine < theirs)
}

/// What is not as it has to be in the end.
pub fn judge(world: &World) -> Option<Violation> {
    let leader = world.store.keys.get("leader").and_then(|raw| world.index(&raw.value))?;
    let config = world.members[leader].known.as_ref()?;
    let wanted = crate::logical::permanent(config).contains_key(CDC);
    let object = |what: String| {
        Some(Violation { kind: Kind::Liveness, checker: "logical_slots", at: world.now, what })
    };
    for (index, member) in world.members.iter().enumerate() {
        let streams = member.postgres.streams_from.is_some_and(|(upstream, _)| upstream == leader);
        let has_none = member.settings.tags.nofailover() || is_cut_off(world, leader, index);
        if index != leader && (!streams || has_none) {
            continue;
        }
        let slot = member.postgres.slots.all().get(CDC);
        let there = slot.is_some_and(|slot| slot.kind != SlotKind::Physical && !slot.lost);
        if there != wanted && (there || !is_asked_for(world)) {
            return object(format!("m{index} has the logical slot: {there}, wanted: {wanted}"));
        }
        let leaders = world.members[leader].postgres.slots.all().get(CDC);
        let waits = slot.zip(leaders).is_some_and(|(mine, theirs)| waits_for_consumer(mine, theirs));
        if !member.logical.readiness.is_empty() && !waits {
            let theirs = &world.members[leader].postgres;
            return object(format!(
                "m{index}'s logical slot is not ready, or nobody found out: {:?} {slot:?}, {:?}, on the leader {:?}, by {:?}",
                member
                    .postgres
                    .slots
                    .all()
                    .iter()
                    .map(|(n, s)| (n, s.xmin.clone(), s.catalog_xmin.clone(), s.active))
                    .collect::<Vec<_>>(),
                member.logical.readiness,
                theirs.slots.all().get(CDC),
                theirs.slots.all().get(&*member.slot),
            ));
        }
    }
    None
}
