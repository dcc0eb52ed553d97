//! The first process of a container (contract D.4): the daemon runs in a child of it, and the first process passes signals
//! on and buries the dead, which the kernel leaves to it.

use std::{io, process::ExitCode};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

/// Whether this process is the first one of its container.
pub(crate) fn is_first_process() -> bool {
    getpid() == Pid::INIT
}

/// Runs this program again as a child until it ends. The status is 0 however it ended, as with Patroni; 1 where it could
/// not be started.
pub(crate) fn run() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(supervise()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &io::Error) -> ExitCode {
    crate::complain(&format!("as the first process of a container: {error}"));
    ExitCode::FAILURE
}

async fn supervise() -> io::Result<()> {
    // Before there is a child whose end could be missed.
    let mut ended = signal(SignalKind::child())?;
    let [mut hangup, mut interrupt, mut quit, mut terminate, mut user1, mut user2, mut abort] = streams()?;
    let worker = start()?;
    loop {
        let pass_on = tokio::select! {
            _ = ended.recv() => {
                if bury(worker) {
                    return Ok(());
                }
                continue;
            }
            _ = hangup.recv() => Signal::HUP,
            _ = interrupt.recv() => Signal::INT,
            _ = quit.recv() => Signal::QUIT,
            _ = terminate.recv() => Signal::TERM,
            _ = user1.recv() => Signal::USR1,
            _ = user2.recv() => Signal::USR2,
            _ = abort.recv() => Signal::ABORT,
        };
        // It may have ended meanwhile.
        let _ = kill_process(worker, pass_on);
    }
}

fn streams() -> io::Result<[Signals; 7]> {
    Ok([
        signal(SignalKind::hangup())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::quit())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
        signal(SignalKind::from_raw(Signal::ABORT.as_raw()))?,
    ])
}

#[allow(
    clippy::disallowed_methods,
    reason = "the whole environment is the child's, and this thread does nothing else"
)]
fn start() -> io::Result<Pid> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    let child = command.args(std::env::args_os().skip(1)).spawn()?;
    Ok(Pid::from_child(&child))
}

/// Takes the dead off the kernel's list; true where the worker is among them.
fn bury(worker: Pid) -> bool {
    let mut is_over = false;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        is_over |= pid == worker && (status.exited() || status.signaled());
    }
    is_over
}
