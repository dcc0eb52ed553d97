//! What a running server that nobody manages yet says about itself, for `--generate-config` (contract D.1).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use ptarmigan_config::{
    controlled,
    generate::{Parameter, Server},
};
use serde_json::{Map, Value};

use crate::{ConnInfo, Purpose, Session, connection, files};

/// Why a server could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or no answer on it.
    #[error(transparent)]
    Connection(#[from] connection::Error),
    /// The user may not see everything.
    #[error("the user {0} is no superuser: the server does not tell it everything")]
    NotSuperuser(String),
    /// A file of its configuration cannot be read here.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The server did not tell a setting that every server has.
    #[error("the server does not tell its {0}")]
    Missing(&'static str),
}

/// Keys of a connection that are credentials of a user as the configuration has them (contract CF-27).
const CREDENTIALS: &[(&str, &str)] = &[
    ("user", "username"),
    ("password", "password"),
    ("sslmode", "sslmode"),
    ("sslcert", "sslcert"),
    ("sslkey", "sslkey"),
    ("sslpassword", "sslpassword"),
    ("sslrootcert", "sslrootcert"),
    ("sslcrl", "sslcrl"),
    ("sslcrldir", "sslcrldir"),
    ("gssencmode", "gssencmode"),
    ("channel_binding", "channel_binding"),
    ("sslnegotiation", "sslnegotiation"),
];

/// Parameters as they were configured: in force, or, where our own session, a database or a user has another value,
/// as the files say. Parameters of extensions that are not loaded stand in the files alone.
const SETTINGS: &str = "SELECT name, current_setting(name), source FROM pg_settings";
const FILES: &str =
    "SELECT name, setting FROM pg_file_settings WHERE error IS NULL AND setting IS NOT NULL ORDER BY seqno";

/// Connects as a superuser and asks.
///
/// # Errors
/// There is no connection, the user is no superuser, or its files cannot be read on this machine.
pub async fn survey(info: &ConnInfo) -> Result<Server, Error> {
    let session = Session::connect(info, Purpose::Unlimited).await?;
    let user = text(&session, "SELECT current_user").await?.unwrap_or_default();
    if text(&session, "SELECT current_setting('is_superuser')").await?.as_deref() != Some("on") {
        return Err(Error::NotSuperuser(user));
    }
    let settings = session.query_text(SETTINGS).await?;
    let files = session.query_text(FILES).await?;
    let all: BTreeMap<&str, &str> =
        settings.iter().filter_map(|row| Some((field(row, 0)?, field(row, 1)?))).collect();
    let setting = |name: &'static str| all.get(name).copied().ok_or(Error::Missing(name));
    let data_dir = setting("data_directory")?.to_owned();
    let config_file = PathBuf::from(setting("config_file")?);
    let config_dir = config_file.parent().unwrap_or_else(|| Path::new(&data_dir)).to_owned();
    let base_name = config_file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut parameters = configured(&settings, &files);
    let mut own_lines = |guc: &'static str, file: &str| -> Result<Vec<String>, Error> {
        let path = config_dir.join(setting(guc)?);
        if path != config_dir.join(file) {
            return Ok(Vec::new());
        }
        parameters.retain(|parameter| parameter.name != guc);
        read_lines(&path)
    };
    let (pg_hba, pg_ident) =
        (own_lines("hba_file", "pg_hba.conf")?, own_lines("ident_file", "pg_ident.conf")?);
    Ok(Server {
        cluster_name: setting("cluster_name")?.to_owned(),
        listen_addresses: setting("listen_addresses")?.to_owned(),
        port: setting("port")?.parse().map_err(|_| Error::Missing("port"))?,
        bin_dir: bin_dir(&session, Path::new(&data_dir)).await?,
        config_dir: (config_dir != Path::new(&data_dir)).then(|| config_dir.display().to_string()),
        config_base_name: (base_name != "postgresql").then_some(base_name),
        data_dir,
        parameters,
        pg_hba,
        pg_ident,
        superuser: credentials(info, &user),
    })
}

fn field(row: &[Option<String>], index: usize) -> Option<&str> {
    row.get(index)?.as_deref()
}

async fn text(session: &Session, sql: &str) -> Result<Option<String>, Error> {
    let rows = session.query_text(sql).await?;
    Ok(rows.first().and_then(|row| field(row, 0)).map(str::to_owned))
}

/// The parameters that were configured, and those that the manager controls in any case.
fn configured(settings: &[Vec<Option<String>>], files: &[Vec<Option<String>>]) -> Vec<Parameter> {
    let in_files: BTreeMap<String, &str> =
        files.iter().filter_map(|row| Some((field(row, 0)?.to_lowercase(), field(row, 1)?))).collect();
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    let mut add = |name: &str, value: &str| {
        found.push(Parameter { name: name.to_owned(), value: value.to_owned() });
    };
    for row in settings {
        let (Some(name), Some(value), Some(source)) = (field(row, 0), field(row, 1), field(row, 2)) else {
            continue;
        };
        known.insert(name.to_lowercase());
        let elsewhere = ["database", "user", "database user", "client", "session", "interactive", "global"];
        if ["configuration file", "command line"].contains(&source) || controlled::is_controlled(name) {
            add(name, value);
        } else if elsewhere.contains(&source)
            && let Some(value) = in_files.get(&name.to_lowercase())
        {
            add(name, value);
        }
    }
    let unloaded = in_files.iter().filter(|(name, _)| name.contains('.') && !known.contains(*name));
    unloaded.for_each(|(name, value)| add(name, value));
    found
}

/// The lines of an access file that say something; a line that ends in a backslash goes on in the next.
fn read_lines(path: &Path) -> Result<Vec<String>, Error> {
    let text = std::fs::read_to_string(path).map_err(files::failed("read", path))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Where the running program is; what the server says where its process cannot be looked at.
async fn bin_dir(session: &Session, data_dir: &Path) -> Result<String, Error> {
    let pid_file = std::fs::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
    let pid = pid_file.lines().next().unwrap_or_default().trim();
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok().filter(|program| program.is_file());
    match program.as_deref().and_then(Path::parent) {
        Some(folder) if !pid.is_empty() => Ok(folder.display().to_string()),
        _ => Ok(text(session, "SELECT setting FROM pg_config WHERE name = 'BINDIR'")
            .await?
            .unwrap_or_default()),
    }
}

fn credentials(info: &ConnInfo, user: &str) -> Map<String, Value> {
    let given = |key: &str| if key == "user" { Some(user) } else { info.get(key) };
    let pairs =
        CREDENTIALS.iter().filter_map(|(from, to)| Some(((*to).to_owned(), Value::from(given(from)?))));
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<Option<String>>> {
        rows.iter().map(|row| row.iter().map(|value| Some((*value).to_owned())).collect()).collect()
    }

    #[test]
    fn d_1_what_was_configured_counts_not_what_a_session_has() {
        let settings = rows(&[
            &["work_mem", "7MB", "database"],
            &["search_path", "pg_catalog", "client"],
            &["jit", "off", "configuration file"],
            &["DateStyle", "ISO, MDY", "configuration file"],
            &["seq_page_cost", "1", "default"],
            &["wal_keep_size", "200MB", "command line"],
            &["max_connections", "100", "default"],
        ]);
        let files =
            rows(&[&["work_mem", "5MB"], &["work_mem", "6MB"], &["auto_explain.log_min_duration", "1s"]]);
        let found = configured(&settings, &files);
        let found: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.value.as_str())).collect();
        assert_eq!(
            found,
            [
                ("work_mem", "6MB"),
                ("jit", "off"),
                ("DateStyle", "ISO, MDY"),
                ("wal_keep_size", "200MB"),
                ("max_connections", "100"),
                ("auto_explain.log_min_duration", "1s"),
            ]
        );
    }

    #[test]
    fn d_1_comments_and_blank_lines_are_no_rules() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pg_hba.conf");
        std::fs::write(&path, "# a\n\n  host all all 10.0.0.0/8  md5 # b\n\tlocal all all peer\n").unwrap();
        assert_eq!(read_lines(&path).unwrap(), ["host all all 10.0.0.0/8  md5 # b", "local all all peer"]);
    }
}
