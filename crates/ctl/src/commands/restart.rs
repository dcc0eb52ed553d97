//! `restart`: members restart their PostgreSQL, now or later (contract C.5).

use anyhow::{Context as _, Result, bail};
use ptarmigan_config::DynamicSettings;
use ptarmigan_types::{Cluster, Member, version};
use reqwest::Method;
use serde_json::{Map, Value};

use super::{confirm, confirm_members, report_failure, select};
use crate::{
    cli::Restart,
    moment,
    session::{Context, NoGroup},
};

pub(super) async fn run(context: &Context, options: Restart) -> Result<()> {
    let target = &options.target;
    let session = context.open(Some(&target.cluster), target.group, NoGroup::Refused)?;
    let cluster = session.view().await?;
    let mut members = select(context, &session, &cluster, &target.members, options.role)?;
    let scheduled_at = ask_when(context, &options).await?;
    // What will be pending at a later moment is decided then.
    if options.pending && scheduled_at.is_none() {
        members.retain(|member| member.data.pending_restart());
    }
    if options.any && !members.is_empty() {
        members = vec![members.swap_remove(fastrand::usize(..members.len()))];
    }
    if !options.force {
        ask(context, &options, &members, scheduled_at.as_deref()).await?;
    }
    let body = body(context, &options, &cluster, scheduled_at).await?;
    for member in &members {
        restart(context, member, &body, options.force).await?;
    }
    Ok(())
}

async fn ask_when(context: &Context, options: &Restart) -> Result<Option<String>> {
    let text = match &options.scheduled {
        None if !options.force => {
            let example = moment::next_hour();
            let question = format!("When should the restart take place (e.g. {example}) ");
            Some(context.console.prompt(&question, "now").await?)
        }
        given => given.clone(),
    };
    moment::parse_scheduled(text.as_deref())
}

async fn ask(context: &Context, options: &Restart, members: &[Member], at: Option<&str>) -> Result<()> {
    match at {
        Some(at) if options.pending => {
            let question = format!(
                "Which members have a pending restart is decided at the scheduled time.\n\
                 Are you sure you want to schedule restart of members with a pending restart at {at}?"
            );
            confirm(context, &question, "Aborted scheduled restart").await
        }
        at => confirm_members(context, "restart", members, at).await,
    }
}

/// The filters and the schedule, in the order of the contract.
async fn body(
    context: &Context,
    options: &Restart,
    cluster: &Cluster,
    scheduled_at: Option<String>,
) -> Result<Value> {
    let version = match &options.pg_version {
        None if !options.force => {
            let question = "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2) ";
            context.console.prompt(question, "").await?
        }
        given => given.clone().unwrap_or_default(),
    };
    let mut body = Map::new();
    if options.pending {
        body.insert("restart_pending".into(), true.into());
    }
    if !version.is_empty() {
        if version::parse_server_version(&version).is_none() {
            bail!("{version} is not a PostgreSQL version: give X.Y, or X.Y.Z before 10");
        }
        body.insert("postgres_version".into(), version.into());
    }
    if let Some(at) = scheduled_at {
        if is_paused(cluster) {
            bail!("Can't schedule restart in the paused state");
        }
        body.insert("schedule".into(), at.into());
    }
    if let Some(timeout) = &options.timeout {
        body.insert("timeout".into(), timeout.clone().into());
    }
    Ok(Value::Object(body))
}

/// True in maintenance mode.
pub(super) fn is_paused(cluster: &Cluster) -> bool {
    cluster.config.as_ref().is_some_and(|config| DynamicSettings::read(&config.value).pause)
}

async fn restart(context: &Context, member: &Member, body: &Value, force: bool) -> Result<()> {
    let name = &member.name;
    let client = context.client()?;
    let failed = || format!("restart of member {name}");
    if force && body.get("schedule").is_some() && member.data.scheduled_restart().is_some() {
        let answer = client.call(member, Method::DELETE, "restart", None).await.with_context(failed)?;
        if answer.status >= 400 {
            report_failure(context, "flush scheduled restart", member, &answer)?;
        }
    }
    let answer = client.call(member, Method::POST, "restart", Some(body)).await.with_context(failed)?;
    match answer.status {
        200 => context.console.line(format!("Success: restart on member {name}")),
        202 => context.console.line(format!("Success: restart scheduled on member {name}")),
        409 => {
            let line = format!("Failed: another restart is already scheduled on member {name}");
            context.console.line(line)
        }
        _ => report_failure(context, "restart", member, &answer),
    }
}
