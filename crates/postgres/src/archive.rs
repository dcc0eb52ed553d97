//! Archiving while the server is down: a rewind or a recovery would lose segments that still wait for the archiver
//! (contract RW-11, RW-20). Also settings of a stopped server, by `postgres -C`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use ptarmigan_types::{Lsn, Timeline};

use crate::{
    binaries::{self, Tool},
    command::{self, Command},
    handle::Postgres,
};

/// `postgres -C` only reads files.
const SETTING_DEADLINE: Duration = Duration::from_secs(10);

/// One segment, over whichever network.
const ARCHIVE_DEADLINE: Duration = Duration::from_secs(300);

/// Why archiving or a setting failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `postgres` is missing.
    #[error(transparent)]
    Missing(#[from] binaries::Error),
    /// A command failed.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// `pg_wal/archive_status` cannot be read or changed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// The value of a setting that the server would start with, by `postgres -C`.
///
/// # Errors
/// The configuration files are invalid, or the server runs and the setting is computed.
pub async fn setting_of_stopped_server(pg: &Postgres, name: &str) -> Result<String, Error> {
    let settings = pg.settings();
    let mut command = pg.command(Tool::Postgres)?.arg("-D").arg(&settings.data_dir);
    if settings.config_dir != settings.data_dir {
        let file = settings.config_dir.join(format!("{}.conf", settings.config_base_name));
        command = command.arg("-c").arg(format!("config_file={}", file.display()));
    }
    let output = command.arg("-C").arg(name).deadline(SETTING_DEADLINE).succeed().await?;
    Ok(output.stdout_text())
}

/// Archives every segment marked `.ready` with the server's `archive_command`, oldest first, and marks it `.done`.
/// Stops at the first segment that cannot be archived. Returns how many were; 0 where archiving is off.
///
/// # Errors
/// The settings are unreadable, the command failed, or a mark could not be renamed.
pub async fn archive_ready(pg: &Postgres) -> Result<usize, Error> {
    let data_dir = pg.data_dir();
    let ready = ready_segments(&data_dir)?;
    if ready.is_empty()
        || !matches!(setting_of_stopped_server(pg, "archive_mode").await?.as_str(), "on" | "always")
    {
        return Ok(0);
    }
    let archive_command = setting_of_stopped_server(pg, "archive_command").await?;
    // Empty with an archive_library, which only the server can call.
    if archive_command.is_empty() {
        return Ok(0);
    }
    for segment in &ready {
        tracing::info!("Archiving {segment} before the data directory changes");
        shell(&data_dir, &archive_command, segment).succeed().await?;
        let mark = |kind: &str| status_dir(&data_dir).join(format!("{segment}.{kind}"));
        fs::rename(mark("ready"), mark("done"))
            .map_err(|source| Error::Io { path: mark("ready"), source })?;
    }
    Ok(ready.len())
}

/// What archives a server that is about to be stopped, by `postgres -C`; `None` where it archives nothing, or by a library
/// that only the server can call (contract DM-2).
///
/// # Errors
/// The settings are unreadable.
pub async fn command_in_force(pg: &Postgres) -> Result<Option<String>, Error> {
    if !matches!(setting_of_stopped_server(pg, "archive_mode").await?.as_str(), "on" | "always") {
        return Ok(None);
    }
    let command = setting_of_stopped_server(pg, "archive_command").await?;
    Ok(Some(command).filter(|command| !command.is_empty()))
}

/// Archives the segment that holds `lsn`: what a stopped server leaves unarchived is its shutdown checkpoint, which whoever
/// lives from the archive needs to have all of its WAL (contract DM-7).
///
/// # Errors
/// The command failed, or took too long.
pub async fn archive_segment_of(
    data_dir: &Path,
    archive_command: &str,
    timeline: Timeline,
    lsn: Lsn,
    segment_bytes: u64,
) -> Result<String, Error> {
    let number = lsn.0 / segment_bytes;
    let per_id = (1_u64 << 32) / segment_bytes;
    let segment = format!("{timeline:08X}{:08X}{:08X}", number / per_id, number % per_id);
    shell(data_dir, archive_command, &segment).deadline(ARCHIVE_DEADLINE).succeed().await?;
    Ok(segment)
}

/// Fetches one segment into `pg_wal` with a `restore_command`.
///
/// # Errors
/// The command failed, or succeeded without writing the file.
pub async fn restore(data_dir: &Path, restore_command: &str, segment: &str) -> Result<(), Error> {
    shell(data_dir, restore_command, segment).succeed().await?;
    let path = data_dir.join("pg_wal").join(segment);
    fs::metadata(&path).map(|_| ()).map_err(|source| Error::Io { path, source })
}

/// Removes every mark of `archive_status`.
pub(crate) fn clear_archive_status(data_dir: &Path) -> Result<(), Error> {
    let folder = status_dir(data_dir);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|source| Error::Io { path: folder, source })?,
    };
    for entry in entries.flatten() {
        fs::remove_file(entry.path()).map_err(|source| Error::Io { path: entry.path(), source })?;
    }
    Ok(())
}

fn status_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("pg_wal/archive_status")
}

fn ready_segments(data_dir: &Path) -> Result<Vec<String>, Error> {
    let folder = status_dir(data_dir);
    let entries = fs::read_dir(&folder).map_err(|source| Error::Io { path: folder, source })?;
    let mut segments: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".ready").map(str::to_owned))
        .collect();
    segments.sort();
    Ok(segments)
}

/// `archive_command` or `restore_command` as the server runs it: by a shell, in the data directory.
fn shell(data_dir: &Path, template: &str, segment: &str) -> Command {
    Command::new("/bin/sh").arg("-c").arg(expand(template, segment)).working_dir(data_dir)
}

fn expand(template: &str, segment: &str) -> String {
    let mut text = String::new();
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('f') => text.push_str(segment),
            Some('p') => text.push_str(&format!("pg_wal/{segment}")),
            // The oldest segment that must be kept is not known here; this one never removes too much.
            Some('r') => text.push_str("000000010000000000000000"),
            Some('%') => text.push('%'),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_as_the_server_does() {
        assert_eq!(expand("cp %p /a/%f 100%% %x %", "0001"), "cp pg_wal/0001 /a/0001 100% %x %");
    }

    #[tokio::test]
    async fn dm_7_the_segment_of_the_shutdown_checkpoint() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("pg_wal")).unwrap();
        let mebibyte = 1 << 20;
        for (lsn, segment_bytes, segment) in [
            (0x0300_0028, 16 * mebibyte, "000000070000000000000003"),
            (0x1_0300_0028, 16 * mebibyte, "000000070000000100000003"),
            (0x1_0300_0028, 64 * mebibyte, "000000070000000100000000"),
        ] {
            fs::write(data.path().join("pg_wal").join(segment), "x").unwrap();
            let archived =
                archive_segment_of(data.path(), "cp %p archived-%f", 7, Lsn(lsn), segment_bytes).await;
            assert_eq!(archived.unwrap(), segment);
            assert!(data.path().join(format!("archived-{segment}")).exists());
        }
        assert!(archive_segment_of(data.path(), "false", 7, Lsn(1), mebibyte).await.is_err());
    }

    #[tokio::test]
    async fn rw_14_restore_must_leave_the_file() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("pg_wal")).unwrap();
        fs::write(data.path().join("archived"), "x").unwrap();
        restore(data.path(), "cp archived %p", "0001").await.unwrap();
        assert!(data.path().join("pg_wal/0001").exists());
        assert!(restore(data.path(), "true", "0002").await.is_err());
        assert!(restore(data.path(), "false", "0001").await.is_err());
    }
}
