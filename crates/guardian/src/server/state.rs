//! The postmaster's life under the guardian: none, running, reaping, none.
//!
//! A postmaster may have a deadline. When it passes, whatever the daemon does or does not do by then, the postmaster
//! is told to shut down: fast, so that its WAL senders send what was committed before they end, after half of a grace
//! at once, and what is left at the end of the grace is frozen and killed. A deadline that has passed is final: no
//! later word brings that postmaster back.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ptarmigan_clock::now;
use ptarmigan_types::Monotonic;
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, WaitStatus, wait};

use super::launch::{self, Launched};
use super::postmaster::{Handle, kill_all};
use super::upgrade::{self, Carried};
use super::{data_dir, log};
use crate::protocol::{
    AdoptRequest, Deadline, Event, Exit, Fence, Gone, How, Postmaster, Refusal, RefusalKind, SignalName,
    StartRequest, State, Status,
};
use crate::{RawPid, process};

const FOR_EVER: Deadline = Deadline { at_boottime_us: None, grace_ms: 0 };

/// How often a data directory whose deadline has passed is looked at for what somebody may start there by hand.
const UNSPOKEN_LOOK: Duration = Duration::from_millis(100);

/// For how long: whoever restarts PostgreSQL by hand waits no longer for its end.
const UNSPOKEN_WATCH: Duration = Duration::from_secs(120);

pub(super) struct Core {
    phase: Phase,
    /// When a data directory whose deadline has passed is looked at next.
    next_look: Monotonic,
    /// What works here is PostgreSQL's.
    data_dir: Option<PathBuf>,
    last_exit: Option<Exit>,
    last_fence: Option<Fence>,
    generation: u64,
    /// For the child, where ours was changed.
    oom_score_adj: Option<String>,
    pub(super) memory_locked: bool,
}

enum Phase {
    /// No postmaster of ours. The deadline of the one before stands for whatever somebody starts by hand in its data directory
    /// (`pg_ctl restart`).
    None(Deadline),
    Running(Running),
    Reaping(Reaping),
}

struct Running {
    postmaster: Postmaster,
    handle: Handle,
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
    /// The postmaster was told to shut down fast; at the first moment it is told to do so at once, at the other one
    /// everything is killed.
    Asked(Monotonic, Monotonic),
    /// The postmaster was told to shut down at once; everything is killed at that moment.
    Told(Monotonic),
    /// Everything was killed.
    Killed,
}

struct Reaping {
    gone: Gone,
    /// The processes that it left are nobody's children, or ours.
    adopted: bool,
    deadline: Deadline,
    since: Monotonic,
    /// Sent SIGKILL and not yet collected.
    killed: BTreeSet<RawPid>,
    orphans_killed: u32,
}

impl Core {
    pub(super) const fn new(
        data_dir: Option<PathBuf>,
        oom_score_adj: Option<String>,
        memory_locked: bool,
    ) -> Self {
        let phase = Phase::None(FOR_EVER);
        let (last_exit, last_fence, generation) = (None, None, 0);
        let next_look = Monotonic(0);
        Self { phase, next_look, data_dir, last_exit, last_fence, generation, oom_score_adj, memory_locked }
    }

    /// What goes over to another program of this process. Refused while anything is being ended.
    pub(super) fn carried(&self) -> Result<Carried, Refusal> {
        let (postmaster, deadline) = match &self.phase {
            Phase::None(deadline) => (None, *deadline),
            Phase::Running(running) if running.fenced == Fenced::No && running.killed.is_empty() => {
                (Some(running.postmaster.clone()), running.deadline)
            }
            _ => {
                let message = "a postmaster is being ended".to_owned();
                return Err(refusal(RefusalKind::Busy, message, None));
            }
        };
        let (last_exit, last_fence, generation) = (self.last_exit, self.last_fence, self.generation);
        let oom_score_adj = self.oom_score_adj.clone();
        let v = upgrade::VERSION;
        Ok(Carried { v, generation, postmaster, deadline, last_exit, last_fence, oom_score_adj })
    }

    /// Goes on where another program of this process has stopped.
    pub(super) fn resume(
        data_dir: Option<PathBuf>,
        carried: Carried,
        memory_locked: bool,
    ) -> io::Result<Self> {
        let Carried { generation, postmaster, deadline, last_exit, last_fence, oom_score_adj, .. } = carried;
        let mut core = Self::new(data_dir, oom_score_adj, memory_locked);
        (core.generation, core.last_exit, core.last_fence) = (generation, last_exit, last_fence);
        core.phase = Phase::None(deadline);
        if let Some(postmaster) = postmaster {
            let Postmaster { pid, start_time_ticks, adopted, .. } = postmaster;
            let handle = if adopted {
                let data_dir = core.data_dir.as_ref().ok_or(io::ErrorKind::NotFound)?;
                Handle::adopt(pid, start_time_ticks, data_dir).ok()
            } else {
                Some(Handle::Child(pid))
            };
            // An adopted one may have ended meanwhile.
            if let Some(handle) = handle {
                core.run(postmaster, handle, deadline);
            }
        }
        Ok(core)
    }

    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::None(Deadline { at_boottime_us: None, .. }))
    }

    /// Readable once an adopted postmaster has ended.
    pub(super) fn adopted(&self) -> Option<BorrowedFd<'_>> {
        match &self.phase {
            Phase::Running(running) => running.handle.pidfd(),
            _ => None,
        }
    }

    pub(super) const fn is_reaping(&self) -> bool {
        matches!(self.phase, Phase::Reaping(_))
    }

    pub(super) fn status(&self, owner_pid: Option<RawPid>) -> Status {
        let (state, postmaster, reaping) = match &self.phase {
            Phase::None(_) => (State::None, None, None),
            Phase::Running(running) => (State::Running, Some(running.postmaster.clone()), None),
            Phase::Reaping(reaping) => (State::Reaping, None, Some(reaping.gone)),
        };
        let deadline = match &self.phase {
            Phase::Running(running) => running.deadline,
            Phase::None(deadline) => *deadline,
            Phase::Reaping(reaping) => reaping.deadline,
        };
        let (last_exit, last_fence, generation) = (self.last_exit, self.last_fence, self.generation);
        Status { state, postmaster, reaping, last_exit, generation, owner_pid, deadline, last_fence }
    }

    /// Starts a postmaster.
    pub(super) fn start(&mut self, request: &StartRequest) -> Result<Postmaster, Refusal> {
        self.check_free()?;
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
        let Launched { pid, start_time_ticks, dies_with_us } =
            launch::launch(request, self.oom_score_adj.as_deref()).map_err(|error| {
                refusal(RefusalKind::Failed, format!("cannot start {program}: {error}"), None)
            })?;
        log(format_args!("started {program}, pid {pid}, generation {generation}"));
        let postmaster = Postmaster {
            pid,
            start_time_ticks,
            generation,
            argv: request.argv.clone(),
            adopted: false,
            dies_with_guardian: dies_with_us,
        };
        Ok(self.run(postmaster, Handle::Child(pid), request.deadline))
    }

    /// Takes hold of a postmaster that somebody else started. Its deadline is the word of a daemon that lives, and takes the place
    /// of the one before; where it has passed, nothing is taken, and what was in force stays.
    pub(super) fn adopt(&mut self, request: AdoptRequest) -> Result<Postmaster, Refusal> {
        let AdoptRequest { pid, start_time_ticks, deadline } = request;
        if let Phase::Running(running) = &self.phase
            && running.postmaster.pid == pid
            && running.postmaster.start_time_ticks == start_time_ticks
        {
            self.set_deadline(running.postmaster.generation, deadline)?;
            return self.running(pid).map(|running| running.postmaster.clone());
        }
        self.check_free()?;
        if is_past(deadline, now()) {
            let message = "the deadline has passed already".to_owned();
            return Err(refusal(RefusalKind::Fenced, message, Some(pid)));
        }
        self.take_hold(pid, start_time_ticks, deadline).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => no_such_postmaster(pid),
            _ => refusal(RefusalKind::Failed, format!("cannot adopt {pid}: {error}"), Some(pid)),
        })
    }

    fn take_hold(
        &mut self,
        pid: RawPid,
        start_time_ticks: u64,
        deadline: Deadline,
    ) -> io::Result<Postmaster> {
        let data_dir = self.data_dir.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let handle = Handle::adopt(pid, start_time_ticks, data_dir)?;
        let generation = self.generation + 1;
        log(format_args!("adopted postmaster {pid}, generation {generation}"));
        let postmaster = Postmaster {
            pid,
            start_time_ticks,
            generation,
            argv: Vec::new(),
            adopted: true,
            dies_with_guardian: false,
        };
        Ok(self.run(postmaster, handle, deadline))
    }

    fn run(&mut self, postmaster: Postmaster, handle: Handle, deadline: Deadline) -> Postmaster {
        self.generation = postmaster.generation;
        self.phase = Phase::Running(Running {
            postmaster: postmaster.clone(),
            handle,
            killed: BTreeSet::new(),
            deadline,
            fenced: Fenced::No,
        });
        postmaster
    }

    fn check_free(&self) -> Result<(), Refusal> {
        let (message, pid) = match &self.phase {
            Phase::None(_) => return Ok(()),
            Phase::Running(running) => {
                let pid = running.postmaster.pid;
                (format!("a postmaster lives, pid {pid}"), pid)
            }
            Phase::Reaping(reaping) => {
                let pid = reaping.gone.pid;
                (format!("processes that postmaster {pid} left behind are still being killed"), pid)
            }
        };
        Err(refusal(RefusalKind::Busy, message, Some(pid)))
    }

    fn running(&self, pid: RawPid) -> Result<&Running, Refusal> {
        match &self.phase {
            Phase::Running(running) if running.postmaster.pid == pid => Ok(running),
            _ => Err(no_such_postmaster(pid)),
        }
    }

    /// Signals the postmaster.
    pub(super) fn signal(&self, signal: SignalName, pid: RawPid) -> Result<(), Refusal> {
        or_failed(pid, self.running(pid)?.handle.send(signal.signal()))
    }

    /// Freezes the postmaster, so that it neither starts nor collects children, then kills it and them.
    pub(super) fn freeze_kill(&mut self, pid: RawPid) -> Result<(), Refusal> {
        self.signal(SignalName::Stop, pid)?;
        let Phase::Running(running) = &mut self.phase else { return Err(no_such_postmaster(pid)) };
        or_failed(pid, running.handle.kill_frozen(&mut running.killed))
    }

    /// Until when the postmaster of that generation may live without another word.
    pub(super) fn set_deadline(&mut self, generation: u64, deadline: Deadline) -> Result<(), Refusal> {
        let running = match &mut self.phase {
            Phase::Running(running) if running.postmaster.generation == generation => running,
            // What somebody starts by hand after it may live as long.
            Phase::None(unspoken) if self.generation == generation => {
                *unspoken = deadline;
                return Ok(());
            }
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
        match &self.phase {
            Phase::None(deadline) => deadline.at_boottime_us.map(|at| Monotonic(at).max(self.next_look)),
            Phase::Reaping(_) => None,
            Phase::Running(running) => match running.fenced {
                Fenced::No => running.deadline.at_boottime_us.map(Monotonic),
                Fenced::Asked(at, _) | Fenced::Told(at) => Some(at),
                Fenced::Killed => None,
            },
        }
    }

    /// Acts on a deadline that has passed. Nothing here waits for the daemon, and nothing that concerns a postmaster that is held,
    /// for a disk.
    pub(super) fn enforce(&mut self) -> Vec<Event> {
        let mut events: Vec<Event> = self.catch_unspoken().map(Event::Started).into_iter().collect();
        let Phase::Running(running) = &mut self.phase else { return events };
        let (at, pid) = (now(), running.postmaster.pid);
        match running.fenced {
            Fenced::No if is_past(running.deadline, at) => {
                // A frozen postmaster does not hear it; the grace ends that.
                let half = Duration::from_millis(running.deadline.grace_ms) / 2;
                let deadline = Monotonic(running.deadline.at_boottime_us.unwrap_or_default());
                running.fenced = if at.since(deadline) < half {
                    let _ = running.handle.send(Signal::INT);
                    Fenced::Asked(at + half, at + 2 * half)
                } else {
                    // This process stood still, too, or somebody has started it by hand since: there is no time to be gentle.
                    let _ = running.handle.send(Signal::QUIT);
                    Fenced::Told(at + half)
                };
                let fence = Fence {
                    pid,
                    generation: running.postmaster.generation,
                    deadline_boottime_us: running.deadline.at_boottime_us.unwrap_or_default(),
                    at_boottime_us: at.0,
                };
                self.last_fence = Some(fence);
                log(format_args!("the deadline of postmaster {pid} has passed: ending it"));
                events.push(Event::Fenced(fence));
            }
            Fenced::Asked(quit_at, kill_at) if at >= quit_at => {
                let _ = running.handle.send(Signal::QUIT);
                running.fenced = Fenced::Told(kill_at);
            }
            Fenced::Told(kill_at) if at >= kill_at => {
                let _ = running.handle.send(Signal::STOP);
                let _ = running.handle.kill_frozen(&mut running.killed);
                running.fenced = Fenced::Killed;
            }
            _ => {}
        }
        events
    }

    /// Takes hold of what runs in the data directory, and was never spoken for, once the deadline of the postmaster before it has
    /// passed: it is ended as that one was, or would have been. What is going to be a standby is left alone.
    fn catch_unspoken(&mut self) -> Option<Postmaster> {
        let Phase::None(deadline) = self.phase else { return None };
        let at = now();
        if !is_past(deadline, at) || at < self.next_look {
            return None;
        }
        self.next_look = at + UNSPOKEN_LOOK;
        let passed = Monotonic(deadline.at_boottime_us.unwrap_or_default());
        let data_dir = self.data_dir.as_ref();
        if at.since(passed) > UNSPOKEN_WATCH || data_dir.is_none() {
            self.phase = Phase::None(FOR_EVER);
            return None;
        }
        let data_dir = data_dir.filter(|data_dir| !data_dir::is_standby(data_dir))?;
        let pid = data_dir::owner(data_dir)?;
        let start_time_ticks = process::start_time_ticks(pid).ok()?;
        match self.take_hold(pid, start_time_ticks, deadline) {
            Ok(postmaster) => Some(postmaster),
            Err(error) => {
                log(format_args!("postmaster {pid}, whose deadline has passed, cannot be held: {error}"));
                None
            }
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
        events.extend(self.adopted_end());
        if let Phase::Reaping(reaping) = &mut self.phase {
            let orphans = reaping.orphans(self.data_dir.as_deref());
            if none_left && orphans.is_empty() {
                let exit = reaping.finish();
                self.last_exit = Some(exit);
                self.phase = Phase::None(reaping.deadline);
                events.push(Event::Exited(exit));
            } else {
                reaping.sweep(orphans);
            }
        }
        events
    }

    fn adopted_end(&mut self) -> Option<Event> {
        match &mut self.phase {
            Phase::Running(running) if running.handle.has_ended() => {
                let reaping = running.ended(How::Unknown {});
                let gone = reaping.gone;
                self.phase = Phase::Reaping(reaping);
                Some(Event::Reaping(gone))
            }
            _ => None,
        }
    }

    fn collected(&mut self, pid: RawPid, status: WaitStatus) -> Option<Event> {
        match &mut self.phase {
            Phase::Running(running) if matches!(running.handle, Handle::Child(child) if child == pid) => {
                let reaping = running.ended(how(status));
                let gone = reaping.gone;
                self.phase = Phase::Reaping(reaping);
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

fn is_past(deadline: Deadline, now: Monotonic) -> bool {
    deadline.at_boottime_us.is_some_and(|at| now.0 >= at)
}

impl Running {
    fn ended(&mut self, how: How) -> Reaping {
        let Postmaster { pid, generation, adopted, .. } = self.postmaster;
        log(format_args!("postmaster {pid} has ended: {how}"));
        let killed = std::mem::take(&mut self.killed);
        let gone = Gone { pid, generation, how };
        let deadline = self.deadline;
        Reaping { gone, adopted, deadline, since: now(), killed, orphans_killed: 0 }
    }
}

impl Reaping {
    /// What an adopted postmaster has left.
    fn orphans(&self, data_dir: Option<&Path>) -> Vec<RawPid> {
        data_dir.filter(|_| self.adopted).map(|dir| data_dir::orphans(dir, self.since)).unwrap_or_default()
    }

    /// Kills them, and every child not killed yet. What those leave become our children before they can be collected, so
    /// this is repeated until there are none.
    fn sweep(&mut self, orphans: Vec<RawPid>) {
        self.orphans_killed +=
            u32::try_from(orphans.iter().filter(|&pid| !self.killed.contains(pid)).count()).unwrap_or(0);
        kill_all(orphans, &mut self.killed);
        let own = rustix::process::getpid().as_raw_pid();
        match process::children(own) {
            Ok(children) => kill_all(children, &mut self.killed),
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

fn or_failed(pid: RawPid, result: Result<(), Errno>) -> Result<(), Refusal> {
    result.map_err(|errno| refusal(RefusalKind::Failed, format!("cannot signal {pid}: {errno}"), Some(pid)))
}

fn no_such_postmaster(pid: RawPid) -> Refusal {
    refusal(RefusalKind::NoSuchPostmaster, format!("no postmaster with pid {pid} runs here"), None)
}

pub(super) const fn refusal(kind: RefusalKind, message: String, pid: Option<RawPid>) -> Refusal {
    Refusal { kind, message, pid }
}
