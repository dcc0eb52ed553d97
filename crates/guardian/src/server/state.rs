//! The postmaster's life under the guardian: none, running, reaping, none.
//!
//! A postmaster may have a deadline. When it passes, whatever the daemon does or does not do by then, the postmaster
//! is told to shut down at once, and what is left after a grace is frozen and killed. A deadline that has passed is
//! final: no later word brings that postmaster back.

use std::collections::BTreeSet;
use std::time::Duration;

use ptarmigan_clock::now;
use ptarmigan_types::Monotonic;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};

use super::{launch, log};
use crate::protocol::{
    Deadline, Event, Exit, Fence, Gone, How, Postmaster, Refusal, RefusalKind, SignalName, StartRequest,
    State, Status,
};
use crate::{RawPid, process};

/// How long a postmaster is given to obey SIGSTOP before its children are left to the sweep.
const FREEZE_WAIT: Duration = Duration::from_millis(50);

pub(super) struct Core {
    phase: Phase,
    last_exit: Option<Exit>,
    last_fence: Option<Fence>,
    generation: u64,
    /// For the child, where ours was changed.
    oom_score_adj: Option<String>,
    pub(super) memory_locked: bool,
}

enum Phase {
    None,
    Running(Running),
    Reaping(Reaping),
}

struct Running {
    postmaster: Postmaster,
    /// Sent SIGKILL and not yet collected.
    killed: BTreeSet<RawPid>,
    deadline: Deadline,
    fenced: Fenced,
}

/// What has been done about a deadline that passed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fenced {
    /// It has not passed.
    No,
    /// The postmaster was told to shut down at once; everything is killed at that moment.
    Told(Monotonic),
    /// Everything was killed.
    Killed,
}

struct Reaping {
    gone: Gone,
    since: Monotonic,
    /// Sent SIGKILL and not yet collected.
    killed: BTreeSet<RawPid>,
    orphans_killed: u32,
}

impl Core {
    pub(super) const fn new(oom_score_adj: Option<String>, memory_locked: bool) -> Self {
        let (phase, last_exit, last_fence, generation) = (Phase::None, None, None, 0);
        Self { phase, last_exit, last_fence, generation, oom_score_adj, memory_locked }
    }

    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::None)
    }

    pub(super) const fn is_reaping(&self) -> bool {
        matches!(self.phase, Phase::Reaping(_))
    }

    pub(super) fn status(&self, owner_pid: Option<RawPid>) -> Status {
        let (state, postmaster, reaping) = match &self.phase {
            Phase::None => (State::None, None, None),
            Phase::Running(running) => (State::Running, Some(running.postmaster.clone()), None),
            Phase::Reaping(reaping) => (State::Reaping, None, Some(reaping.gone)),
        };
        let deadline = match &self.phase {
            Phase::Running(running) => running.deadline,
            _ => Deadline::default(),
        };
        let (last_exit, last_fence, generation) = (self.last_exit, self.last_fence, self.generation);
        Status { state, postmaster, reaping, last_exit, generation, owner_pid, deadline, last_fence }
    }

    /// Starts a postmaster.
    pub(super) fn start(&mut self, request: &StartRequest) -> Result<Postmaster, Refusal> {
        match &self.phase {
            Phase::None => {}
            Phase::Running(running) => {
                let pid = running.postmaster.pid;
                let message = format!("a postmaster lives, pid {pid}");
                return Err(refusal(RefusalKind::Busy, message, Some(pid)));
            }
            Phase::Reaping(reaping) => {
                let pid = reaping.gone.pid;
                let message = format!("processes that postmaster {pid} left behind are still being killed");
                return Err(refusal(RefusalKind::Busy, message, Some(pid)));
            }
        }
        let generation = request.generation.unwrap_or(self.generation + 1);
        if generation <= self.generation {
            let message =
                format!("generation {generation} does not exceed the last one, {}", self.generation);
            return Err(refusal(RefusalKind::StaleGeneration, message, None));
        }
        if is_past(request.deadline, now()) {
            let message = "the deadline has passed already, nothing was started".to_owned();
            return Err(refusal(RefusalKind::Fenced, message, None));
        }
        let program = request.argv.first().map(|program| program.0.display().to_string()).unwrap_or_default();
        let (pid, start_time_ticks) =
            launch::launch(request, self.oom_score_adj.as_deref()).map_err(|error| {
                refusal(RefusalKind::Failed, format!("cannot start {program}: {error}"), None)
            })?;
        self.generation = generation;
        let postmaster = Postmaster { pid, start_time_ticks, generation, argv: request.argv.clone() };
        log(format_args!("started {program}, pid {pid}, generation {generation}"));
        self.phase = Phase::Running(Running {
            postmaster: postmaster.clone(),
            killed: BTreeSet::new(),
            deadline: request.deadline,
            fenced: Fenced::No,
        });
        Ok(postmaster)
    }

    /// Signals the postmaster. Not waited for yet, its pid cannot have become another process's.
    pub(super) fn signal(&self, signal: SignalName, pid: RawPid) -> Result<(), Refusal> {
        match &self.phase {
            Phase::Running(running) if running.postmaster.pid == pid => {
                or_failed(pid, send(pid, signal.signal()))
            }
            _ => Err(no_such_postmaster(pid)),
        }
    }

    /// Freezes the postmaster, so that it neither starts nor collects children, then kills it and them.
    pub(super) fn freeze_kill(&mut self, pid: RawPid) -> Result<(), Refusal> {
        self.signal(SignalName::Stop, pid)?;
        let Phase::Running(running) = &mut self.phase else { return Err(no_such_postmaster(pid)) };
        or_failed(pid, running.kill_frozen())
    }

    /// Until when the postmaster of that generation may live without another word.
    pub(super) fn set_deadline(&mut self, generation: u64, deadline: Deadline) -> Result<(), Refusal> {
        let running = match &mut self.phase {
            Phase::Running(running) if running.postmaster.generation == generation => running,
            _ => {
                let message = format!("no postmaster of generation {generation} runs here");
                return Err(refusal(RefusalKind::NoSuchPostmaster, message, None));
            }
        };
        let pid = running.postmaster.pid;
        // Also where the poll loop has not come to it yet: between the two answers, somebody else may lead.
        if running.fenced != Fenced::No || is_past(running.deadline, now()) {
            let message = format!("the deadline of postmaster {pid} has passed, it is being ended");
            return Err(refusal(RefusalKind::Fenced, message, Some(pid)));
        }
        running.deadline = deadline;
        Ok(())
    }

    /// When [`Self::enforce`] has something to do next.
    pub(super) fn next_step(&self) -> Option<Monotonic> {
        let Phase::Running(running) = &self.phase else { return None };
        match running.fenced {
            Fenced::No => running.deadline.at_boottime_us.map(Monotonic),
            Fenced::Told(kill_at) => Some(kill_at),
            Fenced::Killed => None,
        }
    }

    /// Acts on a deadline that has passed. Nothing here waits for a disk or for the daemon.
    pub(super) fn enforce(&mut self) -> Option<Event> {
        let Phase::Running(running) = &mut self.phase else { return None };
        let (at, pid) = (now(), running.postmaster.pid);
        match running.fenced {
            Fenced::No if is_past(running.deadline, at) => {
                // A frozen postmaster does not hear it; the grace ends that.
                let _ = send(pid, Signal::QUIT);
                running.fenced = Fenced::Told(at + Duration::from_millis(running.deadline.grace_ms));
                let fence = Fence {
                    pid,
                    generation: running.postmaster.generation,
                    deadline_boottime_us: running.deadline.at_boottime_us.unwrap_or_default(),
                    at_boottime_us: at.0,
                };
                self.last_fence = Some(fence);
                log(format_args!("the deadline of postmaster {pid} has passed: ending it"));
                Some(Event::Fenced(fence))
            }
            Fenced::Told(kill_at) if at >= kill_at => {
                let _ = send(pid, Signal::STOP);
                let _ = running.kill_frozen();
                running.fenced = Fenced::Killed;
                None
            }
            _ => None,
        }
    }

    /// Collects the children that have exited and kills those that a dead postmaster left.
    pub(super) fn collect(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let none_left = loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => events.extend(self.collected(pid.as_raw_pid(), status)),
                Ok(None) => break false,
                Err(Errno::INTR) => {}
                // ECHILD; nothing else is possible.
                Err(_) => break true,
            }
        };
        if let Phase::Reaping(reaping) = &mut self.phase {
            if none_left {
                let exit = reaping.finish();
                self.last_exit = Some(exit);
                self.phase = Phase::None;
                events.push(Event::Exited(exit));
            } else {
                reaping.sweep();
            }
        }
        events
    }

    fn collected(&mut self, pid: RawPid, status: WaitStatus) -> Option<Event> {
        match &mut self.phase {
            Phase::Running(running) if running.postmaster.pid == pid => {
                let how = how(status);
                let gone = Gone { pid, generation: running.postmaster.generation, how };
                log(format_args!("postmaster {pid} has ended: {how}"));
                let killed = std::mem::take(&mut running.killed);
                self.phase = Phase::Reaping(Reaping { gone, since: now(), killed, orphans_killed: 0 });
                Some(Event::Reaping(gone))
            }
            Phase::Reaping(reaping) => {
                if reaping.killed.remove(&pid) && how(status) == How::Signal(libc::SIGKILL) {
                    reaping.orphans_killed += 1;
                }
                None
            }
            // Something the postmaster started, left by its parent, ended in peace.
            _ => None,
        }
    }
}

impl Running {
    /// Kills a postmaster that was told to freeze, and its children.
    fn kill_frozen(&mut self) -> Result<(), Errno> {
        let pid = self.postmaster.pid;
        let list = || process::children(pid).unwrap_or_default();
        // Once frozen it cannot free its children's pids for others. If it does not freeze (it sleeps in the kernel), it
        // runs no code of its own any more once it is killed.
        let mut children = if freezes(pid) { list() } else { Vec::new() };
        let result = send(pid, Signal::KILL);
        if children.is_empty() {
            children = list();
        }
        for child in children {
            if send(child, Signal::KILL).is_ok() {
                self.killed.insert(child);
            }
        }
        log(format_args!("froze and killed postmaster {pid} and {} children", self.killed.len()));
        result
    }
}

fn is_past(deadline: Deadline, now: Monotonic) -> bool {
    deadline.at_boottime_us.is_some_and(|at| now.0 >= at)
}

impl Reaping {
    /// Kills every child not killed yet. What those leave become our children before they can be collected, so
    /// this is repeated until there are none.
    fn sweep(&mut self) {
        let own = rustix::process::getpid().as_raw_pid();
        match process::children(own) {
            Ok(children) => {
                for child in children {
                    if !self.killed.contains(&child) && send(child, Signal::KILL).is_ok() {
                        self.killed.insert(child);
                    }
                }
            }
            Err(error) => log(format_args!("cannot list what postmaster {} left: {error}", self.gone.pid)),
        }
    }

    fn finish(&self) -> Exit {
        let at = now();
        let elapsed_ms = u64::try_from(at.since(self.since).as_millis()).unwrap_or(u64::MAX);
        log(format_args!(
            "nothing is left of postmaster {}: {} killed in {elapsed_ms} ms",
            self.gone.pid, self.orphans_killed
        ));
        Exit { gone: self.gone, orphans_killed: self.orphans_killed, elapsed_ms, at_boottime_us: at.0 }
    }
}

fn how(status: WaitStatus) -> How {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => How::Code(code),
        (None, signal) => How::Signal(signal.unwrap_or(0)),
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

fn or_failed(pid: RawPid, result: Result<(), Errno>) -> Result<(), Refusal> {
    result.map_err(|errno| refusal(RefusalKind::Failed, format!("cannot signal {pid}: {errno}"), Some(pid)))
}

fn no_such_postmaster(pid: RawPid) -> Refusal {
    refusal(RefusalKind::NoSuchPostmaster, format!("no postmaster with pid {pid} runs here"), None)
}

pub(super) const fn refusal(kind: RefusalKind, message: String, pid: Option<RawPid>) -> Refusal {
    Refusal { kind, message, pid }
}
