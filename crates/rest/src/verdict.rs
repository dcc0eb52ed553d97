//! Health verdicts (contract surface A.1 to A.3): pure functions of what the node reports, the path and the query.

use ptarmigan_types::{
    Role, Tags,
    scalar::{parse_int, python_str},
};
use serde_json::Value;

use crate::{query::Query, reported::Reported};

/// What a path of the health family asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Leads a standby cluster.
    StandbyLeader,
    /// Holds the lock.
    Leader,
    /// Holds the lock of a normal cluster.
    Primary,
    /// A running replica that clients may read from.
    Replica,
    /// Primary, standby leader or replica.
    ReadOnly,
    /// PostgreSQL is running.
    Health,
    /// A synchronous standby.
    Sync,
    /// A standby of the quorum.
    Quorum,
    /// A standby that is neither.
    Async,
    /// Primary, standby leader or synchronous standby.
    ReadOnlySync,
    /// Primary, standby leader or standby of the quorum.
    ReadOnlyQuorum,
    /// No verdict: 503.
    Unknown,
}

impl Family {
    /// Finds the family by substring, in the contract's order; leading slashes count as one.
    pub fn of(path: &str) -> Self {
        let path = path.trim_start_matches('/');
        let contains = |words: &[&str]| words.iter().any(|word| path.contains(word));
        match path {
            "" => Self::Primary,
            _ if contains(&["standby_leader", "standby-leader"]) => Self::StandbyLeader,
            _ if contains(&["leader"]) => Self::Leader,
            _ if contains(&["master", "primary", "read-write"]) => Self::Primary,
            _ if contains(&["replica"]) => Self::Replica,
            _ if contains(&["read-only"]) && !contains(&["sync", "quorum"]) => Self::ReadOnly,
            _ if contains(&["health"]) => Self::Health,
            "sync" | "synchronous" => Self::Sync,
            "quorum" => Self::Quorum,
            "async" | "asynchronous" => Self::Async,
            "read-only-sync" | "read-only-synchronous" => Self::ReadOnlySync,
            "read-only-quorum" => Self::ReadOnlyQuorum,
            _ => Self::Unknown,
        }
    }

    const fn ignores_tags(self) -> bool {
        matches!(self, Self::StandbyLeader | Self::Leader | Self::Primary)
    }
}

/// The status of a health check: 200 or 503.
pub fn health(reported: &Reported<'_>, path: &str, query: &Query) -> u16 {
    let family = Family::of(path);
    status(
        verdict(reported, family, query)
            && (family.ignores_tags() || tags_match(&reported.snapshot.tags, query)),
    )
}

const fn status(is_good: bool) -> u16 {
    if is_good { 200 } else { 503 }
}

fn verdict(reported: &Reported<'_>, family: Family, query: &Query) -> bool {
    let has_view = reported.view.is_some();
    let sync = reported.is_sync_standby();
    let quorum = reported.is_quorum_standby();
    let leads = || primary(reported) || standby_leader(reported);
    match family {
        Family::StandbyLeader => standby_leader(reported),
        Family::Leader => leader(reported),
        Family::Primary => primary(reported),
        Family::Replica => replica(reported, query),
        Family::ReadOnly => leads() || replica(reported, query),
        Family::Health => reported.is_running(),
        Family::Sync => has_view && sync && replica(reported, query),
        Family::Quorum => has_view && quorum && replica(reported, query),
        Family::Async => has_view && !sync && !quorum && replica(reported, query),
        Family::ReadOnlySync => has_view && (leads() || sync && replica(reported, query)),
        Family::ReadOnlyQuorum => has_view && (leads() || quorum && replica(reported, query)),
        Family::Unknown => false,
    }
}

/// The DCS is gone in a paused cluster: nobody moves, so the role decides and the lease does not.
fn is_paused_without_view(reported: &Reported<'_>) -> bool {
    reported.view.is_none() && reported.snapshot.global.pause
}

fn primary(reported: &Reported<'_>) -> bool {
    if is_paused_without_view(reported) {
        return reported.role == Role::Primary;
    }
    reported.holds_lease && !reported.snapshot.global.standby_cluster
}

fn leader(reported: &Reported<'_>) -> bool {
    if is_paused_without_view(reported) {
        return matches!(reported.role, Role::Primary | Role::StandbyLeader);
    }
    reported.holds_lease
}

fn standby_leader(reported: &Reported<'_>) -> bool {
    if is_paused_without_view(reported) {
        return reported.role == Role::StandbyLeader;
    }
    reported.holds_lease
        && reported.snapshot.global.standby_cluster
        && matches!(reported.role, Role::Replica | Role::StandbyLeader)
}

fn replica(reported: &Reported<'_>, query: &Query) -> bool {
    let leads_standby_cluster = reported.holds_lease && reported.snapshot.global.standby_cluster;
    !leads_standby_cluster
        && !reported.snapshot.tags.noloadbalance()
        && reported.role == Role::Replica
        && reported.is_running()
        && !is_lagging(reported, query)
        && query.get("replication_state").is_none_or(|state| replication_state(reported) == Some(state))
}

fn replication_state<'a>(reported: &Reported<'a>) -> Option<&'a str> {
    reported.figures.and_then(|figures| figures.replication_state.as_deref())
}

/// `lag=`; `None` where absent or not a size, which is no limit.
fn lag_limit_bytes(query: &Query) -> Option<i128> {
    let text = query.get("lag")?;
    parse_int(&Value::String(text.to_owned()), Some("B")).map(i128::from)
}

/// Measured on replay, whatever was received.
fn is_lagging(reported: &Reported<'_>, query: &Query) -> bool {
    let (Some(limit), Some(figures)) = (lag_limit_bytes(query), reported.figures) else { return false };
    reported
        .leader_position()
        .is_some_and(|leader| i128::from(leader.0) > i128::from(figures.replayed_location.0) + limit)
}

fn tags_match(tags: &Tags, query: &Query) -> bool {
    query.iter().filter_map(|(key, wanted)| Some((key.strip_prefix("tag_")?, wanted))).all(|(tag, wanted)| {
        match tags.0.get(tag) {
            Some(Value::String(text)) => text == wanted,
            Some(other) => python_str(other).to_lowercase() == wanted,
            None => false,
        }
    })
}

/// `GET /readiness`: leads, or streams and is not too far behind (contract surface, rest_endpoints).
pub fn readiness(reported: &Reported<'_>, query: &Query) -> u16 {
    if reported.holds_lease {
        return 200;
    }
    let Some(figures) = reported.figures else { return 503 };
    if !reported.is_running() || replication_state(reported) != Some("streaming") {
        return 503;
    }
    let Some(leader) = reported.leader_position() else { return status(reported.is_failsafe_active()) };
    let position = match query.get("mode") {
        Some("write") => figures.received_location,
        _ => figures.replayed_location,
    };
    let limit = lag_limit_bytes(query)
        .unwrap_or_else(|| i128::from(reported.snapshot.global.maximum_lag_on_failover_bytes));
    status(i128::from(leader.0) - i128::from(position.0) <= limit)
}

/// `GET /liveness`: the HA loop runs, or is paused (contract surface A.9).
pub fn liveness(reported: &Reported<'_>) -> u16 {
    let snapshot = reported.snapshot;
    let is_running_primary = snapshot.role == Role::Primary && snapshot.postmaster_alive;
    let slack = if is_running_primary { snapshot.global.ttl } else { snapshot.global.ttl * 2 };
    status(snapshot.global.pause || reported.now < snapshot.next_run + slack)
}
