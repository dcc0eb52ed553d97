//! Starting the server (contract B.26).

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use ptarmigan_config::controlled;
use ptarmigan_guardian::{
    Guardian, How, Postmaster as Guarded, RawPid, StartRequest as GuardianStart,
    protocol::{Deadline, OsText},
};
use ptarmigan_types::{MemberState, Role};

use super::{
    Running, environment,
    readiness::{POLL, Readiness},
};
use crate::{
    ControlData, Postgres, Tool, binaries, data_directory,
    files::{self, manage::WriteError, signal},
    handle::ControlDataError,
    history, pending_restart,
    recovery::Recovery,
    version::{self, ServerVersion},
};

/// What the guardian does about a server whose daemon falls silent, from its first moment on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guard {
    /// Until when it may live without another word.
    pub deadline: Deadline,
    /// It ends where the guardian dies.
    pub dies_with_guardian: bool,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The role whose settings count, and whether the standby floor of the hot-standby parameters applies.
    pub role: Role,
    /// How the server comes up.
    pub recovery: Recovery,
    /// The lines of the password file for [`Recovery::Standby`]. Secret.
    pub passfile_lines: Vec<String>,
    /// How long it may take until it accepts connections; `None`: until it answers at all within
    /// `postgresql.pg_ctl_timeout`, after which a server that still recovers counts as still starting.
    pub timeout: Option<Duration>,
}

/// A server that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// It accepts connections.
    Accepting(Guarded),
    /// It recovers and accepts none yet.
    StillStarting(Guarded),
}

/// Why the server was not started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One is running.
    #[error("PostgreSQL is already running as process {0}")]
    Running(RawPid),
    /// Processes of an earlier one still work in the data directory.
    #[error("processes of an earlier PostgreSQL still work in the data directory: {0:?}")]
    Leftovers(Vec<RawPid>),
    /// Nothing may run on the data directory.
    #[error("{reason}")]
    Unusable {
        /// Why.
        reason: String,
    },
    /// The data directory is none, or cannot be read.
    #[error("{path} is not a usable data directory: {source}", path = path.display())]
    DataDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: version::Error,
    },
    /// The program and the data directory are of different major versions.
    #[error("data directory is of PostgreSQL {data}, but {program} is {binary}: check postgresql.bin_dir", program = program.display())]
    VersionMismatch {
        /// The data directory's major version.
        data: u32,
        /// The program.
        program: PathBuf,
        /// The program's version.
        binary: ServerVersion,
    },
    /// A program is missing.
    #[error(transparent)]
    Binary(#[from] binaries::Error),
    /// The program's version is unknown.
    #[error(transparent)]
    Version(#[from] version::Error),
    /// The control file is needed for a standby and cannot be read.
    #[error(transparent)]
    ControlData(#[from] ControlDataError),
    /// The files could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A folder that the server needs could not be made.
    #[error(transparent)]
    Folder(#[from] files::Error),
    /// The guardian could not be had, or could not run the program.
    #[error("guardian: {0}")]
    Guardian(#[from] ptarmigan_guardian::client::Error),
    /// Another program has the port.
    #[error("PostgreSQL ended at its start: {host}:{port} is in use by another program")]
    PortTaken {
        /// The address.
        host: String,
        /// The port.
        port: u16,
    },
    /// It ended before it accepted connections.
    #[error("PostgreSQL ended at its start ({how:?}); its own messages are in its log, or above")]
    Exited {
        /// How.
        how: How,
    },
    /// It did not answer in time; it may still be running.
    #[error("PostgreSQL did not answer within {0:?}")]
    NoAnswer(Duration),
    /// It answers, but did not accept connections in the time that was given; it is still running.
    #[error("PostgreSQL did not accept connections within {0:?}")]
    NotAccepting(Duration),
}

/// The hot-standby parameters that a standby may not have smaller than its primary had, from the control file.
fn standby_floor(control: &ControlData) -> [(&'static str, u32); 5] {
    [
        ("max_connections", control.max_connections),
        ("max_prepared_transactions", control.max_prepared_transactions),
        ("max_locks_per_transaction", control.max_locks_per_transaction),
        ("max_worker_processes", control.max_worker_processes),
        ("max_wal_senders", control.max_wal_senders),
    ]
}

/// Raises parameters to the floor; returns those that were raised, as configured (contract B.26, PR-5).
fn raise(
    parameters: &mut BTreeMap<String, String>,
    floor: &[(&'static str, u32)],
) -> Vec<(String, String, u32)> {
    let mut raised = Vec::new();
    for &(name, least) in floor {
        let Some(value) = parameters.get_mut(name) else { continue };
        if value.parse::<u32>().is_ok_and(|configured| configured < least) {
            raised.push((name.to_owned(), std::mem::replace(value, least.to_string()), least));
        }
    }
    raised
}

/// `postgres -D <data_dir> --config-file=<conf> --<guc>=<value>...`
fn arguments(
    postgres: PathBuf,
    data_dir: PathBuf,
    conf: &std::path::Path,
    parameters: &BTreeMap<String, String>,
) -> Vec<OsString> {
    let mut config = OsString::from("--config-file=");
    config.push(conf);
    let mut argv = vec![postgres.into(), "-D".into(), data_dir.into(), config];
    let given = parameters.iter().filter(|(name, _)| controlled::is_on_command_line(name));
    argv.extend(given.map(|(name, value)| format!("--{name}={value}").into()));
    argv
}

impl Postgres {
    /// Writes the files, starts the server through the guardian and waits until it accepts connections, or recovers for
    /// longer than the limit. The state follows: `starting` (or what it was, while restarting or after a custom
    /// bootstrap), then `running`, or the failure that belongs to it.
    ///
    /// Cancel-safe: a server that was started goes on.
    pub async fn start(&self, request: StartRequest) -> Result<Started, Error> {
        self.start_guarded(request, Guard::default()).await
    }

    /// [`Self::start`], under the eyes of the guardian.
    pub async fn start_guarded(&self, request: StartRequest, guard: Guard) -> Result<Started, Error> {
        if let Some(running) = self.running() {
            return Err(Error::Running(running.pid));
        }
        let restarting = self.state() == MemberState::Restarting;
        if !matches!(self.state(), MemberState::Restarting | MemberState::StartingAfterCustomBootstrap) {
            self.set_state(MemberState::Starting);
        }
        let outcome = self.start_and_wait(request, guard).await;
        if let Err(error) = self.backup_config() {
            tracing::warn!("{error}");
        }
        match &outcome {
            Ok(Started::Accepting(_)) => self.set_state(MemberState::Running),
            Ok(Started::StillStarting(_)) if self.custom_bootstrap().is_some() => {}
            Ok(Started::StillStarting(_)) => self.set_state(MemberState::Starting),
            Err(_) if restarting => self.set_state(MemberState::RestartFailed),
            Err(_) => self.set_state(MemberState::StartFailed),
        }
        outcome
    }

    async fn start_and_wait(&self, request: StartRequest, guard: Guard) -> Result<Started, Error> {
        let timeout = request.timeout;
        let began = ptarmigan_clock::now();
        let (guardian, postmaster) = self.launch(request, guard).await?;
        self.know_postmaster(Some(Running {
            pid: postmaster.pid,
            start_time_ticks: postmaster.start_time_ticks,
        }));
        let settings = self.settings();
        let limit = timeout.unwrap_or_else(|| {
            Duration::try_from_secs_f64(settings.pg_ctl_timeout_s).unwrap_or(Duration::from_secs(60))
        });
        let ended = tokio::select! {
            exit = guardian.exited(postmaster.generation) => exit?.gone.how,
            outcome = self.await_accepting(&postmaster, began, limit, timeout.is_some()) => return outcome,
        };
        self.know_postmaster(None);
        match self.taken_address().await {
            Some((host, port)) => Err(Error::PortTaken { host, port }),
            None => Err(Error::Exited { how: ended }),
        }
    }

    async fn launch(&self, request: StartRequest, guard: Guard) -> Result<(Arc<Guardian>, Guarded), Error> {
        self.check_startable().await?;
        self.close_sessions().await;
        self.0.pending_restart.send_replace(BTreeMap::new());
        let role = request.role;
        self.write_recovery(role, request.recovery, &request.passfile_lines).await?;
        let mut parameters = self.server_parameters(role).await.map_err(WriteError::from)?;
        self.make_folders(&parameters)?;
        if signal::get(&self.data_dir()) != signal::Signal::None {
            let raised = raise(&mut parameters, &standby_floor(&self.control_data().await?));
            let changes = raised.into_iter().map(|(name, configured, least)| {
                (name, pending_restart::Change { old_value: least.to_string(), new_value: configured })
            });
            self.0.pending_restart.send_replace(changes.collect());
            // With them a standby would not start.
            if let Err(error) = history::forget_skipped(&self.data_dir()) {
                tracing::warn!("numbers of timelines stay skipped: {error}");
            }
        }
        let settings = self.settings();
        let stale_pid = environment::stale_pid(&settings.data_dir);
        let argv = arguments(
            self.bin(Tool::Postgres)?,
            settings.data_dir.clone(),
            &self.config_files().conf,
            &parameters,
        );
        let env = environment::of_server(std::env::vars_os(), stale_pid, settings.krbsrvname.as_deref());
        let order = GuardianStart {
            argv: argv.into_iter().map(OsText).collect(),
            env: env.into_iter().map(|(key, value)| (OsText(key), OsText(value))).collect(),
            cwd: OsText(settings.data_dir.clone().into()),
            umask: files::umask_of(&settings.data_dir),
            deadline: guard.deadline,
            dies_with_guardian: guard.dies_with_guardian,
            ..GuardianStart::default()
        };
        let guardian = self.guardian().await?;
        let postmaster = guardian.start(order).await?;
        Ok((guardian, postmaster))
    }

    async fn check_startable(&self) -> Result<(), Error> {
        let leftovers = super::leftovers(&self.data_dir());
        if !leftovers.is_empty() {
            return Err(Error::Leftovers(leftovers));
        }
        if let Some(pid) = data_directory::holder(&self.data_dir()) {
            return Err(Error::Leftovers(vec![RawPid::try_from(pid).unwrap_or_default()]));
        }
        let data = self.version().map_err(|source| Error::DataDirectory { path: self.data_dir(), source })?;
        let program = self.bin(Tool::Postgres)?;
        let binary = version::of_program(&program).await?;
        if binary.major() == data.major() {
            return Ok(());
        }
        Err(Error::VersionMismatch { data: data.major(), program, binary })
    }

    /// The folders of unix sockets, statistics and the password file (contract B.26, "before start").
    fn make_folders(&self, parameters: &BTreeMap<String, String>) -> Result<(), Error> {
        let text = |name: &str| parameters.get(name).cloned().unwrap_or_default();
        let sockets = text("unix_socket_directories");
        let mut folders: Vec<PathBuf> = sockets
            .split(',')
            .map(str::trim)
            .filter(|folder| folder.starts_with('/'))
            .map(PathBuf::from)
            .collect();
        folders.extend(
            Some(text("stats_temp_directory"))
                .filter(|folder| !folder.is_empty())
                .map(|folder| self.data_dir().join(folder)),
        );
        folders.extend(self.pgpass_path().parent().map(std::path::Path::to_owned));
        for folder in folders {
            std::fs::create_dir_all(&folder).map_err(files::failed("create", &folder))?;
        }
        Ok(())
    }

    async fn await_accepting(
        &self,
        postmaster: &Guarded,
        began: ptarmigan_types::Monotonic,
        limit: Duration,
        must_accept: bool,
    ) -> Result<Started, Error> {
        let mut answered = false;
        loop {
            match self.quiet_readiness(postmaster.pid).await {
                Readiness::Accepting => return Ok(Started::Accepting(postmaster.clone())),
                Readiness::NoResponse => {}
                Readiness::Rejecting | Readiness::Unknown => answered = true,
            }
            if ptarmigan_clock::now().since(began) >= limit {
                return match answered {
                    false => Err(Error::NoAnswer(limit)),
                    true if must_accept => Err(Error::NotAccepting(limit)),
                    true => Ok(Started::StillStarting(postmaster.clone())),
                };
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The address of `postgresql.listen` that another program has, after a failed start.
    async fn taken_address(&self) -> Option<(String, u16)> {
        let settings = self.settings();
        let port = settings.listen.port;
        for host in settings.listen.hosts() {
            let address = if matches!(host, "" | "*") { "0.0.0.0" } else { host };
            let bound = tokio::net::TcpListener::bind((address, port)).await;
            if bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse) {
                return Some((host.to_owned(), port));
            }
        }
        None
    }

    /// Looks again at a server that was still starting (contract B.5, "check startup").
    pub async fn check_startup(&self) -> Startup {
        let outcome = match self.readiness().await {
            Readiness::Accepting | Readiness::Unknown => Startup::Running,
            Readiness::Rejecting => Startup::StillStarting,
            // A postmaster that was started a moment ago has not written its pid yet.
            Readiness::NoResponse if self.is_alive() => Startup::StillStarting,
            Readiness::NoResponse => Startup::Failed,
        };
        match outcome {
            Startup::Running => {
                self.set_state(MemberState::Running);
                if let Err(error) = self.backup_config() {
                    tracing::warn!("{error}");
                }
            }
            Startup::StillStarting => {}
            Startup::Failed => self.set_state(MemberState::StartFailed),
        }
        outcome
    }

    /// Takes note of what runs when the daemon starts (contract B.26, "state at daemon start"): state and role follow
    /// from the process, the data directory, and the server itself where it answers.
    pub async fn attach(&self) -> Attached {
        let data_dir = self.data_dir();
        let role = match (self.version(), signal::get(&data_dir)) {
            (Err(_), _) => Role::Uninitialized,
            (Ok(_), signal::Signal::None) => Role::Primary,
            (Ok(_), _) => Role::Replica,
        };
        self.set_role(role);
        let Some(running) = self.running() else {
            if role == Role::Primary {
                self.set_role(Role::Demoted);
            }
            self.set_state(MemberState::Stopped);
            return Attached::Down;
        };
        self.set_state(MemberState::Starting);
        if self.check_startup().await == Startup::Running
            && let Ok(status) = self.status().await
        {
            self.set_role(if status.in_recovery { Role::Replica } else { Role::Primary });
        }
        Attached::Running(running)
    }
}

/// How far a starting server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup {
    /// It accepts connections.
    Running,
    /// Not yet.
    StillStarting,
    /// Its process is gone.
    Failed,
}

/// What was found when the daemon started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// No server.
    Down,
    /// A server.
    Running(Running),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn b_26_standby_guc_floor() {
        let mut parameters = map(&[("max_connections", "50"), ("max_wal_senders", "20"), ("work_mem", "1")]);
        let raised = raise(
            &mut parameters,
            &[("max_connections", 100), ("max_wal_senders", 10), ("max_worker_processes", 8)],
        );
        assert_eq!(raised, [("max_connections".to_owned(), "50".to_owned(), 100)]);
        assert_eq!(
            parameters,
            map(&[("max_connections", "100"), ("max_wal_senders", "20"), ("work_mem", "1")])
        );
    }

    #[test]
    fn b_26_start_argv() {
        let parameters = map(&[
            ("port", "5433"),
            ("work_mem", "1MB"),
            ("wal_keep_size", "128MB"),
            ("cluster_name", "a b"),
        ]);
        let argv = arguments(
            "/b/postgres".into(),
            "/d".into(),
            std::path::Path::new("/c/postgresql.conf"),
            &parameters,
        );
        let expected = [
            "/b/postgres",
            "-D",
            "/d",
            "--config-file=/c/postgresql.conf",
            "--cluster_name=a b",
            "--port=5433",
        ];
        assert_eq!(argv, expected.map(OsString::from));
    }
}
