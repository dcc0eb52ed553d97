//! Follow somebody (contract B.14).

use ptarmigan_types::{Cluster, MemberName, Role, Tags};

use crate::{
    action::{Action, DemoteMode, Job, Outcome, RecoveryDifference},
    rewind,
    round::{Round, Step},
    upstream::Upstream,
};

/// Whom `me` follows (contract NF-1 to NF-5). Standby clusters (NF-2, NF-6) have their place here.
pub fn node_to_follow(me: &MemberName, tags: &Tags, cluster: &Cluster) -> Option<Upstream> {
    if tags.nostream() {
        return None;
    }
    let wanted = tags.replicatefrom().filter(|name| name != me && cluster.member(name).is_some());
    wanted.or_else(|| cluster.leader_name().cloned()).filter(|name| name != me).map(Upstream::Member)
}

/// Contract HA-279 to HA-294: `follows` is the line of a standby, `demotes` that of a primary that has to step down.
pub(crate) fn follow(r: &mut Round<'_>, follows: &str, demotes: &str) -> Step<String> {
    if r.obs.postgres.may_write() {
        r.fired("HA-282", "");
        r.forget_lease();
        return r.start(Job::Demote(DemoteMode::ImmediateNoLock), demotes);
    }
    rewind::act(r)?;
    if r.obs.postgres.major_version >= 14
        && r.obs.postgres.server.as_ref().is_some_and(|server| server.replay_paused)
    {
        r.fired("HA-286", "");
        r.request(Action::ResumeReplay);
    }
    let upstream = node_to_follow(&r.obs.me, &r.obs.settings.tags, r.view);
    let difference = match r.need(Action::CompareRecovery { upstream: upstream.clone() })? {
        Outcome::Recovery(difference) => *difference,
        _ => RecoveryDifference::None,
    };
    match difference {
        RecoveryDifference::Restart => {
            r.fired("HA-290", name_of(upstream.as_ref()));
            rewind::trigger(r, "follows somebody else");
            r.start(Job::Follow { upstream, role: Role::Replica, timeout: None }, follows)
        }
        RecoveryDifference::Reload => {
            r.fired("HA-291", name_of(upstream.as_ref()));
            rewind::trigger(r, "follows somebody else");
            r.request(Action::ReloadRecovery { upstream });
            note_replica(r);
            r.wake_within(std::time::Duration::from_secs(1));
            Ok(follows.into())
        }
        RecoveryDifference::None => no_difference(r, follows),
    }
}

/// HA-293, HA-294.
fn no_difference(r: &mut Round<'_>, follows: &str) -> Step<String> {
    note_replica(r);
    let (mine, leaders) = (r.obs.postgres.timeline(), r.memory.leader_timeline);
    if let (Some(mine), Some(leaders)) = (mine, leaders)
        && mine < leaders
    {
        r.fired("HA-293", format!("my timeline {mine}, the leader's {leaders}"));
        if !r.memory.rewind.is_pending() {
            rewind::trigger(r, "the leader is on a newer timeline");
            rewind::act(r)?;
        }
        return Ok(follows.into());
    }
    r.fired("HA-294", "");
    Ok(follows.into())
}

fn note_replica(r: &mut Round<'_>) {
    if r.obs.postgres.role != Role::Replica {
        r.request(Action::SetRole(Role::Replica));
    }
}

fn name_of(upstream: Option<&Upstream>) -> String {
    upstream.map_or_else(|| "nobody".into(), ToString::to_string)
}
