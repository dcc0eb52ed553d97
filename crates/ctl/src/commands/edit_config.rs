//! `edit-config`: the dynamic configuration is changed by a file, by key, or in an editor (contract C.5).

mod diff;
mod editor;
mod path;

use anyhow::{Context as _, Result, anyhow, bail};
use ptarmigan_config::yaml;
use ptarmigan_dcs::{Condition, Written};
use ptarmigan_types::{DynamicConfig, Key, merge, pyjson};
use serde_json::{Map, Value};

use crate::{
    cli::EditConfig,
    console::Console,
    session::{Context, NoGroup},
};

/// Standard input as a file's name.
const STDIN: &str = "-";

pub(super) async fn run(context: &Context, options: EditConfig) -> Result<()> {
    let session =
        context.open(options.cluster.cluster.as_deref(), options.cluster.group, NoGroup::Configured)?;
    let cluster = session.view().await?;
    let Some(current) = cluster.config.filter(DynamicConfig::is_valid) else {
        bail!("The config key does not exist in the cluster {}", session.name);
    };
    let before = yaml::to_yaml(&Value::Object(current.value.clone()));
    let changed = match changed_by_options(context.console, &options, &current.value).await? {
        Some(changed) => changed,
        None => mapping("the edited text", &editor::edit(&session.name, &before).await?)?,
    };
    if changed == current.value {
        return if options.quiet { Ok(()) } else { context.console.line("Not changed") };
    }
    if !options.quiet {
        let after = yaml::to_yaml(&Value::Object(changed.clone()));
        diff::show(context.console, &diff::unified(&before, &after)).await?;
    }
    let from_stdin = [&options.apply, &options.replace].iter().any(|file| file.as_deref() == Some(STDIN));
    if from_stdin && !options.force {
        return context.console.line("Use --force option to apply changes");
    }
    if !options.force && !context.console.confirm("Apply these changes?").await? {
        return Ok(());
    }
    let json = pyjson::compact_map(&changed);
    match session.write(&Key::Config, &json, Condition::Revision(current.revision)).await? {
        Written::Applied(_) => context.console.line("Configuration changed"),
        Written::Conflict => bail!("Config modification aborted due to concurrent changes"),
    }
}

/// The configuration after `--replace`, `--apply`, `-s` and `-p`, in this order; `None` where none of them is given.
async fn changed_by_options(
    console: Console,
    options: &EditConfig,
    current: &Map<String, Value>,
) -> Result<Option<Map<String, Value>>> {
    let mut changed = current.clone();
    if let Some(file) = &options.replace {
        changed = read(console, file).await?;
    }
    if let Some(file) = &options.apply {
        merge(&mut changed, &read(console, file).await?);
    }
    for pair in &options.set {
        set(&mut changed, pair, "")?;
    }
    for pair in &options.pg {
        set(&mut changed, pair, "postgresql.parameters.")?;
    }
    let is_given = options.replace.is_some()
        || options.apply.is_some()
        || !options.set.is_empty()
        || !options.pg.is_empty();
    Ok(is_given.then_some(changed))
}

async fn read(console: Console, file: &str) -> Result<Map<String, Value>> {
    let text = if file == STDIN {
        console.read_all().await?
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?
    };
    mapping(if file == STDIN { "standard input" } else { file }, &text)
}

fn mapping(source: &str, text: &str) -> Result<Map<String, Value>> {
    let (map, warnings) = yaml::parse_mapping(text).map_err(|error| anyhow!("{source}: {error}"))?;
    for warning in warnings {
        tracing::warn!("{source}: {warning}");
    }
    Ok(map)
}

/// Applies one `KEY=VALUE`.
fn set(config: &mut Map<String, Value>, pair: &str, prefix: &str) -> Result<()> {
    let Some((key, value)) = pair.split_once('=') else {
        bail!("Invalid parameter setting {pair}: it must be KEY=VALUE");
    };
    let value = yaml::parse(value).map_err(|error| anyhow!("the value of {key}: {error}"))?.value;
    path::set(config, &format!("{prefix}{}", key.trim()), value);
    Ok(())
}

#[cfg(test)]
mod tests;
