//! Am I healthy enough to race for the lock (contract B.10.1, B.10.2)?

use ptarmigan_types::{Failover, Member};

use crate::{
    candidates::{self, Race},
    failsafe,
    round::{Round, Step},
};

/// Contract HA-200 to HA-216.
pub(crate) fn am_healthy(r: &mut Round<'_>) -> Step<bool> {
    if let Some(released) = r.memory.released_at
        && r.obs.now.since(released) < r.obs.settings.ttl
    {
        r.fired("HA-200", "pre_promote failed a short while ago");
        return Ok(false);
    }
    if failsafe::has_promised(r) {
        return Ok(false);
    }
    if r.obs.postgres.is_starting() {
        r.fired("HA-203", "");
        return Ok(false);
    }
    if r.obs.postgres.is_primary() {
        return Ok(primary_may_take_lock(r));
    }
    if r.obs.settings.tags.nofailover() {
        r.fired("HA-208", "");
        return Ok(false);
    }
    if let Some(failover) = r.view.failover.clone() {
        r.fired("HA-210", describe(&failover));
        return manual_failover(r, &failover);
    }
    if failsafe::keeps_from_racing(r) {
        return Ok(false);
    }
    // HA-211 (watchdog) and HA-214, HA-215 (synchronous replication) have their places here.
    let members = peers(r);
    let former_leader = r.memory.old_leader.clone();
    let race = Race { check_lag: true, former_leader: former_leader.as_ref(), out_of_race: None };
    let healthiest = candidates::am_healthiest_of(r, &by_reference(&members), race)?;
    r.fired("HA-216", if healthiest { "healthiest" } else { "not the healthiest" });
    Ok(healthiest)
}

/// Whether a standby that holds the lock would win it now from those who can be reached. Its lag does not count: it was
/// looked at when the lock was raced for, and a primary that crashed may have published more than it had on disk.
pub(crate) fn would_win(r: &mut Round<'_>) -> Step<bool> {
    let members = peers(r);
    let race = Race { check_lag: false, former_leader: None, out_of_race: None };
    candidates::am_healthiest_of(r, &by_reference(&members), race)
}

/// HA-205: a running primary takes the lock back unless a later timeline exists.
fn primary_may_take_lock(r: &mut Round<'_>) -> bool {
    let (mine, cluster) = (r.obs.postgres.timeline(), r.view.timeline());
    let may = mine.is_some_and(|tli| tli >= cluster);
    r.fired("HA-205", format!("my timeline {mine:?}, cluster's {cluster}"));
    may
}

/// HA-213: members of the last view with a leader, then those of `/failsafe`, then of this view; later entries with the same
/// name win.
fn peers(r: &Round<'_>) -> Vec<Member> {
    let mut members = r.memory.old_members.to_vec();
    for member in failsafe::members(r).iter().chain(r.view.members.iter()) {
        members.retain(|old| old.name != member.name);
        members.push(member.clone());
    }
    members
}

fn by_reference(members: &[Member]) -> Vec<&Member> {
    members.iter().collect()
}

fn describe(failover: &Failover) -> String {
    format!("leader {:?}, candidate {:?}", failover.leader, failover.candidate)
}

/// Contract HA-220 to HA-228.
fn manual_failover(r: &mut Round<'_>, failover: &Failover) -> Step<bool> {
    if let Some(candidate) = &failover.candidate {
        if *candidate == r.obs.me {
            r.fired("HA-220", "");
            return Ok(!old_primary_lives(r, failover)?);
        }
        if candidate_is_fine(r, failover)? {
            r.fired("HA-224", format!("leaving it to {candidate}"));
            return Ok(false);
        }
        r.fired("HA-225", format!("{candidate} is not healthy or missing"));
    }
    if failover.leader.as_ref() == Some(&r.obs.me) {
        let nobody = !candidates::failover_possible_excluding(r, None, failover.candidate.as_ref())?;
        r.fired("HA-227", if nobody { "nobody else can" } else { "somebody else can" });
        return Ok(nobody);
    }
    r.fired("HA-228", "");
    // The one that shall be left does not run; that it does not write any more is another question, and is asked.
    let leader = failover.leader.as_ref();
    let race = Race { check_lag: false, former_leader: leader, out_of_race: leader };
    candidates::am_healthiest_of(r, &by_reference(&peers(r)), race)
}

/// Safer than the contract (docs/compatibility.md): the wish for a candidate says who shall lead, not that nobody leads.
/// The lock may be gone while its last holder cannot know, so it is asked (HN-6) also where the candidate is certain.
fn old_primary_lives(r: &mut Round<'_>, failover: &Failover) -> Step<bool> {
    let last = [failover.leader.clone(), r.memory.old_leader.clone()];
    let members = peers(r);
    let asked =
        members.iter().filter(|member| member.name != r.obs.me && last.contains(&Some(member.name.clone())));
    let asked: Vec<&Member> = asked.collect();
    let alive = candidates::ask(r, &asked)?.iter().find(|answer| !answer.in_recovery);
    if let Some(primary) = alive {
        r.fired("HN-6", format!("{} is still a primary", primary.name));
    }
    Ok(alive.is_some())
}

fn candidate_is_fine(r: &mut Round<'_>, failover: &Failover) -> Step<bool> {
    let Some(member) = failover.candidate.as_ref().and_then(|name| r.view.member(name)) else {
        return Ok(false);
    };
    if member.data.tags().nofailover() {
        return Ok(false);
    }
    let answers = candidates::ask(r, &[member])?;
    Ok(answers.iter().any(|answer| answer.limitation().is_none()))
}
