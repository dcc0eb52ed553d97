//! The leader's round: everybody is asked at once, and the lease is counted from before the first question.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use ptarmigan_ha::{Outcome, action::PeerAddress};
use ptarmigan_types::MemberName;
use serde_json::{Value, json};

use crate::{node::Node, publish, slots};

/// The longest time that one question may take (contract FS-3).
const TRY_MAX: Duration = Duration::from_secs(2);

/// Where little is left of the lease the questions get less time, and this much in any case.
const TRY_MIN: Duration = Duration::from_millis(500);

/// So much time goes into the questions to each member (contract FS-3: one retry). A member whose daemon starts anew refuses
/// connections for a moment: within this time it is asked again.
const TRIES: u32 = 2;

/// After which pause.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// What a leader must keep back of its lease for a round, besides the time for a stop; nothing where the mode is off.
pub fn reserve(node: &Node) -> Duration {
    let on = node.configuration.with(|settings| settings.global.failsafe_mode);
    if on { TRY_MAX * TRIES } else { Duration::ZERO }
}

/// Contract FS-3 to FS-5.
pub async fn ask(node: &Node, members: &[PeerAddress]) -> Outcome {
    let asked = node.lease.ask();
    let body = body(node);
    let sent = ptarmigan_clock::now();
    let left = node.lease.left_at(sent).saturating_sub(crate::execute::STOP_RESERVE);
    let limit = (left / TRIES).clamp(TRY_MIN, TRY_MAX);
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
    let ttl = node.configuration.timing().ttl;
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
    let last_leader = node.known().last_leader.clone();
    if let Some((_, lock)) = last_leader.filter(|(name, _): &(MemberName, u64)| *name == node.name) {
        body["lock"] = json!(lock);
    }
    if let Some(slots) = slots::known(node) {
        body["slots"] = json!(slots);
    }
    body
}
