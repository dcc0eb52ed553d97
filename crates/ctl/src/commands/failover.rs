//! `failover`: a member is promoted whatever the leader says, also where there is none (contract C.5).

use anyhow::{Result, bail};
use serde_json::json;

use super::{
    confirm,
    takeover::{self, Wish},
};
use crate::{
    cli::Failover,
    session::{Context, NoGroup},
};
use ptarmigan_config::SynchronousMode;

pub(super) async fn run(context: &Context, options: Failover) -> Result<()> {
    let session =
        context.open(options.cluster.cluster.as_deref(), options.cluster.group, NoGroup::Refused)?;
    let cluster = session.view().await?;
    context.console.line("Current cluster topology")?;
    context.show(&session, &cluster)?;
    let names = takeover::candidates(&cluster, "failover")?;
    let candidate = takeover::ask_candidate(context, &names, options.candidate, options.force).await?;
    if candidate.is_empty() {
        bail!("Failover could be performed only to a specific candidate");
    }
    takeover::check_candidate(&session, &cluster, &names, &candidate)?;
    if !options.force {
        let is_synchronous = takeover::settings(&cluster).synchronous_mode != SynchronousMode::Off;
        let is_behind = is_synchronous && !cluster.sync.is_empty();
        if is_behind && !cluster.sync.matches_or_leads(&candidate) {
            let question = format!("Are you sure you want to failover to the asynchronous node {candidate}?");
            confirm(context, &question, "Aborting failover").await?;
        }
        let demoting = cluster
            .leader_name()
            .map_or_else(String::new, |leader| format!(", demoting current leader {leader}"));
        let question = format!("Are you sure you want to failover cluster {}{demoting}?", session.name);
        confirm(context, &question, "Aborting failover").await?;
    }
    let body = json!({"candidate": candidate});
    let wish = Wish { action: "failover", leader: None, candidate: &candidate, scheduled_at: None, body };
    takeover::carry_out(context, &session, &cluster, &wish).await
}
