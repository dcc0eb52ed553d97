//! The upgrade in place (SIGUSR2): guardian and daemon execute the programs that lie where they were started from. PostgreSQL,
//! its sessions and the leader lock go on.

use std::{ffi::OsString, io, os::unix::process::CommandExt, path::PathBuf, process::Stdio, time::Duration};

use crate::node::Node;

/// How long the new program may take to tell its version.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// How this daemon was started. The path is that of then: what lies there now is what an upgrade executes.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// Why this daemon goes on as it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program does not run.
    #[error("{program} does not run: {source}")]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program runs, and does not tell its version.
    #[error("{program} --version failed: {status}")]
    Version {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
    },
}

impl Program {
    /// This process's own.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn own() -> io::Result<Self> {
        Ok(Self { path: std::env::current_exe()?, arguments: std::env::args_os().skip(1).collect() })
    }

    /// Executes it in place of this process, in the middle of whatever its other threads do. Returns only where that failed.
    ///
    /// # Errors
    /// See there.
    pub async fn execute(&self, node: &Node) -> Error {
        if let Err(error) = self.answers().await {
            return error;
        }
        match node.postgres.upgrade_guardian().await {
            Ok(true) => tracing::info!("the guardian was upgraded in place"),
            Ok(false) => {}
            // It goes on as it is, and the daemon's next release speaks to it.
            Err(error) => tracing::warn!("the guardian goes on as it is: {error}"),
        }
        tracing::info!("executing {}", self.path.display());
        #[expect(clippy::disallowed_methods, reason = "no child: this process becomes it")]
        let mut command = std::process::Command::new(&self.path);
        let source = command.args(&self.arguments).exec();
        Error::Run { program: self.path.clone(), source }
    }

    /// Whether it is a program of ours that runs on this machine.
    async fn answers(&self) -> Result<(), Error> {
        let failed = |source| Error::Run { program: self.path.clone(), source };
        let mut command = tokio::process::Command::new(&self.path);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = tokio::time::timeout(ANSWERS_WITHIN, command.kill_on_drop(true).status())
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        if status.success() { Ok(()) } else { Err(Error::Version { program: self.path.clone(), status }) }
    }
}

/// An upgrade that was asked for, until it can be done.
#[derive(Debug, Default)]
pub struct Upgrade {
    asked: bool,
    waits_for: Option<String>,
}

impl Upgrade {
    /// SIGUSR2.
    pub fn ask(&mut self) {
        tracing::info!("got SIGUSR2: upgrading in place");
        self.asked = true;
    }

    /// Between two cycles: goes on as another program, unless a long action is under way. Where that fails, this one goes on.
    pub async fn attempt(&mut self, node: &Node, program: &Program, flush: impl Fn()) {
        if !self.asked {
            return;
        }
        let job = node.jobs.view(ptarmigan_clock::now()).map(|job| job.kind.words().to_owned());
        if job.is_some() {
            if job != self.waits_for {
                tracing::info!("the upgrade waits for the end of: {}", job.as_deref().unwrap_or_default());
            }
            self.waits_for = job;
            return;
        }
        *self = Self::default();
        let error = async {
            flush();
            program.execute(node).await
        };
        tracing::error!("not upgraded, this daemon goes on: {}", error.await);
    }
}

#[cfg(test)]
mod tests {
    use ptarmigan_ha::observation::JobKind;

    use super::*;
    use crate::testing::Fixture;

    fn program(path: &str) -> Program {
        Program { path: path.into(), arguments: Vec::new() }
    }

    #[tokio::test]
    async fn a_program_that_does_not_run_changes_nothing() {
        let fixture = Fixture::new();
        let missing = program("/nowhere/ptarmigan").execute(&fixture.node).await;
        assert!(missing.to_string().starts_with("/nowhere/ptarmigan does not run: "), "{missing}");
        let broken = program("/bin/false").execute(&fixture.node).await;
        assert_eq!(broken.to_string(), "/bin/false --version failed: exit status: 1");
    }

    #[tokio::test]
    async fn a_long_action_is_waited_for() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        let mut upgrade = Upgrade::default();
        node.jobs.start(JobKind::Follow, ptarmigan_clock::now(), |_| std::future::pending()).unwrap();
        upgrade.ask();
        upgrade.attempt(node, &program("/bin/false"), || ()).await;
        assert!(upgrade.asked && upgrade.waits_for.is_some());
        node.jobs.cancel().await;
        upgrade.attempt(node, &program("/bin/false"), || ()).await;
        assert!(!upgrade.asked, "it was tried");
    }
}
