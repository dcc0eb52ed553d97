//! What one server has of synchronous replication: the value in its file, what its processes made of that, the WAL senders,
//! and the commits that wait.

use std::{collections::VecDeque, sync::Arc};

use ptarmigan_types::{Lsn, Monotonic};

use super::names::Names;
use crate::postgres::Record;

/// Sessions that wait for a commit at the same time: whoever comes after them finds no connection.
pub const WAITING_MAX: usize = 12;

/// Processes of a server that read a changed configuration each in its own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Sessions: `SHOW`, and how `pg_stat_replication` counts.
    Sessions,
    /// WAL senders: who has which priority, and which commits are released.
    Senders,
    /// The checkpointer, which tells whether commits wait at all. It reads between its pieces of work.
    Checkpointer,
}

/// One WAL sender.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Who streams.
    pub standby: usize,
    /// Which of its processes.
    pub generation: u64,
    /// `application_name`.
    pub name: Arc<str>,
    /// `state` is `streaming`, not `catchup`.
    pub caught_up: bool,
    /// `flush_lsn`; `None` before the first answer.
    pub flush: Option<Lsn>,
    /// The other end is gone, and this server finds out then.
    pub gone_at: Option<Monotonic>,
}

/// One server's part.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// The value in `postgresql.conf`.
    pub file: String,
    /// The value that sessions see.
    pub shown: String,
    sessions: Names,
    senders: Names,
    /// Commits wait.
    defined: bool,
    /// The checkpointer has not read the latest change.
    pub checkpointer_behind: bool,
    /// The WAL senders, oldest first.
    pub rows: Vec<Sender>,
    waiting: VecDeque<Record>,
    released: Lsn,
}

impl Server {
    /// A server that does not run, with this value in its file.
    pub fn of_file(file: &str) -> Self {
        Self { file: file.to_owned(), ..Self::default() }
    }

    /// The server comes up and reads its file.
    pub fn start(&mut self) {
        for reader in [Reader::Sessions, Reader::Senders, Reader::Checkpointer] {
            drop(self.read(reader));
        }
    }

    /// The server is gone, and with it whoever waited: nobody is told that those transactions are committed.
    pub fn stop(&mut self) {
        *self = Self::of_file(&self.file);
    }

    /// Sessions end; their transactions are committed, and nobody was told.
    pub fn end_sessions(&mut self) {
        self.waiting.clear();
    }

    /// A process reads the file; returned: the commits that this releases.
    pub fn read(&mut self, reader: Reader) -> Vec<Record> {
        let names = Names::read(&self.file);
        match reader {
            Reader::Sessions => {
                self.shown.clone_from(&self.file);
                self.sessions = names;
                Vec::new()
            }
            Reader::Senders => {
                self.senders = names;
                self.release()
            }
            Reader::Checkpointer => {
                self.checkpointer_behind = false;
                self.defined = !names.is_empty();
                if self.defined { Vec::new() } else { self.waiting.drain(..).collect() }
            }
        }
    }

    /// The names that decide: those of the WAL senders, and nobody's as long as the checkpointer has not said that commits
    /// wait. `None`: commits wait, and nobody is there who would release them.
    pub fn in_force(&self) -> Option<Names> {
        match (self.defined, self.senders.is_empty()) {
            (false, _) => Some(Names::default()),
            (true, false) => Some(self.senders.clone()),
            (true, true) => None,
        }
    }

    /// Commits wait.
    pub const fn waits(&self) -> bool {
        self.defined
    }

    /// All processes have read the latest change.
    pub fn is_settled(&self) -> bool {
        let names = Names::read(&self.file);
        self.shown == self.file && self.senders == names && !self.checkpointer_behind
    }

    /// The WAL senders go by the value that sessions see.
    pub fn senders_agree(&self) -> bool {
        self.senders == Names::read(&self.shown)
    }

    /// One more session would find no connection.
    pub fn is_crowded(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// How many commits wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A commit is on disk here. True: it need not wait.
    pub fn commit(&mut self, record: Record) -> bool {
        if self.defined {
            self.waiting.push_back(record);
        }
        !self.defined
    }

    /// A standby begins to stream; an older stream of the same one ends.
    pub fn connect(&mut self, sender: Sender) {
        self.rows.retain(|row| row.standby != sender.standby);
        self.rows.push(sender);
    }

    /// That WAL sender has sent everything there was once.
    pub fn caught_up(&mut self, standby: usize) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.standby == standby) {
            row.caught_up = true;
        }
    }

    /// A standby says what it has on disk; returned: the commits that this releases.
    pub fn confirm(&mut self, standby: usize, generation: u64, flush: Lsn) -> Vec<Record> {
        let row = self.rows.iter_mut().find(|row| row.standby == standby && row.generation == generation);
        let Some(row) = row else { return Vec::new() };
        row.flush = row.flush.max(Some(flush));
        if self.senders.priority(&row.name) == 0 {
            return Vec::new();
        }
        self.release()
    }

    /// `sync_state`.
    pub fn sync_state(&self, row: &Sender) -> &'static str {
        if row.flush.is_none() || self.senders.priority(&row.name) == 0 {
            return "async";
        }
        if self.sessions.any {
            return if self.is_candidate(row) { "quorum" } else { "potential" };
        }
        let chosen = self.candidates().into_iter().take(self.sessions.count);
        if chosen.into_iter().any(|other| other.standby == row.standby) { "sync" } else { "potential" }
    }

    fn is_candidate(&self, row: &Sender) -> bool {
        row.caught_up && row.flush.is_some() && self.senders.priority(&row.name) > 0
    }

    /// Whoever may count, by priority and age.
    fn candidates(&self) -> Vec<&Sender> {
        let mut rows: Vec<&Sender> = self.rows.iter().filter(|row| self.is_candidate(row)).collect();
        rows.sort_by_key(|row| self.senders.priority(&row.name));
        rows
    }

    /// Up to where enough standbys have confirmed.
    fn confirmed(&self) -> Option<Lsn> {
        let count = self.senders.count;
        let candidates = self.candidates();
        if count == 0 || candidates.len() < count {
            return None;
        }
        let mut positions: Vec<Lsn> = candidates.iter().filter_map(|row| row.flush).collect();
        if self.senders.any {
            positions.sort_unstable_by(|one, other| other.cmp(one));
            return positions.get(count - 1).copied();
        }
        positions.into_iter().take(count).min()
    }

    fn release(&mut self) -> Vec<Record> {
        self.released = self.released.max(self.confirmed().unwrap_or_default());
        let released = self.waiting.partition_point(|record| record.end <= self.released);
        self.waiting.drain(..released).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(end: u64) -> Record {
        Record { timeline: 1, end: Lsn(end), number: end }
    }

    fn server(names: &str, standbys: usize) -> Server {
        let mut server = Server::of_file(names);
        server.start();
        for standby in 1..=standbys {
            let name: Arc<str> = format!("m{standby}").into();
            let row = Sender { standby, generation: 1, name, caught_up: true, flush: None, gone_at: None };
            server.connect(row);
        }
        server
    }

    fn states(server: &Server) -> Vec<&'static str> {
        server.rows.iter().map(|row| server.sync_state(row)).collect()
    }

    #[test]
    fn first_waits_for_the_first_that_are_connected() {
        let mut server = server("1 (m2,m1)", 2);
        assert!(!server.commit(record(10)));
        assert!(server.confirm(1, 1, Lsn(10)).iter().eq(&[record(10)]), "m2 has told nothing yet");
        assert!(server.confirm(2, 1, Lsn(5)).is_empty());
        assert_eq!(states(&server), ["potential", "sync"]);
        server.commit(record(20));
        assert!(server.confirm(1, 1, Lsn(20)).is_empty());
        assert_eq!(server.confirm(2, 1, Lsn(20)), [record(20)]);
    }

    #[test]
    fn any_waits_for_as_many_as_are_asked_for() {
        let mut server = server("ANY 2 (m1,m2,m3)", 3);
        server.commit(record(10));
        assert!(server.confirm(1, 1, Lsn(10)).is_empty());
        assert_eq!(server.confirm(3, 1, Lsn(12)), [record(10)]);
        assert_eq!(states(&server), ["quorum", "async", "quorum"]);
    }

    #[test]
    fn a_reload_takes_effect_process_by_process() {
        let mut server = server("", 1);
        assert!(server.commit(record(10)), "nobody is waited for");
        server.confirm(1, 1, Lsn(10));
        server.file = "m1".into();
        server.read(Reader::Sessions);
        server.read(Reader::Senders);
        assert_eq!((server.shown.as_str(), states(&server)), ("m1", vec!["sync"]));
        assert!(server.commit(record(20)), "the checkpointer has not said so yet");
        assert_eq!(server.in_force(), Some(Names::default()));
        server.read(Reader::Checkpointer);
        assert!(!server.commit(record(30)) && server.is_settled());
        server.file.clear();
        assert!(server.read(Reader::Senders).is_empty());
        assert_eq!(server.read(Reader::Checkpointer), [record(30)], "relaxed names release who waits");
    }

    #[test]
    fn whoever_waits_is_told_nothing_by_a_server_that_dies() {
        let mut server = server("m1", 1);
        server.commit(record(10));
        server.stop();
        assert_eq!((server.waiting(), server.file.as_str()), (0, "m1"));
        server.start();
        assert!(!server.commit(record(20)), "what is in the file survives");
    }
}
