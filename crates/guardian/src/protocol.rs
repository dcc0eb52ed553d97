//! What the guardian and its clients say to each other: JSON objects, one to a line, over a unix socket.
//!
//! A client sends [`RequestLine`]s; the guardian answers each with a [`ReplyLine`] of the same `id` and sends
//! [`EventLine`]s whenever something happens. Every line carries the protocol's version in `v`; unknown fields
//! are ignored, so that a field may be added without a new version.
//!
//! Everything about a postmaster carries its `generation`, a number that grows with every start under one
//! guardian: an order for an earlier postmaster cannot hit a later one.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

use crate::RawPid;

/// The version this build speaks. A line with another one is answered with an error and ends the connection.
pub const VERSION: u32 = 1;

/// The longest line either side accepts, in bytes. A longer one ends the connection.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Text that the kernel gives and takes as bytes. On the wire a string where it is UTF-8, else a list of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsText(pub OsString);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum OsTextWire {
    Text(String),
    Bytes(Vec<u8>),
}

impl Serialize for OsText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => OsTextWire::Bytes(self.0.as_bytes().to_vec()).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match OsTextWire::deserialize(deserializer)? {
            OsTextWire::Text(text) => text.into(),
            OsTextWire::Bytes(bytes) => OsString::from_vec(bytes),
        }))
    }
}

impl<T: AsRef<OsStr>> From<T> for OsText {
    fn from(text: T) -> Self {
        Self(text.as_ref().to_owned())
    }
}

/// What a client may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientRole {
    /// May start, signal and kill. One at a time.
    Owner,
    /// May look and is told what happens.
    #[default]
    Observer,
}

/// A client's line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestLine {
    /// Protocol version, see [`VERSION`].
    pub v: u32,
    /// Comes back in the reply; the client chooses it.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// What a client may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Who are you and what runs; claims the role.
    Hello {
        /// The role asked for.
        #[serde(default)]
        role: ClientRole,
    },
    /// Start a postmaster. Refused while one lives or its processes are still being killed.
    Start(StartRequest),
    /// Send a signal to the postmaster.
    Signal {
        /// Which.
        signal: SignalName,
        /// The postmaster that is meant; refused where another or none runs.
        pid: RawPid,
    },
    /// Take hold of a postmaster that somebody else started in this guardian's data directory. Refused while another one
    /// lives or its processes are still being killed.
    Adopt(AdoptRequest),
    /// What runs now.
    Status,
    /// Execute another program in this process, which holds the postmaster as before. Where that succeeds the connection
    /// ends, and the new program is found by the same socket. Refused while anything is being ended.
    Upgrade {
        /// The program.
        program: OsText,
    },
    /// SIGSTOP the postmaster, then SIGKILL it and its children (contract B.26, stop timeout). The reply says that
    /// the signals are sent; the `exited` event, that everything is gone.
    FreezeKill {
        /// The postmaster that is meant; refused where another or none runs.
        pid: RawPid,
    },
    /// Until when the postmaster may live without another word; of one that is gone, what somebody starts by hand after it.
    /// Refused once the deadline before has passed. A guardian that knows it says so in [`Hello::deadlines`]; others end the connection.
    Deadline {
        /// The postmaster that is meant; refused where another or none runs.
        generation: u64,
        /// From now on.
        #[serde(flatten)]
        deadline: Deadline,
    },
}

/// Until when a postmaster may live without another word, and how it is ended then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// CLOCK_BOOTTIME in microseconds; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_boottime_us: Option<u64>,
    /// How long a shutdown is given before everything is frozen and killed, in milliseconds: the first half of it a fast
    /// one, the second half an immediate one.
    #[serde(default)]
    pub grace_ms: u64,
}

/// Which postmaster to take hold of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptRequest {
    /// Process id.
    pub pid: RawPid,
    /// Start time in clock ticks since boot: with the pid, names the process for ever.
    pub start_time_ticks: u64,
    /// In force at once.
    #[serde(default)]
    pub deadline: Deadline,
}

/// How to start a postmaster.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The program (an absolute path) and its arguments.
    pub argv: Vec<OsText>,
    /// The complete environment: nothing of the guardian's own is added.
    pub env: Vec<(OsText, OsText)>,
    /// Working directory at the start.
    pub cwd: OsText,
    /// File mode creation mask, e.g. `0o077`.
    pub umask: u32,
    /// The new postmaster's generation. Must exceed the last one; absent: the last one plus 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// In force before the program runs. A later [`Request::Deadline`] takes its place.
    #[serde(default)]
    pub deadline: Deadline,
    /// An immediate shutdown is what follows where the guardian dies. The kernel forgets it where the program has
    /// capabilities or changes its user or its security domain.
    #[serde(default)]
    pub dies_with_guardian: bool,
}

impl std::fmt::Debug for StartRequest {
    /// Names the environment's variables without their values, which may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| &name.0).collect();
        f.debug_struct("StartRequest")
            .field("argv", &self.argv)
            .field("env", &names)
            .field("cwd", &self.cwd)
            .field("umask", &self.umask)
            .field("generation", &self.generation)
            .field("deadline", &self.deadline)
            .field("dies_with_guardian", &self.dies_with_guardian)
            .finish()
    }
}

/// The signals a postmaster understands, and the ones that end or hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SignalName {
    /// Smart shutdown.
    Term,
    /// Fast shutdown.
    Int,
    /// Immediate shutdown.
    Quit,
    /// Reload.
    Hup,
    /// Look at the signal files, e.g. `promote`.
    Usr1,
    /// As PostgreSQL's version sees fit.
    Usr2,
    /// Kill the postmaster alone; its children are killed once it is gone.
    Kill,
    /// Freeze.
    Stop,
    /// Thaw.
    Cont,
}

impl SignalName {
    /// The kernel's signal of that name.
    pub const fn signal(self) -> rustix::process::Signal {
        use rustix::process::Signal;
        match self {
            Self::Term => Signal::TERM,
            Self::Int => Signal::INT,
            Self::Quit => Signal::QUIT,
            Self::Hup => Signal::HUP,
            Self::Usr1 => Signal::USR1,
            Self::Usr2 => Signal::USR2,
            Self::Kill => Signal::KILL,
            Self::Stop => Signal::STOP,
            Self::Cont => Signal::CONT,
        }
    }
}

/// A line of the guardian's: a reply or an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GuardianLine {
    /// The answer to a request.
    Reply(ReplyLine),
    /// Something happened.
    Event(EventLine),
}

/// The guardian's answer to one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplyLine {
    /// Protocol version.
    pub v: u32,
    /// The request's `id`; 0 where the request could not be read.
    pub id: u64,
    /// The answer.
    #[serde(flatten)]
    pub reply: Reply,
}

/// The guardian's answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `hello`.
    Hello(Hello),
    /// To `start` and `adopt`.
    Started(Postmaster),
    /// To `signal` and `freeze_kill`: sent. To `deadline`: in force.
    Done,
    /// To `status`.
    Status(Status),
    /// Refused or failed; nothing was done.
    Error(Refusal),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub message: String,
    /// The process in the way: the living postmaster or the other owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<RawPid>,
}

/// Why a request was not carried out, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The request could not be read, or speaks another version. The connection ends.
    BadRequest,
    /// Another client is the owner.
    Owned,
    /// The client is not the owner.
    NotOwner,
    /// A postmaster lives, or what it left is still being killed.
    Busy,
    /// The generation does not exceed the last one.
    StaleGeneration,
    /// No postmaster of that pid runs, or not in this guardian's data directory.
    NoSuchPostmaster,
    /// The deadline has passed, and the postmaster is being ended: nothing brings it back.
    Fenced,
    /// The system refused: no such program, no permission, no memory.
    Failed,
}

/// Something that happened, sent to every client that has said `hello`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventLine {
    /// Protocol version.
    pub v: u32,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What can happen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A postmaster was started or adopted.
    Started(Postmaster),
    /// The postmaster itself is gone, this instant; processes of it may still live and write.
    Reaping(Gone),
    /// The last process is gone.
    Exited(Exit),
    /// The deadline has passed: the postmaster is being ended.
    Fenced(Fence),
}

/// A deadline that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The postmaster's process id.
    pub pid: RawPid,
    /// Which start it was.
    pub generation: u64,
    /// The deadline: CLOCK_BOOTTIME in microseconds.
    pub deadline_boottime_us: u64,
    /// When it was acted on: CLOCK_BOOTTIME in microseconds.
    pub at_boottime_us: u64,
}

/// A running postmaster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Postmaster {
    /// Process id.
    pub pid: RawPid,
    /// Start time in clock ticks since boot, field 22 of `/proc/<pid>/stat`: with the pid, names the process for ever.
    pub start_time_ticks: u64,
    /// Which start this is.
    pub generation: u64,
    /// Program and arguments; empty where somebody else started it.
    pub argv: Vec<OsText>,
    /// Somebody else started it, and nobody tells how it ends.
    #[serde(default)]
    pub adopted: bool,
    /// The kernel tells it to shut down at once where the guardian dies.
    #[serde(default)]
    pub dies_with_guardian: bool,
}

/// How a process ended. On the wire `"code": 1` or `"signal": 9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Only its parent knows, and that was not the guardian. On the wire `"unknown": {}`.
    Unknown {},
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown {} => f.write_str("in a way that only its parent knows"),
        }
    }
}

/// A postmaster that is gone, while what it left may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Its process id; free for others since.
    pub pid: RawPid,
    /// Which start it was.
    pub generation: u64,
    /// How it ended.
    #[serde(flatten)]
    pub how: How,
}

/// A postmaster of which nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Which, and how it ended.
    #[serde(flatten)]
    pub gone: Gone,
    /// Processes it left behind that were killed: backends, an `archive_command`, whatever it started.
    pub orphans_killed: u32,
    /// From the postmaster's exit to that of the last process, in milliseconds.
    pub elapsed_ms: u64,
    /// When the last process was gone: CLOCK_BOOTTIME in microseconds.
    pub at_boottime_us: u64,
}

/// What a guardian is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No postmaster.
    None,
    /// A postmaster lives.
    Running,
    /// The postmaster is gone, what it left is being killed.
    Reaping,
}

/// What runs under a guardian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What the guardian is doing.
    pub state: State,
    /// The living postmaster, in state `running`.
    pub postmaster: Option<Postmaster>,
    /// The postmaster that is gone, in state `reaping`.
    #[serde(default)]
    pub reaping: Option<Gone>,
    /// The last postmaster of which nothing is left.
    pub last_exit: Option<Exit>,
    /// The last generation used; 0 before the first start.
    pub generation: u64,
    /// The owner's process, where one is connected.
    pub owner_pid: Option<RawPid>,
    /// Until when the living postmaster may live; in state `none`, until when one that somebody starts by hand may.
    #[serde(default)]
    pub deadline: Deadline,
    /// The last deadline that passed.
    #[serde(default)]
    pub last_fence: Option<Fence>,
}

/// A guardian introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its process id.
    pub guardian_pid: RawPid,
    /// The release it was built from.
    pub release: String,
    /// Whether its memory is locked, so that it can act while the machine swaps.
    pub memory_locked: bool,
    /// It knows [`Request::Deadline`].
    #[serde(default)]
    pub deadlines: bool,
    /// What runs.
    #[serde(flatten)]
    pub status: Status,
}
