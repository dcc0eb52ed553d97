//! `reinit`: members are rebuilt from scratch (contract C.5).

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ptarmigan_types::Member;
use reqwest::Method;
use serde_json::{Value, json};

use super::{confirm_members, member_names, report, select};
use crate::{
    cli::{Reinit, RoleChoice},
    selection,
    session::{Context, NoGroup},
};

/// The end of a body that says that something else is going on (contract A.10).
const BUSY: &str = " already in progress";

/// Between two looks at a member that is being rebuilt.
const WAIT_INTERVAL: Duration = Duration::from_secs(2);

pub(super) async fn run(context: &Context, options: Reinit) -> Result<()> {
    let target = &options.target;
    let session = context.open(Some(&target.cluster), target.group, NoGroup::Refused)?;
    let cluster = session.view().await?;
    let replicas = select(context, &session, &cluster, &[], RoleChoice::Replica)?;
    let names = match target.members.as_slice() {
        [] if options.force => return Ok(()),
        [] => {
            let all = member_names(&replicas);
            let question = format!("Which member do you want to reinitialize [{all}]?");
            let name = context.console.prompt(&question, "").await?;
            if cluster.member(&name.as_str().into()).is_none() {
                bail!("{name} is not a member of cluster");
            }
            vec![name]
        }
        names => names.to_vec(),
    };
    let members = selection::by_name(replicas, &names, "replica")?;
    if !options.force {
        confirm_members(context, "reinitialize", &members, None).await?;
    }
    let mut started = Vec::new();
    for member in members {
        if start(context, &member, &options).await? && options.wait {
            started.push(member);
        }
    }
    wait(context, started).await
}

/// True where the member began.
async fn start(context: &Context, member: &Member, options: &Reinit) -> Result<bool> {
    let mut force = options.force;
    loop {
        let body = json!({"force": force, "from_leader": options.from_leader});
        let answer = context
            .client()?
            .call(member, Method::POST, "reinitialize", Some(&body))
            .await
            .with_context(|| format!("reinitialize of member {}", member.name))?;
        let has_started = report(context, "reinitialize", member, &answer)?;
        if has_started || force || !answer.body.ends_with(BUSY) {
            return Ok(has_started);
        }
        if !context.console.confirm("Do you want to cancel it and reinitialize anyway?").await? {
            return Ok(false);
        }
        force = true;
    }
}

async fn wait(context: &Context, mut members: Vec<Member>) -> Result<()> {
    let mut shown = 0;
    while !members.is_empty() {
        if shown != members.len() {
            let names = member_names(&members);
            context.console.line(format!("Waiting for reinitialize to complete on: {names}"))?;
            shown = members.len();
        }
        tokio::time::sleep(WAIT_INTERVAL).await;
        let mut left = Vec::new();
        for member in members {
            if is_creating(context, &member).await? {
                left.push(member);
            } else {
                context.console.line(format!("Reinitialize is completed on: {}", member.name))?;
            }
        }
        members = left;
    }
    Ok(())
}

async fn is_creating(context: &Context, member: &Member) -> Result<bool> {
    let answer = context.client()?.call(member, Method::GET, "patroni", None).await;
    let answer = answer.with_context(|| format!("state of member {}", member.name))?;
    match serde_json::from_str::<Value>(&answer.body) {
        Ok(document) => Ok(document.get("state").and_then(Value::as_str) == Some("creating replica")),
        Err(error) => bail!("state of member {}: {error}", member.name),
    }
}
