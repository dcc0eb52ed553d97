//! The store's log: changes by revision, and which revision was the newest at which moment.

use std::sync::Arc;

use ptarmigan_types::{Monotonic, RawValue, Revision};

use super::Keys;

/// The log is cut when it has so many changes.
const LOG_MAX: usize = 256;
/// So many are left.
const LOG_KEPT: usize = 32;

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Change {
    /// The store's revision after it.
    pub revision: Revision,
    /// The key, below the cluster's prefix.
    pub key: Arc<str>,
    /// What was there before.
    pub before: Option<Arc<RawValue>>,
    /// `None`: deleted.
    pub value: Option<Arc<RawValue>>,
}

/// The changes that are kept.
#[derive(Debug, Default)]
pub struct History {
    log: Vec<Change>,
    moments: Vec<(Monotonic, Revision)>,
    newest: Revision,
    compacted: Revision,
}

impl History {
    /// Notes a change.
    pub fn push(&mut self, change: Change) {
        self.newest = change.revision;
        self.log.push(change);
    }

    /// The revision of the newest change.
    pub const fn newest(&self) -> Revision {
        self.newest
    }

    /// Changes up to this revision are not kept any more.
    pub const fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The changes so far happened no later than now; cuts a log that grew long.
    pub fn mark(&mut self, now: Monotonic) {
        if self.moments.last().is_none_or(|(_, revision)| *revision < self.newest) {
            self.moments.push((now, self.newest));
        }
        if self.log.len() > LOG_MAX {
            self.compact(self.log[self.log.len() - LOG_KEPT - 1].revision);
        }
    }

    /// The newest revision at that moment, as far back as the log goes.
    pub fn revision_at(&self, moment: Monotonic) -> Revision {
        let after = self.moments.partition_point(|(at, _)| *at <= moment);
        if after == self.moments.len() {
            return self.newest;
        }
        after.checked_sub(1).map_or(self.compacted, |last| self.moments[last].1).max(self.compacted)
    }

    /// The changes after one revision, up to another.
    pub fn between(&self, after: Revision, last: Revision) -> &[Change] {
        let from = self.log.partition_point(|change| change.revision <= after);
        let to = self.log.partition_point(|change| change.revision <= last);
        &self.log[from..to.max(from)]
    }

    /// Takes the changes after a revision back.
    pub fn undo(&self, keys: &mut Keys, revision: Revision) {
        for change in self.between(revision, self.newest).iter().rev() {
            match &change.before {
                Some(before) => drop(keys.insert(change.key.clone(), before.clone())),
                None => drop(keys.remove(&change.key)),
            }
        }
    }

    /// Forgets the changes up to that revision.
    pub fn compact(&mut self, revision: Revision) {
        let gone = self.log.partition_point(|change| change.revision <= revision);
        if let Some(last) = gone.checked_sub(1).map(|last| self.log[last].revision) {
            self.compacted = last;
        }
        self.log.drain(..gone);
        let gone = self.moments.partition_point(|(_, newest)| *newest < self.compacted);
        self.moments.drain(..gone);
    }
}
