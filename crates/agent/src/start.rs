//! Start-up, in the contract's order (D.3).

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ptarmigan_config::{DcsKind, Settings};
use ptarmigan_dcs::{Dcs, Error as DcsError};
use ptarmigan_dcs_consul::{Consul, ConsulSettings};
use ptarmigan_dcs_etcd::{Etcd, EtcdSettings};
use ptarmigan_ha::callbacks::Callbacks;
use ptarmigan_postgres::{Options, Postgres, postmaster::start::Attached};
use ptarmigan_rest::snapshot::Snapshot;
use ptarmigan_types::{ClusterPath, DynamicConfig, MemberState, Monotonic, Role, version};
use tokio::signal::unix::Signal;

use crate::{
    configuration::Configuration,
    node::{Node, Parts},
    publish, server,
};

/// Pause between two tries to reach the DCS at start.
const RETRY: Duration = Duration::from_secs(5);

/// Why the daemon ends before its first cycle; the process ends with status 1 (contract D.2).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No store can be made from the configuration.
    #[error("{0}")]
    Dcs(String),
    /// A node with this name answers.
    #[error("Can't start; there is already a node named '{0}' running")]
    SameName(String),
    /// The watchdog is required and there is none.
    #[error("{0}")]
    Watchdog(#[from] ptarmigan_watchdog::Error),
    /// The client for peers cannot be made.
    #[error("{0}")]
    Peers(String),
}

/// Steps 4 to 9: waits for the DCS as long as it takes; a SIGHUP meanwhile has the configuration read again.
///
/// # Errors
/// See [`enum@Error`].
pub async fn start(configuration: Configuration, hangup: &mut Signal) -> Result<Arc<Node>, Error> {
    let dcs = connect(&configuration, hangup).await?;
    let mut wait = Wait { configuration: &configuration, dcs: dcs.as_ref(), hangup };
    let cluster = wait.until(|| dcs.view()).await?.cluster;
    // What was reloaded meanwhile counts.
    let settings = configuration.current();
    let settings = &settings.settings;
    let peers = ptarmigan_rest::Client::new(
        settings.ctl.authentication.as_ref().or(settings.restapi.authentication.as_ref()),
    )
    .map_err(|error| Error::Peers(error.to_string()))?;
    if let Some(member) = cluster.member(&settings.name)
        && let Some(url) = member.data.api_url()
        && peers.is_somebody_there(url).await
    {
        return Err(Error::SameName(settings.name.to_string()));
    }
    if let Some(config) = cluster.config.as_ref() {
        adopt(&configuration, config);
        dcs.set_timing(configuration.timing());
    }
    let settings = configuration.current();
    let watchdog = ptarmigan_watchdog::Watchdog::new(crate::watchdog::config(&settings.settings))?;
    let postgres = Postgres::new(Options {
        name: settings.settings.name.clone(),
        scope: settings.settings.scope.clone(),
        settings: Arc::new(settings.settings.postgresql.clone()),
    });
    attach(&postgres).await;
    let snapshot = Arc::new(ArcSwap::from_pointee(first_snapshot(&settings.settings)));
    let node = Arc::new(Node::new(Parts { configuration, dcs, postgres, watchdog, peers, snapshot }));
    if node.postgres.state() == MemberState::Running {
        server::tell(&node, Callbacks::accepts);
    }
    release_of_fenced(&node).await;
    publish::publish(&node);
    Ok(node)
}

/// The lock of a server that the guardian has ended is nobody's: the others need not wait for the end of its lease.
async fn release_of_fenced(node: &Node) {
    match node.postgres.was_fenced().await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => return tracing::warn!("whether PostgreSQL was fenced is not known: {error}"),
    }
    let held = match node.dcs.view_fresh().await {
        Ok(view) => view.cluster.leader.filter(|leader| leader.name == node.name),
        Err(error) => return tracing::warn!("the lock of the fenced server is not released: {error}"),
    };
    let Some(held) = held else { return };
    match node.dcs.release(&held).await {
        Ok(true) => tracing::info!("PostgreSQL was fenced: its leader lock is released"),
        Ok(false) => {}
        Err(error) => tracing::warn!("the lock of the fenced server is not released: {error}"),
    }
}

fn adopt(configuration: &Configuration, config: &DynamicConfig) {
    if configuration.adopt(Some(config)) {
        tracing::info!("took the dynamic configuration from the DCS");
    }
}

async fn connect(configuration: &Configuration, hangup: &mut Signal) -> Result<Arc<dyn Dcs>, Error> {
    let current = configuration.current();
    let settings = &current.settings;
    let (kind, section) = (&settings.dcs.kind, &settings.dcs.section);
    let path = ClusterPath::new(&settings.namespace, &settings.scope);
    let (name, timing) = (settings.name.clone(), configuration.timing());
    let unusable = |error: DcsError| Error::Dcs(error.to_string());
    match kind {
        DcsKind::Etcd3 | DcsKind::Etcd => {
            let section = EtcdSettings::from_config(section, *kind == DcsKind::Etcd)
                .map_err(|error| Error::Dcs(format!("{}: {error}", kind.as_str())))?;
            let etcd = Etcd::connect(&section, path, name, timing, true).map_err(unusable)?;
            tracing::info!("DCS: {}", etcd.describe());
            Wait { configuration, dcs: &etcd, hangup }.until(|| etcd.probe()).await?;
            Ok(Arc::new(etcd))
        }
        DcsKind::Consul => {
            let section =
                ConsulSettings::from_config(section).map_err(|error| Error::Dcs(error.to_string()))?;
            let consul =
                Consul::connect(section, path, &settings.scope, name, timing, true).map_err(unusable)?;
            tracing::info!("DCS: {}", consul.describe());
            Wait { configuration, dcs: &consul, hangup }.until(|| consul.probe()).await?;
            Ok(Arc::new(consul))
        }
        DcsKind::Other(other) => {
            Err(Error::Dcs(format!("{other}: this store is not supported; use etcd3 or consul")))
        }
    }
}

/// What is waited for at start, and with what.
struct Wait<'a> {
    configuration: &'a Configuration,
    dcs: &'a dyn Dcs,
    hangup: &'a mut Signal,
}

impl Wait<'_> {
    /// Tries for ever, and says so each time; credentials that are wrong end it.
    async fn until<T, F>(&mut self, ask: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, DcsError>>,
    {
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(DcsError::Fatal(reason)) => return Err(Error::Dcs(reason)),
                Err(error) => tracing::info!("waiting on DCS: {error}"),
            }
            if tokio::time::timeout(RETRY, self.hangup.recv()).await.is_ok() {
                self.reload();
            }
        }
    }

    /// What a reload may change of the store: its credentials may be why it is waited for.
    fn reload(&self) {
        if self.configuration.reload() {
            tracing::info!("the local configuration changed");
            apply_to_dcs(self.configuration, self.dcs);
        }
    }
}

/// The store takes over what a reload may change of it.
pub fn apply_to_dcs(configuration: &Configuration, dcs: &dyn Dcs) {
    dcs.set_timing(configuration.timing());
    if let Err(reason) = dcs.reload(&configuration.current().settings.dcs.section) {
        tracing::error!("the DCS keeps its former settings: {reason}");
    }
}

/// Contract B.26, "state at daemon start": a running server is attached to and checked by the first cycle; a stopped
/// one that looks like a primary has the role `demoted`.
async fn attach(postgres: &Postgres) {
    match postgres.attach().await {
        Attached::Running(running) => {
            tracing::info!("taking care of the running PostgreSQL, process {}", running.pid);
        }
        Attached::Down => {}
    }
}

pub(crate) fn first_snapshot(settings: &Settings) -> Snapshot {
    Snapshot {
        name: settings.name.clone(),
        scope: settings.scope.clone(),
        version: version::EMULATED.to_owned(),
        leader_until: None,
        view: None,
        dcs_last_seen: 0,
        global: publish::global(settings),
        state: MemberState::Stopped,
        role: Role::Uninitialized,
        figures: None,
        tags: settings.tags.published(),
        effective_tags: settings.tags.published(),
        system_identifier: None,
        pending_restart_reason: serde_json::Map::new(),
        scheduled_restart: None,
        watchdog_failed: false,
        guardian_armed: None,
        ailment: None,
        lease_headroom: None,
        dcs_latency: None,
        failsafe: None,
        failsafe_until: None,
        next_run: Monotonic::default(),
        postmaster_alive: false,
        job: None,
    }
}
