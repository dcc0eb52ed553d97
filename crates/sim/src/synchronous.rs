//! Synchronous replication as PostgreSQL 15 does it: whom commits wait for, how confirmations travel, what a reload changes
//! and when, and what the daemon sees of all that.

pub mod daemon;
pub mod drawn;
pub mod names;
pub mod server;

use std::time::Duration;

use ptarmigan_types::Lsn;

pub use self::server::{Reader, Sender};
use crate::{
    postgres::{Process, Record},
    world::{Event, World},
};

/// The shortest and the longest time in which a primary finds out that a standby is gone without a word, in milliseconds
/// (`wal_sender_timeout`, `tcp_user_timeout`).
const SENDER_TIMEOUT_MILLIS: (u64, u64) = (2000, 60_000);
/// How soon a process that stands still looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl World {
    /// A standby streams from now on.
    pub fn sender_connects(&mut self, upstream: usize, standby: usize) {
        if !self.scenario.synchronous.used {
            return;
        }
        let them = &self.members[standby];
        let caught_up = them.postgres.end() == self.members[upstream].postgres.end();
        let sender = Sender {
            standby,
            generation: them.postgres.generation,
            name: them.name.as_str().into(),
            caught_up,
            flush: None,
            gone_at: None,
        };
        self.members[upstream].postgres.synchronous.connect(sender);
        self.send_confirmation(standby);
    }

    /// A standby tells its upstream what it has on disk: after WAL came, and now and then.
    pub fn send_confirmation(&mut self, standby: usize) {
        if !self.scenario.synchronous.used {
            return;
        }
        let postgres = &self.members[standby].postgres;
        let Some((upstream, generation)) = postgres.streams_from else { return };
        let (lsn, sent_by) = (postgres.end(), postgres.generation);
        let wait = self.random.millis(0, 1 + self.network.stream_millis / 2);
        self.after(wait, Event::Confirmed { member: upstream, generation, standby, sent_by, lsn });
    }

    /// A confirmation arrives: commits that waited for it are acknowledged.
    pub fn confirmed(&mut self, member: usize, generation: u64, standby: usize, sent_by: u64, lsn: Lsn) {
        let this = &self.members[member];
        let up = matches!(this.postgres.process, Process::Up | Process::Stopping);
        if this.postgres.generation != generation || !up || this.trouble.hung || !self.linked(standby, member)
        {
            return;
        }
        self.look_at_senders(member);
        let postgres = &mut self.members[member].postgres;
        if lsn >= postgres.end() {
            postgres.synchronous.caught_up(standby);
        }
        let released = postgres.synchronous.confirm(standby, sent_by, lsn);
        self.acknowledge_all(member, &released);
    }

    /// Ends WAL senders whose standby is gone, as soon as the server can know.
    pub fn look_at_senders(&mut self, member: usize) {
        let generation = self.members[member].postgres.generation;
        let mut rows = std::mem::take(&mut self.members[member].postgres.synchronous.rows);
        for row in &mut rows {
            let them = &self.members[row.standby];
            let streams = them.postgres.streams_from == Some((member, generation))
                && them.postgres.generation == row.generation;
            if streams {
                row.gone_at = None;
            } else if row.gone_at.is_none() {
                let told = self.linked(member, row.standby) && !them.trouble.stops_server(self.now);
                let (low, high) = SENDER_TIMEOUT_MILLIS;
                let wait = if told { Duration::ZERO } else { self.random.millis(low, high) };
                row.gone_at = Some(self.now + wait);
            }
        }
        rows.retain(|row| row.gone_at.is_none_or(|at| at > self.now));
        self.members[member].postgres.synchronous.rows = rows;
    }

    /// `postgresql.conf` has another value, and the server is told: its processes read it one after another.
    pub fn reload_names(&mut self, member: usize) {
        let generation = self.members[member].postgres.generation;
        self.members[member].postgres.synchronous.checkpointer_behind = true;
        // A WAL sender that is begun later begins with what the postmaster has read.
        let senders = !self.members[member].postgres.synchronous.rows.is_empty();
        for reader in [Reader::Sessions, Reader::Senders, Reader::Checkpointer] {
            let slow = match reader {
                Reader::Checkpointer => 15,
                Reader::Senders if !senders => 0,
                _ => 3,
            };
            let slow = self.random.percent(slow);
            let wait = if slow { self.random.millis(100, 4000) } else { self.random.millis(1, 20) };
            self.after(wait, Event::Reloaded { member, generation, reader });
        }
    }

    /// A process reads its configuration again.
    pub fn reloaded(&mut self, member: usize, generation: u64, reader: Reader) {
        let this = &self.members[member];
        if this.postgres.generation != generation {
            return;
        }
        if this.trouble.hung {
            return self.after(LOOK_AGAIN, Event::Reloaded { member, generation, reader });
        }
        let released = self.members[member].postgres.synchronous.read(reader);
        self.note(member, &format!("{reader:?} read their configuration"));
        self.acknowledge_all(member, &released);
        self.judge_names(member);
    }

    fn acknowledge_all(&mut self, member: usize, records: &[Record]) {
        for record in records {
            self.acknowledge(member, *record);
        }
    }
}
