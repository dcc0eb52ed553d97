//! Logical slots that this standby lacks, copied from the leader: it has to be stopped for that (contract B.23.5).

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::{
    callbacks::How,
    slots::{Kind, Lineage, kind_of},
};
use ptarmigan_postgres::{
    Login, Purpose, Session,
    postmaster::start::StartRequest,
    recovery::Recovery,
    slots::{
        copy,
        sql::{self, State},
    },
    stop::{StopMode, StopRequest},
    upstream::Upstream,
};
use ptarmigan_types::{Lsn, MemberName, MemberState, Role};

use super::{follow, start::await_start};
use crate::{local, node::Node, server};

/// How long the leader may take to tell of its slots.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// How long this standby is waited for to get as far as the consumers of the slots.
const REPLAY_LIMIT: Duration = Duration::from_secs(10);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn run(node: &Arc<Node>, leader: &MemberName, slots: &[String]) -> Result<(), String> {
    let upstream = local::upstream(node, &leader.into())?;
    let read = tokio::time::timeout(READ_LIMIT, read(node, &upstream, slots)).await;
    let states = read.map_err(|_| format!("{leader} did not answer within {READ_LIMIT:?}"))??;
    let states = usable(node, states).await?;
    if states.is_empty() {
        return Err(format!("{leader} has none of {} that can be used here", slots.join(", ")));
    }
    wait_for_replay(node, &states).await?;
    still_follows(node, leader).await?;
    replace(node, states).await
}

async fn read(node: &Node, upstream: &Upstream, slots: &[String]) -> Result<Vec<State>, String> {
    let info = upstream.conninfo(&node.postgres, Login::Rewind);
    let session = Session::connect(&info, Purpose::Unlimited).await.map_err(|error| error.to_string())?;
    let version = node.postgres.version().map_err(|error| error.to_string())?;
    sql::read_states(&session, version, slots).await.map_err(|error| error.to_string())
}

/// Those that are what the configuration asks for, and whose WAL is here: it is kept from now on, but does not come back.
async fn usable(node: &Node, states: Vec<State>) -> Result<Vec<State>, String> {
    let control = node.postgres.control_data().await.map_err(|error| error.to_string())?;
    let data_dir = node.postgres.data_dir();
    let permanent = node.configuration.with(|settings| settings.global.slots.clone());
    let is_usable = |state: &State| {
        if permanent.get(&state.name).and_then(|spec| kind_of(&state.name, spec)).as_ref()
            != Some(&state.kind)
        {
            tracing::warn!("logical slot {} is not copied: {}", state.name, other_kind(state));
            return false;
        }
        if !copy::has_wal(&data_dir, control.wal_segment_bytes, state.restart_lsn) {
            tracing::warn!(
                "logical slot {} is not copied yet: it needs WAL from {} on, which this server has not got",
                state.name,
                state.restart_lsn
            );
            return false;
        }
        true
    };
    Ok(states.into_iter().filter(is_usable).collect())
}

fn other_kind(state: &State) -> String {
    match &state.kind {
        Kind::Logical { database, plugin } => {
            format!(
                "the leader's is of database {database} and plugin {plugin}, which is not what is configured"
            )
        }
        Kind::Physical => "the leader's is a physical one".into(),
    }
}

/// A slot that is ahead of its server would skip what is written there after a promotion.
async fn wait_for_replay(node: &Node, states: &[State]) -> Result<(), String> {
    let Some(furthest) = states.iter().map(|state| state.confirmed_flush_lsn).max() else { return Ok(()) };
    let reached = async {
        loop {
            let status = node.postgres.status().await.map_err(|error| error.to_string())?;
            if status.replay_lsn.unwrap_or(Lsn::ZERO) >= furthest {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(REPLAY_LIMIT, reached).await.unwrap_or_else(|_| {
        Err(format!("this server has not replayed {furthest} yet, which the consumer has"))
    })
}

/// A standby that may have to lead, or is an operator's candidate, is not restarted for a slot.
async fn still_follows(node: &Node, leader: &MemberName) -> Result<(), String> {
    let status = node.postgres.status().await.map_err(|error| error.to_string())?;
    let cluster = node.known().view.as_ref().map(|view| view.cluster.clone()).unwrap_or_default();
    if cluster.failover.is_some() {
        return Err("a failover or switchover was asked for".into());
    }
    if !cluster.is_leader(leader) || node.postgres.role() != Role::Replica {
        return Err(format!("{leader} does not lead any more"));
    }
    // By position alone a server whose WAL has left the leader's would look as if it had come as far.
    if crate::slots::lineage(node, &cluster, &status) != Lineage::Shared {
        return Err(format!("this server does not stream on the timeline of {leader}"));
    }
    Ok(())
}

async fn replace(node: &Arc<Node>, states: Vec<State>) -> Result<(), String> {
    let upstream = local::node_to_follow(node);
    let wanted = follow::recovery_for_start(node, upstream.as_ref())?;
    let names: Vec<&str> = states.iter().map(|state| state.name.as_str()).collect();
    tracing::info!("copying logical slots {}, which takes a restart", names.join(", "));
    node.postgres.set_state(MemberState::Restarting);
    server::stop(node, StopRequest::new(StopMode::Fast)).await.map_err(|error| error.to_string())?;
    let data_dir = node.postgres.data_dir();
    let written = tokio::task::spawn_blocking(move || copy::write(&data_dir, &states)).await;
    let request = StartRequest {
        role: Role::Replica,
        recovery: Recovery::Standby(wanted.parameters),
        passfile_lines: wanted.passfile_lines,
        timeout: None,
    };
    await_start(node, request, How::Start).await?;
    match written {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err("writing the slots was interrupted".into()),
    }
}
