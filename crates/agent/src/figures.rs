//! PostgreSQL's answer to the monitoring query, as the core and REST read it.

use ptarmigan_ha::observation::ServerFacts;
use ptarmigan_postgres::{
    Login,
    replication::Connection,
    status::{Error, ServerStatus, TimelineSource, WalSender},
};
use ptarmigan_rest::snapshot::Figures;
use ptarmigan_types::{Lsn, MemberState, Role, Timeline};
use serde_json::{Map, Value, json};

use crate::node::Node;

/// Asks PostgreSQL and keeps the answer. Nothing is asked of a server that is not up.
pub async fn refresh(node: &Node) {
    let asks = matches!(
        node.postgres.state(),
        MemberState::Running | MemberState::Restarting | MemberState::Starting
    );
    if !asks || !node.postgres.is_alive() {
        forget(node);
        return;
    }
    let asked = ptarmigan_clock::now();
    let answer = tokio::time::timeout(crate::apply::patience(node), node.postgres.status()).await;
    match answer.unwrap_or(Err(Error::TimedOut)) {
        Ok(status) => {
            let timeline = timeline(node, &status).await;
            let figures = figures(&status, timeline, asked);
            let mut known = node.known();
            known.system_identifier = Some(status.system_identifier.clone());
            known.figures = Some(figures);
            known.status = Some(status);
        }
        Err(error) => {
            tracing::debug!("{error}");
            forget(node);
        }
    }
}

/// The same for requests: those that wait here are served by one question.
pub async fn refresh_shared(node: &Node) {
    let asked = ptarmigan_clock::now();
    let _turn = node.refreshing.lock().await;
    if node.known().figures.as_ref().is_some_and(|figures| figures.at >= asked) {
        return;
    }
    refresh(node).await;
}

fn forget(node: &Node) {
    let mut known = node.known();
    known.figures = None;
    known.status = None;
}

/// Contract A.3.3.3.
async fn timeline(node: &Node, status: &ServerStatus) -> Option<Timeline> {
    let (cached, leaders) = {
        let known = node.known();
        let view = known.view.as_ref();
        let leaders =
            view.and_then(|view| view.cluster.leader_member()).and_then(|leader| leader.data.timeline());
        (known.standby_timeline, leaders)
    };
    let standby_leader = node.postgres.role() == Role::StandbyLeader;
    match status.timeline(standby_leader, cached, leaders) {
        TimelineSource::Known(timeline) => Some(timeline),
        TimelineSource::IdentifySystem => {
            let found = identify(node).await;
            if found.is_some() {
                node.known().standby_timeline = found;
            }
            found.or(cached)
        }
    }
}

async fn identify(node: &Node) -> Option<Timeline> {
    let info = node.postgres.local_conninfo(Login::Replication);
    let answer = async { Connection::connect(&info).await?.identify_system().await }.await;
    match answer {
        Ok(identity) => Some(identity.timeline),
        Err(error) => {
            tracing::debug!("local replication connection: {error}");
            None
        }
    }
}

fn figures(status: &ServerStatus, timeline: Option<Timeline>, at: ptarmigan_types::Monotonic) -> Figures {
    Figures {
        at,
        in_recovery: status.in_recovery,
        server_version: status.server_version_num,
        postmaster_start_time: status.postmaster_start_time.clone(),
        location: status.flush_lsn.unwrap_or(Lsn::ZERO),
        received_location: status.received_location().unwrap_or(Lsn::ZERO),
        replayed_location: status.replay_lsn.unwrap_or(Lsn::ZERO),
        replayed_timestamp: status.replay_timestamp.clone(),
        replay_paused: status.replay_paused,
        latest_end_lsn: status
            .wal_receiver
            .as_ref()
            .and_then(|receiver| receiver.latest_end_lsn)
            .unwrap_or(Lsn::ZERO),
        timeline,
        replication_state: status.replication_state().map(str::to_owned),
        replication: status.replication.iter().map(sender).collect(),
    }
}

fn sender(row: &WalSender) -> Map<String, Value> {
    let fields = [
        ("usename", json!(row.usename)),
        ("application_name", json!(row.application_name)),
        ("client_addr", json!(row.client_addr)),
        ("state", json!(row.state)),
        ("sync_state", json!(row.sync_state)),
        ("sync_priority", json!(row.sync_priority)),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The part that decisions depend on.
pub fn facts(figures: &Figures) -> ServerFacts {
    ServerFacts {
        in_recovery: figures.in_recovery,
        timeline: figures.timeline,
        lsn: if figures.in_recovery {
            figures.received_location.max(figures.replayed_location)
        } else {
            figures.location
        },
        streaming: figures.replication_state.as_deref() == Some("streaming"),
        replay_paused: figures.replay_paused,
    }
}
