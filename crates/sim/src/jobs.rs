//! The long actions, step by step, as the agent carries them out.

mod rewind;

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::{
    Upstream,
    action::{DemoteMode, Job},
    callbacks::{Callbacks, How},
    observation::{JobEnd, JobKind, JobResult},
};
use ptarmigan_types::{Cluster, History, MemberName, MemberState, Role, Status};

use crate::{
    bugs::Bug,
    member::{Call, Running, Timing, Waiter},
    postgres::Process,
    store::Condition,
    world::{Event, World},
};

/// What must be left of the lease when a promotion is ordered.
const LEASE_LEFT_MIN: Duration = Duration::from_secs(1);
/// What an immediate stop may need.
const ENFORCED_STOP: Duration = Duration::from_secs(2);
/// `pg_ctl_timeout`.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How a job goes on.
enum Step {
    Wait(Duration),
    Ask(Call),
    End(JobEnd),
}

const NEXT: Step = Step::Wait(Duration::ZERO);

fn failed(reason: &str) -> Step {
    Step::End(JobEnd::Failed(reason.into()))
}

impl World {
    /// Begins a job unless one is in flight.
    ///
    /// # Errors
    /// One is.
    pub fn begin_job(&mut self, member: usize, job: Job) -> Result<(), String> {
        if let Some(running) = &self.members[member].job {
            return Err(format!("{} already in progress", running.kind.words()));
        }
        self.note(member, &format!("begins {job:?}"));
        let number = self.fresh();
        let since = self.now;
        let kind = job.kind();
        if job == Job::Demote(DemoteMode::Graceful) {
            let calm = self.checks.faults_active == 0 && self.everybody_streams_from(member);
            self.checks.durability.stepping_down(calm);
        }
        if matches!(job, Job::Promote { .. }) {
            let known = self.members[member].known.as_ref().and_then(|view| view.history.as_ref());
            self.checks.timelines.begins(member, known.map_or(0, History::timeline));
        }
        let this = &mut self.members[member];
        let primary = matches!(this.role, Role::Primary | Role::Promoted);
        this.job = Some(Running { number, kind, job, since, cancellable: true, stage: 0, primary });
        let epoch = this.epoch;
        self.after(Duration::from_millis(1), Event::Job { member, epoch, number });
        Ok(())
    }

    /// Cancels the job in flight. A server that was told to stop does so.
    pub fn cancel_job(&mut self, member: usize) {
        let this = &mut self.members[member];
        if let Some(job) = this.job.take() {
            this.finished.push(JobResult { kind: job.kind, end: JobEnd::Cancelled });
            if this.postgres.process == Process::Stopping {
                this.postgres.gone(true);
            }
        }
    }

    /// The next step of a job.
    pub fn job_goes_on(&mut self, member: usize, number: u64) {
        let this = &mut self.members[member];
        let Some(running) = this.job.as_mut().filter(|job| job.number == number) else { return };
        let (job, stage, primary, kind) = (running.job.clone(), running.stage, running.primary, running.kind);
        running.stage += 1;
        let epoch = this.epoch;
        let step = self.step(member, &job, stage, primary);
        match step {
            Step::Wait(wait) => self.after(wait, Event::Job { member, epoch, number }),
            Step::Ask(call) => {
                let limit = self.members[member].settings.retry_timeout;
                self.call(member, Waiter::Job(number), call, limit);
            }
            Step::End(end) => {
                self.note(member, &format!("ends {}: {end:?}", kind.words()));
                if matches!(kind, JobKind::Demote(_)) {
                    self.checks.pause.demoted(member);
                    self.members[member].watchdog.running = false;
                }
                let this = &mut self.members[member];
                this.job = None;
                this.finished.push(JobResult { kind, end });
                self.wake(member);
            }
        }
    }

    fn step(&mut self, member: usize, job: &Job, stage: u32, primary: bool) -> Step {
        match job {
            Job::Bootstrap => self.bootstrap(member, stage),
            Job::BootstrapStandbyLeader => {
                if stage == 0 {
                    self.members[member].callbacks.bootstraps();
                }
                self.clone_data(member, Some(&Upstream::Remote), stage)
            }
            Job::PostBootstrap if stage == 0 => Step::Wait(self.random.millis(100, 800)),
            Job::PostBootstrap => Step::End(JobEnd::Done),
            Job::Clone { source } => self.clone_data(member, source.as_ref(), stage),
            Job::Reinitialize { source } => self.reinitialize(member, source.as_ref(), stage),
            Job::Promote { timeline } => self.promote(member, *timeline, stage),
            Job::Demote(mode) => self.demote(member, *mode, stage),
            Job::StartPrimary { timeout } => match stage {
                0 => self.start_primary(member, *timeout),
                _ => self.started(member),
            },
            Job::Follow { upstream, role, timeout } => {
                let upstream = upstream.as_ref().and_then(|upstream| self.server_of(upstream));
                match stage {
                    0 => self.stop_standby(member),
                    1 => {
                        let restart = self.members[member].postgres.process != Process::Down;
                        let from = self.members[member].role;
                        self.stopped(member);
                        self.set_role(member, *role);
                        let how = How::Follow { from, to: *role, restart };
                        self.start(member, false, upstream, *timeout, how)
                    }
                    _ => self.started(member),
                }
            }
            Job::Restart { timeout } => self.restart(member, *timeout, stage, primary),
            Job::Rewind { leader, .. } => self.rewind(member, leader, stage),
            Job::CrashRecovery => self.crash_recovery(member, stage),
            Job::CopySlots { leader, slots } => self.copy_slots(member, leader, slots, stage),
        }
    }

    fn start(
        &mut self,
        member: usize,
        primary: bool,
        upstream: Option<usize>,
        limit: Option<Duration>,
        how: How,
    ) -> Step {
        self.members[member].callbacks.starts(how);
        let slowest = self.network.start_millis;
        let needed = self.random.millis(100, slowest.max(101));
        let names = self.members[member].names.for_start();
        let postgres = &mut self.members[member].postgres;
        if !postgres.present {
            self.call_back(member, Callbacks::attempted);
            return failed("there is no data directory");
        }
        postgres.synchronous.file = names;
        postgres.start(primary, upstream);
        let generation = postgres.generation;
        self.tell_guardian(member);
        self.set_state(member, MemberState::Starting);
        self.after(needed, Event::Ready { member, generation });
        Step::Wait(needed.min(limit.unwrap_or(START_LIMIT)) + Duration::from_millis(1))
    }

    fn started(&mut self, member: usize) -> Step {
        self.call_back(member, Callbacks::attempted);
        if self.members[member].postgres.process == Process::Down {
            self.set_state(member, MemberState::StartFailed);
            return failed("the server ended while it started");
        }
        let this = &self.members[member];
        let since = this.job.as_ref().map_or(self.now, |job| job.since);
        if this.postgres.waits && self.now.since(since) < START_LIMIT {
            return Step::Wait(Duration::from_millis(500));
        }
        Step::End(JobEnd::Done)
    }

    /// What the agent asks before it lets a primary be; the contract asks nothing.
    fn may_lead(&self, member: usize, spare: Duration) -> bool {
        let this = &self.members[member];
        this.timing == Timing::Contract || this.leads(self.now + spare)
    }

    /// How long a fast shutdown takes: most of it is the checkpoint.
    fn stop_time(&mut self) -> Duration {
        self.random.millis(50, self.network.stop_millis)
    }

    fn start_primary(&mut self, member: usize, limit: Duration) -> Step {
        if !self.may_lead(member, Duration::ZERO) {
            return failed("the leader lease is over, a primary is not started");
        }
        self.start(member, true, None, Some(limit), How::Start)
    }

    fn stop_standby(&mut self, member: usize) -> Step {
        if self.members[member].postgres.process == Process::Down {
            return NEXT;
        }
        self.set_state(member, MemberState::Restarting);
        self.begin_stop(member);
        Step::Wait(self.stop_time())
    }

    /// A fast shutdown: no more writes, the shutdown checkpoint.
    fn begin_stop(&mut self, member: usize) {
        let number = self.fresh();
        let postgres = &mut self.members[member].postgres;
        if postgres.process == Process::Up && !postgres.in_recovery {
            postgres.checkpoint(number);
        }
        postgres.process = Process::Stopping;
        postgres.synchronous.end_sessions();
    }

    /// Somebody else stops the server, and its daemon hears nothing of it.
    pub fn stop_cleanly(&mut self, member: usize) {
        self.begin_stop(member);
        self.send_rest(member);
        self.members[member].postgres.gone(true);
    }

    /// A fast shutdown is done: whoever streamed has all of it.
    fn stopped(&mut self, member: usize) {
        if self.members[member].postgres.process == Process::Down {
            return;
        }
        let clean = self.members[member].postgres.process == Process::Stopping;
        if clean {
            self.send_rest(member);
        }
        self.members[member].postgres.gone(clean);
        self.set_state(member, MemberState::Stopped);
    }

    fn demote(&mut self, member: usize, mode: DemoteMode, stage: u32) -> Step {
        match stage {
            0 if mode == DemoteMode::Graceful => Step::Wait(self.random.millis(10, 1500)),
            0 => NEXT,
            1 => self.demote_stop(member, mode),
            2 => {
                self.stopped(member);
                self.tell_stopped(member);
                self.set_role(member, Role::Demoted);
                if !matches!(mode, DemoteMode::Graceful | DemoteMode::Immediate) {
                    return NEXT;
                }
                self.members[member].lease.forget();
                if mode == DemoteMode::Immediate {
                    return NEXT;
                }
                let last_lsn = self.members[member].postgres.end();
                let old = self.members[member].known.as_ref().map(|view| view.status.clone());
                let value = Some(Status { last_lsn, ..old.unwrap_or_default() }.to_json());
                Step::Ask(Call::Write { key: "status", value, condition: Condition::Always })
            }
            3 if matches!(mode, DemoteMode::Graceful | DemoteMode::Immediate) => {
                let me = self.members[member].name.clone();
                let held = self
                    .copied_view(member)
                    .and_then(|view| view.leader.clone())
                    .filter(|held| held.name == me);
                held.map_or(NEXT, |held| Step::Ask(Call::Release(held)))
            }
            3 => NEXT,
            4 => self.member_call(member).map_or(NEXT, Step::Ask),
            5 if mode == DemoteMode::Offline => {
                let from = self.members[member].role;
                self.set_role(member, Role::Replica);
                let how = How::Follow { from, to: Role::Replica, restart: false };
                self.start(member, false, None, None, how)
            }
            6 => self.started(member),
            _ => Step::End(JobEnd::Done),
        }
    }

    fn demote_stop(&mut self, member: usize, mode: DemoteMode) -> Step {
        self.tell_stops(member);
        if self.members[member].postgres.process == Process::Down {
            return NEXT;
        }
        let needed = self.stop_time();
        let left = self.members[member].lease.left_at(self.now);
        let gentle = left.saturating_sub(ENFORCED_STOP);
        let fast = match (mode, self.members[member].timing) {
            (DemoteMode::Graceful | DemoteMode::DemoteCluster, _)
            | (DemoteMode::Offline, Timing::Contract) => Some(needed),
            (DemoteMode::Offline, Timing::Own) if gentle >= Duration::from_secs(1) => {
                Some(needed.min(gentle))
            }
            _ => None,
        };
        if let Some(wait) = fast {
            self.set_state(member, MemberState::Stopping);
            self.begin_stop(member);
            return Step::Wait(wait);
        }
        if mode == DemoteMode::ImmediateNoLock {
            return Step::Wait(self.random.millis(2, 30));
        }
        let hangs = self.random.percent(5);
        Step::Wait(if hangs { Duration::from_secs(1) } else { self.random.millis(5, 60) })
    }

    fn promote(&mut self, member: usize, timeline: Option<u32>, stage: u32) -> Step {
        match stage {
            0 => Step::Wait(self.random.millis(0, 1 + self.scenario.pre_promote_millis)),
            1 if self.scenario.pre_promote_millis > 0 && self.random.percent(10) => {
                Step::End(JobEnd::PrePromoteFailed)
            }
            1 => {
                if !self.may_lead(member, LEASE_LEFT_MIN) {
                    return failed("the leader lease is about to end");
                }
                // From here on its role tells that it may write, and keeps it from promising anything.
                if let Some(promise) = self.promise(member) {
                    return failed(&format!("promised {} not to lead", promise.to));
                }
                let this = &mut self.members[member];
                if timeline.is_some_and(|timeline| timeline != this.postgres.timeline) {
                    return failed("the timeline changed");
                }
                if this.postgres.process != Process::Up || !this.postgres.in_recovery {
                    return failed("there is no standby to promote");
                }
                this.postgres.promoting = true;
                if let Some(job) = &mut this.job {
                    job.cancellable = false;
                }
                self.look_at_readiness(member);
                self.set_role(member, Role::Promoted);
                self.call_back(member, Callbacks::changes_role);
                let generation = self.members[member].postgres.generation;
                let slow = self.random.percent(5);
                let wait = if slow { self.random.millis(800, 8000) } else { self.random.millis(20, 800) };
                self.after(wait, Event::Promoted { member, generation });
                let loop_wait = self.members[member].settings.loop_wait;
                Step::Wait(wait.min(loop_wait) + Duration::from_millis(1))
            }
            _ => Step::End(JobEnd::Done),
        }
    }

    fn restart(&mut self, member: usize, limit: Option<Duration>, stage: u32, primary: bool) -> Step {
        match stage {
            0 if primary && self.members[member].postgres.standby_signal => failed("promotion in progress"),
            0 => {
                self.set_state(member, MemberState::Restarting);
                if self.members[member].postgres.process == Process::Down {
                    return NEXT;
                }
                self.begin_stop(member);
                Step::Wait(self.stop_time())
            }
            1 => {
                self.stopped(member);
                if primary && !self.may_lead(member, Duration::ZERO) {
                    self.set_state(member, MemberState::RestartFailed);
                    return failed("the leader lease is over, a primary is not started");
                }
                if self.members[member].postgres.torn.is_some() {
                    self.set_state(member, MemberState::RestartFailed);
                    return failed("pg_rewind was interrupted in the data directory");
                }
                self.set_state(member, MemberState::Restarting);
                let upstream = if primary { None } else { self.node_to_follow(member) };
                self.start(member, primary, upstream, limit, How::Restart)
            }
            _ => self.started(member),
        }
    }

    fn bootstrap(&mut self, member: usize, stage: u32) -> Step {
        match stage {
            1 if self.random.percent(4) => failed("initdb failed"),
            0 => {
                self.members[member].callbacks.bootstraps();
                self.set_state(member, MemberState::InitializingNewCluster);
                Step::Wait(self.random.millis(1000, 5000))
            }
            1 => {
                let system_identifier = 7_000_000_000_000_000_000 + self.random.between(1, 1 << 40);
                self.terms += 1;
                let term = self.terms;
                self.members[member].postgres.initialize(system_identifier, term);
                self.set_role(member, Role::Primary);
                self.start(member, true, None, None, How::Start)
            }
            _ => self.started(member),
        }
    }

    fn clone_data(&mut self, member: usize, source: Option<&Upstream>, stage: u32) -> Step {
        match stage {
            0 => {
                self.set_state(member, MemberState::CreatingReplica);
                Step::Wait(self.random.millis(1000, 15_000))
            }
            1 => {
                let source = source.and_then(|source| self.server_of(source));
                let Some(source) = source.filter(|source| {
                    self.reaches(member, *source) && self.server(*source).process == Process::Up
                }) else {
                    return failed("the source does not answer");
                };
                let copied = self.server(source).clone();
                self.members[member].postgres.copy(&copied);
                self.data_replaced(member);
                let upstream = self.node_to_follow(member);
                let how = How::Follow { from: self.members[member].role, to: Role::Replica, restart: false };
                self.set_role(member, Role::Replica);
                self.start(member, false, upstream, None, how)
            }
            _ => self.started(member),
        }
    }

    fn reinitialize(&mut self, member: usize, source: Option<&Upstream>, stage: u32) -> Step {
        if stage > 0 {
            return self.clone_data(member, source, stage - 1);
        }
        self.tell_stops(member);
        self.members[member].postgres.gone(false);
        self.tell_stopped(member);
        self.members[member].postgres.remove();
        self.set_role(member, Role::Uninitialized);
        Step::Wait(self.random.millis(10, 200))
    }

    fn copy_slots(&mut self, member: usize, leader: &MemberName, slots: &[String], stage: u32) -> Step {
        if self.bug == Some(Bug::SlotsNotCopied) {
            return Step::End(JobEnd::Done);
        }
        match stage {
            0 => Step::Wait(self.random.millis(5, 300)),
            1 => match self.read_slots_of(member, leader, slots) {
                Ok(()) => Step::Wait(self.random.millis(1, 50)),
                Err(reason) => failed(&reason),
            },
            2 => {
                let asked = |view: &Arc<Cluster>| view.is_leader(leader) && view.failover.is_none();
                let follows = self.members[member].known.as_ref().is_some_and(asked);
                if follows && self.members[member].role == Role::Replica {
                    // Whoever steps down at this moment does not wait for this standby.
                    self.checks.durability.disturbed();
                    self.tell_stops(member);
                    return self.stop_standby(member);
                }
                failed("it does not lead any more")
            }
            3 => {
                self.stopped(member);
                self.tell_stopped(member);
                self.write_slots(member);
                let upstream = self.node_to_follow(member);
                self.start(member, false, upstream, None, How::Start)
            }
            _ => self.started(member),
        }
    }
}
