//! The guardian's upgrade in place: it executes the new program under its own process id. PostgreSQL stays its child, its lock
//! stays held, and what it knows goes over in a file in memory.

// Descriptors that come as numbers from the former program are taken over unchecked.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use super::arguments::Arguments;
use super::listen::Socket;
use crate::protocol::{Deadline, Exit, Fence, Postmaster};

/// The version of [`Carried`]. A program that knows another one refuses to go on, before anything is given up for it.
pub(super) const VERSION: u32 = 1;

/// Everything that a guardian knows, in what goes over to the next program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) v: u32,
    pub(super) generation: u64,
    pub(super) postmaster: Option<Postmaster>,
    pub(super) deadline: Deadline,
    pub(super) last_exit: Option<Exit>,
    pub(super) last_fence: Option<Fence>,
    pub(super) oom_score_adj: Option<String>,
}

/// The descriptors of the listening socket, the lock, and [`Carried`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    pub(super) listener: RawFd,
    pub(super) lock: RawFd,
    state: RawFd,
}

impl Descriptors {
    /// As [`execute`] writes them on the command line.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(',').map(|number| number.parse().ok().filter(|&fd: &RawFd| fd > 2));
        let (listener, lock, state) = (numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(Self { listener, lock, state })
    }

    /// What the former program knew.
    pub(super) fn read(self) -> io::Result<Carried> {
        // SAFETY: the former program left this descriptor open for us and named it; nothing else of ours has it.
        let mut file = unsafe { File::from_raw_fd(self.state) };
        let mut text = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut text)?;
        let carried: Carried = serde_json::from_slice(&text)?;
        if carried.v != VERSION {
            let message = format!("the former program's state has version {}, not {VERSION}", carried.v);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(carried)
    }

    /// Takes a descriptor over, which no child is to have.
    pub(super) fn take(fd: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: as above.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        Ok(fd)
    }
}

/// Becomes another program. Returns only where that failed, and then nothing has changed but what is done about signals.
pub(super) fn execute(
    program: &Path,
    arguments: &Arguments,
    socket: &Socket,
    carried: &Carried,
) -> io::Error {
    let attempt = || -> io::Result<io::Error> {
        let mut state = File::from(memfd_create(c"ptarmigan-guardian", MemfdFlags::CLOEXEC)?);
        state.write_all(&serde_json::to_vec(carried)?)?;
        let kept = [socket.listener.as_fd(), socket.lock.as_fd(), state.as_fd()];
        for fd in kept {
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        let [listener, lock, state] = kept.map(|fd| fd.as_raw_fd());
        // Here is one of the process helpers that the rest of the project is sent to.
        #[allow(clippy::disallowed_methods)]
        let mut command = Command::new(program);
        command.args(arguments.words()).arg("--resume").arg(format!("{listener},{lock},{state}"));
        let error = command.exec();
        for fd in kept {
            fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        }
        Ok(error)
    };
    attempt().unwrap_or_else(|error| error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_descriptors_beyond_the_standard_ones_are_named() {
        assert_eq!(Descriptors::parse("3,4,5"), Some(Descriptors { listener: 3, lock: 4, state: 5 }));
        for wrong in ["", "3,4", "3,4,5,6", "3,4,x", "0,4,5", "-1,4,5"] {
            assert_eq!(Descriptors::parse(wrong), None, "{wrong}");
        }
    }
}
