//! One postmaster: a child of ours, or one that somebody else started.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use ptarmigan_clock::now;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::{data_dir, log};
use crate::{RawPid, process};

/// How long a postmaster is given to obey SIGSTOP before its children are left to the sweep.
const FREEZE_WAIT: Duration = Duration::from_millis(50);

/// What signals reach it by.
pub(super) enum Handle {
    /// Until we have waited for it, its pid is nobody else's.
    Child(RawPid),
    /// Its pid may become another process's at any time.
    Adopted(RawPid, OwnedFd),
}

impl Handle {
    /// Takes hold of a postmaster that works in the data directory.
    pub(super) fn adopt(pid: RawPid, start_time_ticks: u64, dir: &Path) -> io::Result<Self> {
        let raw = Some(pid).filter(|&pid| pid > 0).and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK)?;
        // Looked at after the pidfd was opened: then it is that process that the pidfd names.
        if process::start_time_ticks(pid)? != start_time_ticks || !data_dir::works_in(pid, dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self::Adopted(pid, pidfd))
    }

    pub(super) const fn pid(&self) -> RawPid {
        match self {
            Self::Child(pid) | Self::Adopted(pid, _) => *pid,
        }
    }

    /// Readable once an adopted one has ended.
    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Child(_) => None,
            Self::Adopted(_, pidfd) => Some(pidfd.as_fd()),
        }
    }

    /// Whether an adopted one has ended; of a child, the kernel tells by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.pidfd().is_some_and(|pidfd| !process::lives(pidfd))
    }

    pub(super) fn send(&self, signal: Signal) -> Result<(), Errno> {
        match self {
            Self::Child(pid) => send(*pid, signal),
            Self::Adopted(_, pidfd) => pidfd_send_signal(pidfd, signal),
        }
    }

    /// Kills one that was told to freeze, and its children; those are added to `killed`.
    pub(super) fn kill_frozen(&self, killed: &mut BTreeSet<RawPid>) -> Result<(), Errno> {
        let pid = self.pid();
        let list = || process::children(pid).unwrap_or_default();
        // Once frozen it cannot free its children's pids for others. If it does not freeze (it sleeps in the kernel), it
        // runs no code of its own any more once it is killed.
        let mut children = if freezes(pid) { list() } else { Vec::new() };
        let result = self.send(Signal::KILL);
        if children.is_empty() && !self.has_ended() {
            children = list();
        }
        kill_all(children, killed);
        log(format_args!("froze and killed postmaster {pid} and {} children", killed.len()));
        result
    }
}

/// Kills those that were not killed before.
pub(super) fn kill_all(pids: Vec<RawPid>, killed: &mut BTreeSet<RawPid>) {
    for pid in pids {
        if !killed.contains(&pid) && send(pid, Signal::KILL).is_ok() {
            killed.insert(pid);
        }
    }
}

/// Waits until a process has obeyed SIGSTOP, or has exited.
fn freezes(pid: RawPid) -> bool {
    let started = now();
    while now().since(started) < FREEZE_WAIT {
        match process::stat(pid) {
            Ok(stat) if matches!(stat.state, 'T' | 't' | 'Z') => return true,
            Ok(_) => rustix::thread::sched_yield(),
            Err(_) => return false,
        }
    }
    false
}

fn send(pid: RawPid, signal: Signal) -> Result<(), Errno> {
    // Zero and negative numbers would name groups of processes.
    let pid = Some(pid).filter(|&pid| pid > 0).and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    kill_process(pid, signal)
}
