//! Where PostgreSQL is installed, and a plain server that nothing manages.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio_postgres::{Client, Config, NoTls};

use crate::{Port, Process, Workspace, process, wait_until};

/// What a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What a start or a stop may take on a slow machine, crash recovery included.
const STARTUP: Duration = Duration::from_secs(60);

/// The folder of the newest PostgreSQL server installed: `$PTARMIGAN_PG_BIN_DIR`, `/usr/lib/postgresql/<N>/bin`,
/// `/usr/pgsql-<N>/bin`, or a folder of `PATH`.
///
/// # Errors
/// There is none.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("PTARMIGAN_PG_BIN_DIR") {
        return Ok(dir.into());
    }
    let numbered = |parent: &str, prefix: &str| -> Vec<(u32, PathBuf)> {
        fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
                Some((version, entry.path().join("bin")))
            })
            .filter(|(_, bin)| has_server(bin))
            .collect()
    };
    let mut found = numbered("/usr/lib/postgresql", "");
    found.extend(numbered("/usr", "pgsql-"));
    found.sort();
    if let Some((_, newest)) = found.pop() {
        return Ok(newest);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(|dir| has_server(dir));
    on_path.context("no PostgreSQL server found: install one, or set PTARMIGAN_PG_BIN_DIR")
}

fn has_server(bin: &Path) -> bool {
    ["postgres", "initdb", "pg_ctl"].iter().all(|program| bin.join(program).is_file())
}

/// A random password: 24 letters and digits.
pub fn random_password() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(24).collect()
}

/// How to connect as superuser to a server on this machine: user and database `postgres`.
pub fn superuser_config(port: u16, password: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("postgres").dbname("postgres");
    config.password(password).connect_timeout(CONNECT_TIMEOUT);
    config
}

/// Opens a connection. Its task ends with the client.
///
/// # Errors
/// The server's, or none within 3 s.
pub async fn connect(config: &Config) -> Result<Client> {
    let hosts = format!("{:?}:{:?}", config.get_hosts(), config.get_ports());
    let (client, connection) = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls))
        .await
        .with_context(|| format!("no connection to {hosts} within {CONNECT_TIMEOUT:?}"))?
        .with_context(|| format!("no connection to {hosts}"))?;
    #[expect(clippy::disallowed_methods, reason = "ends with its client")]
    tokio::spawn(connection);
    Ok(client)
}

/// A plain PostgreSQL primary with password authentication.
#[derive(Debug)]
pub struct Server {
    workspace: Workspace,
    name: String,
    port: Port,
    bin: PathBuf,
    home: PathBuf,
    password: String,
    process: Option<Process>,
}

impl Server {
    /// Runs initdb and starts the server.
    ///
    /// # Errors
    /// PostgreSQL is not installed or does not come up; the message carries its log.
    pub async fn start(workspace: &Workspace, name: &str) -> Result<Self> {
        let mut server = Self {
            workspace: workspace.clone(),
            name: name.to_owned(),
            port: Port::reserve()?,
            bin: bin_dir()?,
            home: workspace.folder(name)?,
            password: random_password(),
            process: None,
        };
        server.initdb().await?;
        server.restart().await?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port.number()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The password of the user `postgres`.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// How to connect: user `postgres`, database `postgres`.
    pub fn config(&self) -> Config {
        superuser_config(self.port(), &self.password)
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Those of [`connect`].
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.config()).await
    }

    /// Starts it (again) and waits until it takes connections. A server that still runs is crashed first.
    ///
    /// # Errors
    /// It does not come up within 60 s.
    pub async fn restart(&mut self) -> Result<()> {
        self.crash();
        let mut command = process::command(&self.workspace, &self.home, self.bin.join("postgres"));
        command.arg("-D").arg(self.data_dir());
        let mut process = Process::spawn(&self.workspace, &self.name, command)?;
        let config = self.config();
        let result = wait_until(&format!("{} to take connections", self.name), STARTUP, || {
            let exit = process.exit_status();
            let connection = connect(&config);
            async move {
                if let Some(status) = exit {
                    bail!("it ended: {status}");
                }
                connection.await.map(drop)
            }
        })
        .await;
        result.with_context(|| process.log_tail(20))?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops it cleanly (fast shutdown).
    ///
    /// # Errors
    /// It does not run, or does not end within 60 s.
    pub async fn stop(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("it does not run")?;
        process.signal(Signal::INT)?;
        process.wait(STARTUP).await?;
        self.process = None;
        Ok(())
    }

    /// Kills every process of it at once (SIGKILL).
    pub fn crash(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
        self.process = None;
        while process::signal_all(&self.data_dir(), Signal::KILL) > 0 {
            std::thread::yield_now();
        }
    }

    async fn initdb(&self) -> Result<()> {
        let password_file = self.home.join("password");
        self.workspace.write(&password_file, &self.password)?;
        let mut initdb = process::command(&self.workspace, &self.home, self.bin.join("initdb"));
        initdb.args(["-U", "postgres", "-E", "UTF8", "--auth=scram-sha-256", "--no-sync", "--pwfile"]);
        initdb.arg(&password_file).arg("-D").arg(self.data_dir());
        process::run(initdb, STARTUP).await?;
        fs::remove_file(&password_file)?;
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n",
            self.port,
            self.home.display()
        );
        self.workspace.write(&self.data_dir().join("postgresql.auto.conf"), &settings)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
    }
}
