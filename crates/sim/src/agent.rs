//! The daemon's loop as the agent runs it: view, renewal first, observation, rounds, sleep.

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::{
    Action, DemoteMode, Job, Memory, Observation, Outcome,
    action::ReloadAfter,
    callbacks::Callbacks,
    fence, health,
    observation::{
        ControlState, DataDirectory, GuardianView, JobKind, JobView, PostgresView, ServerFacts, WatchdogView,
    },
    patience::Leads,
};
use ptarmigan_types::{Cluster, Leader, MemberState, Monotonic, Role};

use crate::{
    bugs::{Bug, decide_with},
    member::{Acting, Begun, Call, Member, OwnLease, Phase, Timing, Waiter},
    postgres::Process,
    remote, synchronous,
    world::{Event, World},
};

/// More rounds than any sequence of the rules needs.
const ROUNDS_MAX: usize = 8;
/// Two cycles are never closer than this.
const BREATH: Duration = Duration::from_millis(10);
/// How soon a cycle that was cut goes on.
const CUT_PAUSE: Duration = Duration::from_secs(1);

impl World {
    /// The daemon of a running machine starts: it reads the DCS before anything else.
    pub fn start_daemon(&mut self, member: usize) {
        if !self.members[member].machine || self.members[member].is_alive() {
            return;
        }
        let now = self.now;
        let this = &mut self.members[member];
        this.forget(now);
        this.phase = Phase::FirstLook;
        this.state_since = now;
        let postgres = &this.postgres;
        (this.state, this.role) = match postgres.process {
            Process::Up if postgres.in_recovery => (MemberState::Running, Role::Replica),
            Process::Up => (MemberState::Running, Role::Primary),
            Process::Down if !postgres.present => (MemberState::Stopped, Role::Uninitialized),
            Process::Down
                if matches!(postgres.control, Some(ControlState::InProduction | ControlState::ShutDown)) =>
            {
                (MemberState::Stopped, Role::Demoted)
            }
            Process::Down => (MemberState::Stopped, Role::Replica),
            _ => (MemberState::Starting, Role::Replica),
        };
        this.role_since = now;
        let accepts = this.state == MemberState::Running;
        self.note(member, "daemon starts");
        self.checks.callbacks.daemon_starts(member);
        if accepts {
            self.call_back(member, Callbacks::accepts);
        }
        self.begin_cycle(member);
    }

    /// The daemon ends without a word; PostgreSQL goes on.
    pub fn kill_daemon(&mut self, member: usize) {
        self.note(member, "daemon killed");
        let postgres = &mut self.members[member].postgres;
        if postgres.process == Process::Stopping {
            // The postmaster goes on with what it was told.
            postgres.gone(true);
        }
        let now = self.now;
        self.members[member].forget(now);
    }

    /// Wakes the loop, now or as soon as its cycle is done.
    pub fn wake(&mut self, member: usize) {
        self.members[member].woken = true;
        if matches!(self.members[member].phase, Phase::Asleep) {
            self.sleep(member, BREATH);
        }
    }

    fn sleep(&mut self, member: usize, wait: Duration) {
        self.members[member].sleep += 1;
        let sleep = self.members[member].sleep;
        self.after(wait, Event::Wake { member, sleep });
    }

    /// Begins a cycle, or looks at the DCS for the first time.
    pub fn begin_cycle(&mut self, member: usize) {
        if matches!(self.members[member].phase, Phase::FirstLook) {
            let limit = self.members[member].settings.retry_timeout;
            return self.call(member, Waiter::Loop, Call::Read, limit);
        }
        self.tell_guardian(member);
        self.members[member].woken = false;
        self.members[member].phase = Phase::View;
        let copied = match self.members[member].timing {
            Timing::Own => self.copied_view(member),
            // Every cycle begins with a read of everything.
            Timing::Contract => None,
        };
        if let Some(view) = copied {
            self.viewed(member, Ok(view));
        } else {
            let limit = self.patience(member);
            self.call(member, Waiter::Loop, Call::Read, limit);
        }
    }

    /// A leader waits for the store only as long as there is time left to stop.
    pub fn patience(&self, member: usize) -> Duration {
        let this = &self.members[member];
        let retry_timeout = this.settings.retry_timeout;
        let Some(until) = self.leads_until(member).filter(|_| this.timing == Timing::Own) else {
            return retry_timeout;
        };
        let leads = Leads { until, ttl: this.settings.ttl };
        leads.for_store(self.now, retry_timeout, this.settings.failsafe_mode)
    }

    /// Until when nothing of a leader is ended by anybody else.
    pub fn leads_until(&self, member: usize) -> Option<Monotonic> {
        let this = &self.members[member];
        let until = this.lease.until()?;
        let guarded = self.scenario.guardians && this.timing == Timing::Own;
        Some(if guarded { fence::deadline(until, this.settings.ttl) } else { until })
    }

    fn viewed(&mut self, member: usize, view: Result<Arc<Cluster>, String>) {
        let view = view.map(|view| self.see(member, view));
        let this = &mut self.members[member];
        match &view {
            Ok(cluster) => {
                adopt(this, cluster);
                this.known = Some(cluster.clone());
            }
            Err(_) => this.known = None,
        }
        let synchronous = this.settings.synchronous;
        self.checks.strict.adopted(self.now, member, synchronous.is_on() && synchronous.strict);
        let this = &mut self.members[member];
        let lets_go = health::lets_lock_go(job_view(this, self.now).as_ref());
        if let (Ok(cluster), true) = (&view, lets_go) {
            let own = this.own_lease.as_ref().map(|lease| &lease.id);
            if health::lock_hangs_on(cluster, &this.name, own) {
                self.members[member].own_lease = None;
            }
        }
        let this = &mut self.members[member];
        let renews_first = this.timing == Timing::Own && !lets_go;
        let held = view.as_ref().ok().and_then(|cluster| cluster.leader.clone()).filter(|_| renews_first);
        if let (Ok(cluster), Some(held)) = (&view, held.filter(|held| held.name == this.name)) {
            this.phase = Phase::Renewal(cluster.clone());
            let limit = self.patience(member);
            return self.call(member, Waiter::Loop, Call::Renew(held), limit);
        }
        self.look(member, view, Vec::new());
    }

    fn look(&mut self, member: usize, view: Result<Arc<Cluster>, String>, outcomes: Vec<(Action, Outcome)>) {
        let now = self.now;
        let this = &mut self.members[member];
        let finished = std::mem::take(&mut this.finished);
        let job = job_view(this, now);
        this.phase = Phase::Looking(Box::new(Begun { view, outcomes, now, finished, job }));
        let epoch = this.epoch;
        let wait = self.random.millis(1, self.network.query_millis);
        self.after(wait, Event::Looked { member, epoch });
    }

    /// PostgreSQL answered: the observation is complete.
    pub fn looked(&mut self, member: usize) {
        let wall = self.wall();
        let now = self.now;
        self.claim_names(member);
        let postgres = self.postgres_view(member);
        let watchdog = self.watchdog_view(member);
        let this = &mut self.members[member];
        let Phase::Looking(begun) = std::mem::take(&mut this.phase) else { return };
        let begun = *begun;
        this.phase = Phase::View;
        let mut postgres = postgres;
        postgres.in_state_for = begun.now.since(this.state_since).max(now.since(this.state_since));
        let observation = Observation {
            now: begun.now,
            wall,
            me: this.name.clone(),
            settings: this.settings.clone(),
            view: begun.view,
            postgres,
            watchdog,
            guardian: GuardianView { armed: self.scenario.guardians, required: false },
            dcs_latency: None,
            ailment: None,
            job: begun.job,
            finished: begun.finished,
            scheduled_restart: this.restart.clone(),
            start_timeout: None,
            promise: None,
            outcomes: begun.outcomes,
        };
        let observation = Observation { promise: self.promise(member), ..observation };
        self.round(member, observation, 0);
    }

    fn watchdog_view(&self, member: usize) -> WatchdogView {
        let watchdog = self.members[member].watchdog;
        WatchdogView {
            running: watchdog.running,
            wanted: watchdog.required,
            healthy: watchdog.running || !self.lacks_watchdog(member),
        }
    }

    /// It needs a watchdog, and has none at this time.
    pub fn lacks_watchdog(&self, member: usize) -> bool {
        self.members[member].watchdog.is_broken(member, self.now, self.quiet_since.is_some())
    }

    /// What the daemon sees of its PostgreSQL now.
    pub fn postgres_view(&self, member: usize) -> PostgresView {
        let this = &self.members[member];
        let postgres = &this.postgres;
        let running = postgres.process != Process::Down;
        let asked =
            matches!(this.state, MemberState::Running | MemberState::Restarting | MemberState::Starting);
        let answers = postgres.process == Process::Up && !this.trouble.hung;
        let server_answers = answers && asked;
        let server = server_answers.then(|| ServerFacts {
            in_recovery: postgres.in_recovery,
            timeline: Some(postgres.timeline),
            lsn: postgres.end(),
            streaming: postgres.streams_from.is_some(),
            replay_paused: false,
        });
        let looked_at = this.job.is_none() && (!running || this.state == MemberState::Starting);
        let control_state = if running || this.job.is_some() { None } else { postgres.control };
        PostgresView {
            data_directory: if postgres.present { DataDirectory::Present } else { DataDirectory::Empty },
            system_identifier: postgres.present.then(|| postgres.system_identifier.to_string()),
            state: this.state,
            in_state_for: Duration::ZERO,
            role: this.role,
            running,
            postmaster_start_time: server.as_ref().map(|_| format!("start {}", postgres.generation)),
            server_version: if server.is_some() { 150_018 } else { 0 },
            server,
            control_state: control_state.unwrap_or(ControlState::Unknown),
            has_backup_label: false,
            has_recovery_signal: postgres.standby_signal,
            major_version: 15,
            newest_history: self.newest_history(member),
            rewind_possible: this.use_rewind && this.job.is_none() && this.state != MemberState::Starting,
            unfinished_rewind: postgres
                .torn
                .as_ref()
                .filter(|_| !running && this.job.is_none())
                .map(|torn| torn.source.clone()),
            inconsistent_copy: looked_at && (postgres.labelled || postgres.needs.is_some()),
            pending_restart: false,
            synchronous: self.sync_facts(member, server_answers),
        }
    }

    fn round(&mut self, member: usize, observation: Observation, rounds: usize) {
        self.checks.counts.rounds += 1;
        let decision = decide_with(self.bug, &self.members[member].memory, &observation);
        if self.trace.keeps_lines() {
            let rules: Vec<&str> = decision.report.iter().map(|fired| &*fired.rule.0).collect();
            self.note(
                member,
                &format!(
                    "round {rounds}: {} [{}] {:?}",
                    decision.line,
                    rules.join(" "),
                    decision.actions.iter().map(short).collect::<Vec<_>>()
                ),
            );
        } else {
            self.note(member, &decision.line);
        }
        self.members[member].phase =
            Phase::Acting(Box::new(Acting { observation, decision, next: 0, rounds: rounds + 1 }));
        self.act(member);
    }

    /// Carries actions out until one has to be waited for.
    fn act(&mut self, member: usize) {
        loop {
            let Phase::Acting(acting) = &self.members[member].phase else { return };
            let Some(action) = acting.decision.actions.get(acting.next).cloned() else { break };
            let epoch = self.members[member].epoch;
            self.checks.pause.acts(self.now, member, &self.members[member], &action);
            let Some(outcome) = self.execute(member, &action) else { return };
            if self.members[member].epoch != epoch {
                return;
            }
            self.acted(member, outcome);
        }
        let Phase::Acting(acting) = std::mem::take(&mut self.members[member].phase) else { return };
        let Acting { observation, decision, rounds, .. } = *acting;
        if decision.again && rounds < ROUNDS_MAX {
            self.members[member].phase = Phase::View;
            return self.round(member, observation, rounds);
        }
        let mut wake_at = decision.wake_at;
        let this = &mut self.members[member];
        if decision.again {
            let mut finished = observation.finished;
            finished.append(&mut this.finished);
            this.finished = finished;
            wake_at = wake_at.min(self.now + CUT_PAUSE);
            self.checks.counts.rounds_exceeded += 1;
        } else {
            this.memory = decision.memory;
            if !this.memory.bootstrapping {
                this.callbacks.bootstraps_no_more();
            }
        }
        if self.bug == Some(Bug::Restless) && self.random.percent(10) {
            self.let_go(member);
        }
        self.members[member].phase = Phase::Asleep;
        // The daemon refreshes a lease in its sleep; here a cycle does.
        let due = self.members[member].own_lease.as_ref().map(OwnLease::due).filter(|due| *due > self.now);
        let wake_at = due.map_or(wake_at, |due| wake_at.min(due));
        let wait = if self.members[member].woken { BREATH } else { wake_at.since(self.now).max(BREATH) };
        self.sleep(member, wait);
    }

    /// The planted bug of a leader that gives up for nothing.
    fn let_go(&mut self, member: usize) {
        let now = self.now;
        let this = &mut self.members[member];
        if this.leads(now) && this.job.is_none() && this.postgres.is_writable() {
            drop(self.begin_job(member, Job::Demote(DemoteMode::Graceful)));
        }
    }

    fn acted(&mut self, member: usize, outcome: Outcome) {
        let action = match &self.members[member].phase {
            Phase::Acting(acting) => acting.decision.actions[acting.next].clone(),
            _ => return,
        };
        let outcome = match outcome {
            Outcome::View(view) => Outcome::View(self.see(member, view)),
            other => other,
        };
        if action == Action::AcquireLock {
            self.end_race(member);
        }
        let outcome = if self.bug.is_some() { self.misjudge(member, &action, outcome) } else { outcome };
        if let Phase::Acting(acting) = &mut self.members[member].phase {
            acting.observation.outcomes.push((action, outcome));
            acting.next += 1;
        }
    }

    /// The planted bugs of answers that never came and are taken for a yes. Of the lock that is read again before the
    /// promotion too: else the core finds out that it has none.
    fn misjudge(&mut self, member: usize, action: &Action, outcome: Outcome) -> Outcome {
        if self.bug == Some(Bug::IndeterminateAcquired) && *action == Action::ReloadView(ReloadAfter::Lock) {
            let this = &self.members[member];
            let mut view = this.known.clone().unwrap_or_default();
            let name = this.name.clone();
            Arc::make_mut(&mut view).leader =
                Some(Leader { name, revision: 0, create_revision: 0, lease: None });
            return if this.leads(self.now) { Outcome::View(view) } else { outcome };
        }
        let planted = matches!(
            (self.bug, action),
            (Some(Bug::IndeterminateHeld), Action::RenewLock(_))
                | (Some(Bug::IndeterminateAcquired), Action::AcquireLock)
        );
        if !planted || !matches!(outcome, Outcome::NoAnswer { .. }) {
            return outcome;
        }
        let this = &mut self.members[member];
        let until = self.now + this.settings.ttl;
        this.lease.hold(this.lease.ask(), until);
        self.tell_guardian(member);
        self.watch_overrun(member);
        Outcome::Held { until, waited: Duration::ZERO }
    }

    /// The store or the peers answered the loop.
    pub fn loop_answered(&mut self, member: usize, outcome: Outcome) {
        match std::mem::take(&mut self.members[member].phase) {
            Phase::FirstLook => {
                if matches!(outcome, Outcome::View(_)) {
                    self.members[member].memory = Memory::default();
                    self.members[member].phase = Phase::Asleep;
                    self.wake(member);
                } else {
                    self.members[member].phase = Phase::FirstLook;
                    self.sleep(member, Duration::from_secs(1));
                }
            }
            Phase::View => {
                self.members[member].phase = Phase::View;
                let view = match outcome {
                    Outcome::View(view) => Ok(view),
                    other => Err(format!("{other:?}")),
                };
                self.viewed(member, view);
            }
            Phase::Renewal(view) => {
                let Some(held) = view.leader.clone() else { return self.look(member, Ok(view), Vec::new()) };
                let action = Action::RenewLock(held);
                let outcome = self.misjudge(member, &action, outcome);
                self.look(member, Ok(view), vec![(action, outcome)]);
            }
            acting => {
                self.members[member].phase = acting;
                self.acted(member, outcome);
                self.act(member);
            }
        }
    }

    /// The last resort is to look when the lease ends.
    pub fn watch_overrun(&mut self, member: usize) {
        let this = &self.members[member];
        let Some(until) = this.lease.until().filter(|_| this.timing == Timing::Own) else { return };
        let (epoch, left) = (this.epoch, until.since(self.now));
        self.after(left, Event::Overrun { member, epoch });
    }

    /// The lease ran out and the loop has not stepped down.
    pub fn overrun(&mut self, member: usize) {
        let this = &mut self.members[member];
        let over = this.lease.until().is_some_and(|until| self.now >= until);
        if !over || this.settings.pause || !matches!(this.role, Role::Primary | Role::Promoted) {
            return;
        }
        this.lease.forget();
        let kind = this.job.as_ref().map(|job| job.kind);
        if matches!(kind, Some(JobKind::Demote(DemoteMode::Immediate | DemoteMode::ImmediateNoLock))) {
            return;
        }
        self.note(member, "lease overrun");
        self.checks.counts.overruns += 1;
        self.cancel_job(member);
        drop(self.begin_job(member, Job::Demote(DemoteMode::ImmediateNoLock)));
    }
}

fn job_view(this: &Member, now: Monotonic) -> Option<JobView> {
    this.job.as_ref().map(|job| JobView {
        kind: job.kind,
        running_for: now.since(job.since),
        cancellable: job.cancellable,
    })
}

/// `/config` in effect.
fn adopt(this: &mut Member, cluster: &Cluster) {
    let Some(config) = &cluster.config else { return };
    let number = |name: &str| config.value.get(name).and_then(serde_json::Value::as_u64);
    let seconds = |name: &str, old: Duration| number(name).map_or(old, Duration::from_secs);
    let ttl = seconds("ttl", this.settings.ttl);
    if ttl != this.settings.ttl {
        this.own_lease = None;
        this.settings.ttl = ttl;
    }
    if !config.value.is_empty() {
        this.settings.pause = config.value.get("pause").is_some_and(|pause| *pause == true);
    }
    this.settings.loop_wait = seconds("loop_wait", this.settings.loop_wait);
    this.settings.retry_timeout = seconds("retry_timeout", this.settings.retry_timeout);
    let failsafe_mode = config.value.get("failsafe_mode").and_then(serde_json::Value::as_bool);
    this.settings.failsafe_mode = failsafe_mode.unwrap_or(false);
    if let Some(lag) = number("maximum_lag_on_failover") {
        this.settings.maximum_lag_on_failover_bytes = lag;
    }
    this.settings.has_logical_slots = crate::logical::permanent(cluster).contains_key(crate::logical::CDC);
    this.settings.standby_cluster = remote::settings(&config.value);
    this.settings.synchronous = synchronous::daemon::settings(&config.value);
    this.dynamic = Some(config.value.clone());
}

fn short(action: &Action) -> String {
    let mut text = format!("{action:?}");
    if text.len() > 100 {
        let end = (0..=100).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
