//! The task that keeps the local copy: a range read, then a watch from the next revision, again whenever it breaks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use etcd_client::{Event, EventType, WatchOptions, WatchResponse, WatchStream};
use ptarmigan_dcs::{Changes, Error, View};

use crate::{
    cache::Cache,
    nodes::{Connection, Stamp},
    store::{Store, from_i64, raw_value, to_i64},
};

/// Pause after a watch that could not be set up; each next one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Runs until it is aborted.
pub(crate) async fn run(store: Arc<Store>) {
    let mut pause = PAUSE_MIN;
    loop {
        let mut followed = false;
        let reason = follow(&store, &mut followed).await;
        store.cache().lose();
        match reason {
            Ok(()) => tracing::debug!("rebuilding the local copy of the cluster"),
            Err(error) => tracing::debug!(%error, "the watch ended"),
        }
        if followed {
            pause = PAUSE_MIN;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Loads the copy and follows the watch. `Ok`: a rebuild is wanted; `Err`: the watch broke.
async fn follow(store: &Store, followed: &mut bool) -> Result<(), String> {
    let mut switched = store.pool.switched();
    let mut moved = store.cache_moved.subscribe();
    let demanded = store.cache().demanded();
    let (keys, revision) = store.range().await.map_err(|error| error.to_string())?;
    let keys: BTreeMap<_, _> = keys.into_iter().collect();
    let endpoint = store.pool.current().ok_or("no node answered")?;
    switched.mark_unchanged();
    let opened = open(store, &endpoint, revision + 1);
    let (number, mut stream) = tokio::time::timeout(store.pool.attempt(), opened)
        .await
        .map_err(|_| "the watch was not opened in time")??;
    store.update(|cache, changes| cache.load(revision, keys, changes));
    *followed = store.cache().follow(demanded);
    store.cache_moved.send_modify(|count| *count += 1);
    loop {
        tokio::select! {
            message = stream.message() => {
                let message = message.map_err(|error| error.to_string())?.ok_or("the stream ended")?;
                take(store, &message)?;
            }
            _ = moved.changed() => {
                if store.cache().demanded() != demanded {
                    return Ok(());
                }
            }
            // Requests left the connection that the watch is on: it may be silent for long.
            _ = switched.changed() => {
                if store.pool.answered_by() != Some(number) {
                    return Ok(());
                }
            }
        }
    }
}

/// Opens the watch on the node that answered the range read; returns once etcd confirmed it.
async fn open(store: &Store, endpoint: &str, revision: u64) -> Result<(u64, WatchStream), String> {
    let Connection { number, mut client } =
        store.pool.connection(endpoint).await.map_err(|next| format!("{next:?}"))?;
    let options = WatchOptions::new().with_prefix().with_start_revision(to_i64(revision));
    let mut stream =
        client.watch(store.path.prefix(), Some(options)).await.map_err(|error| error.to_string())?;
    let first = stream.message().await.map_err(|error| error.to_string())?.ok_or("no watch")?;
    if first.canceled() {
        let reason = first.cancel_reason().to_owned();
        // Streams are authenticated when they are opened.
        store.pool.renew_token(&client).await;
        return Err(reason);
    }
    take(store, &first)?;
    Ok((number, stream))
}

/// Applies one message of the watch.
fn take(store: &Store, message: &WatchResponse) -> Result<(), String> {
    if message.canceled() || message.compact_revision() != 0 {
        return Err(format!("canceled: {}", message.cancel_reason()));
    }
    if let Some(stamp) = Stamp::of(message.header())
        && !store.pool.believes(stamp)
    {
        return Err("the node is behind: its raft term is old".into());
    }
    if message.events().is_empty() {
        return Ok(());
    }
    let prefix = store.path.prefix();
    store.update(|cache, changes| {
        for event in message.events() {
            apply(cache, changes, &prefix, event);
        }
    });
    Ok(())
}

fn apply(cache: &mut Cache, changes: &mut Changes, prefix: &str, event: &Event) {
    let Some(kv) = event.kv() else { return };
    let Some(path) = std::str::from_utf8(kv.key()).ok().and_then(|key| key.strip_prefix(prefix)) else {
        return;
    };
    match event.event_type() {
        EventType::Put => cache.put(path, raw_value(kv), changes),
        EventType::Delete => cache.remove(path, from_i64(kv.mod_revision()), changes),
    };
}

impl Store {
    /// The local copy, once it is usable; waits for that up to `retry_timeout`.
    pub(crate) async fn view_watched(&self) -> Result<View, Error> {
        let mut moved = self.cache_moved.subscribe();
        let wait = async {
            loop {
                if let Some(cluster) = self.cache().cluster() {
                    return View { cluster, at: ptarmigan_clock::now() };
                }
                if moved.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(self.timing().retry_timeout, wait)
            .await
            .map_err(|_| Error::Unreachable("the local copy of the cluster cannot be rebuilt".into()))
    }
}
