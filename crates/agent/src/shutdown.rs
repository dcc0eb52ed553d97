//! The end of the daemon (contract B.28).

use std::sync::{Arc, atomic::Ordering};

use ptarmigan_postgres::stop::{StopMode, StopRequest};
use ptarmigan_types::MemberState;

use crate::{execute::write_member, node::Node, release};

/// Stops PostgreSQL and gives the lock up. The lock stays where PostgreSQL could not be stopped (contract SD-8).
pub async fn shutdown(node: &Arc<Node>) {
    node.jobs.cancel().await;
    if node.known().pause {
        tracing::info!("paused: PostgreSQL is left running");
        return;
    }
    let led = node.leads();
    let (hook, released) = release::early(node);
    if node.postgres.is_alive() {
        let request = StopRequest { on_shutdown: led.then_some(hook), ..StopRequest::new(StopMode::Fast) };
        if let Err(error) = node.postgres.stop(request).await {
            tracing::error!("PostgreSQL could not be stopped, the leader lock is kept: {error}");
            return;
        }
    }
    if led && !released.load(Ordering::Acquire) {
        release::release(node, release::final_position(node).await).await;
    }
    node.postgres.set_state(MemberState::Stopped);
    drop(write_member(node).await);
}
