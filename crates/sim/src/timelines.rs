//! What the histories of two servers say of each other: whether one left the other's way, and where `pg_rewind` finds that
//! they parted.

use ptarmigan_ha::{action::Divergence, observation::ControlState};
use ptarmigan_types::{
    Lsn, Timeline,
    history::{self, begins_alike, newest_shared},
};

use crate::postgres::{Postgres, Record};

impl Postgres {
    /// Contract RW-7, RW-8, with the look at how a timeline begins that tells two of one number apart.
    pub fn divergence(&self, leader: &Self) -> Divergence {
        use history::Divergence as Found;
        let in_recovery = self.in_recovery || self.standby_signal;
        // The minimum recovery end.
        let end = self.end().max(self.needs.map_or(Lsn::ZERO, |record| record.end));
        let found = match history::divergence_from_timelines(self.timeline, leader.timeline) {
            Found::AskHistory if !begins_alike(&self.history, &leader.history, self.timeline) => {
                Found::Needed
            }
            Found::AskHistory => {
                history::divergence_from_history(&leader.history, self.timeline, end, in_recovery)
            }
            found => found,
        };
        let same_place = begins_alike(&self.history, &leader.history, self.timeline);
        let ways = [self, leader].map(|server| (&*server.history, server.timeline, server.end()));
        let shared = newest_shared(ways[0], ways[1]).map_or(1, |(timeline, ..)| timeline);
        match found {
            _ if !self.begins_with_the_record_of(leader, shared) => Divergence::SameTimelineTwice,
            Found::NotNeeded if !same_place => Divergence::SameTimelineTwice,
            Found::NotNeeded | Found::AskHistory => Divergence::SameHistory,
            Found::CheckpointMustEndAt(left) if self.end() == left => Divergence::SameHistory,
            Found::CheckpointMustEndAt(_) | Found::Needed => Divergence::Diverged,
        }
    }

    /// False where both have the beginning of a timeline, and not the same one.
    fn begins_with_the_record_of(&self, other: &Self, timeline: Timeline) -> bool {
        let first = |wal: &[Record]| {
            let at = wal.partition_point(|record| record.timeline < timeline);
            wal.get(at).filter(|record| record.timeline == timeline).copied()
        };
        match (first(&self.wal), first(&other.wal)) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => true,
        }
    }

    /// Where `pg_rewind` finds that two ways parted: it reads history files, and never looks at WAL on that account.
    fn common_ancestor(&self, source: &Self) -> Lsn {
        let ways = [self, source].map(|server| {
            let finished = server.history.iter().map(|left| (left.timeline, left.lsn));
            finished.chain([(server.timeline, server.end())]).collect::<Vec<_>>()
        });
        let [mine, theirs] = ways;
        let mut parted = Lsn::ZERO;
        for (left, other) in mine.iter().zip(&theirs) {
            if left.0 != other.0 {
                break;
            }
            parted = left.1.min(other.1);
            if left.1 != other.1 {
                break;
            }
        }
        parted
    }

    /// `pg_rewind`: back to where the histories parted, and `pg_wal` becomes the source's as it was when the copying began.
    /// Nothing less than what the source has now makes a consistent server. Slots are removed. False where what was kept is not
    /// the source's.
    pub fn rewind(&mut self, source: &Self, records: usize) -> bool {
        let parted = self.common_ancestor(source);
        let kept = self.wal.partition_point(|record| record.end <= parted);
        self.wal.truncate(kept);
        let continues = self.is_prefix_of(source);
        let parted = self.end();
        self.wal = source.wal.get(..records).unwrap_or(&source.wal).to_vec();
        self.needs = source.wal.last().copied();
        self.torn = None;
        self.timeline = source.timeline;
        self.history.clone_from(&source.history);
        self.synchronous.file.clone_from(&source.synchronous.file);
        self.control = Some(ControlState::InArchiveRecovery);
        self.standby_signal = true;
        self.slots.clear();
        self.vacuumed = source.vacuumed;
        self.removed = source.removed.min(parted);
        self.redo = self.redo.min(parted).max(self.removed);
        continues
    }
}
