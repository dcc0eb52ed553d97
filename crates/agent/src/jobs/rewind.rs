//! `pg_rewind` and crash recovery in single-user mode (contract B.20).

use std::sync::Arc;

use ptarmigan_ha::{Upstream, observation::JobEnd};
use ptarmigan_postgres::{
    crash_recovery as single_user,
    rewind::{self, Outcome},
    stop::{StopMode, StopRequest},
};

use crate::{local, node::Node, server};

/// How often a rewind that was interrupted is begun, where its source is there all the time.
const TRIES: u32 = 3;

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
    let before = node.unfinished_rewind.of(&prepared.control)?;
    if let Some(begun) = before.as_ref().filter(|begun| begun.source_timeline != prepared.upstream_timeline) {
        // What it brought belongs to that timeline, and pg_rewind does not look at it again.
        return Ok(JobEnd::RewindFailedForGood(format!(
            "an earlier pg_rewind from {} was interrupted, and it has gone on from timeline {} to {}",
            begun.source.leader, begun.source_timeline, prepared.upstream_timeline
        )));
    }
    let untouched = before.is_none();
    let source = local::source(node, leader);
    let tries = node
        .unfinished_rewind
        .begin(before, source, prepared.upstream_timeline, &prepared.control)
        .map_err(|error| format!("pg_rewind is not begun, since it cannot be noted: {error}"))?;
    let rewound = rewind::execute(&node.postgres, &upstream).await;
    let whole = match &rewound {
        Ok(rewound) => rewound.outcome == Outcome::Success || !rewound.changed && untouched,
        Err(_) => untouched,
    };
    if whole {
        node.unfinished_rewind.over();
    }
    let rewound = rewound.map_err(|error| error.to_string())?;
    Ok(match rewound.outcome {
        Outcome::Success => JobEnd::Done,
        // A source that answers again may only have been away for a moment.
        Outcome::Failed(reason) if rewound.changed && tries < TRIES => JobEnd::Failed(reason),
        Outcome::Failed(reason) => JobEnd::RewindFailedForGood(reason),
        Outcome::Retry(reason) => JobEnd::Failed(reason),
    })
}

pub(super) async fn crash_recovery(node: &Arc<Node>) -> Result<(), String> {
    single_user::run(&node.postgres).await.map_err(|error| error.to_string())
}
