//! What the operations share: the pool, our lease, the local copy, and how keys and values look in etcd.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{KeyValue, Txn, TxnOpResponse, TxnResponse};
use ptarmigan_dcs::{Changes, Error, Timing};
use ptarmigan_types::{ClusterPath, Key, LeaseId, MemberName, RawValue, Revision};
use tokio::sync::watch;

use crate::{
    cache::Cache,
    failure::Failure,
    lease::OwnLease,
    nodes::Stamp,
    pool::{Answer, Deadline, Policy, Pool},
};

/// After the lease was refreshed, a race or renewal needs at least so much time (contract A.5).
const TIME_LEFT_MIN: Duration = Duration::from_secs(1);

/// One member's view of one cluster in etcd.
pub(crate) struct Store {
    pub(crate) pool: Arc<Pool>,
    pub(crate) path: ClusterPath,
    pub(crate) name: MemberName,
    /// Our lease; never held across an await.
    pub(crate) lease: Mutex<Option<OwnLease>>,
    /// One refresh at a time.
    pub(crate) refreshing: tokio::sync::Mutex<()>,
    cache: Mutex<Cache>,
    /// Wakes who waits for the copy to become usable, and the watch when a rebuild is demanded.
    pub(crate) cache_moved: watch::Sender<u64>,
    pub(crate) changes: watch::Sender<Changes>,
}

/// The outcome of a transaction.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The conditions held.
    pub(crate) applied: bool,
    /// The key after the transaction.
    pub(crate) key: Option<RawValue>,
    /// What was read before that one.
    pub(crate) beside: Vec<RawValue>,
    /// The store's revision.
    pub(crate) revision: Revision,
    /// See [`Answer::repeated`].
    pub(crate) repeated: bool,
}

impl Store {
    pub(crate) fn new(pool: Arc<Pool>, path: ClusterPath, name: MemberName) -> Self {
        Self {
            pool,
            path,
            name,
            lease: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
            cache: Mutex::default(),
            cache_moved: watch::Sender::new(0),
            changes: watch::Sender::new(Changes::default()),
        }
    }

    pub(crate) fn timing(&self) -> Timing {
        self.pool.timing()
    }

    /// The budget of one operation.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.timing().retry_timeout)
    }

    pub(crate) fn leader_path(&self) -> String {
        self.path.key(&Key::Leader)
    }

    /// Fails where a race or renewal would have less than a second left, or a quarter of a `retry_timeout` below the contract's.
    pub(crate) fn enough_time(&self, deadline: Deadline) -> Result<(), Error> {
        if deadline.remaining() < TIME_LEFT_MIN.min(self.timing().retry_timeout / 4) {
            return Err(Error::Unreachable("too little time left after the lease was refreshed".into()));
        }
        Ok(())
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the copy, then wakes who waits for changes.
    pub(crate) fn update(&self, update: impl FnOnce(&mut Cache, &mut Changes)) {
        self.changes.send_if_modified(|changes| {
            let before = *changes;
            update(&mut self.cache(), changes);
            *changes != before
        });
    }

    /// Makes the copy unusable until it was rebuilt.
    pub(crate) fn demand_rebuild(&self) {
        self.cache().demand_rebuild();
        self.cache_moved.send_modify(|count| *count += 1);
    }

    /// Shows an own write at once.
    pub(crate) fn show_put(&self, key: &Key, raw: RawValue) {
        self.update(|cache, changes| {
            cache.put(&key.relative(), raw, changes);
        });
    }

    /// Shows an own delete at once.
    pub(crate) fn show_delete(&self, key: &Key, revision: Revision) {
        self.update(|cache, changes| {
            cache.remove_own(&key.relative(), revision, changes);
        });
    }

    /// Runs a transaction whose branches end with a read of the key that it is about.
    pub(crate) async fn transact(
        &self,
        deadline: Deadline,
        policy: Policy,
        transaction: Txn,
    ) -> Result<Outcome, Failure> {
        let Answer { value, repeated } = self
            .pool
            .call(deadline, policy, |mut client| {
                let transaction = transaction.clone();
                async move {
                    let answer = client.txn(transaction).await?;
                    let stamp = Stamp::of(answer.header());
                    Ok((answer, stamp))
                }
            })
            .await?;
        let revision = Stamp::of(value.header()).map_or(0, |stamp| stamp.revision);
        let mut reads = keys_read(&value);
        let key = reads.pop().flatten();
        let beside = reads.into_iter().flatten().collect();
        Ok(Outcome { applied: value.succeeded(), key, beside, revision, repeated })
    }
}

fn keys_read(answer: &TxnResponse) -> Vec<Option<RawValue>> {
    let reads = answer.op_responses().into_iter().filter_map(|response| match response {
        TxnOpResponse::Get(read) => Some(read.kvs().first().map(raw_value)),
        _ => None,
    });
    reads.collect()
}

/// A key as etcd returned it.
pub(crate) fn raw_value(kv: &KeyValue) -> RawValue {
    RawValue {
        value: String::from_utf8_lossy(kv.value()).into_owned(),
        revision: from_i64(kv.mod_revision()),
        create_revision: from_i64(kv.create_revision()),
        lease: (kv.lease() != 0).then(|| lease_id(kv.lease())),
    }
}

/// As `etcdctl lease list` prints it.
pub(crate) fn lease_id(id: i64) -> LeaseId {
    LeaseId(format!("{id:016x}"))
}

/// Revisions and such are signed on the wire and never negative.
pub(crate) fn from_i64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// For comparisons; a number beyond etcd's range compares unequal to everything.
pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::EtcdSettings;

    /// No etcd behind it and no watch: what it shows comes from own writes alone.
    fn alone() -> Store {
        let second = Duration::from_secs(1);
        let timing = Timing { ttl: second, loop_wait: second, retry_timeout: second };
        let pool = Arc::new(Pool::new(EtcdSettings::default(), timing));
        Store::new(pool, ClusterPath::new("service", "demo"), "a".into())
    }

    fn leader_key(revision: Revision) -> RawValue {
        RawValue { value: "a".into(), revision, create_revision: revision, lease: None }
    }

    #[tokio::test]
    async fn own_writes_are_shown_before_the_watch_brings_them() {
        let store = alone();
        let mut woken = store.changes.subscribe();
        store.cache().follow(0);
        store.show_put(&Key::Leader, leader_key(7));
        assert!(store.view_watched().await.unwrap().cluster.is_leader(&"a".into()));
        assert!(woken.has_changed().unwrap());
        woken.mark_unchanged();
        store.show_put(&Key::Leader, leader_key(7));
        assert!(!woken.has_changed().unwrap(), "the same news twice");
        store.show_delete(&Key::Leader, 8);
        assert!(store.view_watched().await.unwrap().cluster.is_unlocked());
        assert_eq!(woken.borrow_and_update().leader, 2);
    }

    #[tokio::test]
    async fn a_5_a_view_waits_for_the_rebuild_and_then_fails() {
        let store = Arc::new(alone());
        store.cache().follow(0);
        store.demand_rebuild();
        let before = ptarmigan_clock::now();
        assert!(matches!(store.view_watched().await, Err(Error::Unreachable(_))));
        assert!(ptarmigan_clock::now().since(before) >= store.timing().retry_timeout);
        let rebuilt = async {
            tokio::task::yield_now().await;
            store.cache().follow(1);
            store.cache_moved.send_modify(|count| *count += 1);
        };
        let (view, ()) = tokio::join!(store.view_watched(), rebuilt);
        assert!(view.is_ok());
    }

    #[tokio::test]
    async fn a_5_a_race_needs_a_second_after_the_lease() {
        let store = alone();
        for (retry_timeout_s, too_little, enough) in [(10, 900, 1500), (4, 900, 1500), (1, 200, 300)] {
            let retry_timeout = Duration::from_secs(retry_timeout_s);
            store.pool.set_timing(Timing { retry_timeout, ..store.timing() });
            let left = |millis| store.enough_time(Deadline::after(Duration::from_millis(millis)));
            assert!(left(too_little).is_err() && left(enough).is_ok(), "{retry_timeout_s}");
        }
    }
}
