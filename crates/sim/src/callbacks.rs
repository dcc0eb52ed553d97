//! The operator's callbacks, as the agent runs them: the same state machine is told the same things.

use ptarmigan_ha::callbacks::{Call, Callbacks, Event};
use ptarmigan_types::Role;

use crate::{bugs::Bug, postgres::Process, world::World};

impl World {
    /// Tells a member's state machine what happened, and notes the callback that it names.
    pub fn call_back(&mut self, member: usize, what: impl FnOnce(&mut Callbacks, Role) -> Option<Call>) {
        let this = &mut self.members[member];
        let Some(call) = what(&mut this.callbacks, this.role) else { return };
        if self.bug == Some(Bug::RoleChangeNotTold) && call.event == Event::RoleChange {
            return;
        }
        self.note(member, &format!("callback {} {}", call.event.name(), call.role));
        let postgres = &self.members[member].postgres;
        let writes = postgres.is_writable() || postgres.promoting;
        let initialized = self.checks.initialize.identifier().is_some();
        self.checks.callbacks.called(self.now, member, call, writes, initialized);
    }

    /// A server is about to be stopped for good.
    pub fn tell_stops(&mut self, member: usize) {
        let this = &mut self.members[member];
        this.callbacks.stops(this.role, this.postgres.process != Process::Down);
    }

    /// It is stopped; to be told before anything else is known of it.
    pub fn tell_stopped(&mut self, member: usize) {
        self.call_back(member, |callbacks, role| callbacks.stopped(role, false));
    }
}
