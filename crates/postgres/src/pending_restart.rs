//! A changed configuration: writing it, reloading, and what only a restart will bring into force (contract C.6).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ptarmigan_config::{PostgresSettings, controlled};
use ptarmigan_types::{MemberState, Role, scalar};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Postgres, Purpose, Session, Tool, connection,
    files::manage::{WriteError, Written},
    postmaster,
    recovery::is_recovery_guc,
};

/// How often the server is asked whether it has reloaded.
const POLL: Duration = Duration::from_millis(20);

/// How long a reload may take to be seen; contract PR-3 waits that long always.
const RELOAD_LIMIT: Duration = Duration::from_secs(1);

/// How long the server's program may take to tell a value.
const PROGRAM_LIMIT: Duration = Duration::from_secs(5);

/// `wal_buffers = -1`: one part in 32 of `shared_buffers`, at most a segment, in blocks of WAL.
const COMPUTED_WAL_BUFFERS: &str = "SELECT greatest(8, least( \
    (SELECT setting::int8 FROM pg_settings WHERE name = 'shared_buffers') / 32, \
    (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size') / \
    (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_block_size')))";

/// One parameter that a restart will change, as published under `pending_restart_reason` (contract PR-4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// In force, in the largest exact unit.
    pub old_value: String,
    /// After the restart; `?` where unknown.
    pub new_value: String,
}

/// Why a restart is pending, by parameter.
pub type PendingRestart = BTreeMap<String, Change>;

/// Why the configuration was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The signal.
    #[error(transparent)]
    Reload(#[from] postmaster::Error),
    /// The server's answer; the files are written and the reload is on its way.
    #[error(transparent)]
    Query(#[from] connection::Error),
}

/// What a configuration change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The files that changed.
    pub written: Written,
    /// Whether the server was told.
    pub reloaded: bool,
}

impl Postgres {
    /// Why a restart is pending; empty where none is.
    pub fn pending_restart(&self) -> PendingRestart {
        self.0.pending_restart.borrow().clone()
    }

    /// Takes another `postgresql` section: writes what changed, reloads a running server, and finds out what needs a
    /// restart. With `force` the server reloads also where nothing changed (contract CF-10).
    pub async fn apply_config(&self, settings: Arc<PostgresSettings>, force: bool) -> Result<Applied, Error> {
        self.set_settings(settings);
        self.reload_config(force).await
    }

    /// Writes the files for the role of now and reloads a running server where they changed (contract CF-25, PR-3).
    pub async fn reload_config(&self, force: bool) -> Result<Applied, Error> {
        let custom_bootstrap = self.custom_bootstrap().is_some();
        if self.role() == Role::Uninitialized || custom_bootstrap || self.version().is_err() {
            return Ok(Applied::default());
        }
        let written = self.write_config(self.role()).await?;
        if self.state() != MemberState::Running {
            self.0.pending_restart.send_replace(PendingRestart::new());
            return Ok(Applied { written, reloaded: false });
        }
        let reloaded = written.any() || force;
        if reloaded {
            self.reload_and_wait().await?;
        }
        self.refresh_pending_restart().await?;
        Ok(Applied { written, reloaded })
    }

    /// Reloads and waits until the server has read its files; at most 1 s, because broken files are never taken over.
    async fn reload_and_wait(&self) -> Result<(), Error> {
        let session = self.session(Purpose::Heartbeat).await?;
        let load_time = "SELECT pg_conf_load_time()";
        let before = session.query_text(load_time).await?;
        self.reload().await?;
        let seen = async {
            loop {
                match session.query_text(load_time).await {
                    Ok(now) if now == before => tokio::time::sleep(POLL).await,
                    outcome => return outcome.map(drop),
                }
            }
        };
        if let Ok(outcome) = tokio::time::timeout(RELOAD_LIMIT, seen).await {
            outcome?;
        }
        Ok(())
    }

    /// Replaces the reasons by what the server says (contract PR-3): edits by others count, too. A parameter on the command
    /// line is also compared with the one configured: the server does not before its first reload, and a standby that was
    /// started with raised ones (contract PR-5) must not seem up to date until then.
    pub async fn refresh_pending_restart(&self) -> Result<PendingRestart, Error> {
        let configured = self.server_parameters(self.role()).await.map_err(WriteError::from)?;
        let ours: Vec<&String> =
            configured.keys().filter(|name| controlled::is_on_command_line(name)).collect();
        let names: Vec<String> = ours.iter().map(|name| format!("'{name}'")).collect();
        let sql = format!(
            "SELECT name, setting, current_setting(name), vartype, unit, pending_restart FROM pg_settings \
             WHERE pending_restart OR name IN ({})",
            names.join(", ")
        );
        let session = self.session(Purpose::Heartbeat).await?;
        let rows = session.query_text(&sql).await?;
        let mut reasons = PendingRestart::new();
        for row in &rows {
            let [Some(name), Some(setting), Some(old_value), Some(vartype), unit, Some(flag)] = &row[..]
            else {
                continue;
            };
            let unit = unit.as_deref();
            let wanted = configured.get(name).filter(|_| ours.contains(&name));
            let differs =
                |wanted: &String| !scalar::same_setting(vartype, unit, &text(setting), &text(wanted));
            if is_recovery_guc(name) || name == "hot_standby" || (flag != "t" && !wanted.is_some_and(differs))
            {
                continue;
            }
            let coming = self.coming_value(&session, name).await;
            // A flag of the server may outlive its cause: a parameter that was set back by being taken away.
            let is_same =
                |coming: &String| scalar::same_setting(vartype, unit, &text(setting), &text(coming));
            if coming.as_ref().is_some_and(is_same) {
                continue;
            }
            let new_value = match coming {
                Some(value) => scalar::to_largest_unit(&value, vartype, unit),
                None => "?".to_owned(),
            };
            reasons.insert(name.clone(), Change { old_value: old_value.clone(), new_value });
        }
        self.0.pending_restart.send_replace(reasons.clone());
        Ok(reasons)
    }

    /// The value after a restart; where that is computed at the start, as it will be (contract PR-2).
    async fn coming_value(&self, session: &Session, guc: &str) -> Option<String> {
        let value = self.value_after_restart(guc).await?;
        if guc != "wal_buffers" || value != "-1" {
            return Some(value);
        }
        let rows = session.query_text(COMPUTED_WAL_BUFFERS).await.ok()?;
        rows.first()?.first()?.clone()
    }

    /// What the files say, from `postgres -C`.
    pub async fn value_after_restart(&self, guc: &str) -> Option<String> {
        let mut config = std::ffi::OsString::from("--config-file=");
        config.push(self.config_files().conf);
        let command =
            self.command(Tool::Postgres).ok()?.arg("-C").arg(guc).arg("-D").arg(self.data_dir()).arg(config);
        command.deadline(PROGRAM_LIMIT).succeed().await.ok().map(|output| output.stdout_text())
    }
}

fn text(value: &str) -> Value {
    Value::from(value)
}
