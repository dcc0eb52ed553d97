//! The client in the daemon, as the real one behaves: the lease is seen to first, an attempt has its share of the time, and
//! what is repeated, and what a lost answer means, is told apart by operation (contract A.5, "which calls retry", "Error
//! classes").

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::Outcome;
use ptarmigan_types::{LeaseId, Monotonic, RawValue, Revision};

use super::{Answer, Body};
use crate::{
    bugs::Bug,
    faults::Fault,
    member::{Call, OwnLease, Waiter},
    store::{Compare, Condition, Keys, Then},
    world::{Event, World},
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
    /// The number of ends of leadership when it began.
    asked: u64,
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

fn refused(reason: &str) -> Outcome {
    Outcome::Refused(reason.into())
}

impl World {
    /// Begins an operation; its end comes to the waiter.
    pub fn call(&mut self, member: usize, waiter: Waiter, call: Call, limit: Duration) {
        let id = self.fresh();
        let now = self.now;
        let this = &self.members[member];
        let on_lease =
            matches!(call, Call::Acquire | Call::Renew(_) | Call::PutMember { .. } | Call::KeepLease { .. });
        let flight = Box::new(Flight {
            waiter,
            call,
            asked: this.lease.ends,
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
            Some(own) if !force && self.now.since(own.sent) < this.settings.loop_wait.min(own.ttl / 2) => {
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
        let limit = (this.settings.retry_timeout / share).max(ATTEMPT_MIN).min(flight.deadline.since(now));
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

    /// The store answered. The answer to an attempt that was given up is not heard any more.
    pub fn answer_arrives(&mut self, member: usize, attempt: u64, revision: Revision, answer: Answer) {
        if !self.reaches_store(member) {
            return;
        }
        let now = self.now;
        let this = &mut self.members[member];
        let waits = |flight: &Flight| flight.attempt == attempt && flight.waits == Waits::Answer;
        let Some(id) = this.flights.iter().find(|(_, flight)| waits(flight)).map(|(id, _)| *id) else {
            return;
        };
        let Some(mut flight) = this.flights.remove(&id) else { return };
        if !flight.request.is_on_lease() {
            this.copy.see(revision);
        }
        flight.until = now;
        match answer {
            Answer::Lease { id: lease, ttl } => self.lease_answered(member, id, flight, lease, ttl),
            Answer::LeaseNotFound => self.lease_lost(member, id, flight),
            Answer::Outcome { applied, key } => {
                self.transaction_answered(member, id, flight, applied, key, revision);
            }
            Answer::Keys(keys) => self.keys_answered(member, id, flight, &keys, revision),
            Answer::Deleted => {
                self.demand_rebuild(member);
                self.operation_ends(member, flight, Outcome::Done, revision);
            }
        }
    }

    fn lease_answered(
        &mut self,
        member: usize,
        id: u64,
        mut flight: Box<Flight>,
        lease: LeaseId,
        ttl: Duration,
    ) {
        let this = &mut self.members[member];
        let own = OwnLease { id: lease, sent: flight.sent, ttl };
        match &flight.request {
            Body::Grant { ttl } if *ttl == this.settings.ttl => this.own_lease = Some(own.clone()),
            Body::Grant { .. } => {}
            // Meanwhile a new TTL may have dropped it.
            _ if this.own_lease.as_ref().is_some_and(|known| known.id == own.id) => {
                this.own_lease = Some(own.clone());
            }
            _ => {
                let ttl = this.settings.ttl;
                return self.begin(member, id, flight, Step::Lease, Body::Grant { ttl });
            }
        }
        flight.lease = Some(own);
        self.next_in_line(member);
        self.leased(member, id, flight);
    }

    fn lease_lost(&mut self, member: usize, id: u64, mut flight: Box<Flight>) {
        let this = &mut self.members[member];
        let lost = match &flight.request {
            Body::KeepAlive(lease) => Some(lease),
            _ => flight.lease.as_ref().map(|lease| &lease.id),
        };
        if this.own_lease.as_ref().map(|own| &own.id) == lost {
            this.own_lease = None;
        }
        if flight.step == Step::Lease {
            let ttl = this.settings.ttl;
            return self.begin(member, id, flight, Step::Lease, Body::Grant { ttl });
        }
        if flight.on_lock() && !flight.again {
            flight.again = true;
            return self.refresh(member, id, flight);
        }
        self.refuse(member, flight, "the lease is lost");
    }

    /// Lets the next operation see to the lease.
    fn next_in_line(&mut self, member: usize) {
        let this = &self.members[member];
        let epoch = this.epoch;
        let queued = this.flights.iter().find(|(_, flight)| flight.step == Step::Queued);
        if let Some(operation) = queued.map(|(id, _)| *id) {
            self.after(Duration::ZERO, Event::GiveUp { member, epoch, operation });
        }
    }

    /// The lease is alive.
    fn leased(&mut self, member: usize, id: u64, flight: Box<Flight>) {
        let same = flight.lease.as_ref().map(|lease| &lease.id) == flight.lease_before.as_ref();
        let enough = match &flight.call {
            Call::KeepLease { .. } => true,
            Call::PutMember { unchanged, .. } => *unchanged && same,
            _ => false,
        };
        if enough {
            return self.operation_ends(member, flight, Outcome::Done, 0);
        }
        if let (Call::Renew(held), Some(Bug::RenewalWithoutCompare)) = (&flight.call, self.bug) {
            let created = held.create_revision;
            return self.held(member, flight, created);
        }
        if flight.on_lock() && flight.deadline.since(self.now) < TIME_LEFT_MIN {
            return self.operation_ends(member, flight, unanswered(false), 0);
        }
        self.ask_keys(member, id, flight);
    }

    fn keys_answered(
        &mut self,
        member: usize,
        id: u64,
        flight: Box<Flight>,
        keys: &Keys,
        revision: Revision,
    ) {
        if matches!(flight.call, Call::ReadFresh) {
            let view = self.store.view((revision, Vec::new()), keys);
            return self.operation_ends(member, flight, Outcome::View(view), revision);
        }
        let this = &mut self.members[member];
        let leads = this.leads(self.now);
        this.cut_since = None;
        if this.copy.load(keys, revision, flight.demanded, leads) {
            self.wake(member);
        }
        match self.copied_view(member) {
            Some(view) => self.operation_ends(member, flight, Outcome::View(view), revision),
            None => self.ask_keys(member, id, flight),
        }
    }

    fn transaction_answered(
        &mut self,
        member: usize,
        id: u64,
        flight: Box<Flight>,
        applied: bool,
        key: Option<Arc<RawValue>>,
        revision: Revision,
    ) {
        match &flight.call {
            Call::Acquire => self.raced(member, flight, key),
            Call::Renew(_) => self.compared(member, id, flight, applied, key),
            _ => self.written(member, flight, applied, key.as_ref(), revision),
        }
    }

    fn raced(&mut self, member: usize, flight: Box<Flight>, key: Option<Arc<RawValue>>) {
        let me = &self.members[member].name.0;
        let Some(raw) = key else {
            self.demand_rebuild(member);
            return self.refuse(member, flight, "the lock-delay is not over");
        };
        let ours = raw.value == *me && raw.lease.as_ref() == flight.lease.as_ref().map(|lease| &lease.id);
        if !ours {
            self.demand_rebuild(member);
            return self.refuse(member, flight, &format!("the leader key is held by {:?}", raw.value));
        }
        self.show(member, &"leader".into(), Some(&raw), raw.revision);
        self.held(member, flight, raw.create_revision);
    }

    fn compared(
        &mut self,
        member: usize,
        id: u64,
        mut flight: Box<Flight>,
        applied: bool,
        key: Option<Arc<RawValue>>,
    ) {
        let Call::Renew(held) = &flight.call else { return };
        let created = held.create_revision;
        let me = &self.members[member].name.0;
        if applied {
            if let Some(raw) = key.filter(|_| flight.adopting) {
                self.show(member, &"leader".into(), Some(&raw), raw.revision);
            }
            return self.held(member, flight, created);
        }
        match key {
            None => self.refuse(member, flight, "the leader key is gone"),
            Some(raw) if raw.value != *me => {
                self.refuse(member, flight, &format!("the leader key is held by {:?}", raw.value));
            }
            Some(raw) if raw.create_revision != created => {
                self.refuse(member, flight, "the leader key was created anew");
            }
            Some(_) if flight.adopting => self.refuse(member, flight, "the leader key changed meanwhile"),
            Some(_) => {
                flight.adopting = true;
                self.ask_keys(member, id, flight);
            }
        }
    }

    /// A write, a delete or a release.
    fn written(
        &mut self,
        member: usize,
        flight: Box<Flight>,
        applied: bool,
        key: Option<&Arc<RawValue>>,
        revision: Revision,
    ) {
        let Body::Transaction { key: name, then, .. } = &flight.request else { return };
        // The attempt before this one may have done it without an answer.
        let done = applied
            || flight.sent_before
                && match (then, key) {
                    (Then::Delete, None) => true,
                    (Then::Put { value, .. }, Some(raw)) => raw.value == *value,
                    _ => false,
                };
        if done {
            let revision = key.map_or(revision, |raw| raw.revision);
            let name = name.clone();
            self.show(member, &name, key, revision);
            return self.operation_ends(member, flight, Outcome::Done, revision);
        }
        self.demand_rebuild(member);
        let outcome = match &flight.call {
            Call::Release(_) => refused("the lock was not mine any more"),
            _ if flight.sent_before => unanswered(true),
            _ => refused("the key was changed by somebody else"),
        };
        self.operation_ends(member, flight, outcome, revision);
    }

    /// An own write is in the copy at once.
    fn show(&mut self, member: usize, key: &Arc<str>, raw: Option<&Arc<RawValue>>, revision: Revision) {
        let this = &mut self.members[member];
        let leads = this.leads(self.now);
        let matters = match raw {
            Some(raw) => this.copy.show_put(key, raw, leads),
            None => this.copy.show_delete(key, revision, leads),
        };
        if matters {
            self.wake(member);
        }
    }

    fn held(&mut self, member: usize, flight: Box<Flight>, created: Revision) {
        let Some(lease) = &flight.lease else { return };
        let from = if self.bug == Some(Bug::ValidityFromAnswer) { self.now } else { lease.sent };
        let until = from + lease.ttl;
        self.members[member].lease.hold(flight.asked, until);
        self.watch_overrun(member);
        if self.network.last_answer.remove(&member) {
            self.fault(Fault::StoreLost(member));
        }
        self.operation_ends(member, flight, Outcome::Held { until }, created);
    }

    fn refuse(&mut self, member: usize, flight: Box<Flight>, reason: &str) {
        if flight.on_lock() {
            self.members[member].lease.forget();
        }
        self.operation_ends(member, flight, refused(reason), 0);
    }

    fn operation_ends(&mut self, member: usize, flight: Box<Flight>, outcome: Outcome, revision: Revision) {
        if flight.step == Step::Lease {
            self.next_in_line(member);
        }
        match flight.waiter {
            Waiter::Loop => self.loop_answered(member, outcome),
            Waiter::Job(number) => {
                if self.members[member].job.as_ref().is_some_and(|job| job.number == number) {
                    self.job_goes_on(member, number);
                }
            }
            Waiter::Watch => self.rebuilt(member),
            Waiter::Caller(number) => {
                let ended = Ended { outcome, lease: flight.lease, revision };
                self.members[member].ended.insert(number, ended);
            }
        }
    }
}
