//! Which of the operator's callbacks runs when (contract B.25): a state machine that is told what happens to the server.
//! The daemon and the simulation drive the same one; running the commands is not its business.

use ptarmigan_types::Role;
use serde::{Deserialize, Serialize};

/// What a callback is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The server accepts connections after a start, or was found running.
    Start,
    /// The server was stopped, not to be restarted.
    Stop,
    /// The server accepts connections after a restart in the same role.
    Restart,
    /// The server was told to read its files again.
    Reload,
    /// The role is another one.
    RoleChange,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Start, Self::Stop, Self::Restart, Self::Reload, Self::RoleChange];

    /// As the command gets it, which is also the key of the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "on_start",
            Self::Stop => "on_stop",
            Self::Restart => "on_restart",
            Self::Reload => "on_reload",
            Self::RoleChange => "on_role_change",
        }
    }
}

/// One callback that is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// What for.
    pub event: Event,
    /// The role that is passed: never [`Role::Promoted`], which goes by the name of a primary.
    pub role: Role,
}

/// How a server is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It was stopped.
    Start,
    /// It is stopped for that, by an operator's wish, in its present role.
    Restart,
    /// As a standby of somebody else.
    Follow {
        /// The role until then.
        from: Role,
        /// The role from then on.
        to: Role,
        /// It is stopped for that.
        restart: bool,
    },
}

/// What is due once the server accepts connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Due {
    /// `on_start`: nobody of this process started it.
    #[default]
    Found,
    /// Nothing more.
    Nothing,
    /// That.
    Event(Event),
}

/// What has been called so far in the life of the daemon, and what is due next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    /// A callback other than `on_reload` was called.
    called: bool,
    due: Due,
    /// Nothing is called before the new cluster is there.
    bootstrapping: bool,
    /// A running server of that role was told to stop, and nobody has seen its end yet.
    stopping: Option<Role>,
}

impl Callbacks {
    /// This node makes a new cluster: nothing is called until [`Self::bootstrapped`].
    pub const fn bootstraps(&mut self) {
        self.bootstrapping = true;
    }

    /// This node makes no new cluster, or not any more: from here on everything is told.
    pub const fn bootstraps_no_more(&mut self) {
        self.bootstrapping = false;
    }

    /// The new cluster is there (contract HA-064).
    pub fn bootstrapped(&mut self, role: Role) -> Option<Call> {
        self.bootstrapping = false;
        self.due = Due::Nothing;
        self.call(Event::Start, role)
    }

    /// The server is about to be started, or stopped to be started again.
    pub fn starts(&mut self, how: How) {
        let event = match how {
            How::Start => Event::Start,
            How::Restart => Event::Restart,
            How::Follow { from, to, .. } if self.called && is_change(from, to) => Event::RoleChange,
            // The attempt before this one was given up before it came to anything, and nobody has heard of the change.
            How::Follow { .. } if self.due == Due::Event(Event::RoleChange) => Event::RoleChange,
            How::Follow { restart, .. } => {
                if restart {
                    Event::Restart
                } else {
                    Event::Start
                }
            }
        };
        self.stopping = None;
        self.due = Due::Event(event);
    }

    /// The attempt to start it is over, whatever came of it: whoever keeps an address for the role must hear of the
    /// change even where the server does not come up.
    pub fn attempted(&mut self, role: Role) -> Option<Call> {
        if self.due != Due::Event(Event::RoleChange) {
            return None;
        }
        self.due = Due::Nothing;
        self.call(Event::RoleChange, role)
    }

    /// The server accepts connections.
    pub fn accepts(&mut self, role: Role) -> Option<Call> {
        let event = match std::mem::replace(&mut self.due, Due::Nothing) {
            Due::Found => Event::Start,
            Due::Event(event) => event,
            Due::Nothing => return None,
        };
        self.call(event, role)
    }

    /// The server is about to be stopped for good. `running`: it is there to be stopped.
    pub fn stops(&mut self, role: Role, running: bool) {
        if running {
            self.stopping.get_or_insert(role);
        }
    }

    /// The server is stopped for good. `was_running`: whoever stopped it found it running. The role that is passed is that
    /// of the server that was stopped: a leader may be a demoted one already, because its lock went before its archiver.
    /// Whoever starts it by hand after that, in pause, has it told of as one that was found.
    pub fn stopped(&mut self, role: Role, was_running: bool) -> Option<Call> {
        let stopped = self.stopping.take().or_else(|| was_running.then_some(role));
        self.due = Due::Found;
        self.call(Event::Stop, stopped?)
    }

    /// The server was told to read its files again, not for the sake of another role.
    pub fn reloaded(&self, role: Role) -> Option<Call> {
        (!self.bootstrapping).then(|| told(Event::Reload, role))
    }

    /// The role changed without a start: a promotion (contract B.13).
    pub fn changes_role(&mut self, role: Role) -> Option<Call> {
        self.call(Event::RoleChange, role)
    }

    /// What a decision asks for ([`crate::Action::RunCallback`]): a new cluster (contract HA-064), a holder that could not
    /// be started (HA-070), the leader of a standby cluster (HA-292).
    pub fn run(&mut self, event: Event, role: Role) -> Option<Call> {
        match event {
            Event::Start => self.bootstrapped(role),
            Event::Reload => self.reloaded(role),
            other => self.call(other, role),
        }
    }

    fn call(&mut self, event: Event, role: Role) -> Option<Call> {
        if self.bootstrapping {
            return None;
        }
        self.called = true;
        Some(told(event, role))
    }
}

const fn told(event: Event, role: Role) -> Call {
    Call { event, role: if matches!(role, Role::Promoted) { Role::Primary } else { role } }
}

/// Contract B.25: whether following somebody is another role, and not only a start.
const fn is_change(from: Role, to: Role) -> bool {
    match from {
        Role::Primary | Role::Promoted | Role::Demoted => true,
        Role::Replica => matches!(to, Role::StandbyLeader),
        Role::StandbyLeader => matches!(to, Role::Replica),
        Role::Uninitialized => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(event: Event, role: Role) -> Option<Call> {
        Some(Call { event, role })
    }

    fn follow(from: Role, to: Role, restart: bool) -> How {
        How::Follow { from, to, restart }
    }

    /// A daemon that has called something already.
    fn called() -> Callbacks {
        Callbacks { called: true, ..Callbacks::default() }
    }

    #[test]
    fn b_25_a_running_server_is_told_of_once() {
        let mut callbacks = Callbacks::default();
        assert_eq!(callbacks.accepts(Role::Primary), call(Event::Start, Role::Primary));
        assert_eq!(callbacks.accepts(Role::Primary), None);
        assert_eq!(callbacks.reloaded(Role::Primary), call(Event::Reload, Role::Primary));
    }

    #[test]
    fn b_25_a_start_that_is_begun_anew_is_still_the_change_of_role() {
        let mut callbacks = called();
        callbacks.starts(follow(Role::Demoted, Role::Replica, false));
        callbacks.starts(follow(Role::Replica, Role::Replica, false));
        assert_eq!(callbacks.accepts(Role::Replica), call(Event::RoleChange, Role::Replica));
        // Once it was told, a start is a start.
        callbacks.starts(follow(Role::Replica, Role::Replica, false));
        assert_eq!(callbacks.accepts(Role::Replica), call(Event::Start, Role::Replica));
    }

    #[test]
    fn b_25_following_is_a_change_of_role_or_a_start() {
        use Role::{Demoted, Primary, Promoted, Replica, StandbyLeader, Uninitialized};
        for (from, to, restart, once_called, fresh) in [
            (Primary, Replica, false, Event::RoleChange, Event::Start),
            (Promoted, Replica, false, Event::RoleChange, Event::Start),
            (Demoted, Replica, false, Event::RoleChange, Event::Start),
            (Demoted, StandbyLeader, false, Event::RoleChange, Event::Start),
            (Replica, StandbyLeader, true, Event::RoleChange, Event::Restart),
            (StandbyLeader, Replica, true, Event::RoleChange, Event::Restart),
            (Replica, Replica, true, Event::Restart, Event::Restart),
            (Replica, Replica, false, Event::Start, Event::Start),
            (StandbyLeader, StandbyLeader, true, Event::Restart, Event::Restart),
            (Uninitialized, Replica, false, Event::Start, Event::Start),
            (Uninitialized, StandbyLeader, false, Event::Start, Event::Start),
        ] {
            for (mut callbacks, event) in [(called(), once_called), (Callbacks::default(), fresh)] {
                callbacks.starts(follow(from, to, restart));
                let at_the_end = callbacks.attempted(to);
                let accepting = callbacks.accepts(to);
                let (first, second) = match event {
                    Event::RoleChange => (at_the_end, accepting),
                    _ => (accepting, at_the_end),
                };
                assert_eq!(first, call(event, to), "{from:?} to {to:?}, {restart}");
                assert_eq!(second, None, "{from:?} to {to:?}, {restart}");
            }
        }
    }

    #[test]
    fn b_25_a_change_of_role_is_told_although_nobody_saw_the_end_of_the_start() {
        let mut callbacks = called();
        callbacks.starts(follow(Role::Demoted, Role::Replica, false));
        assert_eq!(callbacks.accepts(Role::Replica), call(Event::RoleChange, Role::Replica));
        assert_eq!(callbacks.attempted(Role::Replica), None);
    }

    #[test]
    fn b_25_on_restart_once_it_accepts_and_no_on_stop() {
        let mut callbacks = called();
        callbacks.starts(How::Restart);
        assert_eq!(callbacks.attempted(Role::Primary), None, "still starting");
        assert_eq!(callbacks.accepts(Role::Promoted), call(Event::Restart, Role::Primary));
    }

    #[test]
    fn b_25_on_stop_for_a_server_that_ran() {
        let mut callbacks = called();
        callbacks.stops(Role::Replica, false);
        assert_eq!(callbacks.stopped(Role::Replica, false), None);
        callbacks.stops(Role::Promoted, true);
        assert_eq!(callbacks.stopped(Role::Demoted, true), call(Event::Stop, Role::Primary));
        assert_eq!(callbacks.stopped(Role::Primary, false), None, "told once");
        // The action that stopped it was given up; the next one finds nothing any more.
        callbacks.stops(Role::Primary, true);
        callbacks.stops(Role::Demoted, false);
        assert_eq!(callbacks.stopped(Role::Demoted, false), call(Event::Stop, Role::Primary));
        // What was due at the end of its start is not due any more.
        callbacks.starts(How::Start);
        callbacks.stops(Role::Replica, true);
        assert!(callbacks.stopped(Role::Replica, true).is_some());
        assert_eq!(callbacks.attempted(Role::Replica), None);
        // Somebody starts it by hand.
        assert_eq!(callbacks.accepts(Role::Replica), call(Event::Start, Role::Replica));
        assert_eq!(callbacks.accepts(Role::Replica), None);
        // A crash recovery finds nothing to stop, and tells nothing.
        let mut recovered = Callbacks::default();
        assert_eq!(recovered.stopped(Role::Replica, false), None);
        assert_eq!(recovered.accepts(Role::Replica), call(Event::Start, Role::Replica));
    }

    #[test]
    fn b_25_nothing_while_a_cluster_is_made() {
        let mut callbacks = Callbacks::default();
        callbacks.bootstraps();
        callbacks.starts(How::Start);
        assert_eq!(callbacks.accepts(Role::Uninitialized), None);
        assert_eq!(callbacks.reloaded(Role::Primary), None);
        callbacks.stops(Role::Primary, true);
        assert_eq!(callbacks.stopped(Role::Primary, true), None);
        assert_eq!(callbacks.bootstrapped(Role::Primary), call(Event::Start, Role::Primary));
        assert_eq!(callbacks.accepts(Role::Primary), None, "on_start was called");
        assert_eq!(callbacks.changes_role(Role::Promoted), call(Event::RoleChange, Role::Primary));
        // The cluster is somebody else's after all: what this node does next is told.
        let mut lost = Callbacks::default();
        lost.bootstraps();
        lost.bootstraps_no_more();
        assert_eq!(lost.stopped(Role::Primary, true), call(Event::Stop, Role::Primary));
    }

    #[test]
    fn b_25_names_of_the_events() {
        let names = Event::ALL.map(Event::name);
        assert_eq!(names, ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"]);
    }
}
