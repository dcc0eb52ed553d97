//! The server's main process: whether it runs, who holds it, and its start (contract B.26).
//!
//! It is started through the guardian, whose child it is: it outlives us, and its end is reported the instant the last
//! of its processes is gone. One that was running before us is adopted by its pidfd.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ptarmigan_guardian::{
    AdoptRequest, Deadline, ForeignProcess, Guardian, How, Postmaster as Guarded, PostmasterEvent, RawPid,
    SignalName, State, process,
};

use crate::Postgres;

pub mod environment;
pub mod pid_file;
pub mod readiness;
pub mod start;

use pid_file::PidFile;

/// How often a process that we cannot wait for is looked at.
const LEFTOVER_POLL: Duration = Duration::from_millis(10);

/// Why the postmaster could not be found, held or signalled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guardian could not be had, or refused.
    #[error(transparent)]
    Guardian(#[from] ptarmigan_guardian::client::Error),
    /// The operating system refused.
    #[error("postmaster {pid}: {source}")]
    Process {
        /// The postmaster.
        pid: RawPid,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// True where the guardian died; a server that ran under it may live on.
    pub const fn is_guardian_lost(&self) -> bool {
        matches!(self, Self::Guardian(ptarmigan_guardian::client::Error::Lost))
    }

    /// What the guardian refused for, if it refused.
    pub const fn refusal(&self) -> Option<ptarmigan_guardian::protocol::RefusalKind> {
        match self {
            Self::Guardian(error) => error.refusal(),
            Self::Process { .. } => None,
        }
    }
}

/// A postmaster that was found alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its process id.
    pub pid: RawPid,
    /// Its start time in clock ticks since boot: with the pid, names the process for ever.
    pub start_time_ticks: u64,
}

/// A postmaster that was found alive, and by what it is asked whether it still is: many times in a cycle.
#[derive(Debug)]
pub(crate) struct Known {
    running: Running,
    /// `None` on a kernel before 5.3, and where it had exited by then.
    descriptor: Option<OwnedFd>,
}

impl Known {
    pub(crate) fn of(running: Running) -> Self {
        let opened = process::descriptor(running.pid).ok();
        let descriptor = opened.filter(|(_, start)| *start == running.start_time_ticks).map(|(fd, _)| fd);
        Self { running, descriptor }
    }

    /// The postmaster, unless it has exited.
    pub(crate) fn living(&self) -> Option<Running> {
        let lives = match &self.descriptor {
            Some(descriptor) => process::lives(descriptor.as_fd()),
            None => process::stat(self.running.pid)
                .is_ok_and(|stat| stat.start_time_ticks == self.running.start_time_ticks && stat.lives()),
        };
        lives.then_some(self.running)
    }
}

/// A hold on a living postmaster.
pub enum Held {
    /// It is the guardian's child.
    Guarded {
        /// The guardian.
        guardian: Arc<Guardian>,
        /// The postmaster.
        postmaster: Guarded,
    },
    /// Somebody else started it.
    Adopted {
        /// A hold on the process.
        process: ForeignProcess,
        /// Its data directory: what works in it, is part of it.
        data_dir: PathBuf,
    },
}

/// What the guardian has to do with the server that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It ends the server at a deadline, and the server ends with it.
    Whole,
    /// It ends the server at a deadline, and somebody else started the server: if the guardian dies, it goes on.
    DeadlineOnly,
    /// Nothing.
    None,
}

impl Hold {
    const fn of(postmaster: &Guarded) -> Self {
        if postmaster.dies_with_guardian { Self::Whole } else { Self::DeadlineOnly }
    }
}

impl Held {
    /// The postmaster's process id.
    pub const fn pid(&self) -> RawPid {
        match self {
            Self::Guarded { postmaster, .. } => postmaster.pid,
            Self::Adopted { process, .. } => process.pid(),
        }
    }

    /// True where it ends with us if its guardian dies: where the guardian is its parent.
    pub const fn is_guarded(&self) -> bool {
        matches!(self, Self::Guarded { .. })
    }

    /// Signals the postmaster; one that is gone is no error.
    pub async fn signal(&self, signal: SignalName) -> Result<(), Error> {
        match self {
            Self::Guarded { guardian, postmaster } => {
                let sent = guardian.signal(postmaster.pid, signal).await;
                ignore_gone(sent)
            }
            Self::Adopted { process, .. } => signal_adopted(process, signal),
        }
    }

    /// SIGSTOP to the postmaster, so that it starts nothing new, then SIGKILL to it and its children.
    pub async fn freeze_kill(&self) -> Result<(), Error> {
        match self {
            Self::Guarded { guardian, postmaster } => ignore_gone(guardian.freeze_kill(postmaster.pid).await),
            Self::Adopted { process, data_dir } => {
                signal_adopted(process, SignalName::Stop)?;
                kill_leftovers(data_dir, process.pid());
                signal_adopted(process, SignalName::Kill)
            }
        }
    }

    /// Resolves when the last process is gone; how the postmaster ended, where its parent told. What an adopted
    /// postmaster leaves behind is killed.
    pub async fn exited(&self) -> Result<Option<How>, Error> {
        match self {
            Self::Guarded { guardian, postmaster } => {
                Ok(Some(guardian.exited(postmaster.generation).await?.gone.how))
            }
            Self::Adopted { process, data_dir } => {
                let pid = process.pid();
                process.exited().await.map_err(|source| Error::Process { pid, source })?;
                end_leftovers(data_dir).await;
                Ok(None)
            }
        }
    }
}

fn ignore_gone(outcome: Result<(), ptarmigan_guardian::client::Error>) -> Result<(), Error> {
    use ptarmigan_guardian::protocol::RefusalKind::NoSuchPostmaster;
    match outcome {
        Err(error) if error.refusal() == Some(NoSuchPostmaster) => Ok(()),
        other => Ok(other?),
    }
}

fn signal_adopted(process: &ForeignProcess, signal: SignalName) -> Result<(), Error> {
    let gone = rustix::io::Errno::SRCH.raw_os_error();
    match process.signal(signal) {
        Err(error) if error.raw_os_error() == Some(gone) => Ok(()),
        Err(source) => Err(Error::Process { pid: process.pid(), source }),
        Ok(()) => Ok(()),
    }
}

/// SIGKILLs every process that works in the data directory, except the postmaster itself; returns how many there were.
fn kill_leftovers(data_dir: &std::path::Path, postmaster: RawPid) -> usize {
    let own = RawPid::try_from(std::process::id()).unwrap_or(0);
    let pids: Vec<RawPid> =
        leftovers(data_dir).into_iter().filter(|&pid| pid != postmaster && pid != own).collect();
    for &pid in &pids {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            // It may have ended by itself since.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    pids.len()
}

/// Kills what an ended postmaster left in the data directory, and returns once nothing is there.
pub(crate) async fn end_leftovers(data_dir: &std::path::Path) {
    while kill_leftovers(data_dir, 0) > 0 {
        tokio::time::sleep(LEFTOVER_POLL).await;
    }
}

/// The living PostgreSQL processes that work in a data directory.
pub fn leftovers(data_dir: &std::path::Path) -> Vec<RawPid> {
    data_dir.canonicalize().map_or_else(|_| Vec::new(), |canonical| process::of_postgresql_in(&canonical))
}

/// What is known of the process that `postmaster.pid` names.
#[derive(Clone, Debug, Default)]
struct PidFacts {
    /// It is us, our parent or a child of ours.
    is_kin: bool,
    /// Its start time, seconds since the epoch.
    start_epoch_s: Option<u64>,
    exe_name: Option<String>,
    /// Whether its working directory is the data directory.
    cwd_matches: Option<bool>,
}

/// Whether that process is the postmaster of the data directory (contract B.26, "is running").
fn is_postmaster(facts: &PidFacts, file_start_epoch_s: Option<u64>, binary: &str) -> bool {
    if facts.is_kin {
        return false;
    }
    if let (Some(started), Some(written)) = (facts.start_epoch_s, file_start_epoch_s)
        && started.abs_diff(written) <= 3
    {
        return true;
    }
    let is_server = facts.exe_name.as_deref().is_some_and(|name| name == binary || name == "postmaster");
    is_server && facts.cwd_matches.unwrap_or(true)
}

fn is_lost(guardian: &Guardian) -> bool {
    matches!(*guardian.events().borrow(), PostmasterEvent::GuardianLost { .. })
}

impl Postgres {
    /// The postmaster of the data directory, where one lives (contract B.26).
    pub fn running(&self) -> Option<Running> {
        if let Some(known) = self.known_postmaster() {
            return Some(known);
        }
        let file = PidFile::read(&self.data_dir()).ok()?;
        let found = self.examine(&file);
        self.know_postmaster(found);
        found
    }

    /// True where the postmaster lives, or any process that it left in the data directory.
    pub fn is_alive(&self) -> bool {
        self.running().is_some() || !leftovers(&self.data_dir()).is_empty()
    }

    fn examine(&self, file: &PidFile) -> Option<Running> {
        if !process::is_alive(file.pid) {
            return None;
        }
        let stat = process::stat(file.pid).ok()?;
        let own = RawPid::try_from(std::process::id()).unwrap_or(0);
        let own_parent = rustix::process::getppid().map_or(0, rustix::process::Pid::as_raw_pid);
        let data_dir = self.data_dir().canonicalize().unwrap_or_else(|_| self.data_dir());
        let facts = PidFacts {
            is_kin: file.pid == own || file.pid == own_parent || stat.parent_pid == own,
            start_epoch_s: process::start_time_epoch(stat.start_time_ticks).ok().map(|start| start.as_secs()),
            exe_name: process::exe_name(file.pid).ok().map(|name| name.to_string_lossy().into_owned()),
            cwd_matches: process::cwd(file.pid).ok().map(|cwd| cwd == data_dir),
        };
        let settings = self.settings();
        let binary = settings.bin_name.get("postgres").map_or("postgres", String::as_str);
        let binary = binary.rsplit('/').next().unwrap_or(binary);
        is_postmaster(&facts, file.start_epoch_s, binary)
            .then_some(Running { pid: file.pid, start_time_ticks: stat.start_time_ticks })
    }

    /// The connection to the data directory's guardian, which is started where none lives. The data directory must
    /// exist.
    pub async fn guardian(&self) -> Result<Arc<Guardian>, ptarmigan_guardian::client::Error> {
        let mut kept = self.0.guardian.lock().await;
        if let Some(guardian) = kept.as_ref().filter(|guardian| !is_lost(guardian)) {
            return Ok(Arc::clone(guardian));
        }
        *kept = None;
        let guardian = Arc::new(Guardian::connect_or_spawn(&self.guardian_options()).await?);
        *kept = Some(Arc::clone(&guardian));
        Ok(guardian)
    }

    fn guardian_options(&self) -> ptarmigan_guardian::Options {
        let mut options = ptarmigan_guardian::Options::new(self.data_dir());
        options.run_dir.clone_from(&self.0.guardian_place.run_dir);
        options.program.clone_from(&self.0.guardian_place.program);
        options
    }

    /// The guardian, where one lives: a server that is running already cannot become the child of another one.
    async fn living_guardian(&self) -> Result<Option<Arc<Guardian>>, Error> {
        let mut kept = self.0.guardian.lock().await;
        if let Some(guardian) = kept.as_ref().filter(|guardian| !is_lost(guardian)) {
            return Ok(Some(Arc::clone(guardian)));
        }
        *kept = Guardian::connect(&self.guardian_options()).await?.map(Arc::new);
        Ok(kept.clone())
    }

    /// Takes hold of the living postmaster; `None` where none lives.
    pub async fn hold(&self) -> Result<Option<Held>, Error> {
        let Some(running) = self.running() else { return Ok(None) };
        let guardian = self.living_guardian().await?;
        if let Some(guardian) = guardian
            && let Ok(status) = guardian.status().await
            && let Some(postmaster) = status.postmaster.filter(|postmaster| postmaster.pid == running.pid)
        {
            return Ok(Some(Held::Guarded { guardian, postmaster }));
        }
        match ForeignProcess::open(running.pid) {
            Ok(process) if process.start_time_ticks() == running.start_time_ticks => {
                Ok(Some(Held::Adopted { process, data_dir: self.data_dir() }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Process { pid: running.pid, source }),
        }
    }

    /// A start that was given up before the guardian answered may still come true: the guardian carries requests out in
    /// their order, so after its status nothing is on its way any more.
    pub(crate) async fn note_unanswered_start(&self) {
        if self.running().is_some() {
            return;
        }
        let guardian = self.0.guardian.lock().await.clone();
        let Some(guardian) = guardian else { return };
        if let Ok(status) = guardian.status().await
            && let Some(postmaster) = status.postmaster
        {
            let found = Running { pid: postmaster.pid, start_time_ticks: postmaster.start_time_ticks };
            self.know_postmaster(Some(found));
        }
    }

    /// Tells the guardian until when the running server may live without another word; `None` where no server runs. One that
    /// somebody else started is adopted where it is to have a deadline.
    ///
    /// # Errors
    /// The guardian did not answer, is of a release that knows no deadlines, or the deadline before has passed
    /// ([`Error::refusal`]).
    pub async fn set_deadline(&self, deadline: Deadline) -> Result<Option<Hold>, Error> {
        let Some(running) = self.running() else { return Ok(None) };
        if let Some((guardian, postmaster)) = self.held_by_guardian(running).await? {
            guardian.set_deadline(postmaster.generation, deadline).await?;
            return Ok(Some(Hold::of(&postmaster)));
        }
        // A guardian that lives may know a deadline of the server before.
        if deadline.at_boottime_us.is_none() && self.living_guardian().await?.is_none() {
            return Ok(Some(Hold::None));
        }
        let Running { pid, start_time_ticks } = running;
        let request = AdoptRequest { pid, start_time_ticks, deadline };
        Ok(Some(Hold::of(&self.guardian().await?.adopt(request).await?)))
    }

    /// No server runs: what somebody starts by hand may live without another word.
    ///
    /// # Errors
    /// The guardian did not answer.
    pub async fn forget_deadline(&self) -> Result<(), Error> {
        let Some(guardian) = self.living_guardian().await? else { return Ok(()) };
        let status = guardian.status().await?;
        if status.state == State::None && status.deadline.at_boottime_us.is_some() {
            guardian.set_deadline(status.generation, Deadline::default()).await?;
        }
        Ok(())
    }

    /// What the guardian has to do with the running server; `None` where none runs.
    ///
    /// # Errors
    /// The guardian did not answer.
    pub async fn hold_of_guardian(&self) -> Result<Option<Hold>, Error> {
        let Some(running) = self.running() else { return Ok(None) };
        let held = self.held_by_guardian(running).await?;
        Ok(Some(held.map_or(Hold::None, |(_, postmaster)| Hold::of(&postmaster))))
    }

    /// Whether nothing runs, because the guardian ended the last server at its deadline.
    ///
    /// # Errors
    /// The guardian did not answer.
    pub async fn was_fenced(&self) -> Result<bool, Error> {
        if self.is_alive() {
            return Ok(false);
        }
        let Some(guardian) = self.living_guardian().await? else { return Ok(false) };
        let status = guardian.status().await?;
        let (fence, exit) = (status.last_fence, status.last_exit);
        Ok(status.state == State::None
            && fence.zip(exit).is_some_and(|(fence, exit)| fence.generation == exit.gone.generation))
    }

    /// Makes the guardian, where one lives, execute the program that is found now, in its own process: the server goes on
    /// under it. False where none lives.
    ///
    /// # Errors
    /// It goes on as it is; or it is lost, which [`Error::is_guardian_lost`] tells.
    pub async fn upgrade_guardian(&self) -> Result<bool, Error> {
        // Held all the while: whoever finds the former connection gone waits for the new one.
        let mut kept = self.0.guardian.lock().await;
        let options = self.guardian_options();
        let guardian = match kept.take().filter(|guardian| !is_lost(guardian)) {
            Some(guardian) => guardian,
            None => match Guardian::connect(&options).await? {
                Some(guardian) => Arc::new(guardian),
                None => return Ok(false),
            },
        };
        match guardian.upgrade(&options).await {
            Ok(upgraded) => {
                *kept = Some(Arc::new(upgraded));
                Ok(true)
            }
            Err(error) => {
                *kept = Some(guardian);
                Err(error.into())
            }
        }
    }

    /// The process of the guardian that we are connected to.
    pub fn guardian_pid(&self) -> Option<RawPid> {
        let kept = self.0.guardian.try_lock().ok()?;
        kept.as_ref().filter(|guardian| !is_lost(guardian)).map(|guardian| guardian.hello().guardian_pid)
    }

    /// The guardian of the running server, and what it knows of it.
    async fn held_by_guardian(&self, running: Running) -> Result<Option<(Arc<Guardian>, Guarded)>, Error> {
        let Some(guardian) = self.living_guardian().await? else { return Ok(None) };
        // One that does not answer may have a deadline in force all the same.
        let postmaster = guardian.status().await?.postmaster;
        let is_it = |postmaster: &Guarded| {
            postmaster.pid == running.pid && postmaster.start_time_ticks == running.start_time_ticks
        };
        Ok(postmaster.filter(is_it).map(|postmaster| (guardian, postmaster)))
    }

    /// Makes the server read its configuration files again.
    pub async fn reload(&self) -> Result<(), Error> {
        match self.hold().await? {
            Some(held) => held.signal(SignalName::Hup).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> PidFacts {
        PidFacts {
            is_kin: false,
            start_epoch_s: Some(1000),
            exe_name: Some("postgres".to_owned()),
            cwd_matches: Some(true),
        }
    }

    #[test]
    fn b_26_is_running_start_time_within_three_seconds() {
        let facts = PidFacts { exe_name: None, cwd_matches: None, ..server() };
        assert!(is_postmaster(&facts, Some(1003), "postgres"));
        assert!(is_postmaster(&facts, Some(997), "postgres"));
        assert!(!is_postmaster(&facts, Some(1004), "postgres"));
    }

    #[test]
    fn b_26_is_running_by_program_and_folder() {
        assert!(is_postmaster(&server(), Some(1), "postgres"));
        assert!(is_postmaster(&PidFacts { cwd_matches: None, ..server() }, None, "postgres"));
        assert!(!is_postmaster(&PidFacts { cwd_matches: Some(false), ..server() }, None, "postgres"));
        assert!(!is_postmaster(&PidFacts { exe_name: None, ..server() }, None, "postgres"));
        let postmaster = PidFacts { exe_name: Some("postmaster".to_owned()), ..server() };
        assert!(is_postmaster(&postmaster, None, "pg15"));
        assert!(!is_postmaster(&server(), None, "pg15"));
    }

    #[test]
    fn b_26_is_running_never_one_of_ours() {
        assert!(!is_postmaster(&PidFacts { is_kin: true, ..server() }, Some(1000), "postgres"));
    }
}
