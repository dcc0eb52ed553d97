//! What a decision asks for, and what came of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ptarmigan_types::{
    Cluster, Leader, Lsn, MemberName, MemberState, Monotonic, Revision, Role, SyncState, Timeline,
};
use serde::{Deserialize, Serialize};

use crate::{callbacks, facts::PeerAnswer, observation::JobKind, sync::Wanted, upstream::Upstream};

/// One step. Every step is conditional, so that a stale one fails and harms nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Renew the lock that the view shows as ours.
    RenewLock(Leader),
    /// Race for the lock.
    AcquireLock,
    /// Delete our leader key. The lease counts as gone from the moment this is decided.
    ReleaseLock(Leader),
    /// Leadership ended without a release: no health check may call this node a leader any more (contract LV-4).
    ForgetLease,
    /// Write `/status` with what is known, if it changed (contract UL-3).
    WriteStatus,
    /// Write my member key, if it changed (contract HA-022).
    WriteMember,
    /// Write `/initialize`.
    WriteInitialize {
        /// Empty, or the system identifier.
        value: String,
        /// On what it depends.
        when: When,
    },
    /// Delete `/initialize`.
    DeleteInitialize,
    /// Write this node's dynamic configuration to `/config` (contract HA-008, HA-064).
    WriteConfig,
    /// Change `/config` of that revision.
    ChangeConfig {
        /// The new value.
        value: String,
        /// The key's revision.
        revision: Revision,
    },
    /// Write `/failsafe` (contract UL-3, UL-4).
    WriteFailsafe {
        /// Member name to REST address.
        members: BTreeMap<String, String>,
        /// On what it depends.
        when: When,
    },
    /// Ask these members, all in parallel, to promise that they do not lead while the DCS is away (contract FS-3). The
    /// lease goes on only where every one of them does; asking nobody is a promise that everybody gave.
    AskFailsafe(Vec<PeerAddress>),
    /// Drop what is known of a round of this node's own, and the promise that it gave another leader, where that one lasts
    /// until then: a newer one stays.
    ForgetFailsafe(Option<Monotonic>),
    /// Clear `/failover`.
    ClearFailover(When),
    /// Write `/sync` (contract B.21, B.22); its own revision does not count. Answered by [`Outcome::Written`].
    WriteSync {
        /// What it shall say.
        state: SyncState,
        /// On what it depends: never [`When::Always`].
        when: When,
    },
    /// Delete `/sync` of this revision (contract B.21, "mode off").
    DeleteSync(Revision),
    /// Set `synchronous_standby_names`: in the files, and by a reload where the server runs.
    SetStandbyNames(Wanted),
    /// Find out whether every process of the server goes by these `synchronous_standby_names`, and write a little WAL
    /// (contract B.21, "when ssn changes"). Answered by [`Outcome::Settled`].
    SettleStandbyNames {
        /// The names that should be in force.
        names: String,
        /// Nobody was named before, or that is not known: commits may not wait for anybody yet.
        from_nothing: bool,
    },
    /// Put what is left of a wish into `/failover` (contract HA-131).
    WriteFailover {
        /// The new value.
        value: String,
        /// The key's revision.
        revision: Revision,
    },
    /// Bring `/history` up to date (contract B.24).
    UpdateHistory(Timeline),
    /// Read the cluster again; the same point of a cycle is never reloaded twice.
    ReloadView(ReloadAfter),
    /// Ask these members for their status, in parallel (contract HN-3).
    AskPeers(Vec<PeerAddress>),
    /// Ask a member's PostgreSQL whether it is a primary. Answered by [`Outcome::Primary`], in a moment in any case.
    AskWhetherPrimary {
        /// The member.
        name: MemberName,
        /// How to connect to its PostgreSQL.
        conn_url: String,
    },
    /// The same question once more: what they said is too old by now.
    AskPeersAgain(Vec<PeerAddress>),
    /// What was learnt of the data directory's identity counts no longer (contract HA-005).
    ForgetIdentity,
    /// Open the kernel watchdog and let it count down, before this node leads (contract HA-250).
    ActivateWatchdog,
    /// Close the kernel watchdog (contract D.6).
    DisableWatchdog,
    /// Note a role.
    SetRole(Role),
    /// Note a state.
    SetState(MemberState),
    /// Compare the recovery configuration with the one that following `upstream` wants (contract B.19.4).
    CompareRecovery {
        /// Whom to follow.
        upstream: Option<Upstream>,
    },
    /// Rewrite the recovery configuration and reload.
    ReloadRecovery {
        /// Whom to follow.
        upstream: Option<Upstream>,
    },
    /// Find out whether the local WAL left the upstream's history (contract RW-4 to RW-8).
    CheckDivergence {
        /// Compare with this one.
        upstream: Upstream,
    },
    /// `pg_wal_replay_resume()` (contract HA-286).
    ResumeReplay,
    /// See to the checkpoint after a promotion (contract RW-30).
    EnsureCheckpoint,
    /// Create, advance and drop slots (contract B.23.3); [`Outcome::SlotsToCopy`] where some have to come from the leader.
    SyncSlots,
    /// Run a callback that no start, stop or reload brings about (contract B.25).
    RunCallback(callbacks::Event),
    /// Begin the one long action.
    StartJob(Job),
    /// Cancel the long action in flight; harmless if it has ended.
    CancelJob,
    /// Drop the scheduled restart.
    ClearScheduledRestart,
    /// The stop with which an abandoned start or an unusable data directory ends: immediate, no release.
    StopImmediate,
    /// The failed bootstrap: stop, and rename the data directory to `.failed` (contract HA-060).
    AbandonBootstrap,
    /// Delete the data directory (contract RW-17).
    RemoveDataDirectory,
    /// End the process.
    Exit {
        /// Whether PostgreSQL is stopped first.
        stop_postgres: bool,
        /// For the log.
        reason: String,
    },
}

/// On what a write depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Nothing.
    Always,
    /// The key is absent.
    Absent,
    /// The key's revision.
    Revision(Revision),
}

/// The points of a cycle after which the view is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReloadAfter {
    /// `/config` was written.
    Config,
    /// The lock was acquired.
    Lock,
    /// Before looking for somebody to follow after a crash (contract HA-107).
    Crash,
}

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddress {
    /// The member.
    pub name: MemberName,
    /// Its REST address.
    pub api_url: String,
}

/// A long action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Job {
    /// `initdb` and start.
    Bootstrap,
    /// The first member of a standby cluster: a copy of the remote member (contract B.17.5).
    BootstrapStandbyLeader,
    /// Roles and script.
    PostBootstrap,
    /// Copy a data directory and start as a standby.
    Clone {
        /// From whom; `None`: by a method that needs no source.
        source: Option<Upstream>,
    },
    /// Stop, remove, copy.
    Reinitialize {
        /// From whom.
        source: Option<Upstream>,
    },
    /// Promote, if the lease still lives and the timeline is still this one.
    Promote {
        /// The timeline that was observed.
        timeline: Option<Timeline>,
    },
    /// Stop and start as a standby.
    Demote(DemoteMode),
    /// Start a crashed primary in place.
    StartPrimary {
        /// How long it may take.
        timeout: Duration,
    },
    /// (Re)start as a standby.
    Follow {
        /// Whom to follow; nobody: read-only without upstream.
        upstream: Option<Upstream>,
        /// The role to publish.
        role: Role,
        /// How long the start may take; `None`: `pg_ctl_timeout`, and then it is still starting.
        timeout: Option<Duration>,
    },
    /// An operator's restart.
    Restart {
        /// How long the start may take.
        timeout: Option<Duration>,
    },
    /// `pg_rewind`.
    Rewind {
        /// The source.
        leader: Upstream,
        /// Its version is unknown: see to its checkpoint first (contract RW-12).
        checkpoint_first: bool,
    },
    /// Crash recovery in single-user mode.
    CrashRecovery,
    /// Copy logical slots from the leader: stop, write their state, start (contract B.23.5).
    CopySlots {
        /// From whom.
        leader: MemberName,
        /// Which.
        slots: Vec<String>,
    },
}

impl Job {
    /// What kind of long action it is.
    pub const fn kind(&self) -> JobKind {
        match self {
            Self::Bootstrap => JobKind::Bootstrap,
            Self::BootstrapStandbyLeader => JobKind::BootstrapStandbyLeader,
            Self::PostBootstrap => JobKind::PostBootstrap,
            Self::Clone { .. } => JobKind::Clone,
            Self::Reinitialize { .. } => JobKind::Reinitialize,
            Self::Promote { .. } => JobKind::Promote,
            Self::Demote(mode) => JobKind::Demote(*mode),
            Self::StartPrimary { .. } => JobKind::StartPrimary,
            Self::Follow { .. } => JobKind::Follow,
            Self::Restart { .. } => JobKind::Restart,
            Self::Rewind { .. } => JobKind::Rewind,
            Self::CrashRecovery => JobKind::CrashRecovery,
            Self::CopySlots { .. } => JobKind::CopySlots,
        }
    }
}

/// Contract B.16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DemoteMode {
    /// DCS not reachable: fast stop, no release.
    Offline,
    /// Switchover: checkpoint, fast stop, release.
    Graceful,
    /// Immediate stop, release.
    Immediate,
    /// The lock is lost: immediate stop, nothing to release.
    ImmediateNoLock,
    /// This became a standby cluster: fast stop; the lock is kept, unless somebody else may go on with it sooner.
    DemoteCluster,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Carried out.
    Done,
    /// The lock is ours until then.
    Held {
        /// The earliest moment at which the store may give it away.
        until: Monotonic,
        /// How long the answer was waited for, all repetitions included.
        #[serde(default)]
        waited: Duration,
    },
    /// The store said no: the lock is not ours, a condition did not hold.
    Refused(String),
    /// The store gave no answer; `maybe`: the request may have been carried out.
    NoAnswer {
        /// Indeterminate.
        maybe: bool,
        /// For the log.
        reason: String,
    },
    /// It failed for another reason.
    Failed(String),
    /// The cluster, read again.
    View(Arc<Cluster>),
    /// Everybody who was asked promised not to lead (contract FS-5).
    Promised {
        /// The lease goes on until then: the TTL, counted from the moment at which the first question was sent.
        until: Monotonic,
        /// Positions of those who told one.
        positions: BTreeMap<MemberName, Lsn>,
    },
    /// What the peers said; a member that is missing here was not reachable.
    Peers(Vec<PeerAnswer>),
    /// It is there, and a primary for all that is known; or it is not there, or in recovery.
    Primary(bool),
    /// How the recovery configuration differs.
    Recovery(RecoveryDifference),
    /// Whether the WAL diverged.
    Divergence(Divergence),
    /// Written, with the key's new revision.
    Written(Revision),
    /// The names are in force everywhere, and this is the position of the server after that (zero on a standby): every
    /// commit that was acknowledged under other names is below it. `None`: not yet.
    Settled(Option<Lsn>),
    /// Logical slots that this standby has to copy from the leader (contract SL-10).
    SlotsToCopy(Vec<String>),
}

/// Contract B.19.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecoveryDifference {
    /// None.
    None,
    /// A reload is enough.
    Reload,
    /// The server must be restarted.
    Restart,
}

/// Contract RW-7, RW-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Divergence {
    /// Local WAL is not in the upstream's history.
    Diverged,
    /// It is.
    SameHistory,
    /// Both began a timeline of the same number without knowing of each other. `pg_rewind` takes the two for one and does
    /// nothing; only a new copy can follow.
    SameTimelineTwice,
    /// Not to be told now.
    Unknown,
}
