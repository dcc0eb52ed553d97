//! Race, renewal and release of the leader lock (contract A.4, A.5 "Error classes").

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use ptarmigan_dcs::{Beside, Error, Grant, Verdict};
use ptarmigan_types::{Key, Leader, RawValue, Revision};

use crate::{
    failure::Failure,
    lease::OwnLease,
    pool::{Deadline, Policy},
    store::{Outcome, Store, lease_id, to_i64},
    writes::{put_on, read},
};

/// A definite error of etcd is a refusal, everything else an error.
fn refusal(failure: Failure) -> Result<Verdict, Error> {
    match failure.refusal() {
        Some(text) => Ok(Verdict::Refused(text.to_owned())),
        None => Err(failure.into()),
    }
}

fn held(lease: OwnLease, create_revision: Revision) -> Verdict {
    Verdict::Held(Grant {
        lease: lease_id(lease.id),
        sent_at: lease.sent_at,
        ttl: lease.ttl,
        create_revision,
    })
}

impl Store {
    /// Creates the leader key on our refreshed lease. Where an unanswered attempt came through, the key that the next
    /// one finds has our name and lease.
    pub(crate) async fn acquire(&self) -> Result<Verdict, Error> {
        let deadline = self.deadline();
        let mut lease = match self.refresh_lease(deadline, true).await {
            Ok(lease) => lease,
            // However the refresh ended, the key was not touched.
            Err(Failure::Unanswered(text)) => return Err(Error::Unreachable(text)),
            Err(failure) => return refusal(failure),
        };
        self.enough_time(deadline)?;
        let mut created = self.create_leader(deadline, lease).await;
        if created.as_ref().is_err_and(Failure::is_lease_not_found) {
            self.drop_lease(Some(lease.id));
            lease = match self.refresh_lease(deadline, true).await {
                Ok(lease) => lease,
                Err(failure) => return refusal(failure),
            };
            self.enough_time(deadline)?;
            created = self.create_leader(deadline, lease).await;
        }
        let outcome = match created {
            Ok(outcome) => outcome,
            Err(failure) => return refusal(failure),
        };
        let Some(raw) = outcome.key else {
            return Err(Error::Indeterminate("the answer to the race has no key".into()));
        };
        let ours = raw.value == self.name.0 && raw.lease == Some(lease_id(lease.id));
        if !ours {
            self.demand_rebuild();
            return Ok(Verdict::Refused(format!("the leader key is held by {:?}", raw.value)));
        }
        let verdict = held(lease, raw.create_revision);
        self.show_put(&Key::Leader, raw);
        Ok(verdict)
    }

    async fn create_leader(&self, deadline: Deadline, lease: OwnLease) -> Result<Outcome, Failure> {
        let key = self.leader_path();
        let transaction = Txn::new()
            .when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)])
            .and_then([put_on(&key, self.name.as_str(), lease.id), read(&key)])
            .or_else([read(&key)]);
        self.transact(deadline, Policy::UntilDeadline, transaction).await
    }

    /// Keeps the lease alive, then compares the key, and where it is ours writes what goes beside it. Repeating any part of it is
    /// harmless: a lost answer is made good by the next attempt. Says too whether what goes beside it was written.
    pub(crate) async fn renew(&self, leader: &Leader, beside: &Beside) -> Result<(Verdict, bool), Error> {
        let unwritten = |verdict| (verdict, false);
        let deadline = self.deadline();
        let lease = match self.refresh_lease(deadline, true).await {
            Ok(lease) => lease,
            Err(failure) => return refusal(failure).map(unwritten),
        };
        self.enough_time(deadline)?;
        let mut compared = self.compare_leader(deadline, leader, lease, beside).await;
        let mut written = true;
        if *beside != Beside::default() && compared.as_ref().is_err_and(|failure| failure.refusal().is_some())
        {
            // A store that takes no writes (no space left, no leave) may hold the lock all the same.
            written = false;
            compared = self.compare_leader(deadline, leader, lease, &Beside::default()).await;
        }
        let outcome = match compared {
            Ok(outcome) => outcome,
            Err(failure) => return refusal(failure).map(unwritten),
        };
        if outcome.applied {
            for (key, raw) in self.keys_beside(beside).into_iter().zip(outcome.beside) {
                self.show_put(&key, raw);
            }
            return Ok((held(lease, leader.create_revision), written));
        }
        if let Some(reason) = self.why_not_ours(outcome.key.as_ref(), leader) {
            return Ok(unwritten(Verdict::Refused(reason)));
        }
        self.adopt_leader(deadline, leader, lease).await.map(unwritten)
    }

    async fn compare_leader(
        &self,
        deadline: Deadline,
        leader: &Leader,
        lease: OwnLease,
        beside: &Beside,
    ) -> Result<Outcome, Failure> {
        let key = self.leader_path();
        let mut compares = self.leader_compares(leader);
        compares.push(Compare::lease(key.as_str(), CompareOp::Equal, lease.id));
        let mut operations = Vec::new();
        if let Some(status) = &beside.status {
            let path = self.path.key(&Key::Status);
            operations.extend([put_on(&path, status, 0), read(&path)]);
        }
        if let Some(member) = &beside.member {
            let path = self.path.key(&Key::Member(self.name.clone()));
            operations.extend([put_on(&path, member, lease.id), read(&path)]);
        }
        // A transaction without a read would be answered by a node that fell behind; with one it is linearizable.
        operations.push(read(&key));
        let transaction = Txn::new().when(compares).and_then(operations).or_else([read(&key)]);
        self.transact(deadline, Policy::UntilDeadline, transaction).await
    }

    /// In the order of their operations.
    fn keys_beside(&self, beside: &Beside) -> Vec<Key> {
        let status = beside.status.as_ref().map(|_| Key::Status);
        let member = beside.member.as_ref().map(|_| Key::Member(self.name.clone()));
        status.into_iter().chain(member).collect()
    }

    /// Puts the key again on our lease: it is ours, from a former run or a lease that was dropped.
    async fn adopt_leader(
        &self,
        deadline: Deadline,
        leader: &Leader,
        mut lease: OwnLease,
    ) -> Result<Verdict, Error> {
        let mut put = self.put_leader_again(deadline, leader, lease).await;
        if put.as_ref().is_err_and(Failure::is_lease_not_found) {
            self.drop_lease(Some(lease.id));
            lease = match self.refresh_lease(deadline, true).await {
                Ok(lease) => lease,
                Err(failure) => return refusal(failure),
            };
            self.enough_time(deadline)?;
            put = self.put_leader_again(deadline, leader, lease).await;
        }
        match put {
            Ok(Outcome { applied: true, key: Some(raw), .. }) => {
                self.show_put(&Key::Leader, raw);
                Ok(held(lease, leader.create_revision))
            }
            Ok(outcome) => {
                let reason = self.why_not_ours(outcome.key.as_ref(), leader);
                Ok(Verdict::Refused(reason.unwrap_or_else(|| "the leader key changed meanwhile".into())))
            }
            Err(failure) => refusal(failure),
        }
    }

    async fn put_leader_again(
        &self,
        deadline: Deadline,
        leader: &Leader,
        lease: OwnLease,
    ) -> Result<Outcome, Failure> {
        let key = self.leader_path();
        let transaction = Txn::new()
            .when(self.leader_compares(leader))
            .and_then([put_on(&key, self.name.as_str(), lease.id), read(&key)])
            .or_else([read(&key)]);
        self.transact(deadline, Policy::UntilDeadline, transaction).await
    }

    /// Deletes the key that `leader` describes, and no other.
    pub(crate) async fn release(&self, leader: &Leader) -> Result<bool, Error> {
        let key = self.leader_path();
        let transaction = Txn::new()
            .when(self.leader_compares(leader))
            .and_then([TxnOp::delete(key.as_str(), None), read(&key)])
            .or_else([read(&key)]);
        let outcome = self.transact(self.deadline(), Policy::OneNode, transaction).await?;
        // The attempt before this one may have deleted it without an answer.
        let released = outcome.applied || (outcome.repeated && outcome.key.is_none());
        if released {
            self.show_delete(&Key::Leader, outcome.revision);
        } else {
            self.demand_rebuild();
        }
        Ok(released)
    }

    fn leader_compares(&self, leader: &Leader) -> Vec<Compare> {
        let key = self.leader_path();
        vec![
            Compare::value(key.as_str(), CompareOp::Equal, self.name.as_str()),
            Compare::create_revision(key, CompareOp::Equal, to_i64(leader.create_revision)),
        ]
    }

    /// `None` where the key is the one that `leader` describes, apart from its lease.
    fn why_not_ours(&self, raw: Option<&RawValue>, leader: &Leader) -> Option<String> {
        match raw {
            None => Some("the leader key is gone".into()),
            Some(raw) if raw.value != self.name.0 => {
                Some(format!("the leader key is held by {:?}", raw.value))
            }
            Some(raw) if raw.create_revision != leader.create_revision => {
                Some("the leader key was created anew".into())
            }
            Some(_) => None,
        }
    }
}
