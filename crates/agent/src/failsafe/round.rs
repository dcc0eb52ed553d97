//! The leader's round: everybody is asked at once, and the lease is counted from before the first question.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use ptarmigan_ha::{
    Outcome,
    action::PeerAddress,
    patience::{Leads, TRIES},
};
use ptarmigan_types::MemberName;
use serde_json::{Value, json};

use crate::{node::Node, publish, slots};

/// After which pause.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// Contract FS-3 to FS-5.
pub async fn ask(node: &Node, members: &[PeerAddress]) -> Outcome {
    let asked = node.lease.ask();
    let body = body(node);
    let sent = ptarmigan_clock::now();
    let ttl = node.configuration.timing().ttl;
    let granted = sent + node.lease.left_at(sent);
    let until = crate::fence::leads_until(node).map_or(granted, |until| until.min(granted));
    let limit = Leads { until, ttl }.for_question(sent);
    let answers = join_all(members.iter().map(|member| ask_one(node, member, &body, limit))).await;
    let mut positions = BTreeMap::new();
    let mut refused = Vec::new();
    for (member, answer) in members.iter().zip(answers) {
        match answer {
            Ok(position) => positions.extend(position.map(|lsn| (member.name.clone(), lsn))),
            Err(error) => {
                tracing::warn!("failsafe: {} does not promise: {error}", member.name);
                refused.push(format!("{}: {error}", member.name));
            }
        }
    }
    let until = sent + ttl;
    if !refused.is_empty() {
        node.failsafe.failed();
        publish::publish(node);
        return Outcome::Refused(refused.join("; "));
    }
    if until <= ptarmigan_clock::now() {
        return Outcome::Failed("the answers came after the end of the lease that they were for".into());
    }
    node.lease.prolong(asked, until);
    // Contract HA-401, D.6.
    node.watchdog().keepalive();
    node.watchdog().keepalive();
    node.failsafe.passed(until, positions.clone());
    publish::publish(node);
    Outcome::Promised { until, positions }
}

async fn ask_one(
    node: &Node,
    member: &PeerAddress,
    body: &Value,
    limit: Duration,
) -> Result<Option<ptarmigan_types::Lsn>, ptarmigan_rest::peer::Error> {
    let end = ptarmigan_clock::now() + limit * TRIES;
    loop {
        let left = end.since(ptarmigan_clock::now());
        match node.peers.ask_promise(&member.api_url, body, limit.min(left)).await {
            Ok(position) => return Ok(position),
            // A refusal is an answer.
            Err(error @ ptarmigan_rest::peer::Error::Refused(_)) => return Err(error),
            Err(error) if left <= TRY_AGAIN => return Err(error),
            Err(_) => tokio::time::sleep(TRY_AGAIN).await,
        }
    }
}

/// What Patroni's members understand, and what ours do besides: for how long, and by which lock.
fn body(node: &Node) -> Value {
    let me = publish::member(node);
    let mut body = json!({
        "name": node.name.as_str(),
        "conn_url": me.conn_url(),
        "api_url": me.api_url(),
        "ttl": node.configuration.timing().ttl.as_secs(),
    });
    if let Some(guardian) = crate::fence::word(node) {
        body["guardian"] = json!(guardian);
    }
    let last_leader = node.known().last_leader.clone();
    if let Some((_, lock)) = last_leader.filter(|(name, _): &(MemberName, u64)| *name == node.name) {
        body["lock"] = json!(lock);
    }
    if let Some(slots) = slots::known(node) {
        body["slots"] = json!(slots);
    }
    body
}
