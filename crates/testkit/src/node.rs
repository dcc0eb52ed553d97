//! One node of a cluster: a daemon, Ptarmigan or Patroni, with its PostgreSQL.

mod config;
mod yaml;

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio_postgres::{Client, Config};

pub use config::Credentials;

use crate::{
    Binaries, Port, Process, Workspace,
    http::{Request, Response},
    postgres, process, wait_until,
};

/// The file that says what a test has planned for the daemon.
const PLAN: &str = "plan";

/// The name of the guardian's process as the kernel shows it.
pub const GUARDIAN: &str = "ptarmigan-guard";

/// What runs the node.
#[derive(Clone, Debug)]
pub enum Runner {
    /// Our daemon.
    Ptarmigan(Binaries),
    /// Real Patroni from the Python environment in this folder: see [`crate::patroni::ensure_venv`].
    Patroni(PathBuf),
}

/// What a node is told.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The member's name.
    pub name: String,
    /// The cluster's name.
    pub scope: String,
    /// The namespace, for example `/service/`.
    pub namespace: String,
    /// The DCS: the name of its section in the configuration, and the section.
    pub dcs: (String, Value),
    /// Shared by the nodes of a cluster.
    pub credentials: Credentials,
    /// What runs it.
    pub runner: Runner,
}

/// A node. Dropping it kills everything of it.
#[derive(Debug)]
pub struct Node {
    workspace: Workspace,
    spec: Spec,
    home: PathBuf,
    rest: Port,
    postgres: Port,
    daemon: Option<Process>,
    environment: Vec<(String, String)>,
}

impl Node {
    /// Makes the node's folder and configuration file; `change` may alter the configuration before it is written.
    ///
    /// # Errors
    /// No PostgreSQL is installed, or the file system refuses.
    pub fn new(workspace: &Workspace, spec: Spec, change: impl FnOnce(&mut Value)) -> Result<Self> {
        let home = workspace.folder(&spec.name)?;
        // where daemon and guardian meet, and what a test has planned for the daemon
        let run_dir = workspace.folder(&format!("{}/run", spec.name))?;
        let plan = home.join(PLAN).display().to_string();
        let node = Self {
            workspace: workspace.clone(),
            home,
            rest: Port::reserve()?,
            postgres: Port::reserve()?,
            spec,
            daemon: None,
            environment: vec![
                ("PTARMIGAN_RUN_DIR".to_owned(), run_dir.display().to_string()),
                ("PTARMIGAN_TEST_PLAN".to_owned(), plan),
            ],
        };
        let mut config = config::default(&node)?;
        change(&mut config);
        node.write_config(&config)?;
        Ok(node)
    }

    /// What a daemon of a debug build is to do once it comes to a place: `panic PLACE` or `stop PLACE`.
    ///
    /// # Errors
    /// The file system's.
    pub fn plan(&self, plan: &str) -> Result<()> {
        self.workspace.write(&self.home.join(PLAN), plan)
    }

    /// Whether the daemon has not come to that place.
    pub fn is_planned(&self) -> bool {
        self.home.join(PLAN).exists()
    }

    /// Writes the configuration file anew; a running daemon reads it at the next SIGHUP.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_config(&self, config: &Value) -> Result<()> {
        self.workspace.write(&self.config_path(), &yaml::render(config))
    }

    /// Sets a variable in the daemon's environment, from its next start on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// From its next start on another daemon runs the node, with the same configuration file.
    pub fn set_runner(&mut self, runner: Runner) {
        self.spec.runner = runner;
    }

    /// Starts the daemon and does not wait for anything. Where it still runs, it is killed first.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill_alone();
        }
        self.daemon = None;
        let mut command = match &self.spec.runner {
            Runner::Ptarmigan(binaries) => {
                binaries.ensure_guardian()?;
                process::command(&self.workspace, &self.home, binaries.ptarmigan())
            }
            Runner::Patroni(venv) => process::command(&self.workspace, &self.home, venv.join("bin/patroni")),
        };
        command.arg(self.config_path()).envs(self.environment.iter().cloned());
        self.daemon = Some(Process::spawn(&self.workspace, &self.spec.name, command)?);
        Ok(())
    }

    /// Asks the daemon to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// It does not run, or not end within `deadline`.
    pub async fn stop(&mut self, deadline: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.daemon()?.wait(deadline).await?;
        self.daemon = None;
        Ok(())
    }

    /// Waits for a daemon that ends by itself, and returns how.
    ///
    /// # Errors
    /// It was not started, or still runs after `deadline`.
    pub async fn wait_for_end(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let status = self.daemon()?.wait(deadline).await?;
        self.daemon = None;
        Ok(status)
    }

    /// Sends the daemon a signal: `Signal::TERM`, `HUP`, `STOP`, `CONT`, ...
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.daemon()?.signal(signal)
    }

    /// Kills the daemon alone (SIGKILL). What becomes of PostgreSQL is the guardian's matter.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_daemon(&mut self) -> Result<()> {
        // the daemon alone, not its group: PostgreSQL may be in it
        self.daemon()?.kill_alone();
        self.daemon = None;
        Ok(())
    }

    /// Freezes the whole node, as a suspended virtual machine would be.
    pub fn freeze_machine(&self) -> usize {
        process::signal_all(&self.home, Signal::STOP)
    }

    /// Lets a frozen node go on.
    pub fn thaw_machine(&self) -> usize {
        process::signal_all(&self.home, Signal::CONT)
    }

    /// Kills daemon, guardian and every PostgreSQL process, as a power cut would, the data staying on disk.
    /// All are frozen first, the guardian before the others, so that none reacts to another's death.
    ///
    /// # Errors
    /// Something still lives after 10 s.
    pub async fn kill_machine(&mut self) -> Result<()> {
        for guardian in self.processes().iter().filter(|found| found.name == GUARDIAN) {
            let _ = kill_process(guardian.pid, Signal::STOP);
        }
        self.freeze_machine();
        let home = self.home.clone();
        wait_until(&format!("the end of everything of {}", self.spec.name), Duration::from_secs(10), || {
            let left = process::signal_all(&home, Signal::KILL);
            let _ = self.daemon.as_mut().map(Process::exit_status);
            async move { if left == 0 { Ok(()) } else { bail!("{left} processes") } }
        })
        .await?;
        self.daemon = None;
        Ok(())
    }

    /// Whether the daemon runs.
    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|daemon| daemon.exit_status().is_none())
    }

    /// The daemon's process id while it runs.
    pub fn daemon_pid(&mut self) -> Option<Pid> {
        let daemon = self.daemon.as_mut()?;
        daemon.exit_status().is_none().then(|| daemon.pid())
    }

    /// The guardian's process id while it lives.
    pub fn guardian_pid(&self) -> Option<Pid> {
        self.processes().iter().find(|found| found.name == GUARDIAN).map(|found| found.pid)
    }

    /// Everything of the node that lives: daemon, guardian, PostgreSQL.
    pub fn processes(&self) -> Vec<process::Found> {
        process::processes_of(&self.home)
    }

    /// The pid in `postmaster.pid`.
    ///
    /// # Errors
    /// There is no such file, or it is a single-user backend's.
    pub fn postmaster_pid(&self) -> Result<Pid> {
        let text = std::fs::read_to_string(self.data_dir().join("postmaster.pid"))?;
        let number: i32 = text.lines().next().unwrap_or_default().trim().parse()?;
        // negative: a single-user backend
        ensure!(number > 0, "pid {number} is not a postmaster's");
        Pid::from_raw(number).context("pid 0")
    }

    /// The member's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it was told.
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The folder of this node.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.home.join("config.yml")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The file that takes the daemon's output.
    pub fn log_path(&self) -> PathBuf {
        self.workspace.log_path(&self.spec.name)
    }

    /// The last lines of the daemon's output.
    pub fn log_tail(&self, lines: usize) -> String {
        process::tail(&self.workspace.log_path(&self.spec.name), lines)
    }

    /// `127.0.0.1:<port>` of the REST API.
    pub fn rest_address(&self) -> String {
        self.rest.address()
    }

    /// The REST API's port.
    pub const fn rest_port(&self) -> u16 {
        self.rest.number()
    }

    /// PostgreSQL's port.
    pub const fn postgres_port(&self) -> u16 {
        self.postgres.number()
    }

    /// Sends `GET <path>` to the REST API.
    ///
    /// # Errors
    /// No answer within 3 s.
    pub async fn get(&self, path: &str) -> Result<Response> {
        Request::new("GET", &self.rest.address(), path).timeout(Duration::from_secs(3)).send().await
    }

    /// The status document of `GET /patroni`.
    ///
    /// # Errors
    /// No answer within 3 s, or no JSON.
    pub async fn patroni(&self) -> Result<Value> {
        self.get("/patroni").await?.json()
    }

    /// Whether the REST API says that this node is the primary with the lock. No answer is no.
    pub async fn is_primary(&self) -> bool {
        self.get("/primary").await.is_ok_and(|answer| answer.status == 200)
    }

    /// Whether the REST API says that this node is a running replica. No answer is no.
    pub async fn is_replica(&self) -> bool {
        self.get("/replica").await.is_ok_and(|answer| answer.status == 200)
    }

    /// How to connect as superuser.
    pub fn postgres_config(&self) -> Config {
        postgres::superuser_config(self.postgres_port(), &self.spec.credentials.superuser)
    }

    /// Opens a superuser's connection to this node's PostgreSQL.
    ///
    /// # Errors
    /// Those of [`postgres::connect`].
    pub async fn connect(&self) -> Result<Client> {
        postgres::connect(&self.postgres_config()).await
    }

    fn daemon(&mut self) -> Result<&mut Process> {
        self.daemon.as_mut().with_context(|| format!("{} does not run", self.spec.name))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.freeze_machine();
        self.daemon = None;
        while process::signal_all(&self.home, Signal::KILL) > 0 {
            std::thread::yield_now();
        }
    }
}
