//! `POST /restart`, `DELETE /restart` (contract surface A.7, core B.18).

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::{
    observation::{RestartFilter, ScheduledRestart as Request},
    schedule::restart_refused,
};
use ptarmigan_rest::{Reply, RestartRequest};
use ptarmigan_types::{schedule, version};
use serde_json::json;
use tokio::sync::oneshot;

use crate::{
    jobs::{self, Restarted},
    node::{Node, ScheduledRestart},
    observe,
};

pub(super) async fn post(node: &Arc<Node>, request: &RestartRequest) -> Reply {
    let filter = RestartFilter {
        role: request.role.as_deref().and_then(ptarmigan_types::Role::read),
        older_than: request.postgres_version.as_deref().and_then(version::parse_server_version),
        pending: request.restart_pending,
    };
    let timeout = request.timeout_s.map(Duration::from_secs);
    match request.schedule {
        Some(at) => schedule_restart(node, request, at, filter, timeout),
        None => restart_now(node, &filter, timeout).await,
    }
}

fn schedule_restart(
    node: &Node,
    request: &RestartRequest,
    at: jiff::Timestamp,
    filter: RestartFilter,
    timeout: Option<Duration>,
) -> Reply {
    let mut known = node.known();
    if known.scheduled_restart.is_some() {
        return Reply::text(409, "Another restart is already scheduled");
    }
    let started = known.figures.as_ref().map(|figures| figures.postmaster_start_time.clone());
    let mut published = request.body.clone();
    let text = published.get("schedule").and_then(|value| value.as_str()).map(str::to_owned);
    published.insert("schedule".into(), json!(text.unwrap_or_else(|| schedule::to_iso(at))));
    published.insert("postmaster_start_time".into(), json!(started));
    known.scheduled_restart = Some(ScheduledRestart {
        request: Request { at, postmaster_start_time: started, filter, timeout },
        published,
    });
    drop(known);
    node.wake();
    Reply::text(202, "Restart scheduled")
}

async fn restart_now(node: &Arc<Node>, filter: &RestartFilter, timeout: Option<Duration>) -> Reply {
    let postgres = observe::postgres_only(node).await;
    if let Some(reason) = restart_refused(filter, &postgres) {
        return Reply::text(503, format!("Restart was refused: {reason}"));
    }
    let limit = timeout.unwrap_or_else(|| {
        Duration::from_secs(node.configuration.with(|settings| settings.global.primary_start_timeout_s))
    });
    let (done, answer) = oneshot::channel();
    {
        // Nothing is waited for in here: however many requests there are, the loop gets its turn.
        let _between_cycles = node.cycle.lock().await;
        if let Err(refused) = jobs::begin_restart(node, Some(limit), done) {
            return Reply::text(503, refused.to_string());
        }
        node.known().start_timeout = Some(limit);
    }
    node.wake();
    outcome(answer.await.ok())
}

/// Contract RS-6; `None`: the restart was cancelled.
fn outcome(restarted: Option<Result<Restarted, String>>) -> Reply {
    match restarted {
        Some(Ok(Restarted::Running)) => Reply::text(200, "restarted successfully"),
        Some(Ok(Restarted::StillStarting)) => Reply::text(503, "postgres is still starting"),
        Some(Err(reason)) => Reply::text(503, format!("restart failed: {reason}")),
        None => Reply::text(503, "restart was cancelled"),
    }
}

pub(super) async fn delete(node: &Node) -> Reply {
    let scheduled = node.known().scheduled_restart.take();
    node.wake();
    match scheduled {
        Some(_) => Reply::text(200, "scheduled restart deleted"),
        None => Reply::text(404, "no restarts are scheduled"),
    }
}

#[cfg(test)]
mod tests {
    use ptarmigan_ha::observation::JobKind;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fixture, text};

    fn scheduled(body: &Value) -> RestartRequest {
        RestartRequest {
            schedule: Some("2100-01-01T00:00:00Z".parse().unwrap()),
            body: body.as_object().unwrap().clone(),
            ..RestartRequest::default()
        }
    }

    #[tokio::test]
    async fn rs_7_one_schedule_at_a_time() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        assert_eq!(text(&delete(node).await), (404, "no restarts are scheduled".into()));
        let request = scheduled(&json!({"schedule": "2100-01-01T00:00:00+00:00", "role": "replica"}));
        assert_eq!(text(&post(node, &request).await), (202, "Restart scheduled".into()));
        let published = node.known().scheduled_restart.clone().unwrap().published;
        let expected = json!({"schedule": "2100-01-01T00:00:00+00:00", "role": "replica", "postmaster_start_time": null});
        assert_eq!(Value::Object(published), expected);
        assert_eq!(text(&post(node, &request).await), (409, "Another restart is already scheduled".into()));
        assert_eq!(text(&delete(node).await), (200, "scheduled restart deleted".into()));
        assert_eq!(text(&post(node, &request).await).0, 202);
    }

    #[tokio::test]
    async fn rs_2_filters_and_rs_3_busy() {
        let fixture = Fixture::new();
        let filtered = RestartRequest { role: Some("primary".into()), ..RestartRequest::default() };
        let (status, reason) = text(&post(&fixture.node, &filtered).await);
        assert_eq!(status, 503, "{reason}");
        assert!(reason.starts_with("Restart was refused: "), "{reason}");
        let now = ptarmigan_clock::now();
        fixture.node.jobs.start(JobKind::Promote, now, |_| std::future::pending()).unwrap();
        let reply = post(&fixture.node, &RestartRequest::default()).await;
        assert_eq!(text(&reply), (503, "promote already in progress".into()));
        assert_eq!(fixture.node.known().start_timeout, None, "the action in flight keeps its own limit");
        fixture.node.jobs.close().await;
    }

    #[tokio::test]
    async fn rs_6_results() {
        for (restarted, expected) in [
            (Some(Ok(Restarted::Running)), (200, "restarted successfully")),
            (Some(Ok(Restarted::StillStarting)), (503, "postgres is still starting")),
            (Some(Err("no space".to_owned())), (503, "restart failed: no space")),
            (None, (503, "restart was cancelled")),
        ] {
            let (status, said) = text(&outcome(restarted));
            assert_eq!((status, said.as_str()), expected);
        }
        // A server without a data directory is none to restart, and the request's own limit ends with it.
        let fixture = Fixture::new();
        let reply =
            post(&fixture.node, &RestartRequest { timeout_s: Some(5), ..RestartRequest::default() }).await;
        let (status, said) = text(&reply);
        assert!(status == 503 && said.starts_with("restart failed: "), "{status} {said}");
        assert_eq!(fixture.node.known().start_timeout, None);
    }

    /// A flood of requests must not stand between a leader and its next renewal.
    #[tokio::test]
    async fn requests_leave_the_loop_its_turn() {
        let fixture = Fixture::new();
        let filtered = RestartRequest { restart_pending: true, ..RestartRequest::default() };
        let _in_cycle = fixture.node.cycle.lock().await;
        let refused = tokio::time::timeout(Duration::from_secs(5), post(&fixture.node, &filtered)).await;
        assert_eq!(text(&refused.unwrap()).0, 503, "a refusal does not need the loop to pause");
    }
}
