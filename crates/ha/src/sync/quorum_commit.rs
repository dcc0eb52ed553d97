//! Quorum mode: a number of the named standbys has every commit, and whoever is promoted was agreed upon by enough of them
//! (contract B.22).

use ptarmigan_types::{MemberName, SyncState};

use super::{
    Kind, NameSet,
    quorum::{Situation, Transition, resolve_as_far_as_safe},
    steps::{Places, look_again, size, steady},
};
use crate::round::{Round, Step};

/// Contract QS-1 to QS-5. Safer than the contract: what follows a change of the names waits until they are in force, and
/// nothing is written to `/sync` that is not known to be true by then.
pub(crate) fn steps(r: &mut Round<'_>, places: &mut Places) -> Step<()> {
    let me = r.obs.me.clone();
    if places.sync.is_empty() && !places.write_sync(r, "QS-1", &NameSet::default(), 0)? {
        return Ok(());
    }
    let voters = places.voters();
    if places.sync.leader_matches(me.as_str()) && places.hold(r, "QS-2", &voters)? {
        return Ok(());
    }
    let wanted = places.settings.node_count.max(places.settings.least());
    let situation = Situation {
        leader: places
            .sync
            .leader
            .clone()
            .filter(|leader| !is_same(leader, &me))
            .unwrap_or_else(|| me.clone()),
        quorum: index(places.sync.quorum),
        voters,
        count: index(places.names.count),
        sync: places.names.members.clone(),
        confirmed: places.confirmed(&me).len(),
        active: places.active.clone(),
        wanted: index(wanted),
        leader_wanted: me.clone(),
    };
    let steps = match resolve_as_far_as_safe(situation) {
        Ok(steps) => steps,
        Err(violation) => {
            // Whatever the two places say: who leads has every commit.
            r.fired("QS-3", format!("{violation}; /sync is begun anew"));
            places.write_sync(r, "QS-3", &NameSet::default(), 0)?;
            look_again(r);
            return Ok(());
        }
    };
    if steps.is_empty() {
        if places.names.kind == Kind::Priority && !places.names.members.is_empty() {
            let (names, count) = (places.names.members.clone(), places.names.count);
            return places.set_names(r, "QS-4", &names, Some(count));
        }
        if places.confirmed(&me).len() < index(places.names.count) {
            look_again(r);
        } else {
            steady(r);
        }
        return Ok(());
    }
    for step in steps {
        if !carry_out(r, places, step)? {
            return Ok(());
        }
    }
    look_again(r);
    Ok(())
}

/// False: the rest waits for the next cycle.
fn carry_out(r: &mut Round<'_>, places: &mut Places, step: Transition) -> Step<bool> {
    let me = r.obs.me.clone();
    match step {
        Transition::Quorum { leader, quorum, voters } => {
            if leader != me {
                return Ok(false);
            }
            if lacking_before(places, &me, &voters).max(lacking_now(places, &voters)) > quorum {
                r.fired(
                    "QS-3",
                    format!("/sync cannot name {voters} with quorum {quorum} yet: some may lack commits"),
                );
                look_again(r);
                return Ok(false);
            }
            let quorum = u32::try_from(quorum).unwrap_or(u32::MAX);
            places.write_sync(r, "QS-3", &voters, quorum)
        }
        Transition::Sync { count, names } => {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            // Zero standbys of some cannot be said to PostgreSQL.
            let names = if count == 0 { NameSet::default() } else { names };
            let unchanged = places.print(&names, Some(count)) == places.text;
            if !unchanged {
                places.set_names(r, "QS-3", &names, Some(count))?;
            }
            Ok(unchanged)
        }
        Transition::Restart => {
            r.fired("QS-5", "");
            look_again(r);
            Ok(false)
        }
    }
}

/// How many of these may lack a commit that was acknowledged before the names of now were in force: those that are not
/// known to have got so far, and no more than `/sync` promises.
fn lacking_before(places: &Places, me: &MemberName, voters: &NameSet) -> usize {
    let unknown = voters.without(&places.passed).len();
    let before = members_but(&places.sync, me);
    let promised = voters.without(&before).len() + voters.and(&before).len().min(index(places.sync.quorum));
    unknown.min(promised)
}

/// How many of these may lack a commit that is acknowledged under the names of now.
fn lacking_now(places: &Places, voters: &NameSet) -> usize {
    let named = &places.names.members;
    let elsewhere = named.without(voters).len();
    let certain = index(places.names.count).min(named.len()).saturating_sub(elsewhere);
    voters.without(named).len() + voters.and(named).len().saturating_sub(certain)
}

/// The leader and the voters of `/sync`, this node left out.
pub(crate) fn members_but(sync: &SyncState, me: &MemberName) -> NameSet {
    let me: NameSet = std::iter::once(me.clone()).collect();
    sync.members().into_iter().collect::<NameSet>().without(&me)
}

fn is_same(one: &MemberName, other: &MemberName) -> bool {
    one.as_str().to_lowercase() == other.as_str().to_lowercase()
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// How many standbys of `others` must have every commit for what `/sync` says to hold under a new leader.
pub(crate) fn count_under(others: &NameSet, quorum: u32) -> u32 {
    size(others).saturating_sub(quorum)
}
