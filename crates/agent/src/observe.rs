//! Gathers what a cycle starts from.

use std::{sync::Arc, time::Duration};

use ptarmigan_config::UnmanagedPrimary;
use ptarmigan_ha::{
    Remote, Upstream,
    action::{Action, Outcome},
    health,
    memory::Source,
    observation::{ControlState, DataDirectory, JobView, Observation, PostgresView, Settings},
    rto,
};
use ptarmigan_postgres::{data_directory::Content, rewind};
use ptarmigan_types::{Cluster, MemberState, Monotonic, Timeline};

use crate::{
    beside, figures,
    node::{Known, Node},
    remote, synchronous,
};

/// Reads the view; where that fails, health checks must not go on believing the old one (contract surface A.2).
pub async fn view(node: &Node) -> Result<Arc<Cluster>, String> {
    let limit = crate::execute::patience(node);
    let read = tokio::time::timeout(limit, node.dcs.view()).await.unwrap_or_else(|_| {
        Err(ptarmigan_dcs::Error::Unreachable(format!("the view was not there within {limit:?}")))
    });
    let mut known = node.known();
    known.written = beside::Written::default();
    match read {
        Ok(mut view) => {
            note(&mut known, &view.cluster);
            let seen = crate::failsafe::seen(node, &view.cluster);
            known.unlocked_view = seen.map(|seen| {
                let unlocked = view.clone();
                view.cluster = seen;
                unlocked
            });
            known.dcs_last_seen = jiff::Timestamp::now().as_second();
            let cluster = Arc::new(view.cluster.clone());
            known.view = Some(view);
            Ok(cluster)
        }
        Err(error) => {
            known.view = None;
            known.unlocked_view = None;
            Err(error.to_string())
        }
    }
}

/// What stays known where the next read fails.
fn note(known: &mut Known, cluster: &Cluster) {
    if let Some(leader) = &cluster.leader {
        known.last_leader = Some((leader.name.clone(), leader.create_revision));
    }
    known.last_cluster = Some(cluster.clone());
}

/// One observation, with no outcomes yet.
pub async fn observation(node: &Node, view: Result<Arc<Cluster>, String>) -> Observation {
    let now = ptarmigan_clock::now();
    let (job, finished) = node.jobs.observe(now);
    node.known().job = job.as_ref().map(|job| job.kind.words().to_owned());
    figures::refresh(node).await;
    synchronous::claim(node);
    let postgres = postgres(node, job.as_ref(), now).await;
    let known = node.known();
    Observation {
        now,
        wall: jiff::Timestamp::now(),
        me: node.name.clone(),
        settings: settings(node),
        view,
        postgres,
        watchdog: crate::watchdog::view(node),
        guardian: crate::fence::view(node),
        dcs_latency: node.margin.latency(),
        ailment: node.health.ailment(|| node.postgres.running()),
        job,
        finished,
        scheduled_restart: known.scheduled_restart.as_ref().map(|restart| restart.request.clone()),
        start_timeout: known.start_timeout,
        promise: node.failsafe.promise(now),
        outcomes: Vec::<(Action, Outcome)>::new(),
    }
}

/// The settings that decisions depend on.
pub(crate) fn settings(node: &Node) -> Settings {
    let effective = node.configuration.current();
    let settings = &effective.settings;
    let global = &settings.global;
    let postgresql = &settings.postgresql;
    Settings {
        ttl: Duration::from_secs(settings.ttl_s),
        loop_wait: Duration::from_secs(settings.loop_wait_s),
        retry_timeout: Duration::from_secs(settings.retry_timeout_s),
        primary_start_timeout: Duration::from_secs(global.primary_start_timeout_s),
        maximum_lag_on_failover_bytes: u64::try_from(global.maximum_lag_on_failover_bytes).unwrap_or(0),
        check_timeline: global.check_timeline,
        primary_race_backoff: Duration::from_secs(global.primary_race_backoff_s),
        failsafe_mode: global.failsafe_mode,
        api_url: settings.restapi.api_url(),
        can_bootstrap: settings.bootstrap.is_some(),
        can_clone_without_leader: remote::replica_methods(node)
            .iter()
            .any(|name| postgresql.replica_methods.get(name).is_some_and(|method| method.no_leader)),
        remove_data_directory_on_rewind_failure: postgresql.remove_data_directory_on_rewind_failure,
        remove_data_directory_on_diverged_timelines: postgresql.remove_data_directory_on_diverged_timelines,
        has_logical_slots: crate::slots::has_logical(global),
        pause: global.pause,
        unmanaged_primary_waits: global.unmanaged_primary == UnmanagedPrimary::Wait,
        tags: settings.tags.clone(),
        standby_cluster: global
            .standby_cluster
            .as_ref()
            .map(|section| Remote { has_address: section.host.is_some() || section.port.is_some() }),
        synchronous: synchronous::settings(global),
        health: health::Settings { gives_way_after: global.gives_way_after_s.map(Duration::from_secs) },
        failover_interval_min: Duration::from_secs(global.failover_interval_min_s),
        recovery: rto::Settings { rto: global.rto_s.map(Duration::from_secs), ttl_min: node.dcs.ttl_min() },
    }
}

/// The local PostgreSQL alone, for requests that are judged between two cycles.
pub async fn postgres_only(node: &Node) -> PostgresView {
    figures::refresh_shared(node).await;
    let now = ptarmigan_clock::now();
    let job = node.jobs.view(now);
    postgres(node, job.as_ref(), now).await
}

async fn postgres(node: &Node, job: Option<&JobView>, now: Monotonic) -> PostgresView {
    let handle = &node.postgres;
    let data_dir = handle.data_dir();
    let running = handle.is_alive();
    // While a job works on the data directory, what it looks like in between is nobody's business. Of a server that does not
    // accept connections nothing else tells.
    let silent = !running || matches!(handle.state(), MemberState::Starting);
    let control = if job.is_some() || !silent { None } else { handle.control_data().await.ok() };
    let unfinished_rewind =
        control.as_ref().filter(|_| !running).and_then(|control| match node.unfinished_rewind.of(control) {
            Ok(begun) => Some(begun?.source),
            Err(reason) => {
                tracing::error!("{reason}");
                Some(Source { leader: Upstream::Member("somebody".into()), timeline: None })
            }
        });
    let inconsistent_copy =
        control.as_ref().is_some_and(|control| rewind::is_inconsistent_copy(&data_dir, control));
    let control = control.filter(|_| !running);
    let rewind_possible = job.is_none() && rewind_possible(node).await;
    let mut known = node.known();
    if let Some(control) = &control {
        known.system_identifier = Some(control.system_identifier.clone());
    }
    let content = ptarmigan_postgres::data_directory::content(&data_dir);
    if matches!(content, Content::Empty) && job.is_none() {
        known.system_identifier = None;
    }
    let in_state_for = known.in_state_for(handle.state(), now);
    let figures = known.figures.as_ref();
    PostgresView {
        data_directory: match content {
            Content::Empty => DataDirectory::Empty,
            Content::Unreadable(reason) => DataDirectory::Unreadable(reason),
            Content::Present => DataDirectory::Present,
        },
        system_identifier: known.system_identifier.clone(),
        state: handle.state(),
        in_state_for,
        role: handle.role(),
        running,
        server: figures.map(figures::facts),
        control_state: control.as_ref().map_or(ControlState::Unknown, |control| control.state),
        has_backup_label: data_dir.join("backup_label").exists(),
        has_recovery_signal: ["standby.signal", "recovery.signal"]
            .iter()
            .any(|signal| data_dir.join(signal).exists()),
        major_version: handle.version().map_or(0, |version| version.major()),
        rewind_possible,
        unfinished_rewind,
        inconsistent_copy,
        newest_history: newest_history(node, &data_dir),
        postmaster_start_time: figures.map(|figures| figures.postmaster_start_time.clone()),
        pending_restart: !handle.pending_restart().is_empty(),
        server_version: figures.map_or(0, |figures| figures.server_version),
        synchronous: synchronous::facts(node, known.status.as_ref()),
    }
}

/// Contract HA-284, asked only where the answer can matter.
fn newest_history(node: &Node, data_dir: &std::path::Path) -> Timeline {
    let of_standby_cluster = node.configuration.with(|settings| settings.global.standby_cluster.is_some());
    if of_standby_cluster { ptarmigan_postgres::history::newest_local(data_dir) } else { 0 }
}

/// Contract RW-1, asked only where the answer can matter: of a standby or a stopped server.
async fn rewind_possible(node: &Node) -> bool {
    let starting =
        matches!(node.postgres.state(), MemberState::Starting | MemberState::StartingAfterCustomBootstrap);
    if !node.postgres.settings().use_pg_rewind || starting {
        return false;
    }
    // It asks programs, so it is asked once in the life of a postmaster.
    let life = node.postgres.running().map_or(0, |running| running.start_time_ticks);
    if let Some((asked_in, possible)) = node.known().rewind_possible
        && asked_in == life
    {
        return possible;
    }
    let possible = rewind::is_possible(&node.postgres).await;
    node.known().rewind_possible = Some((life, possible));
    possible
}
