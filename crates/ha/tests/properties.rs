//! What holds whatever is observed, remembered and answered.

#![allow(clippy::unwrap_used, reason = "what fails in a helper is to fail the test")]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::{collection::vec, prelude::*};
use ptarmigan_ha::{
    Action, Decision, DemoteMode, Job, Memory, Observation, Outcome, RewindState,
    action::{Divergence, RecoveryDifference},
    decide,
    failsafe::Seen,
    memory::{FailedJob, Yield},
    observation::{
        ControlState, DataDirectory, GuardianView, JobEnd, JobKind, JobResult, JobView, RestartFilter,
        ScheduledRestart, WatchdogView,
    },
};
use ptarmigan_types::{
    Cluster, DynamicConfig, Initialize, Lsn, MemberState, Monotonic, Role, ScheduledAt, Timeline,
};
use serde_json::{Map, json};
use support::*;

/// Choices from a list of bytes; an exhausted list goes on with zeros, which are the plainest choice.
struct Draw<'a>(std::slice::Iter<'a, u8>);

impl Draw<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()].clone()
    }

    fn maybe(&mut self) -> bool {
        self.pick(&[false, true])
    }

    fn seldom(&mut self) -> bool {
        self.byte() % 8 == 7
    }

    fn moment(&mut self) -> Option<Monotonic> {
        self.pick(&[None, Some(at(0)), Some(at(699)), Some(at(999)), Some(NOW), Some(at(1001))])
    }
}

const KINDS: [JobKind; 14] = [
    JobKind::Promote,
    JobKind::Bootstrap,
    JobKind::PostBootstrap,
    JobKind::Clone,
    JobKind::Reinitialize,
    JobKind::Demote(DemoteMode::Offline),
    JobKind::Demote(DemoteMode::Graceful),
    JobKind::Demote(DemoteMode::Immediate),
    JobKind::Demote(DemoteMode::ImmediateNoLock),
    JobKind::StartPrimary,
    JobKind::Follow,
    JobKind::Restart,
    JobKind::Rewind,
    JobKind::CrashRecovery,
];

const REWIND: [RewindState; 6] = [
    RewindState::Initial,
    RewindState::Check,
    RewindState::Need,
    RewindState::NotNeed,
    RewindState::Success,
    RewindState::Failed,
];

const LSNS: [Lsn; 5] = [HERE, Lsn(0), Lsn(1), Lsn(HERE.0 + 1), Lsn(u64::MAX)];
const TIMELINES: [Option<Timeline>; 4] = [Some(1), None, Some(2), Some(u32::MAX)];

fn memory(draw: &mut Draw<'_>) -> Memory {
    Memory {
        recovery: ptarmigan_ha::rto::Memory::default(),
        unlocked_since: draw.moment(),
        old_members: if draw.maybe() { draw_view(draw).members } else { Arc::default() },
        old_leader: draw.pick(&[None, Some(name("a")), Some(name("b")), Some(name("c"))]),
        leader_timeline: draw.pick(&TIMELINES),
        last_lsn: draw.maybe().then(|| draw.pick(&LSNS)),
        previous_lsn: None,
        rewind_against: draw.pick(&[None, Some(against("b")), Some(against("c"))]),
        race_backoff_since: draw.moment(),
        crash_recovery_since: draw.moment(),
        recovering: draw.maybe(),
        bootstrapping: draw.seldom(),
        post_bootstrap: draw.pick(&[None, Some(true), Some(false)]),
        rewind: draw.pick(&REWIND),
        released_at: draw.moment(),
        joined: draw.maybe(),
        yielding: draw.moment().map(|until| Yield { wish: 0, until }),
        history_done: draw.pick(&TIMELINES),
        won: draw.pick(&[None, Some(1), Some(5)]),
        failsafe: Seen {
            members: draw.pick(&[None, Some(failsafe_of(&["a", "b"])), Some(failsafe_of(&["b"]))]),
            revision: draw.pick(&[None, Some(5)]),
            written: draw.pick(&[None, Some(failsafe_of(&["c"]))]),
            until: draw.moment(),
            binds_until: draw.moment(),
            off_since: draw.moment(),
        },
        synchronous: Default::default(),
        was_paused: draw.maybe(),
        owes_start: draw.maybe(),
        starts_behind: draw.pick(&[None, Some(member("b")), Some(member("c"))]),
        failed: draw.moment().map(|at| FailedJob { kind: draw.pick(&KINDS), at }),
    }
}

fn draw_view(draw: &mut Draw<'_>) -> Cluster {
    let mut scene = Scene::standby();
    let view = scene.view();
    view.leader = draw.pick(&[Some("a"), None, Some("b"), Some("z")]).map(leader);
    let identity = draw.pick(&[Some(SYSTEM_IDENTIFIER), None, Some(""), Some(OTHER_SYSTEM_IDENTIFIER)]);
    view.initialize = identity.map(|value| Initialize { value: value.into(), revision: 2 });
    if draw.seldom() {
        view.config = draw.pick(&[None, Some(DynamicConfig { value: Map::new(), revision: 0 })]);
    }
    view.failover = draw.pick(&[
        None,
        None,
        Some(failover(Some("a"), Some("b"))),
        Some(failover(Some("b"), Some("c"))),
        Some(failover(None, Some("a"))),
        Some(failover(None, Some("c"))),
        Some(failover(Some("a"), None)),
        Some(failover(Some("b"), None)),
    ]);
    let scheduled =
        draw.pick(&[None, Some(ScheduledAt::At(wall())), Some(ScheduledAt::Unusable("x".into()))]);
    if let Some(failover) = view.failover.as_mut() {
        failover.scheduled_at = scheduled;
    }
    view.history = draw.pick(&[None, Some(history(&[])), Some(history(&[1])), Some(history(&[u32::MAX]))]);
    view.status.last_lsn = draw.pick(&LSNS);
    view.failsafe = draw.pick(&[None, Some(failsafe_of(&["a", "b", "c"])), Some(failsafe_of(&["b"]))]);
    view.failsafe_revision = view.failsafe.as_ref().map(|_| 5);
    for member in ["a", "b", "c"] {
        let data = scene.member(member);
        if draw.seldom() {
            data.0.shift_remove("conn_url");
        }
        let role = draw.pick(&["replica", "primary", "promoted", "?"]);
        data.0.insert("role".into(), role.into());
        let own = draw.pick(&[json!({}), json!({"clonefrom": true}), json!({"nofailover": true})]);
        data.0.insert("tags".into(), own);
        data.0.insert("timeline".into(), draw.pick(&[json!(1), json!(2), json!("x")]));
        if draw.seldom() {
            data.0.insert("checkpoint_after_promote".into(), false.into());
        }
    }
    let view = scene.view();
    if draw.seldom() {
        Arc::make_mut(&mut view.members).retain(|member| member.name != name("a"));
    }
    view.clone()
}

fn observation(draw: &mut Draw<'_>) -> Observation {
    let mut scene = if draw.maybe() { Scene::primary() } else { Scene::standby() };
    let obs = &mut scene.obs;
    obs.view = if draw.seldom() { Err("no answer".into()) } else { Ok(Arc::new(draw_view(draw))) };
    let settings = &mut obs.settings;
    settings.primary_start_timeout = draw.pick(&[secs(300), Duration::ZERO]);
    settings.primary_race_backoff = draw.pick(&[Duration::ZERO, secs(5), secs(30)]);
    settings.check_timeline = draw.maybe();
    settings.failsafe_mode = draw.maybe();
    settings.can_bootstrap = draw.maybe();
    settings.can_clone_without_leader = draw.maybe();
    settings.remove_data_directory_on_rewind_failure = draw.maybe();
    settings.remove_data_directory_on_diverged_timelines = draw.maybe();
    settings.pause = draw.seldom();
    settings.unmanaged_primary_waits = draw.seldom();
    settings.tags = tags(&draw.pick(&[
        json!({}),
        json!({"nofailover": true}),
        json!({"nostream": true}),
        json!({"replicatefrom": "c"}),
        json!({"failover_priority": 5}),
    ]));
    draw_postgres(draw, obs);
    obs.guardian = GuardianView { armed: draw.maybe(), required: draw.seldom() };
    obs.settings.recovery.rto = draw.seldom().then(|| secs(5));
    obs.watchdog = WatchdogView { running: draw.seldom(), wanted: draw.maybe(), healthy: !draw.seldom() };
    obs.job = draw.seldom().then(|| JobView {
        kind: draw.pick(&KINDS),
        running_for: secs(5),
        cancellable: draw.maybe(),
    });
    if draw.maybe() {
        let failed = JobEnd::Failed("no".into());
        let ends = [JobEnd::Done, failed, JobEnd::PrePromoteFailed, JobEnd::RewindFailedForGood("x".into())];
        obs.finished.push(JobResult { kind: draw.pick(&KINDS), end: draw.pick(&ends) });
    }
    obs.scheduled_restart = draw.seldom().then(|| ScheduledRestart {
        at: wall(),
        postmaster_start_time: draw.pick(&[None, Some("started once".into()), Some("other".into())]),
        filter: RestartFilter::default(),
        timeout: None,
    });
    obs.promise = draw.seldom().then(|| promise("b", draw.pick(&[at(999), at(1005)])));
    scene.obs
}

fn draw_postgres(draw: &mut Draw<'_>, obs: &mut Observation) {
    let postgres = &mut obs.postgres;
    if draw.seldom() {
        postgres.data_directory = draw.pick(&[DataDirectory::Empty, DataDirectory::Unreadable("io".into())]);
    }
    if draw.seldom() {
        postgres.system_identifier = draw.pick(&[None, Some(OTHER_SYSTEM_IDENTIFIER.into())]);
    }
    postgres.running = !draw.maybe();
    if draw.maybe() {
        postgres.state = draw.pick(MemberState::ALL);
    }
    if draw.maybe() {
        postgres.role = draw.pick(Role::ALL);
    }
    postgres.in_state_for = draw.pick(&[secs(5), secs(300), secs(3000)]);
    postgres.rewind_possible = draw.maybe();
    postgres.has_backup_label = draw.seldom();
    postgres.inconsistent_copy = draw.seldom();
    if !postgres.running && draw.seldom() {
        postgres.unfinished_rewind = draw.pick(&[Some(against("b")), Some(against("c"))]);
    }
    postgres.has_recovery_signal = draw.maybe();
    if !postgres.running || draw.seldom() {
        postgres.server = None;
    }
    if let Some(server) = postgres.server.as_mut() {
        server.lsn = draw.pick(&LSNS);
        server.timeline = draw.pick(&TIMELINES);
        server.replay_paused = draw.maybe();
    }
    if !postgres.running {
        postgres.control_state = draw.pick(&[
            ControlState::InProduction,
            ControlState::ShutDown,
            ControlState::ShutDownInRecovery,
            ControlState::InArchiveRecovery,
            ControlState::InCrashRecovery,
            ControlState::ShuttingDown,
            ControlState::StartingUp,
            ControlState::Unknown,
        ]);
    }
}

/// Mostly an answer of the right kind; sometimes any.
fn answer(draw: &mut Draw<'_>, action: &Action) -> Outcome {
    let any = draw.seldom();
    match action {
        _ if any => draw.pick(&[
            no_answer(),
            refused(),
            Outcome::Failed("no".into()),
            Outcome::Done,
            Outcome::Peers(Vec::new()),
            Outcome::Held { until: NOW, waited: Duration::ZERO },
        ]),
        Action::RenewLock(_) | Action::AcquireLock => {
            draw.pick(&[held(), held(), held_late(), refused(), no_answer()])
        }
        Action::AskPeers(asked) | Action::AskPeersAgain(asked) => {
            let mut answers = Vec::new();
            for address in asked {
                let mut answer = peer(address.name.as_str());
                answer.lsn = draw.pick(&LSNS);
                answer.in_recovery = !draw.seldom();
                answer.timeline = draw.pick(&TIMELINES);
                answer.watchdog_failed = draw.seldom();
                answer.streaming = draw.maybe();
                if !draw.seldom() {
                    answers.push(answer);
                }
            }
            Outcome::Peers(answers)
        }
        Action::AskFailsafe(_) => {
            draw.pick(&[refused(), Outcome::Promised { until: NOW + secs(30), positions: BTreeMap::new() }])
        }
        Action::ReloadView(_) => Outcome::View(Arc::new(draw_view(draw))),
        Action::CompareRecovery { .. } => Outcome::Recovery(draw.pick(&[
            RecoveryDifference::None,
            RecoveryDifference::Reload,
            RecoveryDifference::Restart,
        ])),
        Action::CheckDivergence { .. } => Outcome::Divergence(draw.pick(&[
            Divergence::SameHistory,
            Divergence::Diverged,
            Divergence::SameTimelineTwice,
            Divergence::Unknown,
        ])),
        _ => Outcome::Done,
    }
}

/// A complete cycle: its observation with all outcomes, and every round's decision.
fn cycle(memory: &Memory, observation: &Observation, draw: &mut Draw<'_>) -> (Observation, Vec<Decision>) {
    let mut observation = observation.clone();
    let mut rounds = Vec::new();
    loop {
        let decision = decide(memory, &observation);
        assert_eq!(decision, decide(memory, &observation), "the same input gives the same output");
        for action in &decision.actions {
            let outcome = answer(draw, action);
            observation.outcomes.push((action.clone(), outcome));
        }
        let again = decision.again;
        rounds.push(decision);
        if !again {
            return (observation, rounds);
        }
        assert!(rounds.len() < ROUNDS_MAX, "{rounds:#?}");
    }
}

fn jobs(decision: &Decision) -> Vec<&Job> {
    let jobs = decision.actions.iter().filter_map(|action| match action {
        Action::StartJob(job) => Some(job),
        _ => None,
    });
    jobs.collect()
}

/// The last word of the store on the lock in this cycle.
fn holds(observation: &Observation) -> Option<bool> {
    observation.outcomes.iter().rev().find_map(|(action, outcome)| match (action, outcome) {
        (Action::RenewLock(_) | Action::AcquireLock, Outcome::Held { until, .. }) => Some(*until > NOW),
        (Action::RenewLock(_) | Action::AcquireLock, _) => Some(false),
        _ => None,
    })
}

fn exits(decision: &Decision) -> bool {
    decision.actions.iter().any(|action| matches!(action, Action::Exit { .. }))
}

/// This cycle sees to it that the server does not stay writable: it stops it, or something already does.
fn stops_the_server(observation: &Observation, last: &Decision) -> bool {
    let stopping = observation.job.as_ref().is_some_and(|job| {
        matches!(job.kind, JobKind::Demote(_) | JobKind::Reinitialize | JobKind::Clone | JobKind::Rewind)
    });
    let asked = observation.outcomes.iter().any(|(action, _)| *action == Action::StopImmediate);
    stopping || asked || exits(last) || jobs(last).iter().any(|job| matches!(job, Job::Demote(_)))
}

fn check_end(memory: &Memory, observation: &Observation, rounds: &[Decision]) {
    let last = rounds.last().expect("a cycle has at least one round");
    for decision in rounds {
        assert!(jobs(decision).len() <= 1, "two jobs: {decision:#?}");
        assert!(
            decision.again || decision.actions.iter().filter(|a| **a == Action::WriteMember).count() <= 1
        );
        if decision.again {
            assert!(jobs(decision).is_empty(), "a job begins only where the cycle ends: {decision:#?}");
            assert_eq!(decision.memory, *memory);
        }
    }
    for job in jobs(last) {
        if matches!(job, Job::Promote { .. } | Job::StartPrimary { .. }) {
            assert_eq!(holds(observation), Some(true), "{job:?} without the lock: {last:#?}");
        }
        assert!(!exits(last), "{job:?} and an exit: {last:#?}");
        let busy = observation.job.is_some();
        assert!(!busy || last.actions.contains(&Action::CancelJob), "{job:?} beside another job");
    }
    if exits(last) {
        assert!(
            matches!(last.actions.last(), Some(Action::Exit { .. })),
            "nothing follows an exit: {last:#?}"
        );
    }
    if observation.postgres.unfinished_rewind.is_some() {
        let starts = |job: &&Job| {
            !matches!(
                job,
                Job::Rewind { .. }
                    | Job::Clone { .. }
                    | Job::Reinitialize { .. }
                    | Job::Demote(_)
                    | Job::Bootstrap
                    | Job::BootstrapStandbyLeader
                    | Job::PostBootstrap
            )
        };
        assert!(!jobs(last).iter().any(starts), "runs on a half-done rewind: {last:#?}");
    }
    assert!(last.wake_at >= NOW && last.wake_at <= NOW + observation.settings.loop_wait);
    assert!(!last.line.is_empty());
    check_safety(observation, last);
}

fn check_safety(observation: &Observation, last: &Decision) {
    let postgres = &observation.postgres;
    let stopped = observation
        .outcomes
        .iter()
        .any(|(action, outcome)| *action == Action::StopImmediate && !matches!(outcome, Outcome::Failed(_)));
    let releases = observation.outcomes.iter().any(|(action, _)| matches!(action, Action::ReleaseLock(_)));
    if observation.settings.pause {
        return check_pause(observation, last);
    }
    assert!(
        !releases || !postgres.running || stopped || !postgres.may_write(),
        "a server that may write gives its lock away: {last:#?}"
    );
    let rules = last.rules();
    let promised =
        observation.outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Promised { .. }));
    let bound = observation.promise.as_ref().is_some_and(|promise| promise.holds_at(NOW));
    assert!(
        !bound || postgres.may_write() || !jobs(last).iter().any(|job| matches!(job, Job::Promote { .. })),
        "promotes in spite of a promise: {last:#?}"
    );
    let lost = holds(observation) == Some(false) && !rules.contains(&"HA-400")
        || rules.contains(&"HA-400") && !promised;
    if lost && postgres.running && postgres.may_write() && !rules.contains(&"HA-011") {
        let exempt = last.memory.bootstrapping && last.memory.post_bootstrap != Some(true);
        assert!(exempt || stops_the_server(observation, last), "stays writable without the lock: {last:#?}");
    }
}

/// In pause nobody is promoted or demoted but by an operator's wish, and nothing is stopped or started but what this
/// node's own demotion has stopped.
fn check_pause(observation: &Observation, last: &Decision) {
    let views = observation.outcomes.iter().filter_map(|(_, outcome)| match outcome {
        Outcome::View(view) => Some(view),
        _ => None,
    });
    let mut views = views.chain(observation.view.as_ref().ok());
    let candidates: Vec<_> =
        views.by_ref().filter_map(|view| view.failover.as_ref()?.candidate.clone()).collect();
    let postgres = &observation.postgres;
    for job in jobs(last) {
        let allowed = match job {
            Job::Promote { .. } => candidates.contains(&observation.me),
            Job::Demote(DemoteMode::Graceful) => candidates.iter().any(|name| *name != observation.me),
            Job::Rewind { .. } | Job::Reinitialize { .. } | Job::CrashRecovery | Job::Follow { .. } => {
                !postgres.running
            }
            Job::Bootstrap | Job::BootstrapStandbyLeader | Job::PostBootstrap => last.memory.bootstrapping,
            Job::CopySlots { .. }
            | Job::Demote(_)
            | Job::StartPrimary { .. }
            | Job::Restart { .. }
            | Job::Clone { .. } => false,
        };
        assert!(allowed, "{job:?} in pause: {last:#?}");
    }
    let stops = last.actions.iter().any(|action| matches!(action, Action::StopImmediate));
    assert!(!stops || postgres.data_directory != DataDirectory::Present, "stopped in pause: {last:#?}");
    assert!(last.line.starts_with("PAUSE: "), "{}", last.line);
    assert!(!last.actions.contains(&Action::ActivateWatchdog));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_cycle_ends_and_is_safe(bytes in vec(any::<u8>(), 0..160), answers in vec(any::<u8>(), 0..120)) {
        let mut draw = Draw(bytes.iter());
        let memory = memory(&mut draw);
        let observation = observation(&mut draw);
        let (observation, rounds) = cycle(&memory, &observation, &mut Draw(answers.iter()));
        check_end(&memory, &observation, &rounds);
    }

    #[test]
    fn what_the_journal_keeps_decides_the_same(bytes in vec(any::<u8>(), 0..160), answers in vec(any::<u8>(), 0..120)) {
        let mut draw = Draw(bytes.iter());
        let memory = memory(&mut draw);
        let observation = observation(&mut draw);
        let (observation, rounds) = cycle(&memory, &observation, &mut Draw(answers.iter()));
        let kept = serde_json::to_string(&(&memory, &observation)).unwrap();
        let (memory, read): (Memory, Observation) = serde_json::from_str(&kept).unwrap();
        prop_assert_eq!(&read, &observation);
        // The outcomes of the last round come after its decision, so that round is decided once more without them.
        let last = rounds.last().unwrap();
        let before = Observation {
            outcomes: read.outcomes[..read.outcomes.len() - last.actions.len()].to_vec(),
            ..read
        };
        prop_assert_eq!(&decide(&memory, &before), last);
        let decision: Decision = serde_json::from_str(&serde_json::to_string(last).unwrap()).unwrap();
        prop_assert_eq!(&decision, last);
    }
}
