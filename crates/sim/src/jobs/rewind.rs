//! `pg_rewind`, which can be cut off, and crash recovery in single-user mode.

use ptarmigan_ha::{
    Upstream,
    memory::Source,
    observation::{ControlState, JobEnd},
};

use super::{Step, failed};
use crate::{
    postgres::{Process, Torn},
    world::World,
};

impl World {
    /// `pg_rewind`.
    pub(super) fn rewind(&mut self, member: usize, leader: &Upstream, stage: u32) -> Step {
        match stage {
            0 => {
                self.tell_stops(member);
                self.stop_standby(member)
            }
            1 => {
                self.stopped(member);
                self.tell_stopped(member);
                Step::Wait(self.random.millis(10, 300))
            }
            2 => self.begin_rewind(member, leader),
            _ => self.end_rewind(member, leader),
        }
    }

    fn rewind_source(&self, member: usize, leader: &Upstream) -> Option<usize> {
        let source = self.server_of(leader)?;
        (self.reaches(member, source) && self.server(source).is_writable()).then_some(source)
    }

    /// From here on the data directory is neither what it was nor what it is to become.
    fn begin_rewind(&mut self, member: usize, leader: &Upstream) -> Step {
        let Some(index) = self.rewind_source(member, leader) else {
            return failed("the source does not answer");
        };
        let source = self.server(index);
        let torn = Torn {
            source: self.rewound_against(member, leader),
            timeline: source.timeline,
            term: source.term,
            generation: source.generation,
            records: source.wal.len(),
        };
        let postgres = &mut self.members[member].postgres;
        if postgres.timeline == torn.timeline {
            return Step::End(JobEnd::Done);
        }
        if postgres.needs.is_some() && postgres.control == Some(ControlState::InArchiveRecovery) {
            return Step::End(JobEnd::RewindFailedForGood(
                "WAL ends before consistent recovery point".into(),
            ));
        }
        match &postgres.torn {
            Some(begun) if begun.timeline != torn.timeline => {
                return Step::End(JobEnd::RewindFailedForGood("the source has gone on".into()));
            }
            begun
                if begun.as_ref().is_some_and(|begun| begun.term != torn.term)
                    || postgres.needs.is_some() =>
            {
                self.checks.timelines.rewinds_unsound(self.now, member);
            }
            _ => {}
        }
        self.members[member].postgres.torn = Some(torn);
        Step::Wait(self.random.millis(500, 8000))
    }

    fn end_rewind(&mut self, member: usize, leader: &Upstream) -> Step {
        let torn = self.members[member].postgres.torn.clone();
        let source = self.rewind_source(member, leader);
        let source = source.map(|source| self.server(source).clone());
        let (Some(torn), Some(source)) = (torn, source) else {
            return failed("the source does not answer any more");
        };
        if source.generation != torn.generation {
            return failed("the source closed the connection");
        }
        if self.members[member].settings.remove_data_directory_on_rewind_failure && self.random.percent(3) {
            return Step::End(JobEnd::RewindFailedForGood("a file is missing".into()));
        }
        let continues = self.members[member].postgres.rewind(&source, torn.records);
        self.checks.timelines.rewound(self.now, member, continues);
        self.data_replaced(member);
        Step::End(JobEnd::Done)
    }

    /// As the agent notes it.
    fn rewound_against(&self, member: usize, leader: &Upstream) -> Source {
        let key = leader.member().and_then(|name| self.members[member].known.as_ref()?.member(name));
        key.map_or_else(|| Source { leader: leader.clone(), timeline: None }, Source::of)
    }

    /// Single-user mode ends with a shutdown checkpoint on the old timeline.
    pub(super) fn crash_recovery(&mut self, member: usize, stage: u32) -> Step {
        if stage == 0 {
            return Step::Wait(self.random.millis(200, 4000));
        }
        let number = self.fresh();
        let postgres = &mut self.members[member].postgres;
        if !postgres.present || postgres.process != Process::Down {
            return failed("there is nothing to recover");
        }
        if postgres.needs.is_some() {
            return failed("WAL ends before consistent recovery point");
        }
        if postgres.labelled {
            self.checks.timelines.recovers_copy(self.now, member);
        }
        postgres.checkpoint(number);
        postgres.control = Some(ControlState::ShutDown);
        postgres.standby_signal = false;
        Step::End(JobEnd::Done)
    }
}
