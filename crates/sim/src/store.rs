//! The model DCS as its servers behave: revisions, transactions on one key, leases that run out in virtual time, and the log
//! from which watches are served. Knows no members, no network and no queue.

mod history;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ptarmigan_types::{Cluster, LeaseId, Monotonic, RawValue, Revision};

pub use self::history::{Change, History};
use crate::random::Random;

/// How many parsed views are kept: members are rarely further apart.
const VIEWS_MAX: usize = 64;
/// etcd looks for leases that ran out every half a second, in milliseconds.
const ETCD_SLACK_MILLIS: u64 = 700;
/// How long a key cannot be locked after the session that held it was invalidated (contract A.6).
const LOCK_DELAY: Duration = Duration::from_millis(1);

/// Keys below the cluster's prefix; values are shared with log and copies.
pub type Keys = BTreeMap<Arc<str>, Arc<RawValue>>;

/// On what a write depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key is absent.
    Absent,
    /// The key's revision.
    Revision(Revision),
}

/// One comparison of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key is absent.
    Absent,
    /// Its revision.
    Revision(Revision),
    /// Its value.
    Value(String),
    /// When it was created.
    CreateRevision(Revision),
    /// What it hangs on.
    Lease(LeaseId),
}

/// What a transaction does where all comparisons hold.
#[derive(Clone, Debug)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// It writes the key.
    Put {
        /// The value.
        value: String,
        /// What it hangs on.
        lease: Option<LeaseId>,
    },
    /// It deletes the key.
    Delete,
}

/// One request.
#[derive(Clone, Debug)]
pub enum Request {
    /// Renew a lease.
    KeepAlive(LeaseId),
    /// Another lease.
    Grant {
        /// What to ask for: the TTL as it is configured.
        ttl: Duration,
    },
    /// All keys.
    Range {
        /// Linearizable; otherwise Consul's default consistency.
        fresh: bool,
        /// Nothing older than that is answered.
        not_before: Revision,
    },
    /// A transaction on one key; answered with the key as it is then.
    Transaction {
        /// The key.
        key: Arc<str>,
        /// What has to hold.
        compares: Vec<Compare>,
        /// What is done then.
        then: Then,
    },
    /// Delete every key.
    DeleteAll,
}

impl Request {
    /// It is about a lease, not about keys.
    pub const fn is_on_lease(&self) -> bool {
        matches!(self, Self::KeepAlive(_) | Self::Grant { .. })
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A living lease.
    Lease {
        /// Which.
        id: LeaseId,
        /// Its TTL.
        ttl: Duration,
    },
    /// The lease is not there (any more).
    LeaseNotFound,
    /// The transaction's outcome.
    Outcome {
        /// The comparisons held.
        applied: bool,
        /// The key afterwards.
        key: Option<Arc<RawValue>>,
    },
    /// All keys.
    Keys(Keys),
    /// They are gone.
    Deleted,
}

/// A living lease.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// What was granted.
    pub ttl: Duration,
    /// When the store gives it up.
    pub ends: Monotonic,
}

/// What a parsed view shows: everything up to a revision, and single later changes.
pub type Shown = (Revision, Vec<(Revision, Arc<str>)>);

/// The store.
#[derive(Debug, Default)]
pub struct Store {
    /// The keys.
    pub keys: Keys,
    /// The living leases.
    pub leases: BTreeMap<String, Lease>,
    /// What happened, as far as it is kept.
    pub history: History,
    /// It has Consul's timing: half the TTL, which then ends anywhere up to twice as late, and a lock-delay.
    pub consul: bool,
    revision: Revision,
    /// Keys that cannot be locked before that.
    delayed: BTreeMap<Arc<str>, Monotonic>,
    views: BTreeMap<Shown, Arc<Cluster>>,
}

impl Store {
    /// An empty store with etcd's timing or Consul's.
    pub fn new(consul: bool) -> Self {
        Self { consul, ..Self::default() }
    }

    /// The cluster as those keys show it; read once for everybody who sees the same.
    pub fn view(&mut self, shown: Shown, keys: &Keys) -> Arc<Cluster> {
        if let Some(view) = self.views.get(&shown) {
            return view.clone();
        }
        if self.views.len() >= VIEWS_MAX {
            self.views.pop_first();
        }
        let view = Arc::new(Cluster::read(keys.iter().map(|(key, raw)| (&**key, &**raw))));
        self.views.insert(shown, view.clone());
        view
    }

    /// Carries a request out. `stale_max`: by how much a read with Consul's default consistency may be behind.
    pub fn carry_out(
        &mut self,
        now: Monotonic,
        request: &Request,
        stale_max: Duration,
        random: &mut Random,
    ) -> (Answer, Revision) {
        let answer = match request {
            Request::KeepAlive(id) => self.keep_alive(now, id, random),
            Request::Grant { ttl } => self.grant(now, *ttl, random),
            Request::Range { fresh, not_before } => {
                let behind = if *fresh { 0 } else { stale_micros(stale_max, random) };
                let at = Monotonic(now.0.saturating_sub(behind));
                return self.range(at, *not_before);
            }
            Request::Transaction { key, compares, then } => self.transact(now, key, compares, then),
            Request::DeleteAll => {
                let keys: Vec<Arc<str>> = self.keys.keys().cloned().collect();
                keys.iter().for_each(|key| self.remove(key));
                Answer::Deleted
            }
        };
        (answer, self.history.newest())
    }

    fn keep_alive(&mut self, now: Monotonic, id: &LeaseId, random: &mut Random) -> Answer {
        let slack = self.slack(self.leases.get(&id.0).map_or(Duration::ZERO, |lease| lease.ttl), random);
        let Some(lease) = self.leases.get_mut(&id.0) else { return Answer::LeaseNotFound };
        lease.ends = now + lease.ttl + slack;
        Answer::Lease { id: id.clone(), ttl: lease.ttl }
    }

    fn grant(&mut self, now: Monotonic, ttl: Duration, random: &mut Random) -> Answer {
        let ttl = if self.consul { ttl / 2 } else { ttl };
        let ends = now + ttl + self.slack(ttl, random);
        self.revision += 1;
        let id = format!("{:x}", self.revision);
        self.leases.insert(id.clone(), Lease { ttl, ends });
        Answer::Lease { id: LeaseId(id), ttl }
    }

    /// By how much a lease outlives its TTL this time.
    fn slack(&self, ttl: Duration, random: &mut Random) -> Duration {
        if !self.consul {
            return random.millis(0, ETCD_SLACK_MILLIS);
        }
        Duration::from_micros(random.between(0, u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX)))
    }

    fn range(&self, at: Monotonic, not_before: Revision) -> (Answer, Revision) {
        let revision = self.history.revision_at(at).max(not_before);
        if revision >= self.history.newest() {
            return (Answer::Keys(self.keys.clone()), self.history.newest());
        }
        let mut keys = self.keys.clone();
        self.history.undo(&mut keys, revision);
        (Answer::Keys(keys), revision)
    }

    fn transact(&mut self, now: Monotonic, key: &Arc<str>, compares: &[Compare], then: &Then) -> Answer {
        let mut applied = compares.iter().all(|compare| self.compares(key, compare));
        if applied {
            match then {
                Then::Nothing => {}
                Then::Delete => self.remove(key),
                Then::Put { lease: Some(lease), .. } if !self.leases.contains_key(&lease.0) => {
                    return Answer::LeaseNotFound;
                }
                Then::Put { lease, .. } if lease.is_some() && self.is_delayed(now, key) => applied = false,
                Then::Put { value, lease } => drop(self.put(key, value, lease.clone())),
            }
        }
        Answer::Outcome { applied, key: self.keys.get(key).cloned() }
    }

    fn compares(&self, key: &str, compare: &Compare) -> bool {
        let raw = self.keys.get(key);
        match compare {
            Compare::Absent => raw.is_none(),
            Compare::Revision(revision) => raw.is_some_and(|raw| raw.revision == *revision),
            Compare::Value(value) => raw.is_some_and(|raw| raw.value == *value),
            Compare::CreateRevision(revision) => raw.is_some_and(|raw| raw.create_revision == *revision),
            Compare::Lease(lease) => raw.is_some_and(|raw| raw.lease.as_ref() == Some(lease)),
        }
    }

    /// Whether the lock-delay of that key still runs.
    fn is_delayed(&mut self, now: Monotonic, key: &str) -> bool {
        self.delayed.retain(|_, until| *until > now);
        self.delayed.contains_key(key)
    }

    /// Writes a key.
    pub fn put(&mut self, key: &str, value: &str, lease: Option<LeaseId>) -> Revision {
        self.revision += 1;
        let revision = self.revision;
        let known = self.keys.get_key_value(key);
        let key: Arc<str> = known.map_or_else(|| key.into(), |(key, _)| key.clone());
        let create_revision = known.map_or(revision, |(_, raw)| raw.create_revision);
        let raw = Arc::new(RawValue { value: value.to_owned(), revision, create_revision, lease });
        let before = self.keys.insert(key.clone(), raw.clone());
        self.history.push(Change { revision, key, before, value: Some(raw) });
        revision
    }

    /// Deletes a key.
    pub fn remove(&mut self, key: &str) {
        if let Some((key, before)) = self.keys.remove_entry(key) {
            self.revision += 1;
            self.history.push(Change { revision: self.revision, key, before: Some(before), value: None });
        }
    }

    /// A lease may be over: deletes it with its keys, or says when to look again.
    pub fn expire(&mut self, now: Monotonic, id: &str) -> Expiry {
        let Some(lease) = self.leases.get(id) else { return Expiry::Gone };
        let left = lease.ends.since(now);
        if !left.is_zero() {
            return Expiry::Lives(left);
        }
        self.leases.remove(id);
        let hangs = |raw: &Arc<RawValue>| raw.lease.as_ref().is_some_and(|lease| lease.0 == id);
        let gone: Vec<Arc<str>> =
            self.keys.iter().filter(|(_, raw)| hangs(raw)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(&key);
            if self.consul {
                self.delayed.insert(key, now + LOCK_DELAY);
            }
        }
        Expiry::Over
    }

    /// A lease that somebody revokes is over now.
    pub fn end_lease(&mut self, now: Monotonic, id: &str) {
        if let Some(lease) = self.leases.get_mut(id) {
            lease.ends = now;
        }
    }

    /// A new leader of the store gives every lease its whole TTL again.
    pub fn new_leader(&mut self, now: Monotonic) {
        for lease in self.leases.values_mut() {
            lease.ends = lease.ends.max(now + lease.ttl);
        }
    }

    /// Cuts the log up to that revision: whoever watches from before it has to read everything anew.
    pub fn compact(&mut self, revision: Revision) {
        self.history.compact(revision);
    }
}

/// What became of a lease that may be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It was not there.
    Gone,
    /// It has so much time left.
    Lives(Duration),
    /// It ran out, and its keys with it.
    Over,
}

fn stale_micros(max: Duration, random: &mut Random) -> u64 {
    let max = u64::try_from(max.as_micros()).unwrap_or(u64::MAX);
    if max == 0 { 0 } else { random.between(0, max) }
}

#[cfg(test)]
mod tests;
