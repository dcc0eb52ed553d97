//! The way to the store and back: requests and answers that take time and get lost, leases that run out, watches that hear
//! of changes.

pub mod client;
pub mod copy;

use std::time::Duration;

use ptarmigan_types::Revision;

pub use crate::store::{Answer, Request as Body};
use crate::{
    member::Waiter,
    store::{Condition, Expiry, Then},
    world::{Event, World},
};

/// How long a watch may be silent before its copy is not believed any more.
pub const WATCH_BROKEN: Duration = Duration::from_secs(3);
/// How soon it is looked again whether a lease that is over can be given up.
const NO_QUORUM_PAUSE: Duration = Duration::from_millis(500);

impl World {
    /// How long a message from or to the store takes.
    fn transit(&mut self, member: usize) -> Duration {
        let slow = self.network.slow_links.get(&member).copied().unwrap_or(0);
        self.random.millis(1, 1 + self.network.store_millis.max(slow))
    }

    /// Whether the store and this member hear each other.
    pub fn reaches_store(&self, member: usize) -> bool {
        !self.network.store_down && !self.network.store_cut.contains(&member) && self.members[member].machine
    }

    /// The store carries a request out.
    pub fn request_arrives(&mut self, member: usize, epoch: u64, operation: u64, body: &Body) {
        if !self.reaches_store(member) {
            return self.request_waits(member, epoch, operation, body);
        }
        let stale = Duration::from_millis(self.network.stale_millis);
        let before = self.store.history.newest();
        let holder = self.store.keys.get("leader").cloned();
        let (answer, revision) = self.store.carry_out(self.now, body, stale, &mut self.random);
        if self.store.history.newest() > before {
            self.carried_out(body);
            let after = self.store.keys.get("leader");
            self.checks.lock.changed(
                self.now,
                &self.members[member].name,
                holder.as_deref(),
                after.map(|raw| &**raw),
            );
            self.tell();
        }
        if let (Body::Grant { .. }, Answer::Lease { id, .. }) = (body, &answer) {
            let left =
                self.store.leases.get(&id.0).map_or(Duration::ZERO, |lease| lease.ends.since(self.now));
            self.after(left, Event::LeaseEnds(id.0.clone()));
        }
        if !body.is_on_lease() && self.random.percent(self.network.lost_percent) {
            return;
        }
        let wait = self.transit(member);
        let answer = Box::new(answer);
        self.after(wait, Event::Answer { member, epoch, operation, revision, answer });
    }

    /// What was sent into a way that carries nothing is sent again by the kernel, and may arrive long after whoever asked
    /// has given up, as long as the connection is not given up too: for a TTL.
    fn request_waits(&mut self, member: usize, epoch: u64, operation: u64, body: &Body) {
        let ttl = self.members[member].settings.ttl;
        let kept = self.members[member].machine && !self.network.store_down;
        let cut_since = self.members[member].cut_since.unwrap_or(self.now);
        if kept && self.now.since(cut_since) < ttl {
            let wait = self.random.millis(200, 3000);
            let body = Box::new(body.clone());
            self.after(wait, Event::Request { member, epoch, operation, body });
        }
    }

    /// What the checkers hear of writes.
    fn carried_out(&mut self, body: &Body) {
        if let Body::Transaction { key, then, .. } = body
            && &**key == "initialize"
        {
            let value = match then {
                Then::Put { value, .. } => Some(value.as_str()),
                _ => None,
            };
            self.checks.initialize.written(self.now, value);
        }
    }

    /// A lease may be over; without a quorum nothing ends.
    pub fn lease_ends(&mut self, id: &str) {
        if self.network.store_down {
            return self.after(NO_QUORUM_PAUSE, Event::LeaseEnds(id.to_owned()));
        }
        match self.store.expire(self.now, id) {
            Expiry::Gone => {}
            Expiry::Lives(left) => self.after(left, Event::LeaseEnds(id.to_owned())),
            Expiry::Over => {
                self.trace.note(self.now, "dcs", &format!("lease {id} ran out"));
                self.tell();
            }
        }
    }

    /// A conditional write, or a delete, by an operator who stands beside the store. Watches hear of it with the next
    /// [`World::tell`].
    pub fn write(&mut self, key: &str, value: Option<&str>, condition: Condition) -> Answer {
        let then = match value {
            Some(value) => Then::Put { value: value.to_owned(), lease: None },
            None => Then::Delete,
        };
        let compares = client::compares(condition);
        let body = Body::Transaction { key: key.into(), compares, then };
        let before = self.store.history.newest();
        let (answer, revision) = self.store.carry_out(self.now, &body, Duration::ZERO, &mut self.random);
        if revision > before {
            self.carried_out(&body);
        }
        answer
    }

    /// Every watch hears of changes, later.
    pub fn tell(&mut self) {
        self.store.history.mark(self.now);
        self.judge_keys();
        for member in 0..self.members.len() {
            self.watch_later(member);
        }
    }

    fn watch_later(&mut self, member: usize) {
        if std::mem::replace(&mut self.members[member].watch_pending, true) {
            return;
        }
        let mut wait = self.transit(member);
        if !self.store.consul && self.network.stale_millis > 0 {
            // The watch hangs on a server that is behind.
            wait += self.random.millis(0, self.network.stale_millis);
        }
        self.after(wait, Event::Watch(member));
    }

    /// A watch delivers what the store knew a moment ago, and goes on where that is not everything.
    pub fn watch(&mut self, member: usize) {
        self.members[member].watch_pending = false;
        if !self.reaches_store(member) || !self.members[member].is_alive() {
            return;
        }
        let copy = &mut self.members[member].copy;
        if copy.position() < self.store.history.compacted() {
            copy.lose();
        }
        if !copy.is_usable() {
            return self.rebuild(member);
        }
        let moment = ptarmigan_types::Monotonic(self.now.0.saturating_sub(1000));
        self.catch_up(member, self.store.history.revision_at(moment));
        if self.members[member].copy.position() < self.store.history.newest() {
            self.watch_later(member);
        }
    }

    /// Brings the watched copy up to a revision, and wakes the loop where what changed matters.
    fn catch_up(&mut self, member: usize, revision: Revision) {
        let this = &mut self.members[member];
        let changes = self.store.history.between(this.copy.position(), revision);
        if this.copy.follow(changes, revision, this.lease.is_held_at(self.now)) {
            self.wake(member);
        }
    }

    /// Reads everything anew, beside whatever else the daemon does.
    fn rebuild(&mut self, member: usize) {
        if !self.members[member].copy.begin_rebuild() {
            return;
        }
        let limit = self.members[member].settings.retry_timeout;
        self.call(member, Waiter::Watch, client::READ, limit);
    }

    /// Somebody saw that the copy is behind.
    fn demand_rebuild(&mut self, member: usize) {
        self.members[member].copy.demand_rebuild();
        self.rebuild(member);
    }

    /// The copy was read anew, or that failed.
    fn rebuilt(&mut self, member: usize) {
        let copy = &mut self.members[member].copy;
        copy.end_rebuild();
        if !copy.is_usable() {
            self.watch_later(member);
        }
    }
}
