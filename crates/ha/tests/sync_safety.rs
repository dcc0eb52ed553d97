//! A leader's cycles under synchronous replication, with standbys that come, go and fall behind, settings that change, and a
//! store that answers late or not at all: after every single step, whoever may be promoted has every acknowledged commit.

#![expect(clippy::unwrap_used, reason = "tests: a step that fails ends them")]

mod support;

use std::sync::Arc;

use ptarmigan_ha::{
    Action, Memory, Outcome,
    action::When,
    sync::{Facts, Mode, NameSet, Standby, StandbyNames, Wanted, standby_names::Kind},
};
use ptarmigan_types::{Lsn, Monotonic, SyncState};
use support::*;

const STANDBYS: [&str; 4] = ["b", "c", "d", "e"];

/// A multiplicative generator: the same seed, the same run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct World {
    random: Random,
    /// Up to where the primary has written.
    written: u64,
    /// Up to where commits were acknowledged.
    acknowledged: u64,
    /// Up to where each standby has WAL, and whether it is connected.
    standbys: [(u64, bool); 4],
    /// `synchronous_standby_names` in force, and those that some processes may still go by.
    names: String,
    former: Vec<String>,
    sync: SyncState,
    revision: u64,
    /// Writes that were given up, and are still on their way.
    late: Vec<(Option<SyncState>, When)>,
    trace: Vec<String>,
}

fn mode_of(random: &mut Random) -> Mode {
    [Mode::Priority, Mode::Quorum, Mode::Quorum, Mode::Off][usize::try_from(random.below(4)).unwrap()]
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            written: HERE.0 + 1000,
            acknowledged: HERE.0 + 1000,
            standbys: [(HERE.0 + 1000, true); 4],
            names: String::new(),
            former: Vec::new(),
            sync: SyncState::default(),
            revision: 20,
            late: Vec::new(),
            trace: Vec::new(),
        }
    }

    fn has(&self, name: &str, position: u64) -> bool {
        let index = STANDBYS.iter().position(|standby| *standby == name);
        index.is_some_and(|index| self.standbys[index].0 >= position)
    }

    /// Whether a commit at this position may be acknowledged by these names.
    fn is_enough(&self, names: &str, position: u64) -> bool {
        let names = StandbyNames::in_force(names);
        if names.kind == Kind::Off {
            return true;
        }
        let have = names.members.iter().filter(|name| self.has(name.as_str(), position)).count();
        have >= usize::try_from(names.count).unwrap()
    }

    /// The world goes on while a cycle runs.
    fn goes_on(&mut self) {
        for _ in 0..self.random.below(4) {
            self.written += 1;
        }
        for index in 0..STANDBYS.len() {
            if self.standbys[index].1 && self.random.percent(50) {
                let behind = self.written - self.standbys[index].0;
                self.standbys[index].0 += self.random.below(behind + 1);
            }
        }
        if !self.late.is_empty() && self.random.percent(20) {
            let (state, when) = self.late.remove(0);
            let applied = self.apply(state.clone(), when).is_some();
            self.trace.push(format!("late write {state:?}: {applied}"));
        }
        let processes: Vec<String> = std::iter::once(&self.names).chain(&self.former).cloned().collect();
        while self.acknowledged < self.written {
            let next = self.acknowledged + 1;
            if !processes.iter().any(|names| self.is_enough(names, next)) || self.random.percent(10) {
                break;
            }
            self.acknowledged = next;
        }
        self.check();
    }

    fn apply(&mut self, state: Option<SyncState>, when: When) -> Option<u64> {
        let holds = match when {
            When::Always => true,
            When::Absent => self.sync.revision == 0,
            When::Revision(revision) => self.sync.revision == revision,
        };
        if !holds {
            return None;
        }
        self.revision += 1;
        self.sync =
            state.map_or_else(SyncState::default, |state| SyncState { revision: self.revision, ..state });
        self.check();
        Some(self.revision)
    }

    /// At most as many voters lack a commit as there are votes needed besides one's own.
    fn check(&self) {
        let voters: NameSet = self.sync.standbys.iter().cloned().collect();
        let lack: Vec<&str> = voters
            .iter()
            .map(|name| name.as_str())
            .filter(|name| !self.has(name, self.acknowledged))
            .collect();
        assert!(
            lack.len() <= usize::try_from(self.sync.quorum).unwrap(),
            "{lack:?} lack {}, /sync {:?}, names {:?} and {:?}\n{}",
            self.acknowledged,
            self.sync,
            self.names,
            self.former,
            self.trace.join("\n")
        );
    }

    fn happens(&mut self, scene: &mut Scene) {
        if self.random.percent(30) {
            let index = usize::try_from(self.random.below(4)).unwrap();
            self.standbys[index].1 = self.random.percent(60);
        }
        let settings = &mut scene.obs.settings.synchronous;
        if self.random.percent(8) {
            settings.mode = mode_of(&mut self.random);
        }
        if self.random.percent(8) {
            settings.strict = self.random.percent(50);
        }
        if self.random.percent(15) {
            settings.node_count = u32::try_from(self.random.below(4)).unwrap();
        }
    }

    fn facts(&self, owned: bool) -> Facts {
        let names = StandbyNames::in_force(&self.names);
        let row = |(index, standby): (usize, &&str)| {
            let (position, connected) = self.standbys[index];
            let listed = names.members.contains(&name(standby));
            let before = names.members.sorted().iter().take_while(|other| other.as_str() != *standby).count();
            let state = match names.kind {
                _ if !listed => "async",
                Kind::Quorum => "quorum",
                _ if before < usize::try_from(names.count).unwrap() => "sync",
                _ => "potential",
            };
            connected.then(|| Standby {
                application_name: (*standby).into(),
                state: "streaming".into(),
                sync_state: state.into(),
                lsn: Some(Lsn(position)),
            })
        };
        let standbys = STANDBYS.iter().enumerate().filter_map(row).collect();
        Facts { names: Some(self.names.clone()), owned, standbys, ..Facts::default() }
    }

    fn answer(&mut self, action: &Action) -> Outcome {
        self.goes_on();
        let outcome = match action {
            Action::RenewLock(_) => Outcome::Held { until: Monotonic(u64::MAX), waited: secs(0) },
            Action::WriteSync { state, when } => self.write(Some(state.clone()), *when),
            Action::DeleteSync(revision) => self.write(None, When::Revision(*revision)),
            Action::SetStandbyNames(wanted) => {
                let text = match wanted {
                    Wanted::Configured => String::new(),
                    Wanted::Text(text) => text.clone(),
                };
                if text != self.names {
                    let former = std::mem::replace(&mut self.names, text);
                    self.former.push(former);
                }
                Outcome::Done
            }
            Action::SettleStandbyNames { names, .. } => {
                if self.random.percent(40) {
                    return Outcome::Settled(None);
                }
                assert_eq!(*names, self.names);
                self.former.clear();
                Outcome::Settled(Some(Lsn(self.written)))
            }
            _ => return Outcome::Done,
        };
        self.trace.push(format!("{action:?}: {outcome:?}"));
        self.goes_on();
        outcome
    }

    fn write(&mut self, state: Option<SyncState>, when: When) -> Outcome {
        match self.random.below(10) {
            0 => {
                self.late.push((state, when));
                no_answer()
            }
            1 => {
                self.apply(state, when);
                no_answer()
            }
            _ => self.apply(state, when).map_or_else(refused, Outcome::Written),
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    let mut scene = Scene::primary();
    for member in ["d", "e"] {
        scene.members().push(member_of(member, &serde_json::json!({"role": "replica"})));
    }
    let mut memory: Memory = scene.memory.clone();
    for cycle in 1..60 {
        world.happens(&mut scene);
        world.goes_on();
        scene.view().sync = world.sync.clone();
        scene.obs.now = Monotonic(scene.obs.now.0 + 100_000);
        let owned = scene.obs.settings.synchronous.mode != Mode::Off || !world.names.is_empty();
        scene.obs.postgres.synchronous = world.facts(owned);
        let position = Lsn(world.written);
        scene.server().lsn = position;
        let view = Arc::clone(scene.obs.view.as_ref().unwrap());
        scene.obs.view = Ok(view);
        let settings = scene.obs.settings.synchronous;
        world.trace.push(format!("{seed}.{cycle}: {settings:?}, {:?}", world.standbys));
        let (decision, _) = drive(&memory, &scene.obs, |action| world.answer(action));
        // A daemon that is started again remembers nothing.
        memory = if world.random.percent(5) { scene.memory.clone() } else { decision.memory };
    }
}

#[test]
fn b_22_whoever_may_be_promoted_has_every_acknowledged_commit() {
    for seed in 1..=600 {
        run(seed);
    }
}
