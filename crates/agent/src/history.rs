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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;

    async fn stored(fixture: &Fixture) -> Option<String> {
        fixture.cluster().await.history.map(|history| history.to_json())
    }

    #[tokio::test]
    async fn b_24_first_timeline_has_no_history() {
        let fixture = Fixture::new();
        fixture.look().await;
        assert_eq!(update(&fixture.node, 1).await, Outcome::Done);
        assert_eq!(stored(&fixture).await, None, "an absent key stays absent");
        fixture.put(Key::History, r#"[[1,100,"no recovery target specified"]]"#).await;
        fixture.look().await;
        assert_eq!(update(&fixture.node, 1).await, Outcome::Done);
        assert_eq!(stored(&fixture).await.as_deref(), Some("[]"), "a new cluster under an old name");
    }

    #[tokio::test]
    async fn b_24_local_file_is_merged() {
        let fixture = Fixture::new();
        let wal = fixture.folder.path().join("data/pg_wal");
        std::fs::create_dir_all(&wal).unwrap();
        let file = "1\t0/64\tno recovery target specified\n\n2\t0/C8\tno recovery target specified\n";
        std::fs::write(wal.join("00000003.history"), file).unwrap();
        let old = r#"[[1,100,"no recovery target specified","2026-01-02T03:04:05+00:00","b"]]"#;
        fixture.put(Key::History, old).await;
        fixture.look().await;
        assert_eq!(update(&fixture.node, 3).await, Outcome::Done);
        let text = stored(&fixture).await.unwrap();
        assert!(text.starts_with(old.trim_end_matches(']')), "time and name of the first stay: {text}");
        let history = fixture.cluster().await.history.unwrap();
        let last = history.entries.unwrap().pop().unwrap();
        assert_eq!(
            (last.timeline, last.new_leader.as_ref().map(|name| name.as_str().to_owned())),
            (2, Some("a".into()))
        );
        fixture.look().await;
        assert_eq!(update(&fixture.node, 3).await, Outcome::Done);
        assert_eq!(stored(&fixture).await, Some(text), "it fits, nothing is written");
    }
}
