//! The world: members, store, network and queue of one run, on one thread and in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ptarmigan_types::{FailsafeRequest, Lsn, Monotonic};

use crate::{
    bugs::Bug,
    checkers::Checks,
    dcs::{Answer, Body},
    faults::Fault,
    member::{Member, Phase},
    random::Random,
    remote::Other,
    run::Options,
    scenario::Scenario,
    store::Store,
    synchronous::Reader,
    trace::Trace,
};

/// Something that happens at a moment. What carries an epoch is dropped where the daemon is another one by then.
#[derive(Debug)]
pub enum Event {
    /// A sleep ends.
    Wake {
        /// Whose.
        member: usize,
        /// Which sleep.
        sleep: u64,
    },
    /// PostgreSQL answered the monitoring query.
    Looked {
        /// Who asked.
        member: usize,
        /// Of which daemon.
        epoch: u64,
    },
    /// A request reaches the store.
    Request {
        /// Whose.
        member: usize,
        /// Of which daemon.
        epoch: u64,
        /// Number of the operation.
        operation: u64,
        /// What is asked.
        body: Box<Body>,
    },
    /// An answer of the store arrives.
    Answer {
        /// Whose.
        member: usize,
        /// Of which daemon.
        epoch: u64,
        /// Number of the operation.
        operation: u64,
        /// The store's revision then.
        revision: u64,
        /// The answer.
        answer: Box<Answer>,
    },
    /// An operation is given up.
    GiveUp {
        /// Whose.
        member: usize,
        /// Of which daemon.
        epoch: u64,
        /// Number of the operation.
        operation: u64,
    },
    /// A watch tells of changes.
    Watch(usize),
    /// A lease may be over.
    LeaseEnds(String),
    /// A question reaches a peer.
    PeerAsked {
        /// Who asks.
        member: usize,
        /// Of which daemon.
        epoch: u64,
        /// Number of the operation.
        operation: u64,
        /// Who is asked.
        peer: usize,
    },
    /// No more answers of peers are waited for.
    PeersDone {
        /// Who asked.
        member: usize,
        /// Of which daemon.
        epoch: u64,
        /// Number of the operation.
        operation: u64,
    },
    /// A round in failsafe mode asks those who are silent, or ends.
    FailsafeTry {
        /// Who asks.
        member: usize,
        /// Of which daemon.
        epoch: u64,
        /// Number of the operation.
        operation: u64,
    },
    /// A leader asks for a promise.
    FailsafeAsked {
        /// Who asks.
        member: usize,
        /// Of which daemon.
        epoch: u64,
        /// Number of the operation.
        operation: u64,
        /// Who is asked.
        peer: usize,
        /// What.
        request: Box<FailsafeRequest>,
    },
    /// A member answers that.
    FailsafeAnswered {
        /// Who asked.
        member: usize,
        /// Of which daemon.
        epoch: u64,
        /// Number of the operation.
        operation: u64,
        /// Who was asked.
        peer: usize,
        /// It promises.
        promises: bool,
        /// Its position.
        position: Option<Lsn>,
    },
    /// The long action goes on.
    Job {
        /// Whose.
        member: usize,
        /// Of which daemon.
        epoch: u64,
        /// Number of the job.
        number: u64,
    },
    /// A server accepts connections.
    Ready {
        /// Whose.
        member: usize,
        /// Which process.
        generation: u64,
    },
    /// A promotion is done.
    Promoted {
        /// Whose.
        member: usize,
        /// Which process.
        generation: u64,
    },
    /// A standby tries to stream.
    Connect {
        /// Whose.
        member: usize,
        /// Which process.
        generation: u64,
    },
    /// WAL arrives.
    Ship {
        /// Where.
        member: usize,
        /// Which process.
        generation: u64,
    },
    /// A standby's confirmation arrives.
    Confirmed {
        /// Where.
        member: usize,
        /// Which process.
        generation: u64,
        /// Whose it is.
        standby: usize,
        /// Of which process.
        sent_by: u64,
        /// What that one has on disk.
        lsn: Lsn,
    },
    /// A process of a server reads its configuration again.
    Reloaded {
        /// Whose.
        member: usize,
        /// Which server process.
        generation: u64,
        /// Which of its processes.
        reader: Reader,
    },
    /// The checkpoint after a promotion is done.
    Checkpointed {
        /// Whose.
        member: usize,
        /// Of which daemon.
        epoch: u64,
    },
    /// The guardian's deadline.
    Deadline {
        /// Whose.
        member: usize,
        /// Of which life of the server.
        generation: u64,
        /// When; one that was moved is none.
        at: Monotonic,
    },
    /// What a deadline began is done.
    Fenced {
        /// Whose.
        member: usize,
        /// Of which life of the server.
        generation: u64,
    },
    /// The lease is looked at as the last resort does.
    Overrun {
        /// Whose.
        member: usize,
        /// Of which daemon.
        epoch: u64,
    },
    /// Clients write.
    Write,
    /// A daemon starts.
    Daemon(usize),
    /// A fault begins or ends.
    Fault(Fault),
    /// An operator does something.
    Operator,
    /// The checkers that look at the whole.
    Check,
    /// Servers make checkpoints.
    Recycle,
    /// Somebody reads by a slot.
    Consume,
    /// The other cluster moves, of which this one may be a standby cluster.
    OtherCluster,
}

/// Whom an event is for.
#[derive(Clone, Copy, Debug)]
enum Addressee {
    Daemon(usize),
    Server(usize),
}

impl Event {
    /// The process that must run for this to happen; `None`: it happens outside of the members.
    const fn addressee(&self) -> Option<Addressee> {
        match self {
            Self::Wake { member, .. }
            | Self::Looked { member, .. }
            | Self::Answer { member, .. }
            | Self::GiveUp { member, .. }
            | Self::Watch(member)
            | Self::PeersDone { member, .. }
            | Self::FailsafeTry { member, .. }
            | Self::FailsafeAnswered { member, .. }
            | Self::FailsafeAsked { peer: member, .. }
            | Self::Job { member, .. }
            | Self::Checkpointed { member, .. }
            | Self::Overrun { member, .. } => Some(Addressee::Daemon(*member)),
            Self::Ready { member, .. }
            | Self::Promoted { member, .. }
            | Self::Connect { member, .. }
            | Self::Ship { member, .. }
            | Self::Confirmed { member, .. }
            | Self::Deadline { member, .. }
            | Self::Fenced { member, .. }
            | Self::Reloaded { member, .. } => Some(Addressee::Server(*member)),
            _ => None,
        }
    }
}

/// When a way to the store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// As soon as it has carried one more confirmation of the lock.
    Confirmed,
    /// While it carries the race for the lock, or its answer.
    Races,
    /// While it carries the release of the lock, or its answer.
    Releases,
}

/// Network and store as the faults leave them.
#[derive(Debug, Default)]
pub struct Network {
    /// The store answers nobody.
    pub store_down: bool,
    /// Members that the store does not hear.
    pub store_cut: BTreeSet<usize>,
    /// Answers on keys that get lost, of a hundred.
    pub lost_percent: u64,
    /// By how much a read with Consul's default consistency, or a watch of etcd, may be behind, in milliseconds.
    pub stale_millis: u64,
    /// The longest time that a request or an answer takes, in milliseconds.
    pub store_millis: u64,
    /// Links between members that carry nothing: from, to.
    pub cut: BTreeSet<(usize, usize)>,
    /// Members whose way to the store is slow: the longest time that a message takes, in milliseconds.
    pub slow_links: BTreeMap<usize, u64>,
    /// Members whose way to the store fails at a moment of the worst kind.
    pub doomed: BTreeMap<usize, Moment>,
    /// The longest time that WAL takes, in milliseconds.
    pub stream_millis: u64,
    /// The longest start of a server, in milliseconds.
    pub start_millis: u64,
    /// The longest checkpoint of a fast shutdown, in milliseconds.
    pub stop_millis: u64,
    /// The longest time that the monitoring query takes, in milliseconds.
    pub query_millis: u64,
}

impl Network {
    /// Everything works.
    pub fn healed() -> Self {
        Self {
            store_millis: 4,
            stream_millis: 10,
            start_millis: 2000,
            stop_millis: 400,
            query_millis: 15,
            ..Self::default()
        }
    }
}

/// One run.
#[derive(Debug)]
pub struct World {
    /// The present.
    pub now: Monotonic,
    /// Wall time minus the present, in microseconds.
    pub wall_micros: i64,
    /// What will happen.
    queue: BTreeMap<(Monotonic, u64), Event>,
    sequence: u64,
    /// The source of chance.
    pub random: Random,
    /// What happened.
    pub trace: Trace,
    /// The DCS.
    pub store: Store,
    /// The network.
    pub network: Network,
    /// The members.
    pub members: Vec<Member>,
    /// The other cluster.
    pub other: Other,
    /// What is checked.
    pub checks: Checks,
    /// The planted bug.
    pub bug: Option<Bug>,
    /// What was drawn for this run.
    pub scenario: Scenario,
    /// The number given last, of operations, jobs and records.
    number: u64,
    /// Promotions so far.
    pub terms: u64,
    /// Nothing breaks before that.
    pub calm_until: Monotonic,
    /// Nothing is broken, and nobody asks for anything, since then.
    pub quiet_since: Option<Monotonic>,
}

impl World {
    /// A world of that seed, before anything happens.
    pub fn new(seed: u64, options: Options) -> Self {
        let mut random = Random::new(seed);
        let scenario = Scenario::draw(&mut random, options);
        let members = scenario.members();
        Self {
            now: Monotonic(1_000_000_000),
            wall_micros: 1_893_456_000_000_000,
            queue: BTreeMap::new(),
            sequence: 0,
            random,
            trace: Trace::new(options.trace),
            store: Store::new(scenario.consul),
            network: Network::healed(),
            other: Other::default(),
            checks: Checks::default(),
            members,
            bug: options.bug,
            scenario,
            number: 0,
            terms: 0,
            calm_until: Monotonic(0),
            quiet_since: None,
        }
    }

    /// A number that was not given before.
    pub const fn fresh(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Puts an event into the queue.
    pub fn after(&mut self, wait: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + wait, self.sequence), event);
    }

    /// Notes what a member does.
    pub fn note(&mut self, member: usize, what: &str) {
        self.trace.note(self.now, &self.members[member].name.0, what);
    }

    /// Wall time.
    pub fn wall(&self) -> jiff::Timestamp {
        let micros = i64::try_from(self.now.0).unwrap_or(i64::MAX).saturating_add(self.wall_micros);
        jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }

    /// Whether one member reaches another, and hears the answer.
    pub fn linked(&self, one: usize, other: usize) -> bool {
        self.members[one].machine
            && self.members[other].machine
            && !self.network.cut.contains(&(one, other))
            && !self.network.cut.contains(&(other, one))
    }

    /// The member with that name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| member.name.0 == name)
    }

    /// Runs until then, or until a checker objects.
    pub fn run_until(&mut self, end: Monotonic) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end || self.checks.failed() {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happen(event);
        }
        if !self.checks.failed() {
            self.now = end;
        }
    }

    /// Until when this waits, where a machine stands still.
    fn held_until(&self, addressee: Addressee) -> Option<Monotonic> {
        let (member, server) = match addressee {
            Addressee::Daemon(member) => (member, false),
            Addressee::Server(member) => (member, true),
        };
        let trouble = &self.members[member].trouble;
        (trouble.is_frozen(self.now) && (trouble.paused || !server)).then_some(trouble.frozen_until)
    }

    fn is_current(&self, member: usize, epoch: u64) -> bool {
        self.members[member].epoch == epoch && self.members[member].is_alive()
    }

    fn happen(&mut self, event: Event) {
        if let Some(thaw) = event.addressee().and_then(|addressee| self.held_until(addressee)) {
            let wait = thaw.since(self.now);
            return self.after(wait, event);
        }
        match event {
            Event::Request { member, epoch, operation, body } => {
                self.request_arrives(member, epoch, operation, &body);
            }
            Event::Watch(member) => self.watch(member),
            Event::LeaseEnds(id) => self.lease_ends(&id),
            Event::Ready { member, generation } => self.server_ready(member, generation),
            Event::Promoted { member, generation } => self.server_promoted(member, generation),
            Event::Connect { member, generation } => self.connect(member, generation),
            Event::Ship { member, generation } => self.wal_arrives(member, generation),
            Event::Confirmed { member, generation, standby, sent_by, lsn } => {
                self.confirmed(member, generation, standby, sent_by, lsn);
            }
            Event::Reloaded { member, generation, reader } => self.reloaded(member, generation, reader),
            Event::Deadline { member, generation, at } => self.deadline_passes(member, generation, at),
            Event::Fenced { member, generation } => self.fenced(member, generation),
            Event::Write => self.clients_write(),
            Event::Daemon(member) => self.start_daemon(member),
            Event::Fault(fault) => self.fault(fault),
            Event::Operator => self.operate(),
            Event::Check => self.check_all(),
            Event::Recycle => self.recycle(),
            Event::Consume => self.consume(),
            Event::OtherCluster => self.other_cluster_moves(),
            Event::FailsafeAsked { member, epoch, operation, peer, request } => {
                self.failsafe_asked(member, epoch, operation, peer, &request);
            }
            of_a_daemon => self.happen_to_daemon(of_a_daemon),
        }
    }

    fn happen_to_daemon(&mut self, event: Event) {
        match event {
            Event::Wake { member, sleep } if self.members[member].sleep == sleep => {
                if matches!(self.members[member].phase, Phase::Asleep | Phase::FirstLook) {
                    self.begin_cycle(member);
                }
            }
            Event::Looked { member, epoch } if self.is_current(member, epoch) => self.looked(member),
            Event::Answer { member, epoch, operation, revision, answer }
                if self.is_current(member, epoch) =>
            {
                self.answer_arrives(member, operation, revision, *answer);
            }
            Event::GiveUp { member, epoch, operation } if self.is_current(member, epoch) => {
                self.give_up(member, operation);
            }
            Event::PeerAsked { member, epoch, operation, peer } if self.is_current(member, epoch) => {
                self.peer_asked(member, operation, peer);
            }
            Event::PeersDone { member, epoch, operation } if self.is_current(member, epoch) => {
                self.peers_done(member, operation);
            }
            Event::FailsafeTry { member, epoch, operation } if self.is_current(member, epoch) => {
                self.failsafe_try(member, operation);
            }
            Event::FailsafeAnswered { member, epoch, operation, peer, promises, position }
                if self.is_current(member, epoch) =>
            {
                self.failsafe_answered(member, operation, peer, promises, position);
            }
            Event::Job { member, epoch, number } if self.is_current(member, epoch) => {
                self.job_goes_on(member, number);
            }
            Event::Checkpointed { member, epoch } if self.is_current(member, epoch) => {
                self.members[member].checkpoint = false;
                self.wake(member);
            }
            Event::Overrun { member, epoch } if self.is_current(member, epoch) => self.overrun(member),
            _ => {}
        }
    }
}
