//! Race, renewal and release of the leader lock (contract A.4, A.6).

use ptarmigan_dcs::{Error, Grant, Verdict};
use ptarmigan_types::{Key, Leader, RawValue, Revision};

use crate::{
    http::{Deadline, Failure, Policy},
    session::OwnSession,
    store::{Outcome, Store, at, held_by, operation, unread, writes},
};

/// A definite error of Consul is a refusal, everything else an error.
fn refusal(failure: Failure) -> Result<Verdict, Error> {
    match failure {
        Failure::Api(text) | Failure::Denied(text) => Ok(Verdict::Refused(text)),
        failure => Err(failure.into()),
    }
}

fn held(session: &OwnSession, create_revision: Revision) -> Verdict {
    Verdict::Held(Grant {
        lease: session.lease_id(),
        sent_at: session.sent_at,
        ttl: session.ttl,
        create_revision,
    })
}

impl Store {
    /// Locks the leader key by our refreshed session. An attempt that was not answered and came through is found by the next
    /// one, which locks what it holds.
    pub(crate) async fn acquire(&self) -> Result<Verdict, Error> {
        let deadline = self.http.deadline();
        let mut session = match self.refresh_session(deadline, true).await {
            Ok(session) => session,
            // However the refresh ended, the key was not touched.
            Err(Failure::Unanswered(text)) => return Err(Error::Unreachable(text)),
            Err(failure) => return refusal(failure),
        };
        match self.ended_early(deadline).await {
            Ok(None) => {}
            Ok(Some((left, reason))) => {
                return Ok(Verdict::Refused(format!(
                    "not before {} s have passed: {reason}",
                    left.as_secs() + 1
                )));
            }
            // Nothing was asked for yet.
            Err(Failure::Unanswered(text)) => return Err(Error::Unreachable(text)),
            Err(failure) => return refusal(failure),
        }
        self.enough_time(deadline)?;
        let mut locked = self.lock_leader(deadline, &session).await;
        if matches!(locked, Err(Failure::InvalidSession(_))) {
            self.drop_session(Some(&session.id));
            session = match self.refresh_session(deadline, true).await {
                Ok(session) => session,
                Err(failure) => return refusal(failure),
            };
            self.enough_time(deadline)?;
            locked = self.lock_leader(deadline, &session).await;
        }
        match locked {
            Ok(Outcome::Applied(keys)) => {
                let key = keys
                    .first()
                    .ok_or_else(|| Error::Indeterminate("the answer to the race has no key".into()))?;
                Ok(held(&session, key.create_revision))
            }
            Ok(Outcome::Refused { what, .. }) => {
                Ok(Verdict::Refused(format!("the leader key is held by another session: {what}")))
            }
            Err(failure) => refusal(failure),
        }
    }

    async fn lock_leader(&self, deadline: Deadline, session: &OwnSession) -> Result<Outcome, Failure> {
        let lock = operation("lock", &self.key(&Key::Leader));
        let lock = held_by(writes(lock, self.name.as_str()), &session.id);
        self.transact(deadline, Policy::UntilDeadline, vec![lock]).await
    }

    /// Renews the session, then compares the key in a read that a majority answers. Repeating any part of it is harmless.
    pub(crate) async fn renew(&self, leader: &Leader) -> Result<Verdict, Error> {
        let deadline = self.http.deadline();
        let session = match self.refresh_session(deadline, true).await {
            Ok(session) => session,
            Err(failure) => return refusal(failure),
        };
        self.enough_time(deadline)?;
        let key = match self.read(deadline, &Key::Leader).await {
            Ok(key) => key,
            Err(failure) => return refusal(failure),
        };
        let key = match self.ours(key, leader) {
            Ok(key) => key,
            Err(reason) => return Ok(Verdict::Refused(reason)),
        };
        if key.lease == Some(session.lease_id()) {
            return Ok(held(&session, leader.create_revision));
        }
        self.adopt_leader(deadline, &key, session).await
    }

    /// The key, where it is the lock that `leader` tells of; else why it is not.
    fn ours(&self, key: Option<RawValue>, leader: &Leader) -> Result<RawValue, String> {
        match key {
            None => Err("the leader key is gone".into()),
            Some(key) if key.value != self.name.0 => {
                Err(format!("the leader key is held by {:?}", key.value))
            }
            Some(key) if key.create_revision != leader.create_revision => {
                Err("the leader key was created anew".into())
            }
            Some(key) => Ok(key),
        }
    }

    /// Moves the key to our session: it is ours, from a former run or a session that was dropped. Nobody can come in between:
    /// unlocking and locking are one transaction, where the contract deletes the key first.
    async fn adopt_leader(
        &self,
        deadline: Deadline,
        key: &RawValue,
        session: OwnSession,
    ) -> Result<Verdict, Error> {
        let path = self.key(&Key::Leader);
        let mut operations = vec![at(operation("check-index", &path), key.revision)];
        if let Some(former) = &key.lease {
            operations.push(held_by(writes(operation("unlock", &path), &key.value), &former.0));
        }
        operations.push(held_by(writes(operation("lock", &path), self.name.as_str()), &session.id));
        match self.transact(deadline, Policy::Once, operations).await {
            Ok(Outcome::Applied(keys)) => {
                let create_revision = keys.last().map_or(key.create_revision, |key| key.create_revision);
                Ok(held(&session, create_revision))
            }
            Ok(Outcome::Refused { what, .. }) => {
                Ok(Verdict::Refused(format!("the leader key changed meanwhile: {what}")))
            }
            Err(failure) => {
                if matches!(failure, Failure::InvalidSession(_)) {
                    self.drop_session(Some(&session.id));
                }
                refusal(failure)
            }
        }
    }

    pub(crate) async fn release(&self, leader: &Leader) -> Result<bool, Error> {
        let deadline = self.http.deadline();
        let path = self.key(&Key::Leader);
        loop {
            let key = self.read(deadline, &Key::Leader).await.map_err(unread)?;
            let Ok(key) = self.ours(key, leader) else { return Ok(false) };
            let check = at(operation("check-index", &path), key.revision);
            match self.transact(deadline, Policy::Once, vec![check, operation("delete", &path)]).await? {
                Outcome::Applied(_) => return Ok(true),
                // It was written meanwhile, as a renewal does that moves it to another session: it may be ours all the same.
                Outcome::Refused { .. } => {}
            }
        }
    }
}
