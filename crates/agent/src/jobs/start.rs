//! Starting in place and restarting (contract HA-103, B.18).

use std::{sync::Arc, time::Duration};

use ptarmigan_postgres::{
    postmaster::start::{StartRequest, Started},
    recovery::Recovery,
    stop::{StopMode, StopRequest},
};
use ptarmigan_types::{MemberState, Role};

use super::follow;
use crate::{local, node::Node};

/// How a restart ended that did not fail (contract RS-6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarted {
    /// The server accepts connections.
    Running,
    /// It was started and is not ready yet.
    StillStarting,
}

/// Starts and waits; the loop takes over where the server needs longer.
pub(super) async fn await_start(node: &Arc<Node>, request: StartRequest) -> Result<Restarted, String> {
    let started = node.postgres.start(request).await.map_err(|error| error.to_string())?;
    Ok(match started {
        Started::Accepting(_) => Restarted::Running,
        Started::StillStarting(_) => Restarted::StillStarting,
    })
}

/// A crashed primary, in place.
pub(super) async fn primary(node: &Arc<Node>, timeout: Duration) -> Result<(), String> {
    let request = StartRequest {
        role: Role::Primary,
        recovery: Recovery::None,
        passfile_lines: Vec::new(),
        timeout: Some(timeout),
    };
    await_start(node, request).await.map(drop)
}

/// Stop and start in the present role.
pub(super) async fn restart(node: &Arc<Node>, timeout: Option<Duration>) -> Result<Restarted, String> {
    let role = node.postgres.role();
    let primary = matches!(role, Role::Primary | Role::Promoted);
    let (recovery, passfile_lines) = if primary {
        (Recovery::None, Vec::new())
    } else {
        let upstream = local::node_to_follow(node);
        let wanted = follow::recovery_for_start(node, upstream.as_ref())?;
        (Recovery::Standby(wanted.parameters), wanted.passfile_lines)
    };
    node.postgres.set_state(MemberState::Restarting);
    if node.postgres.is_alive() {
        let request = StopRequest { checkpoint: true, ..StopRequest::new(StopMode::Fast) };
        let stopped = node.postgres.stop(request).await;
        if let Err(error) = stopped {
            node.postgres.set_state(MemberState::RestartFailed);
            return Err(error.to_string());
        }
    }
    let request = StartRequest { role, recovery, passfile_lines, timeout };
    let restarted = await_start(node, request).await;
    if restarted.is_err() {
        node.postgres.set_state(MemberState::RestartFailed);
    }
    node.known().start_timeout = None;
    restarted
}
