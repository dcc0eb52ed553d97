//! What a node says of itself at one moment: the snapshot with everything outdated left out (contract surface A.2).

use std::time::Duration;

use ptarmigan_types::{Cluster, Lsn, MemberState, Monotonic, Role};

use crate::snapshot::{Figures, Snapshot};

/// Figures may be older than the longest sleep of the HA loop by this much before they count as unknown.
const FIGURES_GRACE: Duration = Duration::from_secs(5);

/// The snapshot as it may be relied on at the moment of a request.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// Everything else.
    pub snapshot: &'a Snapshot,
    /// The moment.
    pub now: Monotonic,
    /// PostgreSQL's answer, where there is one that is new enough.
    pub figures: Option<&'a Figures>,
    /// The view of the DCS, where it is not older than `ttl`.
    pub view: Option<&'a Cluster>,
    /// The internal state, but `unknown` where it is `running` and PostgreSQL does not answer.
    pub state: &'static str,
    /// `primary` or `replica` as PostgreSQL says, the internal role in a standby cluster or where it says nothing.
    pub role: Role,
    /// The lease is valid now.
    pub holds_lease: bool,
}

impl<'a> Reported<'a> {
    /// Judges `snapshot` at the moment `now`.
    pub fn at(snapshot: &'a Snapshot, now: Monotonic) -> Self {
        let figures = usable_figures(snapshot, now);
        let view = snapshot.view.as_ref().filter(|view| now < view.at + snapshot.global.ttl);
        let state = match snapshot.state {
            MemberState::Running if figures.is_none() => "unknown",
            state => state.as_str(),
        };
        let role = match figures {
            Some(figures) if !figures.in_recovery => Role::Primary,
            Some(_) if !snapshot.global.standby_cluster => Role::Replica,
            _ => snapshot.role,
        };
        Self {
            snapshot,
            now,
            figures,
            view: view.map(|view| &view.cluster),
            state,
            role,
            holds_lease: snapshot.leader_until.is_some_and(|until| now < until),
        }
    }

    /// The same node as one of which nothing is known but what it does: for a process that is going away.
    #[must_use]
    pub const fn without_figures(mut self) -> Self {
        self.figures = None;
        self
    }

    /// The states in which PostgreSQL is asked (contract surface A.4).
    pub const fn asks_postgres(state: MemberState) -> bool {
        matches!(state, MemberState::Running | MemberState::Restarting | MemberState::Starting)
    }

    /// Exactly `running`, and PostgreSQL answers.
    pub fn is_running(&self) -> bool {
        self.state == MemberState::Running.as_str()
    }

    /// The greater of what the DCS and the WAL receiver know of the leader's position; `None` where neither does.
    pub fn leader_position(&self) -> Option<Lsn> {
        let stored = self.view.map_or(Lsn::ZERO, |view| view.status.last_lsn);
        let heard = self.figures.map_or(Lsn::ZERO, |figures| figures.latest_end_lsn);
        Some(stored.max(heard)).filter(|position| !position.is_zero())
    }

    /// Failsafe mode is active at this moment.
    pub fn is_failsafe_active(&self) -> bool {
        self.snapshot.failsafe_until.is_some_and(|until| self.now < until)
    }

    /// A replica that `/sync` names, in a cluster whose synchronous mode is on.
    fn is_listed(&self) -> bool {
        self.role == Role::Replica
            && self.snapshot.global.synchronous
            && !self.snapshot.global.standby_cluster
            && self.view.is_some_and(|view| view.sync.matches(self.snapshot.name.as_str()))
    }

    /// The document's `sync_standby`.
    pub fn is_sync_standby(&self) -> bool {
        self.is_listed() && !self.snapshot.global.quorum
    }

    /// The document's `quorum_standby`.
    pub fn is_quorum_standby(&self) -> bool {
        self.is_listed() && self.snapshot.global.quorum
    }
}

/// An answer given before the state changed does not count any more.
fn usable_figures(snapshot: &Snapshot, now: Monotonic) -> Option<&Figures> {
    let is_asked = Reported::asks_postgres(snapshot.state);
    let age_max = snapshot.global.loop_wait + FIGURES_GRACE;
    snapshot
        .figures
        .as_ref()
        .filter(|figures| is_asked && snapshot.postmaster_alive && now.since(figures.at) <= age_max)
}
