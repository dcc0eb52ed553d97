//! The watched copy of the store: filled by a read of everything, kept up by the watch, own writes applied at once
//! (contract A.5, "cluster view").

use std::{collections::BTreeMap, sync::Arc};

use ptarmigan_types::{Cluster, RawValue, Revision};

use super::WATCH_BROKEN;
use crate::{
    store::{Change, Keys, Shown},
    world::World,
};

/// One change of a value in the copy.
#[derive(Clone, Debug)]
pub struct Noted {
    /// The key.
    pub key: Arc<str>,
    /// Its value before; `None` also where it was another key of the same name.
    pub before: Option<Arc<RawValue>>,
    /// Its value after.
    pub after: Option<Arc<RawValue>>,
}

/// The copy.
#[derive(Debug, Default)]
pub struct WatchedCopy {
    keys: Keys,
    /// How far the watch is.
    position: Revision,
    /// The newest revision that any answer had.
    seen: Revision,
    /// Own changes that the watch has not reached.
    own: Vec<(Revision, Arc<str>)>,
    /// Keys that we deleted at a revision that the watch has not reached.
    deleted: BTreeMap<Arc<str>, Revision>,
    usable: bool,
    /// Raised by each demand to rebuild.
    demanded: u64,
    rebuilding: bool,
    /// Nothing but the lock wakes the loop: the contract's timing.
    pub wakes_for_lock_alone: bool,
    /// What changed, where somebody wants to know.
    pub noted: Option<Vec<Noted>>,
}

impl WatchedCopy {
    /// It can be relied on.
    pub const fn is_usable(&self) -> bool {
        self.usable
    }

    /// How far the watch is.
    pub const fn position(&self) -> Revision {
        self.position
    }

    /// The newest revision that an answer or the watch brought.
    pub fn seen(&self) -> Revision {
        self.seen.max(self.position)
    }

    /// How often a rebuild was demanded.
    pub const fn demanded(&self) -> u64 {
        self.demanded
    }

    /// An answer of that revision was seen.
    pub fn see(&mut self, revision: Revision) {
        self.seen = self.seen.max(revision);
    }

    /// The watch broke.
    pub const fn lose(&mut self) {
        self.usable = false;
    }

    /// It is behind: unusable until it was read anew, with a read that begins later than now.
    pub const fn demand_rebuild(&mut self) {
        self.usable = false;
        self.demanded += 1;
    }

    /// True where nobody was reading it anew.
    pub const fn begin_rebuild(&mut self) -> bool {
        !std::mem::replace(&mut self.rebuilding, true)
    }

    /// Nobody reads it anew any more.
    pub const fn end_rebuild(&mut self) {
        self.rebuilding = false;
    }

    /// The same for everybody who sees the same.
    fn shown(&self) -> Shown {
        (self.position, self.own.clone())
    }

    /// Applies what the watch brings, up to `revision`. True where the loop is to be woken.
    pub fn follow(&mut self, changes: &[Change], revision: Revision, leads: bool) -> bool {
        let mut matters = false;
        for change in changes {
            matters |= match &change.value {
                Some(raw) => self.put(&change.key, raw, leads),
                None => self.remove(&change.key, change.revision, leads),
            };
        }
        self.reached(revision);
        matters
    }

    fn reached(&mut self, revision: Revision) {
        self.position = self.position.max(revision);
        let position = self.position;
        self.own.retain(|(revision, _)| *revision > position);
        self.deleted.retain(|_, revision| *revision > position);
    }

    /// Takes over everything as it was at `revision`; own writes that are newer stay. `demanded`: what
    /// [`WatchedCopy::demanded`] said when it was asked for.
    pub fn load(&mut self, keys: &Keys, revision: Revision, demanded: u64, leads: bool) -> bool {
        if self.usable && revision < self.position {
            return false;
        }
        self.deleted.retain(|_, at| *at > revision);
        let gone: Vec<Arc<str>> = self
            .keys
            .iter()
            .filter(|(key, raw)| raw.revision <= revision && !keys.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        let mut matters = false;
        for key in gone {
            matters |= self.remove(&key, revision, leads);
        }
        for (key, raw) in keys {
            matters |= self.put(key, raw, leads);
        }
        self.reached(revision);
        self.usable = self.demanded == demanded;
        matters
    }

    /// A key as it is since `raw.revision`; older news than what is known is dropped.
    fn put(&mut self, key: &Arc<str>, raw: &Arc<RawValue>, leads: bool) -> bool {
        let before = self.keys.get(key);
        let known = before.map(|raw| raw.revision).max(self.deleted.get(key).copied());
        if known.is_some_and(|known| known >= raw.revision) {
            return false;
        }
        let before = before.filter(|before| before.create_revision == raw.create_revision).cloned();
        self.deleted.remove(key);
        self.keys.insert(key.clone(), raw.clone());
        self.note(key, before, Some(raw.clone()), leads)
    }

    fn remove(&mut self, key: &Arc<str>, revision: Revision, leads: bool) -> bool {
        if self.keys.get(key).is_none_or(|raw| raw.revision > revision) {
            return false;
        }
        let before = self.keys.remove(key);
        self.note(key, before, None, leads)
    }

    fn note(
        &mut self,
        key: &Arc<str>,
        before: Option<Arc<RawValue>>,
        after: Option<Arc<RawValue>>,
        leads: bool,
    ) -> bool {
        if before.as_ref().map(|raw| &raw.value) == after.as_ref().map(|raw| &raw.value) {
            return false;
        }
        let matters = match &**key {
            "leader" => true,
            _ if self.wakes_for_lock_alone => false,
            "config" | "failover" => true,
            "status" => !leads,
            key if leads && key.starts_with("members/") => before.is_none() || after.is_none(),
            _ => false,
        };
        if let Some(noted) = &mut self.noted {
            noted.push(Noted { key: key.clone(), before, after });
        }
        matters
    }

    /// An own write is seen at once.
    pub fn show_put(&mut self, key: &Arc<str>, raw: &Arc<RawValue>, leads: bool) -> bool {
        let matters = self.put(key, raw, leads);
        self.show(key, raw.revision);
        matters
    }

    /// An own delete is seen at once: older news of the key that the watch still brings is dropped.
    pub fn show_delete(&mut self, key: &Arc<str>, revision: Revision, leads: bool) -> bool {
        let matters = self.remove(key, revision, leads);
        if !self.keys.contains_key(key) && revision > self.position {
            self.deleted.insert(key.clone(), revision);
        }
        self.show(key, revision);
        matters
    }

    fn show(&mut self, key: &Arc<str>, revision: Revision) {
        let one = (revision, key.clone());
        if revision > self.position && !self.own.contains(&one) {
            self.own.push(one);
            self.own.sort();
        }
    }
}

impl World {
    /// The watched copy, where it can be believed.
    pub fn copied_view(&mut self, member: usize) -> Option<Arc<Cluster>> {
        let this = &mut self.members[member];
        if this.cut_since.is_some_and(|since| self.now.since(since) > WATCH_BROKEN) {
            this.copy.lose();
        }
        this.copy.is_usable().then(|| self.store.view(this.copy.shown(), &this.copy.keys))
    }
}
