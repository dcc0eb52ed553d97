//! The model DCS, as its server sees it: revisions, conditional writes, leases that run out in virtual time, and a log
//! from which every member's watched copy is fed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ptarmigan_types::{Cluster, LeaseId, Monotonic, RawValue, Revision};

/// How many revisions are kept read: members are rarely further apart.
const VIEWS_MAX: usize = 64;

/// One change: the key below the cluster's prefix, and its new value.
#[derive(Clone, Debug)]
pub struct Change {
    /// The store's revision after it.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// `None`: deleted.
    pub value: Option<RawValue>,
}

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

/// A living lease.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// What was granted.
    pub ttl: Duration,
    /// When the store gives it up.
    pub ends: Monotonic,
}

/// The store.
#[derive(Debug, Default)]
pub struct Store {
    /// The keys.
    pub keys: BTreeMap<String, RawValue>,
    /// The living leases.
    pub leases: BTreeMap<String, Lease>,
    /// Every change so far.
    pub log: Vec<Change>,
    revision: Revision,
    views: BTreeMap<Revision, Arc<Cluster>>,
}

impl Store {
    /// The cluster as the keys of that revision show it; read once for everybody who sees them.
    pub fn view(&mut self, revision: Revision, keys: &BTreeMap<String, RawValue>) -> Arc<Cluster> {
        if !self.views.contains_key(&revision) && self.views.len() >= VIEWS_MAX {
            self.views.pop_first();
        }
        let read = || Arc::new(Cluster::read(keys.iter().map(|(key, raw)| (key.as_str(), raw))));
        self.views.entry(revision).or_insert_with(read).clone()
    }

    /// The latest revision.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether the condition of a write holds.
    pub fn holds(&self, key: &str, condition: Condition) -> bool {
        match condition {
            Condition::Always => true,
            Condition::Absent => !self.keys.contains_key(key),
            Condition::Revision(revision) => self.keys.get(key).is_some_and(|raw| raw.revision == revision),
        }
    }

    /// Writes a key.
    pub fn put(&mut self, key: &str, value: &str, lease: Option<LeaseId>) -> Revision {
        self.revision += 1;
        let revision = self.revision;
        let create_revision = self.keys.get(key).map_or(revision, |raw| raw.create_revision);
        let raw = RawValue { value: value.to_owned(), revision, create_revision, lease };
        self.keys.insert(key.to_owned(), raw.clone());
        self.log.push(Change { revision, key: key.to_owned(), value: Some(raw) });
        revision
    }

    /// Deletes a key.
    pub fn remove(&mut self, key: &str) {
        if self.keys.remove(key).is_some() {
            self.revision += 1;
            self.log.push(Change { revision: self.revision, key: key.to_owned(), value: None });
        }
    }

    /// A new lease.
    pub fn grant(&mut self, ttl: Duration, ends: Monotonic) -> LeaseId {
        self.revision += 1;
        let id = format!("{:x}", self.revision);
        self.leases.insert(id.clone(), Lease { ttl, ends });
        LeaseId(id)
    }

    /// Deletes a lease with its keys.
    pub fn revoke(&mut self, id: &str) {
        self.leases.remove(id);
        let gone: Vec<String> = self
            .keys
            .iter()
            .filter(|(_, raw)| raw.lease.as_ref().is_some_and(|lease| lease.0 == id))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.remove(&key);
        }
    }
}
