//! `demote-cluster` and `promote-cluster`: a cluster becomes a standby cluster, or one of its own (contract C.5).

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use ptarmigan_types::{Cluster, Member, MemberName, Role};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::confirm;
use crate::{
    cli::{DemoteCluster, PromoteCluster},
    moment,
    session::{Context, NoGroup, Session},
};

/// Between two looks at how far it is.
const POLL: Duration = Duration::from_secs(1);

/// What is wanted.
struct Change {
    /// `demot` or `promot`, before `e`, `ed` and `ion`.
    stem: &'static str,
    /// The role of the leader afterwards.
    role: Role,
    /// `standby_cluster` in `/config`; null removes it.
    section: Value,
}

pub(super) async fn demote(context: &Context, options: DemoteCluster) -> Result<()> {
    let section = section(&options);
    if !["host", "port", "restore_command"].iter().any(|key| section.contains_key(*key)) {
        bail!("At least --host, --port or --restore-command should be specified");
    }
    let change = Change { stem: "demot", role: Role::StandbyLeader, section: Value::Object(section) };
    run(context, options.cluster.as_deref(), options.force, &change).await
}

pub(super) async fn promote(context: &Context, options: PromoteCluster) -> Result<()> {
    let change = Change { stem: "promot", role: Role::Primary, section: Value::Null };
    run(context, options.cluster.as_deref(), options.force, &change).await
}

/// Only what was given.
fn section(options: &DemoteCluster) -> Map<String, Value> {
    let values = [
        ("host", options.host.clone().map(Value::from)),
        ("port", options.port.map(Value::from)),
        ("restore_command", options.restore_command.clone().map(Value::from)),
        ("primary_slot_name", options.primary_slot_name.clone().map(Value::from)),
    ];
    let given = values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    given.filter(|(_, value)| *value != json!("") && *value != json!(0)).collect()
}

async fn run(context: &Context, cluster: Option<&str>, force: bool, change: &Change) -> Result<()> {
    let session = context.open(cluster, None, NoGroup::Configured)?;
    let (name, stem) = (&session.name, change.stem);
    let cluster = session.view().await?;
    let Some(leader) = cluster.leader_name().cloned() else {
        bail!("Cluster has no leader, {stem}ion is not possible");
    };
    let member = cluster.member(&leader).ok_or_else(|| anyhow!("the leader {leader} publishes nothing"))?;
    if member.data.role() == Some(change.role) {
        bail!("Cluster is already in the required state");
    }
    context.console.line("Current cluster topology")?;
    context.show(&session, &cluster)?;
    if !force {
        let question = format!("Are you sure you want to {stem}e {name} cluster?");
        confirm(context, &question, &format!("Aborted cluster {stem}ion")).await?;
    }
    patch(context, member, change).await.with_context(|| format!("Failed to {stem}e {name} cluster"))?;
    watch(context, &session, &leader, change).await?;
    context.console.line(format!("{} Cluster is successfully {stem}ed", moment::timestamp_long()))?;
    context.show(&session, &session.view().await?)
}

async fn patch(context: &Context, leader: &Member, change: &Change) -> Result<()> {
    let body = json!({"standby_cluster": change.section});
    let answer = context.client()?.call(leader, Method::PATCH, "config", Some(&body)).await?;
    if answer.status != 200 {
        bail!("/config PATCH status code={}, ({})", answer.status, answer.body);
    }
    Ok(())
}

/// There is no limit: it takes as long as PostgreSQL takes to stop, to archive, or to promote.
async fn watch(context: &Context, session: &Session, old: &MemberName, change: &Change) -> Result<()> {
    loop {
        let cluster = session.view().await?;
        if is_done(&cluster, old, change.role) {
            return Ok(());
        }
        let text = |value: Option<&str>| value.map_or_else(|| "None".to_owned(), |text| format!("'{text}'"));
        let leader = cluster.leader_member();
        let role = leader.and_then(|leader| leader.data.role());
        context.console.line(format!(
            "{} cluster is unlocked: {}, leader role: {}, leader state: {}, previous leader state: {}",
            moment::timestamp_long(),
            if cluster.is_unlocked() { "True" } else { "False" },
            role.map_or("None", Role::as_str),
            text(leader.and_then(state)),
            text(cluster.member(old).and_then(state)),
        ))?;
        tokio::time::sleep(POLL).await;
    }
}

fn is_done(cluster: &Cluster, old: &MemberName, role: Role) -> bool {
    let leads = cluster
        .leader_member()
        .is_some_and(|leader| leader.data.role() == Some(role) && leader.data.is_running());
    // Where the old leader's machine is gone, nothing of it will ever be running.
    leads && cluster.member(old).is_none_or(|old| old.data.is_running())
}

fn state(member: &Member) -> Option<&str> {
    member.data.0.get("state").and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_5_only_what_was_given_is_written() {
        let options = DemoteCluster {
            cluster: None,
            force: false,
            host: Some("10.0.0.1".into()),
            port: Some(5433),
            restore_command: None,
            primary_slot_name: Some("standby".into()),
        };
        let expected = json!({"host": "10.0.0.1", "port": 5433, "primary_slot_name": "standby"});
        assert_eq!(Value::Object(section(&options)), expected);
        let empty = DemoteCluster { host: Some(String::new()), port: Some(0), ..options };
        assert_eq!(Value::Object(section(&empty)), json!({"primary_slot_name": "standby"}));
    }
}
