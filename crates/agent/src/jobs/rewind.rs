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
    rewind(node, leader, checkpoint_first).await.unwrap_or_else(JobEnd::Failed)
}

async fn rewind(node: &Arc<Node>, leader: &Upstream, checkpoint_first: bool) -> Result<JobEnd, String> {
    let upstream = local::upstream(node, leader)?;
    if checkpoint_first {
        let ready = rewind::ensure_upstream_checkpoint(&node.postgres, &upstream).await;
        if !ready.map_err(|error| error.to_string())? {
            return Ok(JobEnd::Failed(format!("{leader} has not made its checkpoint yet")));
        }
    }
    if node.postgres.is_alive() {
        server::stop(node, StopRequest::new(StopMode::Fast)).await.map_err(|error| error.to_string())?;
    }
    let prepared = match rewind::prepare(&node.postgres, &upstream).await {
        Err(error @ (rewind::Error::CrashRecovery(_) | rewind::Error::InconsistentCopy)) => {
            return Ok(JobEnd::RewindFailedForGood(error.to_string()));
        }
        prepared => prepared.map_err(|error| error.to_string())?,
    };
    let before = node.unfinished_rewind.of(&prepared.control);
    match &before {
        // What it brought belongs to that timeline, and pg_rewind does not look at it again.
        Some(begun) if begun.source_timeline != prepared.upstream_timeline => {
            return Ok(JobEnd::RewindFailedForGood(format!(
                "an earlier pg_rewind from {} was interrupted, and it has gone on from timeline {} to {}",
                begun.source.leader, begun.source_timeline, prepared.upstream_timeline
            )));
        }
        Some(_) => {}
        None => {
            let source = local::source(node, leader);
            let noted = node.unfinished_rewind.begin(source, prepared.upstream_timeline, &prepared.control);
            noted.map_err(|error| format!("pg_rewind is not begun, since it cannot be noted: {error}"))?;
        }
    }
    let rewound = rewind::execute(&node.postgres, &upstream).await;
    let whole = match &rewound {
        Ok(rewound) => rewound.outcome == Outcome::Success || !rewound.changed && before.is_none(),
        Err(_) => before.is_none(),
    };
    if whole {
        node.unfinished_rewind.over();
    }
    Ok(match rewound.map_err(|error| error.to_string())?.outcome {
        Outcome::Success => JobEnd::Done,
        Outcome::Failed(reason) => JobEnd::RewindFailedForGood(reason),
        Outcome::Retry(reason) => JobEnd::Failed(reason),
    })
}

pub(super) async fn crash_recovery(node: &Arc<Node>) -> Result<(), String> {
    single_user::run(&node.postgres).await.map_err(|error| error.to_string())
}
