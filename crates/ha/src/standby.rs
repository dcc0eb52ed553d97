//! A standby cluster: its leader is no primary, but follows another cluster (contract B.14, B.16 `demote-cluster`, B.17.5).
//!
//! Nobody in it writes. That there is one writable cluster of the two is for the operator to see to, who promotes this one
//! only when the other was demoted; each of them keeps its own members from writing as soon as its `/config` says so.

use ptarmigan_types::{Cluster, MemberName, Role};

use crate::{
    action::{Action, DemoteMode, Job},
    follow,
    observation::JobKind,
    rewind,
    round::{Round, Step},
    upstream::Upstream,
};

/// The line of a primary that finds itself in a standby cluster.
pub(crate) const NO_PRIMARY: &str = "cannot be a real primary in a standby cluster";

/// Contract NF-2.
pub(crate) fn follows_remote(me: &MemberName, cluster: &Cluster, paused: bool) -> bool {
    cluster.is_leader(me) || cluster.is_unlocked() && !paused
}

/// HA-165: the holder of a standby cluster's lock.
pub(crate) fn lead(r: &mut Round<'_>) -> Step<String> {
    r.fired("HA-165", "");
    let line = if r.obs.postgres.role == Role::StandbyLeader {
        format!("no action. I am ({}), the standby leader with the lock", r.obs.me)
    } else {
        "promoted self to a standby leader because I had the session lock".into()
    };
    follow::follow(r, &line, NO_PRIMARY)
}

/// HA-175: a member without the lock.
pub(crate) fn follow_leader(r: &mut Round<'_>) -> Step<String> {
    r.fired("HA-175", "");
    let leader = r.view.leader_name().map_or_else(String::new, ToString::to_string);
    let line =
        format!("no action. I am ({}), a secondary, and following a standby leader ({leader})", r.obs.me);
    follow::follow(r, &line, NO_PRIMARY)
}

/// Whether a primary that has to step down does so in peace. Safer than the contract (docs/compatibility.md): only with the
/// lock in hand. A primary without it is one that should not be there, and gets no time for a shutdown.
pub(crate) fn demotes_cluster(r: &Round<'_>) -> bool {
    r.in_standby_cluster() && r.has_lock()
}

/// HA-283: no more writes from here on, and nothing of what was written is lost: a fast shutdown sends the rest of the WAL
/// to whoever streams it. The lock is kept.
pub(crate) fn demote_cluster(r: &mut Round<'_>, demotes: &str) -> Step<String> {
    r.hold_back(JobKind::Demote(DemoteMode::DemoteCluster))?;
    r.fired("HA-283", "");
    r.start(Job::Demote(DemoteMode::DemoteCluster), demotes)
}

/// HA-284: the remote end went on to another timeline, and its history file came, but no WAL of it: perhaps because this
/// server left its way.
pub(crate) fn upstream_went_on(r: &mut Round<'_>) {
    let Some(leaders) = r.memory.leader_timeline.filter(|_| r.in_standby_cluster()) else { return };
    if r.obs.postgres.newest_history > leaders {
        r.fired(
            "HA-284",
            format!("history of timeline {}, the leader's is {leaders}", r.obs.postgres.newest_history),
        );
        rewind::trigger(r, "the remote member is on a newer timeline");
    }
}

/// HA-288: nobody with an address is to be followed, so the recovery configuration stays as it is.
pub(crate) fn keeps_following(r: &mut Round<'_>, upstream: Option<&Upstream>, role: Role) -> Option<String> {
    if !r.in_standby_cluster()
        || role != Role::Replica
        || upstream.is_some_and(|upstream| has_address(r, upstream))
    {
        return None;
    }
    r.fired("HA-288", "");
    Some("continue following the old known standby leader".into())
}

/// There is something to connect to.
pub(crate) fn has_address(r: &Round<'_>, upstream: &Upstream) -> bool {
    match upstream {
        Upstream::Remote => r.obs.settings.standby_cluster.is_some_and(|remote| remote.has_address),
        Upstream::Member(name) => r.view.member(name).is_some_and(|member| member.data.conn_url().is_some()),
    }
}

/// HA-110, HA-111: how a stopped server of a standby cluster comes up again; `None`: as any other standby.
pub(crate) fn recover(r: &mut Round<'_>) -> Option<(Option<Upstream>, Role, &'static str)> {
    if !r.in_standby_cluster() {
        return None;
    }
    if r.has_lock() {
        r.fired("HA-110", "");
        let upstream = follow::node_to_follow(&r.obs.me, &r.obs.settings, r.view);
        return Some((
            upstream,
            Role::StandbyLeader,
            "starting as a standby leader because I had the session lock",
        ));
    }
    if r.view.is_unlocked() {
        r.fired("HA-111", "");
        let line = "trying to follow a remote member because standby cluster is unhealthy";
        return Some((Some(Upstream::Remote), Role::Replica, line));
    }
    None
}

/// A promotion that was decided for before this became a standby cluster, and has not begun, is taken back.
pub(crate) fn takes_back_promotion(r: &mut Round<'_>, kind: JobKind, cancellable: bool) -> bool {
    let taken_back = r.in_standby_cluster() && kind == JobKind::Promote && cancellable;
    if taken_back {
        r.fired("HA-032", "this is a standby cluster by now");
        r.request(Action::CancelJob);
        r.wake_within(std::time::Duration::ZERO);
    }
    taken_back
}
