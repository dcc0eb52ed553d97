//! What the servers do by themselves: come up, end a promotion, stream, and serve the clients that write.

use std::time::Duration;

use ptarmigan_ha::callbacks::Callbacks;
use ptarmigan_types::{History, MemberState, Role, Timeline};

use crate::{
    member::Timing,
    postgres::{Process, Record},
    remote::REMOTE,
    world::{Event, World},
};

/// `wal_retrieve_retry_interval`.
const CONNECT_AGAIN: Duration = Duration::from_secs(5);

impl World {
    /// A server accepts connections.
    pub fn server_ready(&mut self, member: usize, generation: u64) {
        let postgres = &mut self.members[member].postgres;
        if postgres.generation != generation || postgres.process != Process::Starting {
            return;
        }
        if self.members[member].trouble.disk_full {
            self.note(member, "postgres finds no space");
            return self.crash_server(member);
        }
        let postgres = &mut self.members[member].postgres;
        if postgres.torn.is_some() {
            self.checks.timelines.runs_torn(self.now, member);
        }
        if !postgres.is_consistent() {
            postgres.waits = true;
            self.note(member, "postgres is not consistent, and waits for WAL");
            return self.connect(member, generation);
        }
        postgres.ready();
        self.checks.pause.ready(member);
        self.note(member, "postgres ready");
        if self.members[member].is_alive() {
            self.set_state(member, MemberState::Running);
            self.call_back(member, Callbacks::accepts);
        }
        self.connect(member, generation);
        self.member_writes(member);
    }

    /// A promotion is done: a new timeline.
    pub fn server_promoted(&mut self, member: usize, generation: u64) {
        let postgres = &self.members[member].postgres;
        if postgres.generation != generation || !postgres.promoting || postgres.process != Process::Up {
            return;
        }
        self.terms += 1;
        let (term, number) = (self.terms, self.fresh());
        let taken = self.taken_timelines(member);
        let postgres = &mut self.members[member].postgres;
        postgres.promote(term, number, taken);
        let timeline = postgres.timeline;
        self.members[member].checkpoint = true;
        self.note(member, &format!("promoted to timeline {timeline}"));
        self.judge_promotion(member);
        self.judge_logical(member);
        self.wake(member);
        self.member_writes(member);
    }

    /// Numbers of timelines that a promotion skips, because `/history` shows them.
    fn taken_timelines(&self, member: usize) -> Timeline {
        let this = &self.members[member];
        let history = this.known.as_ref().and_then(|view| view.history.as_ref());
        match this.timing {
            Timing::Own => history.map_or(0, History::timeline),
            Timing::Contract => 0,
        }
    }

    /// The server dies, however. What it had written is there.
    pub fn crash_server(&mut self, member: usize) {
        self.members[member].postgres.gone(false);
        self.note(member, "postgres crashed");
        let this = &self.members[member];
        if !this.is_alive() {
            return;
        }
        if this.job.is_none()
            && !this.settings.pause
            && matches!(this.state, MemberState::Running | MemberState::Starting)
        {
            self.set_state(member, MemberState::Crashed);
        }
        self.wake(member);
    }

    /// The recovery configuration names somebody else.
    pub fn repoint(&mut self, member: usize, upstream: Option<usize>) {
        let postgres = &mut self.members[member].postgres;
        postgres.upstream = upstream;
        postgres.streams_from = None;
        self.stream(member);
    }

    fn may_stream(&self, member: usize) -> Option<usize> {
        let postgres = &self.members[member].postgres;
        let upstream = postgres.upstream.filter(|upstream| *upstream != member && *upstream != REMOTE)?;
        let theirs = &self.members[upstream].postgres;
        // A primary that shuts down goes on sending to those who stream already.
        let streams = postgres.streams_from.is_some() && theirs.process == Process::Stopping;
        let silent = |member: usize| self.members[member].trouble.stops_server(self.now);
        if silent(member) || silent(upstream) {
            return None;
        }
        let up = (theirs.process == Process::Up || streams) && postgres.receives();
        (up && self.linked(member, upstream)).then_some(upstream)
    }

    /// A standby asks its upstream for WAL, and again later where that cannot be.
    pub fn connect(&mut self, member: usize, generation: u64) {
        let postgres = &self.members[member].postgres;
        if postgres.generation != generation || !postgres.receives() {
            return;
        }
        self.after(CONNECT_AGAIN, Event::Connect { member, generation });
        self.stream(member);
        self.send_confirmation(member);
        // Feedback is sent every `wal_receiver_status_interval`, also where no WAL arrives.
        if let Some((upstream, _)) = self.members[member].postgres.streams_from {
            self.confirm(upstream, member);
        }
    }

    fn stream(&mut self, member: usize) {
        self.drop_stream(member);
        if self.members[member].postgres.streams_from.is_some() {
            return;
        }
        let Some(upstream) = self.may_stream(member) else { return };
        let theirs = self.members[upstream].postgres.generation;
        let (mine, other) = (&self.members[member].postgres, &self.members[upstream].postgres);
        if !mine.is_prefix_of(other) {
            if mine.timeline == other.timeline && mine.end() <= other.end() {
                self.checks.timelines.diverged_stream();
            }
            return;
        }
        if !self.serves(upstream, member) {
            return;
        }
        let postgres = &mut self.members[member].postgres;
        postgres.streams_from = Some((upstream, theirs));
        postgres.connections += 1;
        self.confirm(upstream, member);
        self.sender_connects(upstream, member);
        self.members[member].shipping = None;
        self.ship(member);
    }

    /// Drops a stream whose other end is gone.
    fn drop_stream(&mut self, member: usize) {
        if let Some((upstream, generation)) = self.members[member].postgres.streams_from {
            let alive = self.members[upstream].postgres.generation == generation;
            if !alive || self.may_stream(member) != Some(upstream) {
                self.members[member].postgres.streams_from = None;
                self.members[member].shipping = None;
            }
        }
    }

    /// New WAL of the upstream sets out for a standby.
    fn ship(&mut self, member: usize) {
        let Some((upstream, _)) = self.members[member].postgres.streams_from else { return };
        if self.members[member].shipping.is_none() {
            self.members[member].shipping = Some(self.members[upstream].postgres.wal.len());
            let generation = self.members[member].postgres.generation;
            let wait = self.random.millis(1, 1 + self.network.stream_millis);
            self.after(wait, Event::Ship { member, generation });
        }
    }

    /// WAL arrives.
    pub fn wal_arrives(&mut self, member: usize, generation: u64) {
        let postgres = &self.members[member].postgres;
        if postgres.generation != generation || !postgres.in_recovery {
            return;
        }
        let Some(records) = self.members[member].shipping.take() else { return };
        self.drop_stream(member);
        let Some((upstream, _)) = self.members[member].postgres.streams_from else { return };
        self.receive(member, upstream, records);
        self.send_confirmation(member);
        if self.members[upstream].postgres.wal.len() > self.members[member].postgres.wal.len() {
            self.ship(member);
        }
        self.ship_on(member);
    }

    /// What a member got or wrote sets out for those that stream from it.
    pub fn ship_on(&mut self, member: usize) {
        for other in 0..self.members.len() {
            if self.members[other].postgres.streams_from.is_some_and(|(from, _)| from == member) {
                self.ship(other);
            }
        }
    }

    fn receive(&mut self, member: usize, upstream: usize, records: usize) {
        let (low, high) = self.members.split_at_mut(member.max(upstream));
        let (mine, theirs) = if member < upstream {
            (&mut low[member].postgres, &high[0].postgres)
        } else {
            (&mut high[0].postgres, &low[upstream].postgres)
        };
        mine.receive(theirs, records);
        self.becomes_consistent(member);
        self.confirm(upstream, member);
    }

    /// What arrived may be what a server has waited for.
    pub fn becomes_consistent(&mut self, member: usize) {
        let postgres = &self.members[member].postgres;
        if postgres.waits && postgres.is_consistent() {
            let generation = postgres.generation;
            self.after(Duration::ZERO, Event::Ready { member, generation });
        }
    }

    /// A server that shuts down waits for those who stream from it.
    pub fn send_rest(&mut self, member: usize) {
        let generation = self.members[member].postgres.generation;
        let records = self.members[member].postgres.wal.len();
        for other in 0..self.members.len() {
            let streams = self.members[other].postgres.streams_from == Some((member, generation));
            if streams && self.linked(member, other) && self.members[other].postgres.in_recovery {
                self.receive(other, member, records);
            }
        }
    }

    /// Every other member has a stream from this one.
    pub fn everybody_streams_from(&self, member: usize) -> bool {
        let generation = self.members[member].postgres.generation;
        self.members
            .iter()
            .enumerate()
            .all(|(other, them)| other == member || them.postgres.streams_from == Some((member, generation)))
    }

    /// Clients try every member.
    pub fn clients_write(&mut self) {
        for member in 0..self.members.len() {
            self.member_writes(member);
        }
        let wait = self.random.millis(100, self.scenario.write_millis);
        self.after(wait, Event::Write);
    }

    /// A client's transaction, acknowledged as soon as it is on disk here and wherever else commits have to be.
    pub fn member_writes(&mut self, member: usize) {
        let postgres = &self.members[member].postgres;
        let silent = self.members[member].trouble.stops_server(self.now);
        let crowded = postgres.synchronous.is_crowded();
        if silent || crowded || !postgres.is_writable() || !self.belongs_to_cluster(member) {
            return;
        }
        let big = self.random.percent(5);
        let bytes = if big { self.random.between(10_000, 700_000) } else { self.random.between(100, 9000) };
        let number = self.fresh();
        let postgres = &mut self.members[member].postgres;
        let record = postgres.append(number, bytes);
        if postgres.synchronous.commit(record) {
            self.acknowledge(member, record);
        }
        for other in 0..self.members.len() {
            if self.members[other].postgres.streams_from.is_some_and(|(from, _)| from == member) {
                self.ship(other);
            }
        }
    }

    /// A client is told that its transaction is committed.
    pub fn acknowledge(&mut self, member: usize, record: Record) {
        let this = &self.members[member];
        let (timing, term) = (this.timing, this.postgres.term);
        let promises = timing == Timing::Own && !self.is_left_alone(member);
        if self.checks.single.acknowledged(self.now, member, promises, term, record.timeline) {
            self.checks.durability.acknowledged(record);
            self.judge_standby_cluster(member);
            self.judge_acknowledged(member, record);
        }
    }

    /// A server that ran on in pause without the lock, and has not led since: an operator is responsible for it.
    fn is_left_alone(&mut self, member: usize) -> bool {
        let now = self.now;
        let this = &mut self.members[member];
        if this.leads(now) {
            this.left_alone = None;
        } else if this.settings.pause {
            this.left_alone = Some(this.postgres.generation);
        }
        this.left_alone == Some(this.postgres.generation)
    }

    /// The bootstrap of this member's data is over: clients know the cluster only then.
    fn belongs_to_cluster(&self, member: usize) -> bool {
        let this = &self.members[member];
        self.store.keys.get("initialize").is_some_and(|raw| {
            !raw.value.is_empty() && raw.value == this.postgres.system_identifier.to_string()
        }) && this.role != Role::Uninitialized
    }
}
