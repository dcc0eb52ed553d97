//! The kept seeds, fresh ones, and what every run has to be: reproducible.

use ptarmigan_sim::{
    Options,
    replay::{Replayed, replay},
    simulate,
};

const FRESH: u64 = 50;

fn kept() -> Vec<u64> {
    include_str!("../seeds/kept.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .map(|seed| seed.parse().expect("a seed is a number"))
        .collect()
}

#[test]
fn kept_seeds_find_nothing_any_more() {
    for seed in kept() {
        let report = simulate(seed, Options::default());
        assert_eq!(report.violation, None, "seed {seed}");
    }
}

#[test]
fn fresh_seeds_find_nothing() {
    let from = 1_000_000;
    for seed in from..from + FRESH {
        let report = simulate(seed, Options::default());
        assert_eq!(report.violation, None, "seed {seed}");
        assert!(report.counts.acknowledged > 100, "seed {seed}: hardly anything was written");
    }
}

#[test]
fn same_seed_same_trace() {
    let first = simulate(7, Options::default());
    let second = simulate(7, Options::default());
    let other = simulate(8, Options::default());
    assert_eq!(first.hash, second.hash);
    assert_ne!(first.hash, other.hash);
}

#[test]
fn a_line_that_is_no_round_is_said_to_be_none() {
    assert!(matches!(replay("{}"), Replayed::Unreadable(_)));
}
