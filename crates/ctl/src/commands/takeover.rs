//! What `switchover` and `failover` share: candidates, the request, the way out where no member can be asked.

use anyhow::{Result, anyhow, bail};
use ptarmigan_config::DynamicSettings;
use ptarmigan_dcs::Condition;
use ptarmigan_types::{Cluster, Failover, Key, MemberName};
use reqwest::Method;
use serde_json::{Map, Value};

use crate::{
    moment,
    rest::{self, Answer},
    session::{Context, Session},
};

/// What a server says that knows no `/switchover` (contract A.10).
const UNSUPPORTED: &str = "Server does not support this operation";

/// What was asked for.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    /// `switchover` or `failover`.
    pub(super) action: &'static str,
    /// The leader to demote.
    pub(super) leader: Option<&'a str>,
    /// Who takes over; empty for anybody.
    pub(super) candidate: &'a str,
    /// When, in ISO 8601.
    pub(super) scheduled_at: Option<String>,
    /// The body of the request.
    pub(super) body: Value,
}

/// The cluster's settings.
pub(super) fn settings(cluster: &Cluster) -> DynamicSettings {
    let empty = Map::new();
    DynamicSettings::read(cluster.config.as_ref().map_or(&empty, |config| &config.value))
}

/// Who may take over, sorted.
///
/// # Errors
/// Nobody may.
pub(super) fn candidates(cluster: &Cluster, action: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = cluster
        .members
        .iter()
        .filter(|member| !cluster.is_leader(&member.name) && !member.data.tags().nofailover())
        .map(|member| member.name.0.clone())
        .collect();
    names.sort();
    if names.is_empty() { Err(anyhow!("No candidates found to {action} to")) } else { Ok(names) }
}

/// The candidate that was given, or the answer to the question; empty for anybody.
pub(super) async fn ask_candidate(
    context: &Context,
    names: &[String],
    given: Option<String>,
    force: bool,
) -> Result<String> {
    match given {
        Some(candidate) => Ok(candidate),
        None if force => Ok(String::new()),
        None => {
            let list = ptarmigan_types::scalar::python_str(&names.into());
            context.console.prompt(&format!("Candidate {list}"), "").await
        }
    }
}

/// # Errors
/// The candidate leads already, does not exist, or must not lead.
pub(super) fn check_candidate(
    session: &Session,
    cluster: &Cluster,
    names: &[String],
    candidate: &str,
) -> Result<()> {
    if candidate.is_empty() || names.iter().any(|name| name == candidate) {
        return Ok(());
    }
    if cluster.is_leader(&candidate.into()) {
        bail!("Member {candidate} is already the leader of cluster {}", session.name);
    }
    bail!("Member {candidate} does not exist in cluster {} or is tagged as nofailover", session.name)
}

/// Asks the leader, or the candidate where there is none; where that cannot be asked, writes the wish into the DCS.
///
/// # Errors
/// Neither is possible. That a member refuses is no error (contract C.1).
pub(super) async fn carry_out(
    context: &Context,
    session: &Session,
    cluster: &Cluster,
    wish: &Wish<'_>,
) -> Result<()> {
    let action = wish.action;
    match ask(context, cluster, wish).await {
        Ok(answer) if answer.is_dcs_unreachable => {
            fall_back(context, session, wish, "the member cannot reach the DCS").await?;
        }
        Ok(answer) if matches!(answer.status, 200 | 202) => {
            context.console.line(format!("{} {}", moment::timestamp_long(), answer.body))?;
        }
        Ok(Answer { status, body, .. }) => {
            let is_unknown = body.to_lowercase().contains("status unknown");
            let outcome = if is_unknown { "result unknown" } else { "failed" };
            let title = if action == "failover" { "Failover" } else { "Switchover" };
            return context.console.line(format!("{title} {outcome}, details: {status}, {body}"));
        }
        Err(error) => fall_back(context, session, wish, &error.to_string()).await?,
    }
    context.show(session, &session.view().await?)
}

async fn ask(context: &Context, cluster: &Cluster, wish: &Wish<'_>) -> Result<Answer, rest::Error> {
    let candidate = MemberName::from(wish.candidate);
    let name = cluster.leader_name().unwrap_or(&candidate);
    let member =
        cluster.member(name).ok_or_else(|| rest::Error(format!("member {name} publishes nothing")))?;
    let client = context.client().map_err(|error| rest::Error(format!("{error:#}")))?;
    let answer = client.call(member, Method::POST, wish.action, Some(&wish.body)).await?;
    if answer.status == 501 && wish.action == "switchover" && answer.body.contains(UNSUPPORTED) {
        return client.call(member, Method::POST, "failover", Some(&wish.body)).await;
    }
    Ok(answer)
}

async fn fall_back(context: &Context, session: &Session, wish: &Wish<'_>, reason: &str) -> Result<()> {
    let action = wish.action;
    tracing::warn!("{action} by REST is not possible: {reason}");
    let now = moment::timestamp_long();
    context.console.line(format!("{now} Could not {action} using Patroni api, falling back to DCS"))?;
    let value = Failover::to_json(wish.leader, Some(wish.candidate), wish.scheduled_at.as_deref());
    session.write(&Key::Failover, &value, Condition::Always).await?;
    Ok(())
}
