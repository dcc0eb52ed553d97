//! A changed configuration reaches the DCS client, PostgreSQL and REST (contract CF-8, CF-10).

use ptarmigan_config::{Settings, SynchronousMode};
use ptarmigan_types::{DynamicConfig, Role};

use crate::node::Node;

/// Cluster-wide switches that this release does not follow: an operator who sets one must hear it.
pub fn warn_of_unsupported(settings: &Settings) {
    let global = &settings.global;
    let switches = [
        ("pause", global.pause, "the cluster goes on being managed"),
        (
            "synchronous_mode",
            global.synchronous_mode != SynchronousMode::Off,
            "replication stays asynchronous",
        ),
        ("failsafe_mode", global.failsafe_mode, "a primary without the DCS steps down"),
        ("standby_cluster", global.standby_cluster.is_some(), "the cluster stays an independent one"),
    ];
    for (name, _, consequence) in switches.iter().filter(|(_, on, _)| *on) {
        tracing::error!("{name} is not supported yet and has no effect: {consequence}");
    }
}

/// Adopts `/config` at the start of a cycle, so that the decision already sees it.
pub fn adopt_dynamic(node: &Node, config: Option<&DynamicConfig>) {
    if !node.configuration.adopt(config) {
        return;
    }
    tracing::info!("the dynamic configuration changed");
    node.configuration.with(warn_of_unsupported);
    node.dcs.set_timing(node.configuration.timing());
    node.known().unapplied = Some(Unapplied::Changed);
}

/// What PostgreSQL has not been told yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unapplied {
    /// The configuration changed: rewrite and reload what differs.
    Changed,
    /// An operator asked for a reload: rewrite and reload in any case.
    Forced,
}

/// Tells PostgreSQL, once no long action is in flight, and keeps the copy of the dynamic configuration.
pub async fn pending(node: &Node) {
    if node.postgres.role() != Role::Uninitialized && node.known().job.is_none() {
        node.configuration.write_cache();
    }
    let Some(unapplied) = node.known().unapplied else { return };
    if node.jobs.view(ptarmigan_clock::now()).is_some() {
        return;
    }
    node.known().unapplied = None;
    let settings = node.configuration.current().settings.postgresql.clone();
    let applied =
        node.postgres.apply_config(std::sync::Arc::new(settings), unapplied == Unapplied::Forced).await;
    if let Err(error) = applied {
        tracing::error!("PostgreSQL's configuration is not applied: {error}");
    }
}
