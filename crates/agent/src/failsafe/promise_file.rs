//! Where a promise survives the daemon, and a machine that starts anew: beside the data directory, `<data_dir>.failsafe`.
//! Not in it, because `pg_basebackup` would copy it; where the folder beside it cannot be written to, in the guardian's run
//! folder.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use ptarmigan_guardian::run_dir::RunDir;
use ptarmigan_ha::failsafe::Promise;
use ptarmigan_types::Monotonic;
use serde::{Deserialize, Serialize};

/// In the run folder.
const NAME: &str = "promise";

/// Tells one life of the machine from the next, in which the clock begins anew.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What could not be done with the file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Error {
    pub(super) fn interrupted() -> Self {
        Self { path: PathBuf::new(), source: io::ErrorKind::Interrupted.into() }
    }
}

/// The file of one node.
#[derive(Debug)]
pub struct PromiseFile {
    paths: Vec<PathBuf>,
    boot_id: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    promise: Promise,
    boot_id: String,
    /// How long it lasts, counted from when it was given: in another life of the machine from when it is read.
    lasts: Duration,
}

impl PromiseFile {
    /// The file beside that data directory.
    pub fn beside(data_dir: &Path) -> Self {
        let mut beside = data_dir.as_os_str().to_owned();
        beside.push(".failsafe");
        let mut paths = vec![PathBuf::from(beside)];
        let folder = data_dir.parent().unwrap_or(data_dir);
        if rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err() {
            paths.extend(RunDir::create(data_dir, None).map(|dir| dir.path().join(NAME)));
        }
        let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        Self { paths, boot_id }
    }

    /// Stores a promise for good before it returns.
    ///
    /// # Errors
    /// The first place's, where no place can be written to.
    pub fn write(&self, promise: &Promise, now: Monotonic) -> Result<(), Error> {
        let lasts = promise.until.since(now);
        let stored = Stored { promise: promise.clone(), boot_id: self.boot_id.clone(), lasts };
        let text = serde_json::to_string(&stored).expect("invariant: a promise is plain data");
        let mut first = None;
        for path in &self.paths {
            match replace(path, text.as_bytes()) {
                Ok(()) => return Ok(()),
                Err(source) => drop(first.get_or_insert_with(|| Error { path: path.clone(), source })),
            }
        }
        Err(first.unwrap_or_else(Error::interrupted))
    }

    /// The promise that holds longest.
    pub fn read(&self, now: Monotonic) -> Option<Promise> {
        let promises = self.paths.iter().filter_map(|path| self.read_one(path, now));
        promises.max_by_key(|promise| promise.until)
    }

    fn read_one(&self, path: &Path, now: Monotonic) -> Option<Promise> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!("{}: the promise of failsafe mode cannot be read: {error}", path.display());
                return None;
            }
        };
        let stored: Stored = match serde_json::from_str(&text) {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!("{}: not a promise of failsafe mode: {error}", path.display());
                return None;
            }
        };
        let mut promise = stored.promise;
        if stored.boot_id != self.boot_id || self.boot_id.is_empty() {
            promise.until = now + stored.lasts;
        }
        Some(promise).filter(|promise| promise.holds_at(now))
    }

    /// Nothing is promised any more.
    ///
    /// # Errors
    /// A file is there and stays.
    pub fn remove(&self) -> Result<(), Error> {
        for path in &self.paths {
            match fs::remove_file(path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error { path: path.clone(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(until: Monotonic) -> Promise {
        Promise {
            to: "b".into(),
            conn_url: "postgres://b:5432/postgres".into(),
            api_url: "http://b:8008/patroni".into(),
            slots: None,
            until,
        }
    }

    fn files(folder: &Path) -> PromiseFile {
        PromiseFile {
            paths: vec![folder.join("data.failsafe"), folder.join("run")],
            boot_id: "this life".into(),
        }
    }

    #[test]
    fn fs_8_a_promise_is_there_after_the_daemon_and_after_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let file = files(folder.path());
        let at = |seconds: u64| Monotonic(seconds * 1_000_000);
        assert_eq!(file.read(at(100)), None);
        file.write(&promise(at(130)), at(100)).unwrap();
        assert_eq!(files(folder.path()).read(at(129)), Some(promise(at(130))));
        assert_eq!(file.read(at(130)), None, "it is over");
        // The clock begins anew with the machine, and how long it was off nobody knows.
        let next = PromiseFile { boot_id: "next life".into(), ..files(folder.path()) };
        assert_eq!(next.read(at(7)), Some(promise(at(37))));
        file.remove().unwrap();
        assert_eq!(file.read(at(101)), None);
        file.remove().unwrap();
    }

    #[test]
    fn the_second_place_serves_where_the_first_cannot_be_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("missing/data.failsafe");
        let file =
            PromiseFile { paths: vec![nowhere.clone(), folder.path().join("run")], ..files(folder.path()) };
        file.write(&promise(Monotonic(9)), Monotonic(1)).unwrap();
        assert_eq!(file.read(Monotonic(2)), Some(promise(Monotonic(9))));
        let none = PromiseFile { paths: vec![nowhere], ..files(folder.path()) };
        let refused = none.write(&promise(Monotonic(9)), Monotonic(1)).unwrap_err().to_string();
        assert!(refused.contains("missing/data.failsafe: "), "{refused}");
        fs::write(folder.path().join("run"), "{}").unwrap();
        assert_eq!(file.read(Monotonic(2)), None, "garbage is no promise");
    }

    #[test]
    fn it_lies_beside_the_data_directory() {
        let folder = tempfile::tempdir().unwrap();
        let file = PromiseFile::beside(&folder.path().join("data"));
        assert_eq!(file.paths[0], folder.path().join("data.failsafe"));
    }
}
