//! The way to the store and back: requests and answers that take time and get lost, leases, and the watched copy.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ptarmigan_ha::Outcome;
use ptarmigan_types::{Cluster, LeaseId, Monotonic, RawValue, Revision};

use crate::{
    bugs::Bug,
    member::{Call, Flight, OwnLease, Waiter},
    store::Condition,
    world::{Event, World},
};

/// How long a watch may be silent before its copy is not believed any more.
const WATCH_BROKEN: Duration = Duration::from_secs(3);

/// One request.
#[derive(Clone, Debug)]
pub enum Body {
    /// Renew this lease, or grant another one.
    Refresh {
        /// The lease.
        lease: Option<LeaseId>,
        /// What to ask for.
        ttl: Duration,
    },
    /// One transaction on keys.
    Keys {
        /// Which.
        call: Call,
        /// The lease for what is written.
        lease: Option<LeaseId>,
    },
}

/// One answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A living lease.
    Lease {
        /// Which.
        id: LeaseId,
        /// Its TTL.
        ttl: Duration,
    },
    /// The lock is ours.
    Held,
    /// The store says no.
    Refused(String),
    /// Done.
    Applied,
    /// All keys.
    Keys(BTreeMap<String, RawValue>),
}

impl World {
    /// Begins an operation; its end comes to the waiter.
    pub fn call(&mut self, member: usize, waiter: Waiter, call: Call, limit: Duration) {
        let operation = self.fresh();
        let now = self.now;
        let this = &mut self.members[member];
        let epoch = this.epoch;
        let (forced, put) = match &call {
            Call::Acquire | Call::Renew(_) => (true, false),
            Call::PutMember { .. } => (false, true),
            _ => (false, false),
        };
        let loop_wait = this.settings.loop_wait;
        let old = this.own_lease.as_ref().is_none_or(|lease| now.since(lease.sent) >= loop_wait);
        let lease = this.own_lease.as_ref().map(|lease| lease.id.clone());
        let ttl = this.settings.ttl;
        let asked = this.lease.ends;
        this.flights.insert(operation, Flight { waiter, call: call.clone(), asked, sent: now });
        let body =
            if forced || put && old { Body::Refresh { lease, ttl } } else { Body::Keys { call, lease } };
        self.after(limit, Event::GiveUp { member, epoch, operation });
        self.send(member, operation, body);
    }

    fn send(&mut self, member: usize, operation: u64, body: Body) {
        let epoch = self.members[member].epoch;
        let wait = self.random.millis(1, 1 + self.network.store_millis);
        self.after(wait, Event::Request { member, epoch, operation, body: Box::new(body) });
    }

    /// Whether the store and this member hear each other.
    pub fn reaches_store(&self, member: usize) -> bool {
        !self.network.store_down && !self.network.store_cut.contains(&member) && self.members[member].machine
    }

    /// The store carries a request out.
    pub fn request_arrives(&mut self, member: usize, epoch: u64, operation: u64, body: &Body) {
        if !self.reaches_store(member) {
            return;
        }
        let answer = match body {
            Body::Refresh { lease, ttl } => self.refresh(lease.as_ref(), *ttl),
            Body::Keys { call, lease } => {
                let answer = self.on_keys(member, call, lease.as_ref());
                if self.random.percent(self.network.lost_percent) {
                    return;
                }
                answer
            }
        };
        let revision = self.store.revision();
        let wait = self.random.millis(1, 1 + self.network.store_millis);
        let answer = Box::new(answer);
        self.after(wait, Event::Answer { member, epoch, operation, revision, answer });
    }

    /// With Consul's timing a session lives up to twice as long as its TTL.
    fn refresh(&mut self, lease: Option<&LeaseId>, ttl: Duration) -> Answer {
        let consul = self.scenario.consul;
        let granted = if consul { ttl / 2 } else { ttl };
        let slack = if consul {
            Duration::from_micros(self.random.between(0, granted.as_micros() as u64))
        } else {
            self.random.millis(0, 700)
        };
        if let Some(id) = lease
            && let Some(known) = self.store.leases.get_mut(&id.0)
        {
            known.ends = self.now + known.ttl + slack;
            return Answer::Lease { id: id.clone(), ttl: known.ttl };
        }
        let id = self.store.grant(granted, self.now + granted + slack);
        self.after(granted + slack, Event::LeaseEnds(id.0.clone()));
        Answer::Lease { id, ttl: granted }
    }

    /// A lease may be over; without a quorum nothing ends.
    pub fn lease_ends(&mut self, id: &str) {
        let Some(lease) = self.store.leases.get(id) else { return };
        let left = lease.ends.since(self.now);
        if !left.is_zero() {
            self.after(left, Event::LeaseEnds(id.to_owned()));
        } else if self.network.store_down {
            self.after(Duration::from_millis(500), Event::LeaseEnds(id.to_owned()));
        } else {
            self.store.revoke(id);
            self.trace.note(self.now, "dcs", &format!("lease {id} ran out"));
            self.tell();
        }
    }

    fn on_keys(&mut self, member: usize, call: &Call, lease: Option<&LeaseId>) -> Answer {
        let alive = lease.is_some_and(|lease| self.store.leases.contains_key(&lease.0));
        let me = self.members[member].name.clone();
        let before = self.store.revision();
        let answer = match call {
            Call::Read => return Answer::Keys(self.store.keys.clone()),
            Call::Acquire | Call::Renew(_) | Call::PutMember { .. } if !alive => {
                Answer::Refused("the lease is lost".into())
            }
            Call::Acquire => match self.store.keys.get("leader") {
                None => {
                    self.store.put("leader", &me.0, lease.cloned());
                    Answer::Held
                }
                Some(raw) if raw.value == me.0 && raw.lease.as_ref() == lease => Answer::Held,
                Some(raw) => Answer::Refused(format!("the leader key is held by {:?}", raw.value)),
            },
            Call::Renew(held) => match self.store.keys.get("leader") {
                Some(raw) if raw.value == me.0 && raw.create_revision == held.create_revision => {
                    if raw.lease.as_ref() != lease {
                        self.store.put("leader", &me.0, lease.cloned());
                    }
                    Answer::Held
                }
                _ => Answer::Refused("the leader key is gone or another one".into()),
            },
            Call::Release(held) => {
                let mine = self
                    .store
                    .keys
                    .get("leader")
                    .is_some_and(|raw| raw.value == me.0 && raw.create_revision == held.create_revision);
                if mine || self.bug == Some(Bug::ReleaseWithoutCompare) {
                    self.store.remove("leader");
                    Answer::Applied
                } else {
                    Answer::Refused("the lock was not mine any more".into())
                }
            }
            Call::PutMember { json, .. } => {
                self.store.put(&format!("members/{me}"), json, lease.cloned());
                Answer::Applied
            }
            Call::Write { key, value, condition } => self.write(key, value.as_deref(), *condition),
        };
        if self.store.revision() > before {
            self.tell();
        }
        answer
    }

    /// A conditional write to the store by whoever reaches it.
    pub fn write(&mut self, key: &str, value: Option<&str>, condition: Condition) -> Answer {
        if !self.store.holds(key, condition) {
            return Answer::Refused("the key was changed by somebody else".into());
        }
        match value {
            Some(value) => drop(self.store.put(key, value, None)),
            None => self.store.remove(key),
        }
        if key == "initialize" {
            self.checks.initialize.written(self.now, value);
        }
        Answer::Applied
    }

    /// Every watch hears of changes, later.
    pub fn tell(&mut self) {
        for member in 0..self.members.len() {
            if !self.members[member].watch_pending {
                self.members[member].watch_pending = true;
                let wait = self.random.millis(1, 1 + self.network.store_millis);
                self.after(wait, Event::Watch(member));
            }
        }
    }

    /// A watch delivers.
    pub fn watch(&mut self, member: usize) {
        self.members[member].watch_pending = false;
        if self.reaches_store(member) && self.members[member].is_alive() {
            self.catch_up(member, self.store.revision());
        }
    }

    /// Brings the watched copy up to a revision, and wakes the loop where what changed matters.
    fn catch_up(&mut self, member: usize, revision: Revision) {
        let now = self.now;
        let this = &mut self.members[member];
        let leads = this.leads(now);
        let mut matters = false;
        let from = self.store.log.partition_point(|change| change.revision <= this.copy_revision);
        for change in self.store.log[from..].iter().take_while(|change| change.revision <= revision) {
            let before = match &change.value {
                Some(raw) => this.copy.insert(change.key.clone(), raw.clone()),
                None => this.copy.remove(&change.key),
            };
            let differs =
                before.as_ref().map(|raw| &raw.value) != change.value.as_ref().map(|raw| &raw.value);
            matters |= differs
                && match change.key.as_str() {
                    "leader" | "config" | "failover" => true,
                    "status" => !leads,
                    key if leads && key.starts_with("members/") => before.is_none() || change.value.is_none(),
                    _ => false,
                };
        }
        this.copy_revision = this.copy_revision.max(revision);
        if matters {
            self.wake(member);
        }
    }

    /// The watched copy, where it can be believed.
    pub fn copied_view(&mut self, member: usize) -> Option<Arc<Cluster>> {
        let now = self.now;
        let this = &mut self.members[member];
        if this.cut_since.is_some_and(|since| now.since(since) > WATCH_BROKEN) {
            return None;
        }
        Some(self.store.view(this.copy_revision, &this.copy))
    }

    /// The store answered.
    pub fn answer_arrives(&mut self, member: usize, operation: u64, revision: Revision, answer: Answer) {
        if !self.reaches_store(member) || !self.members[member].flights.contains_key(&operation) {
            return;
        }
        if let Answer::Lease { id, ttl } = answer {
            return self.lease_answered(member, operation, id, ttl);
        }
        if let Answer::Keys(keys) = &answer {
            let this = &mut self.members[member];
            if revision > this.copy_revision {
                this.copy.clone_from(keys);
                this.copy_revision = revision;
            }
        } else {
            self.catch_up(member, revision);
        }
        let Some(flight) = self.members[member].flights.remove(&operation) else { return };
        let outcome = self.outcome(member, &flight, &answer);
        self.call_ended(member, flight.waiter, outcome);
    }

    fn lease_answered(&mut self, member: usize, operation: u64, id: LeaseId, ttl: Duration) {
        let bug = self.bug;
        let this = &mut self.members[member];
        let Some(flight) = this.flights.get(&operation) else { return };
        let same = this.own_lease.as_ref().is_some_and(|lease| lease.id == id);
        this.own_lease = Some(OwnLease { id: id.clone(), sent: flight.sent, ttl });
        let call = flight.call.clone();
        let enough = match &call {
            Call::PutMember { unchanged, .. } => *unchanged && same,
            Call::Renew(_) => bug == Some(Bug::RenewalWithoutCompare),
            _ => false,
        };
        if enough {
            let Some(flight) = self.members[member].flights.remove(&operation) else { return };
            let outcome = self.outcome(member, &flight, &Answer::Held);
            self.call_ended(member, flight.waiter, outcome);
        } else {
            self.send(member, operation, Body::Keys { call, lease: Some(id) });
        }
    }

    fn outcome(&mut self, member: usize, flight: &Flight, answer: &Answer) -> Outcome {
        let (now, bug) = (self.now, self.bug);
        let this = &mut self.members[member];
        let on_lock = matches!(flight.call, Call::Acquire | Call::Renew(_));
        match answer {
            Answer::Held if on_lock => {
                let Some(lease) = &this.own_lease else { return Outcome::Refused("no lease".into()) };
                let from = if bug == Some(Bug::ValidityFromAnswer) { now } else { lease.sent };
                let until: Monotonic = from + lease.ttl;
                this.lease.hold(flight.asked, until);
                self.watch_overrun(member);
                Outcome::Held { until }
            }
            Answer::Refused(reason) => {
                if on_lock {
                    this.lease.forget();
                }
                if reason == "the lease is lost" {
                    this.own_lease = None;
                }
                Outcome::Refused(reason.clone())
            }
            Answer::Keys(_) => {
                this.cut_since = None;
                match self.copied_view(member) {
                    Some(view) => Outcome::View(view),
                    None => Outcome::Failed("no copy".into()),
                }
            }
            _ => Outcome::Done,
        }
    }

    /// No answer came in time.
    pub fn give_up(&mut self, member: usize, operation: u64) {
        if let Some(flight) = self.members[member].flights.remove(&operation) {
            let outcome = Outcome::NoAnswer { maybe: true, reason: "no answer in time".into() };
            self.call_ended(member, flight.waiter, outcome);
        }
    }

    fn call_ended(&mut self, member: usize, waiter: Waiter, outcome: Outcome) {
        match waiter {
            Waiter::Loop => self.loop_answered(member, outcome),
            Waiter::Job(number) => {
                if self.members[member].job.as_ref().is_some_and(|job| job.number == number) {
                    self.job_goes_on(member, number);
                }
            }
        }
    }
}
