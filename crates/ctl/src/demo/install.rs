//! What must be there before anything can be started.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use ptarmigan_testkit::{Binaries, Workspace, postgres, process};

use super::screen::{Nothing, Screen};

/// The same package names as `make setup` uses.
const SETUP: &str = include_str!("../../../../scripts/setup.sh");

/// What an installation from a distant mirror may take.
const INSTALLATION: Duration = Duration::from_secs(900);

/// Installs the servers that are missing, and says with what.
///
/// # Errors
/// Something is missing and cannot be installed; the message says what.
pub(super) async fn ensure_servers(screen: &Screen) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(", ");
    let known = on_path("apt-get").is_some() || on_path("dnf").is_some();
    ensure!(known, "please install {names} and try again: this machine has neither apt-get nor dnf");
    let root = rustix::process::geteuid().is_root();
    ensure!(
        root || on_path("sudo").is_some(),
        "please install {names} and try again: you are not root, and there is no sudo"
    );
    screen.fact(&format!("Missing: {names}. They are installed from this machine's packages."))?;
    let mut command = process::bare_command("sh");
    command.args(["-c", SETUP, "setup", "runtime"]);
    // sudo may ask for a password on the terminal, which no picture may hide
    let status = if root {
        screen.during("Installing", &Nothing, process::run(command, INSTALLATION)).await.map(drop)
    } else {
        process::run_on_terminal(command, INSTALLATION).await
    };
    status.with_context(|| format!("please install {names} and try again"))?;
    let left = self::missing();
    ensure!(left.is_empty(), "still missing: {}; please install it and try again", left.join(", "));
    Ok(())
}

/// Our own programs, where the servers' user can run them.
///
/// # Errors
/// They do not lie beside this program.
pub(super) fn programs(workspace: &Workspace) -> Result<Binaries> {
    let binaries = Binaries::locate(workspace)
        .context("the daemon `ptarmigan` must lie in the same folder as this program")?;
    if binaries.guardian().is_none() {
        bail!("`ptarmigan-guardian` must lie in the same folder as `ptarmigan`");
    }
    Ok(binaries)
}

/// One line: the versions of all servers, and who runs them.
///
/// # Errors
/// One of them cannot be run.
pub(super) async fn versions(workspace: &Workspace) -> Result<String> {
    let ask = async |program: &Path, argument: &str| -> Result<String> {
        let mut command = process::command(workspace, workspace.path(), program);
        command.arg(argument);
        let output = process::run(command, Duration::from_secs(20)).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        Ok(number.unwrap_or("?").split('-').next().unwrap_or_default().to_owned())
    };
    let bin = postgres::bin_dir()?;
    let postgres = ask(&bin.join("postgres"), "--version").await?;
    let etcd = ask(Path::new("etcd"), "--version").await?;
    let haproxy = ask(Path::new(ptarmigan_testkit::haproxy::program()), "-v").await?;
    let user = workspace
        .account()
        .map_or_else(String::new, |account| format!("; they run as user {}", account.name));
    Ok(format!("PostgreSQL {postgres}, etcd {etcd}, HAProxy {haproxy}{user}"))
}

fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if postgres::bin_dir().is_err() {
        missing.push("PostgreSQL");
    }
    if on_path("etcd").is_none() {
        missing.push("etcd");
    }
    if on_path(ptarmigan_testkit::haproxy::program()).is_none() {
        missing.push("HAProxy");
    }
    missing
}

/// Where a shell finds a program; an absolute path stays what it is.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|found| found.is_file())
}
