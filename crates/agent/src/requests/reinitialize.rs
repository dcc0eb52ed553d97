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

#[cfg(test)]
mod tests {
    use ptarmigan_dcs::memory::Fault;
    use ptarmigan_ha::observation::JobKind;

    use super::*;
    use crate::testing::{Fixture, text};

    async fn refused(fixture: &Fixture, force: bool) -> String {
        let (status, text) = text(&post(&fixture.node, force, false).await);
        assert_eq!(status, 503, "{text}");
        text
    }

    #[tokio::test]
    async fn ri_1_refusals() {
        let fixture = Fixture::new();
        assert_eq!(refused(&fixture, true).await, "Cluster has no leader, can not reinitialize");
        let me = fixture.node.dcs.acquire().await.unwrap();
        assert!(matches!(me, ptarmigan_dcs::Verdict::Held(_)));
        assert_eq!(refused(&fixture, true).await, "I am the leader, can not reinitialize");
        fixture.store.set_fault(&fixture.node.name, Fault::Unreachable);
        assert_eq!(refused(&fixture, true).await, "DCS is not accessible");
        assert_eq!(fixture.node.jobs.view(ptarmigan_clock::now()), None);
    }

    #[tokio::test]
    async fn ri_1_a_busy_node_refuses_unless_forced() {
        let fixture = Fixture::new();
        fixture.join("b", None, true).await;
        let now = ptarmigan_clock::now();
        fixture.node.jobs.start(JobKind::Clone, now, |_| std::future::pending()).unwrap();
        assert_eq!(refused(&fixture, false).await, "bootstrap from leader already in progress");
        let reply = post(&fixture.node, true, false).await;
        assert_eq!(text(&reply), (200, "reinitialize started".into()));
        assert_eq!(fixture.node.jobs.view(now).unwrap().kind, JobKind::Reinitialize);
        fixture.node.jobs.close().await;
    }

    /// The lock may be taken while the request waits for its turn: its data directory is the cluster's by then.
    #[tokio::test]
    async fn ri_1_looks_again_once_it_has_its_turn() {
        let fixture = Fixture::new();
        let former = fixture.join("b", None, true).await;
        let cycle = fixture.node.cycle.lock().await;
        let answer = async { refused(&fixture, true).await };
        let happens = async {
            // The request has seen that b leads, and waits.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            let held = fixture.cluster().await.leader.unwrap();
            assert!(ptarmigan_dcs::Dcs::release(&former, &held).await.unwrap());
            fixture.node.dcs.acquire().await.unwrap();
            fixture.look().await;
            drop(cycle);
        };
        let (answer, ()) = tokio::join!(answer, happens);
        assert_eq!(answer, "I am the leader, can not reinitialize");
    }
}
