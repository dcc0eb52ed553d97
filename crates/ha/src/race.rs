//! Am I healthy enough to race for the lock (contract B.10.1, B.10.2)?

use std::time::Duration;

use ptarmigan_types::{Failover, Member, MemberName};

use crate::{
    action::{Action, When},
    candidates::{self, Race},
    failsafe, former, pause,
    round::{Round, Step, finish},
    sync::Voters,
    unmanaged,
};

/// Said where the former leader's server may still write (GD-2).
const NOT_ENDED: &str = "not racing yet: the guardian of the former leader has yet to end its PostgreSQL";

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
    if r.is_paused()
        && let Some(verdict) = wish_in_pause(r)?
    {
        return Ok(verdict);
    }
    if r.obs.postgres.is_starting() {
        r.fired("HA-203", "");
        return Ok(false);
    }
    if r.is_paused() {
        return Ok(may_take_lock_in_pause(r));
    }
    if r.obs.postgres.is_primary() {
        return Ok(primary_may_take_lock(r));
    }
    if r.obs.settings.tags.nofailover() {
        r.fired("HA-208", "");
        return Ok(false);
    }
    // Before an operator's wish, safer than the contract (docs/compatibility.md): it does not say that nobody leads either.
    if failsafe::keeps_from_racing(r, &r.obs.me)? {
        return Ok(false);
    }
    let voters = Voters::of(r);
    let outsider = voters.as_ref().is_some_and(|voters| !voters.has(&r.obs.me));
    if let Some(failover) = r.view.failover.clone() {
        if failover.leader.is_some() && outsider {
            r.fired("HA-209", "/sync does not name this node");
            return Ok(false);
        }
        // A switchover is from somebody who is alive: its server may be on its way down when its lock vanishes by other hands.
        if failover.leader.is_some() && former::may_still_write(r)? {
            return held_back(r, NOT_ENDED);
        }
        r.fired("HA-210", describe(&failover));
        return Ok(manual_failover(r, &failover)?.unwrap_or(false));
    }
    if !r.obs.watchdog.healthy {
        r.fired("HA-211", "the watchdog is required and cannot be used");
        return Ok(false);
    }
    if r.obs.guardian.is_missing() && !r.is_paused() {
        r.fired("GD-1", "the guardian is required and does not stand behind PostgreSQL: restart it once");
        return Ok(false);
    }
    if former::may_still_write(r)? {
        return held_back(r, NOT_ENDED);
    }
    if let Some(since) = too_soon(r) {
        r.fired("FO-1", format!("it was {} s ago", since.as_secs()));
        return Ok(false);
    }
    if is_left_out(r) {
        r.fired("HA-214", "/sync does not name this node");
        return Ok(false);
    }
    // Nor does it look for somebody else to follow: what still arrives is worth having, and tells that the sender lives.
    if unmanaged::holds_race_back(r)? {
        return held_back(r, "not racing: the former primary may still be writable");
    }
    let healthiest = healthiest_of_peers(r, true)?;
    r.fired("HA-216", if healthiest { "healthiest" } else { "not the healthiest" });
    Ok(healthiest)
}

/// No race now, and nobody else to follow; a lock that was acquired meanwhile is not kept.
fn held_back(r: &Round<'_>, line: &str) -> Step<bool> {
    if r.asks_again { Ok(false) } else { finish(line) }
}

/// Whether this node has to stop to receive WAL before positions are compared (HA-135 does that). A server before PostgreSQL 13
/// cannot without a restart.
fn still_receives(r: &mut Round<'_>) -> bool {
    let receives = r.obs.postgres.server.as_ref().is_some_and(|server| server.streaming);
    receives && candidates::waits_for_receivers(r)
}

/// How long ago the leader changed, where that is less than has to lie between two changes that nobody asked for. Whoever led last
/// may lead again.
fn too_soon(r: &Round<'_>) -> Option<Duration> {
    let least = r.obs.settings.failover_interval_min;
    let entries = r.view.history.as_ref()?.entries.as_ref()?;
    let leader = &entries.last()?.new_leader;
    // Whoever was promoted again and again led all the while.
    let last = entries.iter().rev().take_while(|entry| entry.new_leader == *leader).last()?;
    if least.is_zero() || r.is_paused() || last.new_leader.as_deref() == Some(r.obs.me.as_str()) {
        return None;
    }
    let began: jiff::Timestamp = last.timestamp.as_ref()?.parse().ok()?;
    // A clock that was set back since must not hold everybody back for ever.
    let since = Duration::try_from(r.obs.wall.duration_since(began)).ok()?;
    (since < least).then_some(since)
}

/// Whether a standby that holds the lock would win it now from those who can be reached. Its lag does not count: it was
/// looked at when the lock was raced for, and a primary that crashed may have published more than it had on disk.
pub(crate) fn would_win(r: &mut Round<'_>) -> Step<bool> {
    if is_left_out(r) {
        r.fired("HA-214", "/sync does not name this node");
        return Ok(false);
    }
    healthiest_of_peers(r, false)
}

/// Whoever is not in `/sync` may take over where enough of those who are agree (HN-9).
fn is_left_out(r: &Round<'_>) -> bool {
    Voters::of(r).is_some_and(|voters| !voters.counted && !voters.has(&r.obs.me))
}

/// HA-215: under synchronous replication those that `/sync` names, and whoever led last, who is only asked whether it
/// still does.
fn healthiest_of_peers(r: &mut Round<'_>, races: bool) -> Step<bool> {
    let mut members = peers(r);
    let old_leader = r.memory.old_leader.clone();
    let voters = Voters::of(r);
    let mut out_of_race = None;
    if let Some(voters) = &voters {
        members.retain(|member| voters.has(&member.name) || old_leader.as_ref() == Some(&member.name));
        out_of_race = old_leader.as_ref().filter(|leader| !voters.has(leader));
    }
    if races && still_receives(r) {
        candidates::receives(r, &r.obs.me.clone());
        return Ok(false);
    }
    let former_leader = old_leader.as_ref().filter(|_| races);
    let race =
        Race { check_lag: races, by_priority: true, former_leader, out_of_race, voters: voters.as_ref() };
    candidates::am_healthiest_of(r, &by_reference(&members), race)
}

/// HA-201: in pause an operator's wish is what is raced for. `None`: it says nothing about this node.
fn wish_in_pause(r: &mut Round<'_>) -> Step<Option<bool>> {
    if pause::belongs_elsewhere(r) {
        r.fired("HA-204", "another system identifier");
        return Ok(Some(false));
    }
    let wish = r.view.failover.clone().filter(|wish| wish.scheduled_at.is_none());
    let Some(wish) = wish.filter(|_| !r.obs.settings.tags.nofailover()) else { return Ok(None) };
    r.fired("HA-201", describe(&wish));
    // Safer than the contract (docs/compatibility.md): HA-205 holds for a wish too. A primary of before, started by hand while its
    // successor is down, would be led to again on its old timeline.
    if r.obs.postgres.is_primary() && !primary_may_take_lock(r) {
        return Ok(Some(false));
    }
    manual_failover(r, &wish)
}

/// HA-204, HA-207: only who is a primary already, by its own word: what a server that somebody starts by hand will be, the
/// role that was noted before does not tell. Safer than the contract (docs/compatibility.md): HA-205 holds in pause too. A
/// primary that an operator let somebody else overtake must not be led to again by whoever looks for the lock.
fn may_take_lock_in_pause(r: &mut Round<'_>) -> bool {
    if r.obs.postgres.server.as_ref().is_none_or(|server| server.in_recovery) {
        r.fired("HA-207", "");
        return false;
    }
    r.fired("HA-204", "");
    primary_may_take_lock(r)
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

/// Contract HA-220 to HA-228. `None`: the wish was dropped.
fn manual_failover(r: &mut Round<'_>, failover: &Failover) -> Step<Option<bool>> {
    if let Some(candidate) = &failover.candidate {
        if *candidate == r.obs.me {
            r.fired("HA-220", "");
            let may = !old_primary_lives(r)? && has_the_votes(r, failover)?;
            return Ok(Some(may));
        }
        if r.is_paused() {
            return Ok(somebody_elses_wish_in_pause(r, failover, candidate));
        }
        if is_left_out(r) {
            r.fired("HA-223", "/sync does not name this node");
            return Ok(Some(false));
        }
        if candidate_is_fine(r, failover)? {
            r.fired("HA-224", format!("leaving it to {candidate}"));
            return Ok(Some(false));
        }
        r.fired("HA-225", format!("{candidate} is not healthy or missing"));
    }
    if r.is_paused() {
        r.fired("HA-226", "");
        return Ok(Some(false));
    }
    if failover.leader.as_ref() == Some(&r.obs.me) {
        let nobody = !candidates::failover_possible_excluding(r, None, failover.candidate.as_ref())?;
        r.fired("HA-227", if nobody { "nobody else can" } else { "somebody else can" });
        return Ok(Some(nobody));
    }
    r.fired("HA-228", "");
    // The one that shall be left does not run; that it does not write any more is another question, and is asked.
    let leader = failover.leader.as_ref();
    let voters = Voters::of(r);
    let mut members = peers(r);
    if let Some(voters) = &voters {
        members.retain(|member| voters.has(&member.name) || leader == Some(&member.name));
    }
    let race = Race {
        check_lag: false,
        by_priority: true,
        former_leader: leader,
        out_of_race: leader,
        voters: voters.as_ref(),
    };
    candidates::am_healthiest_of(r, &by_reference(&members), race).map(Some)
}

/// Safer than the contract (docs/compatibility.md): a switchover names who shall lead, and says nothing about which commits
/// that node has. Where only some of those that may be promoted have every commit, it needs the others' agreement as in
/// any race; where another one is ahead, the wish is given up, and that one leads.
fn has_the_votes(r: &mut Round<'_>, failover: &Failover) -> Step<bool> {
    let voters = Voters::of(r).filter(|voters| voters.needed > 0);
    let (Some(voters), Some(_)) = (voters, &failover.leader) else { return Ok(true) };
    let members: Vec<Member> = peers(r).into_iter().filter(|member| voters.has(&member.name)).collect();
    // Whoever has the same and a higher priority leaves the lock to this node (HA-224): found by the simulation.
    let race = Race {
        check_lag: false,
        by_priority: false,
        former_leader: None,
        out_of_race: None,
        voters: Some(&voters),
    };
    if candidates::am_healthiest_of(r, &by_reference(&members), race)? {
        return Ok(true);
    }
    let mine = r.obs.postgres.lsn();
    let answers = candidates::ask(r, &by_reference(&members))?;
    if answers.iter().any(|answer| answer.limitation().is_none() && Some(answer.lsn) > mine) {
        r.request(Action::ClearFailover(When::Revision(failover.revision)));
    }
    Ok(false)
}

/// HA-221, HA-222: a wish for somebody who is gone does not keep the primary from its lock.
fn somebody_elses_wish_in_pause(
    r: &mut Round<'_>,
    failover: &Failover,
    candidate: &MemberName,
) -> Option<bool> {
    if r.view.member(candidate).is_none() && r.obs.postgres.is_primary() {
        r.fired("HA-221", format!("{candidate} does not exist"));
        r.request(Action::ClearFailover(When::Revision(failover.revision)));
        return None;
    }
    r.fired("HA-222", format!("{candidate} shall lead"));
    Some(false)
}

/// Safer than the contract (docs/compatibility.md): the wish for a candidate says who shall lead, not that nobody leads.
/// The lock may be gone while its last holder cannot know, so it is asked (HN-6) also where the candidate is certain; and
/// since whoever led last may be unknown here, or go on in failsafe mode without this node, so is everybody.
fn old_primary_lives(r: &mut Round<'_>) -> Step<bool> {
    let members = peers(r);
    let asked: Vec<&Member> = members.iter().filter(|member| member.name != r.obs.me).collect();
    let alive = candidates::ask(r, &asked)?.into_iter().find(|answer| !answer.in_recovery);
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
    // HA-209 keeps it from racing: whoever left the lock to it would leave it to nobody. Found by the simulation.
    let bound = failover.leader.is_some();
    if bound && Voters::of(r).is_some_and(|voters| !voters.has(&member.name)) {
        r.fired("HA-209", format!("/sync does not name {}", member.name));
        return Ok(false);
    }
    if !r.is_paused() && failsafe::keeps_from_racing(r, &member.name)? {
        return Ok(false);
    }
    let answers = candidates::ask(r, &[member])?;
    Ok(answers.iter().any(|answer| answer.limitation().is_none()))
}
