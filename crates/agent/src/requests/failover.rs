//! `POST /switchover`, `POST /failover`, `DELETE /switchover` (contract surface A.7, checks 8 to 15).

use std::time::Duration;

use ptarmigan_dcs::{Condition, Written};
use ptarmigan_rest::{FailoverRequest, Reply};
use ptarmigan_types::{Cluster, Failover, Key, Member, MemberName};

use super::{fresh_view, no_dcs};
use crate::node::Node;

/// How often the result is looked at.
const POLL: Duration = Duration::from_millis(100);

pub(super) async fn post(node: &Node, request: &FailoverRequest) -> Reply {
    let view = match fresh_view(node).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    let switchover = request.leader.is_some();
    let action = if switchover { "switchover" } else { "failover" };
    if request.scheduled_at.is_none()
        && let Err(reason) = is_possible(node, &view.cluster, request, action).await
    {
        return Reply::text(412, reason);
    }
    let wish = Failover::to_json(
        request.leader.as_deref(),
        request.candidate.as_deref(),
        request.scheduled_at_text.as_deref(),
    );
    match node.dcs.write(&Key::Failover, &wish, Condition::Always).await {
        Ok(_) => {}
        Err(ptarmigan_dcs::Error::Refused(reason)) => {
            return Reply::text(503, format!("failed to write the {action} key into the DCS: {reason}"));
        }
        Err(error) => return no_dcs(&error),
    }
    node.wake();
    if request.scheduled_at.is_some() {
        return Reply::text(202, format!("{} scheduled", capital(action)));
    }
    wait(node, view.cluster.leader_name(), request, action).await
}

async fn is_possible(
    node: &Node,
    cluster: &Cluster,
    request: &FailoverRequest,
    action: &str,
) -> Result<(), String> {
    if let Some(leader) = &request.leader
        && cluster.leader_name().is_none_or(|holder| holder.as_str() != leader)
    {
        return Err("leader name does not match".into());
    }
    let candidates: Vec<&Member> = match &request.candidate {
        Some(name) => {
            let name = MemberName(name.clone());
            let member = cluster.member(&name).ok_or_else(|| "candidate does not exists".to_owned())?;
            vec![member]
        }
        None => {
            let others =
                |member: &&Member| member.data.api_url().is_some() && !cluster.is_leader(&member.name);
            cluster.members.iter().filter(others).collect()
        }
    };
    if candidates.is_empty() {
        return Err(format!("{action} is not possible: cluster does not have members except leader"));
    }
    let asked = candidates
        .iter()
        .filter(|member| !member.data.tags().nofailover())
        .filter_map(|member| member.data.api_url().map(|url| (member.name.clone(), url.to_owned())))
        .collect();
    let fit =
        node.peers.ask_all(asked).await.into_iter().any(|(_, answer)| {
            answer.is_ok_and(|status| !status.tags.nofailover() && !status.watchdog_failed)
        });
    if fit { Ok(()) } else { Err(format!("{action} is not possible: no good candidates have been found")) }
}

/// Check 15: the answer is what came of it.
async fn wait(node: &Node, former: Option<&MemberName>, request: &FailoverRequest, action: &str) -> Reply {
    let timing = node.configuration.timing();
    let limit = 2 * timing.loop_wait.max(Duration::from_secs(10));
    let deadline = ptarmigan_clock::now() + limit;
    let failed = || Reply::text(503, format!("{} failed", capital(action)));
    while ptarmigan_clock::now() < deadline {
        tokio::time::sleep(POLL).await;
        let Ok(view) = node.dcs.view().await else { continue };
        let cluster = view.cluster;
        match cluster.leader_name() {
            Some(leader) if Some(leader) != former => {
                let verb = if action == "failover" { "failed over" } else { "switched over" };
                let text = match request.candidate.as_deref().filter(|name| *name != leader.as_str()) {
                    None => format!("Successfully {verb} to \"{leader}\""),
                    Some(candidate) => {
                        format!("{} to \"{leader}\" instead of \"{candidate}\"", capital(verb))
                    }
                };
                return Reply::text(200, text);
            }
            // The wish was dropped while the leader stayed: it could not be done.
            Some(_) if cluster.failover.is_none() => return failed(),
            _ => {}
        }
    }
    Reply::text(503, format!("{} status unknown after {} s", capital(action), limit.as_secs()))
}

pub(super) async fn delete(node: &Node) -> Reply {
    let view = match fresh_view(node).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    let Some(failover) = view.cluster.failover.filter(|failover| failover.scheduled_at.is_some()) else {
        return Reply::text(404, "no pending scheduled switchover");
    };
    match node.dcs.write(&Key::Failover, "{}", Condition::Revision(failover.revision)).await {
        Ok(Written::Applied(_)) => Reply::text(200, "scheduled switchover deleted"),
        Ok(Written::Conflict) => Reply::text(409, "the switchover was changed meanwhile"),
        Err(error) => no_dcs(&error),
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
