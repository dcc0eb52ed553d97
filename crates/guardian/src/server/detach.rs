//! Leaving the daemon's family: the guardian is neither its child nor in its session or process group, so that no
//! signal to them, no Ctrl-C and no `KillMode=process` reaches it.
//!
//! The process that the daemon started waits until the guardian listens, and exits with that outcome.

// fork has no safe wrapper: a child process of a program with threads may not do much. There are none here.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitOptions, setsid, waitpid};

use super::EXIT_FAILED;

/// Which of the two processes this is.
pub(super) enum Side {
    /// The one the daemon started; it exits with this code.
    Launcher(u8),
    /// The guardian, which owes the launcher its exit code.
    Guardian(Report),
}

/// Tells the launcher how the start went; dropped unsent, the start has failed.
pub(super) struct Report(File);

impl Report {
    pub(super) fn send(mut self, exit_code: u8) {
        // The launcher may have been killed; the guardian is of use all the same.
        let _ = self.0.write_all(&[exit_code]);
    }
}

/// Forks twice, with a new session between: the grandchild is no session leader and never gets a terminal.
pub(super) fn detach() -> io::Result<Side> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    if let Some(child) = fork()? {
        drop(write);
        return Ok(Side::Launcher(await_report(child, read)));
    }
    drop(read);
    setsid()?;
    if fork()?.is_some() {
        // SAFETY: _exit takes a number and does not return; no destructor of the copied process must run.
        unsafe { libc::_exit(0) }
    }
    Ok(Side::Guardian(Report(File::from(write))))
}

fn await_report(child: Pid, read: OwnedFd) -> u8 {
    let mut code = [EXIT_FAILED];
    let _ = waitpid(Some(child), WaitOptions::empty());
    match File::from(read).read_exact(&mut code) {
        Ok(()) => code[0],
        Err(_) => EXIT_FAILED,
    }
}

/// The child's pid in the parent, `None` in the child.
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this process has one thread, so the child may do whatever the parent might have done.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}
