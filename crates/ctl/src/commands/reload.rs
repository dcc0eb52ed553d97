//! `reload`: members read their configuration again (contract C.5).

use std::time::Duration;

use anyhow::{Context as _, Result};
use ptarmigan_types::{Cluster, scalar};
use reqwest::Method;

use super::{confirm_members, report_failure, select};
use crate::{
    cli::Reload,
    session::{Context, NoGroup},
};

pub(super) async fn run(context: &Context, options: Reload) -> Result<()> {
    let target = options.target;
    let session = context.open(Some(&target.cluster), target.group, NoGroup::Refused)?;
    let cluster = session.view().await?;
    let members = select(context, &session, &cluster, &target.members, options.role)?;
    if !options.force {
        confirm_members(context, "reload", &members, None).await?;
    }
    let wait_s = loop_wait(&cluster, context.config.timing.loop_wait).as_secs();
    for member in &members {
        let name = &member.name;
        let answer = context
            .client()?
            .call(member, Method::POST, "reload", None)
            .await
            .with_context(|| format!("reload of member {name}"))?;
        match answer.status {
            200 => context.console.line(format!("No changes to apply on member {name}"))?,
            202 => context.console.line(format!(
                "Reload request received for member {name} and will be processed within {wait_s} seconds"
            ))?,
            _ => report_failure(context, "reload", member, &answer)?,
        }
    }
    Ok(())
}

/// The cluster's `loop_wait`, `default` where it says nothing.
pub(super) fn loop_wait(cluster: &Cluster, default: Duration) -> Duration {
    let value = cluster.config.as_ref().and_then(|config| config.value.get("loop_wait"));
    let seconds = value.and_then(scalar::python_int).and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(default, Duration::from_secs)
}
