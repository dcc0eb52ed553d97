//! The daemon's side: finds the guardian of a data directory, starts one where none lives, and speaks to it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::protocol::{
    AdoptRequest, ClientRole, Deadline, Event, Exit, Fence, Gone, GuardianLine, Hello, LINE_BYTES_MAX,
    Postmaster, Refusal, RefusalKind, Reply, Request, RequestLine, SignalName, StartRequest, State, Status,
    VERSION,
};
use crate::run_dir::{self, RunDir};
use crate::{RawPid, spawn};

/// How long to wait before looking again for a guardian that another process is starting.
const RETRY: Duration = Duration::from_millis(10);

/// Why the guardian could not be had, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no safe folder to meet in.
    #[error(transparent)]
    RunDir(#[from] run_dir::Error),
    /// The guardian's program cannot be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The guardian's program ran and failed; the reason is on stderr.
    #[error("{program} could not start; its reason is on stderr")]
    Start {
        /// The program.
        program: PathBuf,
    },
    /// The socket cannot be used.
    #[error("guardian's socket: {0}")]
    Socket(io::Error),
    /// The guardian does not answer: it is frozen, or the machine is very slow. What was asked may yet be done.
    #[error("the guardian did not answer within {0:?}")]
    Timeout(Duration),
    /// The guardian is gone. PostgreSQL, if it ran, goes on without anybody to guard it.
    #[error("the guardian is gone; a PostgreSQL that ran under it goes on as an orphan")]
    Lost,
    /// The guardian refused; nothing was done.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The guardian said something that does not answer the question.
    #[error("the guardian's answer is not understood")]
    Answer,
}

impl Error {
    /// What the guardian refused for, if it refused.
    pub const fn refusal(&self) -> Option<RefusalKind> {
        match self {
            Self::Refused(refusal) => Some(refusal.kind),
            _ => None,
        }
    }
}

/// How to find or start a guardian.
#[derive(Clone, Debug)]
pub struct Options {
    /// PostgreSQL's data directory. It need not exist yet.
    pub data_dir: PathBuf,
    /// In place of `$PTARMIGAN_RUN_DIR` and the defaults of [`run_dir`].
    pub run_dir: Option<PathBuf>,
    /// In place of `$PTARMIGAN_GUARDIAN`, our own program's folder and PATH.
    pub program: Option<PathBuf>,
    /// What we want to do.
    pub role: ClientRole,
    /// How long to wait for each answer, and for the start of a guardian.
    pub timeout: Duration,
    /// How long a guardian started by us stays with neither a postmaster nor a client.
    pub idle_exit: Duration,
    /// A guardian started by us says more on stderr.
    pub debug: bool,
}

impl Options {
    /// An owner's options, with 5 s for answers and 10 s for an idle guardian.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            run_dir: None,
            program: None,
            role: ClientRole::Owner,
            timeout: Duration::from_secs(5),
            idle_exit: Duration::from_secs(10),
            debug: false,
        }
    }
}

/// The newest thing that is known of the postmaster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostmasterEvent {
    /// This guardian has had none yet.
    NeverStarted,
    /// It runs.
    Started(Postmaster),
    /// It is gone since this instant; what it left is being killed and may still write.
    Reaping(Gone),
    /// Nothing is left of it. Only now may anything restart, release or promote.
    Exited(Exit),
    /// The connection to the guardian broke: the guardian was killed. The postmaster, if there was one, goes on as
    /// an orphan: nobody will report its exit, see [`crate::watch_foreign`].
    GuardianLost {
        /// The orphan.
        postmaster: Option<Postmaster>,
    },
}

impl From<&Status> for PostmasterEvent {
    fn from(status: &Status) -> Self {
        match (status.state, &status.postmaster, status.reaping, status.last_exit) {
            (State::Running, Some(postmaster), _, _) => Self::Started(postmaster.clone()),
            (State::Reaping, _, Some(gone), _) => Self::Reaping(gone),
            (_, _, _, Some(exit)) => Self::Exited(exit),
            _ => Self::NeverStarted,
        }
    }
}

/// A connection to the guardian. Dropping it leaves guardian and PostgreSQL as they are.
#[derive(Debug)]
pub struct Guardian {
    hello: Hello,
    link: Link,
}

/// Requests out, replies and events in.
#[derive(Debug)]
struct Link {
    shared: Arc<Shared>,
    lines: mpsc::UnboundedSender<Vec<u8>>,
    timeout: Duration,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    event: watch::Sender<PostmasterEvent>,
    fence: watch::Sender<Option<Fence>>,
}

#[derive(Debug, Default)]
struct Pending {
    last_id: u64,
    replies: BTreeMap<u64, oneshot::Sender<Reply>>,
    lost: bool,
}

impl Guardian {
    /// Connects to the living guardian of a data directory, or starts one. Of several callers at once, one starts
    /// it and the others find it.
    ///
    /// # Errors
    /// Where no guardian can be had within `options.timeout`, or another owner is connected.
    pub async fn connect_or_spawn(options: &Options) -> Result<Self, Error> {
        let run_dir = RunDir::create(&options.data_dir, options.run_dir.as_deref())?;
        let attempts = async {
            loop {
                if let Some(guardian) = Self::try_connect(&run_dir, options).await? {
                    return Ok(guardian);
                }
                let program = options.program.clone().unwrap_or_else(spawn::find);
                let launch = spawn::Launch {
                    program: &program,
                    run_dir: &run_dir,
                    data_dir: &options.data_dir,
                    idle_exit: options.idle_exit,
                    debug: options.debug,
                };
                match launch.run().await {
                    Ok(true) => {}
                    Ok(false) => return Err(Error::Start { program }),
                    Err(source) => return Err(Error::Run { program, source }),
                }
                if let Some(guardian) = Self::try_connect(&run_dir, options).await? {
                    return Ok(guardian);
                }
                // Another guardian has the lock and is about to listen, or is on its way out.
                tokio::time::sleep(RETRY).await;
            }
        };
        let limit = options.timeout;
        tokio::time::timeout(limit, attempts).await.unwrap_or(Err(Error::Timeout(limit)))
    }

    /// Connects to the living guardian of a data directory; `None` where none lives.
    ///
    /// # Errors
    /// Where it does not answer, or another owner is connected.
    pub async fn connect(options: &Options) -> Result<Option<Self>, Error> {
        let run_dir = RunDir::create(&options.data_dir, options.run_dir.as_deref())?;
        Self::try_connect(&run_dir, options).await
    }

    async fn try_connect(run_dir: &RunDir, options: &Options) -> Result<Option<Self>, Error> {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        let stream = match UnixStream::connect(run_dir.socket()).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
            Err(error) => return Err(Error::Socket(error)),
        };
        match Self::introduce(stream, options).await {
            Ok(guardian) => Ok(Some(guardian)),
            // It was on its way out.
            Err(Error::Lost) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn introduce(stream: UnixStream, options: &Options) -> Result<Self, Error> {
        let link = Link::new(stream, options.timeout);
        match link.ask(Request::Hello { role: options.role }).await? {
            Reply::Hello(hello) => Ok(Self { hello, link }),
            other => Err(unexpected(other)),
        }
    }

    /// What the guardian said when we connected: who it is and what ran then.
    pub const fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The newest event, and word of each newer one. What ran when we connected is the first. A receiver that is
    /// late sees the newest only; an exit stays visible until the next start.
    pub fn events(&self) -> watch::Receiver<PostmasterEvent> {
        self.link.shared.event.subscribe()
    }

    /// Starts a postmaster. An `Ok` says that the program runs, not that PostgreSQL is up.
    ///
    /// # Errors
    /// [`Error::Refused`] with `busy` while a postmaster or anything of it lives, with `failed` where the program
    /// cannot be started.
    pub async fn start(&self, request: StartRequest) -> Result<Postmaster, Error> {
        match self.link.ask(Request::Start(request)).await? {
            Reply::Started(postmaster) => Ok(postmaster),
            other => Err(unexpected(other)),
        }
    }

    /// Takes hold of a postmaster that somebody else started; of one that is held already, says so.
    ///
    /// # Errors
    /// [`Error::Refused`] with `busy` while another postmaster or anything of it lives, with `no_such_postmaster` where
    /// none of that pid runs in the data directory, with `fenced` where the deadline has passed already.
    pub async fn adopt(&self, request: AdoptRequest) -> Result<Postmaster, Error> {
        match self.link.ask(Request::Adopt(request)).await? {
            Reply::Started(postmaster) => Ok(postmaster),
            other => Err(unexpected(other)),
        }
    }

    /// Signals the postmaster of that pid.
    ///
    /// # Errors
    /// [`Error::Refused`] with `no_such_postmaster` where another or none runs.
    pub async fn signal(&self, pid: RawPid, signal: SignalName) -> Result<(), Error> {
        self.order(Request::Signal { signal, pid }).await
    }

    /// SIGSTOP to the postmaster, then SIGKILL to it and its children (contract B.26, stop timeout). An `Ok` says
    /// that the signals are sent; [`Guardian::exited`], that nothing is left.
    ///
    /// # Errors
    /// As [`Guardian::signal`].
    pub async fn freeze_kill(&self, pid: RawPid) -> Result<(), Error> {
        self.order(Request::FreezeKill { pid }).await
    }

    /// Until when the postmaster of that generation may live without another word.
    ///
    /// # Errors
    /// [`Error::Refused`] with `fenced` once the deadline before has passed, with `no_such_postmaster` where another or
    /// none runs; [`Error::Answer`] where the guardian is of a release that knows no deadlines.
    pub async fn set_deadline(&self, generation: u64, deadline: Deadline) -> Result<(), Error> {
        if !self.hello.deadlines {
            return Err(Error::Answer);
        }
        self.order(Request::Deadline { generation, deadline }).await
    }

    /// Makes the guardian execute another program, which holds PostgreSQL as before; returns the connection to it.
    ///
    /// # Errors
    /// [`Error::Refused`] with `busy` while anything is being ended, with `failed` where the program cannot be executed;
    /// [`Error::Start`] where the program could not go on from this one's state: then nothing was done.
    pub async fn upgrade(&self, options: &Options) -> Result<Self, Error> {
        let program = options.program.clone().unwrap_or_else(spawn::find);
        // The guardian works in another folder.
        let program = if program.components().count() > 1 {
            std::path::absolute(&program).map_err(Error::Socket)?
        } else {
            program
        };
        match spawn::resumes(&program, options.timeout).await {
            Ok(true) => {}
            Ok(false) => return Err(Error::Start { program }),
            Err(source) => return Err(Error::Run { program, source }),
        }
        match self.link.ask(Request::Upgrade { program: program.as_os_str().into() }).await {
            // The connection ends with the former program.
            Err(Error::Lost) => {}
            Ok(reply) => return Err(unexpected(reply)),
            Err(error) => return Err(error),
        }
        Self::connect(options).await?.ok_or(Error::Lost)
    }

    /// The last deadline that passed, and word of each later one.
    pub fn fences(&self) -> watch::Receiver<Option<Fence>> {
        self.link.shared.fence.subscribe()
    }

    /// What runs now.
    ///
    /// # Errors
    /// [`Error::Lost`] or [`Error::Timeout`].
    pub async fn status(&self) -> Result<Status, Error> {
        match self.link.ask(Request::Status).await? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    /// Resolves when nothing is left of the postmaster of that generation, at once where that is so already. Where a
    /// later one has exited since, gives that exit.
    ///
    /// # Errors
    /// [`Error::Lost`]: nobody will know how it ends.
    pub async fn exited(&self, generation: u64) -> Result<Exit, Error> {
        let mut events = self.events();
        loop {
            let event = events.borrow_and_update().clone();
            match event {
                PostmasterEvent::Exited(exit) if exit.gone.generation >= generation => return Ok(exit),
                PostmasterEvent::Started(later) if later.generation > generation => {
                    // A start is refused until everything of the one before is gone, so that is so.
                    if let Some(exit) = self.status().await?.last_exit {
                        return Ok(exit);
                    }
                }
                PostmasterEvent::GuardianLost { .. } => return Err(Error::Lost),
                _ => {}
            }
            events.changed().await.map_err(|_| Error::Lost)?;
        }
    }

    /// Resolves when the guardian is gone.
    pub async fn lost(&self) {
        let is_lost = |event: &PostmasterEvent| matches!(event, PostmasterEvent::GuardianLost { .. });
        // The sender lives as long as we do.
        let _ = self.events().wait_for(is_lost).await;
    }

    async fn order(&self, request: Request) -> Result<(), Error> {
        match self.link.ask(request).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

impl Link {
    fn new(stream: UnixStream, timeout: Duration) -> Self {
        let (read, write) = stream.into_split();
        let event = watch::Sender::new(PostmasterEvent::NeverStarted);
        let fence = watch::Sender::new(None);
        let shared = Arc::new(Shared { pending: Mutex::default(), event, fence });
        let (lines, queue) = mpsc::unbounded_channel();
        #[expect(
            clippy::disallowed_methods,
            reason = "the link keeps both handles and ends them when it is dropped"
        )]
        let tasks = [
            tokio::spawn(read_lines(read, Arc::clone(&shared))),
            tokio::spawn(write_lines(write, queue, Arc::clone(&shared))),
        ];
        Self { shared, lines, timeout, tasks }
    }

    async fn ask(&self, request: Request) -> Result<Reply, Error> {
        let (sender, receiver) = oneshot::channel();
        let id = self.shared.expect_reply(sender).ok_or(Error::Lost)?;
        let mut line = serde_json::to_vec(&RequestLine { v: VERSION, id, request })
            .map_err(|error| Error::Socket(error.into()))?;
        line.push(b'\n');
        self.lines.send(line).map_err(|_| Error::Lost)?;
        let answer = tokio::time::timeout(self.timeout, receiver).await;
        match answer {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(Error::Lost),
            Err(_) => {
                self.shared.pending().replies.remove(&id);
                Err(Error::Timeout(self.timeout))
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect_reply(&self, sender: oneshot::Sender<Reply>) -> Option<u64> {
        let mut pending = self.pending();
        if pending.lost {
            return None;
        }
        pending.last_id += 1;
        let id = pending.last_id;
        pending.replies.insert(id, sender);
        Some(id)
    }

    fn take_in(&self, line: GuardianLine) {
        match line {
            GuardianLine::Reply(line) => {
                // Here and not where it is awaited, so that no event of before the hello comes after it.
                if let Reply::Hello(hello) = &line.reply {
                    self.event.send_replace((&hello.status).into());
                    self.fence.send_replace(hello.status.last_fence);
                }
                if let Some(sender) = self.pending().replies.remove(&line.id) {
                    // Whoever asked may have given up.
                    let _ = sender.send(line.reply);
                }
            }
            GuardianLine::Event(line) => {
                let event = match line.event {
                    Event::Started(postmaster) => PostmasterEvent::Started(postmaster),
                    Event::Reaping(gone) => PostmasterEvent::Reaping(gone),
                    Event::Exited(exit) => PostmasterEvent::Exited(exit),
                    Event::Fenced(fence) => {
                        self.fence.send_replace(Some(fence));
                        return;
                    }
                };
                self.event.send_replace(event);
            }
        }
    }

    fn lose(&self) {
        let mut pending = self.pending();
        pending.lost = true;
        pending.replies.clear();
        drop(pending);
        self.event.send_if_modified(|event| {
            let postmaster = match event {
                PostmasterEvent::GuardianLost { .. } => return false,
                PostmasterEvent::Started(postmaster) => Some(postmaster.clone()),
                _ => None,
            };
            *event = PostmasterEvent::GuardianLost { postmaster };
            true
        });
    }
}

async fn write_lines(
    mut write: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    shared: Arc<Shared>,
) {
    while let Some(line) = queue.recv().await {
        if write.write_all(&line).await.is_err() {
            break;
        }
    }
    shared.lose();
}

async fn read_lines(mut read: OwnedReadHalf, shared: Arc<Shared>) {
    let mut input = Vec::new();
    while input.len() <= LINE_BYTES_MAX {
        match read.read_buf(&mut input).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        while let Some(end) = input.iter().position(|&byte| byte == b'\n') {
            let rest = input.split_off(end + 1);
            let line = std::mem::replace(&mut input, rest);
            // A kind of event that a newer guardian knows and we do not.
            let Ok(line) = serde_json::from_slice(&line) else { continue };
            shared.take_in(line);
        }
    }
    shared.lose();
}

fn unexpected(reply: Reply) -> Error {
    match reply {
        Reply::Error(refusal) => Error::Refused(refusal),
        _ => Error::Answer,
    }
}
