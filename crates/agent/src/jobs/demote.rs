//! Stepping down (contract B.16). What follows — crash recovery, rewind, start as a standby — is decided by the next
//! cycles from what they find, except where the DCS is away: then the server comes up read-only at once.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ptarmigan_ha::action::DemoteMode;
use ptarmigan_postgres::{
    postmaster::start::StartRequest,
    recovery::Recovery,
    stop::{StopMode, StopRequest},
};
use ptarmigan_types::Role;

use super::{follow, start::await_start};
use crate::{execute::write_member, node::Node, release};

/// What an immediate stop and the SIGKILLs after it may need.
const ENFORCED_STOP: Duration = Duration::from_secs(2);

/// A fast stop gets at least this long before it becomes an immediate one.
const FAST_STOP_MIN: Duration = Duration::from_secs(1);

pub(super) async fn run(node: &Arc<Node>, mode: DemoteMode) -> Result<(), String> {
    tracing::info!("demoting self ({mode:?})");
    let released = stop(node, mode).await?;
    node.postgres.set_role(Role::Demoted);
    if matches!(mode, DemoteMode::Graceful | DemoteMode::Immediate) && !released {
        let position = if mode == DemoteMode::Graceful { release::final_position(node).await } else { None };
        release::release(node, position).await;
    }
    drop(write_member(node).await);
    if mode == DemoteMode::Offline {
        return read_only(node).await;
    }
    Ok(())
}

/// Stops the server; true where the lock was released on the way.
async fn stop(node: &Arc<Node>, mode: DemoteMode) -> Result<bool, String> {
    if !node.postgres.is_alive() {
        return Ok(false);
    }
    let (hook, released) = release::early(node);
    let request = match mode {
        DemoteMode::Offline => {
            // Nothing may be left of a server that hangs in its shutdown when somebody else may lead.
            let left = node.lease.left_at(ptarmigan_clock::now()).saturating_sub(ENFORCED_STOP);
            StopRequest { timeout: Some(left.max(FAST_STOP_MIN)), ..StopRequest::new(StopMode::Fast) }
        }
        DemoteMode::Graceful => {
            StopRequest { checkpoint: true, on_shutdown: Some(hook), ..StopRequest::new(StopMode::Fast) }
        }
        DemoteMode::Immediate | DemoteMode::ImmediateNoLock => StopRequest::new(StopMode::Immediate),
    };
    node.postgres.stop(request).await.map_err(|error| error.to_string())?;
    Ok(released.load(Ordering::Acquire))
}

/// The DCS is away: serve reads, follow nobody.
async fn read_only(node: &Arc<Node>) -> Result<(), String> {
    let wanted = follow::recovery(node, None)?;
    let request = StartRequest {
        role: Role::Replica,
        recovery: Recovery::Standby(wanted.parameters),
        passfile_lines: wanted.passfile_lines,
        timeout: None,
    };
    await_start(node, request).await.map(drop)?;
    node.postgres.set_role(Role::Replica);
    Ok(())
}
