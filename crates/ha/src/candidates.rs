//! Who could take over (contract B.10.3, B.10.4).

use std::{cmp::Ordering, time::Duration};

use ptarmigan_types::{Lsn, Member, MemberName};

use crate::{
    action::{Action, Outcome, PeerAddress},
    facts::PeerAnswer,
    round::{Round, Step},
    sync::Voters,
};

/// How soon a receiver that was told to stop has stopped.
const RECEIVER_ENDS: Duration = Duration::from_millis(20);

/// How long receivers are waited for.
const RECEIVERS_WAIT: Duration = Duration::from_secs(1);

/// HN-3: asks all of them in parallel; whoever has no data counts as unreachable.
pub(crate) fn ask<'a>(r: &mut Round<'a>, members: &[&Member]) -> Step<Vec<&'a PeerAnswer>> {
    Ok(ask_also_without_data(r, members)?.iter().filter(|answer| !answer.without_data).collect())
}

/// The same with the answers of members that have no data.
pub(crate) fn ask_also_without_data<'a>(r: &mut Round<'a>, members: &[&Member]) -> Step<&'a [PeerAnswer]> {
    let addresses: Vec<PeerAddress> = members
        .iter()
        .filter_map(|member| {
            member
                .data
                .api_url()
                .map(|url| PeerAddress { name: member.name.clone(), api_url: url.to_owned() })
        })
        .collect();
    if addresses.is_empty() {
        return Ok(&[]);
    }
    let question = if r.asks_again { Action::AskPeersAgain(addresses) } else { Action::AskPeers(addresses) };
    match r.need(question)? {
        Outcome::Peers(answers) => Ok(answers),
        _ => Ok(&[]),
    }
}

/// Contract B.10.4: could another member take over if this one gave the lock up? `candidate`: only that one counts.
pub(crate) fn failover_possible(r: &mut Round<'_>, candidate: Option<&MemberName>) -> Step<bool> {
    failover_possible_excluding(r, candidate, None)
}

/// The same, with one member left out.
pub(crate) fn failover_possible_excluding(
    r: &mut Round<'_>,
    candidate: Option<&MemberName>,
    excluded: Option<&MemberName>,
) -> Step<bool> {
    // An operator who names a node without a leader to leave takes what it has.
    let wished = r.view.failover.as_ref().is_some_and(|failover| failover.leader.is_none());
    let voters = Voters::of(r);
    let bound = voters.as_ref().filter(|_| !wished);
    let members: Vec<&Member> = r
        .view
        .members
        .iter()
        .filter(|member| member.name != r.obs.me && Some(&member.name) != excluded)
        .filter(|member| candidate.is_none_or(|name| *name == member.name))
        .filter(|member| bound.is_none_or(|voters| voters.votes_for(&member.name)))
        .filter(|member| !member.data.tags().nofailover())
        .collect();
    let answers = ask(r, &members)?;
    let count = answers.iter().filter(|answer| can_take_over(r, answer, None)).count();
    // Whoever takes over needs the agreement of the others; a node that was named is waited for.
    let agreement = voters.as_ref().filter(|_| candidate.is_none() || excluded.is_some());
    let possible = count > agreement.map_or(0, |voters| voters.needed);
    r.fired("B.10.4", describe(&answers, possible));
    Ok(possible)
}

/// Whether one reachable member may take over: `cluster_lsn` given, it must have reached it; else its lag counts.
pub fn can_take_over_with(
    answer: &PeerAnswer,
    cluster_lsn: Option<Lsn>,
    last_lsn: Lsn,
    maximum_lag_bytes: u64,
    minimum_timeline: Option<u32>,
) -> bool {
    if answer.limitation().is_some() {
        return false;
    }
    let near_enough = match cluster_lsn {
        Some(lsn) => answer.lsn >= lsn,
        None => last_lsn.bytes_ahead_of(answer.lsn) <= maximum_lag_bytes,
    };
    near_enough && minimum_timeline.is_none_or(|minimum| answer.timeline.is_some_and(|tli| tli >= minimum))
}

fn can_take_over(r: &Round<'_>, answer: &PeerAnswer, cluster_lsn: Option<Lsn>) -> bool {
    let settings = &r.obs.settings;
    can_take_over_with(
        answer,
        cluster_lsn,
        r.view.status.last_lsn,
        settings.maximum_lag_on_failover_bytes,
        settings.check_timeline.then(|| r.view.timeline()),
    )
}

fn describe(answers: &[&PeerAnswer], possible: bool) -> String {
    let names: Vec<String> =
        answers.iter().map(|answer| format!("{} at {}", answer.name, answer.lsn)).collect();
    format!("{}; reachable: {}", if possible { "possible" } else { "impossible" }, names.join(", "))
}

/// Who races, and how it is judged.
#[derive(Clone, Copy)]
pub(crate) struct Race<'n> {
    /// `maximum_lag_on_failover` counts.
    pub(crate) check_lag: bool,
    /// Priorities count (HN-8): not where an operator named who shall lead.
    pub(crate) by_priority: bool,
    /// Whose priority does not count (HN-8).
    pub(crate) former_leader: Option<&'n MemberName>,
    /// Who is asked for nothing but whether it is still a primary.
    pub(crate) out_of_race: Option<&'n MemberName>,
    /// Who has a vote, where synchronous replication is active.
    pub(crate) voters: Option<&'n Voters>,
}

/// What a peer's answer means for a race.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// It keeps me from the lock.
    Veto,
    /// It has more WAL, but not more commits that anybody was told of.
    Ahead,
    /// It has no more than I have.
    Behind,
    /// It does not matter.
    Silent,
}

/// Contract B.10.3: am I the healthiest of these and me?
pub(crate) fn am_healthiest_of(r: &mut Round<'_>, members: &[&Member], race: Race<'_>) -> Step<bool> {
    let Some(my_lsn) = r.obs.postgres.lsn() else {
        r.fired("HN-1", "my position is unknown");
        return Ok(false);
    };
    let behind = r.view.status.last_lsn.bytes_ahead_of(my_lsn);
    let limit = r.obs.settings.maximum_lag_on_failover_bytes;
    if race.check_lag && behind > limit {
        r.fired("HN-1", format!("{} behind, limit {}", megabytes(behind), megabytes(limit)));
        return Ok(false);
    }
    if r.obs.settings.check_timeline && !r.in_standby_cluster() {
        let (mine, needed) = (r.obs.postgres.timeline(), r.view.timeline());
        if mine.is_none_or(|tli| tli < needed) {
            r.fired("HN-2", format!("my timeline {mine:?}, cluster's {needed}"));
            return Ok(false);
        }
    }
    let others: Vec<&Member> = members
        .iter()
        .copied()
        .filter(|member| member.name != r.obs.me)
        .filter(|member| {
            let asked = race.former_leader == Some(&member.name) || race.out_of_race == Some(&member.name);
            asked || !member.data.tags().nofailover() || has_vote(race, &member.name)
        })
        .collect();
    let answers = ask(r, &others)?;
    if race.check_lag
        && waits_for_receivers(r)
        && let Some(answer) =
            answers.iter().find(|answer| answer.streaming && stops_to_receive(&others, answer))
    {
        receives(r, &answer.name);
        return Ok(false);
    }
    let (mut votes, mut ahead) = (0, false);
    for answer in answers {
        match stand(r, answer, my_lsn, race) {
            Stand::Veto => return Ok(false),
            Stand::Ahead => ahead = true,
            Stand::Behind if has_vote(race, &answer.name) => votes += 1,
            Stand::Behind | Stand::Silent => {}
        }
    }
    Ok(race.voters.is_none_or(|voters| enough(r, voters, votes, ahead)))
}

/// Whether positions are not compared yet while anybody receives WAL: what they have may still change. One that does not stop must
/// not keep everybody from racing for ever.
pub(crate) fn waits_for_receivers(r: &Round<'_>) -> bool {
    let since = r.memory.unlocked_since.unwrap_or(r.obs.now);
    !r.asks_again
        && !r.in_standby_cluster()
        && r.obs.postgres.major_version >= 13
        && r.obs.now.since(since) < RECEIVERS_WAIT
}

/// Patroni's members do so only once they have lost the race.
fn stops_to_receive(members: &[&Member], answer: &PeerAnswer) -> bool {
    answer.in_recovery
        && members.iter().any(|member| member.name == answer.name && member.data.0.contains_key("guardian"))
}

/// That one still receives.
pub(crate) fn receives(r: &mut Round<'_>, receiver: &MemberName) {
    r.fired("RC-1", format!("{receiver} does"));
    r.wake_within(RECEIVER_ENDS);
}

/// As operators count WAL.
fn megabytes(bytes: u64) -> String {
    const MEGABYTE: u64 = 1 << 20;
    if bytes < MEGABYTE {
        return format!("{bytes} bytes");
    }
    format!("{}.{} MB", bytes / MEGABYTE, bytes % MEGABYTE * 10 / MEGABYTE)
}

fn has_vote(race: Race<'_>, name: &MemberName) -> bool {
    race.voters.is_some_and(|voters| voters.counted && voters.has(name))
}

/// HN-9, HN-10. Whoever is not among the voters needs one of them more.
fn enough(r: &mut Round<'_>, voters: &Voters, votes: usize, ahead: bool) -> bool {
    let outsider = usize::from(!voters.has(&r.obs.me));
    if !voters.counted {
        return true;
    }
    let enough = votes >= voters.needed + outsider || (!ahead && voters.is_leader(&r.obs.me));
    r.fired("HN-9", format!("{votes} of {} votes", voters.needed + outsider));
    enough
}

/// How far the peer is, compared with me. Safer than the contract (docs/compatibility.md): where `/sync` decides, positions
/// count only on one timeline, and whoever is on a later one is ahead. A primary that failed has WAL that nobody confirmed, and
/// may be further by it than everybody who has what was acknowledged since. Found by the simulation.
fn compare(r: &Round<'_>, peer: &PeerAnswer, my_lsn: Lsn, race: Race<'_>) -> Ordering {
    let timelines = (peer.timeline, r.obs.postgres.timeline());
    match (race.voters, timelines) {
        (Some(_), (Some(theirs), Some(mine))) => (theirs, peer.lsn).cmp(&(mine, my_lsn)),
        _ => peer.lsn.cmp(&my_lsn),
    }
}

/// HN-5 to HN-8: does this peer leave the lock to me?
fn stand(r: &mut Round<'_>, peer: &PeerAnswer, my_lsn: Lsn, race: Race<'_>) -> Stand {
    // Before HN-5: a primary that may not take over once it is a standby writes all the same.
    if !peer.in_recovery {
        r.fired("HN-6", format!("{} is still a primary", peer.name));
        return Stand::Veto;
    }
    if race.out_of_race == Some(&peer.name) {
        return Stand::Silent;
    }
    if let Some(limitation) = peer.limitation() {
        r.fired("HN-5", format!("{} does not count: {limitation}", peer.name));
        return Stand::Silent;
    }
    // Whoever HN-2 keeps from taking over would keep everybody else from it too, for ever, where its WAL is longer.
    let needed = r.view.timeline();
    let counts = r.obs.settings.check_timeline && !r.in_standby_cluster();
    if counts && peer.timeline.is_some_and(|timeline| timeline < needed) {
        r.fired(
            "HN-2",
            format!("{} does not count: timeline {:?}, cluster's {needed}", peer.name, peer.timeline),
        );
        return Stand::Silent;
    }
    let led_by_key = race.voters.is_some_and(|voters| voters.is_leader(&peer.name));
    let ahead = compare(r, peer, my_lsn, race);
    if ahead.is_gt() && led_by_key {
        r.fired("HN-7", format!("{} is ahead, as the leader of /sync may be", peer.name));
        return Stand::Ahead;
    }
    if ahead.is_gt() {
        r.fired(
            "HN-7",
            format!("Wal position of {} is ahead of my wal position: {} > {my_lsn}", peer.name, peer.lsn),
        );
        return Stand::Veto;
    }
    let mine = r.obs.settings.tags.failover_priority();
    let theirs = peer.tags.failover_priority();
    if peer.lsn.is_zero() {
        return Stand::Silent;
    }
    let former = if race.voters.is_some() { led_by_key } else { race.former_leader == Some(&peer.name) };
    // Where votes are counted, whoever has none cannot take over before me.
    let counts = race.voters.is_none_or(|voters| !voters.counted || voters.has(&peer.name));
    if race.by_priority && ahead.is_eq() && mine < theirs && !former && counts {
        r.fired(
            "HN-8",
            format!(
                "{} has equally tolerable WAL position and priority {theirs}, while this node has priority {mine}",
                peer.name
            ),
        );
        return Stand::Veto;
    }
    Stand::Behind
}
