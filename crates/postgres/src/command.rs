//! Runs a child program: no terminal, captured output, a deadline, and no survivor when the caller gives up.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// How long an exited program's output is still awaited: a descendant may hold the pipe open for good.
const LATE_OUTPUT: Duration = Duration::from_millis(200);

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be started.
    #[error("cannot run {program}: {source}", program = program.display())]
    Start {
        /// What was to be run.
        program: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The program did not end in time; it and its descendants in the process group were killed.
    #[error("{program} did not end within {limit:?} and was killed", program = program.display())]
    Deadline {
        /// What was run.
        program: PathBuf,
        /// The limit that was set.
        limit: Duration,
    },
    /// The program ended with a failure.
    #[error("{program} failed ({status}): {stderr}", program = program.display())]
    Failed {
        /// What was run.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error, trimmed.
        stderr: String,
    },
    /// Its output could not be read or its end not awaited.
    #[error("lost contact to {program}: {source}", program = program.display())]
    Contact {
        /// What was run.
        program: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

/// What a program left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// The beginning of its standard output, at most the cap.
    pub stdout: Vec<u8>,
    /// The end of its standard error, at most the cap.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, trimmed; bytes that are not UTF-8 are replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Standard error as text, trimmed; bytes that are not UTF-8 are replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

/// A program to run. It gets a process group of its own, which is killed when the run is dropped or too late.
///
/// Arguments may be seen by everybody on the machine: a password goes into the environment, standard input or a file.
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env_set: Vec<(OsString, OsString)>,
    env_removed: Vec<OsString>,
    working_dir: Option<PathBuf>,
    input: Vec<u8>,
    limit: Option<Duration>,
    output_bytes_max: usize,
}

impl Command {
    /// A program with our environment, empty standard input, no deadline and 1 MiB of captured output each.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env_set: Vec::new(),
            env_removed: Vec::new(),
            working_dir: None,
            input: Vec::new(),
            limit: None,
            output_bytes_max: 1 << 20,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env_set.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Takes one environment variable away.
    #[must_use]
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env_removed.push(key.as_ref().to_owned());
        self
    }

    /// Runs in this folder.
    #[must_use]
    pub fn working_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.working_dir = Some(folder.as_ref().to_owned());
        self
    }

    /// Feeds these bytes to standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Kills the process group once this much time has passed.
    #[must_use]
    pub const fn deadline(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Keeps at most this many bytes of each output.
    #[must_use]
    pub const fn output_bytes_max(mut self, bytes: usize) -> Self {
        self.output_bytes_max = bytes;
        self
    }

    /// Runs the program to its end; a failing exit status is an answer, not an error. Cancel-safe: dropping the
    /// future kills the process group.
    pub async fn output(self) -> Result<Output, Error> {
        let program = self.program.clone();
        match self.limit {
            None => self.run().await,
            Some(limit) => match tokio::time::timeout(limit, self.run()).await {
                Ok(result) => result,
                Err(_) => Err(Error::Deadline { program, limit }),
            },
        }
    }

    /// As [`Command::output`], but a failing exit status is [`Error::Failed`].
    pub async fn succeed(self) -> Result<Output, Error> {
        let program = self.program.clone();
        let output = self.output().await?;
        if output.status.success() {
            return Ok(output);
        }
        Err(Error::Failed { program, status: output.status, stderr: output.stderr_text() })
    }

    fn prepare(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).envs(self.env_set.iter().map(|(key, value)| (key, value)));
        for key in &self.env_removed {
            command.env_remove(key);
        }
        if let Some(folder) = &self.working_dir {
            command.current_dir(folder);
        }
        let stdin = if self.input.is_empty() { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    async fn run(self) -> Result<Output, Error> {
        let program = self.program.clone();
        let mut child =
            self.prepare().spawn().map_err(|source| Error::Start { program: program.clone(), source })?;
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        let status = {
            let max = self.output_bytes_max;
            let transfer = async {
                tokio::join!(
                    feed(stdin, &self.input),
                    keep_head(stdout, &mut head, max),
                    keep_tail(stderr, &mut tail, max)
                );
            };
            tokio::pin!(transfer);
            let early = tokio::select! {
                status = child.wait() => Some(status),
                () = &mut transfer => None,
            };
            match early {
                Some(status) => {
                    // Timing out here only means that somebody else keeps the pipe.
                    let _ = tokio::time::timeout(LATE_OUTPUT, transfer).await;
                    status
                }
                None => child.wait().await,
            }
        };
        group.0 = None;
        let status = status.map_err(|source| Error::Contact { program, source })?;
        Ok(Output { status, stdout: head, stderr: tail })
    }
}

/// Kills a process group when dropped, unless its leader was reaped (the number may then be somebody else's).
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may be gone already.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn feed(pipe: Option<tokio::process::ChildStdin>, input: &[u8]) {
    if let Some(mut pipe) = pipe {
        // A program that does not read its input is free to do so.
        let _ = pipe.write_all(input).await;
    }
}

async fn keep_head(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, max: usize) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        let room = max.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(&chunk[..room]);
    }
}

async fn keep_tail(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, max: usize) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..read]);
        let surplus = kept.len().saturating_sub(max);
        kept.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new("/bin/sh").arg("-c").arg(script)
    }

    #[tokio::test]
    async fn output_and_environment_come_through() {
        let output = shell("printf '%s-%s' \"$A\" \"$HOME\"; cat; echo bad >&2; exit 3")
            .env("A", "1")
            .env_remove("HOME")
            .input("text")
            .output()
            .await
            .unwrap();
        assert_eq!(output.stdout_text(), "1-text");
        assert_eq!(output.stderr_text(), "bad");
        assert_eq!(output.status.code(), Some(3));
    }

    #[tokio::test]
    async fn failure_carries_the_end_of_standard_error() {
        let error =
            shell("echo first >&2; echo last >&2; exit 1").output_bytes_max(5).succeed().await.unwrap_err();
        assert!(error.to_string().ends_with("last"), "{error}");
        assert!(!error.to_string().contains("first"), "{error}");
    }

    #[tokio::test]
    async fn missing_program_is_named() {
        let error = Command::new("/nonexistent/prog").output().await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/prog"), "{error}");
    }

    #[tokio::test]
    async fn deadline_kills_the_whole_group() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let error = shell(&script).deadline(Duration::from_millis(500)).output().await.unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        for _ in 0..500 {
            let gone = std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
            if gone {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the grandchild {pid} survived");
    }

    #[tokio::test]
    async fn held_pipe_does_not_hang_the_run() {
        let output = shell("sleep 30 & echo done").deadline(Duration::from_secs(10)).output().await.unwrap();
        assert_eq!(output.stdout_text(), "done");
    }
}
