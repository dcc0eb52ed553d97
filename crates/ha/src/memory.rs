//! What a node remembers from cycle to cycle (contract B.0).

use std::sync::Arc;

use ptarmigan_types::{Lsn, Member, MemberName, Monotonic, Revision, Timeline};
use serde::{Deserialize, Serialize};

use crate::{observation::JobKind, sync, upstream::Upstream};

/// The state of the question whether the local WAL must be rewound (contract B.20).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RewindState {
    /// Nothing known.
    #[default]
    Initial,
    /// To be checked.
    Check,
    /// Must be rewound.
    Need,
    /// Need not be rewound.
    NotNeed,
    /// `pg_rewind` succeeded.
    Success,
    /// `pg_rewind` failed for good.
    Failed,
}

impl RewindState {
    /// The question is open or its answer is yes.
    pub const fn is_pending(self) -> bool {
        matches!(self, Self::Check | Self::Need)
    }

    /// `pg_rewind` ran, or it is known that it need not.
    pub const fn was_executed(self) -> bool {
        matches!(self, Self::NotNeed | Self::Success | Self::Failed)
    }
}

/// Against whom the rewind question was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The one to follow then.
    pub leader: Upstream,
    /// The timeline that it published.
    pub timeline: Option<Timeline>,
}

impl Source {
    /// That member as its key shows it.
    pub fn of(leader: &Member) -> Self {
        Self { leader: (&leader.name).into(), timeline: leader.data.timeline() }
    }

    /// Not another one, for all that is known: a member whose PostgreSQL is down publishes no timeline.
    pub fn may_be(&self, other: &Self) -> bool {
        let same_timeline = match (self.timeline, other.timeline) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => true,
        };
        self.leader == other.leader && same_timeline
    }

    /// The remote end of a standby cluster, which publishes nothing here.
    pub const fn remote() -> Self {
        Self { leader: Upstream::Remote, timeline: None }
    }
}

/// Everything that outlives a cycle. A fresh daemon starts with [`Memory::default`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Members of the last view that had a leader, or of the first view ever (contract LV-1).
    pub old_members: Arc<Vec<Member>>,
    /// The leader of that view.
    pub old_leader: Option<MemberName>,
    /// The leader's published timeline (contract LV-5).
    pub leader_timeline: Option<Timeline>,
    /// My position in the latest cycle.
    pub last_lsn: Option<Lsn>,
    /// My position in the cycle before.
    pub previous_lsn: Option<Lsn>,
    /// Since when nobody holds the lock, as far as this node has seen.
    #[serde(default)]
    pub unlocked_since: Option<Monotonic>,
    /// What is remembered of `rto`.
    #[serde(default)]
    pub recovery: crate::rto::Memory,
    /// When the countdown of `primary_race_backoff` began.
    pub race_backoff_since: Option<Monotonic>,
    /// When crash recovery in single-user mode began.
    pub crash_recovery_since: Option<Monotonic>,
    /// A start was begun by the loop and is to be verified.
    pub recovering: bool,
    /// This node bootstraps the cluster.
    pub bootstrapping: bool,
    /// How `post_bootstrap` ended.
    pub post_bootstrap: Option<bool>,
    /// The rewind question.
    pub rewind: RewindState,
    /// The leader that [`RewindState::Need`] was found against: against another one the question is open again.
    #[serde(default)]
    pub rewind_against: Option<Source>,
    /// Whom the start as a standby that is in flight, or was begun last, is to follow.
    #[serde(default)]
    pub starts_behind: Option<Upstream>,
    /// When this node gave up the lock because `pre_promote` failed.
    pub released_at: Option<Monotonic>,
    /// The first cycle on a running server is done (the contract's `cb_called`, without its upstream gap: HA-089).
    pub joined: bool,
    /// While unlocked and somebody else shall win: until when to hold still, and for which wish (contract HA-133).
    pub yielding: Option<Yield>,
    /// The timeline for which `/history` was last brought up to date.
    pub history_done: Option<Timeline>,
    /// The create revision of the lock that this node won in a race, or under which its server was a primary.
    #[serde(default)]
    pub won: Option<Revision>,
    /// What failsafe mode needs to know (contract B.15).
    #[serde(default)]
    pub failsafe: crate::failsafe::Seen,
    /// The cluster was paused in the cycle before (contract HA-004).
    #[serde(default)]
    pub was_paused: bool,
    /// This node's own demotion has stopped the server, and it has not been started since.
    #[serde(default)]
    pub owes_start: bool,
    /// The long action that failed last, so that it is not begun again at once, over and over.
    pub failed: Option<FailedJob>,
    /// Synchronous replication.
    #[serde(default)]
    pub synchronous: sync::Memory,
}

impl Memory {
    /// Nobody can follow a bootstrapping node, and nobody else can bootstrap, as long as it has not reached for the lock:
    /// until then there is no lock to lose. After that an answer may have been lost, and others may have cloned from here.
    pub const fn bootstraps_without_lock(&self) -> bool {
        self.bootstrapping && !matches!(self.post_bootstrap, Some(true))
    }
}

/// A long action that failed. Its end wakes the loop, so nothing but this keeps it from being repeated without a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedJob {
    /// What kind.
    pub kind: JobKind,
    /// The cycle that heard of it.
    pub at: Monotonic,
}

/// Contract HA-133: give the candidate a moment before looking for somebody to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yield {
    /// The revision of `/failover`, 0 without one.
    pub wish: Revision,
    /// Until when.
    pub until: Monotonic,
}
