//! Replication slots and the WAL that they keep: what the servers do with them, and what the daemon does about them once a
//! cycle. What it decides is decided by the core.

use std::{collections::BTreeMap, time::Duration};

use ptarmigan_ha::slots::{
    self, Actual, DropReason, Kind, Settings, Situation, SlotAction, View, plan, wanted,
};
use ptarmigan_types::{Cluster, Lsn, Monotonic, slot::name_of_member};
use serde_json::{Map, Value};

use crate::{
    bugs::Bug,
    logical,
    postgres::{Postgres, Process},
    random::Random,
    world::{Event, World},
};

/// How often the servers are looked at for a checkpoint.
const LOOK: Duration = Duration::from_secs(10);
/// In how many of a hundred looks a server begins one.
const CHECKPOINT_PERCENT: u64 = 40;
/// `member_slots_ttl` where nothing is configured (contract C.3).
const MEMBER_SLOTS_TTL_S: u64 = 1800;

/// Slots as the core sees them, and what the checker wants to know of them.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// By name. They are active as they were when the daemon looked last.
    actual: BTreeMap<String, Actual>,
    /// By owner: its data, where they have not been replaced since, may count on all WAL from here on.
    since: Vec<Lsn>,
    /// By name: when it was created.
    created: BTreeMap<String, Monotonic>,
    /// By name: where it began.
    born: BTreeMap<String, Lsn>,
}

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// From where on WAL is kept; `None`: that WAL is gone, `wal_status` is `lost`.
    pub restart_lsn: Option<Lsn>,
    /// Its owner's data, where they have not been replaced since, may count on all WAL from here on.
    pub since: Lsn,
}

impl Slot {
    /// `wal_status` is `lost`.
    pub const fn is_lost(&self) -> bool {
        self.restart_lsn.is_none()
    }
}

impl Slots {
    /// That member's slot.
    fn get(&self, name: &str, owner: usize) -> Option<Slot> {
        let restart_lsn = self.actual.get(name)?.restart_lsn;
        Some(Slot { restart_lsn, since: self.since.get(owner).copied().unwrap_or_default() })
    }

    /// How long that slot has been there.
    pub fn age(&self, name: &str, now: Monotonic) -> Duration {
        self.created.get(name).map_or(Duration::ZERO, |created| now.since(*created))
    }

    /// All of them.
    pub const fn all(&self) -> &BTreeMap<String, Actual> {
        &self.actual
    }

    /// One of them.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Actual> {
        self.actual.get_mut(name)
    }

    /// A slot that is no member's.
    pub fn put(&mut self, name: &str, slot: Actual) {
        self.born.insert(name.to_owned(), slot.restart_lsn.unwrap_or_default());
        self.actual.insert(name.to_owned(), slot);
    }

    /// One goes.
    pub fn remove(&mut self, name: &str) {
        self.actual.remove(name);
    }

    /// A physical slot that nobody uses yet, if it is not there.
    pub fn reserve(&mut self, name: &str, from: Lsn) {
        if !self.actual.contains_key(name) {
            self.put(name, physical(from));
        }
    }

    /// Where that slot began.
    pub fn born(&self, name: &str) -> Lsn {
        self.born.get(name).copied().unwrap_or_default()
    }

    fn create(&mut self, name: &str, owner: usize, from: Lsn, now: Monotonic) {
        self.created.insert(name.to_owned(), now);
        self.put(name, physical(from));
        self.promise(owner, from);
    }

    fn promise(&mut self, owner: usize, from: Lsn) {
        if self.since.len() <= owner {
            self.since.resize(owner + 1, Lsn::ZERO);
        }
        self.since[owner] = from;
    }

    /// What lies before is given up.
    fn lose_before(&mut self, oldest: Lsn) {
        for slot in self.actual.values_mut().filter(|slot| slot.restart_lsn < Some(oldest)) {
            (slot.restart_lsn, slot.lost) = (None, true);
        }
    }

    /// No slot is left.
    pub fn clear(&mut self) {
        self.actual.clear();
    }
}

/// A physical slot.
const fn physical(from: Lsn) -> Actual {
    Actual {
        kind: Kind::Physical,
        active: false,
        xmin: None,
        catalog_xmin: None,
        restart_lsn: Some(from),
        confirmed_flush_lsn: None,
        lost: false,
        failover: false,
        synced: false,
    }
}

/// What is drawn of slots and WAL for a run.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// `member_slots_ttl`, in seconds.
    pub member_slots_ttl_s: u64,
    /// `wal_keep_size`, in bytes.
    wal_keep_bytes: u64,
    /// `max_slot_wal_keep_size`, in bytes.
    slot_keep_bytes: Option<u64>,
    /// Permanent slots, and others.
    pub logical: logical::Drawn,
}

impl Drawn {
    /// Draws it.
    pub fn draw(random: &mut Random) -> Self {
        Self {
            member_slots_ttl_s: [MEMBER_SLOTS_TTL_S, MEMBER_SLOTS_TTL_S, 120, 10, 0][random.index(5)],
            wal_keep_bytes: random.between(1 << 20, 4 << 20),
            slot_keep_bytes: random.percent(15).then_some(8 << 20),
            logical: logical::Drawn::draw(random),
        }
    }
}

impl Postgres {
    /// A checkpoint: WAL that neither a slot nor `wal_keep_size` asks for is removed.
    fn recycle(&mut self, drawn: Drawn) {
        self.redo = self.end();
        if let Some(most) = drawn.slot_keep_bytes {
            let oldest = Lsn(self.end().0.saturating_sub(most));
            self.slots.lose_before(oldest);
        }
        let reserved = self.slots.actual.values().filter_map(|slot| slot.restart_lsn).min();
        let kept = Lsn(self.end().0.saturating_sub(drawn.wal_keep_bytes));
        self.removed = self.removed.max(reserved.map_or(kept, |reserved| reserved.min(kept)));
        self.vacuum();
    }

    /// WAL of this upstream that this standby needs next is gone.
    pub fn lacks_wal_of(&self, upstream: &Self) -> bool {
        upstream.removed > self.end()
    }
}

impl World {
    /// The first look at the servers' checkpoints.
    pub fn begin_checkpoints(&mut self) {
        self.after(LOOK, Event::Recycle);
    }

    /// Some servers make a checkpoint, or a restartpoint.
    pub fn recycle(&mut self) {
        self.after(LOOK, Event::Recycle);
        let drawn = self.scenario.slots;
        for member in 0..self.members.len() {
            let this = &self.members[member];
            let works = this.postgres.process == Process::Up && !this.trouble.stops_server(self.now);
            if self.random.percent(CHECKPOINT_PERCENT) && works {
                self.members[member].postgres.recycle(drawn);
                self.end_lost_streams(member);
            }
        }
        self.look_at_members();
    }

    /// Whoever streams through a slot that was given up is cut off.
    fn end_lost_streams(&mut self, upstream: usize) {
        for member in 0..self.members.len() {
            if self.is_active(upstream, member)
                && self.slot(upstream, member).is_none_or(|slot| slot.is_lost())
            {
                self.members[member].postgres.streams_from = None;
                self.members[member].shipping = None;
            }
        }
    }

    /// The slot that this member streams through.
    pub fn slot(&self, upstream: usize, member: usize) -> Option<Slot> {
        self.members[upstream].postgres.slots.get(&self.members[member].slot, member)
    }

    /// Somebody streams by that slot.
    pub fn is_active(&self, upstream: usize, member: usize) -> bool {
        let generation = self.members[upstream].postgres.generation;
        self.members[member].postgres.streams_from == Some((upstream, generation))
    }

    /// Whether the upstream has the slot and the WAL that this standby asks for.
    pub fn serves(&mut self, upstream: usize, member: usize) -> bool {
        let (mine, theirs) = (&self.members[member].postgres, &self.members[upstream].postgres);
        if mine.lacks_wal_of(theirs) {
            let text = format!("needs WAL from {}, m{upstream} has it from {}", mine.end(), theirs.removed);
            self.note(member, &text);
            self.judge_lack(upstream, member);
            return false;
        }
        self.slot(upstream, member).is_some_and(|slot| !slot.is_lost())
    }

    /// A standby says how far it is: its slot follows, whatever it said before.
    pub fn confirm(&mut self, upstream: usize, member: usize) {
        let name = self.members[member].slot.clone();
        let end = self.members[member].postgres.end();
        let needed = self.members[member].postgres.feedback_xmin();
        let slots = &mut self.members[upstream].postgres.slots;
        let Some(slot) = slots.actual.get_mut(&*name) else { return };
        (slot.xmin, slot.catalog_xmin) = (needed.clone(), needed);
        let Some(reserved) = slot.restart_lsn else { return };
        slot.restart_lsn = Some(end);
        if end < reserved {
            let since = slots.since.get(member).copied().unwrap_or_default();
            slots.promise(member, since.min(end));
            if since <= end {
                self.judge_step_back(upstream, member, since, reserved);
            }
        } else if slots.since.get(member).is_some_and(|since| *since > end) {
            slots.promise(member, end);
        }
    }

    /// A member's data were replaced: what its slots have let go of so far is no promise to the new data.
    pub fn data_replaced(&mut self, member: usize) {
        self.note_replaced(member);
        for other in 0..self.members.len() {
            if let Some(reserved) = self.slot(other, member).and_then(|slot| slot.restart_lsn) {
                self.members[other].postgres.slots.promise(member, reserved);
            }
        }
    }

    /// The slots as they are found now; they are put back when they have been looked at.
    fn take_slots(&mut self, member: usize) -> BTreeMap<String, Actual> {
        let mut actual = std::mem::take(&mut self.members[member].postgres.slots.actual);
        for owner in 0..self.members.len() {
            let active = self.is_active(member, owner);
            if let Some(slot) = actual.get_mut(&*self.members[owner].slot) {
                slot.active = active;
            }
        }
        actual
    }

    fn member_slots_ttl(&self, cluster: &Cluster) -> Duration {
        if self.bug == Some(Bug::SlotsDroppedAtOnce) {
            return Duration::ZERO;
        }
        let configured = cluster.config.as_ref().and_then(|config| config.value.get("member_slots_ttl"));
        Duration::from_secs(configured.and_then(Value::as_u64).unwrap_or(MEMBER_SLOTS_TTL_S))
    }

    /// Creates, advances and drops slots, as the agent does; the logical ones that have to be copied.
    pub fn sync_slots(&mut self, member: usize) -> Vec<String> {
        let Some(cluster) = self.members[member].known.clone() else { return Vec::new() };
        if !self.serves_slots(member) {
            return Vec::new();
        }
        let way = self.feedback_way(member, &cluster);
        let this = &mut self.members[member];
        this.logical.look(way, &this.postgres);
        let lineage = self.lineage(member, &cluster);
        let this = &self.members[member];
        let permanent = logical::permanent(&cluster);
        let ignored =
            if self.bug == Some(Bug::IgnoreSlotsUnread) { Vec::new() } else { logical::ignored(&cluster) };
        let settings = settings(self.member_slots_ttl(&cluster), &permanent);
        let view =
            View { cluster: &cluster, me: &this.name, role: this.role, tags: &this.settings.tags, settings };
        let Some(mut wanted) = wanted(&view) else { return Vec::new() };
        if self.bug == Some(Bug::SlotBeyondMember) {
            let physical = wanted.slots.values_mut().filter(|wish| wish.kind == Kind::Physical);
            physical.for_each(|wish| wish.lsn = Some(cluster.status.last_lsn));
        }
        let feedback = slots::needs_feedback(&view);
        let broken = this.logical.broken.clone();
        let situation = Situation {
            paused: this.settings.pause,
            has_leader: !cluster.is_unlocked(),
            leader_is_me: cluster.is_leader(&this.name),
            is_primary: !this.postgres.in_recovery,
            replay_lsn: Some(this.postgres.end()),
            lineage,
            broken: &broken,
            kept: &wanted.kept,
            ignore_slots: &ignored,
        };
        self.members[member].postgres.feedback = feedback;
        let actual = self.take_slots(member);
        let mut actions = plan(&wanted.slots, &actual, &situation);
        if self.bug == Some(Bug::SlotsNotCreated) {
            actions.retain(|action| !matches!(action, SlotAction::Create { .. }));
        }
        self.members[member].postgres.slots.actual = actual;
        for action in &actions {
            self.carry_out(member, action);
        }
        let actual = self.take_slots(member);
        let this = &mut self.members[member];
        let told = this.published.update(&cluster, &wanted.slots, &actual);
        let raw = self.bug == Some(Bug::SlotSpeaksForConsumer);
        this.slots = Some(if raw { slots::positions(&wanted.slots, &actual) } else { told });
        this.postgres.slots.actual = actual;
        self.judge_slots(member, &cluster);
        self.judge_told(member);
        if self.members[member].postgres.in_recovery {
            self.ask_readiness(member, &cluster);
        }
        let copies = |action: SlotAction| match action {
            SlotAction::Copy { name } => Some(name),
            _ => None,
        };
        actions.into_iter().filter_map(copies).collect()
    }

    fn carry_out(&mut self, member: usize, action: &SlotAction) {
        match action {
            SlotAction::Drop { name, reason } => {
                let slots = &self.members[member].postgres.slots;
                if slots.actual.get(name).is_none_or(|slot| slot.active) {
                    return;
                }
                self.note(member, &format!("drops slot {name}: {reason:?}"));
                if *reason == DropReason::NotWanted {
                    self.judge_drop(member, name);
                } else {
                    self.judge_renewal(member, name, *reason);
                }
                self.judge_foreign(member, name);
                self.members[member].postgres.slots.actual.remove(name);
            }
            SlotAction::Create { name } => {
                let owner = self.members.iter().position(|owner| *owner.slot == **name);
                let postgres = &self.members[member].postgres;
                if postgres.slots.actual.contains_key(name) {
                    return;
                }
                self.note(member, &format!("creates slot {name}"));
                let this = &mut self.members[member];
                let redo = this.postgres.redo;
                match owner {
                    Some(owner) => this.postgres.slots.create(name, owner, redo, self.now),
                    None => this.postgres.slots.reserve(name, redo),
                }
                this.published.made(name);
            }
            SlotAction::Advance { name, to } => {
                // PostgreSQL goes no further than what it has itself.
                let postgres = &mut self.members[member].postgres;
                let to = postgres.end().min(*to);
                let Some(slot) = postgres.slots.actual.get_mut(name).filter(|slot| !slot.active) else {
                    return;
                };
                if slot.restart_lsn.is_some_and(|lsn| lsn < to) {
                    slot.restart_lsn = Some(to);
                    self.judge_advance(member, name, to);
                }
            }
            logical => self.logical_slot_action(member, logical),
        }
    }

    /// What `/status` shows of the slots (contract A.3.4).
    pub fn published_slots(&self, member: usize) -> Option<BTreeMap<String, Lsn>> {
        let this = &self.members[member];
        let cluster = this.known.as_ref()?;
        let permanent = logical::permanent(cluster);
        let settings = settings(self.member_slots_ttl(cluster), &permanent);
        slots::published(this.slots.clone()?, &this.name, this.postgres.end(), &settings)
    }

    /// The names whose slots are kept although their members may be gone (contract B.23.4).
    pub fn retained_slots(&mut self, member: usize) -> Option<Vec<String>> {
        let cluster = self.members[member].known.clone().unwrap_or_default();
        let ttl = self.member_slots_ttl(&cluster);
        let now = self.now;
        let this = &mut self.members[member];
        let mine = name_of_member(this.name.as_str());
        let existing = this.slots.iter().flatten().map(|(name, _)| name.as_str()).chain([mine.as_str()]);
        let names =
            this.retained.update(&cluster, &this.name, existing, &logical::permanent(&cluster), ttl, now);
        Some(names).filter(|names| !names.is_empty())
    }
}

const fn settings(member_slots_ttl: Duration, permanent: &Map<String, Value>) -> Settings<'_> {
    Settings { use_slots: true, member_slots_ttl, permanent, standby_cluster: false }
}
