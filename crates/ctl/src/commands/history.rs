//! `history`: the finished timelines (contract C.5).

use anyhow::Result;
use ptarmigan_types::Cluster;
use serde_json::Value;

use crate::{
    cli::History,
    output::{Column, Rows},
    session::{Context, NoGroup},
};

pub(super) async fn run(context: &Context, options: History) -> Result<()> {
    let session =
        context.open(options.cluster.cluster.as_deref(), options.cluster.group, NoGroup::Configured)?;
    let cluster = session.view().await?;
    context.console.write(&rows(&cluster).render(options.format))
}

/// Missing cells are empty texts, also in JSON.
pub(super) fn rows(cluster: &Cluster) -> Rows {
    let entries = cluster.history.as_ref().and_then(|history| history.entries.as_ref());
    let text = |text: &Option<String>| Value::from(text.clone().unwrap_or_default());
    let rows = entries
        .into_iter()
        .flatten()
        .map(|entry| {
            vec![
                entry.timeline.into(),
                entry.lsn.0.into(),
                entry.reason.clone().into(),
                text(&entry.timestamp),
                text(&entry.new_leader),
            ]
        })
        .collect();
    let columns = [Column::right("TL"), Column::right("LSN")];
    let texts = ["Reason", "Timestamp", "New Leader"].map(Column::left);
    Rows { columns: columns.into_iter().chain(texts).collect(), rows, title: None }
}
