//! A new cluster (contract B.17.2, B.17.4).

use std::sync::Arc;

use ptarmigan_config::BootstrapMethod;
use ptarmigan_ha::{Upstream, callbacks::How};
use ptarmigan_postgres::{
    bootstrap,
    postmaster::start::StartRequest,
    recovery::Recovery,
    stop::{StopMode, StopRequest},
};
use ptarmigan_types::{MemberState, Role};

use super::{clone, follow, start::await_start};
use crate::{node::Node, planned, server};

const NO_SECTION: &str = "there is no bootstrap section in the configuration";

/// `initdb` or the operator's command, and the first start. A recovery may go on after it: the loop waits for its end
/// (contract HA-061).
pub(super) async fn run(node: &Arc<Node>) -> Result<(), String> {
    let effective = node.configuration.current();
    let section = effective.settings.bootstrap.as_ref().ok_or(NO_SECTION)?;
    server::bootstraps(node);
    let recovery = match &section.method {
        BootstrapMethod::Initdb => {
            node.postgres.set_state(MemberState::InitializingNewCluster);
            bootstrap::initdb(&node.postgres, section).await.map_err(|error| error.to_string())?;
            Recovery::None
        }
        BootstrapMethod::Custom { .. } => {
            bootstrap::custom::run(&node.postgres, section).await.map_err(|error| error.to_string())?
        }
    };
    planned::here("bootstrap: data made");
    start(node, recovery).await?;
    planned::here("bootstrap: started");
    Ok(())
}

async fn start(node: &Arc<Node>, recovery: Recovery) -> Result<(), String> {
    let request = StartRequest { role: Role::Primary, recovery, passfile_lines: Vec::new(), timeout: None };
    await_start(node, request, How::Start).await.map(drop)
}

/// The first member of a standby cluster: a copy of the remote member, which it follows (contract B.17.5).
pub(super) async fn standby_leader(node: &Arc<Node>) -> Result<(), String> {
    server::bootstraps(node);
    clone::copy(node, Some(&Upstream::Remote), false).await?;
    follow::run(node, Some(&Upstream::Remote), Role::StandbyLeader, None).await
}

/// Users, and the operator's script; then the normal configuration where a command made the data.
pub(super) async fn post_bootstrap(node: &Arc<Node>) -> Result<(), String> {
    let effective = node.configuration.current();
    let section = effective.settings.bootstrap.as_ref().ok_or(NO_SECTION)?;
    bootstrap::post_bootstrap(&node.postgres, section).await.map_err(|error| error.to_string())?;
    planned::here("bootstrap: users made");
    if !bootstrap::custom::finish(&node.postgres).await.map_err(|error| error.to_string())? {
        return Ok(());
    }
    tracing::info!("restarting PostgreSQL with its normal configuration");
    node.postgres.set_state(MemberState::Restarting);
    let request = StopRequest { checkpoint: true, ..StopRequest::new(StopMode::Fast) };
    node.postgres.stop(request).await.map_err(|error| error.to_string())?;
    node.postgres.set_state(MemberState::Restarting);
    start(node, Recovery::None).await
}
