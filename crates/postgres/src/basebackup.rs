//! `pg_basebackup` (contract B.17.3).

use std::{path::Path, time::Duration};

use ptarmigan_config::options;

use crate::{
    binaries::Tool,
    bootstrap::option_name,
    clone::Error,
    data_directory,
    handle::{Login, Postgres},
    upstream::{PasswordFiles, Upstream, without_passwords},
    version::{self, ServerVersion},
};

/// How often a copy is tried.
const ATTEMPTS: u32 = 2;

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_secs(5);

/// Copies a running server. The data directory is wiped before each attempt and after the last failure.
///
/// # Errors
/// Both attempts failed.
pub(crate) async fn run(pg: &Postgres, source: &Upstream) -> Result<(), Error> {
    let data_dir = pg.data_dir();
    let version = program_version(pg).await?;
    let arguments = user_arguments(pg, version);
    let info = source.conninfo(pg, Login::Replication);
    let files = PasswordFiles::write(pg, "basebackup", &info)?;
    let dsn = without_passwords(info).text(version);
    for attempt in 1..=ATTEMPTS {
        wipe(&data_dir, &arguments).await?;
        let command = pg
            .command(Tool::PgBasebackup)?
            .arg(format!("--pgdata={}", data_dir.display()))
            .args(["-X", "stream"])
            .arg(format!("--dbname={dsn}"))
            .args(&arguments);
        match files.apply(command).succeed().await {
            Ok(_) => return Ok(()),
            Err(error) if attempt == ATTEMPTS => {
                wipe(&data_dir, &arguments).await?;
                return Err(error.into());
            }
            Err(error) => {
                tracing::error!("Error when fetching backup, trying again in {} s: {error}", PAUSE.as_secs());
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

/// The version of the programs; there may be no data directory to ask.
pub(crate) async fn program_version(pg: &Postgres) -> Result<ServerVersion, Error> {
    Ok(version::of_program(&pg.bin(Tool::Postgres)?).await?)
}

fn user_arguments(pg: &Postgres, version: ServerVersion) -> Vec<String> {
    let settings = pg.settings();
    let (arguments, warnings) =
        options::user_options("postgresql.basebackup", &settings.basebackup, options::NOT_FOR_BASEBACKUP);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    arguments.into_iter().filter(|argument| is_usable(argument, version)).collect()
}

/// Whether an argument may be passed: not one of ours, and compression only by the server (15 and newer), because a
/// plain copy cannot be compressed.
fn is_usable(argument: &str, version: ServerVersion) -> bool {
    let name = option_name(argument);
    let value = argument.split_once('=').map_or("", |(_, value)| value);
    let usable = !options::NOT_FOR_BASEBACKUP.contains(&name)
        && (name != "compress" || (version.at_least(15) && value.starts_with("server-")));
    if !usable {
        tracing::warn!("postgresql.basebackup: {argument} is not possible; ignored");
    }
    usable
}

/// Removes the data directory, and the contents of `--waldir`, to which no link may lead any more.
async fn wipe(data_dir: &Path, arguments: &[String]) -> Result<(), Error> {
    data_directory::remove(data_dir).await?;
    let wal_dir = arguments.iter().find_map(|argument| argument.strip_prefix("--waldir="));
    if let Some(folder) = wal_dir.map(Path::new).filter(|folder| folder.is_dir()) {
        if data_dir.starts_with(folder) {
            tracing::warn!("{} contains the data directory, it is not emptied", folder.display());
            return Ok(());
        }
        data_directory::remove_contents(folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V14: ServerVersion = ServerVersion::major_of(14);
    const V15: ServerVersion = ServerVersion::major_of(15);

    #[test]
    fn b_17_3_compression_only_by_the_server() {
        assert!(is_usable("--compress=server-gzip:5", V15));
        assert!(!is_usable("--compress=server-gzip:5", V14));
        assert!(!is_usable("--compress=gzip", V15) && !is_usable("--compress", V15));
        assert!(is_usable("--max-rate=100M", V14) && is_usable("--checkpoint=fast", V14));
        assert!(!is_usable("--pgdata=/x", V15) && !is_usable("--gzip", V15));
    }

    #[tokio::test]
    async fn b_17_3_wal_folder_is_emptied() {
        let root = tempfile::tempdir().unwrap();
        let wal = root.path().join("wal");
        std::fs::create_dir(&wal).unwrap();
        std::fs::write(wal.join("0001"), "x").unwrap();
        let data = root.path().join("data");
        wipe(&data, &[format!("--waldir={}", wal.display())]).await.unwrap();
        assert_eq!(std::fs::read_dir(&wal).unwrap().count(), 0);
        std::fs::write(root.path().join("keep"), "x").unwrap();
        wipe(&data, &[format!("--waldir={}", root.path().display())]).await.unwrap();
        assert!(root.path().join("keep").exists());
    }
}
