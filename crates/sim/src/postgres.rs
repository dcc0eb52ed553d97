//! The model PostgreSQL of one member: a data directory with WAL, timelines and `pg_control`, and a server that runs on it
//! or does not. It knows no time: the world says when something is done.

use ptarmigan_ha::{memory::Source, observation::ControlState};
use ptarmigan_types::{Lsn, Timeline, history::HistoryEntry};

use crate::{slots::Slots, synchronous::server::Server};

/// The first position of a new cluster.
const FIRST: Lsn = Lsn(0x0100_0000);
/// The size of a record that carries no transaction, in bytes.
const CHECKPOINT_BYTES: u64 = 120;

/// One record of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The timeline that it was written on.
    pub timeline: Timeline,
    /// Where it ends.
    pub end: Lsn,
    /// Unique in a run; transactions and checkpoints share the numbers.
    pub number: u64,
}

/// A `pg_rewind` that has begun to change the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// From whom, as its key showed it.
    pub source: Source,
    /// The timeline of the source, and the promotion that began it.
    pub timeline: Timeline,
    /// See there.
    pub term: u64,
    /// The life of the source's process.
    pub generation: u64,
    /// How many records of its WAL it copies.
    pub records: usize,
}

/// The server process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Process {
    /// None.
    #[default]
    Down,
    /// Started, accepts no connections yet.
    Starting,
    /// Accepts connections.
    Up,
    /// Accepts none any more.
    Stopping,
}

/// One PostgreSQL.
#[derive(Clone, Debug, Default)]
pub struct Postgres {
    /// The data directory holds something.
    pub present: bool,
    /// The system identifier.
    pub system_identifier: u64,
    /// The WAL.
    pub wal: Vec<Record>,
    /// The timeline that it is on.
    pub timeline: Timeline,
    /// The finished timelines before it, and where they were left.
    pub history: Vec<HistoryEntry>,
    /// The process.
    pub process: Process,
    /// The running server is in recovery.
    pub in_recovery: bool,
    /// A promotion was ordered and is not done.
    pub promoting: bool,
    /// `pg_control`'s state, of a stopped server.
    pub control: Option<ControlState>,
    /// `standby.signal` lies there.
    pub standby_signal: bool,
    /// Whom the recovery configuration names.
    pub upstream: Option<usize>,
    /// The upstream that WAL arrives from, and its generation.
    pub streams_from: Option<(usize, u64)>,
    /// Grows with every connection that WAL is received by.
    pub connections: u64,
    /// Grows with every start and end of the process.
    pub generation: u64,
    /// The number of the promotion (in the whole run) that made this data directory's timeline writable here.
    pub term: u64,
    /// The slots. They outlive the process and stay behind when the data are copied.
    pub slots: Slots,
    /// Synchronous replication.
    pub synchronous: Server,
    /// WAL before this is gone.
    pub removed: Lsn,
    /// Rows that transactions up to this one needed are gone.
    pub vacuumed: u64,
    /// `hot_standby_feedback` is on.
    pub feedback: bool,
    /// Where the last checkpoint began.
    pub redo: Lsn,
    /// `pg_rewind` was cut off: this is no data directory of anybody's.
    pub torn: Option<Torn>,
    /// A copy that has not been started: it tells where its recovery begins.
    pub labelled: bool,
    /// What a rewound server has to replay before it is consistent.
    pub needs: Option<Record>,
    /// It has replayed all that is there, and is not consistent: it streams, and accepts no connections.
    pub waits: bool,
}

impl Postgres {
    /// Where the WAL ends.
    pub fn end(&self) -> Lsn {
        self.wal.last().map_or(FIRST, |record| record.end)
    }

    /// The server answers queries and writes.
    pub fn is_writable(&self) -> bool {
        self.process == Process::Up && !self.in_recovery
    }

    /// `initdb`.
    pub fn initialize(&mut self, system_identifier: u64, term: u64) {
        *self = Self {
            present: true,
            system_identifier,
            timeline: 1,
            redo: FIRST,
            term,
            control: Some(ControlState::ShutDown),
            generation: self.generation + 1,
            ..Self::default()
        };
    }

    /// Appends a record of a primary.
    pub fn append(&mut self, number: u64, bytes: u64) -> Record {
        let record = Record { timeline: self.timeline, end: Lsn(self.end().0 + bytes), number };
        self.wal.push(record);
        record
    }

    /// A checkpoint's record.
    pub fn checkpoint(&mut self, number: u64) {
        self.append(number, CHECKPOINT_BYTES);
    }

    /// The process begins to start.
    pub fn start(&mut self, as_primary: bool, upstream: Option<usize>) {
        self.generation += 1;
        self.process = Process::Starting;
        self.in_recovery = true;
        self.standby_signal = !as_primary;
        self.upstream = upstream;
        self.streams_from = None;
        self.promoting = false;
        self.waits = false;
    }

    /// The end of the recovery that a start begins with is there: `false` where the server is not consistent yet.
    pub fn is_consistent(&self) -> bool {
        self.needs.is_none_or(|record| self.has(&record))
    }

    /// It asks for WAL.
    pub fn receives(&self) -> bool {
        self.in_recovery && (self.process == Process::Up || self.waits)
    }

    /// The start is done.
    pub fn ready(&mut self) {
        self.process = Process::Up;
        self.waits = false;
        self.needs = None;
        self.labelled = false;
        self.synchronous.start();
        self.in_recovery = self.standby_signal;
        self.control =
            Some(if self.in_recovery { ControlState::InArchiveRecovery } else { ControlState::InProduction });
    }

    /// The process is gone; `clean`: after a shutdown checkpoint.
    pub fn gone(&mut self, clean: bool) {
        if self.process == Process::Down {
            return;
        }
        let primary = !self.in_recovery || !self.standby_signal;
        self.control = Some(match (clean, primary) {
            (true, true) => ControlState::ShutDown,
            (true, false) => ControlState::ShutDownInRecovery,
            (false, true) => ControlState::InProduction,
            (false, false) => ControlState::InArchiveRecovery,
        });
        self.process = Process::Down;
        self.waits = false;
        self.synchronous.stop();
        self.generation += 1;
        self.streams_from = None;
        self.promoting = false;
    }

    /// The end of recovery: a new timeline begins where the WAL ends, with the next number above those that are taken.
    pub fn promote(&mut self, term: u64, number: u64, taken: Timeline) {
        let entry = HistoryEntry {
            timeline: self.timeline,
            lsn: self.end(),
            reason: "no recovery target specified".into(),
            timestamp: None,
            new_leader: None,
        };
        self.history.push(entry);
        self.timeline = self.timeline.max(taken) + 1;
        self.term = term;
        self.in_recovery = false;
        self.standby_signal = false;
        self.promoting = false;
        self.streams_from = None;
        self.upstream = None;
        self.control = Some(ControlState::InProduction);
        self.checkpoint(number);
    }

    /// The data directory is removed; no server runs on it.
    pub fn remove(&mut self) {
        self.present = false;
        self.wal.clear();
        self.torn = None;
        self.needs = None;
        self.labelled = false;
    }

    /// This transaction is in the WAL.
    pub fn has(&self, record: &Record) -> bool {
        self.wal.binary_search_by_key(&record.number, |mine| mine.number).is_ok()
    }

    /// All of this WAL is the beginning of the other's.
    pub fn is_prefix_of(&self, other: &Self) -> bool {
        match self.wal.last() {
            None => true,
            Some(last) => other.wal.get(self.wal.len() - 1) == Some(last),
        }
    }

    /// How many records both begin with.
    pub fn common_records(&self, other: &Self) -> usize {
        self.wal.iter().zip(&other.wal).take_while(|(mine, theirs)| mine == theirs).count()
    }

    /// Receives WAL up to that many records.
    pub fn receive(&mut self, from: &Self, records: usize) {
        if let Some(new) = from.wal.get(self.wal.len()..records.min(from.wal.len())) {
            self.wal.extend_from_slice(new);
        }
        self.vacuumed = self.vacuumed.max(from.vacuumed);
        let last = self.wal.last().map_or(1, |record| record.timeline);
        let caught_up = from.history.last().is_none_or(|left| self.end() >= left.lsn);
        if !caught_up {
            self.timeline = self.timeline.max(last);
        } else if self.timeline != from.timeline {
            self.timeline = from.timeline;
            self.history.clone_from(&from.history);
        }
    }

    /// A copy of the source's data directory, `postgresql.conf` included: of its WAL, `pg_basebackup` brings what was written
    /// meanwhile.
    pub fn copy(&mut self, source: &Self) {
        *self = Self {
            present: true,
            system_identifier: source.system_identifier,
            wal: source.wal.clone(),
            timeline: source.timeline,
            history: source.history.clone(),
            control: Some(ControlState::InArchiveRecovery),
            standby_signal: true,
            labelled: true,
            generation: self.generation + 1,
            synchronous: Server::of_file(&source.synchronous.file),
            removed: source.end(),
            vacuumed: source.vacuumed,
            redo: source.end(),
            ..Self::default()
        };
    }
}
