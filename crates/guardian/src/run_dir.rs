//! Where a guardian and its clients meet: `<base>/<hash>/`, with `guardian.sock` and `guardian.lock` in it.
//!
//! `<base>` is `$PTARMIGAN_RUN_DIR`, else `/run/ptarmigan` where that exists and we may write to it, else
//! `/tmp/ptarmigan-<uid>`. `<hash>` is the 64-bit FNV-1a of the data directory's canonical path as 16 lower-case hex
//! digits: it stays the same in every release, because a new daemon must find an old guardian. Nothing is put into
//! the data directory, because pg_basebackup would copy it.
//!
//! The folder must last as long as the guardian, not only as long as the daemon: under systemd that means
//! `RuntimeDirectoryPreserve=yes`, and no `PrivateTmp=yes` where `/tmp` is used. A daemon that finds the folder
//! emptied starts a second guardian, to which the running PostgreSQL is a foreign process.
//!
//! Whoever can write to these folders can command PostgreSQL, so a folder that is not ours alone is refused.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Why no run folder could be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory or a run folder could not be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could put files there, or has.
    #[error("{path}: refused as a run folder: {reason}")]
    Unsafe {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A unix socket's path has 107 bytes at most.
    #[error("{path}: too long for a unix socket; choose a shorter PTARMIGAN_RUN_DIR")]
    TooLong {
        /// The socket's path.
        path: PathBuf,
    },
}

const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The run folder of one data directory. It exists and is ours alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The run folder of `data_dir`, created where missing. `base` overrides `$PTARMIGAN_RUN_DIR` and the defaults.
    /// The data directory itself need not exist yet.
    ///
    /// # Errors
    /// Where no safe folder can be had.
    pub fn create(data_dir: &Path, base: Option<&Path>) -> Result<Self, Error> {
        let canonical = canonical(data_dir).map_err(io_error(data_dir))?;
        let base = base_dir(base)?;
        let base = fs::canonicalize(&base).map_err(io_error(&base))?;
        let dir = base.join(name(&canonical));
        create_private(&dir)?;
        Self::open(&dir)
    }

    /// A run folder that exists.
    ///
    /// # Errors
    /// Where it does not, or is not ours alone.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        check_private(dir)?;
        let run_dir = Self(dir.to_owned());
        let socket = run_dir.socket();
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(Error::TooLong { path: socket });
        }
        Ok(run_dir)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the guardian listens.
    pub fn socket(&self) -> PathBuf {
        self.0.join("guardian.sock")
    }

    /// Held with flock by the living guardian; holds its pid.
    pub fn lock(&self) -> PathBuf {
        self.0.join("guardian.lock")
    }
}

/// The run folder's name for a canonical path: 64-bit FNV-1a in hex.
pub fn name(canonical_data_dir: &Path) -> String {
    let hash =
        canonical_data_dir.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

/// The canonical path that `path` has or, before a bootstrap, will have.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(canonical(parent)?.join(name))
        }
        (result, ..) => result,
    }
}

fn base_dir(given: Option<&Path>) -> Result<PathBuf, Error> {
    let from_env = std::env::var_os("PTARMIGAN_RUN_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(base) = given.map(Path::to_owned).or(from_env) {
        if !base.exists() {
            create_private(&base)?;
        }
        check_base(&base)?;
        return Ok(base);
    }
    let system = Path::new("/run/ptarmigan");
    if rustix::fs::access(system, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok() {
        check_base(system)?;
        return Ok(system.to_owned());
    }
    let own = PathBuf::from(format!("/tmp/ptarmigan-{}", own_uid()));
    create_private(&own)?;
    check_private(&own)?;
    Ok(own)
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn create_private(dir: &Path) -> Result<(), Error> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error(dir)(error)),
        _ => Ok(()),
    }
}

/// A folder, not a symlink, ours, closed to everybody else.
fn check_private(dir: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(dir).map_err(io_error(dir))?;
    let refuse = |reason| Err(Error::Unsafe { path: dir.to_owned(), reason });
    if !meta.is_dir() {
        refuse("it is not a folder")
    } else if meta.uid() != own_uid() {
        refuse("it belongs to another user")
    } else if meta.mode() & 0o077 != 0 {
        refuse("its mode is not 0700")
    } else {
        Ok(())
    }
}

/// A folder in which nobody else can replace ours: of the administrator or ourselves, and sticky if open to all.
fn check_base(dir: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(dir).map_err(io_error(dir))?;
    let refuse = |reason| Err(Error::Unsafe { path: dir.to_owned(), reason });
    if !meta.is_dir() {
        refuse("it is not a folder")
    } else if meta.uid() != own_uid() && meta.uid() != 0 {
        refuse("it belongs to another user")
    } else if meta.mode() & 0o002 != 0 && meta.mode() & 0o1000 == 0 {
        refuse("everybody may write to it")
    } else {
        Ok(())
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn name_is_fnv_1a_and_stable() {
        // Published test values of FNV-1a.
        assert_eq!(name(Path::new("")), "cbf29ce484222325");
        assert_eq!(name(Path::new("a")), "af63dc4c8601ec8c");
        assert_eq!(name(Path::new("foobar")), "85944171f73967e8");
    }

    #[test]
    fn created_private_and_the_same_for_every_spelling_of_the_data_directory() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        fs::create_dir(&data).unwrap();
        symlink(&data, temp.path().join("link")).unwrap();
        let base = temp.path().join("run");
        fs::remove_dir(&data).unwrap();
        let before = RunDir::create(&data, Some(&base)).unwrap();
        fs::create_dir(&data).unwrap();
        let one = RunDir::create(&data, Some(&base)).unwrap();
        let two = RunDir::create(&temp.path().join("link/../data/."), Some(&base)).unwrap();
        assert_eq!(one, two);
        assert_eq!(one, before);
        assert_eq!(fs::metadata(one.path()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(one.path(), base.join(name(&fs::canonicalize(&data).unwrap())));
    }

    #[test]
    fn symlinks_open_folders_and_long_paths_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        fs::create_dir(&data).unwrap();
        let refused = |base: &Path| RunDir::create(&data, Some(base)).unwrap_err();

        let link = temp.path().join("link");
        symlink(temp.path(), &link).unwrap();
        assert!(matches!(refused(&link), Error::Unsafe { reason: "it is not a folder", .. }));

        let open = temp.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(refused(&open), Error::Unsafe { reason: "everybody may write to it", .. }));
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        let dir = RunDir::create(&data, Some(&open)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(refused(&open), Error::Unsafe { reason: "its mode is not 0700", .. }));
        fs::remove_dir(dir.path()).unwrap();
        symlink(temp.path(), dir.path()).unwrap();
        assert!(matches!(refused(&open), Error::Unsafe { reason: "it is not a folder", .. }));

        assert!(matches!(refused(&temp.path().join("x".repeat(100))), Error::TooLong { .. }));
    }

    #[test]
    fn another_users_folder_is_refused() {
        if own_uid() != 0 {
            eprintln!("skipped: only root can make a folder of another user");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(temp.path(), Some(12_345), None).unwrap();
        let error = RunDir::create(Path::new("/"), Some(temp.path())).unwrap_err();
        assert!(matches!(error, Error::Unsafe { reason: "it belongs to another user", .. }), "{error}");
    }
}
