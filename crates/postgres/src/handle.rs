//! The handle: what is known about the local PostgreSQL between two calls.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use ptarmigan_config::{Credentials, PostgresSettings};
use ptarmigan_guardian::Guardian;
use ptarmigan_types::{MemberName, MemberState, Role};
use tokio::sync::{Mutex, watch};

use crate::{
    binaries::{self, Tool},
    bootstrap::custom::CustomBootstrap,
    command::Command,
    connection::{self, Purpose, Session},
    controldata::{self, ControlData},
    dsn::ConnInfo,
    pending_restart::PendingRestart,
    pgpass,
    postmaster::{Known, Running},
    recovery::{Recovery, difference::Current},
    version::{self, ServerVersion},
};

/// What a [`Postgres`] is made from.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's name.
    pub name: MemberName,
    /// The cluster's name.
    pub scope: String,
    /// The `postgresql` section.
    pub settings: Arc<PostgresSettings>,
}

/// Where the guardian is, where it is not in its usual place.
#[derive(Clone, Debug, Default)]
pub struct GuardianPlace {
    /// In place of `$PTARMIGAN_GUARDIAN`, our own program's folder and PATH.
    pub program: Option<PathBuf>,
    /// In place of `$PTARMIGAN_RUN_DIR` and the guardian's defaults.
    pub run_dir: Option<PathBuf>,
}

/// The local PostgreSQL. Clones are the same one.
#[derive(Clone)]
pub struct Postgres(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    name: MemberName,
    scope: String,
    settings: watch::Sender<Arc<PostgresSettings>>,
    state: watch::Sender<MemberState>,
    role: watch::Sender<Role>,
    /// The connections that stay open between queries.
    heartbeat: Mutex<Option<Arc<Session>>>,
    restapi: Mutex<Option<Arc<Session>>>,
    /// The connection to the guardian, once it was needed.
    pub(crate) guardian: Mutex<Option<Arc<Guardian>>>,
    pub(crate) guardian_place: GuardianPlace,
    /// The postmaster that was last seen alive: `postmaster.pid` may vanish before it does.
    postmaster: watch::Sender<Option<Known>>,
    /// The last server parameters that were checked by the server's program, and what it left of them.
    pub(crate) checked_parameters: Mutex<Option<(Parameters, Parameters)>>,
    /// What the HA loop wants in place of the configured value.
    pub(crate) synchronous_standby_names: watch::Sender<Option<String>>,
    /// Logical slots need `hot_standby_feedback`, whatever is configured.
    pub(crate) hot_standby_feedback: watch::Sender<bool>,
    /// The recovery that was written last.
    recovery: watch::Sender<Option<Recovery>>,
    /// The recovery settings that the server had last.
    recovery_settings: watch::Sender<Option<Current>>,
    pub(crate) pending_restart: watch::Sender<PendingRestart>,
    /// What is different as long as a custom bootstrap runs.
    custom_bootstrap: watch::Sender<Option<CustomBootstrap>>,
}

/// Server parameters by name.
type Parameters = BTreeMap<String, String>;

/// As whom to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// `authentication.superuser`.
    Superuser,
    /// `authentication.replication`.
    Replication,
    /// `authentication.rewind`, the superuser where that is not given.
    Rewind,
}

impl Postgres {
    /// A handle for the data directory of the settings. Touches nothing yet: state `stopped`, role `uninitialized`.
    pub fn new(options: Options) -> Self {
        Self::with_guardian(options, GuardianPlace::default())
    }

    /// As [`Postgres::new`], with a guardian of this place.
    pub fn with_guardian(options: Options, guardian_place: GuardianPlace) -> Self {
        Self(Arc::new(Inner {
            name: options.name,
            scope: options.scope,
            settings: watch::Sender::new(options.settings),
            state: watch::Sender::new(MemberState::Stopped),
            role: watch::Sender::new(Role::Uninitialized),
            heartbeat: Mutex::new(None),
            restapi: Mutex::new(None),
            guardian: Mutex::new(None),
            guardian_place,
            postmaster: watch::Sender::new(None),
            checked_parameters: Mutex::new(None),
            synchronous_standby_names: watch::Sender::new(None),
            hot_standby_feedback: watch::Sender::new(false),
            recovery: watch::Sender::new(None),
            recovery_settings: watch::Sender::new(None),
            pending_restart: watch::Sender::new(PendingRestart::new()),
            custom_bootstrap: watch::Sender::new(None),
        }))
    }

    /// This node's name.
    pub fn name(&self) -> &MemberName {
        &self.0.name
    }

    /// The cluster's name.
    pub fn scope(&self) -> &str {
        &self.0.scope
    }

    /// The `postgresql` section as it is now.
    pub fn settings(&self) -> Arc<PostgresSettings> {
        Arc::clone(&self.0.settings.borrow())
    }

    /// Takes another `postgresql` section; writes nothing.
    pub fn set_settings(&self, settings: Arc<PostgresSettings>) {
        self.0.settings.send_replace(settings);
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.settings().data_dir.clone()
    }

    /// The published state.
    pub fn state(&self) -> MemberState {
        *self.0.state.borrow()
    }

    /// Changes the published state.
    pub fn set_state(&self, state: MemberState) {
        self.0.state.send_if_modified(|old| std::mem::replace(old, state) != state);
    }

    /// Hears every change of the state.
    pub fn watch_state(&self) -> watch::Receiver<MemberState> {
        self.0.state.subscribe()
    }

    /// The published role.
    pub fn role(&self) -> Role {
        *self.0.role.borrow()
    }

    /// Changes the published role.
    pub fn set_role(&self, role: Role) {
        self.0.role.send_if_modified(|old| std::mem::replace(old, role) != role);
    }

    /// Hears every change of the role.
    pub fn watch_role(&self) -> watch::Receiver<Role> {
        self.0.role.subscribe()
    }

    /// The postmaster that was last seen alive, if it still is.
    pub(crate) fn known_postmaster(&self) -> Option<Running> {
        self.0.postmaster.borrow().as_ref().and_then(Known::living)
    }

    /// Remembers the living postmaster.
    pub(crate) fn know_postmaster(&self, running: Option<Running>) {
        self.0.postmaster.send_replace(running.map(Known::of));
    }

    pub(crate) fn remembered_recovery(&self) -> Option<Recovery> {
        self.0.recovery.borrow().clone()
    }

    pub(crate) fn remember_recovery(&self, recovery: Recovery) {
        self.0.recovery.send_replace(Some(recovery));
    }

    /// What is different as long as a custom bootstrap runs; `None` where none does.
    pub(crate) fn custom_bootstrap(&self) -> Option<CustomBootstrap> {
        *self.0.custom_bootstrap.borrow()
    }

    pub(crate) fn set_custom_bootstrap(&self, custom: Option<CustomBootstrap>) {
        self.0.custom_bootstrap.send_replace(custom);
    }

    pub(crate) fn remembered_recovery_settings(&self) -> Option<Current> {
        self.0.recovery_settings.borrow().clone()
    }

    pub(crate) fn remember_recovery_settings(&self, current: Current) {
        self.0.recovery_settings.send_replace(Some(current));
    }

    /// The superuser connection that is kept open for this purpose; connects where there is none.
    pub async fn session(&self, purpose: Purpose) -> Result<Arc<Session>, connection::Error> {
        let mut kept = self.kept(purpose).lock().await;
        if let Some(session) = kept.as_ref().filter(|session| !session.is_closed()) {
            return Ok(Arc::clone(session));
        }
        *kept = None;
        let session = Arc::new(self.connect(purpose).await?);
        *kept = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Closes the connection of this purpose.
    pub async fn forget_session(&self, purpose: Purpose) {
        *self.kept(purpose).lock().await = None;
    }

    /// Closes every connection that is kept open.
    pub async fn close_sessions(&self) {
        self.forget_session(Purpose::Heartbeat).await;
        self.forget_session(Purpose::RestApi).await;
    }

    fn kept(&self, purpose: Purpose) -> &Mutex<Option<Arc<Session>>> {
        match purpose {
            Purpose::RestApi => &self.0.restapi,
            Purpose::Heartbeat | Purpose::Unlimited => &self.0.heartbeat,
        }
    }

    /// Where one of PostgreSQL's programs is.
    pub fn bin(&self, tool: Tool) -> Result<PathBuf, binaries::Error> {
        let settings = self.settings();
        let name = settings.bin_name.get(tool.name()).map(String::as_str);
        binaries::find(tool, &settings.bin_dir, name, &std::env::var("PATH").unwrap_or_default())
    }

    /// One of PostgreSQL's programs, ready for arguments; its messages are in English.
    pub fn command(&self, tool: Tool) -> Result<Command, binaries::Error> {
        Ok(Command::new(self.bin(tool)?).env("LC_ALL", "C").env("LANG", "C"))
    }

    /// The major version of the data directory.
    pub fn version(&self) -> Result<ServerVersion, version::Error> {
        version::of_data_dir(&self.data_dir())
    }

    /// The control file of the data directory.
    pub async fn control_data(&self) -> Result<ControlData, ControlDataError> {
        Ok(ControlData::read(&self.bin(Tool::PgControldata)?, &self.data_dir()).await?)
    }

    /// The data directory's system identifier, as digits.
    pub async fn system_identifier(&self) -> Result<String, ControlDataError> {
        Ok(self.control_data().await?.system_identifier)
    }

    /// The password file that we own.
    pub fn pgpass_path(&self) -> PathBuf {
        pgpass::path_or_default(self.settings().pgpass.as_deref())
    }

    /// How to connect to the local server: the unix socket where the settings ask for it and there is one, else TCP.
    /// A running server's `postmaster.pid` says where it listens, because an address of the settings may be in force
    /// only after the next restart (contract PR-6).
    pub fn local_conninfo(&self, login: Login) -> ConnInfo {
        let settings = self.settings();
        let unix = if login == Login::Replication {
            settings.use_unix_socket_repl
        } else {
            settings.use_unix_socket
        };
        let (host, port) = Listening::of(&settings).address(unix);
        let mut info =
            ConnInfo::new().with("host", host).with("port", port).with("dbname", &*settings.database);
        add_credentials(&mut info, self.credentials(&settings, login));
        info
    }

    /// Adds a login's user, password and TLS parameters to a connection.
    pub fn add_login(&self, info: &mut ConnInfo, login: Login) {
        add_credentials(info, self.credentials(&self.settings(), login));
    }

    fn credentials<'a>(&self, settings: &'a PostgresSettings, login: Login) -> &'a Credentials {
        match login {
            Login::Superuser => &settings.superuser,
            Login::Replication => &settings.replication,
            Login::Rewind => &settings.rewind,
        }
    }
}

/// Why the control file is not known.
#[derive(Debug, thiserror::Error)]
pub enum ControlDataError {
    /// `pg_controldata` is missing.
    #[error(transparent)]
    Missing(#[from] binaries::Error),
    /// It failed.
    #[error(transparent)]
    Read(#[from] controldata::Error),
}

fn add_credentials(info: &mut ConnInfo, credentials: &Credentials) {
    for (key, value) in &credentials.parameters {
        info.set(key, value);
    }
    for (key, value) in [("password", &credentials.password), ("sslpassword", &credentials.sslpassword)] {
        if let Some(secret) = value {
            info.set(key, secret.expose());
        }
    }
    if let Some(user) = &credentials.username {
        info.set("user", user);
    }
}

/// Where the local server listens.
#[derive(Debug, PartialEq, Eq)]
struct Listening {
    /// The first TCP address; empty for none.
    tcp_host: String,
    /// The first folder of a unix socket; empty for none.
    socket_dir: String,
    port: String,
}

impl Listening {
    fn of(settings: &PostgresSettings) -> Self {
        let path = settings.data_dir.join("postmaster.pid");
        let running = std::fs::read_to_string(&path).ok().and_then(|text| Self::of_pid_file(&text));
        running.unwrap_or_else(|| Self {
            tcp_host: settings.listen.hosts().next().unwrap_or_default().to_owned(),
            socket_dir: first_socket_dir(settings),
            port: settings.listen.port.to_string(),
        })
    }

    /// Lines 4 to 6 of `postmaster.pid`: port, socket folder, first listen address.
    fn of_pid_file(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let port = lines.get(3).filter(|port| port.parse::<u16>().is_ok())?;
        let (socket_dir, tcp_host) = (lines.get(4)?, lines.get(5)?);
        Some(Self {
            tcp_host: (*tcp_host).to_owned(),
            socket_dir: (*socket_dir).to_owned(),
            port: (*port).to_owned(),
        })
    }

    fn address(self, unix: bool) -> (String, String) {
        let tcp = match self.tcp_host.as_str() {
            "*" | "0.0.0.0" | "::" => "localhost".to_owned(),
            _ => self.tcp_host,
        };
        let socket = Some(self.socket_dir).filter(|folder| Path::new(folder).is_absolute());
        let host = match socket {
            Some(folder) if unix || tcp.is_empty() => folder,
            _ if tcp.is_empty() => "localhost".to_owned(),
            _ => tcp,
        };
        (host, self.port)
    }
}

fn first_socket_dir(settings: &PostgresSettings) -> String {
    let folders = settings.parameters.get("unix_socket_directories").and_then(serde_json::Value::as_str);
    let first = folders.unwrap_or_default().split(',').map(str::trim).find(|folder| folder.starts_with('/'));
    first.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID_FILE: &str = "4711\n/data\n1700000000\n5433\n/run/postgresql\n*\n  1234  5678\nready   \n";

    #[test]
    fn pr_6_running_server_says_where_it_listens() {
        let at = |text: &str, unix| Listening::of_pid_file(text).unwrap().address(unix);
        assert_eq!(at(PID_FILE, false), ("localhost".into(), "5433".into()));
        assert_eq!(at(PID_FILE, true), ("/run/postgresql".into(), "5433".into()));
        let one = PID_FILE.replace('*', "10.1.1.1");
        assert_eq!(at(&one, false).0, "10.1.1.1");
        let none = PID_FILE.replace('*', "");
        assert_eq!(at(&none, false).0, "/run/postgresql");
        let no_socket = PID_FILE.replace("/run/postgresql", "");
        assert_eq!(at(&no_socket, true).0, "localhost");
        // Right after its start the server has written only the first lines.
        assert_eq!(Listening::of_pid_file("4711\n/data\n1700000000\n"), None);
    }
}
