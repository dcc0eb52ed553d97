//! The guardian of every member: it ends a server whose daemon has fallen silent.

use std::time::Duration;

use ptarmigan_ha::fence::{self, GRACE, Order, Situation};
use ptarmigan_types::{Monotonic, Role};

use crate::{
    bugs::Bug,
    member::Timing,
    postgres::Process,
    world::{Event, World},
};

/// The longest time that it takes to kill what an immediate shutdown has left, in milliseconds.
const SWEEP_MILLIS: u64 = 200;

/// What a guardian was told last. It lives on without the daemon.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guardian {
    /// When the server ends.
    pub deadline: Option<Monotonic>,
    /// The life of the server that is meant.
    pub generation: u64,
}

impl World {
    /// The daemon tells its guardian what the core says: after every word on the lease, and with every change of the role.
    pub fn tell_guardian(&mut self, member: usize) {
        let this = &self.members[member];
        if this.timing == Timing::Contract {
            return;
        }
        let writes = this.postgres.process != Process::Down && !this.postgres.standby_signal;
        let ttl = this.settings.ttl;
        let situation = Situation {
            wanted: self.scenario.guardians && self.bug != Some(Bug::GuardianNotTold),
            may_write: writes || matches!(this.role, Role::Primary | Role::Promoted),
            paused: this.settings.pause,
            leads_until: this.lease.until(),
            ttl,
        };
        let generation = this.postgres.generation;
        let deadline = match fence::order(&situation) {
            Order::Keep => return,
            Order::Never => None,
            Order::At(at) if self.bug == Some(Bug::DeadlineAfterLease) => Some(at + ttl / 2),
            Order::At(at) => Some(at),
        };
        let guardian = &mut self.members[member].guardian;
        let passed = guardian.generation == generation && guardian.deadline.is_some_and(|at| at <= self.now);
        if passed || (guardian.generation, guardian.deadline) == (generation, deadline) {
            return;
        }
        *guardian = Guardian { deadline, generation };
        let told = deadline.map_or_else(|| "no deadline".into(), |at| format!("{:.3}", at.0 as f64 / 1e6));
        self.note(member, &format!("tells its guardian: {told}"));
        if let Some(at) = deadline {
            self.after(at.since(self.now), Event::Deadline { member, generation, at });
        }
    }

    /// A deadline passes, unless it was moved.
    pub fn deadline_passes(&mut self, member: usize, generation: u64, at: Monotonic) {
        let this = &self.members[member];
        let stands = this.guardian.generation == generation && this.guardian.deadline == Some(at);
        if !stands || this.postgres.generation != generation || this.postgres.process == Process::Down {
            return;
        }
        self.note(member, "the guardian ends postgres");
        self.checks.counts.fences += 1;
        // A server that does not obey is frozen and killed after the grace.
        let obeys = self.random.percent(90) && !self.members[member].trouble.hung;
        let killing = GRACE + self.random.millis(0, SWEEP_MILLIS);
        let wait = if obeys { self.random.millis(1, 40) } else { killing };
        self.after(wait.min(Duration::from_millis(400)), Event::Fenced { member, generation });
    }

    /// Nothing is left of the server.
    pub fn fenced(&mut self, member: usize, generation: u64) {
        if self.members[member].postgres.generation == generation {
            self.crash_server(member);
        }
    }
}
