//! Starting in place and restarting (contract HA-103, B.18).

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::callbacks::How;
use ptarmigan_postgres::{
    files::signal::{self, Signal},
    postmaster::start::{StartRequest, Started},
    recovery::Recovery,
    stop::{StopMode, StopRequest},
};
use ptarmigan_types::{MemberState, Role};

use super::follow;
use crate::{local, node::Node, server, synchronous};

/// How a restart ended that did not fail (contract RS-6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarted {
    /// The server accepts connections.
    Running,
    /// It was started and is not ready yet.
    StillStarting,
}

/// Starts and waits; the loop takes over where the server needs longer.
pub(super) async fn await_start(
    node: &Arc<Node>,
    request: StartRequest,
    how: How,
) -> Result<Restarted, String> {
    let role = request.role;
    let started = server::start(node, request, how).await.map_err(|error| error.to_string())?;
    // The files were written for this role (contract CF-25).
    node.known().applied_role = crate::apply::overlay(role);
    Ok(match started {
        Started::Accepting(_) => Restarted::Running,
        Started::StillStarting(_) => Restarted::StillStarting,
    })
}

/// A server that comes up writable needs the lock at this moment, whatever was known when its start was decided. The loop
/// goes on renewing, and stops what it finds without the lock; this keeps the time in between short.
fn must_lead(node: &Node) -> Result<(), String> {
    if node.leads() { Ok(()) } else { Err("the leader lease is over, a primary is not started".into()) }
}

/// A crashed primary, in place.
pub(super) async fn primary(node: &Arc<Node>, timeout: Duration) -> Result<(), String> {
    must_lead(node)?;
    let request = StartRequest {
        role: Role::Primary,
        recovery: Recovery::None,
        passfile_lines: Vec::new(),
        timeout: Some(timeout),
    };
    await_start(node, request, How::Start).await.map(drop)
}

/// Stop and start in the present role.
pub(super) async fn restart(node: &Arc<Node>, timeout: Option<Duration>) -> Result<Restarted, String> {
    // Contract RS-5. Until the server is back nobody shall wait for it.
    let leaving = synchronous::leave(node).await;
    let restarted = stop_and_start(node, timeout).await;
    drop(leaving);
    node.known().start_timeout = None;
    restarted
}

async fn stop_and_start(node: &Arc<Node>, timeout: Option<Duration>) -> Result<Restarted, String> {
    let role = node.postgres.role();
    let primary = matches!(role, Role::Primary | Role::Promoted);
    if primary && signal::get(&node.postgres.data_dir()) != Signal::None {
        // Without its signal file it would come up as a primary of the timeline that it was a standby on.
        return Err("promotion in progress".into());
    }
    let (recovery, passfile_lines) = if primary {
        (Recovery::None, Vec::new())
    } else {
        let upstream = local::node_to_follow(node);
        let wanted = follow::recovery(node, upstream.as_ref())?;
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
    if primary && let Err(reason) = must_lead(node) {
        node.postgres.set_state(MemberState::RestartFailed);
        return Err(reason);
    }
    // A stop leaves the state at `stopped`; to whoever looks the restart goes on.
    node.postgres.set_state(MemberState::Restarting);
    let request = StartRequest { role, recovery, passfile_lines, timeout };
    let restarted = await_start(node, request, How::Restart).await;
    if restarted.is_err() {
        node.postgres.set_state(MemberState::RestartFailed);
    }
    restarted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;

    #[tokio::test]
    async fn rs_5_a_synchronous_standby_asks_to_be_left_out_before_it_restarts() {
        use crate::synchronous::tests::{NAMED, follower};
        for (mode, waits) in [(serde_json::json!(true), true), (serde_json::json!(false), false)] {
            let fixture = follower(&mode, NAMED).await;
            fixture.node.postgres.set_role(Role::Replica);
            let begin = ptarmigan_clock::now();
            assert!(restart(&fixture.node, None).await.is_err(), "there is no server to start");
            let waited = ptarmigan_clock::now().since(begin);
            assert_eq!(waited >= Duration::from_secs(2), waits, "{mode}: {waited:?}");
            assert_eq!(fixture.node.known().leaving_sync, 0, "back as it was");
        }
    }

    #[tokio::test]
    async fn primary_is_not_started_without_the_lease() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        node.postgres.set_role(Role::Primary);
        let over = "the leader lease is over, a primary is not started";
        assert_eq!(primary(node, Duration::from_secs(1)).await.unwrap_err(), over);
        node.known().start_timeout = Some(Duration::from_secs(1));
        assert_eq!(restart(node, None).await.unwrap_err(), over);
        assert_eq!(node.postgres.state(), MemberState::RestartFailed);
        assert_eq!(node.known().start_timeout, None);
        // With the lease it goes on to what it finds: no data directory.
        node.lease.hold(node.lease.ask(), ptarmigan_clock::now() + Duration::from_secs(60));
        let reason = primary(node, Duration::from_secs(1)).await.unwrap_err();
        assert_ne!(reason, over);
    }
}
