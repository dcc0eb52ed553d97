//! Child processes: started with a clean environment, a log file and a process group of their own, and killed on drop.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{Workspace, wait_until};

/// Every child carries this variable with the folder it belongs to; its children inherit it.
pub const MARK: &str = "PTARMIGAN_TESTKIT";

/// Variables of ours that a child may see.
const INHERITED: [&str; 4] = ["PATH", "TMPDIR", "RUST_LOG", "RUST_BACKTRACE"];

/// PostgreSQL's processes, as the kernel shows them. They overwrite the environment they were given with their title:
/// they are known by where they work.
pub const SERVERS: [&str; 2] = ["postgres", "postmaster"];
/// The guardian is given no environment and works in `/`: it is known by the paths it was started with. Names as the
/// kernel shows them.
const DAEMONS: [&str; 2] = ["ptarmigan", "ptarmigan-guard"];

/// A command with a clean environment, for the workspace's user, in the folder `home`.
pub fn command(workspace: &Workspace, home: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = bare_command(program);
    command.env_clear().current_dir(home).env("LC_ALL", "C").env("HOME", home).env(MARK, home);
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if let Some(account) = workspace.account() {
        command.uid(account.uid).gid(account.gid).env("USER", &account.name).env("LOGNAME", &account.name);
    }
    command
}

/// A command that inherits user and environment from this process: for what is no server of a workspace.
#[allow(clippy::disallowed_methods, reason = "this is the process helper that the ban points to")]
pub fn bare_command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Runs a command to its end on this program's own terminal.
///
/// # Errors
/// It cannot be started, does not end before `deadline`, or fails.
pub async fn run_on_terminal(command: Command, deadline: Duration) -> Result<()> {
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    let status = tokio::time::timeout(deadline, child.wait())
        .await
        .with_context(|| format!("it did not end within {deadline:?}"))??;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

/// Runs a short command to its end and returns its output.
///
/// # Errors
/// It cannot be started, does not end before `deadline`, or fails; the message carries what it printed.
pub async fn run(command: Command, deadline: Duration) -> Result<Output> {
    let what = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(deadline, command.output())
        .await
        .with_context(|| format!("{what} did not end within {deadline:?}"))?
        .with_context(|| format!("cannot start {what}"))?;
    ensure!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// A running server.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; its output is appended to the workspace's log file of that name.
    ///
    /// # Errors
    /// The log file cannot be opened or the program cannot be started.
    pub fn spawn(workspace: &Workspace, name: &str, mut command: Command) -> Result<Self> {
        let log = workspace.log_path(name);
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("log file {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { name: name.to_owned(), child, log, exit: None })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended; `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().ok().flatten();
        }
        self.exit
    }

    /// Sends a signal to this one process.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exit_status() {
            bail!("{} has ended already ({status}):\n{}", self.name, self.log_tail(20));
        }
        kill_process(self.pid(), signal).with_context(|| format!("{signal:?} to {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_until(&format!("the end of {name}"), deadline, || {
            let exit = self.exit_status();
            async move { exit.context("it runs") }
        })
        .await
    }

    /// Kills this one process with SIGKILL, not its group, and waits until it is gone.
    pub fn kill_alone(&mut self) {
        if self.exit_status().is_none() {
            let _ = kill_process(self.pid(), Signal::KILL);
            self.exit = self.child.wait().ok();
        }
    }

    /// Kills its whole process group with SIGKILL and waits until the process is gone.
    pub fn kill(&mut self) {
        if self.exit_status().is_none() {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            self.exit = self.child.wait().ok();
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a file; empty where it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A process found in `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its process id.
    pub pid: Pid,
    /// Its name as the kernel shows it (at most 15 bytes).
    pub name: String,
}

/// Every living process that belongs to `dir`, whoever its parent is by now: marked with it or a folder inside, a
/// PostgreSQL process that works there, or a Ptarmigan process that was started with a path in it.
pub fn processes_of(dir: &Path) -> Vec<Found> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let proc = entry.path();
            let name = fs::read_to_string(proc.join("comm")).ok()?.trim_end().to_owned();
            let ours = marked(&proc, dir) || works_in(&proc, &name, dir) || started_with(&proc, &name, dir);
            ours.then_some(Found { pid, name })
        })
        .collect()
}

fn marked(proc: &Path, dir: &Path) -> bool {
    let Ok(environment) = fs::read(proc.join("environ")) else { return false };
    environment
        .split(|byte| *byte == 0)
        .filter_map(|entry| entry.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="))
        .any(|home| Path::new(OsStr::from_bytes(home)).starts_with(dir))
}

fn works_in(proc: &Path, name: &str, dir: &Path) -> bool {
    SERVERS.contains(&name) && fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
}

fn started_with(proc: &Path, name: &str, dir: &Path) -> bool {
    DAEMONS.contains(&name)
        && fs::read(proc.join("cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .skip(1)
                .any(|word| Path::new(OsStr::from_bytes(word)).starts_with(dir))
        })
}

/// Sends a signal to every process of `dir` and returns how many there were.
pub fn signal_all(dir: &Path, signal: Signal) -> usize {
    let found = processes_of(dir);
    for process in &found {
        // a process that has ended since is as good as signalled
        let _ = kill_process(process.pid, signal);
    }
    found.len()
}
