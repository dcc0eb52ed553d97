//! `POST /reinitialize` (contract RI-1, RI-2).

use std::sync::Arc;

use ptarmigan_rest::Reply;

use super::fresh_view;
use crate::{jobs, node::Node};

pub(super) async fn post(node: &Arc<Node>, force: bool, from_leader: bool) -> Reply {
    let view = match fresh_view(node).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    if view.cluster.is_unlocked() {
        return Reply::text(503, "Cluster has no leader, can not reinitialize");
    }
    if view.cluster.is_leader(&node.name) || node.leads() {
        return Reply::text(503, "I am the leader, can not reinitialize");
    }
    let _between_cycles = node.cycle.lock().await;
    if force {
        node.jobs.cancel().await;
    }
    match jobs::begin_reinitialize(node, from_leader) {
        Ok(()) => {
            node.wake();
            Reply::text(200, "reinitialize started")
        }
        Err(busy) => Reply::text(503, busy.to_string()),
    }
}
