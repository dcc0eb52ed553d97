//! Asking the other members.

use ptarmigan_ha::{action::PeerAddress, facts::PeerAnswer};
use ptarmigan_rest::peer::Error;
use ptarmigan_types::Cluster;

use crate::node::Node;

/// What the reachable ones of these members say, asked in parallel (contract HN-3).
pub async fn ask(node: &Node, peers: &[PeerAddress]) -> Vec<PeerAnswer> {
    let addresses = peers.iter().map(|peer| (peer.name.clone(), peer.api_url.clone())).collect();
    let mut answers = Vec::new();
    for (name, answer) in node.peers.ask_all(addresses).await {
        match answer {
            Ok(status) => answers.push(PeerAnswer {
                name,
                in_recovery: status.in_recovery,
                lsn: status.lsn,
                timeline: status.timeline,
                tags: status.tags,
                watchdog_failed: status.watchdog_failed,
                ailing: status.ailing,
                streaming: status.streaming,
                without_data: false,
            }),
            Err(Error::NoData) => answers.push(PeerAnswer::without_data(name)),
            Err(error) => tracing::warn!("request failed to {name}: {error}"),
        }
    }
    answers
}

/// The same for every member but this one.
pub async fn ask_others(node: &Node, cluster: &Cluster) -> Vec<PeerAnswer> {
    let others: Vec<PeerAddress> = cluster
        .members
        .iter()
        .filter(|member| member.name != node.name)
        .filter_map(|member| {
            let api_url = member.data.api_url()?.to_owned();
            Some(PeerAddress { name: member.name.clone(), api_url })
        })
        .collect();
    ask(node, &others).await
}
