//! Builders for what a node observes, and a driver that plays the rounds of a cycle as the agent does.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "what fails in a helper is to fail the test")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ptarmigan_ha::{
    Action, Decision, Job, Memory, Observation, Outcome, Remote, Upstream,
    action::{Divergence, RecoveryDifference, ReloadAfter},
    decide,
    facts::PeerAnswer,
    failsafe::Promise,
    observation::{
        ControlState, DataDirectory, GuardianView, JobEnd, JobKind, JobResult, JobView, PostgresView,
        ServerFacts, Settings, WatchdogView,
    },
};
use ptarmigan_types::{
    Cluster, DynamicConfig, Failover, History, HistoryEntry, Initialize, Leader, LeaseId, Lsn, Member,
    MemberData, MemberName, MemberState, Monotonic, Role, Status, SyncState, Tags, Timeline,
};
use serde_json::{Value, json};

/// The most rounds that the agent plays in one cycle.
pub const ROUNDS_MAX: usize = 8;
pub const SYSTEM_IDENTIFIER: &str = "7000000000000000001";
pub const OTHER_SYSTEM_IDENTIFIER: &str = "7000000000000000002";
/// Where every standby of the fixture is, and what `/status` says.
pub const HERE: Lsn = Lsn(0x500_0000);
pub const DARK_LINE: &str = "DCS is not accessible";

pub fn name(name: &str) -> MemberName {
    MemberName::from(name)
}

pub fn member(member: &str) -> Upstream {
    Upstream::Member(name(member))
}

pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub const fn at(secs: u64) -> Monotonic {
    Monotonic(secs * 1_000_000)
}

/// The moment of every cycle of the fixture.
pub const NOW: Monotonic = at(1000);

pub fn wall() -> jiff::Timestamp {
    "2030-01-01T12:00:00Z".parse().unwrap()
}

pub fn tags(value: &Value) -> Tags {
    Tags(value.as_object().cloned().unwrap_or_default())
}

/// `/sync` at revision 20.
pub fn sync(leader: &str, standbys: &[&str], quorum: u32) -> SyncState {
    SyncState {
        leader: Some(name(leader)),
        standbys: standbys.iter().map(|standby| name(standby)).collect(),
        quorum,
        revision: 20,
    }
}

pub fn member_of(member: &str, data: &Value) -> Member {
    let mut map = json!({
        "conn_url": format!("postgres://{member}:5432/postgres"),
        "api_url": format!("http://{member}:8008/patroni"),
        "state": "running", "role": "replica", "version": "4.1.4", "timeline": 1,
    })
    .as_object()
    .cloned()
    .unwrap();
    for (key, value) in data.as_object().unwrap() {
        if value.is_null() {
            map.shift_remove(key);
        } else {
            map.insert(key.clone(), value.clone());
        }
    }
    Member { name: name(member), revision: 3, lease: None, data: MemberData(map) }
}

pub fn leader(holder: &str) -> Leader {
    Leader { name: name(holder), revision: 7, create_revision: 7, lease: Some(LeaseId("1".into())) }
}

/// Where the rewind question was answered against that member.
pub fn against(member: &str) -> ptarmigan_ha::memory::Source {
    ptarmigan_ha::memory::Source { leader: self::member(member), timeline: Some(1) }
}

pub fn history(finished: &[Timeline]) -> History {
    let entries = finished.iter().map(|timeline| HistoryEntry {
        timeline: *timeline,
        lsn: HERE,
        reason: "no recovery target specified".into(),
        timestamp: Some("2030-01-01T00:00:00+00:00".into()),
        new_leader: Some("b".into()),
    });
    History { entries: Some(entries.collect()), revision: 4 }
}

pub fn failover(leader: Option<&str>, candidate: Option<&str>) -> Failover {
    Failover {
        leader: leader.map(name),
        candidate: candidate.map(name),
        scheduled_at: None,
        scheduled_at_text: None,
        revision: 9,
    }
}

/// `/failsafe` with these members.
pub fn failsafe_of(members: &[&str]) -> BTreeMap<String, String> {
    members.iter().map(|member| ((*member).to_owned(), format!("http://{member}:8008/patroni"))).collect()
}

/// What this node promised that member.
pub fn promise(to: &str, until: Monotonic) -> Promise {
    Promise {
        to: name(to),
        conn_url: format!("postgres://{to}:5432/postgres"),
        api_url: format!("http://{to}:8008/patroni"),
        slots: None,
        until,
    }
}

/// A reachable standby as far as everybody else.
pub fn peer(member: &str) -> PeerAnswer {
    PeerAnswer {
        name: name(member),
        in_recovery: true,
        lsn: HERE,
        timeline: Some(1),
        tags: Tags::default(),
        watchdog_failed: false,
        ailing: false,
        streaming: false,
        without_data: false,
    }
}

pub fn settings() -> Settings {
    Settings {
        ttl: secs(30),
        loop_wait: secs(10),
        retry_timeout: secs(10),
        primary_start_timeout: secs(300),
        maximum_lag_on_failover_bytes: 0x10_0000,
        check_timeline: false,
        primary_race_backoff: Duration::ZERO,
        failsafe_mode: false,
        api_url: "http://a:8008/patroni".into(),
        can_bootstrap: true,
        can_clone_without_leader: false,
        remove_data_directory_on_rewind_failure: false,
        remove_data_directory_on_diverged_timelines: false,
        has_logical_slots: false,
        pause: false,
        unmanaged_primary_waits: false,
        tags: Tags::default(),
        standby_cluster: None,
        synchronous: ptarmigan_ha::sync::Settings::default(),
        recovery: ptarmigan_ha::rto::Settings::default(),
        health: ptarmigan_ha::health::Settings::default(),
        failover_interval_min: Duration::ZERO,
    }
}

pub fn facts(in_recovery: bool) -> ServerFacts {
    ServerFacts { in_recovery, timeline: Some(1), lsn: HERE, streaming: in_recovery, replay_paused: false }
}

fn postgres() -> PostgresView {
    PostgresView {
        data_directory: DataDirectory::Present,
        system_identifier: Some(SYSTEM_IDENTIFIER.into()),
        state: MemberState::Running,
        in_state_for: secs(100),
        role: Role::Replica,
        running: true,
        server: Some(facts(true)),
        control_state: ControlState::Unknown,
        has_backup_label: false,
        has_recovery_signal: true,
        major_version: 15,
        rewind_possible: true,
        unfinished_rewind: None,
        inconsistent_copy: false,
        newest_history: 0,
        postmaster_start_time: Some("started once".into()),
        pending_restart: false,
        server_version: 150_018,
        synchronous: ptarmigan_ha::sync::Facts::default(),
    }
}

fn cluster() -> Cluster {
    let config = json!({"ttl": 30}).as_object().cloned().unwrap();
    Cluster {
        initialize: Some(Initialize { value: SYSTEM_IDENTIFIER.into(), revision: 2 }),
        config: Some(DynamicConfig { value: config, revision: 1 }),
        leader: Some(leader("b")),
        members: ["a", "b", "c"]
            .map(|member| {
                member_of(member, &json!({"role": if member == "b" { "primary" } else { "replica" }}))
            })
            .to_vec()
            .into(),
        status: Status { last_lsn: HERE, ..Status::default() },
        ..Cluster::default()
    }
}

/// The revision of `/sync` once it is written.
pub const SYNC_WRITTEN: u64 = 77;

/// What a case of a table does to the scene.
pub type Change = fn(&mut Scene);

/// One cycle's beginning, and how the world answers.
#[derive(Clone)]
pub struct Scene {
    pub memory: Memory,
    pub obs: Observation,
    pub renew: Outcome,
    pub acquire: Outcome,
    pub peers: Vec<PeerAnswer>,
    /// What they say when they are asked again; `None`: the same.
    pub peers_later: Option<Vec<PeerAnswer>>,
    /// What a reload shows; `None`: the observed view, led by me where the lock was acquired.
    pub reloaded: Option<Result<Cluster, String>>,
    pub divergence: Divergence,
    pub difference: RecoveryDifference,
    /// Outcome of every other write to the DCS.
    pub write: Outcome,
    /// Outcome of `StopImmediate`.
    pub stop: Outcome,
    pub resume: Outcome,
    /// What the former leader's server says of itself.
    pub former_writes: bool,
    /// Outcome of `SyncSlots`.
    pub slots: Outcome,
    /// Outcome of `AskFailsafe`.
    pub failsafe: Outcome,
    /// Outcome of every write of `/sync`.
    pub sync: Outcome,
    /// The position at which `synchronous_standby_names` is in force; `None`: it is not yet.
    pub settled: Option<Lsn>,
    /// Outcome of `ActivateWatchdog`.
    pub watchdog: Outcome,
}

impl Scene {
    /// I am `a`, a running standby; `b` leads, `c` is another standby.
    pub fn standby() -> Self {
        Self {
            memory: Memory { joined: true, rewind_against: Some(against("b")), ..Memory::default() },
            obs: Observation {
                now: NOW,
                wall: wall(),
                me: name("a"),
                settings: settings(),
                view: Ok(Arc::new(cluster())),
                postgres: postgres(),
                watchdog: WatchdogView::default(),
                guardian: GuardianView::default(),
                dcs_latency: None,
                ailment: None,
                job: None,
                finished: Vec::new(),
                scheduled_restart: None,
                start_timeout: None,
                promise: None,
                outcomes: Vec::new(),
            },
            renew: held(),
            acquire: held(),
            peers: vec![peer("b"), peer("c")],
            peers_later: None,
            reloaded: None,
            divergence: Divergence::SameHistory,
            difference: RecoveryDifference::None,
            write: Outcome::Done,
            stop: Outcome::Done,
            resume: Outcome::Done,
            former_writes: false,
            slots: Outcome::Done,
            failsafe: refused(),
            sync: Outcome::Written(SYNC_WRITTEN),
            settled: Some(HERE),
            watchdog: Outcome::Done,
        }
    }

    /// I am `a`, a running primary that leads.
    pub fn primary() -> Self {
        let mut scene = Self::standby().writable().led_by("a");
        for member in scene.members() {
            let role = if member.name == name("a") { "primary" } else { "replica" };
            member.data.0.insert("role".into(), role.into());
        }
        scene
    }

    /// A running standby, and nobody leads.
    pub fn unlocked() -> Self {
        Self::standby().unled()
    }

    /// This is a standby cluster whose remote end has an address.
    pub fn in_standby_cluster(mut self) -> Self {
        self.obs.settings.standby_cluster = Some(Remote { has_address: true });
        for member in self.members() {
            if member.data.role() == Some(Role::Primary) {
                member.data.0.insert("role".into(), "standby_leader".into());
            }
        }
        self
    }

    /// I am `a`, the leader of a standby cluster.
    pub fn standby_leader() -> Self {
        let mut scene = Self::standby().led_by("a").in_standby_cluster();
        scene.member("a").0.insert("role".into(), "standby_leader".into());
        scene.member("b").0.insert("role".into(), "replica".into());
        scene.pg().role = Role::StandbyLeader;
        scene.memory.rewind_against = Some(ptarmigan_ha::memory::Source::remote());
        scene
    }

    /// My PostgreSQL is not running; it was stopped cleanly as a standby.
    pub fn stopped() -> Self {
        Self::standby().down(MemberState::Stopped, ControlState::ShutDownInRecovery)
    }

    pub fn writable(mut self) -> Self {
        self.obs.postgres.role = Role::Primary;
        self.obs.postgres.server = Some(facts(false));
        self.obs.postgres.has_recovery_signal = false;
        self
    }

    pub fn down(mut self, state: MemberState, control: ControlState) -> Self {
        let postgres = &mut self.obs.postgres;
        postgres.running = false;
        postgres.state = state;
        postgres.server = None;
        postgres.control_state = control;
        postgres.postmaster_start_time = None;
        self
    }

    pub fn led_by(mut self, holder: &str) -> Self {
        self.view().leader = Some(leader(holder));
        self
    }

    pub fn unled(mut self) -> Self {
        // Nobody receives WAL any more.
        if let Some(server) = &mut self.obs.postgres.server {
            server.streaming = false;
        }
        self.view().leader = None;
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The DCS did not answer when the view was read.
    pub fn dark(mut self) -> Self {
        self.obs.view = Err("no answer".into());
        self
    }

    pub fn job(mut self, kind: JobKind) -> Self {
        self.obs.job = Some(JobView { kind, running_for: secs(5), cancellable: true });
        self
    }

    pub fn ended(mut self, kind: JobKind, end: JobEnd) -> Self {
        self.obs.finished.push(JobResult { kind, end });
        self
    }

    pub fn view(&mut self) -> &mut Cluster {
        Arc::make_mut(self.obs.view.as_mut().unwrap())
    }

    pub fn members(&mut self) -> &mut Vec<Member> {
        Arc::make_mut(&mut self.view().members)
    }

    pub fn pg(&mut self) -> &mut PostgresView {
        &mut self.obs.postgres
    }

    pub fn server(&mut self) -> &mut ServerFacts {
        self.obs.postgres.server.as_mut().unwrap()
    }

    pub fn member(&mut self, member: &str) -> &mut MemberData {
        let member = name(member);
        &mut self.members().iter_mut().find(|found| found.name == member).unwrap().data
    }

    /// Plays the cycle with this scene's answers.
    pub fn play(&self) -> Played {
        let mut acquired = false;
        let (decision, actions) = drive(&self.memory, &self.obs, |action| {
            acquired |= *action == Action::AcquireLock && matches!(self.acquire, Outcome::Held { .. });
            self.answer(action, acquired)
        });
        Played { decision, actions }
    }

    fn answer(&self, action: &Action, acquired: bool) -> Outcome {
        match action {
            Action::RenewLock(_) => self.renew.clone(),
            Action::AcquireLock => self.acquire.clone(),
            Action::AskPeers(asked) => answers(&self.peers, asked),
            Action::AskPeersAgain(asked) => answers(self.peers_later.as_ref().unwrap_or(&self.peers), asked),
            Action::ReloadView(after) => self.reload(*after, acquired),
            Action::CompareRecovery { .. } => Outcome::Recovery(self.difference),
            Action::CheckDivergence { .. } => Outcome::Divergence(self.divergence),
            Action::WriteInitialize { .. } | Action::WriteConfig => self.write.clone(),
            Action::StopImmediate => self.stop.clone(),
            Action::ResumeReplay => self.resume.clone(),
            Action::AskWhetherPrimary { .. } => Outcome::Primary(self.former_writes),
            Action::SyncSlots => self.slots.clone(),
            Action::AskFailsafe(_) => self.failsafe.clone(),
            Action::WriteSync { .. } | Action::DeleteSync(_) => self.sync.clone(),
            Action::SettleStandbyNames { .. } => Outcome::Settled(self.settled),
            Action::ActivateWatchdog => self.watchdog.clone(),
            _ => Outcome::Done,
        }
    }

    fn reload(&self, after: ReloadAfter, acquired: bool) -> Outcome {
        match self.reloaded.clone() {
            Some(Ok(cluster)) => Outcome::View(Arc::new(cluster)),
            Some(Err(reason)) => Outcome::NoAnswer { maybe: false, reason },
            None => {
                let mut view = self.obs.view.clone().unwrap();
                if acquired && after == ReloadAfter::Lock {
                    Arc::make_mut(&mut view).leader = Some(leader("a"));
                }
                Outcome::View(view)
            }
        }
    }
}

pub fn held() -> Outcome {
    Outcome::Held { until: NOW + secs(30), waited: Duration::ZERO }
}

/// The lock, after so long that it is asked again whether it should be taken.
pub fn held_late() -> Outcome {
    Outcome::Held { until: NOW + secs(30), waited: secs(7) }
}

/// What those who are asked say, as far as they can be reached.
fn answers(peers: &[PeerAnswer], asked: &[ptarmigan_ha::action::PeerAddress]) -> Outcome {
    let is_asked = |peer: &&PeerAnswer| asked.iter().any(|address| address.name == peer.name);
    Outcome::Peers(peers.iter().filter(is_asked).cloned().collect())
}

pub fn refused() -> Outcome {
    Outcome::Refused("somebody else's".into())
}

pub fn no_answer() -> Outcome {
    Outcome::NoAnswer { maybe: true, reason: "timed out".into() }
}

/// A complete cycle.
pub struct Played {
    /// The last round's decision.
    pub decision: Decision,
    /// Everything that was carried out, in order.
    pub actions: Vec<Action>,
}

impl Played {
    #[track_caller]
    pub fn line(&self, expected: &str) -> &Self {
        assert_eq!(self.decision.line, expected, "report: {:?}", self.decision.report);
        self
    }

    #[track_caller]
    pub fn fired(&self, rule: &str) -> &Self {
        assert!(self.decision.rules().contains(&rule), "{rule} not in {:?}", self.decision.report);
        self
    }

    #[track_caller]
    pub fn silent(&self, rule: &str) -> &Self {
        assert!(!self.decision.rules().contains(&rule), "{rule} in {:?}", self.decision.report);
        self
    }

    /// What the last firing of a rule said.
    #[track_caller]
    pub fn facts(&self, rule: &str) -> &str {
        let fired = self.decision.report.iter().rev().find(|fired| fired.rule.0 == rule);
        fired.map_or_else(|| panic!("{rule} not in {:?}", self.decision.report), |fired| fired.facts.as_str())
    }

    pub fn did(&self, action: &Action) -> bool {
        self.actions.contains(action)
    }

    #[track_caller]
    pub fn does(&self, action: &Action) -> &Self {
        assert!(self.did(action), "{action:?} not in {:?}", self.actions);
        self
    }

    #[track_caller]
    pub fn does_not(&self, action: &Action) -> &Self {
        assert!(!self.did(action), "{action:?} in {:?}", self.actions);
        self
    }

    /// `first` is carried out before `second`.
    #[track_caller]
    pub fn before(&self, first: &Action, second: &Action) -> &Self {
        let place = |wanted: &Action| self.actions.iter().position(|action| action == wanted);
        let (one, two) = (place(first), place(second));
        assert!(
            one.is_some() && one < two,
            "{first:?} at {one:?}, {second:?} at {two:?}: {:?}",
            self.actions
        );
        self
    }

    /// The one long action that begins.
    #[track_caller]
    pub fn starts(&self, job: &Job) -> &Self {
        assert_eq!(self.jobs(), [job], "line: {}", self.decision.line);
        self
    }

    #[track_caller]
    pub fn starts_nothing(&self) -> &Self {
        assert!(self.jobs().is_empty(), "{:?}", self.jobs());
        self
    }

    pub fn jobs(&self) -> Vec<&Job> {
        self.actions
            .iter()
            .filter_map(|action| if let Action::StartJob(job) = action { Some(job) } else { None })
            .collect()
    }

    pub fn has(&self, matches: impl Fn(&Action) -> bool) -> bool {
        self.actions.iter().any(matches)
    }

    #[track_caller]
    pub fn wakes_in(&self, after: Duration) -> &Self {
        assert_eq!(self.decision.wake_at.since(NOW), after);
        self
    }

    pub fn memory(&self) -> &Memory {
        &self.decision.memory
    }
}

/// Plays the rounds of one cycle as the agent does: carry out, add the outcomes, decide again.
#[track_caller]
pub fn drive(
    memory: &Memory,
    observation: &Observation,
    mut answers: impl FnMut(&Action) -> Outcome,
) -> (Decision, Vec<Action>) {
    let mut observation = observation.clone();
    let mut actions = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let decision = decide(memory, &observation);
        for action in &decision.actions {
            actions.push(action.clone());
            observation.outcomes.push((action.clone(), answers(action)));
        }
        if !decision.again {
            return (decision, actions);
        }
        assert_eq!(decision.memory, *memory, "a round that ends early changes no memory");
        assert!(
            !decision.actions.is_empty(),
            "a round that asks for another one must have asked for something"
        );
    }
    panic!("more than {ROUNDS_MAX} rounds: {actions:?}");
}
