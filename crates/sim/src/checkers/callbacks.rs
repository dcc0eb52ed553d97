//! Whoever believes the operator's callbacks is right: what was told last is what the server is, once it has had a moment,
//! nobody hears of a primary that is none, and nothing is told of a cluster that is not there yet.

use std::{collections::BTreeMap, time::Duration};

use ptarmigan_ha::callbacks::{Call, Event};
use ptarmigan_types::{MemberState, Monotonic, Role};

use super::{Violation, wrong};
use crate::{postgres::Process, world::World};

/// How long something may be told late.
const SETTLE: Duration = Duration::from_secs(15);

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    /// What was told last by each member, `on_reload` left out.
    last: BTreeMap<usize, Call>,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// A callback is run. `writes`: the server is a primary, or about to become one.
    pub fn called(&mut self, at: Monotonic, member: usize, call: Call, writes: bool, initialized: bool) {
        let Call { event, role } = call;
        let told = format!("m{member} told {} {role}", event.name());
        if !initialized {
            self.violation.get_or_insert_with(|| {
                wrong("callbacks", at, format!("{told} while there was no cluster yet"))
            });
        }
        if role == Role::Primary && !matches!(event, Event::Stop | Event::Reload) && !writes {
            self.violation.get_or_insert_with(|| wrong("callbacks", at, format!("{told}, but it is none")));
        }
        if event != Event::Reload {
            self.last.insert(member, call);
        }
    }

    /// The daemon is another one: what the one before it told is not its own.
    pub fn daemon_starts(&mut self, member: usize) {
        self.last.remove(&member);
    }
}

/// Looks at every member whose server has been what it is for a while.
pub fn judge(world: &World) -> Option<Violation> {
    (0..world.members.len()).find_map(|member| objection(world, member))
}

fn objection(world: &World, member: usize) -> Option<Violation> {
    let this = &world.members[member];
    let settled = |since: Monotonic| world.now.since(since) > SETTLE;
    let still = this.is_alive() && !this.trouble.is_frozen(world.now) && this.job.is_none();
    let up = this.postgres.process == Process::Up && this.state == MemberState::Running;
    let role = match this.role {
        Role::Primary | Role::Promoted if this.postgres.is_writable() => Role::Primary,
        Role::Replica if this.postgres.in_recovery => Role::Replica,
        _ => return None,
    };
    if !still || !up || !settled(this.state_since) || !settled(this.role_since) {
        return None;
    }
    let last = world.checks.callbacks.last.get(&member);
    // In pause nobody is told of the step from one to the other, and neither may be written to.
    let means = |told: Role| if told == Role::Demoted { Role::Replica } else { told };
    let agrees = last.is_some_and(|call| means(call.role) == role && call.event != Event::Stop);
    let told = last.map_or_else(|| "nothing".into(), |call| format!("{} {}", call.event.name(), call.role));
    let what = || format!("m{member} has been a {role} for a while, and told {told} last");
    (!agrees).then(|| wrong("callbacks", world.now, what()))
}
