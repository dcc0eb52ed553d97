//! The end of the daemon (contract B.28).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ptarmigan_postgres::stop::{self, Hook, StopMode, StopRequest};
use ptarmigan_types::{MemberState, Role};

use crate::{
    execute::write_member,
    jobs::{ENFORCED_STOP, FAST_STOP_MIN},
    node::Node,
    release, server, synchronous,
};

/// Stops PostgreSQL and gives the lock up. False where PostgreSQL could not be stopped: the lock stays (contract SD-8).
/// Whatever the store does, it is waited for no longer than `retry_timeout` each time it is needed.
pub async fn shutdown(node: &Arc<Node>) -> bool {
    node.jobs.close().await;
    if node.is_paused() {
        node.watchdog().disable();
        tracing::info!("paused: PostgreSQL is left as it is, and the leader lock runs out by itself");
        return true;
    }
    let led = node.leads();
    let leaving = synchronous::leave(node).await;
    let (hook, released) = release::early(node);
    if let Err(error) = stop(node, led.then_some(hook)).await {
        tracing::error!("{error}; killing it");
        if let Err(error) = kill(node).await {
            tracing::error!("{error}, the leader lock is kept");
            return false;
        }
    }
    node.watchdog().disable();
    let patience = node.configuration.timing().retry_timeout;
    if led && !released.load(Ordering::Acquire) {
        let position = release::final_position(node).await;
        if tokio::time::timeout(patience, release::release(node, position)).await.is_err() {
            tracing::warn!("the DCS does not answer, the leader lock will run out by itself");
        }
    }
    node.postgres.set_state(MemberState::Stopped);
    drop(leaving);
    // The member key goes with its lease where this is not answered.
    let _ = tokio::time::timeout(patience, write_member(node)).await;
    true
}

/// A standby may take its time. A server that may be writable has as long as nobody else can lead; after that only what
/// cannot commit any more is left to end by itself (contract SD-10 has the lock run out meanwhile).
async fn stop(
    node: &Arc<Node>,
    on_shutdown: Option<Hook<ptarmigan_postgres::ControlData>>,
) -> Result<(), stop::Error> {
    let harmless = Arc::new(AtomicBool::new(!may_write(node)));
    let flag = Arc::clone(&harmless);
    let guarded = Arc::clone(node);
    let request = StopRequest {
        on_safepoint: Some(Box::new(move |()| {
            Box::pin(async move {
                flag.store(true, Ordering::Release);
                guarded.watchdog().disable();
            })
        })),
        on_shutdown,
        timeout: synchronous::stop_timeout(node),
        ..StopRequest::new(StopMode::Fast)
    };
    let left = node.lease.left_at(ptarmigan_clock::now()).saturating_sub(ENFORCED_STOP).max(FAST_STOP_MIN);
    let too_late = async {
        tokio::time::sleep(left).await;
        if harmless.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        stopped = server::stop(node, request) => stopped.map(drop),
        () = too_late => {
            tracing::error!("PostgreSQL still has sessions and the leader lease ends: immediate shutdown");
            kill(node).await
        }
    }
}

fn may_write(node: &Node) -> bool {
    matches!(node.postgres.role(), Role::Primary | Role::Promoted)
}

/// Immediate shutdown, and SIGKILL a moment later.
pub async fn kill(node: &Node) -> Result<(), stop::Error> {
    let request =
        StopRequest { timeout: Some(Duration::from_secs(1)), ..StopRequest::new(StopMode::Immediate) };
    server::stop(node, request).await.map(drop)
}
