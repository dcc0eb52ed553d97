//! A new cluster from what a command of the operator's makes, for example a restored backup that recovers up to a point
//! in time (contract B.17.2).

use std::{
    collections::BTreeMap,
    net::{IpAddr, ToSocketAddrs},
};

use ptarmigan_config::{BootstrapMethod, BootstrapSettings, PostgresSettings};
use ptarmigan_types::{MemberState, Role, scalar};
use serde_json::{Map, Value};

use super::Error;
use crate::{
    Postgres,
    command::Command,
    files::{self, backup, hba, mode_of, write_if_changed},
    guc,
    handle::Login,
    pending_restart,
    recovery::{Recovery, is_recovery_guc},
};

/// What is different from the moment the command is run until the new cluster's users are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CustomBootstrap {
    /// The server ends its recovery by itself. Nobody needs to read from it until then, and with `hot_standby` it would
    /// refuse to go on where the backup's server was configured larger than this one.
    hot_standby_off: bool,
}

impl CustomBootstrap {
    /// The parameters with which the server comes up: ours are in force whatever the operator's file of rules says.
    pub(crate) fn adjust(self, parameters: &mut BTreeMap<String, String>) {
        parameters.retain(|name, _| !name.eq_ignore_ascii_case("hba_file"));
        if self.hot_standby_off {
            parameters.insert("hot_standby".to_owned(), "off".to_owned());
        }
    }
}

/// Runs the command, and prepares the data directory that it made for the first start; how that comes up is returned. The
/// state is `running custom bootstrap script`, then `starting after custom bootstrap`, or `custom bootstrap failed`.
///
/// # Errors
/// `bootstrap.method` is none with a command, the command failed, or what it left cannot be started.
pub async fn run(pg: &Postgres, bootstrap: &BootstrapSettings) -> Result<Recovery, Error> {
    pg.set_state(MemberState::RunningCustomBootstrapScript);
    let result = make(pg, bootstrap).await;
    let failed = result.is_err();
    pg.set_state(if failed {
        MemberState::CustomBootstrapFailed
    } else {
        MemberState::StartingAfterCustomBootstrap
    });
    result
}

async fn make(pg: &Postgres, bootstrap: &BootstrapSettings) -> Result<Recovery, Error> {
    let BootstrapMethod::Custom { name, command, keep_existing_recovery_conf, recovery_conf, .. } =
        &bootstrap.method
    else {
        return Err(Error::Option("bootstrap.method has no command".to_owned()));
    };
    let recovery = match recovery_conf {
        Some(settings) => recovery(name, settings)?,
        None if *keep_existing_recovery_conf => Recovery::Existing,
        None => Recovery::None,
    };
    let unreadable = || Error::CommandLine { key: "bootstrap.<method>.command", command: command.clone() };
    let words = shlex::split(command).ok_or_else(unreadable)?;
    let (program, arguments) = words.split_first().ok_or_else(unreadable)?;
    tracing::info!("running bootstrap.{name}.command");
    Command::new(program).args(arguments).args(arguments_of(pg, &bootstrap.method)).succeed().await?;
    let path = pg.data_dir();
    pg.version().map_err(|source| Error::NoData { method: name.clone(), path, source })?;
    pg.settle_copied_data()?;
    keep_pg_hba(pg)?;
    let hot_standby_off = match &recovery {
        Recovery::Existing => true,
        other => other.parameters().get("recovery_target_action").is_some_and(|action| action == "promote"),
    };
    pg.set_custom_bootstrap(Some(CustomBootstrap { hot_standby_off }));
    Ok(recovery)
}

/// `--scope` and `--datadir` unless they are not wanted, then the section's own keys.
fn arguments_of(pg: &Postgres, method: &BootstrapMethod) -> Vec<String> {
    let BootstrapMethod::Custom { no_params, arguments, .. } = method else { return Vec::new() };
    let mut all = Vec::new();
    if !no_params {
        all.push(format!("--scope={}", pg.scope()));
        all.push(format!("--datadir={}", pg.data_dir().display()));
    }
    all.extend(arguments.iter().map(|(key, value)| format!("--{key}={value}")));
    all
}

/// `bootstrap.<method>.recovery_conf`: a target to recover to, or a standby, as recovery settings were before PostgreSQL 12.
fn recovery(method: &str, settings: &Map<String, Value>) -> Result<Recovery, Error> {
    let mut parameters = BTreeMap::new();
    let mut standby = false;
    for (name, value) in settings.iter().filter(|(_, value)| !value.is_null()) {
        let lower = name.to_ascii_lowercase();
        if lower == "standby_mode" {
            standby = scalar::parse_bool(value).unwrap_or(false);
        } else if matches!(
            lower.as_str(),
            "trigger_file" | "promote_trigger_file" | "pause_at_recovery_target"
        ) {
            tracing::warn!("bootstrap.{method}.recovery_conf.{name} is not used");
        } else if is_recovery_guc(&lower) {
            parameters.insert(lower, guc::text(value));
        } else {
            return Err(Error::RecoveryParameter { method: method.to_owned(), name: name.clone() });
        }
    }
    Ok(if standby { Recovery::Standby(parameters) } else { Recovery::Target(parameters) })
}

/// What is in the file now comes back once the trust ends, unless the configuration has lines of its own.
fn keep_pg_hba(pg: &Postgres) -> Result<(), Error> {
    let (settings, path) = (pg.settings(), pg.config_files().hba);
    if path.is_file() {
        return Ok(backup::save(&[path], &settings.data_dir)?);
    }
    if settings.pg_hba_for(Role::Primary).is_empty() && !has_hba_file(&settings) {
        return Err(Error::NoPgHba { path });
    }
    Ok(())
}

fn has_hba_file(settings: &PostgresSettings) -> bool {
    settings.parameters.get("hba_file").is_some_and(scalar::is_truthy)
}

/// Ends what was different: the normal files, and a server that knows them. True where that takes a restart, which is the
/// caller's. Nothing is done where no custom bootstrap runs.
///
/// # Errors
/// The files cannot be written, or the server does not answer.
pub async fn finish(pg: &Postgres) -> Result<bool, FinishError> {
    if pg.custom_bootstrap().is_none() {
        return Ok(false);
    }
    pg.set_custom_bootstrap(None);
    let (settings, path) = (pg.settings(), pg.config_files().hba);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(files::failed("remove", &path)(error).into());
        }
        _ => {}
    }
    backup::restore(&[path], &[], &settings.data_dir)?;
    let raised = !pg.pending_restart().is_empty();
    pg.write_recovery(Role::Primary, Recovery::None, &[]).await?;
    pg.backup_config()?;
    pg.reload_config(true).await?;
    // From here on the passwords count that were set a moment ago.
    pg.close_sessions().await;
    Ok(raised || has_hba_file(&settings) || !pg.pending_restart().is_empty())
}

/// Why a custom bootstrap could not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// A file.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The configuration files.
    #[error(transparent)]
    Write(#[from] files::manage::WriteError),
    /// The server.
    #[error(transparent)]
    Reload(#[from] pending_restart::Error),
}

impl Postgres {
    /// Nobody knows the passwords in a restored backup: until ours are set, whoever connects from this machine's own address
    /// is trusted, and nobody else gets in. True where the file changed.
    pub(crate) fn trust_ourselves(&self) -> Result<bool, files::Error> {
        let settings = self.settings();
        let info = self.local_conninfo(Login::Replication);
        let host = info.get("host").unwrap_or_default();
        let lines = trust_lines(
            &addresses(host, settings.listen.port),
            settings.replication.username.as_deref(),
            settings.superuser.username.as_deref(),
        );
        let path = self.config_files().hba;
        write_if_changed(&path, &hba::text(&lines), mode_of(&path, &settings.data_dir))
    }
}

fn addresses(host: &str, port: u16) -> Vec<IpAddr> {
    if host.is_empty() || host.starts_with('/') {
        return Vec::new();
    }
    let mut found: Vec<IpAddr> =
        (host, port).to_socket_addrs().into_iter().flatten().map(|address| address.ip()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn trust_lines(addresses: &[IpAddr], replication: Option<&str>, superuser: Option<&str>) -> Vec<String> {
    let user = |name: Option<&str>| name.map_or_else(|| "all".to_owned(), |name| format!("\"{name}\""));
    let (replication, superuser) = (user(replication), user(superuser));
    let places = addresses.iter().map(|address| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        ("host", format!(" {address}/{bits}"))
    });
    std::iter::once(("local", String::new()))
        .chain(places)
        .flat_map(|(kind, place)| {
            [
                format!("{kind} replication {replication}{place} trust"),
                format!("{kind} all {superuser}{place} trust"),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{Options, testing::settings};

    fn postgres(folder: &std::path::Path, section: &Value) -> Postgres {
        let mut all = json!({"data_dir": folder.join("data").display().to_string()});
        for (key, value) in section.as_object().unwrap() {
            all[key] = value.clone();
        }
        let options =
            Options { name: "node-1".into(), scope: "demo".to_owned(), settings: Arc::new(settings(all)) };
        Postgres::new(options)
    }

    fn custom(command: String, no_params: bool) -> BootstrapSettings {
        BootstrapSettings {
            dcs: Map::new(),
            method: BootstrapMethod::Custom {
                name: "restore".to_owned(),
                command,
                no_params,
                keep_existing_recovery_conf: false,
                recovery_conf: json!({"recovery_target_action": "promote"}).as_object().cloned(),
                arguments: vec![
                    ("stanza".to_owned(), "main".to_owned()),
                    ("delta".to_owned(), "True".to_owned()),
                ],
            },
            initdb: Value::Null,
            pg_hba: Vec::new(),
            post_bootstrap: None,
        }
    }

    #[tokio::test]
    async fn b_17_2_command_gets_scope_datadir_and_its_own_keys() {
        for (no_params, expected) in [
            (false, "a b --scope=demo --datadir={data} --stanza=main --delta=True\n"),
            (true, "a b --stanza=main --delta=True\n"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let data = folder.path().join("data");
            let script = folder.path().join("script");
            let body = "echo \"$@\" > $(dirname $0)/arguments\ncd $(dirname $0)\n\
                        mkdir data && echo 15 > data/PG_VERSION && echo lines > data/pg_hba.conf\n\
                        echo idents > data/pg_ident.conf.backup; touch data/promote\n";
            std::fs::write(&script, body).unwrap();
            let pg = postgres(folder.path(), &json!({}));
            let command = format!("/bin/sh {} 'a' b", script.display());
            let recovery = run(&pg, &custom(command, no_params)).await.unwrap();
            let target = [("recovery_target_action".to_owned(), "promote".to_owned())];
            assert_eq!(recovery, Recovery::Target(target.into()));
            let arguments = std::fs::read_to_string(folder.path().join("arguments")).unwrap();
            assert_eq!(arguments, expected.replace("{data}", &data.display().to_string()));
            assert_eq!(pg.state(), MemberState::StartingAfterCustomBootstrap);
            assert!(!data.join("promote").exists());
            for (file, text) in [("pg_hba.conf.backup", "lines\n"), ("pg_ident.conf", "idents\n")] {
                assert_eq!(std::fs::read_to_string(data.join(file)).unwrap(), text, "{file}");
            }
            // Until the end the copies stay, and ourselves are trusted.
            assert!(pg.trust_ourselves().unwrap());
            pg.backup_config().unwrap();
            assert_eq!(std::fs::read_to_string(data.join("pg_hba.conf.backup")).unwrap(), "lines\n");
            let mut parameters = [("hba_file", "/x"), ("hot_standby", "on"), ("port", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
            pg.custom_bootstrap().unwrap().adjust(&mut parameters);
            let expected = [("hot_standby", "off"), ("port", "1")];
            assert_eq!(parameters, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        }
    }

    #[tokio::test]
    async fn b_17_2_what_went_wrong_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let pg = postgres(folder.path(), &json!({}));
        for (command, says) in [
            ("/bin/sh -c 'echo no backup >&2; exit 3'".to_owned(), "no backup"),
            ("/bin/true".to_owned(), "left no usable data directory"),
            (
                format!("/bin/sh -c 'mkdir {0}; echo 15 > {0}/PG_VERSION'", data.display()),
                "pg_hba.conf is missing",
            ),
            ("a 'b".to_owned(), "unbalanced quotes"),
        ] {
            let error = run(&pg, &custom(command.clone(), true)).await.unwrap_err();
            assert!(error.to_string().contains(says), "{command}: {error}");
            assert_eq!(pg.state(), MemberState::CustomBootstrapFailed);
            assert_eq!(pg.custom_bootstrap(), None);
        }
    }

    #[test]
    fn b_17_2_recovery_conf() {
        let read = |value: Value| recovery("restore", value.as_object().unwrap());
        let parameters = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let target = read(json!({
            "restore_command": "cp /a/%f %p", "recovery_target_time": "2030-01-01 12:00:00+00",
            "Recovery_Target_Inclusive": false, "recovery_target_timeline": 2, "trigger_file": "/x", "recovery_target": null,
        }));
        let expected = parameters(&[
            ("restore_command", "cp /a/%f %p"),
            ("recovery_target_time", "2030-01-01 12:00:00+00"),
            ("recovery_target_inclusive", "off"),
            ("recovery_target_timeline", "2"),
        ]);
        assert_eq!(target.unwrap(), Recovery::Target(expected));
        let standby = read(json!({"standby_mode": "on", "restore_command": "x"}));
        assert_eq!(standby.unwrap(), Recovery::Standby(parameters(&[("restore_command", "x")])));
        let wrong = read(json!({"recovery_target_tiem": "x"})).unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "bootstrap.restore.recovery_conf.recovery_target_tiem is no recovery parameter"
        );
    }

    #[test]
    fn b_17_2_only_this_machine_is_trusted() {
        let lines = trust_lines(&addresses("127.0.0.1", 5432), Some("rep"), Some("post gres"));
        let expected = [
            "local replication \"rep\" trust",
            "local all \"post gres\" trust",
            "host replication \"rep\" 127.0.0.1/32 trust",
            "host all \"post gres\" 127.0.0.1/32 trust",
        ];
        assert_eq!(lines, expected);
        assert_eq!(trust_lines(&["::1".parse().unwrap()], None, None)[3], "host all all ::1/128 trust");
        assert_eq!(addresses("/run/postgresql", 5432), Vec::<IpAddr>::new());
    }

    #[tokio::test]
    async fn b_17_2_existing_recovery_settings_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for (file, text) in [
            ("PG_VERSION", "15\n"),
            ("pg_hba.conf", "lines\n"),
            ("recovery.signal", ""),
            ("postgresql.auto.conf", "restore_command = 'tool get %f'\n"),
        ] {
            std::fs::write(data.join(file), text).unwrap();
        }
        let pg = postgres(folder.path(), &json!({"bin_dir": "/usr/lib/postgresql/15/bin"}));
        pg.set_custom_bootstrap(Some(CustomBootstrap { hot_standby_off: true }));
        pg.write_recovery(Role::Primary, Recovery::Existing, &[]).await.unwrap();
        assert!(data.join("recovery.signal").exists());
        let read = |file: &str| std::fs::read_to_string(data.join(file)).unwrap();
        assert!(read("postgresql.auto.conf").contains("tool get"));
        assert!(read("postgresql.conf").contains("hot_standby = 'off'"));
        assert!(read("pg_hba.conf").contains("trust"));
    }
}
