//! `/sync` against the primary: whoever may win a race by what `/sync` says has every acknowledged transaction, and will have
//! the next one, because commits wait for enough of those whom it names.

use std::collections::BTreeSet;

use ptarmigan_types::{MemberName, Monotonic, SyncState};

use super::{Violation, wrong};
use crate::{
    postgres::{Postgres, Record},
    synchronous::names::Names,
};

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    /// What was acknowledged last.
    newest: Option<Record>,
    /// The objection.
    pub violation: Option<Violation>,
}

/// A member as `/sync` sees it.
pub type Voter<'a> = (&'a MemberName, &'a Postgres);

impl Checker {
    /// A client was told that its transaction is committed.
    pub const fn acknowledged(&mut self, record: Record) {
        self.newest = Some(record);
    }

    /// From now on `/sync` says who may take over. What was acknowledged before may be lost to whoever begins it.
    pub const fn begins(&mut self) {
        self.newest = None;
    }

    /// A promotion: what the new primary has not got is not asked for any more.
    pub fn promoted(&mut self, postgres: &Postgres) {
        self.newest = self.newest.filter(|record| postgres.has(record));
    }

    /// Among so many that a candidate needs besides itself there is at least one that has what was acknowledged last.
    pub fn has_all(&mut self, now: Monotonic, sync: &SyncState, voters: &[Voter<'_>]) {
        let Some(newest) = self.newest else { return };
        // Without data nobody takes over.
        let lacking: Vec<_> = voters.iter().filter(|(_, data)| data.present && !data.has(&newest)).collect();
        if lacking.len() > sync.quorum as usize {
            let names: Vec<&str> = lacking.iter().map(|(name, _)| name.as_str()).collect();
            let what = format!(
                "/sync {} would let one of {} take over, without {newest:?}",
                sync.to_json(),
                names.join(",")
            );
            self.violation.get_or_insert_with(|| wrong("sync_key", now, what));
        }
    }

    /// The same of the next commit of this primary, by the names that are in force there.
    pub fn will_have_all(&mut self, now: Monotonic, sync: &SyncState, primary: &MemberName, names: &Names) {
        let electorate: BTreeSet<String> =
            sync.members().iter().map(|name| name.as_str().to_lowercase()).collect();
        let outside = names.list.iter().filter(|name| !electorate.contains(*name)).count();
        // Those who confirm are, in the worst case, not those who vote.
        let certain =
            names.count.saturating_sub(outside) + usize::from(sync.matches_or_leads(primary.as_str()));
        let lacking = electorate.len().saturating_sub(certain);
        if lacking > sync.quorum as usize {
            let what = format!(
                "commits on {primary} wait for {names:?}: of those in /sync {} up to {lacking} need not have them",
                sync.to_json()
            );
            self.violation.get_or_insert_with(|| wrong("sync_key", now, what));
        }
    }
}
