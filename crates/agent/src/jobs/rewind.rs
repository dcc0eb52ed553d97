//! `pg_rewind` and crash recovery in single-user mode (contract B.20).

use std::sync::Arc;

use ptarmigan_ha::{Upstream, observation::JobEnd};
use ptarmigan_postgres::{
    crash_recovery as single_user,
    rewind::{self, Outcome},
    stop::{StopMode, StopRequest},
};

use crate::{local, node::Node, server};

pub(super) async fn run(node: &Arc<Node>, leader: &Upstream, checkpoint_first: bool) -> JobEnd {
    match rewind(node, leader, checkpoint_first).await {
        Ok(Outcome::Success) => JobEnd::Done,
        Ok(Outcome::Failed(reason)) => JobEnd::RewindFailedForGood(reason),
        Ok(Outcome::Retry(reason)) | Err(reason) => JobEnd::Failed(reason),
    }
}

async fn rewind(node: &Arc<Node>, leader: &Upstream, checkpoint_first: bool) -> Result<Outcome, String> {
    let upstream = local::upstream(node, leader)?;
    if checkpoint_first {
        let ready = rewind::ensure_upstream_checkpoint(&node.postgres, &upstream).await;
        if !ready.map_err(|error| error.to_string())? {
            return Ok(Outcome::Retry(format!("{leader} has not made its checkpoint yet")));
        }
    }
    if node.postgres.is_alive() {
        server::stop(node, StopRequest::new(StopMode::Fast)).await.map_err(|error| error.to_string())?;
    }
    rewind::execute(&node.postgres, &upstream).await.map_err(|error| error.to_string())
}

pub(super) async fn crash_recovery(node: &Arc<Node>) -> Result<(), String> {
    single_user::run(&node.postgres).await.map_err(|error| error.to_string())
}
