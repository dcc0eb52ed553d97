//! The other cluster, of which this one may be a standby cluster: one primary elsewhere, whose WAL goes on, and the operators
//! who demote this cluster and promote it again. Also the archive, from which a member with the tag `nostream` lives.

use std::{collections::BTreeMap, time::Duration};

use ptarmigan_ha::{Remote, Upstream};
use ptarmigan_types::{Lsn, Monotonic, Role, Timeline};
use serde_json::{Map, Value, json};

use crate::{
    postgres::{Postgres, Process},
    random::Random,
    store::Condition,
    world::{Event, World},
};

/// The index under which the remote primary is known beside the members'.
pub const REMOTE: usize = usize::MAX;
/// How often the other cluster moves.
const TICK: Duration = Duration::from_millis(500);
/// How often the archive is looked at, in ticks.
const ARCHIVE_TICKS: u64 = 20;
/// How long a standby cluster may have had nothing from where it comes from, in the end.
const SILENT: Duration = Duration::from_secs(90);
/// How long operators wait for the last WAL of the other cluster before they promote this one.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What is drawn of it for a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drawn {
    /// Operators demote and promote the cluster.
    pub used: bool,
    /// It begins as a standby cluster.
    pub begins: bool,
}

impl Drawn {
    /// Draws it, and adds to the dynamic configuration what it needs.
    pub fn draw(random: &mut Random, dynamic: &mut Map<String, Value>, possible: bool) -> Self {
        let used = random.percent(20) && possible;
        let begins = used && random.percent(40);
        if begins {
            dynamic.insert("standby_cluster".into(), section());
        }
        Self { used, begins }
    }
}

fn section() -> Value {
    json!({"host": "elsewhere"})
}

/// What the core reads of `/config`.
pub fn settings(config: &Map<String, Value>) -> Option<Remote> {
    config.get("standby_cluster").is_some_and(Value::is_object).then_some(Remote { has_address: true })
}

/// How far the operators are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A cluster of its own, until then.
    Own(Monotonic),
    /// `/config` says that it is a standby cluster; nobody leads elsewhere yet.
    Demoting,
    /// The other cluster has a primary, until then.
    Standby(Monotonic),
    /// The other cluster was stopped at that moment, and this one is to be promoted.
    Promoting(Monotonic),
}

/// The other cluster.
#[derive(Debug)]
pub struct Other {
    /// Its primary.
    pub postgres: Postgres,
    /// How far the operators are.
    pub phase: Phase,
    /// Nobody reaches it before.
    cut_until: Monotonic,
    /// Records that its own failovers do not lose.
    kept: usize,
    ticks: u64,
    /// When each member last got what there was, from there or from the archive.
    received: BTreeMap<usize, Monotonic>,
}

impl Default for Other {
    fn default() -> Self {
        Self {
            postgres: Postgres::default(),
            phase: Phase::Own(Monotonic(u64::MAX)),
            cut_until: Monotonic(0),
            kept: 0,
            ticks: 0,
            received: BTreeMap::new(),
        }
    }
}

impl Other {
    /// This cluster is a standby cluster, or is about to be one or none.
    pub const fn is_there(&self) -> bool {
        !matches!(self.phase, Phase::Own(_))
    }
}

impl World {
    /// The run begins.
    pub fn begin_other_cluster(&mut self) {
        let drawn = self.scenario.standby;
        let archive = self.members.iter().any(|member| member.settings.tags.nostream());
        if drawn.begins {
            self.terms += 1;
            let (term, number) = (self.terms, self.fresh());
            let postgres = &mut self.other.postgres;
            postgres.initialize(7_100_000_000_000_000_000, term);
            postgres.process = Process::Up;
            postgres.checkpoint(number);
            self.other.kept = 1;
            self.other.phase = Phase::Standby(self.now + self.random.millis(200_000, 500_000));
            self.checks.standby_cluster.taken_over(self.now);
        } else if drawn.used {
            self.other.phase = Phase::Own(self.now + self.random.millis(100_000, 300_000));
        }
        if drawn.used || archive {
            self.after(TICK, Event::OtherCluster);
        }
    }

    /// The other cluster, the archive and the operators move.
    pub fn other_cluster_moves(&mut self) {
        self.after(TICK, Event::OtherCluster);
        self.other.ticks += 1;
        if self.other.ticks.is_multiple_of(ARCHIVE_TICKS) {
            self.restore_from_archive();
        }
        if !self.scenario.standby.used {
            return;
        }
        if self.other.postgres.is_writable() {
            self.remote_lives();
        }
        self.remote_ships();
        self.change_role();
    }

    /// The server of that index.
    pub fn server(&self, index: usize) -> &Postgres {
        if index == REMOTE { &self.other.postgres } else { &self.members[index].postgres }
    }

    /// Whether a member reaches a server, a member's or the remote one.
    pub fn reaches(&self, member: usize, server: usize) -> bool {
        if server != REMOTE {
            return self.linked(member, server);
        }
        self.members[member].machine && self.other.postgres.present && self.now >= self.other.cut_until
    }

    /// The newest timeline that the history files of a member tell of: a receiver fetches them as soon as it connects.
    pub fn newest_history(&self, member: usize) -> Timeline {
        let postgres = &self.members[member].postgres;
        let own = if postgres.timeline > 1 { postgres.timeline } else { 0 };
        let connects = postgres.upstream == Some(REMOTE)
            && postgres.receives()
            && self.other.postgres.is_writable()
            && self.reaches(member, REMOTE);
        if connects { own.max(self.other.postgres.timeline) } else { own }
    }

    fn remote_lives(&mut self) {
        if self.random.percent(60) {
            let (number, bytes) = (self.fresh(), self.random.between(100, 20_000));
            self.other.postgres.append(number, bytes);
        }
        if self.quiet_since.is_some() {
            self.other.cut_until = Monotonic(0);
            return;
        }
        match self.random.between(0, 1000) {
            0..3 => self.remote_fails_over(),
            3..8 => self.other.cut_until = self.now + self.random.millis(1000, 60_000),
            _ => {}
        }
    }

    /// Another server takes over there: it may lack what was written last, and begins a timeline.
    fn remote_fails_over(&mut self) {
        let wanted = self.random.index(6);
        let cut = cuttable(&self.other.postgres, self.other.kept).min(wanted);
        self.terms += 1;
        let (term, number) = (self.terms, self.fresh());
        let taken = self.newest_timeline();
        begin_timeline(&mut self.other.postgres, cut, term, number, taken);
        self.other.kept = self.other.postgres.wal.len();
        let timeline = self.other.postgres.timeline;
        self.trace.note(
            self.now,
            "remote",
            &format!("fails over to timeline {timeline}, loses {cut} records"),
        );
    }

    fn newest_timeline(&self) -> Timeline {
        let members = self.members.iter().map(|member| member.postgres.timeline);
        members.chain([self.other.postgres.timeline]).max().unwrap_or(0)
    }

    /// WAL arrives at whoever follows the remote primary and did not leave its way.
    fn remote_ships(&mut self) {
        for member in 0..self.members.len() {
            let this = &self.members[member];
            let mine = &this.postgres;
            let follows = mine.upstream == Some(REMOTE)
                && mine.receives()
                && !this.trouble.stops_server(self.now)
                && self.reaches(member, REMOTE)
                && self.other.postgres.is_writable()
                && mine.is_prefix_of(&self.other.postgres);
            if follows {
                let records = self.other.postgres.wal.len();
                self.members[member].postgres.receive(&self.other.postgres, records);
                self.becomes_consistent(member);
                self.other.received.insert(member, self.now);
                self.ship_on(member);
            }
        }
    }

    /// What the leader had a moment ago is in the archive.
    fn restore_from_archive(&mut self) {
        let Some(leader) = self.store.keys.get("leader").and_then(|raw| self.index(&raw.value)) else {
            return;
        };
        for member in 0..self.members.len() {
            let (this, theirs) = (&self.members[member], &self.members[leader].postgres);
            let mine = &this.postgres;
            let restores = member != leader
                && this.settings.tags.nostream()
                && mine.receives()
                && !this.trouble.stops_server(self.now)
                && theirs.process == Process::Up
                && mine.is_prefix_of(theirs);
            if restores {
                let archived = theirs.clone();
                let records = archived.wal.len();
                self.members[member].postgres.receive(&archived, records);
                self.becomes_consistent(member);
                self.other.received.insert(member, self.now);
                self.ship_on(member);
            }
        }
    }

    /// What the operators do who have two clusters.
    fn change_role(&mut self) {
        if self.network.store_down {
            return;
        }
        let quiet = self.quiet_since.is_some();
        match self.other.phase {
            Phase::Own(until) if !quiet && self.now >= until => {
                self.configure_standby(true);
                self.checks.standby_cluster.demoted(self.now);
                self.other.phase = Phase::Demoting;
            }
            Phase::Demoting => self.take_over_elsewhere(),
            Phase::Standby(until) if !quiet && self.now >= until => {
                self.other.postgres.gone(true);
                self.other.phase = Phase::Promoting(self.now);
            }
            Phase::Promoting(since)
                if quiet || self.has_all_of_remote() || self.now.since(since) > CATCH_UP =>
            {
                self.configure_standby(false);
                self.checks.standby_cluster.promoted();
                self.other.phase = Phase::Own(self.now + self.random.millis(100_000, 400_000));
            }
            _ => {}
        }
    }

    fn configure_standby(&mut self, standby: bool) {
        self.trace.note(self.now, "operator", if standby { "demote-cluster" } else { "promote-cluster" });
        self.checks.durability.manual(self.now);
        self.checks.durability.disturbed();
        let mut config = self.dynamic_config();
        if standby {
            config.insert("standby_cluster".into(), section());
        } else {
            config.remove("standby_cluster");
        }
        self.write("config", Some(&Value::Object(config).to_string()), Condition::Always);
        self.tell();
    }

    /// `ptctl demote-cluster` has ended: the holder of the lock is a standby leader. Only then the other cluster is promoted,
    /// which may have got less than this one.
    fn take_over_elsewhere(&mut self) {
        let Some(leader) = self.store.keys.get("leader").and_then(|raw| self.index(&raw.value)) else {
            return;
        };
        let this = &self.members[leader];
        let demoted = this.role == Role::StandbyLeader && this.postgres.process == Process::Up;
        if !demoted || self.members.iter().any(|member| member.postgres.is_writable()) {
            return;
        }
        let mut theirs = this.postgres.clone();
        theirs.slots.clear();
        theirs.generation = self.other.postgres.generation;
        let wanted = if self.random.percent(30) { self.random.index(4) } else { 0 };
        let cut = cuttable(&theirs, 0).min(wanted);
        self.terms += 1;
        let (term, number) = (self.terms, self.fresh());
        begin_timeline(&mut theirs, cut, term, number, self.newest_timeline());
        self.checks.durability.replaced(&theirs);
        self.checks.standby_cluster.taken_over(self.now);
        self.other.kept = theirs.wal.len();
        self.other.postgres = theirs;
        self.other.cut_until = Monotonic(0);
        self.other.phase = Phase::Standby(self.now + self.random.millis(60_000, 400_000));
        let timeline = self.other.postgres.timeline;
        self.trace.note(
            self.now,
            "remote",
            &format!("takes over on timeline {timeline}, lacks {cut} records"),
        );
    }

    fn has_all_of_remote(&self) -> bool {
        let leader = self.store.keys.get("leader").and_then(|raw| self.index(&raw.value));
        leader.is_some_and(|leader| self.other.postgres.is_prefix_of(&self.members[leader].postgres))
    }

    /// What is not as it has to be in the end: of the leader of a standby cluster.
    pub fn standby_leader_objection(&self, leader: usize) -> Option<String> {
        let this = &self.members[leader];
        let name = &this.name;
        if this.postgres.is_writable() {
            return Some(format!("{name} leads a standby cluster and writes"));
        }
        if !matches!(self.other.phase, Phase::Standby(_)) {
            return Some(format!("the operators are not done: {:?}", self.other.phase));
        }
        if self.cannot_be_rewound(leader) {
            return None;
        }
        (!self.heard_lately(leader)).then(|| {
            format!(
                "{name} leads a standby cluster and gets nothing from the remote member: {:?}, upstream {:?}, timeline {}, \
                 at {}, the remote's {}, at {}",
                this.postgres.process,
                this.postgres.upstream,
                this.postgres.timeline,
                this.postgres.end(),
                self.other.postgres.timeline,
                self.other.postgres.end()
            )
        })
    }

    /// In a standby cluster a member that left the remote member's way, and is not to use `pg_rewind`, stays as it is until an
    /// operator does something about it (contract RW-10).
    pub fn cannot_be_rewound(&self, member: usize) -> bool {
        if member == REMOTE {
            return false;
        }
        let this = &self.members[member];
        self.other.is_there() && !this.use_rewind && !this.postgres.is_prefix_of(&self.other.postgres)
    }

    /// This member got what there was a short while ago, from the remote primary or the archive.
    pub fn heard_lately(&self, member: usize) -> bool {
        self.other.received.get(&member).is_some_and(|at| self.now.since(*at) < SILENT)
    }

    /// Which server that is, where it is known.
    pub fn server_of(&self, upstream: &Upstream) -> Option<usize> {
        match upstream {
            Upstream::Member(name) => self.index(&name.0),
            Upstream::Remote => Some(REMOTE),
        }
    }
}

/// How many of the last records were written on the present timeline, above those that stay; one of them stays too.
fn cuttable(postgres: &Postgres, kept: usize) -> usize {
    let above = postgres.wal.get(kept..).unwrap_or_default();
    above.iter().rev().take_while(|record| record.timeline == postgres.timeline).count().saturating_sub(1)
}

/// Without its last records, another timeline begins.
fn begin_timeline(postgres: &mut Postgres, cut: usize, term: u64, number: u64, taken: Timeline) {
    let kept = postgres.wal.len().saturating_sub(cut);
    postgres.wal.truncate(kept);
    postgres.redo = postgres.redo.min(postgres.end()).max(Lsn::ZERO);
    postgres.generation += 1;
    postgres.process = Process::Up;
    postgres.promote(term, number, taken);
}
