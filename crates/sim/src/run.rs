//! One seed from its beginning to its end: bootstrap, faults and requests, repair, rest.

use std::time::Duration;

use crate::{
    bugs::Bug,
    checkers::{Violation, liveness},
    counts::Counts,
    faults::Fault,
    world::{Event, World},
};

/// A cluster bootstraps in peace.
const BOOTSTRAP: Duration = Duration::from_secs(90);
/// The mean time between two faults.
const BETWEEN: Duration = Duration::from_secs(80);
/// After this much time without faults the cluster must be at rest.
const REST: Duration = Duration::from_secs(600);
/// How often it is looked at whether it is.
const LOOK: Duration = Duration::from_secs(10);
/// How long a cluster at rest is watched: it has to stay there.
const WATCHED: Duration = Duration::from_secs(240);

/// How one run went.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What a checker objects to.
    pub violation: Option<Violation>,
    /// The hash of the trace.
    pub hash: u64,
    /// The trace's lines, where they were asked for.
    pub lines: Vec<String>,
    /// Simulated time.
    pub simulated: Duration,
    /// What it was made of.
    pub counts: Counts,
}

/// What is asked of a run besides its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The planted bug.
    pub bug: Option<Bug>,
    /// The trace's lines are kept.
    pub trace: bool,
    /// Daemons die at any time while their PostgreSQL goes on.
    pub unguarded: bool,
    /// No guardians, and daemons that come back in time: what the core does alone.
    pub core_alone: bool,
    /// No faults after this many.
    pub faults_max: Option<u64>,
    /// The faults that do not happen after all: bit 0 stands for the first.
    pub skip_faults: u64,
    /// The requests that operators do not make after all.
    pub skip_requests: u64,
    /// So many members, instead of 3 to 7.
    pub members: Option<usize>,
    /// Synchronous replication occurs in every run.
    pub synchronous: bool,
    /// `ttl`, `loop_wait` and `retry_timeout` have their defaults and keep them.
    pub default_timing: bool,
}

/// Runs one seed.
pub fn simulate(seed: u64, options: Options) -> Report {
    let mut world = World::new(seed, options);
    let faults = world.scenario.faults;
    let begin = world.now;
    for member in 0..world.members.len() {
        let wait = world.random.millis(0, world.scenario.stagger_millis);
        world.after(wait, Event::Daemon(member));
    }
    world.after(Duration::from_millis(100), Event::Write);
    world.after(Duration::from_secs(10), Event::Check);
    world.begin_checkpoints();
    let reads = world.scenario.slots.logical;
    if reads.cdc || reads.archive || reads.foreign {
        world.after(BOOTSTRAP / 3, Event::Consume);
    }
    world.begin_other_cluster();
    world.after(BOOTSTRAP / 2, Event::Operator);
    if faults > 0 {
        world.after(BOOTSTRAP, Event::Fault(Fault::Next));
    }
    let wild = BOOTSTRAP + BETWEEN * u32::try_from(faults).unwrap_or(1);
    world.after(wild, Event::Fault(Fault::Heal));
    let healed = begin + wild;
    world.run_until(healed);
    let unrest = come_to_rest(&mut world);
    finish(seed, world, begin, unrest)
}

/// Waits until the cluster is at rest, and watches it stay there.
fn come_to_rest(world: &mut World) -> Option<Violation> {
    let limit = world.now + REST;
    loop {
        let next = world.now + LOOK;
        world.run_until(next);
        let unrest = liveness::judge(world);
        if world.checks.failed() || unrest.is_none() {
            break;
        }
        if world.now >= limit {
            return unrest;
        }
    }
    let end = world.now + WATCHED;
    world.run_until(end);
    liveness::judge(world)
}

fn finish(
    seed: u64,
    mut world: World,
    begin: ptarmigan_types::Monotonic,
    unrest: Option<Violation>,
) -> Report {
    let holder = world.store.keys.get("leader").map(|raw| raw.value.clone());
    if unrest.is_none()
        && let Some(leader) = holder.and_then(|name| world.index(&name))
    {
        let now = world.now;
        world.checks.durability.finish(now, &world.members[leader].postgres);
    }
    let left_behind = liveness::left_behind(&world);
    let checks = &world.checks;
    Report {
        seed,
        violation: checks.violation().cloned().or(unrest),
        hash: world.trace.hash(),
        simulated: world.now.since(begin),
        counts: Counts {
            acknowledged: checks.single.acknowledged,
            contract_overlaps: checks.single.contract_overlaps,
            lost: checks.durability.lost,
            collisions: checks.timelines.collisions,
            diverged_streams: checks.timelines.diverged_streams,
            left_behind,
            ..checks.counts.clone()
        },
        lines: world.trace.into_lines(),
    }
}
