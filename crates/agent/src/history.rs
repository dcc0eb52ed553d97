//! `/history`: how the timelines came about (contract B.24).

use jiff::tz::TimeZone;
use ptarmigan_dcs::{Condition, Written};
use ptarmigan_ha::Outcome;
use ptarmigan_postgres::history;
use ptarmigan_types::{History, Key, Timeline};

use crate::node::Node;

/// Brings the key up to date for the timeline that this primary runs on.
pub async fn update(node: &Node, timeline: Timeline) -> Outcome {
    let old = node.known().view.as_ref().and_then(|view| view.cluster.history.clone());
    let entries = if history::is_to_be_emptied(timeline, old.as_ref()) {
        Vec::new()
    } else if history::needs_update(timeline, old.as_ref()) {
        match local_entries(node, timeline, old.as_ref()) {
            Ok(Some(entries)) => entries,
            Ok(None) => return Outcome::Done,
            Err(error) => {
                tracing::warn!("/history is not updated: {error}");
                return Outcome::Failed(error.to_string());
            }
        }
    } else {
        return Outcome::Done;
    };
    let text = History { entries: Some(entries), revision: 0 }.to_json();
    match node.dcs.write(&Key::History, &text, Condition::Always).await {
        Ok(Written::Applied(_)) => Outcome::Done,
        Ok(Written::Conflict) => Outcome::Refused("/history was changed by somebody else".into()),
        Err(error) => {
            tracing::warn!("cannot write /history: {error}");
            Outcome::Failed(error.to_string())
        }
    }
}

fn local_entries(
    node: &Node,
    timeline: Timeline,
    old: Option<&History>,
) -> Result<Option<Vec<ptarmigan_types::HistoryEntry>>, history::Error> {
    let Some(local) = history::read_local(&node.postgres.data_dir(), timeline)? else { return Ok(None) };
    let lines = node.configuration.with(|settings| settings.global.max_timelines_history);
    Ok(history::merged(&local, old, lines, &node.name, &TimeZone::system()))
}
