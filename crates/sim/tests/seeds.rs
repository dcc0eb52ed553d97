//! The kept seeds, fresh ones, and what every run has to be: reproducible.

use std::{
    hash::{BuildHasher as _, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
};

use ptarmigan_sim::{
    Bug, Counts, Options, Report,
    replay::{Replayed, replay},
    simulate,
};

/// How many fresh seeds each run of the tests tries.
const FRESH: u64 = 200;
/// How many seeds a planted bug has to be caught within.
const BUG_SEEDS: u64 = 2000;
/// In so many parts the planted bugs are looked for.
const PARTS: usize = 4;
/// Seeds of a few bits are easier to type again.
const SEED_BITS: u32 = 40;

fn kept() -> impl Iterator<Item = u64> {
    let lines = include_str!("../seeds/kept.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a line begins with a seed")
    })
}

fn run(seed: u64, options: Options) -> Report {
    catch_unwind(AssertUnwindSafe(|| simulate(seed, options)))
        .unwrap_or_else(|_| panic!("seed {seed} broke the core or the simulation"))
}

#[test]
fn kept_seeds_find_nothing_any_more() {
    for seed in kept() {
        assert_eq!(run(seed, Options::default()).violation, None, "seed {seed}");
    }
}

/// A checker that catches nothing is worse than none. In parts, so that they run beside each other.
#[expect(clippy::print_stdout, reason = "how many seeds each of them takes is what one reads here")]
fn planted_bugs_are_caught(part: usize) {
    for bug in Bug::ALL.iter().skip(part).step_by(PARTS) {
        let options = bug.options();
        let caught = (1..=BUG_SEEDS).find(|seed| {
            run(*seed, options).violation.is_some_and(|violation| violation.checker == bug.checker())
        });
        println!("{}: {} at seed {caught:?}", bug.name(), bug.checker());
        assert!(caught.is_some(), "{} does not catch {}", bug.checker(), bug.name());
    }
}

/// Other seeds in every run, so that the search goes on; a seed that fails is printed, and fails again with
/// `ptarmigan-sim --seed N --trace`. `PTARMIGAN_SIM_FROM` chooses the first one.
#[test]
#[expect(clippy::disallowed_methods, reason = "which seeds are tried is chosen outside of the simulation")]
fn fresh_seeds_find_nothing() {
    let chosen = std::env::var("PTARMIGAN_SIM_FROM").ok().and_then(|text| text.parse().ok());
    let from = chosen.unwrap_or_else(|| RandomState::new().hash_one(0) >> (u64::BITS - SEED_BITS));
    println!("fresh seeds: {from} to {}", from + FRESH - 1);
    let mut counts = Counts::default();
    let mut hardly_written = Vec::new();
    for seed in from..from + FRESH {
        let report = run(seed, Options::default());
        assert_eq!(report.violation, None, "seed {seed}: ptarmigan-sim --seed {seed} --trace");
        if report.counts.acknowledged < 50 {
            hardly_written.push(seed);
        }
        counts.add(&report.counts);
    }
    println!("{counts}");
    // Nothing is in a standby cluster whose WAL was lost with the other one, nor in strict mode where everybody else has `nosync`.
    assert!(hardly_written.len() <= 10, "hardly anything was written: seeds {hardly_written:?}");
}

#[test]
fn every_planted_bug_is_caught_by_its_checker_1() {
    planted_bugs_are_caught(0);
}

#[test]
fn every_planted_bug_is_caught_by_its_checker_2() {
    planted_bugs_are_caught(1);
}

#[test]
fn every_planted_bug_is_caught_by_its_checker_3() {
    planted_bugs_are_caught(2);
}

#[test]
fn every_planted_bug_is_caught_by_its_checker_4() {
    planted_bugs_are_caught(3);
}

#[test]
fn same_seed_same_trace() {
    let traces = [7, 7, 8].map(|seed| run(seed, Options::default()).hash);
    println!("trace of seed 7: {:016x}", traces[0]);
    assert_eq!(traces[0], traces[1]);
    assert_ne!(traces[0], traces[2]);
    let kept_lines = run(7, Options { trace: true, ..Options::default() });
    assert!(kept_lines.lines.len() > 100);
}

#[test]
fn a_line_that_is_no_round_is_said_to_be_none() {
    assert!(matches!(replay("{}"), Replayed::Unreadable(_)));
}
