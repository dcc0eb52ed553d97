//! The quorum resolver rule by rule (contract B.22, R1 to R9); `sync_vectors.rs` has what was recorded.

#![expect(clippy::unwrap_used, reason = "a case that cannot be resolved fails the test")]

use ptarmigan_ha::sync::{
    NameSet,
    quorum::{Situation, Transition, resolve},
};
use ptarmigan_types::MemberName;

fn names(text: &str) -> NameSet {
    text.split_whitespace().map(MemberName::from).collect()
}

/// `/sync` names `a` with this quorum among these voters; commits wait for `count` of `sync`, all of them known to have
/// everything; as many are wanted, and all are there.
fn steady(quorum: usize, voters: &str, count: usize, sync: &str) -> Situation {
    Situation {
        leader: MemberName::from("a"),
        quorum,
        voters: names(voters),
        count,
        sync: names(sync),
        confirmed: count,
        active: names(sync),
        wanted: count,
        leader_wanted: MemberName::from("a"),
    }
}

#[track_caller]
fn gives(situation: &Situation, expected: &[Transition]) {
    assert_eq!(resolve(situation.clone()).unwrap(), expected, "{situation:?}");
}

fn quorum(quorum: usize, voters: &str) -> Transition {
    Transition::Quorum { leader: MemberName::from("a"), quorum, voters: names(voters) }
}

fn sync(count: usize, members: &str) -> Transition {
    Transition::Sync { count, names: names(members) }
}

#[test]
fn a_steady_state_needs_no_step() {
    for (count, members, votes) in [(1, "b", 0), (1, "b c", 1), (2, "b c", 0), (2, "b c d", 1)] {
        gives(&steady(votes, members, count, members), &[]);
    }
}

#[test]
fn r1_a_new_leader_takes_the_place_of_the_old_one_who_becomes_a_voter() {
    // Nothing is synchronous yet: the old rules are kept first, then the leader changes.
    let promoted = Situation {
        leader: MemberName::from("b"),
        active: names("b c"),
        wanted: 1,
        ..steady(1, "a c", 0, "")
    };
    gives(&promoted, &[sync(1, "b c"), quorum(1, "b c")]);
    // Nobody is there: what was promised stays until somebody is, instead of being given up.
    gives(&Situation { active: names(""), ..promoted }, &[sync(1, "b c"), quorum(1, "b c")]);
    // The same leader, and a state that lets a commit be lost: the votes are raised.
    gives(&steady(0, "b c", 1, "b c"), &[quorum(1, "b c")]);
}

#[test]
fn r2_without_knowledge_those_count_who_must_have_acknowledged() {
    let grown = Situation { confirmed: 0, wanted: 2, ..steady(1, "b c", 1, "b c") };
    // One of the two has what was acknowledged, so a candidate goes on needing the other's vote.
    gives(&grown, &[sync(2, "b c")]);
}

#[test]
fn r3_voters_who_are_not_synchronous_go_or_become_so() {
    let within = steady(2, "b c d", 1, "b c");
    gives(&within, &[quorum(1, "b c")]);
    gives(&Situation { active: names("b c d"), ..within }, &[sync(1, "b c d")]);
}

#[test]
fn r4_synchronous_standbys_who_do_not_vote_go_or_become_voters() {
    let beyond = steady(1, "b c", 2, "b c d");
    gives(&beyond, &[quorum(1, "b c d")]);
    // Gone before it could vote: two of two then have every commit, and no vote is needed any more.
    gives(&Situation { active: names("b c"), ..beyond }, &[sync(2, "b c"), quorum(0, "b c")]);
}

#[test]
fn r5_what_is_guaranteed_twice_is_given_up() {
    let twice = steady(1, "b c", 2, "b c");
    gives(&twice, &[quorum(0, "b c")]);
    gives(&Situation { wanted: 1, ..twice.clone() }, &[sync(1, "b c")]);
    // Not before it is known that both have everything.
    gives(&Situation { confirmed: 1, ..twice }, &[]);
}

#[test]
fn r6_standbys_who_are_gone() {
    let all = Situation { active: names(""), ..steady(0, "b", 1, "b") };
    gives(&all, &[quorum(0, ""), sync(0, "")]);
    // While votes can make up for one, the names shrink first.
    let spare = Situation { active: names("b c"), ..steady(2, "b c d", 1, "b c d") };
    gives(&spare, &[sync(1, "b c"), quorum(1, "b c")]);
    // Where they cannot, nobody may win without the other first.
    let last = Situation { active: names("b"), confirmed: 1, wanted: 1, ..steady(0, "b c", 2, "b c") };
    gives(&last, &[quorum(0, "b"), sync(1, "b")]);
}

#[test]
fn r7_standbys_who_are_new() {
    // The first ones vote only once they have everything.
    let first = Situation { active: names("b c"), wanted: 1, ..steady(0, "", 0, "") };
    gives(&first, &[sync(1, "b c"), Transition::Restart]);
    gives(&steady(0, "", 1, "b c"), &[quorum(1, "b c")]);
    // One more, of whom nobody has to wait: it votes first.
    let more = Situation { active: names("b c"), ..steady(0, "b", 1, "b") };
    gives(&more, &[quorum(1, "b c"), sync(1, "b c")]);
    // One more that was missing: commits wait for it first.
    gives(&Situation { wanted: 2, ..more }, &[sync(2, "b c"), quorum(1, "b c")]);
}

#[test]
fn r8_another_number_is_wanted() {
    let one = steady(1, "b c", 1, "b c");
    gives(&Situation { wanted: 2, ..one }, &[sync(2, "b c")]);
    let two = steady(0, "b c", 2, "b c");
    gives(&Situation { wanted: 1, ..two.clone() }, &[quorum(1, "b c"), sync(1, "b c")]);
    gives(&Situation { wanted: 5, ..two }, &[]);
}

#[test]
fn r9_only_the_last_of_several_steps_of_a_kind_is_made() {
    // R4 shrinks the names, R5 the number: one change of them.
    let both = Situation { active: names("b c"), wanted: 1, ..steady(1, "b c", 2, "b c d") };
    gives(&both, &[sync(1, "b c")]);
    // Nothing follows a restart.
    let first = Situation { active: names("b c d"), wanted: 2, ..steady(0, "", 0, "") };
    let steps = resolve(first).unwrap();
    assert_eq!(steps.last(), Some(&Transition::Restart));
    assert_eq!(steps.iter().filter(|step| **step == Transition::Restart).count(), 1);
}
