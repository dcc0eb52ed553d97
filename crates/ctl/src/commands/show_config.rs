//! `show-config`: the dynamic configuration as YAML (contract C.5).

use anyhow::Result;
use ptarmigan_config::yaml::to_yaml;
use ptarmigan_types::Cluster;
use serde_json::Value;

use crate::{
    cli::OneCluster,
    session::{Context, NoGroup},
};

pub(super) async fn run(context: &Context, options: OneCluster) -> Result<()> {
    let session = context.open(options.cluster.as_deref(), options.group, NoGroup::Configured)?;
    context.console.write(&text(&session.view().await?))
}

/// Keys sorted, a blank line at the end; nothing where there is no configuration, `{}` where it is garbage.
pub(super) fn text(cluster: &Cluster) -> String {
    cluster
        .config
        .as_ref()
        .map(|config| format!("{}\n", to_yaml(&Value::Object(config.value.clone()))))
        .unwrap_or_default()
}
