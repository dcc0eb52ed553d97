//! Runs the operator's callback scripts (contract B.25): one at a time, never waited for, the last one wins.
//!
//! A script that is still running when the next one is due is killed with everything it started: two that move an
//! address in opposite directions must not overlap. `on_reload` has a slot of its own, so that a reload does not cut
//! off a script that moves an address.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ptarmigan_guardian::{RawPid, process};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Why a callback was not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured command is no command line.
    #[error("{event}: {command:?} is not a command line")]
    CommandLine {
        /// The callback.
        event: &'static str,
        /// As configured.
        command: String,
    },
    /// The program could not be started.
    #[error("{event}: cannot run {program}: {source}", program = program.display())]
    Start {
        /// The callback.
        event: &'static str,
        /// What was to be run.
        program: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

/// Which running script a new one replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// That of all callbacks but one.
    State,
    /// That of `on_reload`.
    Reload,
}

/// One script to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// Whom it replaces.
    pub slot: Slot,
    /// The operator's command line, split as a shell does.
    pub command: &'a str,
    /// First argument after the command's own: the callback.
    pub event: &'static str,
    /// Second: the role.
    pub role: &'a str,
    /// Third: the cluster's name.
    pub scope: &'a str,
}

/// The scripts that run. They outlive this value and the daemon.
#[derive(Debug, Default)]
pub struct Runner {
    state: Current,
    reload: Current,
}

type Current = Arc<Mutex<Option<Running>>>;

/// A process, named for ever: its number may become another one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Running {
    pid: RawPid,
    start_time_ticks: u64,
}

impl Running {
    fn of(child: &tokio::process::Child) -> Option<Self> {
        let pid = RawPid::try_from(child.id()?).ok()?;
        let start_time_ticks = process::start_time_ticks(pid).ok()?;
        Some(Self { pid, start_time_ticks })
    }

    fn is_alive(self) -> bool {
        process::start_time_ticks(self.pid).is_ok_and(|ticks| ticks == self.start_time_ticks)
    }
}

impl Runner {
    /// Kills what runs in the script's slot and starts it. Returns at once; must be called on a tokio runtime, which
    /// waits for the script's end beside.
    ///
    /// # Errors
    /// The command line cannot be split, or its program not be started; what ran before is killed all the same.
    pub fn run(&self, script: Script<'_>) -> Result<(), Error> {
        let event = script.event;
        let current = match script.slot {
            Slot::State => &self.state,
            Slot::Reload => &self.reload,
        };
        let mut running = lock(current);
        if let Some(before) = running.take().filter(|before| before.is_alive()) {
            tracing::warn!("{event}: the callback before it still runs, process {}: killing it", before.pid);
            kill_with_descendants(before.pid);
        }
        let unreadable = || Error::CommandLine { event, command: script.command.to_owned() };
        let words = shlex::split(script.command).ok_or_else(unreadable)?;
        let (program, arguments) = words.split_first().ok_or_else(unreadable)?;
        let child = tokio::process::Command::new(program)
            .args(arguments)
            .args([event, script.role, script.scope])
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .map_err(|source| Error::Start { event, program: program.into(), source })?;
        tracing::info!("callback {event} {} {}: started", script.role, script.scope);
        let started = Running::of(&child);
        *running = started;
        watch(Arc::clone(current), child, started, event);
        Ok(())
    }
}

/// Notes the end of a script, and says how it went where that was badly.
fn watch(current: Current, mut child: tokio::process::Child, started: Option<Running>, event: &'static str) {
    #[expect(clippy::disallowed_methods, reason = "ends with the script; nobody waits for it")]
    tokio::spawn(async move {
        let status = child.wait().await;
        let mut running = lock(&current);
        if *running == started {
            *running = None;
        }
        drop(running);
        match status {
            Ok(status) if status.success() => tracing::debug!("callback {event}: done"),
            Ok(status) => tracing::warn!("callback {event}: {status}"),
            Err(error) => tracing::warn!("callback {event}: its end was not heard of: {error}"),
        }
    });
}

fn lock(current: &Current) -> MutexGuard<'_, Option<Running>> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops a process first, so that it starts no more children while they are looked for.
fn kill_with_descendants(pid: RawPid) {
    let mut doomed = vec![pid];
    let mut next = 0;
    while let Some(&parent) = doomed.get(next) {
        signal(parent, Signal::STOP);
        let children = process::children(parent).unwrap_or_default();
        doomed.extend(children.into_iter().filter(|child| !doomed.contains(child)).collect::<Vec<_>>());
        next += 1;
    }
    for victim in doomed {
        signal(victim, Signal::KILL);
    }
    // Orphans of the script, whose parent is gone already.
    if let Some(group) = Pid::from_raw(pid) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn signal(pid: RawPid, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may be gone already.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;

    /// A script that tells its arguments, and that it came to its end, if it does.
    fn script(folder: &Path, body: &str) -> String {
        let path = folder.join("callback");
        let text =
            format!("echo begin \"$@\" >> {0}/log\n{body}\necho end \"$@\" >> {0}/log\n", folder.display());
        std::fs::write(&path, text).unwrap();
        format!("/bin/sh '{}' 'a b'", path.display())
    }

    fn log(folder: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn until(what: &str, done: impl Fn() -> bool) {
        for _ in 0..1000 {
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 10 s: {what}");
    }

    fn call<'a>(slot: Slot, command: &'a str, event: &'static str, role: &'a str) -> Script<'a> {
        Script { slot, command, event, role, scope: "demo" }
    }

    #[tokio::test]
    async fn b_25_arguments() {
        let folder = tempfile::tempdir().unwrap();
        let command = script(folder.path(), "");
        let runner = Runner::default();
        runner.run(call(Slot::State, &command, "on_start", "replica")).unwrap();
        until("it ended", || log(folder.path()).len() == 2).await;
        assert_eq!(log(folder.path())[0], "begin a b on_start replica demo");
        until("its end is noted", || lock(&runner.state).is_none()).await;
    }

    #[tokio::test]
    async fn b_25_a_new_one_kills_the_running_one_and_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        // One child in a session of its own, as daemons that scripts start have it.
        let pids = folder.path().join("pids");
        let slow = script(
            folder.path(),
            &format!("sleep 600 & echo $! >> {0}; setsid sleep 600 & echo $! >> {0}; wait", pids.display()),
        );
        let runner = Runner::default();
        runner.run(call(Slot::State, &slow, "on_stop", "primary")).unwrap();
        let started = || std::fs::read_to_string(&pids).unwrap_or_default().lines().count() == 2;
        until("its children run", started).await;
        let children: Vec<RawPid> =
            std::fs::read_to_string(&pids).unwrap().lines().map(|pid| pid.parse().unwrap()).collect();
        let quick = script(folder.path(), "");
        runner.run(call(Slot::State, &quick, "on_role_change", "replica")).unwrap();
        until("the second ended", || log(folder.path()).len() == 3).await;
        until("the children are gone", || !children.iter().any(|&pid| process::is_alive(pid))).await;
        let expected = [
            "begin a b on_stop primary demo",
            "begin a b on_role_change replica demo",
            "end a b on_role_change replica demo",
        ];
        assert_eq!(log(folder.path()), expected);
    }

    #[tokio::test]
    async fn b_25_on_reload_has_a_slot_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let waits = format!("while [ ! -e {0}/go ]; do sleep 0.01; done", folder.path().display());
        let slow = script(folder.path(), &waits);
        let runner = Runner::default();
        runner.run(call(Slot::State, &slow, "on_start", "primary")).unwrap();
        until("the first began", || log(folder.path()).len() == 1).await;
        runner.run(call(Slot::Reload, &slow, "on_reload", "primary")).unwrap();
        until("the second began", || log(folder.path()).len() == 2).await;
        std::fs::write(folder.path().join("go"), "").unwrap();
        until("both ended", || log(folder.path()).len() == 4).await;
    }

    #[tokio::test]
    async fn b_25_a_program_that_is_not_there_is_named() {
        let runner = Runner::default();
        let missing = runner.run(call(Slot::State, "/nonexistent/prog x", "on_start", "primary"));
        assert!(missing.unwrap_err().to_string().starts_with("on_start: cannot run /nonexistent/prog"));
        for command in ["", "a 'b"] {
            let broken = runner.run(call(Slot::State, command, "on_start", "primary"));
            assert!(matches!(broken, Err(Error::CommandLine { .. })), "{command:?}");
        }
    }
}
