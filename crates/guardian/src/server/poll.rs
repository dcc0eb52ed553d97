//! The poll loop: requests in, children's exits in, replies and events out.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use ptarmigan_clock::now;
use ptarmigan_types::Monotonic;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use serde::Deserialize;

use super::arguments::Arguments;
use super::connection::Connection;
use super::listen::Socket;
use super::state::{Core, refusal};
use super::{log, surroundings, upgrade};
use crate::protocol::{
    ClientRole, Event, EventLine, Hello, Refusal, RefusalKind, Reply, ReplyLine, Request, RequestLine,
    VERSION,
};
use crate::run_dir::RunDir;
use crate::{RawPid, process};

/// More than any deployment needs; keeps the number of open files bounded.
const CLIENTS_MAX: usize = 64;

/// How often orphans are looked for, besides whenever a child exits.
const SWEEP_INTERVAL: Duration = Duration::from_millis(20);

pub(super) struct Guardian {
    socket: Socket,
    child_exits: File,
    /// Readable when a deadline passes, also one that passed while the machine slept.
    alarm: OwnedFd,
    core: Core,
    connections: Vec<Connection>,
    arguments: Arguments,
    /// Since when there is neither a postmaster nor a client.
    idle_since: Option<Monotonic>,
}

impl Guardian {
    pub(super) fn new(
        socket: Socket,
        child_exits: OwnedFd,
        core: Core,
        arguments: Arguments,
    ) -> io::Result<Self> {
        let child_exits = File::from(child_exits);
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let alarm = timerfd_create(TimerfdClockId::Boottime, flags)?;
        let connections = Vec::new();
        Ok(Self { socket, child_exits, alarm, core, connections, arguments, idle_since: None })
    }

    /// Serves until there has been nothing to do for long enough.
    pub(super) fn run(&mut self) -> io::Result<()> {
        loop {
            // Before anything else: this is what the process is there for.
            for event in self.core.enforce() {
                self.publish(&event);
            }
            for event in self.core.collect() {
                self.publish(&event);
            }
            self.set_alarm()?;
            self.connections.retain(|connection| !connection.is_closed());
            let idle = self.core.is_idle() && self.connections.is_empty();
            self.idle_since = if idle { self.idle_since.or_else(|| Some(now())) } else { None };
            let timeout = self.timeout();
            if timeout == Some(Duration::ZERO) {
                return Ok(());
            }
            self.wait_and_serve(timeout)?;
        }
    }

    /// Gives up the socket; the lock goes with the process.
    pub(super) fn close(&self) {
        self.socket.remove();
    }

    /// How long to sleep at most. Zero: idle for long enough.
    fn timeout(&self) -> Option<Duration> {
        if self.core.is_reaping() {
            return Some(SWEEP_INTERVAL);
        }
        self.idle_since.map(|since| self.arguments.idle_exit.saturating_sub(now().since(since)))
    }

    /// Wakes this process at the next step of a deadline. A time that is set anew is not due any more.
    fn set_alarm(&self) -> io::Result<()> {
        let at = self.core.next_step().map_or(0, |at| at.0.max(1));
        let second = 1_000_000;
        let it_value = Timespec {
            tv_sec: i64::try_from(at / second).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(at % second * 1000).unwrap_or(0),
        };
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let time = Itimerspec { it_interval: once, it_value };
        timerfd_settime(&self.alarm, TimerfdTimerFlags::ABSTIME, &time)?;
        Ok(())
    }

    fn wait_and_serve(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let ready = self.wait(timeout)?;
        if ready[0] {
            surroundings::drain(&self.child_exits);
        }
        if ready[2] {
            // Whatever the clients have sent, it comes after the deadline.
            return Ok(());
        }
        // Behind the connections comes an adopted postmaster, which has only to end our sleep.
        for (index, &is_ready) in ready[3..].iter().take(self.connections.len()).enumerate() {
            if is_ready {
                self.serve(index);
            }
        }
        if ready[1] {
            self.accept();
        }
        Ok(())
    }

    /// Sleeps; says of the children, the listener and each connection whether there is something to do.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<bool>> {
        let accepting = self.connections.len() < CLIENTS_MAX;
        let listen = if accepting { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.child_exits.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.socket.listener.as_fd(), listen),
            PollFd::from_borrowed_fd(self.alarm.as_fd(), PollFlags::IN),
        ];
        fds.extend(self.connections.iter().map(|connection| {
            let write = if connection.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(connection.stream.as_fd(), PollFlags::IN | write)
        }));
        fds.extend(self.core.adopted().map(|process| PollFd::from_borrowed_fd(process, PollFlags::IN)));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect()),
            Err(rustix::io::Errno::INTR) => Ok(vec![false; fds.len()]),
            Err(error) => Err(error.into()),
        }
    }

    fn accept(&mut self) {
        match self.socket.listener.accept().and_then(|(stream, _)| Connection::accept(stream)) {
            Ok(connection) => self.connections.push(connection),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => log(format_args!("a client was turned away: {error}")),
        }
    }

    fn serve(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.flush();
        match connection.read_lines() {
            Ok(lines) => {
                for line in lines {
                    if !self.connections[index].is_closed() {
                        self.answer(index, &line);
                    }
                }
            }
            Err(_) => self.turn_away(index, 0, "the line is too long".to_owned()),
        }
    }

    fn answer(&mut self, index: usize, line: &[u8]) {
        let line = match read_request(line) {
            Ok(line) => line,
            Err((id, message)) => return self.turn_away(index, id, message),
        };
        let (reply, event) = match self.carry_out(index, line.request) {
            Ok((reply, event)) => (reply, event),
            Err(refusal) => (Reply::Error(refusal), None),
        };
        // First the event: once its request is answered, a client must not still believe what was true before.
        if let Some(event) = event {
            self.publish(&event);
        }
        self.connections[index].send(&ReplyLine { v: VERSION, id: line.id, reply });
    }

    fn carry_out(&mut self, index: usize, request: Request) -> Result<(Reply, Option<Event>), Refusal> {
        match request {
            Request::Hello { role } => {
                if role == ClientRole::Owner {
                    self.check_owner(index)?;
                }
                self.connections[index].role = Some(role);
                Ok((Reply::Hello(self.hello()), None))
            }
            Request::Status => Ok((Reply::Status(self.core.status(self.owner_pid())), None)),
            _ if self.connections[index].role != Some(ClientRole::Owner) => {
                let message = "only the owner may do that".to_owned();
                Err(refusal(RefusalKind::NotOwner, message, self.owner_pid()))
            }
            Request::Start(request) => {
                let postmaster = self.core.start(&request)?;
                Ok((Reply::Started(postmaster.clone()), Some(Event::Started(postmaster))))
            }
            Request::Adopt(request) => {
                let postmaster = self.core.adopt(request)?;
                Ok((Reply::Started(postmaster.clone()), Some(Event::Started(postmaster))))
            }
            Request::Upgrade { program } => Err(self.upgrade(program.0.as_ref())),
            Request::Signal { signal, pid } => self.core.signal(signal, pid).map(|()| (Reply::Done, None)),
            Request::FreezeKill { pid } => self.core.freeze_kill(pid).map(|()| (Reply::Done, None)),
            Request::Deadline { generation, deadline } => {
                self.core.set_deadline(generation, deadline).map(|()| (Reply::Done, None))
            }
        }
    }

    /// Becomes another program; returns where that failed.
    fn upgrade(&self, program: &Path) -> Refusal {
        let carried = match self.core.carried() {
            Ok(carried) => carried,
            Err(refusal) => return refusal,
        };
        // What the next program could only find out when it is too late.
        if let Err(error) = RunDir::open(&self.arguments.run_dir) {
            return refusal(RefusalKind::Failed, error.to_string(), None);
        }
        log(format_args!("executing {}", program.display()));
        let error = upgrade::execute(program, &self.arguments, &self.socket, &carried);
        if let Err(error) = surroundings::ignore_signals() {
            log(format_args!("signals: {error}"));
        }
        let message = format!("cannot execute {}: {error}", program.display());
        log(format_args!("{message}"));
        refusal(RefusalKind::Failed, message, None)
    }

    /// Whether the client may become the owner. An owner that is dead makes room, even if its end has not been
    /// read yet: a restarted daemon must not be turned away because of its own predecessor.
    fn check_owner(&mut self, index: usize) -> Result<(), Refusal> {
        for (other, connection) in self.connections.iter_mut().enumerate() {
            if other == index || connection.role != Some(ClientRole::Owner) || connection.is_closed() {
                continue;
            }
            if has_hung_up(connection) {
                connection.close();
                continue;
            }
            let message = match connection.peer_pid {
                Some(pid) => format!("process {pid} is the owner"),
                None => "another process is the owner".to_owned(),
            };
            return Err(refusal(RefusalKind::Owned, message, connection.peer_pid));
        }
        Ok(())
    }

    fn turn_away(&mut self, index: usize, id: u64, message: String) {
        let connection = &mut self.connections[index];
        let reply = Reply::Error(refusal(RefusalKind::BadRequest, message, None));
        connection.send(&ReplyLine { v: VERSION, id, reply });
        connection.close_after_reply();
    }

    fn publish(&mut self, event: &Event) {
        let line = EventLine { v: VERSION, event: event.clone() };
        for connection in self.connections.iter_mut().filter(|connection| connection.role.is_some()) {
            connection.send(&line);
        }
    }

    fn owner_pid(&self) -> Option<RawPid> {
        let is_owner =
            |connection: &&Connection| connection.role == Some(ClientRole::Owner) && !connection.is_closed();
        self.connections.iter().find(is_owner).and_then(|owner| owner.peer_pid)
    }

    fn hello(&self) -> Hello {
        Hello {
            guardian_pid: rustix::process::getpid().as_raw_pid(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            memory_locked: self.core.memory_locked,
            deadlines: true,
            status: self.core.status(self.owner_pid()),
        }
    }
}

fn has_hung_up(connection: &Connection) -> bool {
    let state = process::state_of(connection.stream.as_fd(), PollFlags::empty());
    state.intersects(PollFlags::HUP | PollFlags::ERR)
}

/// Reads a request; of one that cannot be read, the id if there is one, and why.
fn read_request(line: &[u8]) -> Result<RequestLine, (u64, String)> {
    #[derive(Deserialize)]
    struct Head {
        v: u32,
        #[serde(default)]
        id: u64,
    }
    let head: Head = serde_json::from_slice(line).map_err(|error| (0, error.to_string()))?;
    if head.v != VERSION {
        return Err((head.id, format!("version {} is not spoken here, only {VERSION}", head.v)));
    }
    serde_json::from_slice(line).map_err(|error| (head.id, error.to_string()))
}
