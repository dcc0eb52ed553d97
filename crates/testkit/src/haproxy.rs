//! HAProxy in front of the nodes: one listener for the primary, one for the replicas.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::net::TcpStream;

use crate::{Port, Process, Workspace, process, wait_until};

/// A server behind HAProxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name in the statistics.
    pub name: String,
    /// Its address.
    pub host: String,
    /// PostgreSQL's port.
    pub postgres_port: u16,
    /// The REST API's port, which is checked.
    pub rest_port: u16,
}

/// A running HAProxy.
#[derive(Debug)]
pub struct HaProxy {
    primary: Port,
    replicas: Port,
    statistics: Port,
    process: Process,
}

impl HaProxy {
    /// Starts it. `check` is the health check of the primary's listener, for example `OPTIONS /` or `GET /primary`;
    /// the replicas' listener checks `OPTIONS /replica`.
    ///
    /// # Errors
    /// HAProxy is not installed, or refuses the configuration; the message carries what it said.
    pub async fn start(workspace: &Workspace, backends: &[Backend], check: &str) -> Result<Self> {
        let home = workspace.folder("haproxy")?;
        let (primary, replicas, statistics) = (Port::reserve()?, Port::reserve()?, Port::reserve()?);
        let mut text = format!(
            "global\n    maxconn 200\n\n\
             defaults\n    mode tcp\n    retries 2\n    timeout connect 4s\n    timeout client 30m\n    \
             timeout server 30m\n    timeout check 5s\n\n\
             listen stats\n    mode http\n    bind {}\n    stats enable\n    stats uri /\n\n",
            statistics.address()
        );
        text.push_str(&listener("primary", &primary, check, backends));
        text.push_str(&listener("replicas", &replicas, "OPTIONS /replica", backends));
        let path = home.join("haproxy.cfg");
        workspace.write(&path, &text)?;
        let mut command = process::command(workspace, &home, program());
        command.args(["-db", "-f"]).arg(&path);
        let mut haproxy =
            Self { primary, replicas, statistics, process: Process::spawn(workspace, "haproxy", command)? };
        haproxy.wait_listening().await?;
        Ok(haproxy)
    }

    /// `127.0.0.1:<port>` that leads to the primary.
    pub fn primary_address(&self) -> String {
        self.primary.address()
    }

    /// The port that leads to the primary.
    pub const fn primary_port(&self) -> u16 {
        self.primary.number()
    }

    /// `127.0.0.1:<port>` that leads to the replicas in turn.
    pub fn replicas_address(&self) -> String {
        self.replicas.address()
    }

    /// The port that leads to the replicas.
    pub const fn replicas_port(&self) -> u16 {
        self.replicas.number()
    }

    /// `127.0.0.1:<port>` of the statistics page (`/;csv` for programs).
    pub fn statistics_address(&self) -> String {
        self.statistics.address()
    }

    async fn wait_listening(&mut self) -> Result<()> {
        let (address, process) = (self.primary.address(), &mut self.process);
        let result = wait_until("HAProxy to listen", Duration::from_secs(10), || {
            let exit = process.exit_status();
            let connection = TcpStream::connect(address.clone());
            async move {
                ensure!(exit.is_none(), "it ended: {exit:?}");
                connection.await?;
                Ok(())
            }
        })
        .await;
        result.map_err(|error| error.context(process.log_tail(10)))
    }
}

/// The program's path or name: Debian puts it where a plain user's `PATH` does not look.
pub fn program() -> &'static str {
    if std::path::Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" }
}

fn listener(name: &str, port: &Port, check: &str, backends: &[Backend]) -> String {
    let mut text = format!(
        "listen {name}\n    bind {}\n    option httpchk {check}\n    http-check expect status 200\n    \
         default-server inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions\n",
        port.address()
    );
    for backend in backends {
        let Backend { name, host, postgres_port, rest_port } = backend;
        text.push_str(&format!(
            "    server {name} {host}:{postgres_port} maxconn 100 check port {rest_port}\n"
        ));
    }
    text.push('\n');
    text
}
