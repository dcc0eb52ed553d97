//! The task that notices changes: one blocking query on the cluster's prefix after the other (contract A.6, "watch", which looks at
//! the leader key alone).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ptarmigan_dcs::Changes;
use ptarmigan_types::RawValue;

use crate::{http::Failure, store::Store};

/// How long Consul may keep a query that has nothing to tell; it adds up to a sixteenth.
const WAIT: Duration = Duration::from_secs(60);

/// What an answer may take beyond that.
const SLACK: Duration = Duration::from_secs(5);

/// Pause after a query that failed; each next one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Runs until it is aborted.
pub(crate) async fn run(store: Arc<Store>) {
    // Whatever there is at the first look is news.
    let mut seen = BTreeMap::new();
    let mut looked = false;
    let mut index = 0;
    let mut pause = PAUSE_MIN;
    loop {
        match look(&store, index).await {
            Ok((keys, now)) => {
                let was_broken = index == 0 && looked;
                store.changes.send_if_modified(|changes| {
                    let before = *changes;
                    note(changes, &seen, &keys);
                    changes.other += u64::from(was_broken);
                    *changes != before
                });
                (seen, looked) = (keys, true);
                // One that goes back is another server's, or Consul's after it was restored: everything is new.
                index = if now < index { 0 } else { now.max(1) };
                pause = PAUSE_MIN;
            }
            Err(failure) => {
                tracing::debug!(?failure, "the watch ended");
                index = 0;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// The keys, and the index at which they were seen; with an `index`, once they have another one.
async fn look(store: &Store, index: u64) -> Result<(BTreeMap<String, RawValue>, u64), Failure> {
    let request = store.read_all(store.http.settings().consistency);
    let (request, limit) = match index {
        0 => (request, store.http.timing().retry_timeout),
        index => {
            let wait = format!("{}s", WAIT.as_secs());
            (request.query("index", index.to_string()).query("wait", wait), WAIT + WAIT / 15 + SLACK)
        }
    };
    let answer = store.http.attempt(limit, &request).await?;
    let keys = store.keys(&answer)?;
    Ok((keys, answer.index))
}

fn note(changes: &mut Changes, before: &BTreeMap<String, RawValue>, after: &BTreeMap<String, RawValue>) {
    for (path, raw) in after {
        // Deleted and created since: another key, whatever its value.
        let known = before.get(path).filter(|known| known.create_revision == raw.create_revision);
        changes.note(path, known.map(|known| &*known.value), Some(&raw.value));
    }
    for (path, raw) in before.iter().filter(|(path, _)| !after.contains_key(*path)) {
        changes.note(path, Some(&raw.value), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[(&str, &str, u64)]) -> BTreeMap<String, RawValue> {
        let raw = |value: &str, create_revision| RawValue {
            value: value.into(),
            revision: 9,
            create_revision,
            lease: None,
        };
        keys.iter().map(|(path, value, created)| ((*path).to_owned(), raw(value, *created))).collect()
    }

    #[test]
    fn what_came_went_or_was_created_anew_has_changed() {
        let before = keys(&[("leader", "a", 1), ("status", "1", 2), ("members/a", "{}", 3)]);
        let mut changes = Changes::default();
        note(&mut changes, &before, &before);
        assert_eq!(changes, Changes::default());
        note(&mut changes, &before, &keys(&[("leader", "a", 4), ("status", "2", 2), ("members/b", "{}", 5)]));
        assert_eq!(changes, Changes { leader: 1, status: 1, members: 2, ..Changes::default() });
    }
}
