//! Finding `ptarmigan-guardian` and starting it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::run_dir::RunDir;
use crate::server;

const PROGRAM: &str = "ptarmigan-guardian";

/// What the daemon passes on of its environment. The rest may hold passwords and is of no use to the guardian;
/// PostgreSQL gets its own with each start.
const ENVIRONMENT: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "TZ"];

/// Where the program is: `$PTARMIGAN_GUARDIAN` if that is a path (it may be a mode word instead), else beside our
/// own program, else wherever PATH says.
pub(crate) fn find() -> PathBuf {
    let own = std::env::current_exe().ok();
    choose(std::env::var_os("PTARMIGAN_GUARDIAN").as_deref(), own.as_deref())
}

fn choose(from_env: Option<&OsStr>, own: Option<&Path>) -> PathBuf {
    if let Some(path) = from_env.filter(|value| value.as_encoded_bytes().contains(&b'/')) {
        return path.into();
    }
    let beside = own.and_then(Path::parent).map(|folder| folder.join(PROGRAM));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PROGRAM.into())
}

/// How to start a guardian.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) run_dir: &'a RunDir,
    pub(crate) data_dir: &'a Path,
    pub(crate) idle_exit: Duration,
    pub(crate) debug: bool,
}

impl Launch<'_> {
    /// Starts a guardian and waits until it listens. True as well where another one was faster.
    ///
    /// # Errors
    /// Where the program cannot be run. `Ok(false)` where it ran and failed; it said why on stderr, which is ours.
    pub(crate) async fn run(&self) -> io::Result<bool> {
        let mut command = tokio::process::Command::new(self.program);
        command.arg("--run-dir").arg(self.run_dir.path()).arg("--data-dir").arg(self.data_dir);
        command.arg("--idle-exit-ms").arg(self.idle_exit.as_millis().to_string());
        if self.debug {
            command.arg("--debug");
        }
        command.env_clear().stdin(Stdio::null());
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let code = command.status().await?.code().and_then(|code| u8::try_from(code).ok());
        Ok(matches!(code, Some(server::EXIT_READY | server::EXIT_OTHER_LIVES)))
    }
}

/// Whether the program can go on from the state of a guardian of this release.
///
/// # Errors
/// Where it cannot be run, or does not answer in time.
pub(crate) async fn resumes(program: &Path, limit: Duration) -> io::Result<bool> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--resumes").arg(server::STATE_VERSION.to_string());
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let status =
        tokio::time::timeout(limit, command.status()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_counts_only_where_it_is_a_path() {
        let temp = tempfile::tempdir().unwrap();
        let own = temp.path().join("ptarmigan");
        assert_eq!(choose(Some("/opt/guard".as_ref()), Some(&own)), Path::new("/opt/guard"));
        assert_eq!(choose(Some("required".as_ref()), Some(&own)), Path::new(PROGRAM));
        let beside = temp.path().join(PROGRAM);
        std::fs::write(&beside, "").unwrap();
        assert_eq!(choose(Some("off".as_ref()), Some(&own)), beside);
        assert_eq!(choose(None, Some(&own)), beside);
        assert_eq!(choose(None, None), Path::new(PROGRAM));
    }
}
