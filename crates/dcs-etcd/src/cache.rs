//! The local copy of the cluster's keys: filled by a range read, kept up by the watch, own writes applied at once
//! (contract A.5, "cluster view").

use std::collections::BTreeMap;

use ptarmigan_dcs::Changes;
use ptarmigan_types::{Cluster, RawValue, Revision};

/// The copy. Paths are relative to the cluster's prefix.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    keys: BTreeMap<String, RawValue>,
    /// Keys that we deleted at a revision that the watch has not reached yet.
    deleted: BTreeMap<String, Revision>,
    usable: bool,
    /// Raised by each demand to rebuild.
    demanded: u64,
}

impl Cache {
    /// The parsed copy; `None` while it cannot be relied on.
    pub(crate) fn cluster(&self) -> Option<Cluster> {
        self.usable.then(|| Cluster::read(self.keys.iter().map(|(path, raw)| (path.as_str(), raw))))
    }

    /// The watch follows from here on. `demanded`: what [`Cache::demanded`] said before the range was read; where
    /// another rebuild was demanded since, the copy stays unusable.
    pub(crate) fn follow(&mut self, demanded: u64) -> bool {
        self.usable = self.demanded == demanded;
        self.usable
    }

    /// The watch broke.
    pub(crate) fn lose(&mut self) {
        self.usable = false;
    }

    /// Somebody saw that the copy is behind: it is unusable until it was rebuilt.
    pub(crate) fn demand_rebuild(&mut self) {
        self.usable = false;
        self.demanded += 1;
    }

    /// How often a rebuild was demanded.
    pub(crate) fn demanded(&self) -> u64 {
        self.demanded
    }

    /// Takes over a range read at `revision`; own writes that are newer stay.
    pub(crate) fn load(
        &mut self,
        revision: Revision,
        loaded: BTreeMap<String, RawValue>,
        changes: &mut Changes,
    ) {
        self.deleted.retain(|_, at| *at > revision);
        let gone: Vec<String> = self
            .keys
            .iter()
            .filter(|(path, raw)| raw.revision <= revision && !loaded.contains_key(*path))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.remove(&path, revision, changes);
        }
        for (path, raw) in loaded {
            self.put(&path, raw, changes);
        }
        changes.other += 1;
    }

    /// A key as it is since `raw.revision`; older news than what is known is dropped. True where a value changed.
    pub(crate) fn put(&mut self, path: &str, raw: RawValue, changes: &mut Changes) -> bool {
        let known = self.keys.get(path).map(|raw| raw.revision).max(self.deleted.get(path).copied());
        if known.is_some_and(|known| known >= raw.revision) {
            return false;
        }
        self.deleted.remove(path);
        let before = self.keys.get(path);
        // Deleted and created since we looked: another key, whatever its value.
        let recreated = before.is_some_and(|before| before.create_revision != raw.create_revision);
        let value_before = before.filter(|_| !recreated).map(|raw| raw.value.as_str());
        let noted = changes.note(path, value_before, Some(&raw.value));
        self.keys.insert(path.to_owned(), raw);
        noted
    }

    /// The watch says that a key was deleted at `revision`. True where it was there.
    pub(crate) fn remove(&mut self, path: &str, revision: Revision, changes: &mut Changes) -> bool {
        if self.deleted.get(path).is_some_and(|at| *at <= revision) {
            self.deleted.remove(path);
        }
        if self.keys.get(path).is_none_or(|raw| raw.revision > revision) {
            return false;
        }
        let before = self.keys.remove(path);
        changes.note(path, before.as_ref().map(|raw| raw.value.as_str()), None)
    }

    /// We deleted a key at `revision`: older news of it that the watch still brings is dropped.
    pub(crate) fn remove_own(&mut self, path: &str, revision: Revision, changes: &mut Changes) -> bool {
        let noted = self.remove(path, revision, changes);
        if !self.keys.contains_key(path) {
            self.deleted.insert(path.to_owned(), revision);
        }
        noted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(value: &str, create_revision: Revision, revision: Revision) -> RawValue {
        RawValue { value: value.into(), revision, create_revision, lease: None }
    }

    fn leader(cache: &Cache) -> Option<String> {
        cache.cluster().unwrap().leader.map(|leader| leader.name.0)
    }

    #[test]
    fn own_writes_are_not_undone_by_late_news() {
        let (mut cache, mut changes) = (Cache::default(), Changes::default());
        cache.load(5, BTreeMap::from([("leader".into(), raw("a", 3, 3))]), &mut changes);
        assert!(cache.cluster().is_none());
        assert!(cache.follow(0));
        assert!(cache.put("leader", raw("b", 3, 8), &mut changes));
        assert!(!cache.put("leader", raw("c", 3, 7), &mut changes), "an event that the watch brings late");
        assert_eq!(leader(&cache).as_deref(), Some("b"));
        assert!(cache.remove_own("leader", 9, &mut changes));
        assert!(!cache.put("leader", raw("b", 3, 8), &mut changes));
        assert_eq!(leader(&cache), None);
        assert!(!cache.remove("leader", 9, &mut changes));
        assert!(cache.put("leader", raw("d", 10, 10), &mut changes));
        assert_eq!(changes.leader, 4);
        assert!(!cache.remove("leader", 9, &mut changes), "the delete of the key before this one");
        assert_eq!(leader(&cache).as_deref(), Some("d"));
    }

    #[test]
    fn a_rebuild_drops_what_is_gone_and_keeps_newer_own_writes() {
        let (mut cache, mut changes) = (Cache::default(), Changes::default());
        cache.load(5, BTreeMap::from([("leader".into(), raw("a", 3, 3))]), &mut changes);
        cache.put("config", raw("{}", 12, 12), &mut changes);
        cache.put("history", raw("[]", 6, 6), &mut changes);
        cache.remove_own("history", 11, &mut changes);
        let loaded = BTreeMap::from([("history".into(), raw("[]", 6, 6))]);
        cache.load(10, loaded, &mut changes);
        cache.follow(0);
        let cluster = cache.cluster().unwrap();
        assert!(cluster.is_unlocked() && cluster.config.is_some() && cluster.history.is_none());
    }

    #[test]
    fn a_rebuild_that_was_demanded_too_late_counts_for_the_next() {
        let (mut cache, mut changes) = (Cache::default(), Changes::default());
        let demanded = cache.demanded();
        cache.load(5, BTreeMap::new(), &mut changes);
        cache.demand_rebuild();
        assert!(!cache.follow(demanded));
        assert!(cache.cluster().is_none());
        assert!(cache.follow(cache.demanded()));
    }

    #[test]
    fn a_recreated_leader_key_is_a_change_even_with_the_same_name() {
        let (mut cache, mut changes) = (Cache::default(), Changes::default());
        cache.load(5, BTreeMap::from([("leader".into(), raw("a", 3, 3))]), &mut changes);
        assert!(!cache.put("leader", raw("a", 3, 7), &mut changes));
        assert_eq!(changes.leader, 1);
        cache.load(9, BTreeMap::from([("leader".into(), raw("a", 8, 8))]), &mut changes);
        assert_eq!(changes.leader, 2);
    }
}
