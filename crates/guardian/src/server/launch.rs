//! Starting the postmaster.

// `pre_exec` is unsafe: what runs between fork and exec must be async-signal-safe where there are threads.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::Mode;
use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal, setsid, umask,
};

use super::log;
use super::surroundings::{reset_signals, set_oom_score_adj};
use crate::protocol::StartRequest;
use crate::{RawPid, process};

/// A program that runs.
pub(super) struct Launched {
    pub(super) pid: RawPid,
    pub(super) start_time_ticks: u64,
    /// The kernel tells it when we die.
    pub(super) dies_with_us: bool,
}

/// Starts the program in a session of its own; returns once it runs.
pub(super) fn launch(request: &StartRequest, oom_score_adj: Option<&str>) -> io::Result<Launched> {
    let Some((program, arguments)) = request.argv.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "argv is empty"));
    };
    // Here is one of the process helpers that the rest of the project is sent to.
    #[allow(clippy::disallowed_methods)]
    let mut command = Command::new(&program.0);
    command
        .args(arguments.iter().map(|argument| &argument.0))
        .env_clear()
        .envs(request.env.iter().map(|(name, value)| (&name.0, &value.0)))
        .current_dir(&request.cwd.0)
        .stdin(Stdio::null());
    let mask = Mode::from_raw_mode(request.umask & 0o777);
    let oom_score_adj = oom_score_adj.map(str::to_owned);
    let guardian = request.dies_with_guardian.then(getpid);
    let in_child = move || {
        setsid()?;
        if let Some(guardian) = guardian {
            set_parent_process_death_signal(Some(Signal::QUIT))?;
            // It may have died before the kernel knew.
            if getppid() != Some(guardian) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        umask(mask);
        if let Some(value) = &oom_score_adj {
            set_oom_score_adj(value)?;
        }
        reset_signals()
    };
    // SAFETY: the closure makes system calls only, allocates nothing, and this process has one thread.
    unsafe { command.pre_exec(in_child) };
    // Not waited for through this handle: the poll loop collects every child.
    let child = command.spawn()?;
    let pid = RawPid::try_from(child.id()).map_err(io::Error::other)?;
    // Nobody has waited for it yet, so the entry is there even if it has exited already.
    match process::start_time_ticks(pid) {
        Ok(start_time_ticks) => {
            let dies_with_us = request.dies_with_guardian && keeps_death_signal(pid);
            Ok(Launched { pid, start_time_ticks, dies_with_us })
        }
        Err(error) => {
            // Without /proc it could not be guarded.
            let _ = kill_process(Pid::from_child(&child), Signal::KILL);
            Err(error)
        }
    }
}

/// Whether the kernel still knows what to send it when we die: a program that starts in another security domain (an SELinux
/// or AppArmor transition) has lost that.
fn keeps_death_signal(pid: RawPid) -> bool {
    let own = RawPid::try_from(std::process::id()).unwrap_or(0);
    let label = |pid: RawPid| fs::read(format!("/proc/{pid}/attr/current")).ok();
    let keeps = label(own) == label(pid);
    if !keeps {
        log(format_args!("{pid} runs in another security domain: it does not end with its guardian"));
    }
    keeps
}
