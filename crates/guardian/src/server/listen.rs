//! The lock and the socket: there is one guardian for a data directory, and this is how it is found.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use super::upgrade::Descriptors;
use crate::run_dir::RunDir;

/// The listening socket, under the lock.
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Held until the process ends.
    pub(super) lock: File,
}

impl Socket {
    /// Takes the lock, then the socket; `None` where another guardian has the lock.
    pub(super) fn claim(run_dir: &RunDir) -> io::Result<Option<Self>> {
        let Some(lock) = take_lock(run_dir)? else { return Ok(None) };
        let path = run_dir.socket();
        // With the lock ours, nobody listens there: it is what a killed guardian left.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Some(Self { listener, path, lock }))
    }

    /// What the former program held.
    pub(super) fn resume(run_dir: &RunDir, left: Descriptors) -> io::Result<Self> {
        let listener = UnixListener::from(Descriptors::take(left.listener)?);
        listener.set_nonblocking(true)?;
        let lock = File::from(Descriptors::take(left.lock)?);
        Ok(Self { listener, path: run_dir.socket(), lock })
    }

    /// Removes the socket's file. The lock's file stays: a program waiting for a removed one would hold a lock that
    /// nobody else sees.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn take_lock(run_dir: &RunDir) -> io::Result<Option<File>> {
    loop {
        let path = run_dir.lock();
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            other => other?,
        }
        // A cleaner of /tmp may have removed the file between open and flock; then another one is what counts.
        if fs::metadata(&path).is_ok_and(|meta| file.metadata().is_ok_and(|own| own.ino() == meta.ino())) {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            return Ok(Some(file));
        }
    }
}
