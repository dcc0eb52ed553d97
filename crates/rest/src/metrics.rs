//! The metrics of a node (contract surface B): Patroni's names in Patroni's order, then our own.

use std::time::Duration;

use ptarmigan_types::{Cluster, MemberState, Role, version};

use crate::{
    exposition::Exposition,
    reported::Reported,
    snapshot::{Figures, Snapshot},
};

/// PostgreSQL 9.6, the first that tells what its WAL receiver does.
const WITH_WAL_RECEIVER: u32 = 90_600;

/// The text of `GET /metrics` (contract surface B), in the Prometheus text format. Positions are bytes, times are
/// seconds; what the snapshot does not know is 0.
pub fn metrics_text(reported: &Reported<'_>) -> String {
    let snapshot = reported.snapshot;
    let mut page = Exposition::new(&[("scope", &snapshot.scope), ("name", snapshot.name.as_str())]);
    server_and_role(&mut page, reported);
    standby(&mut page, reported.figures.filter(|figures| figures.in_recovery));
    server_version(&mut page, reported.figures);
    cluster(&mut page, reported);
    node(&mut page, reported);
    own(&mut page, snapshot);
    page.into_text()
}

/// Metrics 1 to 9.
fn server_and_role(page: &mut Exposition, reported: &Reported<'_>) {
    let figures = reported.figures;
    let primary = figures.filter(|figures| !figures.in_recovery);
    // Who is a synchronous standby is known only of a server that answers.
    let answers = figures.is_some();
    let started = figures.and_then(|figures| epoch_seconds(&figures.postmaster_start_time));
    let is = |role| reported.role == role;
    page.gauge(
        "patroni_version",
        "Patroni's version that this node stands for, two digits for each part.",
        version_digits(&reported.snapshot.version),
    );
    page.flag("patroni_postgres_running", "1 while PostgreSQL runs and answers.", reported.is_running());
    page.gauge(
        "patroni_postmaster_start_time",
        "Epoch seconds of PostgreSQL's start, 0 where it does not answer.",
        started.unwrap_or_else(zero),
    );
    page.flag("patroni_primary", "1 on a primary, whoever holds the leader lock.", is(Role::Primary));
    page.counter(
        "patroni_xlog_location",
        "WAL position that a primary has flushed, in bytes; 0 elsewhere.",
        primary.map_or(0, |figures| figures.location.0),
    );
    page.flag(
        "patroni_standby_leader",
        "1 on the standby that leads a standby cluster.",
        is(Role::StandbyLeader),
    );
    page.flag("patroni_replica", "1 on a replica.", is(Role::Replica));
    page.flag("patroni_sync_standby", "1 on a synchronous standby.", answers && reported.is_sync_standby());
    page.flag(
        "patroni_quorum_standby",
        "1 on a standby of the quorum.",
        answers && reported.is_quorum_standby(),
    );
}

/// Metrics 10 to 13.
fn standby(page: &mut Exposition, standby: Option<&Figures>) {
    let replayed_at = standby.and_then(|figures| figures.replayed_timestamp.as_deref());
    page.counter(
        "patroni_xlog_received_location",
        "WAL position that a standby has received, in bytes; 0 elsewhere.",
        standby.map_or(0, |figures| figures.received_location.0),
    );
    page.counter(
        "patroni_xlog_replayed_location",
        "WAL position that a standby has replayed, in bytes; 0 elsewhere.",
        standby.map_or(0, |figures| figures.replayed_location.0),
    );
    page.gauge(
        "patroni_xlog_replayed_timestamp",
        "Epoch seconds of the last commit that a standby has replayed, 0 where there is none.",
        replayed_at.and_then(epoch_seconds).unwrap_or_else(zero),
    );
    page.flag(
        "patroni_xlog_paused",
        "1 on a standby whose replay is paused.",
        standby.is_some_and(|figures| figures.replay_paused),
    );
}

/// Metrics 14 to 16.
fn server_version(page: &mut Exposition, figures: Option<&Figures>) {
    if let Some(figures) = figures.filter(|figures| figures.server_version >= WITH_WAL_RECEIVER) {
        let is = |state| figures.in_recovery && figures.replication_state.as_deref() == Some(state);
        page.flag("patroni_postgres_streaming", "1 on a standby that streams.", is("streaming"));
        page.flag(
            "patroni_postgres_in_archive_recovery",
            "1 on a standby that reads the archive instead of streaming.",
            is("in archive recovery"),
        );
    }
    page.gauge(
        "patroni_postgres_server_version",
        "PostgreSQL's version as one number, 0 where it does not answer.",
        figures.map_or(0, |figures| figures.server_version),
    );
}

/// Metrics 17 to 22.
fn cluster(page: &mut Exposition, reported: &Reported<'_>) {
    let snapshot = reported.snapshot;
    let failsafe = snapshot.failsafe.as_ref();
    page.flag(
        "patroni_cluster_unlocked",
        "1 where nobody holds the leader lock, or the DCS does not answer.",
        reported.view.is_none_or(Cluster::is_unlocked),
    );
    page.flag(
        "patroni_failsafe_mode_is_active",
        "1 while failsafe mode keeps the primary.",
        reported.is_failsafe_active(),
    );
    page.flag(
        "patroni_failsafe_mode_enabled",
        "1 where the dynamic configuration has failsafe mode on.",
        snapshot.global.failsafe_mode,
    );
    page.flag(
        "patroni_failsafe_member",
        "1 where the failsafe topology that was read last names this node.",
        failsafe.is_some_and(|members| members.contains_key(snapshot.name.as_str())),
    );
    page.gauge(
        "patroni_postgres_timeline",
        "PostgreSQL's timeline, 0 where it is not known.",
        reported.figures.and_then(|figures| figures.timeline).unwrap_or(0),
    );
    page.gauge(
        "patroni_dcs_last_seen",
        "Epoch seconds of the last full read of the DCS, 0 before the first.",
        snapshot.dcs_last_seen,
    );
}

/// Metrics 23 to 26.
fn node(page: &mut Exposition, reported: &Reported<'_>) {
    let snapshot = reported.snapshot;
    page.flag(
        "patroni_pending_restart",
        "1 where parameters wait for a restart of PostgreSQL.",
        !snapshot.pending_restart_reason.is_empty(),
    );
    page.flag("patroni_is_paused", "1 in maintenance mode.", snapshot.global.pause);
    page.gauge_with_comment(
        "patroni_postgres_state",
        "PostgreSQL's state as a number.",
        STATES,
        state_number(reported.state),
    );
    page.gauge(
        "patroni_failover_priority",
        "Who goes first among members that are as far as each other; 0 where it must not lead.",
        snapshot.tags.failover_priority(),
    );
}

/// What Patroni does not have; absent where there is nothing to tell.
fn own(page: &mut Exposition, snapshot: &Snapshot) {
    if let Some(is_armed) = snapshot.guardian_armed {
        page.flag(
            "ptarmigan_guardian_armed",
            "1 where the guardian ends PostgreSQL once nobody speaks for it any more.",
            is_armed,
        );
    }
    let mut seconds = |name, help, duration: Option<Duration>| {
        if let Some(duration) = duration {
            page.gauge(name, help, duration.as_secs_f64());
        }
    };
    seconds(
        "ptarmigan_lease_headroom_seconds",
        "The least that was left of the leader lease at one of its last 100 renewals.",
        snapshot.lease_headroom,
    );
    seconds(
        "ptarmigan_dcs_latency_seconds",
        "How long the DCS usually takes to renew the leader lock: 95 of the last 100 renewals took no longer.",
        snapshot.dcs_latency,
    );
    page.flag(
        "ptarmigan_postgres_ailing",
        "1 where PostgreSQL runs and accepts no connection, answers no query or cannot write.",
        snapshot.ailment.is_some(),
    );
}

/// The numbers of [`MemberState`] (contract A.3.3.1), by the names that the metric has for them.
const STATES: &str = "Values: 0=initdb, 1=initdb_failed, 2=custom_bootstrap, 3=custom_bootstrap_failed, \
                      4=creating_replica, 5=running, 6=starting, 7=bootstrap_starting, 8=start_failed, \
                      9=restarting, 10=restart_failed, 11=stopping, 12=stopped, 13=stop_failed, 14=crashed";

/// -1 for what is no state of the agent's, as `unknown`.
fn state_number(state: &str) -> i64 {
    let index = MemberState::ALL.iter().position(|known| known.as_str() == state);
    index.and_then(|index| i64::try_from(index).ok()).unwrap_or(-1)
}

/// `4.1.4` is `040104`; `0` for what is no version.
fn version_digits(text: &str) -> String {
    match version::parse(text) {
        Some(parts) => parts.iter().map(|part| format!("{part:02}")).collect(),
        None => zero(),
    }
}

/// A moment as [`Figures`] have it, to the microsecond; `None` where it cannot be read.
fn epoch_seconds(text: &str) -> Option<String> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    // With a point also where the seconds are whole, as Patroni prints it.
    Some(format!("{:?}", moment.as_microsecond() as f64 / 1e6))
}

fn zero() -> String {
    "0".to_owned()
}
