//! `POST /reinitialize` (contract RI-1, RI-2).

use std::sync::Arc;

use ptarmigan_rest::Reply;
use ptarmigan_types::Cluster;

use super::fresh_view;
use crate::{jobs, node::Node};

pub(super) async fn post(node: &Arc<Node>, force: bool, from_leader: bool) -> Reply {
    let view = match fresh_view(node).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    if let Some(refused) = refusal(node, &view.cluster) {
        return refused;
    }
    let _between_cycles = node.cycle.lock().await;
    // A cycle may have taken the lock while this request waited for its turn.
    let known = node.known().view.as_ref().map(|view| view.cluster.clone());
    if let Some(refused) = known.and_then(|cluster| refusal(node, &cluster)) {
        return refused;
    }
    if force {
        node.jobs.cancel().await;
    }
    match jobs::begin_reinitialize(node, from_leader) {
        Ok(()) => {
            node.wake();
            Reply::text(200, "reinitialize started")
        }
        Err(refused) => Reply::text(503, refused.to_string()),
    }
}

/// Contract RI-1.
fn refusal(node: &Node, cluster: &Cluster) -> Option<Reply> {
    if cluster.is_unlocked() {
        return Some(Reply::text(503, "Cluster has no leader, can not reinitialize"));
    }
    if cluster.is_leader(&node.name) || node.leads() {
        return Some(Reply::text(503, "I am the leader, can not reinitialize"));
    }
    None
}
