//! Promotion, and the other one-line orders to a running server.

use std::time::Duration;

use ptarmigan_types::Role;

use crate::{Postgres, Purpose, Tool, binaries, command, connection};

/// How often a server that is being promoted is asked.
const POLL: Duration = Duration::from_millis(20);

/// Why the order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `pg_ctl` is missing.
    #[error(transparent)]
    Binary(#[from] binaries::Error),
    /// `pg_ctl` failed: the server is no standby, or not running.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// The server refused, or is not reachable.
    #[error(transparent)]
    Connection(#[from] connection::Error),
    /// The server is gone.
    #[error("PostgreSQL is not running")]
    NotRunning,
    /// The server is still in recovery, or the checkpoint not done; what was ordered goes on.
    #[error("not done within {0:?}")]
    TimedOut(Duration),
    /// A standby makes no checkpoints of its own.
    #[error("PostgreSQL is in recovery")]
    InRecovery,
}

/// The file that tells the postmaster to promote. One that an order left behind which failed, was too late or was
/// cancelled would be obeyed at the postmaster's next signal of any kind, minutes later and without the lock.
struct SignalFile(std::path::PathBuf);

impl SignalFile {
    fn leave_to_the_server(mut self) {
        self.0.clear();
    }
}

impl Drop for SignalFile {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // Mostly there is none.
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

impl Postgres {
    /// Orders the promotion (`pg_ctl promote -W`) and returns at once; the role becomes `promoted` until
    /// [`Postgres::wait_promoted`] sees it done.
    pub async fn promote(&self, limit: Duration) -> Result<(), Error> {
        let command = self.command(Tool::PgCtl)?.arg("promote").arg("-W").arg("-D").arg(self.data_dir());
        let signal_file = SignalFile(self.data_dir().join("promote"));
        command.deadline(limit).succeed().await?;
        signal_file.leave_to_the_server();
        self.set_role(Role::Promoted);
        Ok(())
    }

    /// Returns once the server is out of recovery, within about 20 ms; the role becomes `primary`.
    pub async fn wait_promoted(&self, limit: Duration) -> Result<(), Error> {
        let promoted = async {
            loop {
                // An error may pass: connections are cut by some servers' own hooks at this moment.
                if matches!(self.is_in_recovery().await, Ok(false)) {
                    return Ok(());
                }
                if self.running().is_none() {
                    return Err(Error::NotRunning);
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(limit, promoted).await.unwrap_or(Err(Error::TimedOut(limit)))?;
        self.set_role(Role::Primary);
        Ok(())
    }

    /// Asks the running server.
    pub async fn is_in_recovery(&self) -> Result<bool, connection::Error> {
        let session = self.session(Purpose::Heartbeat).await?;
        let rows = session.query_text("SELECT pg_is_in_recovery()").await?;
        let answer = rows.first().and_then(|row| row.first()?.as_deref());
        answer.map(|text| text == "t").ok_or_else(|| connection::Error::Answer("no row".to_owned()))
    }

    /// CHECKPOINT on a connection of its own; `None` waits as long as it takes.
    pub async fn checkpoint(&self, limit: Option<Duration>) -> Result<(), Error> {
        let work = async {
            let session = self.connect(Purpose::Unlimited).await?;
            let rows = session.query_text("SELECT pg_is_in_recovery()").await?;
            if rows.first().and_then(|row| row.first()?.as_deref()) != Some("f") {
                return Err(Error::InRecovery);
            }
            Ok(session.execute("CHECKPOINT").await?)
        };
        match limit {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Err(Error::TimedOut(limit))),
        }
    }

    /// Resumes replay on a standby that paused it (contract PR-7, HA-286).
    pub async fn wal_replay_resume(&self) -> Result<(), connection::Error> {
        self.session(Purpose::Heartbeat).await?.execute("SELECT pg_wal_replay_resume()").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_that_failed_leaves_no_signal_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("promote");
        std::fs::write(&path, "").unwrap();
        SignalFile(path.clone()).leave_to_the_server();
        assert!(path.exists());
        drop(SignalFile(path.clone()));
        assert!(!path.exists());
    }
}
