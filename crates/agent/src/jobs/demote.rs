//! Stepping down (contract B.16). What follows — crash recovery, rewind, start as a standby — is decided by the next
//! cycles from what they find, except where the DCS is away: then the server comes up read-only at once.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ptarmigan_ha::{action::DemoteMode, callbacks::How};
use ptarmigan_postgres::{
    postmaster::start::StartRequest,
    recovery::Recovery,
    stop::{StopMode, StopRequest},
};
use ptarmigan_types::Role;

use super::{follow, start::await_start};
use crate::{execute::write_member, node::Node, release, server};

/// What an immediate stop and the SIGKILLs after it may need.
pub(crate) const ENFORCED_STOP: Duration = Duration::from_secs(2);

/// A fast stop gets at least this long before it becomes an immediate one.
pub(crate) const FAST_STOP_MIN: Duration = Duration::from_secs(1);

/// How long an immediate shutdown has before SIGKILL: a postmaster that hangs or was frozen passes no signal on, and its
/// sessions go on committing.
const KILL_AFTER: Duration = Duration::from_secs(1);

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
    let (hook, released) = release::early(node);
    let request = match mode {
        DemoteMode::Offline => offline(node.lease.left_at(ptarmigan_clock::now())),
        DemoteMode::Graceful => {
            StopRequest { checkpoint: true, on_shutdown: Some(hook), ..StopRequest::new(StopMode::Fast) }
        }
        DemoteMode::Immediate => at_once(KILL_AFTER),
        // Somebody else may lead already: a server that hangs in its shutdown, and its backends do not, gets no time at all.
        DemoteMode::ImmediateNoLock => at_once(Duration::ZERO),
    };
    // Also where no server is seen: one whose start was cancelled a moment ago may be about to appear.
    server::stop(node, request).await.map_err(|error| error.to_string())?;
    Ok(released.load(Ordering::Acquire))
}

fn at_once(kill_after: Duration) -> StopRequest {
    StopRequest { timeout: Some(kill_after), ..StopRequest::new(StopMode::Immediate) }
}

/// Nothing may be left of a server that hangs in its shutdown when somebody else may lead: a fast stop as long as there is
/// time for one, and nothing but an immediate one where there is none.
fn offline(left: Duration) -> StopRequest {
    match left.checked_sub(ENFORCED_STOP).filter(|gentle| *gentle >= FAST_STOP_MIN) {
        Some(gentle) => StopRequest {
            timeout: Some(gentle),
            kill_after: Some(KILL_AFTER),
            ..StopRequest::new(StopMode::Fast)
        },
        None => at_once(KILL_AFTER),
    }
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
    let how = How::Follow { from: node.postgres.role(), to: Role::Replica, restart: false };
    node.postgres.set_role(Role::Replica);
    await_start(node, request, how).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_stop_ends_before_anybody_else_may_lead() {
        for (left_s, mode, gentle_s) in [
            (0, StopMode::Immediate, 1),
            (2, StopMode::Immediate, 1),
            (3, StopMode::Fast, 1),
            (20, StopMode::Fast, 18),
        ] {
            let request = offline(Duration::from_secs(left_s));
            assert_eq!(request.mode, mode, "{left_s} s left");
            assert_eq!(request.timeout, Some(Duration::from_secs(gentle_s)), "{left_s} s left");
            if mode == StopMode::Fast {
                let all = request.timeout.unwrap() + request.kill_after.unwrap();
                assert!(all < Duration::from_secs(left_s), "{left_s} s left");
            }
        }
    }

    #[test]
    fn b_16_every_immediate_stop_ends_in_a_kill() {
        for kill_after in [KILL_AFTER, Duration::ZERO] {
            assert_eq!(at_once(kill_after).timeout, Some(kill_after));
        }
    }
}
