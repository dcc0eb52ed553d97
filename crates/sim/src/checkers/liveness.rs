//! When everything is repaired the cluster comes to rest: one leader that writes, and everybody else streams from it.

use ptarmigan_types::{Lsn, Status};

use super::{Kind, Violation, logical_slots, slots, sync_rest};
use crate::{postgres::Record, remote::REMOTE, world::World};

/// What is not as it has to be in the end.
pub fn judge(world: &World) -> Option<Violation> {
    if is_led_by_one_ruined(world) {
        return None;
    }
    if let Some(violation) = slots::judge(world) {
        return Some(violation);
    }
    let Some(what) = objection(world) else {
        return logical_slots::judge(world).or_else(|| sync_rest::judge(world));
    };
    Some(Violation { kind: Kind::Liveness, checker: "liveness", at: world.now, what })
}

/// A standby leader was rewound from the remote primary, which is gone, or has lost since then what it needs. It cannot be copied
/// anew without being asked; where it still holds the lock it is waited for, and where nobody does, all others are too far behind
/// what it had told.
fn is_led_by_one_ruined(world: &World) -> bool {
    let holder = world.store.keys.get("leader").map(|raw| raw.value.as_str());
    let leader = holder.and_then(|name| world.index(name));
    let all_without = |record: &Record| {
        let remote = world.other.is_there().then_some(&world.other.postgres);
        let mut servers = world.members.iter().map(|member| &member.postgres).chain(remote);
        !servers.any(|server| server.needs.is_none() && server.has(record))
    };
    let is_ruined = |member: usize| world.members[member].postgres.needs.filter(all_without).is_some();
    if let Some(leader) = leader {
        return is_ruined(leader);
    }
    let status = world.store.keys.get("status").map(|raw| Status::read(&raw.value));
    let told = status.map_or(Lsn::ZERO, |status| status.last_lsn);
    let lags = |member: usize| {
        let this = &world.members[member];
        this.postgres.end().0.saturating_add(this.settings.maximum_lag_on_failover_bytes) < told.0
    };
    let mut members = 0..world.members.len();
    members.clone().any(is_ruined) && members.all(|member| is_ruined(member) || lags(member))
}

fn objection(world: &World) -> Option<String> {
    let holder = world.store.keys.get("leader").map(|raw| raw.value.as_str());
    let Some(leader) = holder.and_then(|name| world.index(name)) else {
        return Some("nobody holds the lock".into());
    };
    for (index, member) in world.members.iter().enumerate() {
        let postgres = &member.postgres;
        if !member.is_alive() {
            return Some(format!("the daemon of {} does not run", member.name));
        }
        if index == leader && world.other.is_there() {
            if let Some(objection) = world.standby_leader_objection(leader) {
                return Some(objection);
            }
        } else if index == leader {
            if !postgres.is_writable() {
                return Some(format!("{} leads and cannot write: {:?}", member.name, postgres.process));
            }
        } else if postgres.is_writable() {
            return Some(format!("{} writes without the lock", member.name));
        } else if !gets_wal(world, index) && !is_left_behind(world, index, leader) {
            return Some(format!(
                "{} does not stream from whom it is to follow: {:?}, {:?}, timeline {}, at {}, leader's timeline {}, at {}",
                member.name,
                postgres.process,
                postgres.control,
                postgres.timeline,
                postgres.end(),
                world.members[leader].postgres.timeline,
                world.members[leader].postgres.end(),
            ));
        }
    }
    None
}

/// It streams from the one that it is to follow, or lives from the archive. Where one of those above it was left behind, it is
/// no fault of this one.
fn gets_wal(world: &World, member: usize) -> bool {
    let Some(upstream) = world.node_to_follow(member) else { return world.heard_lately(member) };
    let from = world.members[member].postgres.streams_from;
    from.is_some_and(|(from, _)| from == upstream) || hangs_on_one_left_behind(world, member)
}

fn hangs_on_one_left_behind(world: &World, member: usize) -> bool {
    let mut below = member;
    for _ in 0..world.members.len() {
        let Some(above) = world.node_to_follow(below).filter(|above| *above != REMOTE) else { return false };
        if is_left_behind(world, below, above) {
            return true;
        }
        below = above;
    }
    false
}

/// Two members that did not hear of each other may begin the same timeline. `pg_rewind` cannot repair that, so whoever has
/// the other one stays behind until an operator reinitialises it, unless its settings allow that without being asked. So
/// does whoever needs WAL that the leader has not any more.
fn is_left_behind(world: &World, member: usize, leader: usize) -> bool {
    let settings = &world.members[member].settings;
    let repairs = settings.remove_data_directory_on_rewind_failure
        || settings.remove_data_directory_on_diverged_timelines;
    let (mine, theirs) = (&world.members[member].postgres, world.server(leader));
    let twice = !repairs && mine.divergence(theirs) == ptarmigan_ha::action::Divergence::SameTimelineTwice;
    // So is what an interrupted rewind left, and a rewound server whose source is gone with some of the WAL that it needs.
    let repairs = repairs && !world.other.is_there();
    let ruined = mine.torn.is_some() || mine.needs.is_some_and(|record| !theirs.has(&record));
    twice
        || ruined && !repairs
        || mine.is_prefix_of(theirs) && mine.lacks_wal_of(theirs)
        || world.cannot_be_rewound(member)
        || world.cannot_be_rewound(leader)
}

/// How many members were left behind so.
pub fn left_behind(world: &World) -> u64 {
    let holder = world.store.keys.get("leader").map(|raw| raw.value.as_str());
    let Some(leader) = holder.and_then(|name| world.index(name)) else { return 0 };
    (0..world.members.len())
        .filter(|member| *member != leader && is_left_behind(world, *member, leader))
        .count() as u64
}
