//! Logical slots: what the servers and the daemon do with them, and the one consumer that reads by such a slot wherever
//! the lock is. The number of a record stands for a transaction, as those of `catalog_xmin` and of vacuum.

use std::collections::BTreeSet;

use ptarmigan_ha::slots::{
    Actual, Kind, Lineage, PrimaryXmins, Readiness, SlotAction, Way, lineage, slot_on_primary,
};
use ptarmigan_types::{Cluster, Lsn, MemberName};
use serde_json::{Map, Value, json};

use crate::{
    bugs::Bug,
    postgres::{Postgres, Process},
    random::Random,
    world::{Event, World},
};

/// The slot of the consumer.
pub const CDC: &str = "cdc";
/// A permanent physical slot.
pub const ARCHIVE: &str = "archive";
/// A slot that is nobody's business.
pub const FOREIGN: &str = "foreign";

/// What is drawn for a run.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// A permanent logical slot.
    pub cdc: bool,
    /// A permanent physical slot.
    pub archive: bool,
    /// `ignore_slots`, and a slot that it names.
    pub foreign: bool,
}

impl Drawn {
    /// Draws it.
    pub fn draw(random: &mut Random) -> Self {
        Self { cdc: random.percent(20), archive: random.percent(15), foreign: random.percent(10) }
    }

    /// Writes it into a dynamic configuration; `cdc`: an operator wants the logical slot.
    pub fn configure(self, config: &mut Map<String, Value>, cdc: bool) {
        let mut slots = Map::new();
        if self.cdc && cdc {
            slots.insert(CDC.into(), json!({"type": "logical", "database": "d", "plugin": "p"}));
        }
        if self.archive {
            slots.insert(ARCHIVE.into(), json!({"type": "physical"}));
        }
        if !slots.is_empty() {
            config.insert("slots".into(), slots.into());
        }
        if self.foreign {
            config.insert("ignore_slots".into(), json!([{"name": FOREIGN}]));
        }
    }
}

/// Permanent slots of a configuration.
pub fn permanent(cluster: &Cluster) -> Map<String, Value> {
    let slots = cluster.config.as_ref().and_then(|config| config.value.get("slots"));
    slots.and_then(Value::as_object).cloned().unwrap_or_default()
}

/// `ignore_slots` of a configuration.
pub fn ignored(cluster: &Cluster) -> Vec<Map<String, Value>> {
    let entries = cluster.config.as_ref().and_then(|config| config.value.get("ignore_slots"));
    entries
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.as_object().cloned())
        .collect()
}

/// What a daemon knows of logical slots.
#[derive(Debug, Default)]
pub struct Known {
    /// Which may be unsafe.
    pub readiness: Readiness,
    /// Which cannot be advanced any more.
    pub broken: BTreeSet<String>,
    /// The process that this is known of.
    pub life: Option<u64>,
    /// Slots that were read from the leader and are being copied.
    copied: Vec<(String, Actual)>,
}

impl Known {
    /// As the agent's: after a start nothing is known.
    pub fn look(&mut self, way: Way, postgres: &Postgres) {
        if self.life != Some(postgres.generation) {
            self.life = Some(postgres.generation);
            self.broken.clear();
            self.readiness.suspect_all(postgres.slots.all());
        }
        if postgres.in_recovery {
            self.readiness.watch(way, postgres.slots.all());
        } else {
            self.readiness = Readiness::default();
        }
    }
}

fn logical_slot(at: Lsn, transaction: u64) -> Actual {
    Actual {
        kind: Kind::Logical { database: "d".into(), plugin: "p".into() },
        active: false,
        xmin: None,
        catalog_xmin: Some(transaction.to_string()),
        restart_lsn: Some(at),
        confirmed_flush_lsn: Some(at),
        lost: false,
        failover: false,
        synced: false,
    }
}

fn catalog_xmin(slot: &Actual) -> Option<u64> {
    slot.catalog_xmin.as_ref().and_then(|text| text.parse().ok())
}

impl Postgres {
    /// The last transaction up to there.
    fn transaction_at(&self, lsn: Lsn) -> u64 {
        let records = self.wal.partition_point(|record| record.end <= lsn);
        records.checked_sub(1).and_then(|index| self.wal.get(index)).map_or(0, |record| record.number)
    }

    /// The consumer, or feedback, is there: what was needed before that is let go one step later.
    fn move_slot(&mut self, name: &str, to: Lsn) {
        let Some(before) = self.slots.all().get(name).and_then(|slot| slot.confirmed_flush_lsn) else {
            return;
        };
        let transaction = self.transaction_at(before).to_string();
        if let Some(slot) = self.slots.get_mut(name).filter(|_| before < to) {
            slot.confirmed_flush_lsn = Some(to);
            slot.restart_lsn = slot.restart_lsn.map(|lsn| lsn.max(before));
            slot.catalog_xmin = Some(transaction);
        }
    }

    /// The slot can be read from: the WAL and the rows that it needs are there.
    pub fn can_decode(&self, slot: &Actual) -> bool {
        slot.restart_lsn.is_some_and(|lsn| lsn >= self.removed)
            && catalog_xmin(slot).is_some_and(|transaction| transaction >= self.vacuumed)
    }

    /// Vacuum removes what no slot asks for.
    pub fn vacuum(&mut self) {
        if self.is_writable() {
            let last = self.transaction_at(self.end());
            let needed = self.slots.all().values().filter_map(catalog_xmin).min();
            self.vacuumed = self.vacuumed.max(needed.unwrap_or(last).min(last));
        }
    }

    /// `catalog_xmin` of `hot_standby_feedback`.
    pub fn feedback_xmin(&self) -> Option<String> {
        let needed = self.slots.all().values().filter_map(catalog_xmin).min();
        needed.filter(|_| self.feedback).map(|transaction| transaction.to_string())
    }
}

impl World {
    /// What is known of a standby's WAL beside the leader's.
    pub fn lineage(&self, member: usize, cluster: &Cluster) -> Lineage {
        let this = &self.members[member];
        let timeline = this.postgres.timeline;
        let receiving = this.postgres.streams_from.map(|_| timeline);
        lineage(cluster, &this.name, &this.settings.tags, receiving, Some(timeline))
    }

    /// The way that a standby's feedback takes to the primary.
    pub fn feedback_way(&self, member: usize, cluster: &Cluster) -> Way {
        let this = &self.members[member];
        let postgres = &this.postgres;
        let leads_elsewhere = cluster.leader_name().is_some_and(|leader| *leader != this.name);
        Way {
            server: Some(postgres.generation.to_string()),
            timeline: Some(postgres.timeline),
            receiver: postgres.streams_from.and_then(|_| i64::try_from(postgres.connections).ok()),
            slot: slot_on_primary(cluster, &this.name, &this.settings.tags).filter(|_| leads_elsewhere),
        }
    }

    /// Right before a promotion.
    pub fn look_at_readiness(&mut self, member: usize) {
        let Some(cluster) = self.members[member].known.clone() else { return };
        let way = self.feedback_way(member, &cluster);
        self.members[member].logical.readiness.watch_way(way);
    }

    /// SL-9, SL-10.
    pub fn logical_slot_action(&mut self, member: usize, action: &SlotAction) {
        let leads = self.members[member].leads(self.now);
        let postgres = &mut self.members[member].postgres;
        match action {
            SlotAction::CreateLogical { name, .. } if leads && postgres.is_writable() => {
                let slot = logical_slot(postgres.end(), postgres.transaction_at(postgres.end()));
                postgres.slots.put(name, slot);
                let numbers = postgres.wal.iter().map(|record| record.number);
                self.checks.logical.begins_anew(member, numbers);
                self.members[member].published.made(name);
                self.note(member, &format!("creates logical slot {name}"));
            }
            SlotAction::AdvanceLogical { name, to, .. } => {
                let to = if self.bug == Some(Bug::SlotBeyondFeedback) { postgres.end() } else { *to };
                let works = postgres.slots.all().get(name).is_some_and(|slot| postgres.can_decode(slot));
                if works {
                    postgres.move_slot(name, to.min(postgres.end()));
                } else {
                    self.members[member].logical.broken.insert(name.clone());
                }
            }
            _ => {}
        }
    }

    /// SL-11: the primary is asked.
    pub fn ask_readiness(&mut self, member: usize, cluster: &Cluster) {
        let leader = cluster.leader_name().and_then(|name| self.index(&name.0));
        let Some(leader) = leader.filter(|leader| *leader != member && self.linked(member, *leader)) else {
            return;
        };
        let theirs = &self.members[leader].postgres;
        let this = &self.members[member];
        if this.logical.readiness.is_empty() || !theirs.is_writable() {
            return;
        }
        let physical = slot_on_primary(cluster, &this.name, &this.settings.tags);
        let xmin = |name: &str| theirs.slots.all().get(name)?.catalog_xmin.as_ref()?.parse().ok();
        let question = this.logical.readiness.question();
        let answer = PrimaryXmins {
            physical: physical.and_then(|name| xmin(&name)),
            logical: question.slots.iter().filter_map(|name| Some((name.clone(), xmin(name)?))).collect(),
        };
        let this = &mut self.members[member];
        let ready = this.logical.readiness.answered(&question, &answer, this.postgres.slots.all());
        if !ready.is_empty() {
            self.note(member, &format!("logical slots {ready:?} are ready"));
        }
    }

    /// The leader's slots are read; those whose WAL is here can be used.
    ///
    /// # Errors
    /// None can, or not yet.
    pub fn read_slots_of(
        &mut self,
        member: usize,
        leader: &MemberName,
        names: &[String],
    ) -> Result<(), String> {
        let leader = self.index(&leader.0).ok_or("there is no such member")?;
        if !self.linked(member, leader) || !self.members[leader].postgres.is_writable() {
            return Err("the leader does not answer".into());
        }
        let (theirs, mine) = (&self.members[leader].postgres, &self.members[member].postgres);
        let usable = |slot: &&Actual| {
            slot.kind != Kind::Physical && slot.restart_lsn >= Some(mine.removed) && !slot.lost
        };
        let found = names
            .iter()
            .filter_map(|name| Some((name.clone(), theirs.slots.all().get(name).filter(usable)?.clone())));
        let copied: Vec<_> = found.collect();
        let ahead = copied.iter().any(|(_, slot)| slot.confirmed_flush_lsn > Some(mine.end()));
        let shared = |cluster: &Cluster| self.lineage(member, cluster) == Lineage::Shared;
        let shared = self.members[member].known.as_deref().is_some_and(shared);
        if copied.is_empty() || ahead || !shared {
            return Err("no slot can be used here yet".into());
        }
        self.members[member].logical.copied = copied;
        Ok(())
    }

    /// The server is down: the files are written.
    pub fn write_slots(&mut self, member: usize) {
        let this = &mut self.members[member];
        for (name, slot) in std::mem::take(&mut this.logical.copied) {
            this.postgres.slots.put(&name, slot);
        }
        self.note(member, "copied logical slots");
    }

    /// Where clients find the primary.
    fn read_from(&self) -> Option<usize> {
        let holder = self.store.keys.get("leader").and_then(|raw| self.index(&raw.value))?;
        let this = &self.members[holder];
        (this.postgres.is_writable() && !this.trouble.stops_server(self.now)).then_some(holder)
    }

    /// The consumer reads some of what is there, and confirms some of what it reads.
    pub fn consume(&mut self) {
        let wait = self.random.millis(500, 6000);
        self.after(wait, Event::Consume);
        let Some(primary) = self.read_from() else { return };
        self.use_physical_slots(primary);
        let postgres = &self.members[primary].postgres;
        let Some(slot) = postgres.slots.all().get(CDC).filter(|slot| !slot.lost) else { return };
        let Some(from) = slot.confirmed_flush_lsn.filter(|_| slot.kind != Kind::Physical) else { return };
        let usable = postgres.can_decode(slot);
        self.checks.logical.reads(self.now, primary, &postgres.wal, from, usable);
        if !usable {
            // An operator gives it up.
            self.members[primary].postgres.slots.remove(CDC);
            return;
        }
        let begin = postgres.wal.partition_point(|record| record.end <= from);
        let there = postgres.wal.len() - begin;
        if there == 0 || self.random.percent(20) {
            return;
        }
        let taken = if self.random.percent(60) { there } else { 1 + self.random.index(there) };
        let records = &self.members[primary].postgres.wal[begin..begin + taken];
        let to = records.last().map_or(from, |record| record.end);
        self.checks.logical.confirmed(records.iter().map(|record| record.number));
        self.members[primary].postgres.move_slot(CDC, to);
    }

    /// What reads by the permanent physical slot follows at once; what owns the foreign one comes at any time.
    fn use_physical_slots(&mut self, primary: usize) {
        let drawn = self.scenario.slots.logical;
        if drawn.foreign && self.random.percent(5) && self.quiet_since.is_none() {
            let postgres = &mut self.members[primary].postgres;
            postgres.slots.reserve(FOREIGN, postgres.redo);
        }
        let postgres = &mut self.members[primary].postgres;
        let end = postgres.end();
        let before =
            postgres.slots.all().get(ARCHIVE).filter(|slot| !slot.lost).and_then(|slot| slot.restart_lsn);
        for name in [ARCHIVE, FOREIGN] {
            if let Some(slot) = postgres.slots.get_mut(name).filter(|slot| slot.restart_lsn.is_some()) {
                slot.restart_lsn = Some(end);
            }
        }
        if let Some(before) = before.filter(|_| !self.scenario.standby.used) {
            let born = postgres.slots.born(ARCHIVE);
            self.checks.logical.archives(self.now, primary, &postgres.wal, before, born);
        }
    }

    /// A standby was promoted: may its slot be relied on?
    pub fn judge_logical(&mut self, member: usize) {
        let this = &self.members[member];
        let slot =
            this.postgres.slots.all().get(CDC).filter(|slot| slot.kind != Kind::Physical && !slot.lost);
        let looked = this.logical.life == Some(this.postgres.generation);
        let ready = looked && !this.logical.readiness.unready().any(|name| name == CDC);
        let usable = slot.map(|slot| this.postgres.can_decode(slot));
        self.checks.logical.promoted(self.now, member, ready, usable);
    }

    /// The server is up and knows its slots.
    pub fn serves_slots(&self, member: usize) -> bool {
        self.members[member].postgres.process == Process::Up && !self.members[member].trouble.hung
    }
}
