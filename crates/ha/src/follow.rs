//! Follow somebody (contract B.14).

use ptarmigan_types::{Cluster, MemberName, Role, Tags};

use crate::{
    action::{Action, DemoteMode, Job, Outcome, RecoveryDifference},
    callbacks::Event,
    observation::Settings,
    pause, rewind,
    round::{Round, Step},
    standby,
    upstream::Upstream,
};

/// Whom `me` follows (contract NF-1 to NF-5). What a standby cluster passes along to a standby of a member (NF-6) is seen
/// to where the recovery configuration is made.
pub fn node_to_follow(me: &MemberName, settings: &Settings, cluster: &Cluster) -> Option<Upstream> {
    if settings.tags.nostream() {
        return None;
    }
    if settings.standby_cluster.is_some() && standby::follows_remote(me, cluster, settings.pause) {
        return Some(Upstream::Remote);
    }
    let wanted = named_upstream(me, &settings.tags, cluster).filter(|name| !comes_back(me, name, cluster));
    wanted.or_else(|| cluster.leader_name().cloned()).filter(|name| name != me).map(Upstream::Member)
}

/// The other member that `replicatefrom` names for this one, where there is such a member.
pub(crate) fn named_upstream(member: &MemberName, tags: &Tags, cluster: &Cluster) -> Option<MemberName> {
    tags.replicatefrom().filter(|name| name != member && cluster.member(name).is_some())
}

/// Safer than the contract (docs/compatibility.md): members that are to replicate from each other, with nobody among them
/// who gets WAL, would stand still without a word. Whoever finds itself in such a circle takes the leader.
pub(crate) fn comes_back(me: &MemberName, first: &MemberName, cluster: &Cluster) -> bool {
    let mut name = first.clone();
    for _ in 0..=cluster.members.len() {
        if name == *me {
            return true;
        }
        if cluster.is_leader(&name) {
            return false;
        }
        let next = cluster.member(&name).and_then(|member| member.data.tags().replicatefrom());
        let Some(next) = next.filter(|next| *next != name && cluster.member(next).is_some()) else {
            return false;
        };
        name = next;
    }
    // A circle further up; those in it see to that.
    false
}

/// Contract HA-279 to HA-294: `follows` is the line of a standby, `demotes` that of a primary that has to step down.
pub(crate) fn follow(r: &mut Round<'_>, follows: &str, demotes: &str) -> Step<String> {
    if let Some(line) = pause::left_alone(r) {
        return Ok(line);
    }
    if !r.is_paused() && r.obs.postgres.may_write() {
        if standby::demotes_cluster(r) {
            return standby::demote_cluster(r, demotes);
        }
        r.fired("HA-282", "");
        r.forget_lease();
        return r.start(Job::Demote(DemoteMode::ImmediateNoLock), demotes);
    }
    // In pause a running standby is neither rewound nor copied anew (docs/compatibility.md).
    standby::upstream_went_on(r);
    if !r.is_paused() {
        rewind::act(r)?;
    }
    if !r.is_paused()
        && r.obs.postgres.major_version >= 14
        && r.obs.postgres.server.as_ref().is_some_and(|server| server.replay_paused)
    {
        r.fired("HA-286", "");
        r.request(Action::ResumeReplay);
    }
    let upstream = node_to_follow(&r.obs.me, &r.obs.settings, r.view);
    let role = wanted_role(r, upstream.as_ref());
    if let Some(line) = standby::keeps_following(r, upstream.as_ref(), role) {
        note_role(r, role);
        return Ok(line);
    }
    let difference = match r.need(Action::CompareRecovery { upstream: upstream.clone() })? {
        Outcome::Recovery(difference) => *difference,
        _ => RecoveryDifference::None,
    };
    match difference {
        // In pause a restart is left to the operator, but before PostgreSQL 13 nobody could be followed without one.
        RecoveryDifference::Restart if r.is_paused() && r.obs.postgres.major_version >= 13 => {
            r.fired("HA-290", "paused: the restart waits");
            Ok(follows.into())
        }
        RecoveryDifference::Restart => {
            r.fired("HA-290", name_of(upstream.as_ref()));
            rewind::trigger(r, "follows somebody else");
            r.start(Job::Follow { upstream, role, timeout: None }, follows)
        }
        RecoveryDifference::Reload => {
            r.fired("HA-291", name_of(upstream.as_ref()));
            rewind::trigger(r, "follows somebody else");
            note_role(r, role);
            r.request(Action::ReloadRecovery { upstream });
            r.wake_within(std::time::Duration::from_secs(1));
            Ok(follows.into())
        }
        RecoveryDifference::None => no_difference(r, role, follows),
    }
}

/// HA-287.
pub(crate) fn wanted_role(r: &mut Round<'_>, upstream: Option<&Upstream>) -> Role {
    if upstream == Some(&Upstream::Remote) && r.has_lock() {
        r.fired("HA-287", "");
        return Role::StandbyLeader;
    }
    Role::Replica
}

/// HA-292 to HA-294.
fn no_difference(r: &mut Round<'_>, role: Role, follows: &str) -> Step<String> {
    if role == Role::StandbyLeader && r.obs.postgres.role != role {
        r.fired("HA-292", "");
    }
    note_role(r, role);
    let (mine, leaders) = (r.obs.postgres.timeline(), r.memory.leader_timeline);
    if let (Some(mine), Some(leaders)) = (mine, leaders)
        && mine < leaders
    {
        r.fired("HA-293", format!("my timeline {mine}, the leader's {leaders}"));
        if !r.memory.rewind.is_pending() {
            rewind::trigger(r, "the leader is on a newer timeline");
            if !r.is_paused() {
                rewind::act(r)?;
            }
        }
        return Ok(follows.into());
    }
    r.fired("HA-294", "");
    Ok(follows.into())
}

/// Without a start nobody else tells the operator's callbacks that the role is another one (contract B.25, HA-292).
fn note_role(r: &mut Round<'_>, role: Role) {
    let old = r.obs.postgres.role;
    if old == role {
        return;
    }
    r.request(Action::SetRole(role));
    if matches!(old, Role::Primary | Role::Promoted | Role::Replica | Role::StandbyLeader) {
        r.request(Action::RunCallback(Event::RoleChange));
    }
}

fn name_of(upstream: Option<&Upstream>) -> String {
    upstream.map_or_else(|| "nobody".into(), ToString::to_string)
}
