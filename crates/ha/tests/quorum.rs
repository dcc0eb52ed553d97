//! The phases of the quorum resolver, one by one (contract B.22, R1 to R9). Names are single letters; `a` leads.

#![expect(clippy::unwrap_used, reason = "tests: a step that fails ends them")]

use ptarmigan_ha::sync::{
    NameSet,
    quorum::{Situation, Transition, resolve, resolve_as_far_as_safe},
};
use ptarmigan_types::MemberName;

fn set(names: &str) -> NameSet {
    names.chars().map(|name| MemberName(name.to_string())).collect()
}

/// `/sync` with this quorum and these voters, this many of these standbys in `synchronous_standby_names`, this many of them
/// confirmed; these are there, and this many are wanted.
fn situation(
    (quorum, voters): (usize, &str),
    (count, sync): (usize, &str),
    confirmed: usize,
    active: &str,
    wanted: usize,
) -> Situation {
    Situation {
        leader: "a".into(),
        quorum,
        voters: set(voters),
        count,
        sync: set(sync),
        confirmed,
        active: set(active),
        wanted,
        leader_wanted: "a".into(),
    }
}

fn key(quorum: usize, voters: &str) -> Transition {
    Transition::Quorum { leader: "a".into(), quorum, voters: set(voters) }
}

fn names(count: usize, names: &str) -> Transition {
    Transition::Sync { count, names: set(names) }
}

#[track_caller]
fn steps(situation: Situation, expected: &[Transition]) {
    assert_eq!(resolve(situation).unwrap(), expected);
}

/// Found by the simulation: the whole was an error, `/sync` was begun anew in every cycle, and named nobody for ever.
#[test]
fn r7_an_unsafe_step_does_not_undo_those_before_it() {
    let from = situation((0, ""), (1, "bcdef"), 5, "bcdefg", 3);
    assert!(resolve(from.clone()).is_err());
    assert_eq!(resolve_as_far_as_safe(from).unwrap(), [key(4, "bcdef"), names(2, "bcdefg")]);
    let next = situation((4, "bcdef"), (2, "bcdefg"), 5, "bcdefg", 3);
    assert_eq!(resolve(next).unwrap(), [key(4, "bcdefg"), names(3, "bcdefg"), key(3, "bcdefg")]);
    assert!(resolve_as_far_as_safe(situation((1, "be"), (0, "bcd"), 0, "bcde", 3)).is_err());
}

#[test]
fn r1_the_former_leader_becomes_a_voter() {
    let led_by_b = |sync| Situation { leader: "b".into(), ..situation((1, "ac"), sync, 0, "c", 1) };
    // The names are what the new leader set before it was promoted.
    let handed_over = resolve(led_by_b((1, "bc"))).unwrap();
    assert_eq!(handed_over[0], key(1, "bc"));
    // Nobody is named yet: the names first.
    assert_eq!(resolve(led_by_b((0, ""))).unwrap()[..2], [names(1, "bc"), key(1, "bc")]);
    // What contradicts itself is an error.
    assert!(resolve(situation((1, "be"), (0, "bcd"), 0, "bcde", 3)).is_err());
}

#[test]
fn r2_what_the_key_promises_counts_where_nobody_is_confirmed() {
    // Two of three have every commit, whichever they are: one of two that are left has.
    steps(situation((1, "bcd"), (2, "bcd"), 0, "bcd", 2), &[]);
    // One of two has, by the key: that both have is not taken for granted before it is seen.
    steps(situation((1, "bc"), (2, "bc"), 0, "bc", 2), &[]);
    steps(situation((1, "bc"), (2, "bc"), 2, "bc", 2), &[key(0, "bc")]);
}

#[test]
fn r3_voters_that_are_not_named_are_named_or_leave() {
    // `d` is gone, `c` is there.
    steps(situation((2, "bcd"), (1, "b"), 1, "bc", 1), &[key(1, "bc"), names(1, "bc")]);
}

#[test]
fn r4_standbys_that_are_no_voters_become_voters_or_leave() {
    steps(situation((0, "b"), (2, "bc"), 2, "bc", 2), &[key(0, "bc")]);
    steps(situation((0, "b"), (2, "bc"), 1, "b", 1), &[names(1, "b")]);
}

#[test]
fn r5_a_margin_is_given_up_once_it_is_confirmed() {
    steps(situation((1, "bc"), (2, "bc"), 2, "bc", 2), &[key(0, "bc")]);
    steps(situation((1, "bc"), (2, "bc"), 2, "bc", 1), &[names(1, "bc")]);
    steps(situation((1, "bc"), (2, "bc"), 1, "bc", 2), &[]);
}

#[test]
fn r6_who_is_gone_leaves() {
    steps(situation((0, "b"), (1, "b"), 1, "", 1), &[key(0, ""), names(0, "")]);
    // One of two: the names first, because fewer voters need fewer votes.
    steps(situation((1, "bc"), (1, "bc"), 1, "b", 1), &[names(1, "b"), key(0, "b")]);
    // Without a quorum the key is first: no commit is only where it was.
    steps(situation((0, "bc"), (2, "bc"), 1, "b", 1), &[key(0, "b"), names(1, "b")]);
}

#[test]
fn r7_who_is_new_joins() {
    // Without anybody before: the names, and then it has to catch up.
    steps(situation((0, ""), (0, ""), 0, "bc", 1), &[names(1, "bc"), Transition::Restart]);
    steps(situation((0, "b"), (1, "b"), 1, "bc", 1), &[key(1, "bc"), names(1, "bc")]);
    // More are wanted: nobody counts on the new one before it is confirmed.
    steps(situation((0, "b"), (1, "b"), 1, "bc", 2), &[names(2, "bc"), key(1, "bc")]);
}

#[test]
fn r8_another_number_is_wanted() {
    steps(situation((1, "bc"), (1, "bc"), 2, "bc", 2), &[names(2, "bc"), key(0, "bc")]);
    steps(situation((0, "bc"), (2, "bc"), 2, "bc", 1), &[key(1, "bc"), names(1, "bc")]);
}

#[test]
fn r9_of_steps_in_a_row_the_last_one_counts() {
    // One is gone, one is new: what is written in between is not written.
    let steps = resolve(situation((1, "bc"), (1, "bc"), 1, "bd", 1)).unwrap();
    for pair in steps.windows(2) {
        assert_ne!(std::mem::discriminant(&pair[0]), std::mem::discriminant(&pair[1]), "{steps:?}");
    }
    let restart = steps.iter().position(|step| *step == Transition::Restart);
    assert!(restart.is_none_or(|at| at + 1 == steps.len()), "{steps:?}");
}
