//! Questions to the machine that a configuration is checked on.

use std::{
    fs,
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a host may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What the validator asks the machine.
pub trait Checks {
    /// Whether something accepts TCP connections there.
    ///
    /// # Errors
    /// Where the name of the host cannot be resolved.
    fn is_listening(&self, host: &str, port: u16) -> Result<bool, String>;

    /// Whether a folder exists; an empty name is no fault.
    ///
    /// # Errors
    /// What is wrong with it.
    fn folder(&self, path: &str) -> Result<(), String>;

    /// Whether a program can be run, in `dir` or, without, in `PATH`.
    fn has_program(&self, name: &str, dir: Option<&str>) -> bool;

    /// Whether a data directory is missing, empty, or one of the version of the programs.
    ///
    /// # Errors
    /// What is wrong with it.
    fn data_dir(&self, path: &str, bin_dir: Option<&str>, postgres: &str) -> Result<(), String>;
}

/// The real machine.
pub struct SystemChecks<V> {
    postgres_version: V,
}

impl<V: Fn(&Path) -> Option<String>> SystemChecks<V> {
    /// `postgres_version` runs `<program> --version` and returns the major version (`15`, `9.6`).
    pub const fn new(postgres_version: V) -> Self {
        Self { postgres_version }
    }
}

impl<V: Fn(&Path) -> Option<String>> Checks for SystemChecks<V> {
    fn is_listening(&self, host: &str, port: u16) -> Result<bool, String> {
        let host = if matches!(host, "*" | "" | "0.0.0.0") { "127.0.0.1" } else { host };
        let addresses = (host, port).to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
        Ok(addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok()))
    }

    fn folder(&self, path: &str) -> Result<(), String> {
        let folder = Path::new(path);
        if path.is_empty() || folder.is_dir() {
            Ok(())
        } else if folder.exists() {
            Err(format!("'{path}' is not a directory."))
        } else {
            Err(format!("Directory '{path}' does not exist."))
        }
    }

    fn has_program(&self, name: &str, dir: Option<&str>) -> bool {
        find_program(name, dir).is_some()
    }

    fn data_dir(&self, path: &str, bin_dir: Option<&str>, postgres: &str) -> Result<(), String> {
        let folder = Path::new(path);
        if path.is_empty() {
            return Err("is an empty string".to_owned());
        }
        if !folder.exists() {
            return Ok(());
        }
        let Ok(mut entries) = fs::read_dir(folder) else {
            return Err(if folder.is_dir() { "cannot be read" } else { "is not a directory" }.to_owned());
        };
        // What begins with a dot, and lost+found, may be there in a new file system.
        let is_content = |name: &str| !name.starts_with('.') && name != "lost+found";
        if !entries.any(|entry| entry.is_ok_and(|entry| is_content(&entry.file_name().to_string_lossy()))) {
            return Ok(());
        }
        let Ok(version) = fs::read_to_string(folder.join("PG_VERSION")) else {
            return Err("doesn't look like a valid data directory".to_owned());
        };
        let version = version.trim();
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        let wal = if major >= 10 { "pg_wal" } else { "pg_xlog" };
        if !folder.join(wal).is_dir() {
            return Err(format!(
                "data dir for the cluster is not empty, but doesn't contain \"{wal}\" directory"
            ));
        }
        let program = find_program(postgres, bin_dir).unwrap_or_else(|| PathBuf::from(postgres));
        let installed = (self.postgres_version)(&program).unwrap_or_default();
        if installed == version {
            return Ok(());
        }
        Err(format!(
            "data_dir directory postgresql version ({version}) doesn't match with 'postgres --version' output \
             ({installed})"
        ))
    }
}

fn find_program(name: &str, dir: Option<&str>) -> Option<PathBuf> {
    let runs = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.is_file() && is_executable(&meta));
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(runs);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = match dir {
        Some(dir) => vec![PathBuf::from(dir)],
        None => std::env::split_paths(&path).collect(),
    };
    folders.into_iter().map(|folder| folder.join(name)).find(runs)
}

#[cfg(unix)]
fn is_executable(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;

    meta.permissions().mode() & 0o111 != 0
}

/// The decision core, which reads this crate's settings, also builds where files have no modes.
#[cfg(not(unix))]
fn is_executable(_: &fs::Metadata) -> bool {
    true
}
