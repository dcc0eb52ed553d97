//! One round: the frozen observation, the working copy of memory, and what was queued so far.

use std::time::Duration;

use ptarmigan_types::{Cluster, Leader, Monotonic};

use crate::{
    action::{Action, Job, Outcome, ReloadAfter},
    decision::{Fired, Rule},
    memory::Memory,
    observation::{JobKind, Observation},
};

/// How long a long action that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// Why a rule does not go on.
pub(crate) enum Stop {
    /// An answer is missing: carry out what is queued and run again.
    Pause,
    /// The DCS did not answer (contract HA-018).
    NoDcs(String),
    /// The cycle is complete, with this status line.
    Finish(String),
}

/// The result of a rule that may need an answer or end the cycle.
pub(crate) type Step<T> = Result<T, Stop>;

/// Ends the cycle with a status line.
pub(crate) fn finish<T>(line: impl Into<String>) -> Step<T> {
    Err(Stop::Finish(line.into()))
}

pub(crate) struct Round<'a> {
    pub(crate) obs: &'a Observation,
    /// The view in effect: the observed one, or one that was read again in this cycle.
    pub(crate) view: &'a Cluster,
    pub(crate) memory: Memory,
    pub(crate) actions: Vec<Action>,
    pub(crate) report: Vec<Fired>,
    pub(crate) wake_at: Monotonic,
    /// What peers said before does not count any more.
    pub(crate) asks_again: bool,
}

impl<'a> Round<'a> {
    pub(crate) fn new(memory: &Memory, obs: &'a Observation, view: &'a Cluster) -> Self {
        Self {
            obs,
            view,
            memory: memory.clone(),
            actions: Vec::new(),
            report: Vec::new(),
            wake_at: obs.now + obs.settings.loop_wait,
            asks_again: false,
        }
    }

    /// Notes that a rule fired or held back.
    pub(crate) fn fired(&mut self, rule: &'static str, facts: impl Into<String>) {
        self.report.push(Fired { rule: Rule(rule.into()), facts: facts.into() });
    }

    /// What an action of this cycle brought.
    pub(crate) fn outcome(&self, action: &Action) -> Option<&'a Outcome> {
        self.obs.outcomes.iter().rev().find(|(done, _)| done == action).map(|(_, outcome)| outcome)
    }

    /// The outcome of an action; queues it and ends the round where it was not carried out yet.
    pub(crate) fn need(&mut self, action: Action) -> Step<&'a Outcome> {
        if let Some(outcome) = self.outcome(&action) {
            return Ok(outcome);
        }
        self.actions.push(action);
        Err(Stop::Pause)
    }

    /// Queues an action whose outcome nothing depends on, once in a cycle.
    pub(crate) fn request(&mut self, action: Action) {
        if self.outcome(&action).is_none() && !self.actions.contains(&action) {
            self.actions.push(action);
        }
    }

    /// Forgets the lease, also where an answer of this very cycle gave one after it was forgotten before.
    pub(crate) fn forget_lease(&mut self) {
        let last = self.obs.outcomes.iter().rev().find(|(action, outcome)| {
            *action == Action::ForgetLease
                || matches!(outcome, Outcome::Held { .. } | Outcome::Promised { .. })
        });
        let forgotten = last.is_some_and(|(action, _)| *action == Action::ForgetLease);
        if !forgotten && !self.actions.contains(&Action::ForgetLease) {
            self.actions.push(Action::ForgetLease);
        }
    }

    /// Ends the cycle where this long action failed a moment ago: its end woke the loop, and nothing has changed since.
    pub(crate) fn hold_back(&mut self, kind: JobKind) -> Step<()> {
        let Some(failed) = self.memory.failed.filter(|failed| failed.kind == kind) else { return Ok(()) };
        let left = RETRY.saturating_sub(self.obs.now.since(failed.at));
        if left.is_zero() {
            return Ok(());
        }
        self.fired("B.0.1", format!("{} failed a moment ago", kind.words()));
        self.wake_within(left);
        finish(format!("{} failed, trying again", kind.words()))
    }

    /// Begins the long action and ends the cycle.
    pub(crate) fn start<T>(&mut self, job: Job, line: impl Into<String>) -> Step<T> {
        if let Job::Follow { upstream, .. } = &job {
            self.memory.starts_behind.clone_from(upstream);
        }
        self.request(Action::StartJob(job));
        finish(line)
    }

    /// The answer of the store about the leader key: ours or not. No answer ends in contract HA-018.
    pub(crate) fn lock(&mut self, action: Action) -> Step<bool> {
        match self.need(action)? {
            Outcome::Held { until, .. } if *until <= self.obs.now => {
                Err(Stop::NoDcs("the answer came after the end of the lease".into()))
            }
            Outcome::Held { .. } => Ok(true),
            Outcome::Refused(_) => Ok(false),
            Outcome::NoAnswer { reason, .. } | Outcome::Failed(reason) => Err(Stop::NoDcs(reason.clone())),
            other => Err(Stop::NoDcs(format!("unexpected outcome {other:?}"))),
        }
    }

    /// A conditional write whose success matters.
    pub(crate) fn write(&mut self, action: Action) -> Step<bool> {
        match self.need(action)? {
            Outcome::Done => Ok(true),
            Outcome::NoAnswer { reason, .. } => Err(Stop::NoDcs(reason.clone())),
            _ => Ok(false),
        }
    }

    /// Reads the view again and uses it from here on.
    pub(crate) fn reload_view(&mut self, after: ReloadAfter) -> Step<()> {
        match self.need(Action::ReloadView(after))? {
            Outcome::View(view) => {
                self.view = view;
                Ok(())
            }
            Outcome::NoAnswer { reason, .. } | Outcome::Failed(reason) | Outcome::Refused(reason) => {
                Err(Stop::NoDcs(reason.clone()))
            }
            other => Err(Stop::NoDcs(format!("unexpected outcome {other:?}"))),
        }
    }

    /// The cluster is in maintenance mode.
    pub(crate) const fn is_paused(&self) -> bool {
        self.obs.settings.pause
    }

    /// The view shows the lock as mine.
    pub(crate) fn has_lock(&self) -> bool {
        self.view.is_leader(&self.obs.me)
    }

    /// This is a standby cluster: nobody in it may be a primary (contract CF-32).
    pub(crate) const fn in_standby_cluster(&self) -> bool {
        self.obs.settings.standby_cluster.is_some()
    }

    /// My leader key in the view.
    pub(crate) fn held(&self) -> Option<&'a Leader> {
        self.view.leader.as_ref().filter(|leader| leader.name == self.obs.me)
    }

    /// Gives the lock up, and tells everybody (contract B.13.0, "release voluntarily").
    pub(crate) fn release(&mut self) {
        if let Some(held) = self.held() {
            self.request(Action::ReleaseLock(held.clone()));
        } else {
            self.forget_lease();
        }
        self.request(Action::WriteMember);
    }

    /// Wakes up no later than `after` from now.
    pub(crate) fn wake_within(&mut self, after: Duration) {
        self.wake_at = self.wake_at.min(self.obs.now + after);
    }
}
