//! `postmaster.pid`: what the server writes about itself while it runs.

use std::{io, path::Path};

use ptarmigan_guardian::RawPid;

/// The lines of `postmaster.pid`, as far as they were written yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile {
    /// Line 1; the server writes it negative in single-user mode.
    pub pid: RawPid,
    /// Line 3: when it started, seconds since the epoch.
    pub start_epoch_s: Option<u64>,
    /// Line 4.
    pub port: Option<u16>,
    /// Line 5: the first folder of its unix sockets, empty for none.
    pub socket_dir: Option<String>,
    /// Line 6: the first TCP address, empty for none.
    pub listen: Option<String>,
    /// Line 8: how far it is.
    pub status: Option<Progress>,
}

/// How far a server is, by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not accepting connections yet.
    Starting,
    /// Shutting down.
    Stopping,
    /// Accepting connections.
    Ready,
    /// A standby that is up and accepts no connections, by configuration.
    Standby,
}

impl PidFile {
    /// Reads the file of a data directory.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(data_dir.join("postmaster.pid"))?;
        Self::parse(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "postmaster.pid has no pid"))
    }

    /// Reads its text.
    pub fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let line = |number: usize| lines.get(number - 1).copied();
        let pid: RawPid = line(1)?.parse().ok()?;
        Some(Self {
            pid: pid.checked_abs()?,
            start_epoch_s: line(3).and_then(|text| text.parse().ok()),
            port: line(4).and_then(|text| text.parse().ok()),
            socket_dir: line(5).map(str::to_owned),
            listen: line(6).map(str::to_owned),
            status: line(8).and_then(|text| match text {
                "starting" => Some(Progress::Starting),
                "stopping" => Some(Progress::Stopping),
                "ready" => Some(Progress::Ready),
                "standby" => Some(Progress::Standby),
                _ => None,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read() {
        let text = "4711\n/data\n1700000000\n5433\n/run/postgresql\n*\n  5432001     65538\nready   \n";
        let file = PidFile::parse(text).unwrap();
        assert_eq!((file.pid, file.start_epoch_s, file.port), (4711, Some(1_700_000_000), Some(5433)));
        assert_eq!(
            (file.socket_dir.as_deref(), file.listen.as_deref()),
            (Some("/run/postgresql"), Some("*"))
        );
        assert_eq!(file.status, Some(Progress::Ready));
    }

    #[test]
    fn half_written_file_is_read_as_far_as_it_goes() {
        let file = PidFile::parse("4711\n/data\n1700000000\n").unwrap();
        assert_eq!((file.port, file.status), (None, None));
        assert_eq!(PidFile::parse("-12\n/data\n").unwrap().pid, 12);
        assert_eq!(PidFile::parse(""), None);
        assert_eq!(PidFile::parse("x\n"), None);
    }
}
