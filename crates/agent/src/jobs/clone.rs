//! A replica from nothing (contract B.17.3, RI-2).

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::Upstream;
use ptarmigan_postgres::{
    clone,
    stop::{StopMode, StopRequest},
};
use ptarmigan_types::Role;

use super::follow;
use crate::{local, node::Node, remote, server};

/// Copies a data directory and starts it as a standby of whoever is to be followed by then.
pub(super) async fn run(
    node: &Arc<Node>,
    source: Option<&Upstream>,
    only_basebackup: bool,
) -> Result<(), String> {
    copy(node, source, only_basebackup).await?;
    let follow_now = local::node_to_follow(node);
    follow::run(node, follow_now.as_ref(), Role::Replica, None).await
}

/// Copies a data directory. A standby cluster that lives from an archive alone has nobody to connect to.
pub(super) async fn copy(
    node: &Node,
    source: Option<&Upstream>,
    only_basebackup: bool,
) -> Result<(), String> {
    let methods = if only_basebackup { vec!["basebackup".to_owned()] } else { remote::replica_methods(node) };
    let server = match source {
        Some(Upstream::Remote) => remote::server(node).ok(),
        source => source.map(|source| local::upstream(node, source)).transpose()?,
    };
    let copied = clone::clone(&node.postgres, server.as_ref(), &methods).await;
    copied.map_err(|error| error.to_string())?;
    node.unfinished_rewind.over();
    Ok(())
}

/// Stops the server and copies again. What is there is removed by the method, unless it makes use of it (`keep_data`).
pub(super) async fn reinitialize(
    node: &Arc<Node>,
    source: Option<&Upstream>,
    from_leader: bool,
) -> Result<(), String> {
    let timeout = node.configuration.timing().retry_timeout;
    stop_at_once(node, timeout).await?;
    node.postgres.set_role(Role::Uninitialized);
    let source = match source {
        Some(source) => Some(source.clone()),
        None => local::clone_source(node, from_leader),
    };
    let source = source.ok_or("there is no leader to copy from")?;
    run(node, Some(&source), from_leader).await
}

async fn stop_at_once(node: &Node, timeout: Duration) -> Result<(), String> {
    let request = StopRequest { timeout: Some(timeout), ..StopRequest::new(StopMode::Immediate) };
    server::stop(node, request).await.map(drop).map_err(|error| error.to_string())
}
