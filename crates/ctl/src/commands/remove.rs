//! `remove`: all keys of a cluster leave the DCS (contract C.5).

use anyhow::{Result, bail};

use crate::{
    cli::Remove,
    session::{Context, NoGroup},
};

/// What has to be typed, exactly.
const CONSENT: &str = "Yes I am aware";

pub(super) async fn run(context: &Context, options: Remove) -> Result<()> {
    let session = context.open(Some(&options.cluster), options.group, NoGroup::Refused)?;
    let cluster = session.view().await?;
    context.show_as(&session, &cluster, options.format)?;
    let name = &session.name;
    if context.console.ask("Please confirm the cluster name to remove").await? != *name {
        bail!("Cluster names specified do not match");
    }
    let question =
        format!("You are about to remove all information in DCS for {name}, please type: \"{CONSENT}\"");
    if context.console.ask(&question).await? != CONSENT {
        bail!("You did not exactly type \"{CONSENT}\"");
    }
    if let Some(leader) = cluster.leader_name() {
        let question = "This cluster currently is healthy. Please specify the leader name to continue";
        if context.console.ask(question).await? != leader.as_str() {
            bail!("You did not specify the current leader of the cluster");
        }
    }
    session.delete_all().await
}
