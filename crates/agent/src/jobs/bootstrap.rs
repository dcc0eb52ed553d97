//! A new cluster (contract B.17.2, B.17.4).

use std::sync::Arc;

use ptarmigan_ha::{Upstream, callbacks::How};
use ptarmigan_postgres::{bootstrap, postmaster::start::StartRequest, recovery::Recovery};
use ptarmigan_types::{MemberState, Role};

use super::{clone, follow, start::await_start};
use crate::{node::Node, server};

const NO_SECTION: &str = "there is no bootstrap section in the configuration";

/// `initdb` and the first start.
pub(super) async fn run(node: &Arc<Node>) -> Result<(), String> {
    let effective = node.configuration.current();
    let section = effective.settings.bootstrap.as_ref().ok_or(NO_SECTION)?;
    server::bootstraps(node);
    node.postgres.set_state(MemberState::InitializingNewCluster);
    bootstrap::initdb(&node.postgres, section).await.map_err(|error| error.to_string())?;
    let request = StartRequest {
        role: Role::Primary,
        recovery: Recovery::None,
        passfile_lines: Vec::new(),
        timeout: None,
    };
    await_start(node, request, How::Start).await.map(drop)
}

/// The first member of a standby cluster: a copy of the remote member, which it follows (contract B.17.5).
pub(super) async fn standby_leader(node: &Arc<Node>) -> Result<(), String> {
    server::bootstraps(node);
    clone::copy(node, Some(&Upstream::Remote), false).await?;
    follow::run(node, Some(&Upstream::Remote), Role::StandbyLeader, None).await
}

/// Users, and the operator's script.
pub(super) async fn post_bootstrap(node: &Arc<Node>) -> Result<(), String> {
    let effective = node.configuration.current();
    let section = effective.settings.bootstrap.as_ref().ok_or(NO_SECTION)?;
    bootstrap::post_bootstrap(&node.postgres, section).await.map_err(|error| error.to_string())
}
