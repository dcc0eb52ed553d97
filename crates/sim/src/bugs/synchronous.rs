//! Planted bugs of synchronous replication: what the core is made to believe, and what it asked for and does not get.

use std::sync::Arc;

use ptarmigan_ha::{Action, Memory, Observation, Outcome, sync::Wanted};
use ptarmigan_types::{Lsn, SyncState};

use super::Bug;
use crate::{synchronous::names::Names, world::World};

/// What the core sees.
pub fn distort(bug: Bug, memory: &mut Memory, observation: &mut Observation) {
    let in_recovery = observation.postgres.server.as_ref().is_some_and(|server| server.in_recovery);
    match bug {
        Bug::StrictIgnored => observation.settings.synchronous.strict = false,
        Bug::SyncPositionsIgnored => {
            for row in &mut observation.postgres.synchronous.standbys {
                row.lsn = row.lsn.map(|_| Lsn(u64::MAX));
            }
        }
        Bug::SyncKeyGrownFirst => pretend(memory, observation),
        Bug::SyncStepBeforePromotionDropped if in_recovery => pretend(memory, observation),
        Bug::SyncNamesNotSettled => settle(observation),
        Bug::SyncVotersIgnored | Bug::SyncVotesNotCounted => race_freely(bug, memory, observation),
        _ => {}
    }
}

/// The names that the server was told are taken for those that it has.
fn pretend(memory: &Memory, observation: &mut Observation) {
    settle(observation);
    let facts = &mut observation.postgres.synchronous;
    let told = memory.synchronous.told.as_ref().and_then(|told| told.names.clone());
    let (Some(told), Some(_)) = (told, &facts.names) else { return };
    let names = Names::read(&told);
    for row in facts.standbys.iter_mut().filter(|row| names.priority(&row.application_name) > 0) {
        row.sync_state = if names.any { "quorum" } else { "sync" }.into();
        row.lsn = row.lsn.map(|_| Lsn(u64::MAX));
    }
    facts.names = Some(told);
}

fn settle(observation: &mut Observation) {
    for (_, outcome) in &mut observation.outcomes {
        if *outcome == Outcome::Settled(None) {
            *outcome = Outcome::Settled(Some(Lsn(1)));
        }
    }
}

/// Whoever races does not look at `/sync`, or not at how many have to agree, and believes that nobody is ahead.
fn race_freely(bug: Bug, memory: &mut Memory, observation: &mut Observation) {
    for (_, outcome) in &mut observation.outcomes {
        if let Outcome::Peers(answers) = outcome {
            answers.iter_mut().for_each(|answer| answer.lsn = Lsn(1));
        }
    }
    let me = observation.me.clone();
    let views = observation.outcomes.iter().filter_map(|(_, outcome)| match outcome {
        Outcome::View(view) => Some(view),
        _ => None,
    });
    let held = views
        .chain(observation.view.iter())
        .filter_map(|view| view.leader.as_ref().filter(|leader| leader.name == me))
        .map(|leader| leader.create_revision)
        .next_back();
    if bug == Bug::SyncVotersIgnored && held.is_some() {
        memory.synchronous.wished = held;
    }
    if let Ok(view) = &mut observation.view
        && view.is_unlocked()
    {
        let view = Arc::make_mut(view);
        view.sync = match bug {
            Bug::SyncVotersIgnored => SyncState::default(),
            _ => SyncState { quorum: 0, ..view.sync.clone() },
        };
    }
}

impl World {
    /// What is answered although nothing was done.
    pub fn pretended(&mut self, member: usize, action: &Action) -> Option<Outcome> {
        let bug = self.bug?;
        let known = self.members[member].known.as_ref().map(|view| view.sync.clone()).unwrap_or_default();
        let in_recovery = self.members[member].postgres.in_recovery;
        match action {
            Action::WriteSync { state, .. } => {
                let shrinks = !state.standbys.is_empty() && state.standbys.len() < known.standbys.len();
                (bug == Bug::SyncKeyShrunkLast && shrinks).then_some(Outcome::Written(known.revision))
            }
            Action::DeleteSync(revision) => {
                (bug == Bug::SyncKeyLeftBehind).then_some(Outcome::Written(*revision))
            }
            Action::SetStandbyNames(Wanted::Text(text)) => {
                let lost = bug == Bug::SyncKeyGrownFirst && !in_recovery && !text.is_empty()
                    || bug == Bug::SyncStepBeforePromotionDropped && in_recovery;
                lost.then_some(Outcome::Done)
            }
            _ => None,
        }
    }
}

/// What is written instead.
pub fn miswrite(bug: Option<Bug>, state: &SyncState) -> SyncState {
    let less = u32::from(bug == Some(Bug::SyncQuorumTooSmall));
    SyncState { quorum: state.quorum.saturating_sub(less), ..state.clone() }
}
