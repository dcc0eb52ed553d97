//! The password file (`postgresql.pgpass`): standbys and our programs read the password there, never in an argument.

use std::{
    collections::BTreeSet,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::dsn::ConnInfo;

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the password file {path}: {source} (postgresql.pgpass)", path = path.display())]
pub struct Error {
    path: PathBuf,
    source: std::io::Error,
}

/// The lines for a connection: one per host, `host:port:*:user:password`, and one for `localhost` where the host is
/// a socket folder (contract B.19.2). Empty without a password.
pub fn lines(info: &ConnInfo) -> Vec<String> {
    let Some(password) = info.get("password") else { return Vec::new() };
    let user = info.get("user").unwrap_or("*");
    let hosts: Vec<&str> =
        info.get("host").map_or_else(|| vec!["localhost"], |hosts| hosts.split(',').collect());
    let ports: Vec<&str> = info.get("port").unwrap_or("5432").split(',').collect();
    let mut lines = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let port = ports
            .get(index)
            .or_else(|| ports.last())
            .copied()
            .filter(|port| !port.is_empty())
            .unwrap_or("5432");
        let line = |host: &str| format!("{}:{port}:*:{}:{}", escape(host), escape(user), escape(password));
        lines.push(line(host));
        if host.starts_with('/') || host.starts_with('@') {
            lines.push(line("localhost"));
        }
    }
    lines
}

/// Replaces the file by these lines, mode 0600, by way of a temporary file; creates its folder where missing.
pub fn write(path: &Path, lines: &[String]) -> Result<(), Error> {
    let failed = |source| Error { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    // A leftover may have another mode.
    let _ = std::fs::remove_file(&temporary);
    let mut text = lines.join("\n");
    text.push('\n');
    let put = || -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    put().map_err(failed)
}

/// True where the file holds exactly these lines, in any order (contract RC-5).
pub fn matches(path: &Path, lines: &[String]) -> bool {
    let Ok(text) = std::fs::read_to_string(path) else { return false };
    let held: BTreeSet<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    held == lines.iter().map(String::as_str).collect()
}

/// `postgresql.pgpass`, or `~/pgpass` where it is not set.
pub fn path_or_default(configured: Option<&Path>) -> PathBuf {
    configured.map_or_else(
        || {
            let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
            home.map_or_else(|| PathBuf::from("/var/lib/postgresql"), PathBuf::from).join("pgpass")
        },
        Path::to_owned,
    )
}

fn escape(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn b_19_2_one_line_per_host_escaped() {
        let info = ConnInfo::new()
            .with("host", "a,fe80::1,/run")
            .with("port", "5432")
            .with("user", "rep")
            .with("password", r"p:w\");
        assert_eq!(
            lines(&info),
            [
                r"a:5432:*:rep:p\:w\\",
                r"fe80\:\:1:5432:*:rep:p\:w\\",
                r"/run:5432:*:rep:p\:w\\",
                r"localhost:5432:*:rep:p\:w\\"
            ]
        );
        assert!(lines(&ConnInfo::new().with("user", "u")).is_empty());
    }

    #[test]
    fn file_is_private_and_compared_as_a_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/pgpass");
        let two = ["a:1:*:u:p".to_owned(), "b:1:*:u:p".to_owned()];
        write(&path, &two).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches(&path, &[two[1].clone(), two[0].clone()]));
        assert!(!matches(&path, &two[..1]));
        assert!(!matches(&folder.path().join("none"), &two));
    }
}
