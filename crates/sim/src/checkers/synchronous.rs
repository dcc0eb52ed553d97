//! When the checkers of synchronous replication look.

use ptarmigan_types::{Monotonic, Revision, SyncState};

use crate::{checkers::sync_key::Voter, postgres::Record, synchronous::drawn, world::World};

/// Revisions of the keys that matter, as they were looked at last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    sync: Revision,
    config: Revision,
    leader: Revision,
}

impl World {
    /// Something changed in the DCS.
    pub fn judge_keys(&mut self) {
        if !self.scenario.synchronous.used {
            return;
        }
        if self.store.keys.contains_key("failover") {
            self.checks.sync_durability.wish_stays(self.now);
        }
        let revision = |key: &str| self.store.keys.get(key).map_or(0, |raw| raw.revision);
        let seen = Seen { sync: revision("sync"), config: revision("config"), leader: revision("leader") };
        let before = std::mem::replace(&mut self.checks.keys_seen, seen);
        if seen == before {
            return;
        }
        if seen.leader == 0 && before.leader != 0 {
            self.checks.sync_durability.vacated(self.now);
        }
        let wanted = drawn::is_on(&self.dynamic_config());
        let active = wanted && !self.sync_state().is_empty();
        if active && !self.checks.sync_durability.is_active() {
            self.checks.sync_key.begins();
        }
        self.checks.sync_durability.protection(self.now, active);
        self.judge_sync_key();
    }

    /// `/sync` as it is.
    fn sync_state(&self) -> SyncState {
        let raw = self.store.keys.get("sync");
        raw.map_or_else(SyncState::default, |raw| SyncState::read(&raw.value, raw.revision))
    }

    /// `/sync`, names in force, or what was acknowledged, have changed.
    pub fn judge_sync_key(&mut self) {
        let sync = self.sync_state();
        if !self.scenario.synchronous.used || !self.checks.sync_durability.is_active() {
            return;
        }
        let members = &self.members;
        let voters: Vec<Voter<'_>> = members
            .iter()
            .filter(|member| sync.matches_or_leads(member.name.as_str()))
            .filter(|member| !self.checks.sync_durability.is_excused(self.now, member.name.as_str()))
            .map(|member| (&member.name, &member.postgres))
            .collect();
        self.checks.sync_key.has_all(self.now, &sync, &voters);
        let holder = self.store.keys.get("leader").and_then(|raw| self.index(&raw.value));
        // A primary that takes its lock back in pause has gone on writing under its own names: nothing was promised of those
        // commits. In the cycle that holds the lock it writes `/sync`.
        let comes_back =
            |member: &usize| self.is_paused() && !sync.leader_matches(members[*member].name.as_str());
        let writes = |member: &usize| {
            members[*member].postgres.is_writable() && members[*member].leads(self.now) && !comes_back(member)
        };
        if let Some(primary) = holder.filter(writes)
            && let Some(names) = members[primary].postgres.synchronous.in_force()
        {
            self.checks.sync_key.will_have_all(self.now, &sync, &members[primary].name, &names);
        }
    }

    /// A process of a server has read its configuration.
    pub fn judge_names(&mut self, member: usize) {
        let postgres = &self.members[member].postgres;
        if postgres.is_writable() {
            self.checks.strict.in_force(member, postgres.term, postgres.synchronous.waits());
            self.judge_sync_key();
        }
    }

    /// A client was told that its transaction is committed.
    pub fn judge_acknowledged(&mut self, member: usize, record: Record) {
        if !self.scenario.synchronous.used {
            return;
        }
        self.checks.sync_durability.acknowledged(record);
        self.checks.sync_key.acknowledged(record);
        let has =
            |(other, them): (usize, &crate::member::Member)| other != member && them.postgres.has(&record);
        let elsewhere = self.members.iter().enumerate().any(has);
        let (now, term): (Monotonic, u64) = (self.now, self.members[member].postgres.term);
        self.checks.strict.acknowledged(now, member, term, record, elsewhere);
        self.judge_sync_key();
    }

    /// A member was promoted.
    pub fn judge_synchronous_promotion(&mut self, member: usize) {
        if !self.scenario.synchronous.used {
            return;
        }
        let this = &self.members[member];
        self.checks.sync_durability.promoted(self.now, this.name.as_str(), &this.postgres);
        self.checks.sync_key.promoted(&this.postgres);
        self.checks.strict.promoted(self.now, member, this.postgres.term);
        self.judge_sync_key();
    }
}
