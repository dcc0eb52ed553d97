//! Stopping the server (contract B.26, "stop sequence").

use std::{future::Future, io::Read, path::Path, pin::Pin, time::Duration};

use ptarmigan_guardian::{How, RawPid, SignalName, process};
use ptarmigan_types::MemberState;
use tokio::sync::watch;

use crate::{
    ControlData, Postgres,
    command::Command,
    postmaster::{self, Held},
};

/// How often the control file and the backends are looked at while stopping.
const POLL: Duration = Duration::from_millis(20);

/// How many looks in a row have to find no session.
const SAFEPOINT_LOOKS: u32 = 3;

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for clients to leave (SIGTERM).
    Smart,
    /// Sends clients away, then a shutdown checkpoint (SIGINT).
    Fast,
    /// At once, with crash recovery at the next start (SIGQUIT).
    Immediate,
}

impl StopMode {
    const fn signal(self) -> SignalName {
        match self {
            Self::Smart => SignalName::Term,
            Self::Fast => SignalName::Int,
            Self::Immediate => SignalName::Quit,
        }
    }
}

/// Something to do at a point of the stop; it is always awaited to its end.
pub type Hook<T> = Box<dyn FnOnce(T) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What to stop, and what to do on the way.
pub struct StopRequest {
    /// How.
    pub mode: StopMode,
    /// Whether a CHECKPOINT comes first, so that the shutdown's own is short.
    pub checkpoint: bool,
    /// After it comes an immediate shutdown, and after it once more SIGKILL; `None` waits as long as it takes.
    pub timeout: Option<Duration>,
    /// How long the immediate shutdown that follows a timeout has before the SIGKILL; `None`: once more the timeout. With
    /// [`StopMode::Immediate`] it is the timeout.
    pub kill_after: Option<Duration>,
    /// Called once the last session of a user is gone: nothing more can be committed.
    pub on_safepoint: Option<Hook<()>>,
    /// Called once the control file says "shut down" while the postmaster still lives, for instance because it archives
    /// (contract B.16, "shutdown hook"). Only with smart and fast; not called where it ends before that is seen.
    pub on_shutdown: Option<Hook<ControlData>>,
}

impl StopRequest {
    /// A stop without checkpoint, limit or hooks.
    pub fn new(mode: StopMode) -> Self {
        Self {
            mode,
            checkpoint: false,
            timeout: None,
            kill_after: None,
            on_safepoint: None,
            on_shutdown: None,
        }
    }
}

/// How long each step of a stop may take before the next one; `None`: there is none, or it waits as long as it takes.
struct Limits {
    gentle: Option<Duration>,
    immediate: Option<Duration>,
}

impl Limits {
    /// `spent`: how much of the time is gone already.
    fn of(request: &StopRequest, spent: Duration) -> Self {
        match request.mode {
            StopMode::Immediate => Self { gentle: None, immediate: request.timeout.or(request.kill_after) },
            _ => Self {
                gentle: request.timeout.map(|timeout| timeout.saturating_sub(spent)),
                immediate: request.timeout.map(|timeout| request.kill_after.unwrap_or(timeout)),
            },
        }
    }
}

/// A server of which nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// False where none was running.
    pub was_running: bool,
    /// How the postmaster ended, where its parent told.
    pub how: Option<How>,
    /// True where the limit was exceeded: crash recovery comes with the next start.
    pub forced: bool,
}

/// Why the server was not stopped.
#[derive(Debug, thiserror::Error)]
#[error("PostgreSQL could not be stopped: {0}")]
pub struct Error(#[from] pub postmaster::Error);

impl Postgres {
    /// Stops the server and returns once its last process is gone. State: `stopping`, then `stopped`.
    ///
    /// Cancel-safe: the signals that were sent stay sent, and a later call takes over.
    pub async fn stop(&self, request: StopRequest) -> Result<Stopped, Error> {
        let outcome = self.stop_held(request).await;
        match &outcome {
            Ok(_) => {
                self.know_postmaster(None);
                self.0.pending_restart.send_replace(std::collections::BTreeMap::new());
                self.set_state(MemberState::Stopped);
            }
            Err(_) => self.set_state(MemberState::StopFailed),
        }
        outcome
    }

    async fn stop_held(&self, request: StopRequest) -> Result<Stopped, Error> {
        self.note_unanswered_start().await;
        let Some(held) = self.hold().await? else {
            postmaster::end_leftovers(&self.data_dir()).await;
            return Ok(Stopped { was_running: false, how: None, forced: false });
        };
        let begin = ptarmigan_clock::now();
        if request.checkpoint
            && request.mode != StopMode::Immediate
            && let Err(error) = self.checkpoint(request.timeout).await
        {
            tracing::warn!("CHECKPOINT before the stop: {error}");
        }
        self.set_state(MemberState::Stopping);
        // Whoever stops at once has no time for a script: somebody else may lead already.
        if request.mode != StopMode::Immediate {
            self.run_before_stop(request.timeout).await;
        }
        self.order(Some(request.mode.signal())).await?;
        self.close_sessions().await;
        let (gone, ended) = watch::channel(false);
        let limits = Limits::of(&request, ptarmigan_clock::now().since(begin));
        let exit = async {
            let outcome = self.await_exit(&held, &limits).await;
            gone.send_replace(true);
            outcome
        };
        let sessions = || user_backends(held.pid(), self.scope());
        let safepoint = safepoint(request.on_safepoint, sessions, request.timeout, ended.clone());
        let hook = request.on_shutdown.filter(|_| request.mode != StopMode::Immediate);
        let (outcome, (), ()) = tokio::join!(exit, safepoint, self.shutdown_seen(hook, ended));
        let (how, forced) = outcome?;
        Ok(Stopped { was_running: true, how, forced })
    }

    /// `postgresql.before_stop`; its exit status does not matter (contract B.26). With a limit it gets half of it at most:
    /// the stop needs time too.
    async fn run_before_stop(&self, limit: Option<Duration>) {
        let Some(script) = self.settings().before_stop.clone() else { return };
        let Some(words) = shlex::split(&script).filter(|words| !words.is_empty()) else {
            tracing::warn!("postgresql.before_stop is not a command line");
            return;
        };
        let script = Command::new(&words[0]).args(&words[1..]);
        let limit = limit.map_or(Duration::MAX, |limit| limit / 2);
        match tokio::time::timeout(limit, script.output()).await {
            Ok(Ok(output)) => tracing::info!("before_stop ended: {}", output.status),
            Ok(Err(error)) => tracing::warn!("before_stop: {error}"),
            Err(_) => tracing::warn!("before_stop did not end within {limit:?}: it is not waited for"),
        }
    }

    /// Waits for the end; enforces it after the limits.
    async fn await_exit(
        &self,
        held: &Held,
        limits: &Limits,
    ) -> Result<(Option<How>, bool), postmaster::Error> {
        if let Some(limit) = limits.gentle {
            if let Ok(how) = tokio::time::timeout(limit, self.exited(held)).await {
                return Ok((how?, false));
            }
            tracing::warn!("PostgreSQL did not stop within {limit:?}: immediate shutdown");
            self.order(Some(SignalName::Quit)).await?;
        }
        let Some(limit) = limits.immediate else { return Ok((self.exited(held).await?, false)) };
        if let Ok(how) = tokio::time::timeout(limit, self.exited(held)).await {
            return Ok((how?, limits.gentle.is_some()));
        }
        if limit.is_zero() {
            tracing::warn!("killing PostgreSQL");
        } else {
            tracing::warn!("PostgreSQL did not end within {limit:?} of an immediate shutdown: killing it");
        }
        self.order(None).await?;
        Ok((self.exited(held).await?, true))
    }

    /// Sends a signal, or kills where `None`, by way of whoever holds the server now: its guardian may have died since.
    async fn order(&self, signal: Option<SignalName>) -> Result<(), postmaster::Error> {
        loop {
            let Some(held) = self.hold().await? else { return Ok(()) };
            let outcome = match signal {
                Some(signal) => held.signal(signal).await,
                None => held.freeze_kill().await,
            };
            match outcome {
                Err(error) if error.is_guardian_lost() && held.is_guarded() => {}
                outcome => return outcome,
            }
        }
    }

    /// As [`Held::exited`]; a server whose guardian dies meanwhile is watched by itself.
    async fn exited(&self, held: &Held) -> Result<Option<How>, postmaster::Error> {
        match held.exited().await {
            Err(error) if error.is_guardian_lost() => match self.hold().await? {
                Some(orphan) => orphan.exited().await,
                None => {
                    postmaster::end_leftovers(&self.data_dir()).await;
                    Ok(None)
                }
            },
            outcome => outcome,
        }
    }

    async fn shutdown_seen(&self, hook: Option<Hook<ControlData>>, mut ended: watch::Receiver<bool>) {
        let Some(hook) = hook else { return };
        let path = self.data_dir().join("global/pg_control");
        let seen = async {
            loop {
                // The program is asked only once the file itself says so: it is a process each time.
                if is_shut_down(&path)
                    && let Ok(data) = self.control_data().await
                    && data.state.is_shut_down()
                {
                    return data;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let data = tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => return,
            data = seen => data,
        };
        hook(data).await;
    }
}

/// A session may have been begun while the order was on its way: none counts as gone before a few looks have found none.
async fn safepoint(
    hook: Option<Hook<()>>,
    sessions: impl Fn() -> Vec<RawPid>,
    limit: Option<Duration>,
    mut ended: watch::Receiver<bool>,
) {
    let Some(hook) = hook else { return };
    let gone = async {
        let mut looks = 0;
        while looks < SAFEPOINT_LOOKS {
            looks = if sessions().is_empty() { looks + 1 } else { 0 };
            tokio::time::sleep(POLL).await;
        }
    };
    let limit = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = gone => {}
        _ = ended.wait_for(|ended| *ended) => {}
        () = limit => return,
    }
    hook(()).await;
}

/// The state in `pg_control`, the fifth 32-bit word of every version: 1 and 2 are the clean ends.
fn is_shut_down(path: &Path) -> bool {
    let mut head = [0; 20];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    let state = u32::from_ne_bytes([head[16], head[17], head[18], head[19]]);
    read.is_ok() && matches!(state, 1 | 2)
}

/// Processes of the server that are no session of a user's, by the beginning of their titles.
const AUXILIARY: &[&str] = &[
    "archiver",
    "autovacuum launcher",
    "autovacuum worker",
    "background writer",
    "checkpointer",
    "io worker",
    "logger",
    "logical replication launcher",
    "slotsync worker",
    "startup",
    "stats collector",
    "walreceiver",
    "walsender",
    "walsummarizer",
    "walwriter",
];

/// True for the title of a session, or of a background worker that can write.
fn is_user_backend(title: &str, cluster_name: &str) -> bool {
    let Some(rest) = title.strip_prefix("postgres: ") else { return false };
    let rest = rest.strip_prefix(cluster_name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(rest);
    !AUXILIARY.iter().any(|name| rest.starts_with(name))
}

fn user_backends(postmaster: RawPid, cluster_name: &str) -> Vec<RawPid> {
    let title = |pid: RawPid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).trim_end_matches('\0').to_owned()
    };
    let children = process::children(postmaster).unwrap_or_default();
    children.into_iter().filter(|&pid| is_user_backend(&title(pid), cluster_name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_26_stop_signals() {
        assert_eq!(StopMode::Smart.signal(), SignalName::Term);
        assert_eq!(StopMode::Fast.signal(), SignalName::Int);
        assert_eq!(StopMode::Immediate.signal(), SignalName::Quit);
    }

    #[test]
    fn b_26_safepoint_knows_sessions_from_auxiliary_processes() {
        for (title, is_session) in [
            ("postgres: demo: checkpointer ", false),
            ("postgres: demo: walsender rep 127.0.0.1(4000) streaming 0/3000060", false),
            ("postgres: demo: startup recovering 000000010000000000000003", false),
            ("postgres: demo: alice shop 127.0.0.1(4000) idle", true),
            ("postgres: alice shop [local] COMMIT", true),
            ("postgres: logger ", false),
            ("postgres: demo: logical replication apply worker for subscription 1", true),
            ("/usr/bin/postgres\0-D\0/data", false),
        ] {
            assert_eq!(is_user_backend(title, "demo"), is_session, "{title}");
        }
    }

    #[test]
    fn control_file_word_is_the_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pg_control");
        for (state, expected) in [(1_u32, true), (2, true), (3, false), (5, false), (6, false)] {
            let mut bytes = vec![0; 16];
            bytes.extend_from_slice(&state.to_ne_bytes());
            bytes.extend_from_slice(&[0; 100]);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(is_shut_down(&path), expected, "{state}");
        }
        assert!(!is_shut_down(&folder.path().join("none")));
    }
}
