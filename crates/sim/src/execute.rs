//! Actions carried out in the model: what is done at once, and what is waited for.

use std::time::Duration;

use ptarmigan_ha::{
    Action, Outcome, Upstream,
    action::{Divergence, PeerAddress, RecoveryDifference, When},
    facts::PeerAnswer,
    patience::Leads,
};
use ptarmigan_types::{
    Cluster, History, Lsn, MemberData, MemberState, Role, Status, Timeline, history::HistoryEntry,
};
use serde_json::{Map, Value, json};

use crate::{
    bugs::{self, Bug, initialize_condition},
    member::{Asking, Call, Timing, Waiter},
    postgres::Process,
    store::Condition,
    world::{Event, World},
};

/// How long peers are waited for.
const PEERS_LIMIT: Duration = Duration::from_secs(2);

impl World {
    fn forget_lease(&mut self, member: usize) -> Outcome {
        if self.members[member].lease.until().is_some() {
            self.members[member].lease.forget();
        }
        Outcome::Done
    }

    /// Whether another member's server says that it is a primary.
    fn sees_primary(&self, member: usize, former: usize) -> bool {
        self.bug != Some(Bug::FormerLeaderNotAsked)
            && self.linked(member, former)
            && self.members[former].postgres.is_writable()
    }

    /// Carries an action out; `None`: its outcome comes later.
    pub fn execute(&mut self, member: usize, action: &Action) -> Option<Outcome> {
        if let Some(outcome) = self.pretended(member, action) {
            return Some(outcome);
        }
        match action {
            Action::RenewLock(held) => {
                let limit = self.patience(member);
                self.ask_store(member, Call::Renew(held.clone()), limit)
            }
            Action::AcquireLock => self.acquire_lock(member),
            Action::ReleaseLock(held) => self.ask(member, Call::Release(held.clone())),
            Action::ForgetLease => Some(self.forget_lease(member)),
            Action::WriteStatus => self.write_status(member),
            Action::WriteMember => self.write_member(member),
            Action::WriteInitialize { value, when } => {
                let when = initialize_condition(self.bug, *when);
                self.write_key(member, "initialize", Some(value.clone()), when)
            }
            Action::DeleteInitialize => self.write_key(member, "initialize", None, When::Always),
            Action::WriteConfig => {
                let known = self.members[member].dynamic.clone();
                let text = known.map_or_else(
                    || self.scenario.dynamic.clone(),
                    |config| Value::Object(config).to_string(),
                );
                self.write_key(member, "config", Some(text), When::Always)
            }
            Action::ChangeConfig { value, revision } => {
                self.write_key(member, "config", Some(value.clone()), When::Revision(*revision))
            }
            Action::WriteFailsafe { members, when } => {
                self.write_key(member, "failsafe", Some(json!(members).to_string()), *when)
            }
            Action::AskFailsafe(members) => self.ask_failsafe(member, members),
            Action::ForgetFailsafe(until) => Some(self.forget_failsafe(member, *until)),
            Action::ClearFailover(when) => {
                if *when == When::Always {
                    // Won on an operator's wish, however long ago that was.
                    self.checks.durability.manual(self.now);
                }
                self.write_key(member, "failover", Some("{}".into()), *when)
            }
            Action::WriteSync { state, when } => {
                let state = bugs::synchronous::miswrite(self.bug, state);
                self.write_key(member, "sync", Some(state.to_json()), *when)
            }
            Action::DeleteSync(revision) => self.write_key(member, "sync", None, When::Revision(*revision)),
            Action::SetStandbyNames(wanted) => Some(self.set_names(member, wanted)),
            Action::SettleStandbyNames { names, from_nothing } => {
                Some(self.settle_names(member, names, *from_nothing))
            }
            Action::WriteFailover { value, revision } => {
                self.write_key(member, "failover", Some(value.clone()), When::Revision(*revision))
            }
            Action::UpdateHistory(timeline) => self.update_history(member, *timeline),
            Action::ReloadView(_) => match self.copied_view(member) {
                Some(view) => {
                    let view = self.see(member, view);
                    self.members[member].known = Some(view.clone());
                    Some(Outcome::View(view))
                }
                None => self.ask(member, Call::Read),
            },
            Action::AskPeers(peers) | Action::AskPeersAgain(peers) => self.ask_peers(member, peers),
            Action::StartJob(job) => Some(match self.begin_job(member, job.clone()) {
                Ok(()) => Outcome::Done,
                Err(reason) => Outcome::Failed(reason),
            }),
            on_node => self.on_node(member, on_node),
        }
    }

    fn acquire_lock(&mut self, member: usize) -> Option<Outcome> {
        if let Err(reason) = self.begin_race(member) {
            return Some(Outcome::Refused(reason));
        }
        self.checks.failsafe.leads(self.now, member, "races");
        let limit = self.members[member].settings.retry_timeout;
        self.ask_store(member, Call::Acquire, limit)
    }

    fn on_node(&mut self, member: usize, action: &Action) -> Option<Outcome> {
        match action {
            Action::CancelJob => self.cancel_job(member),
            Action::ActivateWatchdog if self.lacks_watchdog(member) => {
                return Some(Outcome::Failed("no such device".into()));
            }
            Action::ActivateWatchdog => self.members[member].watchdog.running = true,
            Action::DisableWatchdog => self.members[member].watchdog.running = false,
            Action::ClearScheduledRestart => self.members[member].restart = None,
            Action::SetRole(role) => self.set_role(member, *role),
            Action::SetState(state) => self.set_state(member, *state),
            Action::CompareRecovery { upstream } => {
                return Some(self.compare_recovery(member, upstream.as_ref()));
            }
            Action::ReloadRecovery { upstream } => {
                let upstream = upstream.as_ref().and_then(|upstream| self.server_of(upstream));
                self.repoint(member, upstream);
                self.call_back(member, |callbacks, role| callbacks.reloaded(role));
            }
            Action::CheckDivergence { upstream } => {
                return Some(Outcome::Divergence(self.check_divergence(member, upstream)));
            }
            Action::AskWhetherPrimary { name, .. } => {
                let former = self.index(&name.0);
                return Some(Outcome::Primary(
                    former.is_some_and(|former| self.sees_primary(member, former)),
                ));
            }
            Action::ResumeReplay if self.members[member].postgres.promoting => {
                return Some(Outcome::Failed("standby promotion is ongoing".into()));
            }
            Action::EnsureCheckpoint if self.members[member].checkpoint => {
                let epoch = self.members[member].epoch;
                let wait = self.random.millis(50, 3000);
                self.after(wait, Event::Checkpointed { member, epoch });
            }
            Action::RunCallback(event) => {
                self.call_back(member, |callbacks, role| callbacks.run(*event, role));
            }
            Action::SyncSlots => {
                let to_copy = self.sync_slots(member);
                return Some(if to_copy.is_empty() { Outcome::Done } else { Outcome::SlotsToCopy(to_copy) });
            }
            Action::StopImmediate => {
                self.tell_stops(member);
                self.members[member].postgres.gone(false);
                self.tell_stopped(member);
                self.set_state(member, MemberState::Stopped);
            }
            Action::AbandonBootstrap | Action::RemoveDataDirectory => {
                let postgres = &mut self.members[member].postgres;
                postgres.gone(false);
                postgres.remove();
            }
            Action::Exit { stop_postgres, reason } => {
                self.note(member, &format!("exit: {reason}"));
                if *stop_postgres {
                    self.members[member].postgres.gone(true);
                }
                self.kill_daemon(member);
                self.after(Duration::from_secs(10), Event::Daemon(member));
                return None;
            }
            _ => {}
        }
        Some(Outcome::Done)
    }

    /// Notes a role.
    pub fn set_role(&mut self, member: usize, role: Role) {
        if self.members[member].role != role {
            self.members[member].role = role;
            self.members[member].role_since = self.now;
            self.tell_guardian(member);
        }
    }

    /// Notes a state; a change wakes the loop.
    pub fn set_state(&mut self, member: usize, state: MemberState) {
        if self.members[member].state != state {
            self.members[member].state = state;
            self.members[member].state_since = self.now;
            self.wake(member);
        }
    }

    fn ask_store(&mut self, member: usize, call: Call, limit: Duration) -> Option<Outcome> {
        self.call(member, Waiter::Loop, call, limit);
        None
    }

    /// What a leader asks besides the lock leaves time for the next renewal.
    fn ask(&mut self, member: usize, call: Call) -> Option<Outcome> {
        let limit = self.write_limit(member);
        self.ask_store(member, call, limit)
    }

    /// How long a write is waited for.
    pub fn write_limit(&self, member: usize) -> Duration {
        let this = &self.members[member];
        let retry_timeout = this.settings.retry_timeout;
        if !this.leads(self.now) || this.timing == Timing::Contract {
            return retry_timeout;
        }
        let leads = self.leads_until(member).map(|until| Leads { until, ttl: this.settings.ttl });
        leads.map_or(retry_timeout, |leads| leads.for_the_rest(self.now)).min(retry_timeout)
    }

    fn write_key(
        &mut self,
        member: usize,
        key: &'static str,
        value: Option<String>,
        when: When,
    ) -> Option<Outcome> {
        let condition = match when {
            When::Always => Condition::Always,
            When::Absent => Condition::Absent,
            When::Revision(revision) => Condition::Revision(revision),
        };
        self.ask(member, Call::Write { key, value, condition })
    }

    fn write_status(&mut self, member: usize) -> Option<Outcome> {
        let this = &self.members[member];
        if this.postgres.process != Process::Up {
            return Some(Outcome::Done);
        }
        let status = Status {
            last_lsn: self.members[member].postgres.end(),
            slots: self.published_slots(member),
            retain_slots: self.retained_slots(member),
        };
        let this = &self.members[member];
        if this.known.as_ref().is_some_and(|view| view.status == status) {
            return Some(Outcome::Done);
        }
        self.write_key(member, "status", Some(status.to_json()), When::Always)
    }

    fn write_member(&mut self, member: usize) -> Option<Outcome> {
        match self.member_call(member) {
            None => Some(Outcome::Done),
            Some(call) => self.ask(member, call),
        }
    }

    /// The write of the member key; `None` where nothing is to be done.
    pub fn member_call(&self, member: usize) -> Option<Call> {
        let this = &self.members[member];
        let data = self.member_data(member);
        let mine = this.known.as_ref().and_then(|view| view.member(&this.name));
        let lease = this.own_lease.as_ref();
        let unchanged = mine.is_some_and(|mine| {
            mine.lease.as_ref() == lease.map(|lease| &lease.id) && mine.data.equal_by_text(&data)
        });
        let young = lease.is_some_and(|lease| self.now < lease.due());
        (!(unchanged && young)).then(|| Call::PutMember { json: data.to_json(), unchanged })
    }

    fn member_data(&self, member: usize) -> MemberData {
        let this = &self.members[member];
        let name = &this.name;
        let mut data = Map::new();
        if self.scenario.guardians && this.timing == Timing::Own {
            data.insert("guardian".into(), json!("armed"));
        }
        data.insert("conn_url".into(), json!(format!("postgres://{name}:5432/postgres")));
        data.insert("api_url".into(), json!(format!("http://{name}:8008/patroni")));
        data.insert("state".into(), json!(this.state));
        data.insert("role".into(), json!(this.role));
        data.insert("version".into(), json!("4.1.4"));
        if this.checkpoint && this.leads(self.now) {
            data.insert("checkpoint_after_promote".into(), json!(false));
        }
        if !this.settings.tags.0.is_empty() {
            data.insert("tags".into(), json!(this.settings.tags));
        }
        if this.postgres.process == Process::Up && this.state == MemberState::Running {
            data.insert("xlog_location".into(), json!(this.postgres.end()));
            data.insert("timeline".into(), json!(this.postgres.timeline));
        }
        MemberData(data)
    }

    fn update_history(&mut self, member: usize, timeline: Timeline) -> Option<Outcome> {
        let wall = self.wall();
        let this = &self.members[member];
        let mut entries = this.postgres.history.clone();
        if timeline > 1 && entries.is_empty() {
            return Some(Outcome::Done);
        }
        let old = this.known.as_ref().and_then(|view| view.history.clone());
        let known = old.and_then(|history| history.entries).unwrap_or_default();
        if let Some(last) = entries.last().filter(|last| last.timeline + 1 < timeline).cloned() {
            entries.push(HistoryEntry { timeline: timeline - 1, reason: "skipped".into(), ..last });
        }
        for entry in &mut entries {
            if let Some(old) = known.iter().find(|old| old.timeline == entry.timeline && old.lsn == entry.lsn)
            {
                *entry = old.clone();
            }
        }
        if let Some(newest) = entries.last_mut() {
            newest.timestamp = Some(wall.to_string());
            newest.new_leader = Some(this.name.0.clone());
        }
        let text = History { entries: Some(entries), revision: 0 }.to_json();
        self.write_key(member, "history", Some(text), When::Always)
    }

    fn ask_peers(&mut self, member: usize, peers: &[PeerAddress]) -> Option<Outcome> {
        let operation = self.fresh();
        let epoch = self.members[member].epoch;
        let mut limit = Duration::from_millis(1);
        for address in peers {
            let Some(peer) = self.index(&address.name.0) else { continue };
            let wait = self.random.millis(1, 20);
            let silent = !self.linked(member, peer);
            limit = limit.max(if silent { PEERS_LIMIT } else { wait * 2 });
            self.after(wait, Event::PeerAsked { member, epoch, operation, peer });
        }
        self.members[member].asking = Some(Asking { operation, peers: peers.to_vec(), answers: Vec::new() });
        self.after(limit, Event::PeersDone { member, epoch, operation });
        None
    }

    /// A peer says what is true at this moment. Without a position it says nothing (contract HN-3).
    pub fn peer_asked(&mut self, member: usize, operation: u64, peer: usize) {
        if !self.linked(member, peer) || !self.members[peer].is_alive() {
            return;
        }
        let them = &self.members[peer];
        let silent = them.trouble.is_frozen(self.now) || them.trouble.hung;
        if silent || matches!(them.phase, crate::member::Phase::FirstLook) {
            return;
        }
        let asks = |asking: &&mut Asking| asking.operation == operation;
        if them.role == Role::Uninitialized && !them.postgres.present {
            let answer = PeerAnswer::without_data(them.name.clone());
            if let Some(asking) = self.members[member].asking.as_mut().filter(asks) {
                asking.answers.push(answer);
            }
            return;
        }
        if them.postgres.process != Process::Up {
            return;
        }
        let writable = them.postgres.is_writable();
        let in_recovery = !writable && them.role != Role::Primary;
        let answer = PeerAnswer {
            name: them.name.clone(),
            in_recovery,
            lsn: if in_recovery { them.postgres.end() } else { Lsn::ZERO },
            timeline: Some(them.postgres.timeline),
            tags: them.settings.tags.clone(),
            watchdog_failed: self.lacks_watchdog(peer) && !them.watchdog.running,
            ailing: false,
            streaming: them.postgres.streams_from.is_some(),
            without_data: false,
        };
        if let Some(asking) = self.members[member].asking.as_mut().filter(asks) {
            asking.answers.push(answer);
        }
    }

    /// The loop has what the peers said.
    pub fn peers_done(&mut self, member: usize, operation: u64) {
        if self.members[member].asking.as_ref().is_some_and(|asking| asking.operation == operation)
            && let Some(mut asking) = self.members[member].asking.take()
        {
            asking.answers.sort_by(|one, other| one.name.cmp(&other.name));
            let standbys =
                asking.answers.iter().filter(|answer| answer.in_recovery && answer.limitation().is_none());
            let positions = standbys.map(|answer| (answer.timeline.unwrap_or_default(), answer.lsn));
            self.members[member].best_peer = positions.max();
            self.loop_answered(member, Outcome::Peers(asking.answers));
        }
    }

    fn compare_recovery(&self, member: usize, upstream: Option<&Upstream>) -> Outcome {
        let wanted = upstream.and_then(|upstream| self.server_of(upstream));
        let postgres = &self.members[member].postgres;
        Outcome::Recovery(if !postgres.standby_signal {
            RecoveryDifference::Restart
        } else if postgres.upstream == wanted {
            RecoveryDifference::None
        } else {
            RecoveryDifference::Reload
        })
    }

    fn check_divergence(&self, member: usize, upstream: &Upstream) -> Divergence {
        let Some(leader) = self.server_of(upstream) else { return Divergence::Unknown };
        if self.bug == Some(Bug::DivergenceIgnored) {
            return Divergence::SameHistory;
        }
        let theirs = self.server(leader);
        if !self.reaches(member, leader) || !theirs.is_writable() {
            return Divergence::Unknown;
        }
        self.members[member].postgres.divergence(theirs)
    }

    /// Whom this member follows in the view as it is now.
    pub fn node_to_follow(&self, member: usize) -> Option<usize> {
        let this = &self.members[member];
        let cluster: &Cluster = this.known.as_ref()?;
        let upstream = ptarmigan_ha::node_to_follow(&this.name, &this.settings, cluster)?;
        self.server_of(&upstream)
    }
}
