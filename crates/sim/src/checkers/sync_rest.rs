//! When everything is repaired, `/sync` and `synchronous_standby_names` say what was asked for (contract B.21, B.22, "target
//! steady state").

use std::collections::BTreeSet;

use ptarmigan_types::SyncState;
use serde_json::Value;

use super::{Kind, Violation};
use crate::{
    member::Member,
    synchronous::{drawn, names::Names},
    world::World,
};

/// What is not as it has to be in the end.
pub fn judge(world: &World) -> Option<Violation> {
    if !world.scenario.synchronous.used {
        return None;
    }
    let what = objection(world)?;
    Some(Violation { kind: Kind::Liveness, checker: "sync_rest", at: world.now, what })
}

fn objection(world: &World) -> Option<String> {
    let holder = world.store.keys.get("leader").and_then(|raw| world.index(&raw.value))?;
    let leader = &world.members[holder];
    let server = &leader.postgres.synchronous;
    let (raw, names) = (world.store.keys.get("sync"), server.in_force().unwrap_or_default());
    let config = world.dynamic_config();
    if !drawn::is_on(&config) {
        let quiet = raw.is_none() && names.is_empty();
        return (!quiet).then(|| format!("synchronous mode is off: /sync {raw:?}, names {:?}", server.file));
    }
    let number = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(0);
    let strict = config.get("synchronous_mode_strict") == Some(&Value::Bool(true));
    let wanted = usize::try_from(number("synchronous_node_count").max(1)).unwrap_or(1);
    let sync = raw.map_or_else(SyncState::default, |raw| SyncState::read(&raw.value, raw.revision));
    let said = || format!("/sync {}, names {:?}", sync.to_json(), server.file);
    if !sync.leader_matches(leader.name.as_str()) {
        return Some(format!("the leader in /sync is not {}: {}", leader.name, said()));
    }
    let able = able(world, holder);
    let voters: BTreeSet<String> = sync.standbys.iter().map(|name| name.as_str().to_lowercase()).collect();
    if able.is_empty() {
        // Strict mode keeps those whom it knew last, or nobody.
        return (strict == names.is_empty()).then(|| format!("there is no standby: {}", said()));
    }
    if drawn::is_quorum(&config) {
        quorum_objection(&able, wanted, &sync, &names, &voters).map(|text| format!("{text}: {}", said()))
    } else {
        priority_objection(&able, wanted, &names, &voters).map(|text| format!("{text}: {}", said()))
    }
}

/// Standbys that stream and may be synchronous.
fn able(world: &World, leader: usize) -> Vec<&Member> {
    let streams = |member: &&Member| {
        member.postgres.streams_from.is_some_and(|(upstream, _)| upstream == leader)
            && !member.settings.tags.nosync()
    };
    world.members.iter().filter(streams).collect()
}

fn names_of(members: &[&Member]) -> BTreeSet<String> {
    members.iter().map(|member| member.name.as_str().to_lowercase()).collect()
}

fn priority_objection(
    able: &[&Member],
    wanted: usize,
    names: &Names,
    voters: &BTreeSet<String>,
) -> Option<String> {
    let listed: BTreeSet<String> = names.list.iter().cloned().collect();
    let count = wanted.min(able.len());
    if names.any || listed != *voters || names.count != listed.len() || listed.len() != count {
        return Some(format!("{count} synchronous standbys are wanted"));
    }
    let rank = |member: &Member| {
        let tags = &member.settings.tags;
        (!tags.nofailover(), tags.sync_priority())
    };
    let (chosen, rest): (Vec<&&Member>, Vec<&&Member>) =
        able.iter().partition(|member| listed.contains(&member.name.as_str().to_lowercase()));
    let least = chosen.iter().map(|member| rank(member)).min()?;
    let better = rest.iter().find(|member| rank(member) > least)?;
    Some(format!("{} should be a synchronous standby", better.name))
}

fn quorum_objection(
    able: &[&Member],
    wanted: usize,
    sync: &SyncState,
    names: &Names,
    voters: &BTreeSet<String>,
) -> Option<String> {
    let may_lead: Vec<&Member> =
        able.iter().copied().filter(|member| !member.settings.tags.nofailover()).collect();
    let listed: BTreeSet<String> = names.list.iter().cloned().collect();
    // Those who may not lead only fill up.
    let enough = if may_lead.len() >= wanted { may_lead.len() } else { wanted.min(able.len()) };
    let count = wanted.min(enough);
    let right = names.any
        && listed == *voters
        && listed.len() == enough
        && names_of(&may_lead).is_subset(&listed)
        && listed.is_subset(&names_of(able))
        && names.count == count
        && sync.quorum as usize == enough - count;
    (!right).then(|| format!("{count} of {enough} standbys are wanted"))
}
