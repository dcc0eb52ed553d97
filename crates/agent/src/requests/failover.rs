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
    // With a quorum every member may take over that enough others agree to.
    let bound = node
        .configuration
        .with(|settings| settings.global.synchronous_mode == ptarmigan_config::SynchronousMode::On);
    let candidates: Vec<&Member> = match &request.candidate {
        Some(name) => {
            let name = MemberName(name.clone());
            if bound && request.leader.is_some() && !cluster.sync.matches(name.as_str()) {
                return Err("candidate name does not match with sync_standby".into());
            }
            let member = cluster.member(&name).ok_or_else(|| "candidate does not exists".to_owned())?;
            vec![member]
        }
        None => {
            let others =
                |member: &&Member| member.data.api_url().is_some() && !cluster.is_leader(&member.name);
            let may = |member: &&Member| !bound || cluster.sync.matches(member.name.as_str());
            cluster.members.iter().filter(others).filter(may).collect()
        }
    };
    if candidates.is_empty() && bound {
        return Err(format!("{action} is not possible: can not find sync_standby"));
    }
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

#[cfg(test)]
mod tests {
    use ptarmigan_dcs::Dcs as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fixture, peer, standby, text};

    fn request(leader: Option<&str>, candidate: Option<&str>) -> FailoverRequest {
        FailoverRequest {
            action: if leader.is_some() { "switchover" } else { "failover" },
            leader: leader.map(str::to_owned),
            candidate: candidate.map(str::to_owned),
            scheduled_at: None,
            scheduled_at_text: None,
        }
    }

    fn scheduled(leader: &str) -> FailoverRequest {
        FailoverRequest {
            scheduled_at: Some("2100-01-01T00:00:00Z".parse().unwrap()),
            scheduled_at_text: Some("2100-01-01T00:00:00+00:00".into()),
            ..request(Some(leader), None)
        }
    }

    async fn refused(fixture: &Fixture, leader: Option<&str>, candidate: Option<&str>) -> String {
        let (status, text) = text(&post(&fixture.node, &request(leader, candidate)).await);
        assert_eq!(status, 412, "{text}");
        assert!(fixture.cluster().await.failover.is_none(), "nothing is written");
        text
    }

    #[tokio::test]
    async fn a_7_check_8_leader_must_hold_the_lock() {
        let fixture = Fixture::new();
        assert_eq!(refused(&fixture, Some("b"), None).await, "leader name does not match");
        fixture.join("b", None, true).await;
        assert_eq!(refused(&fixture, Some("c"), None).await, "leader name does not match");
    }

    #[tokio::test]
    async fn a_7_checks_10_and_11_members() {
        let fixture = Fixture::new();
        fixture.join("b", Some(&peer(&standby())), true).await;
        assert_eq!(refused(&fixture, Some("b"), Some("x")).await, "candidate does not exists");
        let lone = "switchover is not possible: cluster does not have members except leader";
        assert_eq!(refused(&fixture, Some("b"), None).await, lone);
        fixture.join("c", None, false).await;
        assert_eq!(
            refused(&fixture, Some("b"), None).await,
            lone,
            "a member without address cannot be asked"
        );
    }

    #[tokio::test]
    async fn a_7_check_12_somebody_must_be_fit() {
        let unfit = |patch: Value| {
            let mut status = standby();
            status.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
            status
        };
        for (status, why) in [
            (unfit(json!({"tags": {"nofailover": true}})), "tag"),
            (unfit(json!({"tags": {"failover_priority": 0}})), "priority"),
            (unfit(json!({"watchdog_failed": true})), "watchdog"),
            (json!({"state": "starting", "role": "replica"}), "no position"),
        ] {
            let fixture = Fixture::new();
            fixture.join("b", None, true).await;
            fixture.join("c", Some(&peer(&status)), false).await;
            let none = "failover is not possible: no good candidates have been found";
            assert_eq!(refused(&fixture, None, Some("c")).await, none, "{why}");
        }
    }

    #[tokio::test]
    async fn a_7_check_14_scheduled_is_stored_and_can_be_taken_back() {
        let fixture = Fixture::new();
        assert_eq!(text(&delete(&fixture.node).await).0, 404);
        let reply = post(&fixture.node, &scheduled("b")).await;
        assert_eq!(
            text(&reply),
            (202, "Switchover scheduled".into()),
            "who leads is looked at when it is due"
        );
        let stored = fixture.cluster().await.failover.unwrap();
        assert_eq!(stored.leader.unwrap().as_str(), "b");
        assert!(stored.scheduled_at.is_some());
        assert_eq!(text(&delete(&fixture.node).await), (200, "scheduled switchover deleted".into()));
        assert!(fixture.cluster().await.failover.is_none());
        fixture.put(Key::Failover, r#"{"leader":"b","member":"c"}"#).await;
        assert_eq!(text(&delete(&fixture.node).await).0, 404, "only a scheduled one is taken back");
    }

    #[tokio::test]
    async fn a_7_check_15_another_leader_is_success() {
        let fixture = Fixture::new();
        let leader = fixture.join("b", None, true).await;
        let next = fixture.join("c", Some(&peer(&standby())), false).await;
        let wish = request(Some("b"), Some("c"));
        let answer = async { text(&post(&fixture.node, &wish).await) };
        let happens = async {
            while fixture.cluster().await.failover.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let held = fixture.cluster().await.leader.unwrap();
            assert!(leader.release(&held).await.unwrap());
            tokio::time::sleep(POLL * 3).await;
            next.acquire().await.unwrap();
        };
        let (answer, ()) = tokio::join!(answer, happens);
        assert_eq!(answer, (200, "Successfully switched over to \"c\"".into()));
    }

    #[tokio::test]
    async fn a_7_check_15_dropped_wish_is_failure() {
        let fixture = Fixture::new();
        fixture.join("b", None, true).await;
        fixture.join("c", Some(&peer(&standby())), false).await;
        let wish = request(None, Some("c"));
        let answer = async { text(&post(&fixture.node, &wish).await) };
        let happens = async {
            while fixture.cluster().await.failover.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            fixture.put(Key::Failover, "{}").await;
        };
        let (answer, ()) = tokio::join!(answer, happens);
        assert_eq!(answer, (503, "Failover failed".into()));
    }
}
