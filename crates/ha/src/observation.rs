//! What a cycle starts from: plain data, gathered once, frozen for all rounds of the cycle.

use std::{sync::Arc, time::Duration};

pub use ptarmigan_types::ControlState;
use ptarmigan_types::{Cluster, Lsn, MemberName, MemberState, Monotonic, Role, Tags, Timeline};
use serde::{Deserialize, Serialize};

use crate::{
    action::{Action, DemoteMode, Outcome},
    health,
    memory::Source,
    rto, sync,
    upstream::Remote,
};

/// Everything that a decision depends on, besides [`crate::Memory`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The moment at which the cycle began; the same in all of its rounds.
    pub now: Monotonic,
    /// Wall time, for schedules only.
    pub wall: jiff::Timestamp,
    /// My name.
    pub me: MemberName,
    /// Settings in effect.
    pub settings: Settings,
    /// The cluster, or why it could not be read.
    pub view: Result<Arc<Cluster>, String>,
    /// The local PostgreSQL.
    pub postgres: PostgresView,
    /// The kernel watchdog.
    #[serde(default)]
    pub watchdog: WatchdogView,
    /// The guardian.
    #[serde(default)]
    pub guardian: GuardianView,
    /// What is wrong with a server that runs, where something is.
    #[serde(default)]
    pub ailment: Option<health::Ailment>,
    /// What the DCS usually takes to renew a lock; `None` where that is not known.
    #[serde(default)]
    pub dcs_latency: Option<Duration>,
    /// The one long action in flight.
    pub job: Option<JobView>,
    /// Results of long actions that ended since the last cycle, oldest first.
    pub finished: Vec<JobResult>,
    /// A restart that an operator scheduled on this node.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// The timeout of the restart request under way (contract RS-4).
    pub start_timeout: Option<Duration>,
    /// The promise that this node gave to a leader without the DCS, as long as it holds (contract FS-8).
    #[serde(default)]
    pub promise: Option<crate::failsafe::Promise>,
    /// What this cycle's actions brought so far, in order.
    pub outcomes: Vec<(Action, Outcome)>,
}

/// Settings that decisions depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// TTL of the leader lease.
    pub ttl: Duration,
    /// The longest sleep between two cycles.
    pub loop_wait: Duration,
    /// Budget of a DCS operation; also the timeout of an immediate stop.
    pub retry_timeout: Duration,
    /// How long a primary may take to start; zero prefers a failover.
    pub primary_start_timeout: Duration,
    /// A standby further behind than this does not take over, in bytes.
    pub maximum_lag_on_failover_bytes: u64,
    /// Whether a standby on an older timeline is kept from taking over.
    pub check_timeline: bool,
    /// How long a standby whose WAL still moves waits before it races; zero is off.
    pub primary_race_backoff: Duration,
    /// `failsafe_mode` of the last valid `/config`.
    #[serde(default)]
    pub failsafe_mode: bool,
    /// Where my REST API answers, as my member key says.
    #[serde(default)]
    pub api_url: String,
    /// Whether this node has a `bootstrap` section.
    pub can_bootstrap: bool,
    /// Whether a replica method that needs no leader is configured.
    pub can_clone_without_leader: bool,
    /// Delete and clone again where `pg_rewind` failed.
    pub remove_data_directory_on_rewind_failure: bool,
    /// Delete and clone again where timelines diverged and `pg_rewind` is impossible.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// Permanent logical slots are configured.
    #[serde(default)]
    pub has_logical_slots: bool,
    /// Maintenance mode.
    #[serde(default)]
    pub pause: bool,
    /// Whether nobody takes over from a primary that runs without its daemon, until an operator names a candidate.
    #[serde(default)]
    pub unmanaged_primary_waits: bool,
    /// My tags.
    pub tags: Tags,
    /// The other end of a standby cluster (contract CF-32); `None` in a normal cluster.
    #[serde(default)]
    pub standby_cluster: Option<Remote>,
    /// Synchronous replication.
    #[serde(default)]
    pub synchronous: sync::Settings,
    /// `rto`.
    #[serde(default)]
    pub recovery: rto::Settings,
    /// What is done about a server that runs and does not work.
    #[serde(default)]
    pub health: health::Settings,
    /// After a change of leader, nobody takes over by itself for that long; zero is off.
    #[serde(default)]
    pub failover_interval_min: Duration,
}

/// The kernel watchdog (contract D.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogView {
    /// It counts down: the host is reset unless the lock is renewed.
    pub running: bool,
    /// It is to be activated before this node leads.
    pub wanted: bool,
    /// False where it is required and cannot be used.
    pub healthy: bool,
}

impl Default for WatchdogView {
    /// None is configured.
    fn default() -> Self {
        Self { running: false, wanted: false, healthy: true }
    }
}

/// The guardian, as far as decisions depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardianView {
    /// It stands behind the server that runs, or will behind the next one.
    pub armed: bool,
    /// Without it this node does not lead.
    pub required: bool,
}

impl GuardianView {
    /// It is required and cannot be had.
    pub const fn is_missing(self) -> bool {
        self.required && !self.armed
    }
}

/// The data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataDirectory {
    /// It cannot be read, with the reason.
    Unreadable(String),
    /// Empty in the sense of contract B.8.
    Empty,
    /// There is something in it.
    Present,
}

/// The local PostgreSQL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PostgresView {
    /// The data directory.
    pub data_directory: DataDirectory,
    /// The system identifier in `pg_control`.
    pub system_identifier: Option<String>,
    /// The state as last set.
    pub state: MemberState,
    /// How long the state has been what it is.
    pub in_state_for: Duration,
    /// The role as last set.
    pub role: Role,
    /// The postmaster, or anything it left behind, is alive.
    pub running: bool,
    /// The answer to the monitoring query; `None` where it failed or was not asked.
    pub server: Option<ServerFacts>,
    /// `pg_control`'s state; `Unknown` while the server runs.
    pub control_state: ControlState,
    /// `backup_label` lies in the data directory.
    pub has_backup_label: bool,
    /// `standby.signal` or `recovery.signal` lies in the data directory.
    pub has_recovery_signal: bool,
    /// Major version, for example 15; 0 where unknown.
    pub major_version: u32,
    /// Contract RW-1.
    pub rewind_possible: bool,
    /// `pg_rewind` began to change the data directory from this source and did not come to its end: what lies there belongs
    /// to no history, and PostgreSQL must not run on it. `None` while a server runs.
    #[serde(default)]
    pub unfinished_rewind: Option<Source>,
    /// A copy, of `pg_basebackup` or `pg_rewind`, that is consistent only once it has replayed the WAL of the time when it was
    /// made, and has not yet (`pg_control`'s backup start, or a `backup_label` that waits for its first start). `false` where
    /// that was not looked at: while a server accepts connections.
    #[serde(default)]
    pub inconsistent_copy: bool,
    /// The newest timeline that a `.history` file in `pg_wal` tells of; 0 where there is none (contract HA-284).
    #[serde(default)]
    pub newest_history: Timeline,
    /// When the postmaster started, as text that changes with every start.
    pub postmaster_start_time: Option<String>,
    /// A restart is outstanding.
    pub pending_restart: bool,
    /// `server_version_num`; 0 where unknown.
    pub server_version: u32,
    /// What concerns synchronous replication.
    #[serde(default)]
    pub synchronous: sync::Facts,
}

/// One answer to the monitoring query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// The timeline, where known.
    pub timeline: Option<Timeline>,
    /// Primary: flush position. Standby: the greater of received and replayed.
    pub lsn: Lsn,
    /// The WAL receiver is streaming.
    pub streaming: bool,
    /// Replay is paused.
    pub replay_paused: bool,
}

impl PostgresView {
    /// Whether this server is a primary: by its own answer, else by process and role, so that a statement timeout does
    /// not demote (contract B.1, `is_primary()`).
    pub fn is_primary(&self) -> bool {
        self.server.as_ref().map_or(self.running && self.role == Role::Primary, |server| !server.in_recovery)
    }

    /// Whether this server may be writable, or about to be, for all that is known: where the lock is lost, this decides
    /// about stepping down. Wider than [`Self::is_primary`]: a server that was told to promote counts even where its
    /// answer is a moment old and still says otherwise.
    pub fn may_write(&self) -> bool {
        matches!(self.role, Role::Primary | Role::Promoted)
            || self.server.as_ref().is_some_and(|server| !server.in_recovery)
    }

    /// My position, where known.
    pub fn lsn(&self) -> Option<Lsn> {
        self.server.as_ref().map(|server| server.lsn).filter(|lsn| !lsn.is_zero())
    }

    /// My timeline, where known.
    pub fn timeline(&self) -> Option<Timeline> {
        self.server.as_ref().and_then(|server| server.timeline)
    }

    /// A promotion was ordered and is not done: restarted now, the server would come up as a primary of the old timeline.
    pub fn is_promoting(&self) -> bool {
        let in_recovery = self.server.as_ref().map_or(self.has_recovery_signal, |server| server.in_recovery);
        self.role == Role::Promoted && in_recovery
    }

    /// The server was started and does not accept connections yet.
    pub const fn is_starting(&self) -> bool {
        matches!(self.state, MemberState::Starting | MemberState::StartingAfterCustomBootstrap)
    }
}

impl JobView {
    /// `pg_ctl promote` may have been called.
    pub fn is_promoting(&self) -> bool {
        self.kind == JobKind::Promote && !self.cancellable
    }
}

/// The long action in flight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// What kind.
    pub kind: JobKind,
    /// For how long.
    pub running_for: Duration,
    /// True as long as the part that must not be undone (`pg_ctl promote`) has not begun.
    pub cancellable: bool,
}

/// Kinds of long actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobKind {
    /// `initdb` and the first start.
    Bootstrap,
    /// A copy of the remote member, for the first member of a standby cluster.
    BootstrapStandbyLeader,
    /// Roles and the operator's script after the first start.
    PostBootstrap,
    /// Copying a data directory.
    Clone,
    /// Removing the data directory and copying it again.
    Reinitialize,
    /// Promotion.
    Promote,
    /// Stop, and start as a standby.
    Demote(DemoteMode),
    /// Starting a crashed primary in place.
    StartPrimary,
    /// (Re)start as a standby.
    Follow,
    /// An operator's restart.
    Restart,
    /// `pg_rewind`.
    Rewind,
    /// Crash recovery in single-user mode.
    CrashRecovery,
    /// Copying logical slots from the leader.
    CopySlots,
}

impl JobKind {
    /// The words that operators know from the status line.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::BootstrapStandbyLeader => "bootstrap_standby_leader",
            Self::PostBootstrap => "post_bootstrap",
            Self::Clone => "bootstrap from leader",
            Self::Reinitialize => "reinitialize",
            Self::Promote => "promote",
            Self::Demote(_) => "demote",
            Self::StartPrimary => "restarting after failure",
            Self::Follow => "starting as a standby",
            Self::Restart => "restart",
            Self::Rewind => "running pg_rewind",
            Self::CrashRecovery => "doing crash recovery in a single user mode",
            Self::CopySlots => "copy_logical_slots",
        }
    }
}

/// How a long action ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// What kind.
    pub kind: JobKind,
    /// How.
    pub end: JobEnd,
}

/// The end of a long action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobEnd {
    /// It did what it should.
    Done,
    /// It failed, with the reason.
    Failed(String),
    /// `pre_promote` refused the promotion.
    PrePromoteFailed,
    /// `pg_rewind` failed, and its target is lost for another try.
    RewindFailedForGood(String),
    /// It was cancelled.
    Cancelled,
}

/// A restart that waits for its time (contract B.18).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledRestart {
    /// When.
    pub at: jiff::Timestamp,
    /// The postmaster that is meant.
    pub postmaster_start_time: Option<String>,
    /// Its conditions.
    pub filter: RestartFilter,
    /// How long to wait for the start.
    pub timeout: Option<Duration>,
}

/// Conditions of a restart (contract RS-2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartFilter {
    /// Only in this role.
    pub role: Option<Role>,
    /// Only if the server is older than this `server_version_num`.
    pub older_than: Option<u32>,
    /// Only if a restart is pending.
    pub pending: bool,
}
