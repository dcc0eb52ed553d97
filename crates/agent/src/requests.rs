//! What REST asks for, carried out beside the loop (contract surface A.7).

mod cluster;
mod config;
mod failover;
mod failsafe;
mod reinitialize;
mod restart;

use std::sync::Arc;

use ptarmigan_dcs::{Error, View};
use ptarmigan_rest::{Envelope, Reply, Request};
use tokio::sync::mpsc;

use crate::{apply::Unapplied, figures, node::Node, publish};

/// How many requests are worked on at once. More are refused: those that wait for a restart or a switchover take minutes,
/// and questions about this node must not stand in line behind them.
const AT_ONCE_MAX: usize = 64;

/// Serves requests until REST is gone.
pub async fn serve(node: Arc<Node>, mut requests: mpsc::Receiver<Envelope>) {
    let mut working = tokio::task::JoinSet::new();
    while let Some((request, answer)) = requests.recv().await {
        while working.try_join_next().is_some() {}
        if working.len() >= AT_ONCE_MAX && !is_urgent(&request) {
            drop(answer.send(Reply::text(503, "too many requests are worked on")));
            continue;
        }
        let node = Arc::clone(&node);
        working.spawn(async move {
            let reply = handle(&node, request).await;
            // Whoever asked may have gone away.
            drop(answer.send(reply));
        });
    }
}

/// A leader that lost the DCS waits for this node's promise no longer than moments.
const fn is_urgent(request: &Request) -> bool {
    matches!(request, Request::RefreshFigures | Request::Failsafe(_))
}

pub(crate) async fn handle(node: &Arc<Node>, request: Request) -> Reply {
    match request {
        Request::RefreshFigures => {
            figures::refresh_shared(node).await;
            publish::publish(node);
            Reply::text(200, "")
        }
        Request::Cluster => cluster::get(node).await,
        Request::Why => Reply::json(200, node.journal.why()),
        Request::PatchConfig(patch) => config::patch(node, &patch).await,
        Request::PutConfig(config) => config::put(node, config).await,
        Request::Failover(request) => failover::post(node, &request).await,
        Request::CancelSwitchover => failover::delete(node).await,
        Request::Failsafe(request) => failsafe::post(node, &request).await,
        Request::Restart(request) => restart::post(node, &request).await,
        Request::CancelRestart => restart::delete(node).await,
        Request::Reload => reload(node),
        Request::Reinitialize { force, from_leader } => reinitialize::post(node, force, from_leader).await,
    }
}

/// Like SIGHUP: the files are read at the next cycle boundary, which is not brought forward (contract T-8).
fn reload(node: &Node) -> Reply {
    node.known().reload_asked = true;
    Reply::text(202, "reload scheduled")
}

/// Files that changed, or the wish to apply them again (contract CF-10).
pub fn reload_now(node: &Node) -> bool {
    let changed = node.configuration.reload();
    node.known().unapplied = Some(Unapplied::Forced);
    if changed {
        tracing::info!("the local configuration changed");
        crate::watchdog::configure(node);
    } else {
        tracing::info!("No local configuration items changed.");
    }
    // Certificates may have been replaced in their files.
    crate::start::apply_to_dcs(&node.configuration, node.dcs.as_ref());
    changed
}

async fn fresh_view(node: &Node) -> Result<View, Reply> {
    node.dcs.view_fresh().await.map_err(|error| no_dcs(&error))
}

/// The answer where the store does not: distinctive, so that `ptctl` can fall back (deviation from surface H.4).
fn no_dcs(error: &Error) -> Reply {
    tracing::warn!("{error}");
    Reply::dcs_unreachable()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ptarmigan_rest::FailoverRequest;
    use serde_json::json;

    use super::*;
    use crate::testing::Fixture;

    async fn is_woken(node: &Node) -> bool {
        tokio::time::timeout(Duration::from_millis(50), node.woken()).await.is_ok()
    }

    #[tokio::test]
    async fn t_6_what_an_operator_asks_for_wakes_the_loop() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        fixture.put(ptarmigan_types::Key::Config, r#"{"ttl":30}"#).await;
        let patch = json!({"pause": true}).as_object().unwrap().clone();
        assert_eq!(handle(node, Request::PatchConfig(patch)).await.status, 200);
        assert!(is_woken(node).await);
        let scheduled = FailoverRequest {
            action: "switchover",
            leader: Some("b".into()),
            candidate: None,
            scheduled_at: Some("2100-01-01T00:00:00Z".parse().unwrap()),
            scheduled_at_text: Some("2100-01-01T00:00:00+00:00".into()),
        };
        assert_eq!(handle(node, Request::Failover(scheduled)).await.status, 202);
        assert!(is_woken(node).await);
        assert!(!is_woken(node).await, "once");
    }

    #[tokio::test]
    async fn t_8_a_reload_waits_for_the_next_cycle() {
        let fixture = Fixture::new();
        assert_eq!(handle(&fixture.node, Request::Reload).await.status, 202);
        assert!(fixture.node.known().reload_asked);
        assert!(!is_woken(&fixture.node).await);
    }
}
