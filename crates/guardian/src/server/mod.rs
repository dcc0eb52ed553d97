//! `ptarmigan-guardian` itself: PostgreSQL's parent.
//!
//! One thread and one poll loop; no async runtime, because this process must be able to act when the daemon, the
//! memory or the disk cannot. It is a child subreaper: whatever a dead postmaster leaves behind becomes its child,
//! is killed, and is waited for before the postmaster counts as exited.
//!
//! It ignores every signal that is sent to end programs, leaves by itself once it has neither a postmaster nor a
//! client, and holds `guardian.lock` as long as it lives: there is never a second one for a data directory.

mod arguments;
mod connection;
mod data_dir;
mod detach;
mod launch;
mod listen;
mod poll;
mod postmaster;
mod state;
mod surroundings;
mod upgrade;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use arguments::{Arguments, Asked};
use detach::{Report, Side};

use rustix::event::PollFlags;

use crate::process;
use crate::run_dir::RunDir;

/// The guardian is listening.
pub const EXIT_READY: u8 = 0;
/// It could not be started; the reason is on stderr.
pub const EXIT_FAILED: u8 = 1;
/// The arguments are wrong.
pub const EXIT_USAGE: u8 = 2;
/// Another guardian holds the lock of this data directory.
pub const EXIT_OTHER_LIVES: u8 = 3;

/// The version of what goes over in an upgrade in place.
pub const STATE_VERSION: u32 = upgrade::VERSION;

/// The program. Returns to the caller at once with one of the exit codes above; the guardian lives on in a process
/// and session of its own.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Asked::parse(arguments) {
        Ok(Asked::Guard(arguments)) => arguments,
        Ok(Asked::Resumes(version)) => {
            return ExitCode::from(if version == upgrade::VERSION { EXIT_READY } else { EXIT_FAILED });
        }
        Err(message) => {
            let _ = writeln!(io::stderr(), "{message}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if arguments.resume.is_some() {
        return guard(&arguments, None);
    }
    surroundings::close_inherited_files();
    match detach::detach() {
        Ok(Side::Launcher(code)) => ExitCode::from(code),
        Ok(Side::Guardian(report)) => guard(&arguments, Some(report)),
        Err(error) => {
            log(format_args!("cannot detach: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn guard(arguments: &Arguments, report: Option<Report>) -> ExitCode {
    let report = |code| report.into_iter().for_each(|report| report.send(code));
    let code = match prepare(arguments) {
        Ok(Some(mut guardian)) => {
            report(EXIT_READY);
            let result = guardian.run();
            guardian.close();
            result.map(|()| EXIT_READY)
        }
        Ok(None) => {
            report(EXIT_OTHER_LIVES);
            Ok(EXIT_OTHER_LIVES)
        }
        Err(error) => Err(error),
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log(format_args!("{}: {error}", arguments.run_dir.display()));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Everything before the first request. `None` where another guardian lives.
fn prepare(arguments: &Arguments) -> io::Result<Option<poll::Guardian>> {
    let run_dir = RunDir::open(&arguments.run_dir).map_err(io::Error::other)?;
    if let Some(left) = arguments.resume {
        return resume(arguments, &run_dir, left).map(Some);
    }
    let Some(socket) = listen::Socket::claim(&run_dir)? else { return Ok(None) };
    rustix::process::chdir("/")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let child_exits = surroundings::arrange_signals()?;
    let oom_score_adj = surroundings::protect_from_oom_killer();
    let memory_locked = surroundings::lock_memory();
    if arguments.debug && !memory_locked {
        log(format_args!("memory is not locked: RLIMIT_MEMLOCK is too low"));
    }
    let core = state::Core::new(arguments.data_dir.clone(), oom_score_adj, memory_locked);
    poll::Guardian::new(socket, child_exits, core, arguments.clone()).map(Some)
}

/// Goes on where the former program of this process has stopped.
fn resume(arguments: &Arguments, run_dir: &RunDir, left: upgrade::Descriptors) -> io::Result<poll::Guardian> {
    let carried = left.read()?;
    let socket = listen::Socket::resume(run_dir, left)?;
    let child_exits = surroundings::arrange_signals()?;
    let memory_locked = surroundings::lock_memory();
    let core = state::Core::resume(arguments.data_dir.clone(), carried, memory_locked)?;
    log(format_args!("goes on as release {}", env!("CARGO_PKG_VERSION")));
    poll::Guardian::new(socket, child_exits, core, arguments.clone())
}

/// A line on stderr, where the daemon's log goes. Nobody may be reading it any more, which must not matter: a pipe that is full
/// would hold up what a deadline asks for.
fn log(message: fmt::Arguments<'_>) {
    if process::state_of(io::stderr().as_fd(), PollFlags::OUT).is_empty() {
        return;
    }
    let _ = writeln!(io::stderr(), "ptarmigan-guardian[{}]: {message}", std::process::id());
}
