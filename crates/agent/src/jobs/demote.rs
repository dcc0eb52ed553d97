//! Stepping down (contract B.16). What follows — crash recovery, rewind, start as a standby — is decided by the next
//! cycles from what they find, except where the DCS is away: then the server comes up read-only at once.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ptarmigan_ha::{action::DemoteMode, callbacks::How};
use ptarmigan_postgres::{
    ControlData, archive,
    postmaster::start::StartRequest,
    recovery::Recovery,
    stop::{Hook, StopMode, StopRequest},
};
use ptarmigan_types::Role;

use super::{follow, start::await_start};
use crate::{execute::write_member, node::Node, planned, release, server, synchronous};

/// What an immediate stop and the SIGKILLs after it may need.
pub(crate) const ENFORCED_STOP: Duration = Duration::from_secs(2);

/// A fast stop gets at least this long before it becomes an immediate one.
pub(crate) const FAST_STOP_MIN: Duration = Duration::from_secs(1);

/// How long an immediate shutdown has before SIGKILL: a postmaster that hangs or was frozen passes no signal on, and its
/// sessions go on committing.
const KILL_AFTER: Duration = Duration::from_secs(1);

pub(super) async fn run(node: &Arc<Node>, mode: DemoteMode) -> Result<(), String> {
    tracing::info!("demoting self ({mode:?})");
    planned::here("demote: begun");
    let archive_command = if mode == DemoteMode::DemoteCluster { archive_command(node).await } else { None };
    let released = stop(node, mode, archive_command.is_some()).await?;
    planned::here("demote: stopped");
    node.postgres.set_role(Role::Demoted);
    if let Some(command) = archive_command {
        archive_the_rest(node, &command).await;
    }
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

/// DM-2: what archives, asked before the stop.
async fn archive_command(node: &Node) -> Option<String> {
    match archive::command_in_force(&node.postgres).await {
        Ok(command) => command,
        Err(error) => {
            tracing::warn!("whether WAL is archived is not known: {error}");
            None
        }
    }
}

/// DM-7. The archiver itself archives no segment that is not full.
async fn archive_the_rest(node: &Node, command: &str) {
    let archived = async {
        let control = node.postgres.control_data().await.map_err(|error| error.to_string())?;
        let (timeline, lsn) = (control.checkpoint_timeline, control.checkpoint_lsn);
        let data_dir = node.postgres.data_dir();
        archive::archive_segment_of(&data_dir, command, timeline, lsn, control.wal_segment_bytes)
            .await
            .map_err(|error| error.to_string())
    };
    match archived.await {
        Ok(segment) => tracing::info!("archived {segment}, which holds the shutdown checkpoint"),
        Err(reason) => {
            tracing::error!("the WAL file with the shutdown checkpoint is not archived: {reason}");
        }
    }
}

/// Stops the server; true where the lock was released on the way.
async fn stop(node: &Arc<Node>, mode: DemoteMode, archives: bool) -> Result<bool, String> {
    let (hook, released) = release::early(node);
    let left = node.lease.left_at(ptarmigan_clock::now());
    let guarded = Arc::clone(node);
    let request = StopRequest {
        on_safepoint: Some(Box::new(move |()| Box::pin(async move { cannot_commit(&guarded).await }))),
        ..request(mode, left, synchronous::stop_timeout(node), archives, hook)
    };
    // Also where no server is seen: one whose start was cancelled a moment ago may be about to appear.
    server::stop(node, request).await.map_err(|error| error.to_string())?;
    node.watchdog().disable();
    Ok(released.load(Ordering::Acquire))
}

/// The last session is gone: neither watchdog nor guardian have to end what is left of the server.
pub(crate) async fn cannot_commit(node: &Node) {
    node.watchdog().disable();
    planned::here("demote: no session left");
    crate::fence::lift(node).await;
    planned::here("demote: the guardian knows");
}

/// Contract B.16. `left`: how long the lease lasts; `limit`: contract DM-3.
fn request(
    mode: DemoteMode,
    left: Duration,
    limit: Option<Duration>,
    archives: bool,
    hook: Hook<ControlData>,
) -> StopRequest {
    match mode {
        DemoteMode::Offline => offline(limit.map_or(left, |limit| left.min(limit + ENFORCED_STOP))),
        DemoteMode::Graceful => StopRequest {
            checkpoint: true,
            on_shutdown: Some(hook),
            timeout: limit,
            ..StopRequest::new(StopMode::Fast)
        },
        // The lock goes with the WAL: who archives the rest of it keeps it. Else whoever has everything may go on with it
        // while this server waits for somebody who does not answer.
        DemoteMode::DemoteCluster => {
            let on_shutdown = (!archives).then_some(hook);
            StopRequest { on_shutdown, ..StopRequest::new(StopMode::Fast) }
        }
        DemoteMode::Immediate => at_once(KILL_AFTER),
        // Somebody else may lead already: a server that hangs in its shutdown, and its backends do not, gets no time at all.
        DemoteMode::ImmediateNoLock => at_once(Duration::ZERO),
    }
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
    synchronous::clear(node);
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
    use crate::testing::Fixture;

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
    fn dm_3_how_each_mode_stops_the_server() {
        let seconds = Duration::from_secs;
        for (mode, archives, stop, checkpoint, timeout, hook) in [
            (DemoteMode::Offline, false, StopMode::Fast, false, Some(seconds(18)), false),
            (DemoteMode::Graceful, false, StopMode::Fast, true, None, true),
            (DemoteMode::Immediate, false, StopMode::Immediate, false, Some(KILL_AFTER), false),
            (DemoteMode::ImmediateNoLock, false, StopMode::Immediate, false, Some(Duration::ZERO), false),
            (DemoteMode::DemoteCluster, false, StopMode::Fast, false, None, true),
            (DemoteMode::DemoteCluster, true, StopMode::Fast, false, None, false),
        ] {
            let request = request(mode, seconds(20), None, archives, Box::new(|_| Box::pin(async {})));
            assert_eq!((request.mode, request.checkpoint, request.timeout), (stop, checkpoint, timeout));
            assert_eq!(request.on_shutdown.is_some(), hook, "{mode:?} {archives}");
        }
        // `primary_stop_timeout` of synchronous mode: what is stopped in peace is not stopped for ever.
        for (mode, timeout) in [
            (DemoteMode::Graceful, Some(seconds(5))),
            (DemoteMode::Offline, Some(seconds(5))),
            (DemoteMode::Immediate, Some(KILL_AFTER)),
        ] {
            let limit = Some(seconds(5));
            let request = request(mode, seconds(20), limit, false, Box::new(|_| Box::pin(async {})));
            assert_eq!(request.timeout, timeout, "{mode:?}");
        }
    }

    /// A leader whose server is not there any more.
    async fn leader() -> Fixture {
        let fixture = Fixture::new();
        let acquire = crate::execute::execute(&fixture.node, &ptarmigan_ha::Action::AcquireLock).await;
        assert!(matches!(acquire, Ok(ptarmigan_ha::Outcome::Held { .. })));
        fixture.look().await;
        fixture.node.postgres.set_role(Role::Primary);
        fixture
    }

    #[tokio::test]
    async fn dm_4_the_role_is_demoted_once_the_server_is_stopped() {
        for mode in [DemoteMode::Graceful, DemoteMode::Immediate, DemoteMode::DemoteCluster] {
            let fixture = leader().await;
            run(&fixture.node, mode).await.unwrap();
            assert_eq!(fixture.node.postgres.role(), Role::Demoted, "{mode:?}");
            let cluster = fixture.cluster().await;
            let mine = cluster.member(&fixture.node.name).unwrap();
            assert_eq!(mine.data.role(), Some(Role::Demoted), "{mode:?}");
        }
    }

    #[tokio::test]
    async fn dm_5_the_lock_of_a_standby_cluster_to_be_is_kept() {
        let fixture = leader().await;
        run(&fixture.node, DemoteMode::DemoteCluster).await.unwrap();
        assert!(fixture.cluster().await.is_leader(&fixture.node.name));
        assert!(fixture.node.leads(), "and is renewed by the loop");
    }

    #[tokio::test]
    async fn dm_6_the_lock_is_released_once_the_server_is_stopped() {
        for (mode, released) in [
            (DemoteMode::Graceful, true),
            (DemoteMode::Immediate, true),
            (DemoteMode::ImmediateNoLock, false),
        ] {
            let fixture = leader().await;
            run(&fixture.node, mode).await.unwrap();
            assert_eq!(fixture.cluster().await.is_unlocked(), released, "{mode:?}");
        }
    }

    #[tokio::test]
    async fn dm_9_in_synchronous_mode_a_demoted_server_names_nobody() {
        for (mode, expected) in [(true, ""), (false, "b")] {
            let fixture = leader().await;
            let value = serde_json::json!({"synchronous_mode": mode}).as_object().cloned().unwrap();
            let config = ptarmigan_types::DynamicConfig { value, revision: 1 };
            fixture.node.configuration.adopt(Some(&config));
            fixture.node.postgres.own_synchronous_standby_names(Some("b"));
            // There is no data directory to start on; what it would be started with is written before.
            assert!(run(&fixture.node, DemoteMode::Offline).await.is_err());
            let names = fixture.node.postgres.owned_synchronous_standby_names();
            assert_eq!(names.as_deref(), Some(expected), "{mode}");
        }
    }

    #[tokio::test]
    async fn dm_2_what_archives_is_asked_before_the_stop() {
        use std::os::unix::fs::PermissionsExt;
        let fixture = leader().await;
        let bin = fixture.folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let configure = |mode: &str, command: &str| {
            let script = format!(
                "#!/bin/sh\nfor last; do :; done\ncase $last in archive_mode) echo '{mode}';; \
                 archive_command) echo '{command}';; esac\n"
            );
            let path = bin.join("postgres");
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        fixture.configure(&serde_json::json!({"postgresql": {"bin_dir": bin.to_str().unwrap()}}));
        assert!(fixture.node.configuration.reload());
        let settings = fixture.node.configuration.current().settings.postgresql.clone();
        fixture.node.postgres.set_settings(Arc::new(settings));
        for (mode, command, expected) in [
            ("on", "cp %p /a/%f", Some("cp %p /a/%f")),
            ("always", "true", Some("true")),
            ("off", "true", None),
            ("on", "", None),
        ] {
            configure(mode, command);
            assert_eq!(archive_command(&fixture.node).await.as_deref(), expected, "{mode} {command}");
        }
    }

    #[test]
    fn b_16_every_immediate_stop_ends_in_a_kill() {
        for kill_after in [KILL_AFTER, Duration::ZERO] {
            assert_eq!(at_once(kill_after).timeout, Some(kill_after));
        }
    }
}
