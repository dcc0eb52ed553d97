//! The client in the daemon, as the real one behaves: the lease is seen to first, an attempt has its share of the time, and
//! what is repeated, and what a lost answer means, is told apart by operation (contract A.5, "which calls retry", "Error
//! classes").

mod answers;

use std::time::Duration;

use ptarmigan_ha::{Outcome, lease::Asked};
use ptarmigan_types::{LeaseId, Monotonic, Revision};

use super::{Answer, Body};
use crate::{
    bugs::Bug,
    member::{Call, OwnLease, Timing, Waiter},
    store::{Compare, Condition, Then},
    world::{Event, Moment, World},
};

/// The read of everything that fills the copy.
pub const READ: Call = Call::Read;
/// The first pause between two rounds; each next one is twice as long, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Up to so much is added to a pause, in milliseconds.
const JITTER_MAX_MILLIS: u64 = 800;
/// An attempt is never shorter.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);
/// Nodes of etcd; each gets its share of the time.
const ETCD_NODES: u32 = 3;
/// Attempts on Consul's agent that share the time.
const CONSUL_ATTEMPTS: u32 = 3;
/// After the lease was refreshed, a race or renewal needs at least so much time.
const TIME_LEFT_MIN: Duration = Duration::from_secs(1);

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Another operation refreshes the lease.
    Queued,
    /// It refreshes the lease.
    Lease,
    /// It asks for what it is about.
    Keys,
}

/// What an operation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// The answer to what was sent.
    Answer,
    /// That there is no connection: nothing was sent.
    Refusal,
    /// The end of a pause.
    Pause,
}

/// An operation in flight.
#[derive(Debug)]
pub struct Flight {
    waiter: Waiter,
    call: Call,
    /// Of which leadership it was asked.
    asked: Asked,
    /// When it was asked for.
    begun: Monotonic,
    /// A renewal was asked for, of a lock that was given up.
    released_again: bool,
    /// When whoever waits loses patience.
    ends: Monotonic,
    /// The client's own limit.
    deadline: Monotonic,
    /// When it is looked at again.
    alarm: Option<Monotonic>,
    step: Step,
    request: Body,
    /// The attempt's number.
    attempt: u64,
    /// When it was sent.
    sent: Monotonic,
    waits: Waits,
    /// For how long.
    until: Monotonic,
    /// Attempts since the last pause.
    attempts: u32,
    pause: Duration,
    /// An earlier attempt of this request may have been carried out.
    sent_before: bool,
    /// The lease it writes with.
    lease: Option<OwnLease>,
    /// The lease it began with.
    lease_before: Option<LeaseId>,
    /// The lease was lost once.
    again: bool,
    /// The key is put again on our lease.
    adopting: bool,
    /// How often a rebuild of the copy was demanded when it was sent.
    demanded: u64,
}

/// The outcome of an operation of somebody outside of the loop.
#[derive(Debug)]
pub struct Ended {
    /// Its outcome.
    pub outcome: Outcome,
    /// The lease that was used.
    pub lease: Option<OwnLease>,
    /// Of a write the key's revision, of an operation on the lock the key's create revision, else the store's.
    pub revision: Revision,
}

impl Flight {
    const fn on_lock(&self) -> bool {
        matches!(self.call, Call::Acquire | Call::Renew(_))
    }

    /// One attempt only.
    fn once(&self) -> bool {
        self.step == Step::Keys
            && match self.call {
                Call::Release(_) | Call::PutMember { .. } => true,
                Call::Write { key, .. } => !matches!(key, "initialize" | "leader" | "sync"),
                _ => false,
            }
    }

    /// Without an answer: it may have been carried out.
    fn maybe(&self) -> bool {
        // As long as a race sees to the lease, the key was not touched.
        let untouched = matches!(self.call, Call::Acquire) && self.step != Step::Keys && !self.again;
        let sent = self.sent_before || self.step != Step::Queued && self.waits == Waits::Answer;
        sent && !untouched
    }

    /// What is asked of the keys.
    fn keys_request(&self, me: &str, fresh: bool, seen: Revision, bug: Option<Bug>) -> Body {
        let lease = self.lease.as_ref().map(|lease| lease.id.clone());
        let put_me = || Then::Put { value: me.to_owned(), lease: lease.clone() };
        let compare = |held: &ptarmigan_types::Leader| {
            vec![Compare::Value(me.to_owned()), Compare::CreateRevision(held.create_revision)]
        };
        let on_leader =
            |compares: Vec<Compare>, then| Body::Transaction { key: "leader".into(), compares, then };
        match &self.call {
            Call::Read => Body::Range { fresh, not_before: seen },
            Call::ReadFresh | Call::KeepLease { .. } => Body::Range { fresh: true, not_before: seen },
            Call::Acquire => on_leader(vec![Compare::Absent], put_me()),
            Call::Renew(held) if self.adopting => on_leader(compare(held), put_me()),
            Call::Renew(held) => {
                let mut compares = compare(held);
                compares.extend(lease.map(Compare::Lease));
                on_leader(compares, Then::Nothing)
            }
            Call::Release(_) if bug == Some(Bug::ReleaseWithoutCompare) => {
                on_leader(Vec::new(), Then::Delete)
            }
            Call::Release(held) => on_leader(compare(held), Then::Delete),
            Call::PutMember { json, .. } => {
                let then = Then::Put { value: json.clone(), lease };
                Body::Transaction { key: format!("members/{me}").into(), compares: Vec::new(), then }
            }
            Call::Write { key, value, condition } => {
                let then = value
                    .as_ref()
                    .map_or(Then::Delete, |value| Then::Put { value: value.clone(), lease: None });
                Body::Transaction { key: (*key).into(), compares: compares(*condition), then }
            }
            Call::DeleteAll => Body::DeleteAll,
        }
    }
}

/// A condition as the store compares it.
pub fn compares(condition: Condition) -> Vec<Compare> {
    match condition {
        Condition::Always => Vec::new(),
        Condition::Absent => vec![Compare::Absent],
        Condition::Revision(revision) => vec![Compare::Revision(revision)],
    }
}

fn unanswered(maybe: bool) -> Outcome {
    let reason = if maybe { "no answer, the request may have been carried out" } else { "not accessible" };
    Outcome::NoAnswer { maybe, reason: reason.into() }
}

impl World {
    /// As the agent keeps it: a lock whose release was sent is nothing to lead on. The contract knows no such thing.
    pub fn gave_up(&self, member: usize, create_revision: Revision) -> bool {
        let this = &self.members[member];
        this.timing == Timing::Own && this.lease.is_given_up(create_revision)
    }

    /// Begins an operation; its end comes to the waiter.
    pub fn call(&mut self, member: usize, waiter: Waiter, call: Call, limit: Duration) {
        let mut call = call;
        let mut again = false;
        match &call {
            Call::Acquire => self.doom(member, Moment::Races),
            Call::Release(held) => {
                self.members[member].lease.give_up(held.create_revision);
                self.doom(member, Moment::Releases);
            }
            Call::Renew(held) if self.gave_up(member, held.create_revision) => {
                call = Call::Release(held.clone());
                again = true;
            }
            _ => {}
        }
        let id = self.fresh();
        let now = self.now;
        let this = &self.members[member];
        let on_lease =
            matches!(call, Call::Acquire | Call::Renew(_) | Call::PutMember { .. } | Call::KeepLease { .. });
        let flight = Box::new(Flight {
            waiter,
            call,
            asked: this.lease.ask(),
            begun: now,
            released_again: again,
            ends: now + limit,
            deadline: now + this.settings.retry_timeout,
            alarm: None,
            step: Step::Keys,
            request: Body::DeleteAll,
            attempt: 0,
            sent: now,
            waits: Waits::Pause,
            until: now,
            attempts: 0,
            pause: PAUSE_MIN,
            sent_before: false,
            lease: None,
            lease_before: this.own_lease.as_ref().map(|lease| lease.id.clone()),
            again: false,
            adopting: false,
            demanded: 0,
        });
        if on_lease { self.refresh(member, id, flight) } else { self.ask_keys(member, id, flight) }
    }

    /// Sees to the lease: kept alive unless that was done a moment ago, granted where there is none.
    fn refresh(&mut self, member: usize, id: u64, mut flight: Box<Flight>) {
        let this = &self.members[member];
        if this.flights.values().any(|other| other.step == Step::Lease) {
            flight.step = Step::Queued;
            flight.until = flight.ends;
            return self.goes_on(member, id, flight);
        }
        let force = flight.on_lock() || matches!(flight.call, Call::KeepLease { force: true });
        let ttl = this.settings.ttl;
        match &this.own_lease {
            Some(own) if !force && self.now < own.due() => {
                flight.lease = Some(own.clone());
                flight.lease_before = None;
                self.next_in_line(member);
                self.leased(member, id, flight);
            }
            Some(own) => {
                let request = Body::KeepAlive(own.id.clone());
                self.begin(member, id, flight, Step::Lease, request);
            }
            None => self.begin(member, id, flight, Step::Lease, Body::Grant { ttl }),
        }
    }

    fn ask_keys(&mut self, member: usize, id: u64, flight: Box<Flight>) {
        let this = &self.members[member];
        // What fills the copy on etcd is linearizable.
        let request = flight.keys_request(&this.name.0, !self.store.consul, this.copy.seen(), self.bug);
        self.begin(member, id, flight, Step::Keys, request);
    }

    fn begin(&mut self, member: usize, id: u64, mut flight: Box<Flight>, step: Step, request: Body) {
        flight.step = step;
        flight.request = request;
        flight.attempts = 0;
        flight.pause = PAUSE_MIN;
        flight.sent_before = false;
        self.attempt(member, id, flight);
    }

    fn attempt(&mut self, member: usize, id: u64, mut flight: Box<Flight>) {
        let now = self.now;
        let this = &self.members[member];
        let (epoch, share) = (this.epoch, if self.store.consul { CONSUL_ATTEMPTS } else { ETCD_NODES });
        let limit = (this.settings.retry_timeout / share)
            .max(ATTEMPT_MIN.min(this.settings.retry_timeout / 3))
            .min(flight.deadline.since(now));
        flight.demanded = this.copy.demanded();
        flight.attempt = self.fresh();
        flight.sent = now;
        let wait = self.transit(member);
        if self.reaches_store(member) {
            flight.waits = Waits::Answer;
            flight.until = now + limit;
            let body = Box::new(flight.request.clone());
            self.after(wait, Event::Request { member, epoch, operation: flight.attempt, body });
        } else {
            flight.waits = Waits::Refusal;
            flight.until = now + wait;
        }
        self.goes_on(member, id, flight);
    }

    /// Puts an operation back, and sees to it that it is looked at again in time.
    fn goes_on(&mut self, member: usize, id: u64, mut flight: Box<Flight>) {
        let next = flight.until.min(flight.ends);
        if flight.alarm.is_none_or(|alarm| next < alarm) {
            flight.alarm = Some(next);
            let epoch = self.members[member].epoch;
            self.after(next.since(self.now), Event::GiveUp { member, epoch, operation: id });
        }
        self.members[member].flights.insert(id, flight);
    }

    /// Looks whether an operation waits for something that did not come.
    pub fn give_up(&mut self, member: usize, id: u64) {
        let now = self.now;
        let Some(mut flight) = self.members[member].flights.remove(&id) else { return };
        flight.alarm = flight.alarm.filter(|alarm| *alarm > now);
        if now >= flight.ends {
            let outcome = unanswered(flight.maybe());
            self.operation_ends(member, flight, outcome, 0);
        } else if flight.step == Step::Queued {
            self.refresh(member, id, flight);
        } else if now < flight.until {
            self.goes_on(member, id, flight);
        } else if flight.waits == Waits::Pause {
            self.attempt(member, id, flight);
        } else {
            self.attempt_failed(member, id, flight);
        }
    }

    fn attempt_failed(&mut self, member: usize, id: u64, mut flight: Box<Flight>) {
        let now = self.now;
        let sent = flight.waits == Waits::Answer;
        flight.sent_before |= sent;
        flight.attempts += 1;
        if flight.once() {
            let outcome = unanswered(flight.maybe());
            return self.operation_ends(member, flight, outcome, 0);
        }
        let round = if self.store.consul { 1 } else { ETCD_NODES };
        if sent && flight.attempts < round && now < flight.deadline {
            return self.attempt(member, id, flight);
        }
        let pause = flight.pause + self.random.millis(0, JITTER_MAX_MILLIS);
        if pause >= flight.deadline.since(now) {
            let outcome = unanswered(flight.maybe());
            return self.operation_ends(member, flight, outcome, 0);
        }
        flight.attempts = 0;
        flight.pause = (flight.pause * 2).min(PAUSE_MAX);
        flight.waits = Waits::Pause;
        flight.until = now + pause;
        self.goes_on(member, id, flight);
    }
}
