//! A store in memory that several members share: for tests, with a clock and faults of the test's choosing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use ptarmigan_types::{
    Cluster, ClusterPath, Key, Leader, LeaseId, MemberName, Monotonic, RawValue, Revision, lease,
};
use serde_json::{Map, Value};
use tokio::sync::watch;

/// As etcd's.
const TTL_MIN: Duration = Duration::from_secs(3);

use crate::{Beside, Changes, Condition, Dcs, Error, Grant, Timing, Verdict, View, Written};

/// Where the store reads the time from: leases run out by it.
pub type Clock = Arc<dyn Fn() -> Monotonic + Send + Sync>;

/// What goes wrong with every operation of one member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Nothing gets through: [`Error::Unreachable`]; the watch stands still too.
    Unreachable,
    /// Every read, write and delete of keys is carried out and its answer lost: [`Error::Indeterminate`]. Grants
    /// and renewals of leases are answered, so that a race or a renewal gets as far as the key.
    AnswerLost,
}

#[derive(Debug)]
struct Lease {
    renewed_at: Monotonic,
    ttl: Duration,
}

#[derive(Default)]
struct Inner {
    keys: BTreeMap<String, RawValue>,
    leases: BTreeMap<String, Lease>,
    revision: Revision,
    faults: BTreeMap<MemberName, Fault>,
    watchers: Vec<Watcher>,
}

struct Watcher {
    name: MemberName,
    prefix: String,
    sender: watch::Sender<Changes>,
}

/// The store. Cheap to clone: clones share the keys.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Mutex<Inner>>,
    clock: Clock,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty store in real time.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(ptarmigan_clock::now))
    }

    /// An empty store in the time of `clock`. Leases run out when somebody looks: an operation or [`Store::expire`].
    pub fn with_clock(clock: Clock) -> Self {
        Self { inner: Arc::default(), clock }
    }

    /// A member's handle.
    pub fn member(&self, path: ClusterPath, name: MemberName, timing: Timing) -> Member {
        let (sender, changes) = watch::channel(Changes::default());
        let watcher = Watcher { name: name.clone(), prefix: path.prefix(), sender };
        self.lock().watchers.push(watcher);
        Member { store: self.clone(), path, name, changes, own: Mutex::new(Own { timing, lease: None }) }
    }

    /// Sets what goes wrong with the operations of the members called `name`, until it is set again.
    pub fn set_fault(&self, name: &MemberName, fault: Fault) {
        self.lock().faults.insert(name.clone(), fault);
    }

    /// Deletes the keys of leases that ran out, and wakes who watches them.
    pub fn expire(&self) {
        let now = (self.clock)();
        self.lock().expire(now);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn expire(&mut self, now: Monotonic) {
        let over: Vec<String> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.renewed_at + lease.ttl <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            self.leases.remove(&id);
            let paths: Vec<String> = self
                .keys
                .iter()
                .filter(|(_, raw)| raw.lease.as_ref().is_some_and(|lease| lease.0 == id))
                .map(|(path, _)| path.clone())
                .collect();
            for path in paths {
                self.remove(&path);
            }
        }
    }

    fn holds(&self, path: &str, condition: Condition) -> bool {
        match condition {
            Condition::Always => true,
            Condition::Absent => !self.keys.contains_key(path),
            Condition::Revision(revision) => self.keys.get(path).is_some_and(|raw| raw.revision == revision),
        }
    }

    fn put(&mut self, path: &str, value: &str, lease: Option<LeaseId>) -> Revision {
        self.revision += 1;
        let revision = self.revision;
        let before = self.keys.get(path);
        let create_revision = before.map_or(revision, |raw| raw.create_revision);
        let raw = RawValue { value: value.to_owned(), revision, create_revision, lease };
        let before = self.keys.insert(path.to_owned(), raw);
        self.tell(path, before.as_ref().map(|raw| raw.value.as_str()), Some(value));
        revision
    }

    fn remove(&mut self, path: &str) -> Revision {
        if let Some(before) = self.keys.remove(path) {
            self.revision += 1;
            self.tell(path, Some(&before.value), None);
        }
        self.revision
    }

    fn tell(&mut self, path: &str, before: Option<&str>, after: Option<&str>) {
        self.watchers.retain(|watcher| watcher.sender.receiver_count() > 0);
        for watcher in &self.watchers {
            let unreachable = self.faults.get(&watcher.name) == Some(&Fault::Unreachable);
            if let Some(relative) = path.strip_prefix(&watcher.prefix).filter(|_| !unreachable) {
                watcher.sender.send_if_modified(|changes| changes.note(relative, before, after));
            }
        }
    }
}

struct Own {
    timing: Timing,
    lease: Option<OwnLease>,
}

#[derive(Clone)]
struct OwnLease {
    id: LeaseId,
    sent_at: Monotonic,
    ttl: Duration,
}

impl OwnLease {
    fn due(&self) -> Monotonic {
        self.sent_at + lease::refresh_after(self.ttl)
    }
}

/// One member's handle on a [`Store`].
pub struct Member {
    store: Store,
    path: ClusterPath,
    name: MemberName,
    changes: watch::Receiver<Changes>,
    own: Mutex<Own>,
}

impl Member {
    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request for a lease: fails before it is carried out where the member's fault says so.
    fn lease_request<T>(&self, carry_out: impl FnOnce(&mut Inner, Monotonic) -> T) -> Result<T, Error> {
        let now = (self.store.clock)();
        let mut inner = self.store.lock();
        inner.expire(now);
        if inner.faults.get(&self.name) == Some(&Fault::Unreachable) {
            return Err(Error::Unreachable("fault switched on".into()));
        }
        Ok(carry_out(&mut inner, now))
    }

    /// One request for keys: may lose the answer too.
    fn request<T>(&self, carry_out: impl FnOnce(&mut Inner, Monotonic) -> T) -> Result<T, Error> {
        self.lease_request(|inner, now| {
            let lost = inner.faults.get(&self.name) == Some(&Fault::AnswerLost);
            let answer = carry_out(inner, now);
            if lost { Err(Error::Indeterminate("fault switched on".into())) } else { Ok(answer) }
        })?
    }

    fn snapshot(&self) -> Result<View, Error> {
        let prefix = self.path.prefix();
        self.request(|inner, now| {
            let keys = inner
                .keys
                .iter()
                .filter_map(|(path, raw)| path.strip_prefix(&prefix).map(|relative| (relative, raw)));
            View { cluster: Cluster::read(keys), at: now }
        })
    }

    fn refresh(&self, force: bool) -> Result<OwnLease, Error> {
        let mut own = self.own();
        let Timing { ttl, .. } = own.timing;
        if let Some(lease) = own.lease.clone() {
            if !force && (self.store.clock)() < lease.due() {
                return Ok(lease);
            }
            let renewed = self.lease_request(|inner, now| {
                let stored = inner.leases.get_mut(&lease.id.0)?;
                stored.renewed_at = now;
                Some(OwnLease { sent_at: now, ..lease })
            })?;
            own.lease.clone_from(&renewed);
            if let Some(lease) = renewed {
                return Ok(lease);
            }
        }
        let granted = self.lease_request(|inner, now| {
            inner.revision += 1;
            let id = format!("{:x}", inner.revision);
            inner.leases.insert(id.clone(), Lease { renewed_at: now, ttl });
            OwnLease { id: LeaseId(id), sent_at: now, ttl }
        })?;
        own.lease = Some(granted.clone());
        Ok(granted)
    }

    fn leader_path(&self) -> String {
        self.path.key(&Key::Leader)
    }
}

fn held(lease: OwnLease, create_revision: Revision) -> Verdict {
    Verdict::Held(Grant { lease: lease.id, sent_at: lease.sent_at, ttl: lease.ttl, create_revision })
}

#[async_trait]
impl Dcs for Member {
    async fn view(&self) -> Result<View, Error> {
        self.snapshot()
    }

    async fn view_fresh(&self) -> Result<View, Error> {
        self.snapshot()
    }

    async fn keep_lease(&self, force: bool) -> Result<LeaseId, Error> {
        Ok(self.refresh(force)?.id)
    }

    async fn acquire(&self) -> Result<Verdict, Error> {
        let lease = self.refresh(true)?;
        let path = self.leader_path();
        self.request(|inner, _| match inner.keys.get(&path) {
            None => {
                let revision = inner.put(&path, self.name.as_str(), Some(lease.id.clone()));
                held(lease, revision)
            }
            Some(raw) if raw.value == self.name.0 && raw.lease.as_ref() == Some(&lease.id) => {
                held(lease, raw.create_revision)
            }
            Some(raw) => Verdict::Refused(format!("the leader key is held by {:?}", raw.value)),
        })
    }

    async fn renew(&self, leader: &Leader) -> Result<Verdict, Error> {
        let lease = self.refresh(true)?;
        let path = self.leader_path();
        self.request(|inner, _| {
            let Some(raw) = inner.keys.get(&path) else {
                return Verdict::Refused("the leader key is gone".into());
            };
            if raw.value != self.name.0 {
                return Verdict::Refused(format!("the leader key is held by {:?}", raw.value));
            }
            if raw.create_revision != leader.create_revision {
                return Verdict::Refused("the leader key was created anew".into());
            }
            if raw.lease.as_ref() != Some(&lease.id) {
                inner.put(&path, self.name.as_str(), Some(lease.id.clone()));
            }
            held(lease, leader.create_revision)
        })
    }

    async fn renew_beside(&self, held: &Leader, beside: &Beside) -> Result<(Verdict, bool), Error> {
        let verdict = self.renew(held).await?;
        let is_held = matches!(verdict, Verdict::Held(_));
        if is_held {
            if let Some(status) = &beside.status {
                self.write(&Key::Status, status, Condition::Always).await?;
            }
            if let Some(member) = &beside.member {
                self.put_member(member).await?;
            }
        }
        Ok((verdict, is_held))
    }

    async fn release(&self, held: &Leader) -> Result<bool, Error> {
        let path = self.leader_path();
        self.request(|inner, _| {
            let ours = inner
                .keys
                .get(&path)
                .is_some_and(|raw| raw.value == self.name.0 && raw.create_revision == held.create_revision);
            if ours {
                inner.remove(&path);
            }
            ours
        })
    }

    async fn put_member(&self, json: &str) -> Result<(), Error> {
        let lease = self.refresh(false)?;
        let path = self.path.key(&Key::Member(self.name.clone()));
        let written = self.request(|inner, _| {
            let alive = inner.leases.contains_key(&lease.id.0);
            if alive {
                inner.put(&path, json, Some(lease.id));
            }
            alive
        })?;
        if !written {
            self.own().lease = None;
            return Err(Error::Refused("the lease is lost".into()));
        }
        Ok(())
    }

    async fn write(&self, key: &Key, value: &str, condition: Condition) -> Result<Written, Error> {
        let path = self.path.key(key);
        self.request(|inner, _| {
            if !inner.holds(&path, condition) {
                return Written::Conflict;
            }
            Written::Applied(inner.put(&path, value, None))
        })
    }

    async fn delete(&self, key: &Key, condition: Condition) -> Result<Written, Error> {
        let path = self.path.key(key);
        self.request(|inner, _| {
            if !inner.holds(&path, condition) {
                return Written::Conflict;
            }
            Written::Applied(inner.remove(&path))
        })
    }

    async fn delete_cluster(&self) -> Result<(), Error> {
        let prefix = self.path.prefix();
        self.request(|inner, _| {
            let paths: Vec<String> =
                inner.keys.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
            for path in paths {
                inner.remove(&path);
            }
        })
    }

    fn own_lease(&self) -> Option<LeaseId> {
        self.own().lease.as_ref().map(|lease| lease.id.clone())
    }

    fn abandon_lease(&self) {
        self.own().lease = None;
    }

    fn lease_due(&self) -> Option<Monotonic> {
        self.own().lease.as_ref().map(OwnLease::due)
    }

    fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.clone()
    }

    fn set_timing(&self, timing: Timing) {
        let mut own = self.own();
        if own.timing.ttl != timing.ttl {
            own.lease = None;
        }
        own.timing = timing;
    }

    fn reload(&self, _section: &Map<String, Value>) -> Result<(), String> {
        Ok(())
    }

    fn ttl_min(&self) -> Duration {
        TTL_MIN
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}
