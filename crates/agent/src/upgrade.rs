//! The upgrade in place (SIGUSR2): guardian and daemon execute the programs that lie where they were started from. PostgreSQL,
//! its sessions and the leader lock go on.

use std::{ffi::OsString, io, os::unix::process::CommandExt, path::PathBuf, process::Stdio, time::Duration};

use ptarmigan_types::Monotonic;
use tokio::signal::unix::{SignalKind, signal};

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
        let mut words = std::env::args_os();
        let called = words.next().map(PathBuf::from).unwrap_or_default();
        // As it was called, where that names a file: a link may lead to another release by then.
        let path = if called.components().count() > 1 {
            std::path::absolute(called)?
        } else {
            std::env::current_exe()?
        };
        Ok(Self { path, arguments: words.collect() })
    }

    /// Executes it in place of this process, in the middle of whatever its other threads do. Returns only where that failed.
    ///
    /// # Errors
    /// See there.
    pub async fn execute(&self, node: &Node, flush: impl Fn()) -> Error {
        // A leader has to be back before its lease is over.
        let left = crate::fence::leads_until(node).map(|until| until.since(ptarmigan_clock::now()));
        if let Err(error) =
            self.answers(left.map_or(ANSWERS_WITHIN, |left| ANSWERS_WITHIN.min(left / 4))).await
        {
            return error;
        }
        match node.postgres.upgrade_guardian().await {
            Ok(true) => tracing::info!("the guardian was upgraded in place"),
            Ok(false) => {}
            // It goes on as it is, and the daemon's next release speaks to it.
            Err(error) => tracing::warn!("the guardian goes on as it is: {error}"),
        }
        tracing::info!("executing {}", self.path.display());
        // What is not written by now is never.
        flush();
        #[expect(clippy::disallowed_methods, reason = "no child: this process becomes it")]
        let mut command = std::process::Command::new(&self.path);
        let source = command.args(&self.arguments).exec();
        // The attempt has taken back that a closed pipe is no end.
        if let Err(error) = signal(SignalKind::pipe()) {
            tracing::error!("SIGPIPE: {error}");
        }
        Error::Run { program: self.path.clone(), source }
    }

    /// Whether it is a program of ours that runs on this machine.
    async fn answers(&self, limit: Duration) -> Result<(), Error> {
        let failed = |source| Error::Run { program: self.path.clone(), source };
        let mut command = tokio::process::Command::new(&self.path);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = tokio::time::timeout(limit, command.kill_on_drop(true).status())
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
        let hindrance = hindrance(node, ptarmigan_clock::now());
        if hindrance.is_some() {
            if hindrance != self.waits_for {
                tracing::info!("the upgrade waits: {}", hindrance.as_deref().unwrap_or_default());
            }
            self.waits_for = hindrance;
            return;
        }
        *self = Self::default();
        tracing::error!("not upgraded, this daemon goes on: {}", program.execute(node, flush).await);
    }
}

/// What is not to be interrupted. The next program knows nothing of what is under way, of promises, or of a lease: it has to
/// renew that one while it still lasts, and needs the DCS for it.
fn hindrance(node: &Node, now: Monotonic) -> Option<String> {
    if let Some(job) = node.jobs.view(now) {
        return Some(format!("{} in progress", job.kind.words()));
    }
    if node.failsafe.active_until().is_some() || node.known().view.is_none() {
        return Some("the DCS does not answer".into());
    }
    crate::fence::leads_until(node)?;
    (!node.lease.is_fresh(now)).then(|| "the leader lease was not renewed just now".into())
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
        let missing = program("/nowhere/ptarmigan").execute(&fixture.node, || ()).await;
        assert!(missing.to_string().starts_with("/nowhere/ptarmigan does not run: "), "{missing}");
        let broken = program("/bin/false").execute(&fixture.node, || ()).await;
        assert_eq!(broken.to_string(), "/bin/false --version failed: exit status: 1");
    }

    #[tokio::test]
    async fn a_long_action_is_waited_for() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        let mut upgrade = Upgrade::default();
        assert_eq!(hindrance(node, ptarmigan_clock::now()).unwrap(), "the DCS does not answer");
        crate::observe::view(node).await.unwrap();
        assert_eq!(hindrance(node, ptarmigan_clock::now()), None);
        let now = ptarmigan_clock::now();
        // Whatever the store grants of the TTL.
        for granted in [10, 28].map(Duration::from_secs) {
            node.lease.grants(granted);
            node.lease.hold(node.lease.ask(), now + granted);
            assert_eq!(hindrance(node, now), None);
            let later = now + granted * 2 / 3;
            assert_eq!(hindrance(node, later).unwrap(), "the leader lease was not renewed just now");
        }
        node.lease.forget();
        node.jobs.start(JobKind::Follow, ptarmigan_clock::now(), |_| std::future::pending()).unwrap();
        upgrade.ask();
        upgrade.attempt(node, &program("/bin/false"), || ()).await;
        assert!(upgrade.asked && upgrade.waits_for.is_some());
        node.jobs.cancel().await;
        upgrade.attempt(node, &program("/bin/false"), || ()).await;
        assert!(!upgrade.asked, "it was tried");
    }
}
