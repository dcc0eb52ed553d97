//! A process that was running before us and is no child of anybody of ours: a PostgreSQL started by hand.
//!
//! Only the postmaster itself is watched: that it has exited does not mean that its backends have. See
//! [`crate::process::with_cwd`].

// tokio asks its callers to promise that a registered descriptor stays the same; that promise is `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::pidfd_send_signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::protocol::SignalName;
use crate::{RawPid, process};

/// A handle on one process, which never comes to mean another one of the same pid.
#[derive(Debug)]
pub struct ForeignProcess {
    pid: RawPid,
    start_time_ticks: u64,
    pidfd: AsyncFd<OwnedFd>,
}

impl ForeignProcess {
    /// Takes hold of a process. Inside a tokio runtime only.
    ///
    /// # Errors
    /// As [`process::descriptor`].
    pub fn open(pid: RawPid) -> io::Result<Self> {
        let (pidfd, start_time_ticks) = process::descriptor(pid)?;
        // SAFETY: an OwnedFd names the same open file until it is dropped, and nobody else can close it.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Self { pid, start_time_ticks, pidfd })
    }

    /// Its process id.
    pub const fn pid(&self) -> RawPid {
        self.pid
    }

    /// Its start time in clock ticks since boot.
    pub const fn start_time_ticks(&self) -> u64 {
        self.start_time_ticks
    }

    /// Resolves when it has exited, at once where it already has. How it ended, only its parent knows.
    ///
    /// # Errors
    /// Where the runtime is shutting down.
    pub async fn exited(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// Signals it, and never another process that got its pid.
    ///
    /// # Errors
    /// Where it is gone or another user's.
    pub fn signal(&self, signal: SignalName) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, signal.signal())?)
    }
}

/// Resolves when the process has exited, at once where none of that pid lives.
///
/// # Errors
/// As [`ForeignProcess::open`], except `NotFound`.
pub async fn watch_foreign(pid: RawPid) -> io::Result<()> {
    match ForeignProcess::open(pid) {
        Ok(process) => process.exited().await,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
