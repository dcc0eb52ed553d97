//! In pause nothing is stopped, started, promoted or demoted by a daemon, but for what the rules allow: a manual failover to its
//! candidate, and the way back of the server that was demoted for it.

use std::collections::BTreeSet;

use ptarmigan_ha::{Action, DemoteMode, Job};
use ptarmigan_types::{Failover, Monotonic};

use super::{Violation, wrong};
use crate::{
    member::{Member, Phase},
    postgres::Process,
};

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    /// Members whose own daemon has stopped the server in a demotion, and that have not run since.
    demoted: BTreeSet<usize>,
    /// Actions that were looked at.
    pub looked_at: u64,
    /// Writes of primaries that were left alone in pause while somebody else led.
    pub left_alone: u64,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// A demotion has ended.
    pub fn demoted(&mut self, member: usize) {
        self.demoted.insert(member);
    }

    /// The server accepts connections.
    pub fn ready(&mut self, member: usize) {
        self.demoted.remove(&member);
    }

    /// A daemon is about to do this.
    pub fn acts(&mut self, at: Monotonic, index: usize, member: &Member, action: &Action) {
        if !member.settings.pause {
            return;
        }
        self.looked_at += 1;
        let allowed = match action {
            Action::AcquireLock => member.postgres.is_writable() || is_candidate(member),
            Action::ReleaseLock(_) => !member.postgres.is_writable(),
            Action::StopImmediate | Action::RemoveDataDirectory => false,
            Action::Exit { stop_postgres, .. } => !stop_postgres || member.memory.bootstrapping,
            Action::StartJob(job) => self.may_begin(index, member, job),
            _ => true,
        };
        if !allowed {
            let what = format!("{} does {action:?}, and the cluster is paused", member.name);
            self.violation.get_or_insert_with(|| wrong("pause", at, what));
        }
    }

    fn may_begin(&self, index: usize, member: &Member, job: &Job) -> bool {
        match job {
            Job::Promote { .. } => is_candidate(member),
            Job::Demote(DemoteMode::Graceful) => wishes(member)
                .any(|wish| wish.candidate.as_ref().is_some_and(|candidate| *candidate != member.name)),
            Job::Follow { .. } | Job::Rewind { .. } | Job::Reinitialize { .. } | Job::CrashRecovery => {
                member.postgres.process == Process::Down && self.demoted.contains(&index)
            }
            Job::Bootstrap | Job::BootstrapStandbyLeader | Job::PostBootstrap => member.memory.bootstrapping,
            Job::CopySlots { .. }
            | Job::Demote(_)
            | Job::StartPrimary { .. }
            | Job::Restart { .. }
            | Job::Clone { .. } => false,
        }
    }
}

/// What operators wish, as the view showed it when the cycle began, and as it does now.
fn wishes(member: &Member) -> impl Iterator<Item = &Failover> {
    let at_first = match &member.phase {
        Phase::Acting(acting) => acting.observation.view.as_ref().ok(),
        _ => None,
    };
    at_first.into_iter().chain(&member.known).filter_map(|view| view.failover.as_ref())
}

fn is_candidate(member: &Member) -> bool {
    wishes(member).any(|wish| wish.candidate.as_ref() == Some(&member.name))
}
