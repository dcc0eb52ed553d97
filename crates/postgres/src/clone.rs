//! A replica from nothing: the configured methods in order until one succeeds (contract B.17.3).

use ptarmigan_config::ReplicaMethod;
use ptarmigan_types::MemberState;

use crate::{
    basebackup, binaries,
    command::{self, Command},
    data_directory, files,
    handle::{Login, Postgres},
    pgpass,
    upstream::{PasswordFiles, Upstream, without_passwords},
    version,
};

/// Why a replica could not be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every method failed; the data directory was removed.
    #[error("no replica method succeeded: {0}")]
    AllFailed(String),
    /// There is no source, and no method works without one.
    #[error("no replica method works without a running member")]
    NoMethod,
    /// The data directory is in use or cannot be removed.
    #[error(transparent)]
    DataDirectory(#[from] data_directory::Error),
    /// A program is missing.
    #[error(transparent)]
    Missing(#[from] binaries::Error),
    /// A program failed.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// A password file cannot be written.
    #[error(transparent)]
    PasswordFile(#[from] pgpass::Error),
    /// The version of the programs is not known.
    #[error(transparent)]
    Version(#[from] version::Error),
    /// A command line that a shell could not read.
    #[error("postgresql.{method}.command: unbalanced quotes in {command:?}")]
    CommandLine {
        /// The method.
        method: String,
        /// Its command.
        command: String,
    },
    /// A configuration file of the new data directory cannot be written.
    #[error(transparent)]
    Files(#[from] files::Error),
}

/// Creates the data directory of a replica (contract B.17.3). The state is `creating replica`, afterwards `stopped`.
/// `methods` in the order to try; without a `source` only those with `no_leader` are left. Returns the method that
/// succeeded. Cancelled by dropping: what was copied so far stays.
///
/// # Errors
/// Nothing succeeded, or the data directory is in use.
pub async fn clone(pg: &Postgres, source: Option<&Upstream>, methods: &[String]) -> Result<String, Error> {
    pg.set_state(MemberState::CreatingReplica);
    let result = try_methods(pg, source, methods).await;
    pg.set_state(MemberState::Stopped);
    let method = result?;
    pg.settle_copied_data()?;
    Ok(method)
}

async fn try_methods(pg: &Postgres, source: Option<&Upstream>, methods: &[String]) -> Result<String, Error> {
    let settings = pg.settings();
    let default = [String::from("basebackup")];
    let methods = if methods.is_empty() { &default[..] } else { methods };
    let mut failures = Vec::new();
    for method in methods {
        let section = settings.replica_methods.get(method);
        if source.is_none() && !section.is_some_and(|section| section.no_leader) {
            continue;
        }
        let result = match (section, source) {
            (None, Some(source)) if method == "basebackup" => basebackup::run(pg, source).await,
            _ => {
                let plain = ReplicaMethod { command: method.clone(), ..ReplicaMethod::default() };
                custom(pg, source, method, section.unwrap_or(&plain)).await
            }
        };
        match result {
            Ok(()) => {
                tracing::info!("replica has been created using {method}");
                return Ok(method.clone());
            }
            // Nothing else will work either.
            Err(Error::DataDirectory(error)) => return Err(error.into()),
            Err(error) => {
                tracing::error!("Error creating replica using method {method}: {error}");
                failures.push(format!("{method}: {error}"));
            }
        }
    }
    if failures.is_empty() {
        return Err(Error::NoMethod);
    }
    data_directory::remove(&settings.data_dir).await?;
    Err(Error::AllFailed(failures.join("; ")))
}

async fn custom(
    pg: &Postgres,
    source: Option<&Upstream>,
    name: &str,
    method: &ReplicaMethod,
) -> Result<(), Error> {
    let data_dir = pg.data_dir();
    let unreadable = || Error::CommandLine { method: name.to_owned(), command: method.command.clone() };
    let words = shlex::split(&method.command).ok_or_else(unreadable)?;
    let (program, arguments) = words.split_first().ok_or_else(unreadable)?;
    if !method.keep_data {
        data_directory::remove(&data_dir).await?;
    }
    let info = source.map(|source| source.conninfo(pg, Login::Replication));
    let files = info.as_ref().map(|info| PasswordFiles::write(pg, "clone", info)).transpose()?;
    let connstring = match info {
        Some(info) => without_passwords(info).text(basebackup::program_version(pg).await?),
        None => String::new(),
    };
    let mut command = Command::new(program).args(arguments).args(custom_arguments(pg, method, &connstring));
    if let Some(files) = &files {
        command = files.apply(command);
    }
    let result = command.succeed().await;
    if result.is_err() && !method.keep_data {
        data_directory::remove(&data_dir).await?;
    }
    result?;
    Ok(())
}

/// The section's keys first, then what every script gets unless it asks for `no_params`.
fn custom_arguments(pg: &Postgres, method: &ReplicaMethod, connstring: &str) -> Vec<String> {
    let mut arguments: Vec<String> =
        method.arguments.iter().map(|(key, value)| format!("--{key}={value}")).collect();
    if !method.no_params {
        arguments.extend([
            format!("--scope={}", pg.scope()),
            "--role=replica".to_owned(),
            format!("--datadir={}", pg.data_dir().display()),
            format!("--connstring={connstring}"),
        ]);
    }
    arguments
}
