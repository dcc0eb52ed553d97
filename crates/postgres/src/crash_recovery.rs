//! Brings a crashed data directory to a clean stop by a single-user server, without ever accepting a connection
//! (contract RW-20).

use std::{collections::BTreeMap, io, path::PathBuf};

use crate::{
    archive,
    binaries::{self, Tool},
    command::{self, Command},
    data_directory,
    handle::Postgres,
    postmaster::environment,
};

/// Why crash recovery failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A PostgreSQL process works in the data directory.
    #[error("data directory is in use by process {0}")]
    InUse(u32),
    /// `postgres` is missing.
    #[error(transparent)]
    Missing(#[from] binaries::Error),
    /// The single-user server failed.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// The archive's marks cannot be changed.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// A signal file cannot be removed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// Recovers the data directory; cancelled by dropping. Nothing is archived meanwhile: segments that were ready are
/// archived before, as far as that works, and new ones are not marked.
///
/// # Errors
/// A server runs, or the single-user server failed.
pub async fn run(pg: &Postgres) -> Result<(), Error> {
    let data_dir = pg.data_dir();
    if let Some(pid) = data_directory::holder(&data_dir) {
        return Err(Error::InUse(pid));
    }
    if let Err(error) = archive::archive_ready(pg).await {
        tracing::error!("Could not archive before crash recovery: {error}");
    }
    archive::clear_archive_status(&data_dir)?;
    for name in ["recovery.conf", "recovery.signal", "standby.signal"] {
        let path = data_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Io { path, source });
            }
            _ => {}
        }
    }
    let text = std::fs::read_to_string(data_dir.join("postmaster.opts")).unwrap_or_default();
    let mut command = Command::new(pg.bin(Tool::Postgres)?).arg("--single").arg("-D").arg(&data_dir);
    for (name, value) in options(&text) {
        command = command.arg("-c").arg(format!("{name}={value}"));
    }
    if let Some(pid) = environment::stale_pid(&data_dir) {
        command = command.env(environment::STALE_PID, pid.to_string());
    }
    command.arg("template1").succeed().await?;
    Ok(())
}

/// The settings of `postmaster.opts`, and those that keep the single-user server from archiving.
fn options(postmaster_opts: &str) -> BTreeMap<String, String> {
    let words = shlex::split(postmaster_opts.trim()).unwrap_or_default();
    let mut found = BTreeMap::new();
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        let pair = match word.strip_prefix("--") {
            Some(pair) => Some(pair),
            None if word == "-c" => words.next().map(String::as_str),
            None => word.strip_prefix("-c"),
        };
        if let Some((name, value)) = pair.and_then(|pair| pair.split_once('=')) {
            found.insert(name.replace('-', "_"), value.to_owned());
        }
    }
    found.insert("archive_mode".into(), "on".into());
    found.insert("archive_command".into(), "false".into());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rw_20_options_come_from_postmaster_opts() {
        let text = r#"/usr/lib/postgresql/15/bin/postgres "-D" "/data dir" "--config-file=/etc/a b.conf" "-c" "wal_level=replica" "-cport=5433" "-i" "--archive_command=cp %p /x" "--max_connections=100"
"#;
        let options = options(text);
        let expected = [
            ("archive_command", "false"),
            ("archive_mode", "on"),
            ("config_file", "/etc/a b.conf"),
            ("max_connections", "100"),
            ("port", "5433"),
            ("wal_level", "replica"),
        ];
        let found: Vec<_> = options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(super::options("").len(), 2);
    }
}
