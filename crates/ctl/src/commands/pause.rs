//! `pause` and `resume`: maintenance mode on and off (contract C.5).

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail};
use ptarmigan_config::UnmanagedPrimary;
use ptarmigan_types::{Cluster, Member, MemberName, Revision, Role};
use reqwest::Method;
use serde_json::json;

use super::{leader_first, reload::loop_wait, restart::is_paused, takeover::settings};
use crate::{
    cli::Pause,
    session::{Context, NoGroup, Session},
};

/// How often it is looked at whether the members have noticed.
const POLL: Duration = Duration::from_secs(1);

pub(super) async fn run(context: &Context, options: Pause, paused: bool) -> Result<()> {
    let target = &options.cluster;
    let session = context.open(target.cluster.as_deref(), target.group, NoGroup::Configured)?;
    let cluster = session.view().await?;
    if is_paused(&cluster) == paused {
        bail!("Cluster is {} paused", if paused { "already" } else { "not" });
    }
    if !paused {
        warn_of_unmanaged_primary(context, &cluster).await;
    }
    // Without the value the key is removed.
    let body = json!({"pause": if paused { Some(true) } else { None }});
    for member in leader_first(&cluster) {
        let answer = match context.client()?.call(member, Method::PATCH, "config", Some(&body)).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!("member {} is not accessible: {error}", member.name);
                continue;
            }
        };
        if answer.status == 200 && options.wait {
            return wait(context, &session, &cluster, paused).await;
        }
        return context.console.line(if answer.status == 200 {
            success(paused)
        } else {
            format!(
                "Failed: {} cluster management status code={}, ({})",
                if paused { "pause" } else { "resume" },
                answer.status,
                answer.body
            )
        });
    }
    bail!("Can not find accessible cluster member")
}

fn success(paused: bool) -> String {
    format!("Success: cluster management is {}", if paused { "paused" } else { "resumed" })
}

/// Every member with a REST API must publish it within `loop_wait` and a second. Those that have not written their key
/// since are not waited for any longer, and not told of either: they are not there.
async fn wait(context: &Context, session: &Session, before: &Cluster, paused: bool) -> Result<()> {
    let request = if paused { "pause" } else { "resume" };
    context.console.line(format!("'{request}' request sent, waiting until it is recognized by all nodes"))?;
    let old: BTreeMap<&MemberName, Revision> = before
        .members
        .iter()
        .filter(|member| member.data.api_url().is_some())
        .map(|member| (&member.name, member.revision))
        .collect();
    let limit_s = loop_wait(before, context.config.timing.loop_wait).as_secs();
    let mut late: Vec<String> = Vec::new();
    for _ in 0..=limit_s {
        let cluster = session.view().await?;
        let members = cluster.members.iter().filter(|member| old.contains_key(&member.name));
        let unaware: Vec<&Member> = members.filter(|member| member.data.pause() != paused).collect();
        if unaware.is_empty() {
            return context.console.line(success(paused));
        }
        let written = unaware.iter().filter(|member| old.get(&member.name) != Some(&member.revision));
        late = written.map(|member| member.name.0.clone()).collect();
        tokio::time::sleep(POLL).await;
    }
    if late.is_empty() {
        return context.console.line(success(paused));
    }
    let names = late.join(", ");
    context.console.line(format!("{names} members didn't recognized pause state after {limit_s} seconds"))
}

/// Says which server is still writable without its daemon: it will have another primary beside it (DESIGN, "Failsafe,
/// pause, race"). On standard error: the output stays patronictl's.
async fn warn_of_unmanaged_primary(context: &Context, cluster: &Cluster) {
    let Some(left) = left_behind(context, cluster).await else { return };
    let consequence = match settings(cluster).unmanaged_primary {
        UnmanagedPrimary::Wait => {
            "no replica takes over while it receives WAL from there (unmanaged_primary: wait)"
        }
        UnmanagedPrimary::Promote => "a replica will be promoted beside it",
    };
    context.console.error_text(&format!(
        "Warning: {left}, and may still be writable: once the cluster is resumed, {consequence}.\n\
         Start the daemon of that node, or stop its PostgreSQL.\n"
    ));
}

/// A holder of the lock whose daemon does not answer; or nobody holds it, and replicas still receive WAL.
async fn left_behind(context: &Context, cluster: &Cluster) -> Option<String> {
    if let Some(holder) = cluster.leader_name() {
        let member = cluster.member(holder)?;
        let answers = context.client().ok()?.call(member, Method::GET, "patroni", None).await.is_ok();
        return (!answers).then(|| format!("the daemon of the leader {holder} does not answer"));
    }
    // Its daemon is there, and will take the lock or step down.
    if cluster.members.iter().any(|member| member.data.role() == Some(Role::Primary)) {
        return None;
    }
    let receivers: Vec<&str> = cluster
        .members
        .iter()
        .filter(|member| member.data.replication_state() == Some("streaming"))
        .filter(|member| member.data.tags().replicatefrom().is_none())
        .map(|member| member.name.as_str())
        .collect();
    if receivers.is_empty() {
        return None;
    }
    let entries = cluster.history.as_ref().and_then(|history| history.entries.as_ref());
    let last = entries.and_then(|entries| entries.last()?.new_leader.clone());
    let who = last.map_or_else(|| "a primary".to_owned(), |name| format!("a primary (the last was {name})"));
    Some(format!(
        "nobody holds the leader lock, but {} still receive WAL: {who} runs without its daemon",
        receivers.join(", ")
    ))
}
