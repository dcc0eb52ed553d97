//! What `pg_controldata` prints about a data directory.

use std::{collections::BTreeMap, path::Path, time::Duration};

pub use ptarmigan_types::ControlState;
use ptarmigan_types::{Lsn, Timeline};

use crate::command::{self, Command};

/// Reading one small file takes no longer, except on a disk that is about to fail.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why the control file is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `pg_controldata` failed.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// A line that every version prints is missing or cannot be read.
    #[error("pg_controldata printed no usable {0:?}")]
    Field(&'static str),
}

/// The fields of the control file that anything here asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// Layout version of the control file: 1201 for PostgreSQL 12, 1300 for 13 to 16.
    pub pg_control_version: u32,
    /// Layout version of the system catalogs.
    pub catalog_version: u64,
    /// `Database system identifier`, as digits.
    pub system_identifier: String,
    /// `Database cluster state`.
    pub state: ControlState,
    /// `Latest checkpoint location`.
    pub checkpoint_lsn: Lsn,
    /// `Latest checkpoint's REDO location`.
    pub redo_lsn: Lsn,
    /// `Latest checkpoint's REDO WAL file`.
    pub redo_wal_file: String,
    /// `Latest checkpoint's TimeLineID`.
    pub checkpoint_timeline: Timeline,
    /// `Latest checkpoint's PrevTimeLineID`.
    pub previous_timeline: Timeline,
    /// `Minimum recovery ending location`; zero outside recovery.
    pub min_recovery_end_lsn: Lsn,
    /// `Min recovery ending loc's timeline`; zero outside recovery.
    pub min_recovery_end_timeline: Timeline,
    /// `Backup start location`; not zero from the first start of a copy until the WAL of the time when it was made is
    /// replayed.
    pub backup_start_lsn: Lsn,
    /// `wal_log_hints setting`.
    pub wal_log_hints: bool,
    /// `Data page checksum version`; 0 means no checksums.
    pub data_checksum_version: u32,
    /// `Bytes per WAL segment`.
    pub wal_segment_bytes: u64,
    /// `max_connections setting`.
    pub max_connections: u32,
    /// `max_prepared_xacts setting`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_xact setting`.
    pub max_locks_per_transaction: u32,
    /// `max_worker_processes setting`.
    pub max_worker_processes: u32,
    /// `max_wal_senders setting` (PostgreSQL 12 and newer).
    pub max_wal_senders: u32,
    /// Every line, by its label.
    pub fields: BTreeMap<String, String>,
}

impl ControlData {
    /// Runs `pg_controldata` (`program`) on `data_dir`.
    pub async fn read(program: &Path, data_dir: &Path) -> Result<Self, Error> {
        let output = Command::new(program)
            .arg(data_dir)
            .env("LC_ALL", "C")
            .env("LANG", "C")
            .env_remove("PGDATA")
            .deadline(DEADLINE)
            .succeed()
            .await?;
        Self::parse(&output.stdout_text())
    }

    /// Reads the program's output, printed with `LC_ALL=C`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let fields: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(label, value)| (label.trim().to_owned(), value.trim().to_owned()))
            .collect();
        let lines = Lines(&fields);
        Ok(Self {
            pg_control_version: lines.number("pg_control version number")?,
            catalog_version: lines.number("Catalog version number")?,
            system_identifier: lines.text("Database system identifier")?.to_owned(),
            state: ControlState::read(lines.text("Database cluster state")?),
            checkpoint_lsn: lines.number("Latest checkpoint location")?,
            redo_lsn: lines.number("Latest checkpoint's REDO location")?,
            redo_wal_file: lines.text("Latest checkpoint's REDO WAL file")?.to_owned(),
            checkpoint_timeline: lines.number("Latest checkpoint's TimeLineID")?,
            previous_timeline: lines.number("Latest checkpoint's PrevTimeLineID")?,
            min_recovery_end_lsn: lines.number("Minimum recovery ending location")?,
            min_recovery_end_timeline: lines.number("Min recovery ending loc's timeline")?,
            backup_start_lsn: lines.number("Backup start location")?,
            wal_log_hints: lines.text("wal_log_hints setting")? == "on",
            data_checksum_version: lines.number("Data page checksum version")?,
            wal_segment_bytes: lines.number("Bytes per WAL segment")?,
            max_connections: lines.number("max_connections setting")?,
            max_prepared_transactions: lines.number("max_prepared_xacts setting")?,
            max_locks_per_transaction: lines.number("max_locks_per_xact setting")?,
            max_worker_processes: lines.number("max_worker_processes setting")?,
            max_wal_senders: lines.number("max_wal_senders setting")?,
            fields,
        })
    }
}

struct Lines<'a>(&'a BTreeMap<String, String>);

impl<'a> Lines<'a> {
    fn text(&self, label: &'static str) -> Result<&'a str, Error> {
        self.0.get(label).map(String::as_str).ok_or(Error::Field(label))
    }

    fn number<T: std::str::FromStr>(&self, label: &'static str) -> Result<T, Error> {
        self.text(label)?.parse().map_err(|_| Error::Field(label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = include_str!("../testdata/pg_controldata_15.txt");

    #[test]
    fn every_field_of_version_15_is_read() {
        let data = ControlData::parse(PRINTED).unwrap();
        assert_eq!(data.system_identifier, "7710331781508340140");
        assert_eq!(data.state, ControlState::ShutDown);
        assert_eq!(data.checkpoint_lsn, Lsn(0x150_0718));
        assert_eq!(data.checkpoint_timeline, 1);
        assert_eq!(data.pg_control_version, 1300);
        assert!(!data.wal_log_hints && data.data_checksum_version == 0);
        assert_eq!(
            (data.max_connections, data.max_wal_senders, data.max_locks_per_transaction),
            (100, 10, 64)
        );
        assert_eq!(data.fields["Latest checkpoint's NextXID"], "0:724");
    }

    #[test]
    fn missing_line_is_named() {
        let cut = PRINTED.replace("Database system identifier:", "Something else:");
        let error = ControlData::parse(&cut).unwrap_err().to_string();
        assert!(error.contains("Database system identifier"), "{error}");
        assert!(ControlData::parse("").is_err());
    }

    #[test]
    fn states_tell_a_primary_from_a_standby() {
        for (word, shut_down, primary) in [
            ("shut down", true, true),
            ("shut down in recovery", true, false),
            ("in production", false, true),
            ("in archive recovery", false, false),
            ("shutting down", false, true),
            ("something new", false, false),
        ] {
            let state = ControlState::read(word);
            assert_eq!((state.is_shut_down(), state.is_of_primary()), (shut_down, primary), "{word}");
        }
    }
}
