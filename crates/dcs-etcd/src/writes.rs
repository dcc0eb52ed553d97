//! Every other write and delete, with its condition (contract A.4), and the uncached read.

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp};
use ptarmigan_dcs::{Condition, Error, View, Written};
use ptarmigan_types::{Cluster, Key, RawValue, Revision};

use crate::{
    nodes::Stamp,
    pool::{Answer, Policy},
    store::{Outcome, Store, raw_value, to_i64},
};

/// A put on a lease; 0: without one.
pub(crate) fn put_on(key: &str, value: &str, lease: i64) -> TxnOp {
    TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)))
}

/// A linearizable read of one key.
pub(crate) fn read(key: &str) -> TxnOp {
    TxnOp::get(key, None)
}

/// Which writes are repeated until the deadline (contract A.5, "which calls retry").
fn policy(key: &Key) -> Policy {
    match key {
        Key::Initialize | Key::Leader | Key::Sync => Policy::UntilDeadline,
        _ => Policy::OneNode,
    }
}

fn compares(key: &str, condition: Condition) -> Vec<Compare> {
    match condition {
        Condition::Always => vec![],
        Condition::Absent => vec![Compare::create_revision(key, CompareOp::Equal, 0)],
        Condition::Revision(revision) => {
            vec![Compare::mod_revision(key, CompareOp::Equal, to_i64(revision))]
        }
    }
}

/// What a condition that does not hold means after an unanswered attempt: that attempt may have broken it.
fn unclear() -> Error {
    Error::Indeterminate("an unanswered attempt may have been carried out before the key changed".into())
}

impl Store {
    /// Every key of the cluster by a linearizable range read, and the revision it was read at.
    pub(crate) async fn range(&self) -> Result<(Vec<(String, RawValue)>, Revision), Error> {
        let prefix = self.path.prefix();
        let answer = self.pool.call(self.deadline(), Policy::UntilDeadline, |mut client| {
            let prefix = prefix.clone();
            async move {
                let answer = client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
                let stamp = Stamp::of(answer.header());
                Ok((answer, stamp))
            }
        });
        let Answer { value, .. } = answer.await?;
        let revision = Stamp::of(value.header()).map_or(0, |stamp| stamp.revision);
        let keys = value
            .kvs()
            .iter()
            .filter_map(|kv| {
                let path = std::str::from_utf8(kv.key()).ok()?.strip_prefix(&prefix)?;
                Some((path.to_owned(), raw_value(kv)))
            })
            .collect();
        Ok((keys, revision))
    }

    pub(crate) async fn view_fresh(&self) -> Result<View, Error> {
        let at = ptarmigan_clock::now();
        let (keys, _) = self.range().await?;
        let cluster = Cluster::read(keys.iter().map(|(path, raw)| (path.as_str(), raw)));
        Ok(View { cluster, at })
    }

    pub(crate) async fn put_member(&self, json: &str) -> Result<(), Error> {
        let deadline = self.deadline();
        let lease = self.refresh_lease(deadline, false).await?;
        let member = Key::Member(self.name.clone());
        let key = self.path.key(&member);
        let transaction = Txn::new().and_then([put_on(&key, json, lease.id), read(&key)]);
        match self.transact(deadline, Policy::OneNode, transaction).await {
            Ok(outcome) => {
                if let Some(raw) = outcome.key {
                    self.show_put(&member, raw);
                }
                Ok(())
            }
            Err(failure) => {
                if failure.is_lease_not_found() {
                    self.drop_lease(Some(lease.id));
                }
                Err(failure.into())
            }
        }
    }

    pub(crate) async fn write(&self, key: &Key, value: &str, condition: Condition) -> Result<Written, Error> {
        let path = self.path.key(key);
        let transaction = Txn::new()
            .when(compares(&path, condition))
            .and_then([put_on(&path, value, 0), read(&path)])
            .or_else([read(&path)]);
        let outcome = self.transact(self.deadline(), policy(key), transaction).await?;
        match outcome {
            Outcome { applied: true, key: Some(raw), .. } => {
                let revision = raw.revision;
                self.show_put(key, raw);
                Ok(Written::Applied(revision))
            }
            Outcome { applied: true, revision, .. } => Ok(Written::Applied(revision)),
            Outcome { repeated: true, key: Some(raw), .. } if raw.value == value => {
                let revision = raw.revision;
                self.show_put(key, raw);
                Ok(Written::Applied(revision))
            }
            Outcome { repeated, .. } => {
                self.demand_rebuild();
                if repeated { Err(unclear()) } else { Ok(Written::Conflict) }
            }
        }
    }

    pub(crate) async fn delete(&self, key: &Key, condition: Condition) -> Result<Written, Error> {
        let path = self.path.key(key);
        let transaction = Txn::new()
            .when(compares(&path, condition))
            .and_then([TxnOp::delete(path.as_str(), None), read(&path)])
            .or_else([read(&path)]);
        let outcome = self.transact(self.deadline(), policy(key), transaction).await?;
        let gone = outcome.applied || (outcome.repeated && outcome.key.is_none());
        if gone {
            self.show_delete(key, outcome.revision);
            return Ok(Written::Applied(outcome.revision));
        }
        self.demand_rebuild();
        if outcome.repeated { Err(unclear()) } else { Ok(Written::Conflict) }
    }

    pub(crate) async fn delete_cluster(&self) -> Result<(), Error> {
        let prefix = self.path.prefix();
        let answer = self.pool.call(self.deadline(), Policy::UntilDeadline, |mut client| {
            let prefix = prefix.clone();
            async move {
                let answer = client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await?;
                let stamp = Stamp::of(answer.header());
                Ok(((), stamp))
            }
        });
        answer.await?;
        self.demand_rebuild();
        Ok(())
    }
}
