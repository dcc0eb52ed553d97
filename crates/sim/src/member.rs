//! One member as the world keeps it: its daemon, its copy of the DCS, its PostgreSQL.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ptarmigan_ha::{
    Action, Decision, Lease, Memory, Observation, Outcome,
    action::{Job, PeerAddress},
    callbacks::Callbacks,
    facts::PeerAnswer,
    observation::{JobKind, JobResult, ScheduledRestart, Settings},
    slots::{Published, Retained},
};
use ptarmigan_types::{
    Cluster, Leader, LeaseId, Lsn, MemberName, MemberState, Monotonic, Role, Timeline, lease,
    slot::name_of_member,
};

use serde_json::{Map, Value};

use crate::{
    dcs::{
        client::{Ended, Flight},
        copy::WatchedCopy,
    },
    failsafe::Failsafe,
    guardian::Guardian,
    postgres::Postgres,
    store::Condition,
    synchronous::daemon::Known,
};

/// Where the daemon's loop is.
#[derive(Debug, Default)]
pub enum Phase {
    /// The daemon does not run.
    #[default]
    Dead,
    /// It reads the DCS for the first time.
    FirstLook,
    /// Between two cycles.
    Asleep,
    /// It reads the view.
    View,
    /// It renews the lock before anything else.
    Renewal(Arc<Cluster>),
    /// It asks PostgreSQL.
    Looking(Box<Begun>),
    /// It carries actions out.
    Acting(Box<Acting>),
}

/// A cycle whose observation is not complete.
#[derive(Debug)]
pub struct Begun {
    /// The view.
    pub view: Result<Arc<Cluster>, String>,
    /// The renewal and what came of it.
    pub outcomes: Vec<(Action, Outcome)>,
    /// When it began.
    pub now: Monotonic,
    /// Jobs that ended before.
    pub finished: Vec<JobResult>,
    /// The job in flight then.
    pub job: Option<ptarmigan_ha::observation::JobView>,
}

/// A round whose actions are carried out.
#[derive(Debug)]
pub struct Acting {
    /// The observation, with the outcomes so far.
    pub observation: Observation,
    /// The decision.
    pub decision: Decision,
    /// The next action.
    pub next: usize,
    /// Rounds so far.
    pub rounds: usize,
}

/// One operation on the DCS.
#[derive(Clone, Debug)]
pub enum Call {
    /// A read of everything that fills the watched copy.
    Read,
    /// A linearizable read that bypasses it.
    ReadFresh,
    /// The lease alone.
    KeepLease {
        /// However young it is.
        force: bool,
    },
    /// The end of every key.
    DeleteAll,
    /// A race for the lock.
    Acquire,
    /// A renewal.
    Renew(Leader),
    /// A release.
    Release(Leader),
    /// The member key, on a living lease.
    PutMember {
        /// Its value.
        json: String,
        /// The store has this value already: only the lease is seen to.
        unchanged: bool,
    },
    /// A write without a lease.
    Write {
        /// The key.
        key: &'static str,
        /// The value; `None`: delete.
        value: Option<String>,
        /// On what it depends.
        condition: Condition,
    },
}

/// The lease that this node writes with, as its daemon knows it.
#[derive(Clone, Debug)]
pub struct OwnLease {
    /// Its id.
    pub id: LeaseId,
    /// When the last answered request for it was sent.
    pub sent: Monotonic,
    /// What the store granted.
    pub ttl: Duration,
}

impl OwnLease {
    /// From when on it is to be refreshed.
    pub fn due(&self) -> Monotonic {
        self.sent + lease::refresh_after(self.ttl)
    }
}

/// Who waits for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// The loop.
    Loop,
    /// The job with this number.
    Job(u64),
    /// The watch, which reads everything anew.
    Watch,
    /// Somebody outside of the daemon, who finds the outcome under this number.
    Caller(u64),
}

/// Peers asked.
#[derive(Debug)]
pub struct Asking {
    /// Number of the operation.
    pub operation: u64,
    /// Who.
    pub peers: Vec<PeerAddress>,
    /// What they said.
    pub answers: Vec<PeerAnswer>,
}

/// The long action in flight.
#[derive(Debug)]
pub struct Running {
    /// Its number.
    pub number: u64,
    /// Its kind.
    pub kind: JobKind,
    /// What it does.
    pub job: Job,
    /// Since when.
    pub since: Monotonic,
    /// `pg_ctl promote` has not begun.
    pub cancellable: bool,
    /// How far it is.
    pub stage: u32,
    /// Whether the server that it starts comes up as a primary.
    pub primary: bool,
}

/// By whose timing a member's loop runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timing {
    /// The daemon's own: renewal first, an end of the lease that is watched, woken by everything that matters.
    #[default]
    Own,
    /// The contract's, as a Patroni node in a mixed cluster has it: everything in one row, and no look at the clock.
    Contract,
}

/// What is wrong with a member's machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// The daemon does nothing before that; what reaches it waits.
    pub frozen_until: Monotonic,
    /// PostgreSQL stands still as long as the daemon does.
    pub paused: bool,
    /// Nothing can be written: the server crashes, and crashes again when it starts.
    pub disk_full: bool,
    /// The server runs and answers nothing.
    pub hung: bool,
}

impl Trouble {
    /// The daemon stands still.
    pub fn is_frozen(&self, now: Monotonic) -> bool {
        now < self.frozen_until
    }

    /// The server serves nobody.
    pub fn stops_server(&self, now: Monotonic) -> bool {
        self.hung || self.paused && self.is_frozen(now)
    }
}

/// The kernel watchdog of a member's machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watchdog {
    /// Nobody leads without it.
    pub required: bool,
    /// It counts down.
    pub running: bool,
}

impl Watchdog {
    /// The device cannot be opened at this time. Which times those are depends on the member alone.
    pub fn is_broken(self, member: usize, now: Monotonic, at_rest: bool) -> bool {
        self.required && !at_rest && (now.0 / 150_000_000 + member as u64).is_multiple_of(3)
    }
}

/// One member.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: MemberName,
    /// Its settings in effect.
    pub settings: Settings,
    /// `use_pg_rewind`.
    pub use_rewind: bool,
    /// Whose timing its loop has.
    pub timing: Timing,
    /// The machine runs.
    pub machine: bool,
    /// What is wrong with it.
    pub trouble: Trouble,
    /// Its watchdog.
    pub watchdog: Watchdog,
    /// Its guardian.
    pub guardian: Guardian,
    /// The generation of the server that went on writing in pause without the lock.
    pub left_alone: Option<u64>,
    /// Grows with every start and end of the daemon: what was meant for an earlier one is dropped.
    pub epoch: u64,
    /// What its callbacks were told, and which are due.
    pub callbacks: Callbacks,
    /// Where the loop is.
    pub phase: Phase,
    /// The core's memory.
    pub memory: Memory,
    /// Number of the sleep.
    pub sleep: u64,
    /// Something happened that ends the sleep.
    pub woken: bool,
    /// The lease.
    pub lease: Lease,
    /// The lease of the DCS.
    pub own_lease: Option<OwnLease>,
    /// The watched copy.
    pub copy: WatchedCopy,
    /// A change is on its way.
    pub watch_pending: bool,
    /// Since when nothing gets through to the DCS.
    pub cut_since: Option<Monotonic>,
    /// The view of the latest cycle.
    pub known: Option<Arc<Cluster>>,
    /// The role as last set.
    pub role: Role,
    /// Since when.
    pub role_since: Monotonic,
    /// The state as last set.
    pub state: MemberState,
    /// Since when.
    pub state_since: Monotonic,
    /// The job in flight.
    pub job: Option<Running>,
    /// Jobs that ended.
    pub finished: Vec<JobResult>,
    /// Operations in flight, by number.
    pub flights: BTreeMap<u64, Box<Flight>>,
    /// Outcomes for callers outside of the daemon.
    pub ended: BTreeMap<u64, Ended>,
    /// Peers asked.
    pub asking: Option<Asking>,
    /// The furthest standby among those who answered last: its timeline and its position.
    pub best_peer: Option<(Timeline, Lsn)>,
    /// A scheduled restart.
    pub restart: Option<ScheduledRestart>,
    /// The checkpoint after promotion is outstanding.
    pub checkpoint: bool,
    /// `synchronous_standby_names` as the daemon knows it.
    pub names: Known,
    /// The dynamic configuration, as the daemon read it last; it is kept in a file.
    pub dynamic: Option<Map<String, Value>>,
    /// The database.
    pub postgres: Postgres,
    /// WAL that the standby has been promised: records of its upstream at the time of sending.
    pub shipping: Option<usize>,
    /// The name of its slots elsewhere.
    pub slot: Arc<str>,
    /// Positions of this node's slots, as its daemon read them last.
    pub slots: Option<BTreeMap<String, Lsn>>,
    /// When each slot's member was last seen (contract B.23.4).
    pub retained: Retained,
    /// What slots tell of their consumers.
    pub published: Published,
    /// What is known of logical slots.
    pub logical: crate::logical::Known,
    /// Failsafe mode.
    pub failsafe: Failsafe,
}

impl Member {
    /// A member whose machine is off.
    pub fn new(name: MemberName, settings: Settings, use_rewind: bool) -> Self {
        let slot = name_of_member(name.as_str()).into();
        Self {
            name,
            settings,
            use_rewind,
            timing: Timing::Own,
            machine: true,
            trouble: Trouble::default(),
            watchdog: Watchdog::default(),
            guardian: Guardian::default(),
            left_alone: None,
            epoch: 0,
            callbacks: Callbacks::default(),
            phase: Phase::Dead,
            memory: Memory::default(),
            sleep: 0,
            woken: false,
            lease: Lease::default(),
            own_lease: None,
            copy: WatchedCopy::default(),
            watch_pending: false,
            cut_since: None,
            known: None,
            role: Role::Uninitialized,
            role_since: Monotonic(0),
            state: MemberState::Stopped,
            state_since: Monotonic(0),
            job: None,
            finished: Vec::new(),
            flights: BTreeMap::new(),
            ended: BTreeMap::new(),
            asking: None,
            best_peer: None,
            restart: None,
            checkpoint: false,
            names: Known::default(),
            dynamic: None,
            postgres: Postgres::default(),
            shipping: None,
            slot,
            slots: None,
            retained: Retained::default(),
            published: Published::default(),
            logical: crate::logical::Known::default(),
            failsafe: Failsafe::default(),
        }
    }

    /// The daemon runs.
    pub const fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Dead)
    }

    /// This node calls itself a leader.
    pub fn leads(&self, now: Monotonic) -> bool {
        self.lease.is_held_at(now)
    }

    /// Forgets everything that a process forgets when it ends.
    pub fn forget(&mut self, now: Monotonic) {
        let old =
            std::mem::replace(self, Self::new(self.name.clone(), self.settings.clone(), self.use_rewind));
        self.failsafe = old.failsafe.stored(now);
        self.epoch = old.epoch + 1;
        self.sleep = old.sleep;
        self.timing = old.timing;
        self.copy.wakes_for_lock_alone = old.timing == Timing::Contract;
        self.machine = old.machine;
        self.dynamic = old.dynamic;
        self.trouble = old.trouble;
        self.watchdog = Watchdog { running: false, ..old.watchdog };
        self.guardian = old.guardian;
        self.left_alone = old.left_alone;
        self.postgres = old.postgres;
        self.shipping = old.shipping;
        self.watch_pending = old.watch_pending;
        self.cut_since = old.cut_since;
    }
}
