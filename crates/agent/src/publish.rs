//! The snapshot that REST answers from, and the member key.

use std::{sync::Arc, time::Duration};

use ptarmigan_config::{Settings, SynchronousMode};
use ptarmigan_rest::snapshot::{CachedView, GlobalSettings, Snapshot};
use ptarmigan_types::{MemberData, MemberState, conn_url, version};

use crate::{member, node::Node};

/// Replaces what REST sees; the guardian is told where that concerns it.
pub fn publish(node: &Node) {
    node.snapshot.store(Arc::new(snapshot(node)));
    node.fence.look();
}

/// A snapshot of this moment.
pub fn snapshot(node: &Node) -> Snapshot {
    let effective_tags = node.effective_tags();
    let known = node.known();
    let effective = node.configuration.current();
    let settings = &effective.settings;
    Snapshot {
        name: settings.name.clone(),
        scope: settings.scope.clone(),
        version: version::EMULATED.to_owned(),
        leader_until: crate::fence::leads_until(node),
        view: known
            .unlocked_view
            .as_ref()
            .or(known.view.as_ref())
            .map(|view| CachedView { cluster: view.cluster.clone(), at: view.at }),
        failsafe: known.last_cluster.as_ref().and_then(|cluster| cluster.failsafe.clone()),
        dcs_last_seen: known.dcs_last_seen,
        global: global(settings),
        state: node.postgres.state(),
        role: node.postgres.role(),
        figures: known.figures.clone(),
        tags: settings.tags.published(),
        effective_tags,
        system_identifier: known.system_identifier.clone(),
        pending_restart_reason: node.pending_restart_reason(),
        scheduled_restart: known.scheduled_restart.as_ref().map(|restart| {
            let mut published = restart.published.clone();
            published.remove("postmaster_start_time");
            published
        }),
        watchdog_failed: !node.watchdog().is_healthy() || crate::fence::view(node).is_missing(),
        guardian_armed: crate::fence::armed(node),
        ailment: node.health.document(|| node.postgres.running()),
        lease_headroom: node.margin.headroom(),
        dcs_latency: node.margin.latency(),
        failsafe_until: node.failsafe.active_until(),
        next_run: known.next_run,
        postmaster_alive: node.postgres.is_alive(),
        job: known.job.clone(),
    }
}

/// What verdicts need of the settings.
pub fn global(settings: &Settings) -> GlobalSettings {
    let dynamic = &settings.global;
    GlobalSettings {
        ttl: Duration::from_secs(settings.ttl_s),
        loop_wait: Duration::from_secs(settings.loop_wait_s),
        retry_timeout: Duration::from_secs(settings.retry_timeout_s),
        pause: dynamic.pause,
        standby_cluster: dynamic.standby_cluster.is_some(),
        synchronous: dynamic.synchronous_mode != SynchronousMode::Off,
        quorum: dynamic.synchronous_mode == SynchronousMode::Quorum,
        maximum_lag_on_failover_bytes: u64::try_from(dynamic.maximum_lag_on_failover_bytes).unwrap_or(0),
        failsafe_mode: dynamic.failsafe_mode,
        primary_start_timeout: Duration::from_secs(dynamic.primary_start_timeout_s),
    }
}

/// The member key as it should be now.
pub fn member(node: &Node) -> MemberData {
    let outstanding = node.checkpoint_outstanding();
    let tags = node.effective_tags();
    let known = node.known();
    let effective = node.configuration.current();
    let settings = &effective.settings;
    let postgresql = &settings.postgresql;
    let address = postgresql.connect_address.as_ref().unwrap_or(&postgresql.listen);
    let state = node.postgres.state();
    let may_show_positions = known.job.as_deref().is_none_or(|job| job == "promote")
        && matches!(state, MemberState::Running | MemberState::Restarting | MemberState::Starting);
    member::document(&member::Inputs {
        conn_url: conn_url::build(&address.host, address.port, &postgresql.database),
        api_url: settings.restapi.api_url(),
        proxy_url: postgresql
            .proxy_address
            .as_ref()
            .map(|proxy| conn_url::build(&proxy.host, proxy.port, &postgresql.database)),
        state,
        role: node.postgres.role(),
        checkpoint_outstanding: outstanding,
        tags: &tags,
        pending_restart_reason: &node.pending_restart_reason(),
        figures: known.figures.as_ref().filter(|_| may_show_positions),
        scheduled_restart: known.scheduled_restart.as_ref().map(|restart| &restart.published),
        pause: settings.global.pause,
        guardian: crate::fence::word(node),
    })
}
