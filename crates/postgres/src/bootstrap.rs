//! A new cluster: `initdb`, and the users once it runs (contract B.17.2, B.17.4).

use std::{io, path::PathBuf};

use postgres_protocol::escape::{escape_identifier, escape_literal};
use ptarmigan_config::{BootstrapSettings, Credentials, options};
use ptarmigan_types::MemberState;

use crate::{
    binaries::{self, Tool},
    command::{self, Command},
    connection::{self, Purpose, Session},
    files,
    handle::{Login, Postgres},
    pgpass,
    upstream::{PasswordFiles, beside, without_passwords, write_private},
    version::{self, ServerVersion},
};

pub mod custom;

/// Why a cluster could not be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command of a custom method ended well and left no data directory behind.
    #[error("bootstrap.{method}.command left no usable data directory in {path}: {source}", path = path.display())]
    NoData {
        /// The method.
        method: String,
        /// Where it had to be.
        path: PathBuf,
        /// What is wrong with it.
        source: version::Error,
    },
    /// Nothing says who may connect once the trust of a custom bootstrap ends.
    #[error("{path} is missing and postgresql.pg_hba is not set: nobody could connect after the bootstrap", path = path.display())]
    NoPgHba {
        /// The file.
        path: PathBuf,
    },
    /// A recovery parameter that PostgreSQL does not know.
    #[error("bootstrap.{method}.recovery_conf.{name} is no recovery parameter")]
    RecoveryParameter {
        /// The method.
        method: String,
        /// Its name as configured.
        name: String,
    },
    /// An option that `initdb` may not get, or that cannot be passed.
    #[error("{0}")]
    Option(String),
    /// A command line that a shell could not read.
    #[error("{key}: unbalanced quotes in {command:?}")]
    CommandLine {
        /// The setting.
        key: &'static str,
        /// Its value.
        command: String,
    },
    /// A program is missing.
    #[error(transparent)]
    Missing(#[from] binaries::Error),
    /// A program failed.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// A password file cannot be written.
    #[error(transparent)]
    PasswordFile(#[from] pgpass::Error),
    /// A file cannot be written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The copies of the configuration files cannot be written.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// The server refused a statement.
    #[error(transparent)]
    Sql(#[from] connection::Error),
    /// The data directory's version cannot be read.
    #[error(transparent)]
    Version(#[from] version::Error),
}

/// Creates the data directory by `initdb` and appends `bootstrap.pg_hba` (contract B.17.2). The state is
/// `initializing new cluster`, then `initdb failed` or as it is. A failed attempt leaves what `initdb` leaves: the
/// caller puts it aside.
///
/// # Errors
/// An option is forbidden, or `initdb` failed.
pub async fn initdb(pg: &Postgres, bootstrap: &BootstrapSettings) -> Result<(), Error> {
    pg.set_state(MemberState::InitializingNewCluster);
    let result = run_initdb(pg, bootstrap).await;
    if result.is_err() {
        pg.set_state(MemberState::InitdbFailed);
    }
    result
}

async fn run_initdb(pg: &Postgres, bootstrap: &BootstrapSettings) -> Result<(), Error> {
    let settings = pg.settings();
    // The locale of our environment is what the operator gets where no option names one.
    let mut command =
        Command::new(pg.bin(Tool::Initdb)?).args(initdb_options(bootstrap)?).env_remove("PGDATA");
    if let Some(user) = &settings.superuser.username {
        command = command.arg(format!("--username={user}"));
    }
    let mut password_file = None;
    if let Some(password) = &settings.superuser.password {
        let file = PrivateFile(beside(&pg.pgpass_path(), "initdb"));
        let failed = |source| Error::Io { path: file.0.clone(), source };
        if let Some(folder) = file.0.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        write_private(&file.0, &format!("{}\n", password.expose())).map_err(failed)?;
        command = command.arg(format!("--pwfile={}", file.0.display()));
        password_file = Some(file);
    }
    let result = command.arg(&settings.data_dir).succeed().await;
    drop(password_file);
    result?;
    append_pg_hba(pg, bootstrap)?;
    Ok(pg.backup_config()?)
}

/// Removed with the value, also where the task is cancelled.
struct PrivateFile(PathBuf);

impl Drop for PrivateFile {
    fn drop(&mut self) {
        // What cannot be removed is overwritten by the next run.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn initdb_options(bootstrap: &BootstrapSettings) -> Result<Vec<String>, Error> {
    let (arguments, warnings) =
        options::user_options("bootstrap.initdb", &bootstrap.initdb, options::NOT_FOR_INITDB);
    if let Some(warning) = warnings.first() {
        return Err(Error::Option(warning.to_string()));
    }
    match forbidden(&arguments, options::NOT_FOR_INITDB) {
        Some(name) => Err(Error::Option(format!("bootstrap.initdb: {name} may not be set"))),
        None => Ok(arguments),
    }
}

/// The first argument that sets an option of `names`, also where name and value were written as one text.
pub(crate) fn forbidden<'a>(arguments: &'a [String], names: &[&str]) -> Option<&'a str> {
    arguments.iter().map(|argument| option_name(argument)).find(|name| names.contains(name))
}

/// `--name=value` and `--name value`: the name.
pub(crate) fn option_name(argument: &str) -> &str {
    let name = argument.strip_prefix("--").unwrap_or(argument);
    name.split(['=', ' ']).next().unwrap_or(name)
}

/// Only where neither `hba_file` nor `postgresql.pg_hba` is set.
fn append_pg_hba(pg: &Postgres, bootstrap: &BootstrapSettings) -> Result<(), Error> {
    let settings = pg.settings();
    if bootstrap.pg_hba.is_empty()
        || !settings.pg_hba.is_empty()
        || settings.parameters.get("hba_file").is_some_and(ptarmigan_types::scalar::is_truthy)
    {
        return Ok(());
    }
    let path = pg.config_files().hba;
    let failed = |source| Error::Io { path: path.clone(), source };
    let mut text = format!("\n{}\n", bootstrap.pg_hba.join("\n"));
    if !path.exists() && settings.config_dir != settings.data_dir {
        let original = std::fs::read_to_string(settings.data_dir.join("pg_hba.conf")).map_err(failed)?;
        text.insert_str(0, &original);
    }
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)
}

/// Creates the users of a new cluster and runs `bootstrap.post_bootstrap` (contract B.17.4, steps 1 to 3), on the
/// running primary.
///
/// # Errors
/// A statement or the command failed: the bootstrap failed (contract HA-060).
pub async fn post_bootstrap(pg: &Postgres, bootstrap: &BootstrapSettings) -> Result<(), Error> {
    let settings = pg.settings();
    let session = Session::connect(&pg.local_conninfo(Login::Superuser), Purpose::Unlimited).await?;
    let encryption = quiet(&session).await?;
    if settings.superuser.username.is_some() && settings.superuser.password.is_some() {
        create_role(&session, &settings.superuser, "SUPERUSER LOGIN", &encryption).await?;
    }
    if let Some(command) = bootstrap.post_bootstrap.as_deref().filter(|command| !command.trim().is_empty()) {
        run_post_bootstrap(pg, command, pg.version()?).await?;
    }
    create_role(&session, &settings.replication, "LOGIN REPLICATION", &encryption).await?;
    if settings.rewind_configured && settings.rewind.username != settings.superuser.username {
        create_role(&session, &settings.rewind, "LOGIN", &encryption).await?;
        if let Some(user) = &settings.rewind.username {
            session.execute(&rewind_grants(user)).await?;
        }
    }
    Ok(())
}

/// Keeps what follows out of the server's logs and waits for no standby; returns `password_encryption`.
async fn quiet(session: &Session) -> Result<String, Error> {
    session
        .execute(
            "SET log_statement TO none; SET log_min_duration_statement TO -1; \
             SELECT set_config(name, '-1', false) FROM pg_settings WHERE name = 'log_min_duration_sample'; \
             SET log_min_error_statement TO panic; SET pg_stat_statements.track_utility TO off; \
             SET auto_explain.log_min_duration TO -1; SET pgaudit.log TO none; SET synchronous_commit TO local",
        )
        .await?;
    let rows = session.query_text("SHOW password_encryption").await?;
    Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
}

async fn create_role(
    session: &Session,
    credentials: &Credentials,
    attributes: &str,
    encryption: &str,
) -> Result<(), Error> {
    let Some(user) = credentials.username.as_deref() else { return Ok(()) };
    let exists = session.query("SELECT FROM pg_roles WHERE rolname = $1::text::name", &[&user]).await?;
    let verb = if exists.is_empty() { "CREATE" } else { "ALTER" };
    let password = match &credentials.password {
        Some(password) => {
            let verifier = verifier(password.expose(), user, encryption);
            format!(" PASSWORD {}", escape_literal(&verifier).trim_start())
        }
        None => String::new(),
    };
    let role = escape_identifier(user);
    session.execute(&format!("{verb} ROLE {role} WITH {attributes}{password}")).await?;
    Ok(())
}

/// What the server stores: the password itself never leaves this process.
fn verifier(password: &str, user: &str, encryption: &str) -> String {
    let is_md5 = |text: &str| {
        text.strip_prefix("md5")
            .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    if is_md5(password) || password.starts_with("SCRAM-SHA-256$") {
        password.to_owned()
    } else if matches!(encryption, "md5" | "on") {
        postgres_protocol::password::md5(password.as_bytes(), user)
    } else {
        postgres_protocol::password::scram_sha_256(password.as_bytes())
    }
}

fn rewind_grants(user: &str) -> String {
    let functions = [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ];
    let role = escape_identifier(user);
    let grant = |function| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role};");
    functions.map(grant).join(" ")
}

async fn run_post_bootstrap(pg: &Postgres, command: &str, version: ServerVersion) -> Result<(), Error> {
    let key = "bootstrap.post_bootstrap";
    let unreadable = || Error::CommandLine { key, command: command.to_owned() };
    let words = shlex::split(command).ok_or_else(unreadable)?;
    let (program, arguments) = words.split_first().ok_or_else(unreadable)?;
    let info = pg.local_conninfo(Login::Superuser);
    let files = PasswordFiles::write(pg, "post_bootstrap", &info)?;
    let run = Command::new(program)
        .args(arguments)
        .arg(without_passwords(info).text(version))
        .env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0");
    files.apply(run).succeed().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ptarmigan_config::BootstrapMethod;
    use serde_json::{Value, json};

    use super::*;

    fn bootstrap(initdb: Value) -> BootstrapSettings {
        BootstrapSettings {
            dcs: serde_json::Map::new(),
            method: BootstrapMethod::Initdb,
            initdb,
            pg_hba: Vec::new(),
            post_bootstrap: None,
        }
    }

    #[test]
    fn b_17_2_numbers_are_options_too() {
        let options = json!([{"wal-segsize": 128}, "data-checksums", {"locale": "'C'"}]);
        assert_eq!(
            initdb_options(&bootstrap(options)).unwrap(),
            ["--wal-segsize=128", "--data-checksums", "--locale=C"]
        );
    }

    #[test]
    fn b_17_2_forbidden_options_raise() {
        for options in [json!(["nosync"]), json!([{"pgdata": "/x"}]), json!(["pwfile=/x"]), json!([["x"]])] {
            assert!(initdb_options(&bootstrap(options.clone())).is_err(), "{options}");
        }
    }

    #[test]
    fn b_17_4_passwords_are_hashed_here() {
        assert_eq!(verifier("secret", "joe", "md5"), postgres_protocol::password::md5(b"secret", "joe"));
        let scram = verifier("secret", "joe", "scram-sha-256");
        assert!(scram.starts_with("SCRAM-SHA-256$4096:") && !scram.contains("secret"));
        assert_eq!(verifier(&scram, "joe", "md5"), scram);
    }

    #[test]
    fn b_17_4_names_are_quoted() {
        assert!(rewind_grants("re\"wind").contains("TO \"re\"\"wind\";"));
    }
}
