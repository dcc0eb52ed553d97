//! Real Patroni, installed from PyPI into a folder of its own.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::process;

/// The release that the contract was read from.
pub const VERSION: &str = "4.1.5";

/// `$PTARMIGAN_CACHE/patroni-venv`; without the variable `/var/cache/ptarmigan/patroni-venv` for root, because the user
/// `postgres` must reach it, and `~/.cache/ptarmigan/patroni-venv` for others.
///
/// # Errors
/// There is no home.
pub fn default_venv() -> Result<PathBuf> {
    let cache = match std::env::var_os("PTARMIGAN_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None if rustix::process::geteuid().is_root() => PathBuf::from("/var/cache/ptarmigan"),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache/ptarmigan"),
    };
    Ok(cache.join("patroni-venv"))
}

/// Makes a Python environment with Patroni in `dir` unless it is there already, and returns `dir`.
/// Callers that come at the same time wait for each other.
///
/// # Errors
/// Python 3 with venv is not installed, or PyPI cannot be reached.
pub async fn ensure_venv(dir: &Path) -> Result<PathBuf> {
    let parent = dir.parent().context("a folder with a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("folder {}", parent.display()))?;
    let complete = dir.join(format!(".patroni-{VERSION}-etcd3-consul"));
    let lock = File::create(dir.with_extension("lock"))?;
    let _lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
    if complete.is_file() {
        return Ok(dir.to_owned());
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("folder {}", dir.display()))?;
    }
    // the distribution's Python: one below /root could not be run by the user postgres
    let python = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    let mut venv = process::bare_command(python);
    venv.args(["-m", "venv"]).arg(dir);
    process::run(venv, Duration::from_secs(120)).await.context("is python3-venv installed?")?;
    let mut pip = process::bare_command(dir.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args([&format!("patroni[etcd3,consul]=={VERSION}"), "psycopg[binary]"]);
    process::run(pip, Duration::from_secs(600)).await?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    File::create(complete)?;
    Ok(dir.to_owned())
}
