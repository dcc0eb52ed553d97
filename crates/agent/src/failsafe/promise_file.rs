//! The promise as it survives the daemon, and a machine that starts anew: `<data_dir>.failsafe`.

use std::{path::Path, time::Duration};

use ptarmigan_ha::failsafe::Promise;
use ptarmigan_types::Monotonic;
use serde::{Deserialize, Serialize};

use crate::kept_file::{self, Error, KeptFile, Place};

/// The file of one node.
#[derive(Debug)]
pub struct PromiseFile {
    file: KeptFile,
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
        let file = KeptFile::beside(data_dir, "failsafe");
        Self { file, boot_id: kept_file::boot_id() }
    }

    /// Stores a promise for good before it returns.
    ///
    /// # Errors
    /// The first place's, where no place can be written to.
    pub fn write(&self, promise: &Promise, now: Monotonic) -> Result<(), Error> {
        let lasts = promise.until.since(now);
        let stored = Stored { promise: promise.clone(), boot_id: self.boot_id.clone(), lasts };
        let text = serde_json::to_string(&stored).expect("invariant: a promise is plain data");
        self.file.write(&text)
    }

    /// The promise that holds longest.
    pub fn read(&self, now: Monotonic) -> Option<Promise> {
        let promises = self.file.read().filter_map(|(place, text)| {
            let text = text.inspect_err(|error| {
                tracing::error!("{place}: the promise of failsafe mode cannot be read: {error}");
            });
            self.parse(place, &text.ok()?, now)
        });
        promises.max_by_key(|promise| promise.until)
    }

    fn parse(&self, place: &Place, text: &str, now: Monotonic) -> Option<Promise> {
        let stored: Stored = match serde_json::from_str(text) {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!("{place}: not a promise of failsafe mode: {error}");
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
        self.file.remove()
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
        let file =
            KeptFile::at(vec![Place::File(folder.join("data.failsafe")), Place::File(folder.join("run"))]);
        PromiseFile { file, boot_id: "this life".into() }
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
    fn garbage_is_no_promise() {
        let folder = tempfile::tempdir().unwrap();
        let file = files(folder.path());
        file.write(&promise(Monotonic(9)), Monotonic(1)).unwrap();
        std::fs::write(folder.path().join("run"), "{}").unwrap();
        assert_eq!(file.read(Monotonic(2)), Some(promise(Monotonic(9))));
    }
}
