//! `switchover`: the leader hands over to a replica, now or later (contract C.5).

use anyhow::{Result, bail};
use serde_json::json;

use super::{
    confirm,
    restart::is_paused,
    takeover::{self, Wish},
};
use crate::{
    cli::Switchover,
    moment,
    session::{Context, NoGroup},
};

pub(super) async fn run(context: &Context, options: Switchover) -> Result<()> {
    let session =
        context.open(options.cluster.cluster.as_deref(), options.cluster.group, NoGroup::Refused)?;
    let cluster = session.view().await?;
    context.console.line("Current cluster topology")?;
    context.show(&session, &cluster)?;
    let Some(current) = cluster.leader_name().map(|name| name.0.clone()) else {
        bail!("This cluster has no leader");
    };
    let is_standby = takeover::settings(&cluster).standby_cluster.is_some();
    let leader = match options.leader {
        Some(leader) => leader,
        None if options.force => current.clone(),
        None => {
            let label = if is_standby { "Standby Leader" } else { "Primary" };
            context.console.prompt(label, &current).await?
        }
    };
    if leader != current {
        bail!("Member {leader} is not the leader of cluster {}", session.name);
    }
    let names = takeover::candidates(&cluster, "switchover")?;
    let candidate = takeover::ask_candidate(context, &names, options.candidate, options.force).await?;
    takeover::check_candidate(&session, &cluster, &names, &candidate)?;
    let when = match options.scheduled {
        None if !options.force => {
            let example = moment::next_hour();
            let question = format!("When should the switchover take place (e.g. {example} ) ");
            Some(context.console.prompt(&question, "now").await?)
        }
        given => given,
    };
    let scheduled_at = moment::parse_scheduled(when.as_deref())?;
    if scheduled_at.is_some() && is_paused(&cluster) {
        bail!("Can't schedule switchover in the paused state");
    }
    if !options.force {
        let name = &session.name;
        let (question, refusal) = match &scheduled_at {
            Some(at) => (format!("schedule switchover of cluster {name} at {at}"), "scheduled switchover"),
            None => (format!("switchover cluster {name}"), "switchover"),
        };
        let question = format!("Are you sure you want to {question}, demoting current leader {current}?");
        confirm(context, &question, &format!("Aborting {refusal}")).await?;
    }
    let mut body = json!({"candidate": candidate, "leader": leader});
    if let Some(at) = &scheduled_at {
        body["scheduled_at"] = at.as_str().into();
    }
    let wish =
        Wish { action: "switchover", leader: Some(&leader), candidate: &candidate, scheduled_at, body };
    takeover::carry_out(context, &session, &cluster, &wish).await
}
