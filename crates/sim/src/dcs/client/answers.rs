//! What answers mean: the lease first, then the key, and what the copy, the lease and whoever waits learn from them.

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::Outcome;
use ptarmigan_types::{LeaseId, RawValue, Revision};

use super::{Answer, Body, Ended, Flight, Step, TIME_LEFT_MIN, Waits, unanswered};
use crate::{
    bugs::Bug,
    member::{Call, OwnLease, Waiter},
    store::{Keys, Then},
    world::{Event, Moment, World},
};

fn refused(reason: &str) -> Outcome {
    Outcome::Refused(reason.into())
}

impl World {
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
    pub(super) fn next_in_line(&mut self, member: usize) {
        let this = &self.members[member];
        let epoch = this.epoch;
        let queued = this.flights.iter().find(|(_, flight)| flight.step == Step::Queued);
        if let Some(operation) = queued.map(|(id, _)| *id) {
            self.after(Duration::ZERO, Event::GiveUp { member, epoch, operation });
        }
    }

    /// The lease is alive.
    pub(super) fn leased(&mut self, member: usize, id: u64, flight: Box<Flight>) {
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
        let least = TIME_LEFT_MIN.min(self.members[member].settings.retry_timeout / 4);
        if flight.on_lock() && flight.deadline.since(self.now) < least {
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
        if self.gave_up(member, raw.create_revision) {
            return self.refuse(member, flight, "this lock was given up");
        }
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
        self.tell_guardian(member);
        self.watch_overrun(member);
        let waited = self.now.since(flight.begun);
        self.doom(member, Moment::Confirmed);
        self.operation_ends(member, flight, Outcome::Held { until, waited }, created);
    }

    fn refuse(&mut self, member: usize, flight: Box<Flight>, reason: &str) {
        if flight.on_lock() {
            self.members[member].lease.forget();
        }
        self.operation_ends(member, flight, refused(reason), 0);
    }

    pub(super) fn operation_ends(
        &mut self,
        member: usize,
        flight: Box<Flight>,
        outcome: Outcome,
        revision: Revision,
    ) {
        if flight.step == Step::Lease {
            self.next_in_line(member);
        }
        let outcome = match outcome {
            Outcome::Done if flight.released_again => refused("this lock was given up"),
            Outcome::Done if matches!(flight.call, Call::Write { key: "sync", .. }) => {
                Outcome::Written(revision)
            }
            outcome => outcome,
        };
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
