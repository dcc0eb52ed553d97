//! Failsafe mode in the model: the leader's round over the network, and the members that promise, as the agent carries them
//! out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ptarmigan_ha::{
    Outcome,
    action::PeerAddress,
    failsafe::{Ledger, Standing, with_promised_leader},
    lease::Asked,
    observation::JobKind,
    patience::{Leads, TRIES},
};
use ptarmigan_types::{Cluster, FailsafeRequest, Lsn, MemberName, Monotonic, Revision, Role};

use crate::{
    bugs::Bug,
    member::{Member, Phase, Timing},
    postgres::Process,
    world::{Event, World},
};

/// A member's side of failsafe mode. The promise survives its daemon.
#[derive(Debug, Default)]
pub struct Failsafe {
    ledger: Ledger,
    /// The last holder of the lock that it saw, and the create revision of its lock.
    last_leader: Option<(MemberName, Revision)>,
    round: Option<Round>,
    races: bool,
}

/// A round of questions.
#[derive(Debug)]
struct Round {
    operation: u64,
    sent: Monotonic,
    asked: Asked,
    request: FailsafeRequest,
    limit: Duration,
    tries: u32,
    /// Who has not answered.
    silent: Vec<usize>,
    refused: bool,
    positions: BTreeMap<MemberName, Lsn>,
}

impl Failsafe {
    /// What is left of it in the next life of the daemon.
    pub fn stored(&self, now: Monotonic) -> Self {
        Self { ledger: Ledger::with(self.ledger.promise(now).cloned()), ..Self::default() }
    }
}

impl World {
    /// The promise that lasts until then is not owed any more.
    pub fn forget_failsafe(&mut self, member: usize, until: Option<Monotonic>) -> Outcome {
        if let Some(until) = until {
            self.members[member].failsafe.ledger.forget(until);
            self.checks.failsafe.forgotten(member, until);
        }
        Outcome::Done
    }

    /// A race begins, unless somebody has this member's promise.
    ///
    /// # Errors
    /// Somebody has.
    pub fn begin_race(&mut self, member: usize) -> Result<(), String> {
        if self.bug == Some(Bug::PromiseForgotten) {
            return Ok(());
        }
        let failsafe = &mut self.members[member].failsafe;
        failsafe.ledger.begin(self.now).map_err(|other| format!("promised {other} not to lead"))?;
        failsafe.races = true;
        Ok(())
    }

    /// And is over.
    pub fn end_race(&mut self, member: usize) {
        let failsafe = &mut self.members[member].failsafe;
        if std::mem::take(&mut failsafe.races) {
            failsafe.ledger.end();
        }
    }

    /// The promise that this member gave.
    pub fn promise(&self, member: usize) -> Option<ptarmigan_ha::failsafe::Promise> {
        let promise = self.members[member].failsafe.ledger.promise(self.now).cloned();
        promise.filter(|_| self.bug != Some(Bug::PromiseForgotten))
    }

    /// LV-2: what this member makes of a view.
    pub fn see(&mut self, member: usize, view: Arc<Cluster>) -> Arc<Cluster> {
        if let Some(leader) = view.leader.as_ref().filter(|leader| leader.create_revision > 0) {
            self.members[member].failsafe.last_leader = Some((leader.name.clone(), leader.create_revision));
        }
        let promise = self.promise(member);
        with_promised_leader(&view, promise.as_ref(), self.now).map_or(view, Arc::new)
    }

    /// Asks all of them for their promise; asks nobody where there is nobody.
    pub fn ask_failsafe(&mut self, member: usize, others: &[PeerAddress]) -> Option<Outcome> {
        let operation = self.fresh();
        let this = &self.members[member];
        let lock = this.failsafe.last_leader.as_ref().filter(|(name, _)| *name == this.name);
        let request = FailsafeRequest {
            name: this.name.clone(),
            conn_url: format!("postgres://{}:5432/postgres", this.name),
            api_url: format!("http://{}:8008/patroni", this.name),
            slots: this.slots.clone(),
            ttl: Some(this.settings.ttl),
            lock: lock.map(|(_, revision)| *revision),
            guarded: self.scenario.guardians && this.timing == Timing::Own,
        };
        let granted = self.now + this.lease.left_at(self.now);
        let until = self.leads_until(member).map_or(granted, |until| until.min(granted));
        let leads = Leads { until, ttl: self.members[member].settings.ttl };
        let this = &self.members[member];
        let silent = others.iter().filter_map(|peer| self.index(&peer.name.0)).collect();
        let round = Round {
            operation,
            sent: self.now,
            asked: this.lease.ask(),
            request,
            limit: leads.for_question(self.now),
            tries: 0,
            silent,
            refused: false,
            positions: BTreeMap::new(),
        };
        self.checks.counts.failsafe_rounds += 1;
        if round.silent.is_empty() {
            return Some(self.round_ends(member, round));
        }
        self.members[member].failsafe.round = Some(round);
        self.failsafe_try(member, operation);
        None
    }

    /// Asks those who are silent, until they were asked often enough.
    pub fn failsafe_try(&mut self, member: usize, operation: u64) {
        let epoch = self.members[member].epoch;
        let Some(mut round) = self.members[member].failsafe.round.take() else { return };
        if round.operation != operation {
            self.members[member].failsafe.round = Some(round);
            return;
        }
        if round.tries == TRIES {
            let outcome = self.round_ends(member, round);
            return self.loop_answered(member, outcome);
        }
        round.tries += 1;
        self.after(round.limit, Event::FailsafeTry { member, epoch, operation });
        for peer in round.silent.clone() {
            let wait = self.way(round.limit);
            let request = Box::new(round.request.clone());
            self.after(wait, Event::FailsafeAsked { member, epoch, operation, peer, request });
        }
        self.members[member].failsafe.round = Some(round);
    }

    /// How long a message takes: a few milliseconds, or longer than anybody waits.
    fn way(&mut self, limit: Duration) -> Duration {
        let slow = self.quiet_since.is_none() && self.random.percent(5);
        let longest = limit.as_millis().try_into().unwrap_or(u64::MAX);
        if slow { self.random.millis(20, 2 * longest) } else { self.random.millis(1, 20) }
    }

    /// A member is asked.
    pub fn failsafe_asked(
        &mut self,
        member: usize,
        epoch: u64,
        operation: u64,
        peer: usize,
        request: &FailsafeRequest,
    ) {
        let them = &self.members[peer];
        if !self.linked(member, peer) || matches!(them.phase, Phase::Dead | Phase::FirstLook) {
            return;
        }
        let standing = standing(them, self.now);
        let position = (them.postgres.process == Process::Up).then(|| them.postgres.end());
        let given = self.members[peer].failsafe.ledger.give(&standing, request, self.now);
        let promises = match &given {
            Ok(promise) => {
                let (until, to) = (promise.until, promise.to.clone());
                self.note(peer, &format!("promises {to} not to lead"));
                self.checks.failsafe.promised(peer, to, until);
                self.wake(peer);
                true
            }
            Err(refusal) => {
                self.note(peer, &format!("no promise to {}: {refusal}", request.name));
                false
            }
        };
        // It is on the disk before it is answered.
        let wait = self.way(Duration::from_secs(2)) + self.random.millis(1, 20);
        self.after(wait, Event::FailsafeAnswered { member, epoch, operation, peer, promises, position });
    }

    /// A member has answered.
    pub fn failsafe_answered(
        &mut self,
        member: usize,
        operation: u64,
        peer: usize,
        promises: bool,
        position: Option<Lsn>,
    ) {
        if !self.linked(member, peer) {
            return;
        }
        let name = self.members[peer].name.clone();
        let Some(round) = self.members[member].failsafe.round.as_mut() else { return };
        if round.operation != operation || !round.silent.contains(&peer) {
            return;
        }
        round.silent.retain(|silent| *silent != peer);
        round.refused |= !promises;
        round.positions.extend(position.map(|lsn| (name, lsn)));
        if round.silent.is_empty()
            && let Some(round) = self.members[member].failsafe.round.take()
        {
            let outcome = self.round_ends(member, round);
            self.loop_answered(member, outcome);
        }
    }

    /// All have answered, or those who have not will not be waited for.
    fn round_ends(&mut self, member: usize, round: Round) -> Outcome {
        let missing = if self.bug == Some(Bug::FailsafeMemberMissing) { 1 } else { 0 };
        if round.refused || round.silent.len() > missing {
            return Outcome::Refused("not everybody promises".into());
        }
        let from = if self.bug == Some(Bug::FailsafeFromAnswer) { self.now } else { round.sent };
        let until = from + self.members[member].settings.ttl;
        if until <= self.now {
            return Outcome::Failed("the answers came too late".into());
        }
        self.checks.counts.failsafe_passed += 1;
        self.members[member].lease.prolong(round.asked, until);
        self.tell_guardian(member);
        self.watch_overrun(member);
        let raw = self.store.keys.get("failsafe").map(|raw| raw.value.clone());
        let racers = raw.and_then(|text| serde_json::from_str::<BTreeMap<String, String>>(&text).ok());
        let racers = racers.unwrap_or_default().into_keys().filter_map(|name| self.index(&name));
        let racers: Vec<usize> = racers.filter(|racer| *racer != member).collect();
        let name = self.members[member].name.clone();
        self.checks.failsafe.passed(self.now, &name, until, &racers);
        Outcome::Promised { until, positions: round.positions }
    }
}

fn standing(them: &Member, now: Monotonic) -> Standing {
    let role_writes = matches!(them.role, Role::Primary | Role::Promoted);
    let begins = match them.job.as_ref().map(|job| job.kind) {
        Some(JobKind::Bootstrap | JobKind::PostBootstrap | JobKind::Promote | JobKind::StartPrimary) => true,
        Some(JobKind::Restart) => role_writes,
        _ => false,
    };
    let running = them.postgres.process != Process::Down;
    Standing {
        me: them.name.clone(),
        failsafe_mode: them.settings.failsafe_mode,
        ttl: them.settings.ttl,
        may_write: begins || running && (role_writes || them.postgres.is_writable()),
        leads: them.leads(now),
        last_leader: them.failsafe.last_leader.clone(),
    }
}
