//! `flush`: takes a scheduled restart or switchover back (contract C.5).

use anyhow::{Context as _, Error, Result};
use ptarmigan_dcs::{Condition, Written};
use ptarmigan_types::Key;
use reqwest::Method;

use super::{confirm_members, leader_first, report, select};
use crate::{
    cli::{Flush, FlushTarget},
    moment,
    session::{Context, NoGroup},
};

pub(super) async fn run(context: &Context, options: Flush) -> Result<()> {
    match options.target().map_err(Error::msg)? {
        FlushTarget::Restart => restart(context, options).await,
        FlushTarget::Switchover => switchover(context, options).await,
    }
}

async fn restart(context: &Context, options: Flush) -> Result<()> {
    let session = context.open(Some(&options.cluster), options.group, NoGroup::Refused)?;
    let cluster = session.view().await?;
    let members = select(context, &session, &cluster, options.members(), options.role)?;
    if !options.force {
        confirm_members(context, "flush", &members, None).await?;
    }
    for member in &members {
        if member.data.scheduled_restart().is_none() {
            context.console.line(format!("No scheduled restart for member {}", member.name))?;
            continue;
        }
        let answer = context
            .client()?
            .call(member, Method::DELETE, "restart", None)
            .await
            .with_context(|| format!("flush scheduled restart of member {}", member.name))?;
        report(context, "flush scheduled restart", member, &answer)?;
    }
    Ok(())
}

async fn switchover(context: &Context, options: Flush) -> Result<()> {
    let session = context.open(Some(&options.cluster), options.group, NoGroup::Refused)?;
    let cluster = session.view().await?;
    let Some(wish) = cluster.failover.as_ref().filter(|wish| wish.scheduled_at.is_some()) else {
        return context.console.line("No pending scheduled switchover");
    };
    for member in leader_first(&cluster) {
        match context.client()?.call(member, Method::DELETE, "switchover", None).await {
            Ok(answer) if matches!(answer.status, 200 | 404) => {
                let outcome = if answer.status == 200 { "Success" } else { "Failed" };
                return context.console.line(format!("{outcome}: {}", answer.body));
            }
            Ok(answer) => context.console.line(format!(
                "Failed: member={}, status_code={}, ({})",
                member.name, answer.status, answer.body
            ))?,
            Err(error) => tracing::warn!("member {} is not accessible: {error}", member.name),
        }
    }
    tracing::warn!("Failing over to DCS");
    let now = moment::timestamp_long();
    let name = &session.name;
    context.console.line(format!("{now} Could not find any accessible member of cluster {name}"))?;
    let written = session.write(&Key::Failover, "{}", Condition::Revision(wish.revision)).await?;
    anyhow::ensure!(matches!(written, Written::Applied(_)), "the switchover was changed meanwhile");
    Ok(())
}
