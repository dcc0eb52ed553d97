//! The data directory as a thing on disk: empty or not, removal, and putting a failed one aside
//! (contract B.8, B.17.3, HA-060). Nothing here runs while a PostgreSQL process works in the directory.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Why a data directory could not be touched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A PostgreSQL process has it as its working directory.
    #[error("data directory {path} is in use by process {pid}")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process.
        pid: u32,
    },
    /// A link in it points at a folder that contains the data directory itself.
    #[error("{link} points at {target}, which contains the data directory")]
    LinkToParent {
        /// The link.
        link: PathBuf,
        /// What it points at.
        target: PathBuf,
    },
    /// The file system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The thread that did the work is gone.
    #[error("the removal was interrupted")]
    Interrupted,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// What is in a data directory (contract B.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// No `global/pg_control`, and the directory is missing or holds only dot-files and `lost+found`.
    Empty,
    /// Something is there.
    Present,
    /// It cannot be read, and why.
    Unreadable(String),
}

/// Looks into a data directory (contract B.8, "Empty").
pub fn content(data_dir: &Path) -> Content {
    match data_dir.join("global/pg_control").try_exists() {
        Ok(true) => return Content::Present,
        Ok(false) => {}
        Err(error) => return Content::Unreadable(error.to_string()),
    }
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Content::Empty,
        Err(error) => return Content::Unreadable(error.to_string()),
    };
    for entry in entries {
        match entry {
            Ok(entry) => {
                let name = entry.file_name();
                if !name.as_encoded_bytes().starts_with(b".") && name != "lost+found" {
                    return Content::Present;
                }
            }
            Err(error) => return Content::Unreadable(error.to_string()),
        }
    }
    Content::Empty
}

/// The first PostgreSQL process that works in `data_dir`: the postmaster, an orphaned backend, a single-user server, or a
/// `pg_rewind` or `pg_basebackup` that has outlived the daemon which began it.
/// Processes of other users, which nobody but root can look into, are not seen; they could not own this directory.
pub fn holder(data_dir: &Path) -> Option<u32> {
    let data_dir = fs::canonicalize(data_dir).ok()?;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if works_in(&entry.path(), &data_dir) {
            return Some(pid);
        }
    }
    None
}

fn works_in(proc_dir: &Path, data_dir: &Path) -> bool {
    let Ok(exe) = fs::read_link(proc_dir.join("exe")) else { return false };
    // An upgraded package leaves "/usr/lib/postgresql/15/bin/postgres (deleted)".
    let name = exe.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.strip_suffix(" (deleted)").unwrap_or(name) {
        "postgres" | "postmaster" | "edb-postgres" | "enterprisedb" => {
            fs::read_link(proc_dir.join("cwd")).is_ok_and(|cwd| cwd == data_dir)
        }
        "pg_rewind" | "pg_basebackup" => fs::read(proc_dir.join("cmdline")).is_ok_and(|arguments| {
            arguments.split(|byte| *byte == 0).any(|argument| names_directory(argument, data_dir))
        }),
        _ => false,
    }
}

/// `<data_dir>` or `--pgdata=<data_dir>`.
fn names_directory(argument: &[u8], data_dir: &Path) -> bool {
    let value = argument.split(|byte| *byte == b'=').next_back().unwrap_or(argument);
    let path = Path::new(OsStr::from_bytes(value));
    path.is_absolute() && fs::canonicalize(path).is_ok_and(|path| path == data_dir)
}

/// Links in a data directory that lead outside: `pg_wal` (`pg_xlog`) and the tablespaces.
fn outside_links(data_dir: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    let inside = fs::canonicalize(data_dir).map_err(failed("resolve", data_dir))?;
    let mut links = vec![data_dir.join("pg_wal"), data_dir.join("pg_xlog")];
    if let Ok(entries) = fs::read_dir(data_dir.join("pg_tblspc")) {
        links.extend(entries.flatten().map(|entry| entry.path()));
    }
    let mut found = Vec::new();
    for link in links {
        if !link.is_symlink() {
            continue;
        }
        let Ok(target) = fs::canonicalize(&link) else { continue };
        if inside.starts_with(&target) {
            return Err(Error::LinkToParent { link, target });
        }
        if !target.starts_with(&inside) && target.is_dir() {
            found.push((link, target));
        }
    }
    Ok(found)
}

/// Removes the data directory, the target of its `pg_wal` link and the contents of its tablespaces; where that fails,
/// puts it aside as [`rename_failed`] does (contract B.17.3). A mount point or the target of a link stays, empty.
///
/// # Errors
/// It is in use, or neither removal nor renaming worked.
pub async fn remove(data_dir: &Path) -> Result<(), Error> {
    let data_dir = data_dir.to_owned();
    blocking(move || {
        tracing::info!("Removing data directory: {}", data_dir.display());
        match remove_now(&data_dir) {
            Err(error @ Error::Io { .. }) => {
                tracing::error!("Could not remove data directory: {error}");
                rename_now(&data_dir).map(|_| ())
            }
            other => other,
        }
    })
    .await
}

/// Renames the data directory to `<path>.failed`, and so the targets of its `pg_wal` and tablespace links
/// (contract HA-060); an older `.failed` is removed. Returns the new name, `None` where there was nothing.
///
/// # Errors
/// It is in use, or the file system refused (a mount point cannot be renamed).
pub async fn rename_failed(data_dir: &Path) -> Result<Option<PathBuf>, Error> {
    let data_dir = data_dir.to_owned();
    blocking(move || rename_now(&data_dir)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let work = move || {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)?
}

/// A removal whose caller was cancelled goes on in its thread: the next one waits for it, because it must not find the files
/// of the copy that comes after.
static TURN: Mutex<()> = Mutex::new(());

fn refuse_when_held(data_dir: &Path) -> Result<(), Error> {
    holder(data_dir).map_or(Ok(()), |pid| Err(Error::InUse { path: data_dir.to_owned(), pid }))
}

fn remove_now(data_dir: &Path) -> Result<(), Error> {
    let Ok(metadata) = fs::metadata(data_dir) else {
        return Ok(());
    };
    refuse_when_held(data_dir)?;
    if !metadata.is_dir() {
        return fs::remove_file(data_dir).map_err(failed("remove", data_dir));
    }
    let links = outside_links(data_dir)?;
    // First of all: what is left of a removal that was interrupted must never start.
    remove_file_if_there(&data_dir.join("global/pg_control"))?;
    for (_, target) in links {
        tracing::info!("Removing the contents of {}", target.display());
        remove_contents(&target)?;
        let _ = fs::remove_dir(&target);
    }
    remove_contents(data_dir)?;
    if !data_dir.is_symlink() {
        // Fails for a mount point or below a folder of another owner; an empty directory serves as well.
        let _ = fs::remove_dir(data_dir);
    }
    Ok(())
}

fn remove_file_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(failed("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Empties a folder; a mount point below it is emptied too and stays, `lost+found` at the top stays.
pub(crate) fn remove_contents(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let entry = entry.map_err(failed("read", folder))?;
        let path = entry.path();
        if entry.file_name() == "lost+found" {
            continue;
        }
        let kind = entry.file_type().map_err(failed("look at", &path))?;
        if !kind.is_dir() {
            remove_file_if_there(&path)?;
            continue;
        }
        match fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                tracing::warn!("{} is a mount point, it stays as an empty folder", path.display());
                remove_contents(&path)?;
            }
            Err(error) => return Err(failed("remove", &path)(error)),
        }
    }
    Ok(())
}

fn rename_now(data_dir: &Path) -> Result<Option<PathBuf>, Error> {
    if !data_dir.is_dir() {
        return Ok(None);
    }
    refuse_when_held(data_dir)?;
    for (link, target) in outside_links(data_dir)? {
        let aside = move_aside(&target)?;
        fs::remove_file(&link).map_err(failed("remove", &link))?;
        std::os::unix::fs::symlink(&aside, &link).map_err(failed("link", &link))?;
    }
    let linked = data_dir.is_symlink();
    let real = fs::canonicalize(data_dir).map_err(failed("resolve", data_dir))?;
    let aside = move_aside(&real)?;
    if linked {
        // The link must not dangle: initdb and pg_basebackup cannot create what it points at.
        fs::create_dir(&real).map_err(failed("create", &real))?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&real, fs::Permissions::from_mode(0o700)).map_err(failed("chmod", &real))?;
    }
    Ok(Some(aside))
}

fn move_aside(folder: &Path) -> Result<PathBuf, Error> {
    let mut name = folder.as_os_str().to_owned();
    name.push(".failed");
    let aside = PathBuf::from(name);
    if aside.is_symlink() || aside.is_file() {
        fs::remove_file(&aside).map_err(failed("remove", &aside))?;
    } else if aside.is_dir() {
        fs::remove_dir_all(&aside).map_err(failed("remove", &aside))?;
    }
    tracing::info!("renaming {} to {}", folder.display(), aside.display());
    fs::rename(folder, &aside).map_err(failed("rename", folder))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn data_dir() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        fs::create_dir_all(data.join("global")).unwrap();
        fs::write(data.join("global/pg_control"), "x").unwrap();
        for folder in ["wal", "space", "data/pg_tblspc"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("wal/0001"), "x").unwrap();
        fs::create_dir_all(root.path().join("space/PG_15_1/5")).unwrap();
        symlink(root.path().join("wal"), data.join("pg_wal")).unwrap();
        symlink(root.path().join("space"), data.join("pg_tblspc/16400")).unwrap();
        (root, data)
    }

    #[test]
    fn b_8_empty_is_missing_or_hidden_files_only() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        assert_eq!(content(&data), Content::Empty);
        fs::create_dir(&data).unwrap();
        fs::create_dir(data.join("lost+found")).unwrap();
        fs::write(data.join(".snapshot"), "").unwrap();
        assert_eq!(content(&data), Content::Empty);
        fs::create_dir(data.join("global")).unwrap();
        assert_eq!(content(&data), Content::Present);
        fs::write(root.path().join("file"), "").unwrap();
        assert!(matches!(content(&root.path().join("file")), Content::Unreadable(_)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "looked at while it runs, and ended by its standard input")]
    fn a_program_that_outlived_its_daemon_holds_the_data_directory() {
        use std::{
            io::Read as _,
            process::{Command, Stdio},
        };
        let (root, data) = data_dir();
        for name in ["pg_rewind", "pg_basebackup", "other"] {
            let program = root.path().join(name);
            fs::copy("/bin/sh", &program).unwrap();
            let script = ["-c", "echo; read line"];
            let mut child = Command::new(&program)
                .args(script)
                .arg(format!("--pgdata={}", data.display()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            let expected = (name != "other").then(|| child.id());
            assert_eq!(holder(&data), expected, "{name}");
            assert_eq!(holder(root.path()), None);
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        assert_eq!(holder(&data), None);
    }

    #[tokio::test]
    async fn b_17_3_removal_takes_wal_and_tablespaces_along() {
        let (root, data) = data_dir();
        fs::write(root.path().join("neighbour"), "x").unwrap();
        remove(&data).await.unwrap();
        assert_eq!(content(&data), Content::Empty);
        assert!(!root.path().join("wal/0001").exists());
        assert!(!root.path().join("space/PG_15_1").exists());
        assert!(root.path().join("neighbour").exists());
        remove(&data).await.unwrap();
    }

    #[tokio::test]
    async fn b_17_3_a_link_as_data_directory_stays() {
        let (root, data) = data_dir();
        let link = root.path().join("link");
        symlink(&data, &link).unwrap();
        remove(&link).await.unwrap();
        assert!(link.is_dir());
        assert_eq!(content(&link), Content::Empty);
        assert!(!data.join("global").exists());
    }

    #[tokio::test]
    async fn ha_60_failed_directory_is_put_aside_with_its_links() {
        let (root, data) = data_dir();
        for _ in 0..2 {
            let aside = rename_failed(&data).await.unwrap().unwrap();
            assert_eq!(aside.file_name().unwrap(), "data.failed");
            assert!(!data.exists());
            assert!(aside.join("pg_wal/0001").exists());
            assert!(aside.join("pg_tblspc/16400/PG_15_1/5").exists());
            assert!(!root.path().join("wal").exists());
            // A second failure replaces the first.
            fs::remove_dir_all(root.path().join("wal.failed")).unwrap();
            fs::rename(&aside, &data).unwrap();
            fs::create_dir(root.path().join("wal")).unwrap();
            fs::write(root.path().join("wal/0001"), "x").unwrap();
            fs::remove_file(data.join("pg_wal")).unwrap();
            symlink(root.path().join("wal"), data.join("pg_wal")).unwrap();
            fs::rename(root.path().join("space.failed"), root.path().join("space")).unwrap();
            fs::remove_file(data.join("pg_tblspc/16400")).unwrap();
            symlink(root.path().join("space"), data.join("pg_tblspc/16400")).unwrap();
        }
        assert_eq!(rename_failed(&root.path().join("nothing")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_link_to_a_parent_is_refused() {
        let (root, data) = data_dir();
        symlink(root.path(), data.join("pg_tblspc/1")).unwrap();
        assert!(matches!(remove(&data).await, Err(Error::LinkToParent { .. })));
        assert!(data.join("global/pg_control").exists());
    }

    #[tokio::test]
    async fn removal_waits_for_one_whose_caller_gave_up() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        let (go, waits) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let slow = blocking(move || {
            let _ = begun.send(());
            let _ = waits.recv();
            Ok(())
        });
        tokio::select! {
            biased;
            _ = slow => panic!("it has not ended"),
            _ = begins => {}
        }
        let mut next = Box::pin(remove(&data_dir));
        let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut next).await;
        assert!(early.is_err() && data_dir.exists());
        go.send(()).unwrap();
        next.await.unwrap();
        assert!(!data_dir.exists());
    }
}
