//! Giving the lock up, and until where a successor must have got (contract B.13.0, B.16).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use ptarmigan_ha::{Action, candidates::can_take_over_with};
use ptarmigan_postgres::{ControlData, stop::Hook, waldump};
use ptarmigan_types::{Lsn, Role};

use crate::{execute::execute, node::Node, peers, planned, status};

/// Writes the position that a successor must have reached, and deletes the leader key. A store that does not answer
/// leaves the key to its lease.
pub async fn release(node: &Arc<Node>, position: Option<Lsn>) {
    node.lease.forget();
    crate::publish::publish(node);
    planned::here("release: begun");
    let held = match node.dcs.view().await {
        Ok(view) => view.cluster.leader.filter(|leader| leader.name == node.name),
        Err(error) => return tracing::warn!("the leader lock is not released, it will run out: {error}"),
    };
    // Whoever leads by now has written a position of its own.
    if let Some(held) = held {
        if let Some(lsn) = position {
            drop(status::write_position(node, lsn).await);
        }
        drop(execute(node, &Action::ReleaseLock(held)).await);
        planned::here("release: done");
        tracing::info!("released the leader lock");
    }
}

/// Where the WAL of a stopped primary ends, as far as a successor needs it: the shutdown checkpoint, or the switch to a
/// new WAL file right before it, which archiving causes and no standby waits for (contract B.16, "prev LSN").
pub async fn final_position(node: &Node) -> Option<Lsn> {
    match node.postgres.control_data().await {
        Ok(control) => Some(position_of(node, &control).await),
        Err(error) => {
            tracing::warn!("the final position is not known: {error}");
            None
        }
    }
}

async fn position_of(node: &Node, control: &ControlData) -> Lsn {
    let (timeline, checkpoint) = (control.checkpoint_timeline, control.checkpoint_lsn);
    match waldump::switch_before(&node.postgres, timeline, checkpoint).await {
        Ok(switch) => switch.unwrap_or(checkpoint),
        Err(error) => {
            tracing::debug!("the record before the shutdown checkpoint is not known: {error}");
            checkpoint
        }
    }
}

/// A hook for the stop of a leader: the shutdown checkpoint is on disk while the postmaster still lives (archiving, a
/// slow receiver): whoever has all of it may take over already (contract B.16, SD-5). The flag tells whether the lock
/// was released.
pub fn early(node: &Arc<Node>) -> (Hook<ControlData>, Arc<AtomicBool>) {
    let released = Arc::new(AtomicBool::new(false));
    let (node, flag) = (Arc::clone(node), Arc::clone(&released));
    let hook: Hook<ControlData> = Box::new(move |control| {
        Box::pin(async move {
            let position = position_of(&node, &control).await;
            if others_have(&node, control.checkpoint_lsn).await {
                node.postgres.set_role(Role::Demoted);
                release(&node, Some(position)).await;
                flag.store(true, Ordering::Release);
            } else {
                drop(status::write_position(&node, position).await);
            }
        })
    });
    (hook, released)
}

/// Whether somebody has everything up to there, and may take over.
async fn others_have(node: &Node, lsn: Lsn) -> bool {
    let Some(view) = node.known().view.clone() else { return false };
    let answers = peers::ask_others(node, &view.cluster).await;
    // Whoever else has all of it could not take over (contract B.10.4).
    let sync = &view.cluster.sync;
    let wished = view.cluster.failover.as_ref().is_some_and(|failover| failover.leader.is_none());
    let bound = !sync.is_empty() && !wished && crate::synchronous::is_on(node);
    answers
        .iter()
        .filter(|answer| !bound || sync.matches(answer.name.as_str()))
        .any(|answer| can_take_over_with(answer, Some(lsn), view.cluster.status.last_lsn, 0, None))
}

#[cfg(test)]
mod tests {
    use ptarmigan_types::Timeline;
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, peer};

    fn shut_down_at(lsn: u64) -> ControlData {
        ControlData {
            pg_control_version: 1300,
            catalog_version: 202_209_061,
            system_identifier: "7000000000000000001".into(),
            state: ptarmigan_postgres::ControlState::ShutDown,
            checkpoint_lsn: Lsn(lsn),
            redo_lsn: Lsn(lsn),
            redo_wal_file: "000000010000000000000001".into(),
            checkpoint_timeline: 1 as Timeline,
            previous_timeline: 1,
            min_recovery_end_lsn: Lsn::ZERO,
            min_recovery_end_timeline: 0,
            backup_start_lsn: Lsn::ZERO,
            wal_log_hints: true,
            data_checksum_version: 1,
            wal_segment_bytes: 16 << 20,
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
            fields: std::collections::BTreeMap::new(),
        }
    }

    /// The checkpoint is on disk, the postmaster waits for its archiver: whoever has all of it need not wait.
    #[tokio::test]
    async fn sd_5_the_lock_goes_as_soon_as_somebody_has_the_shutdown_checkpoint() {
        for (theirs, released) in [(1000, true), (999, false)] {
            let fixture = Fixture::new();
            let node = &fixture.node;
            drop(execute(node, &Action::AcquireLock).await);
            node.postgres.set_role(Role::Primary);
            let xlog = json!({"received_location": theirs, "replayed_location": theirs});
            let address = peer(&json!({"state": "running", "role": "replica", "timeline": 1, "xlog": xlog}));
            fixture.join("b", Some(&address), false).await;
            fixture.look().await;
            let (hook, flag) = early(node);
            hook(shut_down_at(1000)).await;
            assert_eq!(flag.load(Ordering::Acquire), released, "{theirs}");
            let cluster = fixture.cluster().await;
            assert_eq!(cluster.leader.is_none(), released, "{theirs}");
            assert_eq!(cluster.status.last_lsn, Lsn(1000), "told in both cases");
            assert_eq!(node.postgres.role() == Role::Demoted, released);
            assert_eq!(node.leads(), !released);
        }
    }
}
