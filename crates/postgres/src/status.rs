//! The heartbeat: everything that the HA loop and the REST API want to know of a running server, in one round trip.

use std::time::Duration;

use ptarmigan_types::{Lsn, Timeline};
use serde::Deserialize;

use crate::{
    Login, Postgres, Purpose, Session,
    connection::{self, STATEMENT_TIMEOUT},
    version::ServerVersion,
};

/// A statement that ran into its own limit answers within this much more.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection.
    #[error("cannot connect to PostgreSQL: {0}")]
    Connect(#[source] connection::Error),
    /// The server did not answer in time: by its own statement timeout, or not at all.
    #[error("PostgreSQL did not answer the heartbeat in time")]
    TimedOut,
    /// The server answered with an error, or the connection broke twice.
    #[error("heartbeat: {0}")]
    Query(#[source] connection::Error),
    /// The answer cannot be read.
    #[error("heartbeat answer: {0}")]
    Answer(String),
}

impl Error {
    /// True where the server is up but takes no connections now (SQLSTATE 57P03).
    pub const fn is_rejecting(&self) -> bool {
        matches!(self, Self::Connect(connection::Error::Rejecting(_)))
    }

    /// True where nothing listens.
    pub const fn is_refused(&self) -> bool {
        matches!(self, Self::Connect(connection::Error::Refused(_)))
    }
}

/// What a running server says about itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ServerStatus {
    /// True for a standby.
    pub in_recovery: bool,
    /// `server_version_num`.
    pub server_version_num: u32,
    /// The control file's system identifier, as digits.
    pub system_identifier: String,
    /// When the postmaster was started, `YYYY-MM-DD HH:MM:SS.ffffff+00:00`.
    pub postmaster_start_time: String,
    /// The timeline of the last checkpoint in the control file.
    pub checkpoint_timeline: Timeline,
    /// Primary: the name of the WAL file that is being written.
    pub wal_file: Option<String>,
    /// Primary: the position up to which WAL is on disk.
    #[serde(with = "lsn_text")]
    pub flush_lsn: Option<Lsn>,
    /// Standby: the last position that was received and synced to disk.
    #[serde(with = "lsn_text")]
    pub receive_lsn: Option<Lsn>,
    /// Standby: the last position that was replayed.
    #[serde(with = "lsn_text")]
    pub replay_lsn: Option<Lsn>,
    /// Standby: whether replay is paused.
    pub replay_paused: bool,
    /// Standby: commit time of the last replayed transaction, in the form of `postmaster_start_time`.
    pub replay_timestamp: Option<String>,
    /// The WAL receiver, where one runs.
    pub wal_receiver: Option<WalReceiver>,
    /// `primary_conninfo` in force. May hold a password: not for logs.
    pub primary_conninfo: String,
    /// `primary_slot_name` in force.
    pub primary_slot_name: String,
    /// `restore_command` in force.
    pub restore_command: String,
    /// `synchronous_standby_names` in force.
    pub synchronous_standby_names: String,
    /// `synchronous_commit` as new sessions have it.
    pub synchronous_commit: String,
    /// The standbys and other receivers that stream from here.
    #[serde(default)]
    pub replication: Vec<WalSender>,
}

/// The WAL receiver of a standby. `Debug` leaves the connection string out.
#[derive(Clone, PartialEq, Deserialize)]
pub struct WalReceiver {
    /// Its process, which has one connection in its life.
    #[serde(default)]
    pub pid: Option<i64>,
    /// `streaming`, `waiting`, `starting`, ...
    pub status: Option<String>,
    /// The timeline of the last WAL that was received.
    pub received_tli: Option<Timeline>,
    /// The last position that the sender reported; absent until it did.
    #[serde(with = "lsn_text")]
    pub latest_end_lsn: Option<Lsn>,
    /// The last position that was received and written, not yet synced (PostgreSQL 13 and newer).
    #[serde(default, with = "lsn_text")]
    pub written_lsn: Option<Lsn>,
    /// The slot in use.
    pub slot_name: Option<String>,
    /// The connection string, password masked by the server.
    pub conninfo: Option<String>,
}

impl std::fmt::Debug for WalReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalReceiver")
            .field("pid", &self.pid)
            .field("status", &self.status)
            .field("received_tli", &self.received_tli)
            .field("latest_end_lsn", &self.latest_end_lsn)
            .field("written_lsn", &self.written_lsn)
            .field("slot_name", &self.slot_name)
            .finish_non_exhaustive()
    }
}

/// One row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WalSender {
    /// The sender's process.
    pub pid: i32,
    /// The user that replicates.
    pub usename: Option<String>,
    /// The receiver's name for itself.
    pub application_name: String,
    /// Its address; absent for a unix socket.
    pub client_addr: Option<String>,
    /// `streaming`, `catchup`, `backup`, ...
    pub state: Option<String>,
    /// `async`, `potential`, `sync`, `quorum`.
    pub sync_state: Option<String>,
    /// 0 for asynchronous ones.
    pub sync_priority: Option<i32>,
    /// Sent.
    #[serde(with = "lsn_text")]
    pub sent_lsn: Option<Lsn>,
    /// Written there.
    #[serde(with = "lsn_text")]
    pub write_lsn: Option<Lsn>,
    /// Synced to disk there.
    #[serde(with = "lsn_text")]
    pub flush_lsn: Option<Lsn>,
    /// Replayed there.
    #[serde(with = "lsn_text")]
    pub replay_lsn: Option<Lsn>,
}

mod lsn_text {
    use ptarmigan_types::Lsn;
    use serde::{Deserialize, Deserializer, de::Error as _};

    /// `0/0` and null both mean unknown.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Lsn>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let lsn: Lsn = text.parse().map_err(D::Error::custom)?;
        Ok(Some(lsn).filter(|lsn| !lsn.is_zero()))
    }
}

/// Where a node's timeline comes from (contract A.3.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimelineSource {
    /// Known.
    Known(Timeline),
    /// `IDENTIFY_SYSTEM` on a local replication connection has to be asked.
    IdentifySystem,
}

impl ServerStatus {
    /// The server's version.
    pub const fn version(&self) -> ServerVersion {
        ServerVersion(self.server_version_num)
    }

    /// Primary: the timeline it writes, from the WAL file's name. 0 never occurs.
    pub fn primary_timeline(&self) -> Option<Timeline> {
        let name = self.wal_file.as_ref().filter(|_| !self.in_recovery)?;
        Timeline::from_str_radix(name.get(..8)?, 16).ok()
    }

    /// Standby: the timeline that the WAL receiver streams, once its sender reported a position.
    pub fn receiver_timeline(&self) -> Option<Timeline> {
        let receiver = self.wal_receiver.as_ref()?;
        receiver.received_tli.filter(|_| receiver.latest_end_lsn.is_some())
    }

    /// Standby: the timeline on which WAL arrives right now.
    pub fn streamed_timeline(&self) -> Option<Timeline> {
        self.receiver_timeline().filter(|_| self.replication_state() == Some("streaming"))
    }

    /// The timeline to publish (contract A.3.3.3). `cached` is the last answer of `IDENTIFY_SYSTEM`; it is good as long
    /// as the leader publishes the same timeline.
    pub fn timeline(
        &self,
        is_standby_leader: bool,
        cached: Option<Timeline>,
        leader_timeline: Option<Timeline>,
    ) -> TimelineSource {
        let own = if self.in_recovery { self.receiver_timeline() } else { self.primary_timeline() };
        let checkpoint = (self.in_recovery && is_standby_leader).then_some(self.checkpoint_timeline);
        match own.or(checkpoint) {
            Some(timeline) => TimelineSource::Known(timeline),
            None => match cached.filter(|_| cached == leader_timeline) {
                Some(timeline) => TimelineSource::Known(timeline),
                None => TimelineSource::IdentifySystem,
            },
        }
    }

    fn written_lsn(&self) -> Option<Lsn> {
        self.wal_receiver.as_ref().and_then(|receiver| receiver.written_lsn)
    }

    /// Standby: the greater of written (PostgreSQL 13 and newer) and received (contract B.26, "receive LSN").
    pub fn received_lsn(&self) -> Option<Lsn> {
        self.written_lsn().max(self.receive_lsn)
    }

    /// Standby: the first that is known of written, received, replayed, as REST shows it (contract A.10).
    pub fn received_location(&self) -> Option<Lsn> {
        self.written_lsn().or(self.receive_lsn).or(self.replay_lsn)
    }

    /// What is published as `xlog_location`: flushed on a primary, the greater of received and replayed on a standby
    /// (contract A.3.3).
    pub fn wal_position(&self) -> Lsn {
        let position =
            if self.in_recovery { self.received_lsn().max(self.replay_lsn) } else { self.flush_lsn };
        position.unwrap_or(Lsn::ZERO)
    }

    /// Standby: `streaming`, or `in archive recovery` where a `restore_command` is set (contract A.3.3).
    pub fn replication_state(&self) -> Option<&'static str> {
        let status = self.wal_receiver.as_ref().and_then(|receiver| receiver.status.as_deref());
        match status {
            _ if !self.in_recovery => None,
            Some("streaming") => Some("streaming"),
            _ if !self.restore_command.is_empty() => Some("in archive recovery"),
            _ => None,
        }
    }
}

const TIME_FORM: &str = "'YYYY-MM-DD HH24:MI:SS.US\"+00:00\"'";

/// The heartbeat query. Every row of it is one JSON object. The recovery flag is a volatile column of an inner query,
/// which PostgreSQL evaluates once: a promotion in between cannot mix the two kinds of answer.
fn heartbeat_sql(version: ServerVersion) -> String {
    let written = if version.at_least(13) { "written_lsn" } else { "NULL::pg_lsn AS written_lsn" };
    format!(
        "SELECT row_to_json(h) FROM (SELECT r.in_recovery, \
         current_setting('server_version_num')::int AS server_version_num, \
         (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier, \
         to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', {TIME_FORM}) AS postmaster_start_time, \
         (SELECT timeline_id FROM pg_control_checkpoint()) AS checkpoint_timeline, \
         CASE WHEN NOT r.in_recovery THEN pg_walfile_name(pg_current_wal_lsn()) END AS wal_file, \
         CASE WHEN NOT r.in_recovery THEN pg_current_wal_flush_lsn() END AS flush_lsn, \
         CASE WHEN r.in_recovery THEN pg_last_wal_receive_lsn() END AS receive_lsn, \
         CASE WHEN r.in_recovery THEN pg_last_wal_replay_lsn() END AS replay_lsn, \
         CASE WHEN r.in_recovery THEN pg_is_wal_replay_paused() ELSE false END AS replay_paused, \
         CASE WHEN r.in_recovery THEN \
         to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', {TIME_FORM}) END AS replay_timestamp, \
         (SELECT row_to_json(w) FROM (SELECT pid, status, received_tli, latest_end_lsn, {written}, slot_name, conninfo \
         FROM pg_stat_get_wal_receiver() WHERE pid IS NOT NULL) w) AS wal_receiver, \
         current_setting('primary_conninfo') AS primary_conninfo, \
         current_setting('primary_slot_name') AS primary_slot_name, \
         current_setting('restore_command') AS restore_command, \
         current_setting('synchronous_standby_names') AS synchronous_standby_names, \
         current_setting('synchronous_commit') AS synchronous_commit, \
         (SELECT coalesce(json_agg(row_to_json(s)), '[]') FROM (SELECT pid, usename, application_name, client_addr, \
         state, sync_state, sync_priority, sent_lsn, write_lsn, flush_lsn, replay_lsn FROM pg_stat_replication \
         ORDER BY backend_start, pid) s) AS replication \
         FROM (SELECT pg_is_in_recovery() AS in_recovery) r) h"
    )
}

fn read(rows: &[Vec<Option<String>>]) -> Result<ServerStatus, Error> {
    let text = rows.first().and_then(|row| row.first()?.as_deref());
    let text = text.ok_or_else(|| Error::Answer("no row".to_owned()))?;
    serde_json::from_str(text).map_err(|error| Error::Answer(error.to_string()))
}

async fn ask(session: &Session, sql: &str) -> Result<ServerStatus, Error> {
    let limit = STATEMENT_TIMEOUT + ANSWER_MARGIN;
    let rows = match tokio::time::timeout(limit, session.query_text(sql)).await {
        Err(_) => return Err(Error::TimedOut),
        Ok(Err(connection::Error::Query { code, .. })) if code == "57014" => return Err(Error::TimedOut),
        Ok(Err(error)) => return Err(Error::Query(error)),
        Ok(Ok(rows)) => rows,
    };
    read(&rows)
}

impl Postgres {
    /// The heartbeat on the HA loop's connection, which stays open between calls. A query that failed is tried once
    /// more on a new connection; takes at most 6 s twice, usually a millisecond.
    pub async fn status(&self) -> Result<ServerStatus, Error> {
        self.status_for(Purpose::Heartbeat).await
    }

    /// As [`Postgres::status`], on the connection of this purpose.
    pub async fn status_for(&self, purpose: Purpose) -> Result<ServerStatus, Error> {
        let first = self.status_once(purpose).await;
        match first {
            // A broken connection says nothing about the server, and a promotion may end recovery between two functions.
            Err(Error::Query(connection::Error::Lost(_) | connection::Error::Query { .. })) => {
                self.forget_session(purpose).await;
                self.status_once(purpose).await
            }
            Err(Error::TimedOut) => {
                self.forget_session(purpose).await;
                first
            }
            other => other,
        }
    }

    async fn status_once(&self, purpose: Purpose) -> Result<ServerStatus, Error> {
        let session = self.session(purpose).await.map_err(Error::Connect)?;
        let version = self.version().unwrap_or(crate::version::OLDEST);
        ask(&session, &heartbeat_sql(version)).await
    }

    /// A new superuser connection to the local server.
    pub async fn connect(&self, purpose: Purpose) -> Result<Session, connection::Error> {
        Session::connect(&self.local_conninfo(Login::Superuser), purpose).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby() -> ServerStatus {
        let text = r#"{"in_recovery":true,"server_version_num":150004,"system_identifier":"7710331781508340140",
            "postmaster_start_time":"2026-11-20 19:05:11.000123+00:00","checkpoint_timeline":3,"wal_file":null,
            "flush_lsn":null,"receive_lsn":"0/3000000","replay_lsn":"0/3000060","replay_paused":false,
            "replay_timestamp":null,"wal_receiver":{"status":"streaming","received_tli":4,"latest_end_lsn":"0/3000100",
            "written_lsn":"0/3000100","slot_name":"n1","conninfo":"user=x password=********"},"primary_conninfo":"",
            "primary_slot_name":"","restore_command":"","synchronous_standby_names":"","synchronous_commit":"on",
            "replication":[]}"#;
        read(&[vec![Some(text.to_owned())]]).unwrap()
    }

    #[test]
    fn wal_arrives_on_a_timeline_only_while_it_is_streamed() {
        let mut status = standby();
        assert_eq!(status.streamed_timeline(), Some(4));
        let receiver = status.wal_receiver.as_mut().unwrap();
        receiver.status = Some("waiting".to_owned());
        assert_eq!(status.streamed_timeline(), None);
        assert_eq!(status.receiver_timeline(), Some(4), "what it is on is known all the same");
        let receiver = status.wal_receiver.as_mut().unwrap();
        (receiver.status, receiver.latest_end_lsn) = (Some("streaming".to_owned()), None);
        assert_eq!(status.streamed_timeline(), None, "its sender has not answered yet");
        status.wal_receiver = None;
        assert_eq!(status.streamed_timeline(), None);
    }

    #[test]
    fn a_3_3_3_timeline_sources() {
        let mut status = standby();
        assert_eq!(status.timeline(false, None, None), TimelineSource::Known(4));
        status.wal_receiver.as_mut().unwrap().latest_end_lsn = None;
        assert_eq!(status.timeline(true, None, None), TimelineSource::Known(3));
        assert_eq!(status.timeline(false, None, None), TimelineSource::IdentifySystem);
        assert_eq!(status.timeline(false, Some(3), None), TimelineSource::IdentifySystem);
        assert_eq!(status.timeline(false, Some(3), Some(4)), TimelineSource::IdentifySystem);
        assert_eq!(status.timeline(false, Some(4), Some(4)), TimelineSource::Known(4));
        status.in_recovery = false;
        status.wal_file = Some("0000000A0000000000000003".to_owned());
        assert_eq!(status.timeline(false, Some(4), Some(4)), TimelineSource::Known(10));
    }

    #[test]
    fn a_10_received_location_is_the_first_that_is_known() {
        let mut status = standby();
        assert_eq!(status.received_location(), Some(Lsn(0x300_0100)));
        status.wal_receiver.as_mut().unwrap().written_lsn = None;
        assert_eq!(status.received_location(), Some(Lsn(0x300_0000)));
        assert_eq!(status.wal_position(), Lsn(0x300_0060));
        status.receive_lsn = None;
        assert_eq!(status.received_location(), Some(Lsn(0x300_0060)));
        assert_eq!(status.received_lsn(), None);
    }

    #[test]
    fn a_3_3_replication_state() {
        let mut status = standby();
        assert_eq!(status.replication_state(), Some("streaming"));
        status.wal_receiver = None;
        assert_eq!(status.replication_state(), None);
        status.restore_command = "cp %f %p".to_owned();
        assert_eq!(status.replication_state(), Some("in archive recovery"));
        status.in_recovery = false;
        assert_eq!(status.replication_state(), None);
    }

    #[test]
    fn version_12_has_no_written_position() {
        assert!(heartbeat_sql(ServerVersion::major_of(12)).contains("NULL::pg_lsn AS written_lsn"));
        for major in 13..=18 {
            assert!(!heartbeat_sql(ServerVersion::major_of(major)).contains("NULL::pg_lsn"), "{major}");
        }
    }

    #[test]
    fn connection_strings_are_not_shown() {
        assert!(!format!("{:?}", standby().wal_receiver).contains("password"));
    }
}
