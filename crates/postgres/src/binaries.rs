//! Where the PostgreSQL programs are (`postgresql.bin_dir`, `postgresql.bin_name`).

use std::path::{Path, PathBuf};

/// A program of PostgreSQL that is run by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// The server.
    Postgres,
    /// Creates a cluster.
    Initdb,
    /// Promotes and reloads.
    PgCtl,
    /// Prints the control file.
    PgControldata,
    /// Copies a running server.
    PgBasebackup,
    /// Asks whether a server accepts connections.
    PgIsready,
    /// Takes a diverged data directory back.
    PgRewind,
    /// Prints WAL records.
    PgWaldump,
    /// Runs SQL from a script.
    Psql,
}

impl Tool {
    /// The program's usual name, which is also its key below `postgresql.bin_name`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Initdb => "initdb",
            Self::PgCtl => "pg_ctl",
            Self::PgControldata => "pg_controldata",
            Self::PgBasebackup => "pg_basebackup",
            Self::PgIsready => "pg_isready",
            Self::PgRewind => "pg_rewind",
            Self::PgWaldump => "pg_waldump",
            Self::Psql => "psql",
        }
    }
}

/// The program is not where the configuration says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `postgresql.bin_dir` is set, but the program is not in it.
    #[error("{path} does not exist: check postgresql.bin_dir and postgresql.bin_name.{key}", path = path.display())]
    NotInFolder {
        /// Where it was expected.
        path: PathBuf,
        /// The key below `postgresql.bin_name`.
        key: &'static str,
    },
    /// No `postgresql.bin_dir`, and no folder of `PATH` has the program.
    #[error("{name} is in no folder of PATH: set postgresql.bin_dir or postgresql.bin_name.{key}")]
    NotInPath {
        /// The name that was looked for.
        name: String,
        /// The key below `postgresql.bin_name`.
        key: &'static str,
    },
}

/// Finds a program: in `bin_dir` where that is not empty, else along `search_path` (the text of `PATH`).
/// `name` is `postgresql.bin_name.<tool>` where set.
pub fn find(tool: Tool, bin_dir: &Path, name: Option<&str>, search_path: &str) -> Result<PathBuf, Error> {
    let key = tool.name();
    let name = name.filter(|name| !name.is_empty()).unwrap_or(key);
    if !bin_dir.as_os_str().is_empty() || name.contains('/') {
        let path = bin_dir.join(name);
        return if path.is_file() { Ok(path) } else { Err(Error::NotInFolder { path, key }) };
    }
    std::env::split_paths(search_path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::NotInPath { name: name.to_owned(), key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_wins_over_path_and_errors_name_the_key() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("my_ctl"), "").unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(
            find(Tool::PgCtl, folder.path(), Some("my_ctl"), "").unwrap(),
            folder.path().join("my_ctl")
        );
        assert_eq!(
            find(Tool::PgCtl, Path::new(""), Some("my_ctl"), path).unwrap(),
            folder.path().join("my_ctl")
        );
        let error = find(Tool::PgCtl, folder.path(), None, path).unwrap_err().to_string();
        assert!(error.contains("postgresql.bin_dir") && error.contains("bin_name.pg_ctl"), "{error}");
        let error = find(Tool::Initdb, Path::new(""), None, path).unwrap_err().to_string();
        assert!(error.contains("initdb is in no folder of PATH"), "{error}");
    }
}
