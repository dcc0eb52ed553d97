//! Starting, or starting again, as a standby (contract B.14, HA-114, HA-290).

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::{Upstream, callbacks::How};
use ptarmigan_postgres::{
    postmaster::start::StartRequest,
    recovery::{Recovery, Wanted},
    stop::{StopMode, StopRequest},
};
use ptarmigan_types::{MemberState, Role};

use super::start::await_start;
use crate::{node::Node, remote};

pub(super) async fn run(
    node: &Arc<Node>,
    upstream: Option<&Upstream>,
    role: Role,
    timeout: Option<Duration>,
) -> Result<(), String> {
    let wanted = recovery_for_start(node, upstream)?;
    let restart = node.postgres.is_alive();
    if restart {
        node.postgres.set_state(MemberState::Restarting);
        node.postgres.stop(StopRequest::new(StopMode::Fast)).await.map_err(|error| error.to_string())?;
    }
    let how = How::Follow { from: node.postgres.role(), to: role, restart };
    node.postgres.set_role(role);
    let request = StartRequest {
        role,
        recovery: Recovery::Standby(wanted.parameters),
        passfile_lines: wanted.passfile_lines,
        timeout,
    };
    await_start(node, request, how).await.map(drop)
}

/// The recovery configuration for following a member, or nobody.
pub(crate) fn recovery(node: &Node, upstream: Option<&Upstream>) -> Result<Wanted, String> {
    let source = remote::source(node, upstream)?;
    node.postgres.wanted_recovery(&source).map_err(|error| error.to_string())
}

/// The same for a server that is about to start: where the one to follow tells no address (contract B.19.1,
/// "primary_conninfo") it comes up without one, serves reads, and follows once there is an address.
pub(super) fn recovery_for_start(node: &Node, upstream: Option<&Upstream>) -> Result<Wanted, String> {
    match remote::source(node, upstream) {
        Err(reason) => {
            tracing::warn!("starting without an upstream: {reason}");
            recovery(node, None)
        }
        Ok(_) => recovery(node, upstream),
    }
}
