//! An empty data directory becomes a cluster's first node or a replica (contract B.6, B.17.1).

use std::time::Duration;

use ptarmigan_types::{Cluster, Member, MemberName, Monotonic, Role};

use crate::{
    action::{Action, Job, When},
    callbacks, identity,
    memory::RewindState,
    observation::{JobKind, Settings},
    round::{Round, Step, finish},
    sync::Voters,
    upstream::Upstream,
    watchdog,
};

/// Contract BS-1 to BS-4.
pub(crate) fn empty_data_directory(r: &mut Round<'_>) -> Step<()> {
    let me = &r.obs.me;
    if r.view.is_unlocked()
        && r.view.initialize.is_none()
        && !r.obs.settings.tags.nofailover()
        && r.obs.settings.can_bootstrap
    {
        let Some(trace) = trace_of_a_cluster(r) else { return race_to_initialize(r) };
        r.fired("BS-1", format!("{trace}: /initialize is missing, and this is no new cluster"));
    }
    if let Some(source) = clone_source(me, &r.obs.settings, r.view, r.obs.now) {
        let from = if r.view.is_leader(&source.name) { "leader" } else { "replica" };
        let line = format!("trying to bootstrap from {from} '{}'", source.name);
        r.fired("BS-2", source.name.to_string());
        r.hold_back(JobKind::Clone)?;
        return r.start(Job::Clone { source: Some((&source.name).into()) }, line);
    }
    if is_relied_on(me, &r.obs.settings, r.view) {
        r.fired("BS-4", "/sync names this node, and what it had is gone: only the leader is copied");
        return finish("waiting for leader to bootstrap: named in /sync, so only the leader is copied");
    }
    let initializing = r.view.initialize.as_ref().is_some_and(|key| key.value.is_empty());
    if r.view.is_unlocked() && r.obs.settings.can_clone_without_leader && !initializing {
        r.fired("BS-3", "");
        r.hold_back(JobKind::Clone)?;
        let source = r.in_standby_cluster().then_some(Upstream::Remote);
        return r.start(Job::Clone { source }, "trying to bootstrap (without leader)");
    }
    if last_data_is_gone(r) && !initializing {
        r.fired("BS-3", "no member has data, and the remote member has");
        r.hold_back(JobKind::Clone)?;
        return r
            .start(Job::Clone { source: Some(Upstream::Remote) }, "trying to bootstrap (without leader)");
    }
    r.fired("BS-4", format!("{me} waits"));
    let leader = if r.in_standby_cluster() { "standby_leader" } else { "leader" };
    finish(format!("waiting for {leader} to bootstrap"))
}

/// Better than the contract (docs/compatibility.md): a standby cluster whose last data directory is gone would wait for ever
/// for one of its members, although what it had is there for the asking. A member that may not lead is none to wait for.
fn last_data_is_gone(r: &Round<'_>) -> bool {
    let has_data = |member: &Member| {
        let data = &member.data;
        let has = data.timeline().is_some() || data.xlog_location().is_some() || data.is_running();
        has && !data.tags().nofailover()
    };
    r.view.is_unlocked()
        && r.view.system_identifier().is_some()
        && !r.obs.settings.tags.nofailover()
        && r.obs.settings.standby_cluster.is_some_and(|remote| remote.has_address)
        && !r.view.members.iter().any(|member| member.name != r.obs.me && has_data(member))
}

/// Safer than the contract (docs/compatibility.md): somebody deleted `/initialize`, but there is a cluster. Another one in its
/// place would lock out whoever has the data.
fn trace_of_a_cluster(r: &Round<'_>) -> Option<String> {
    if r.view.history.is_some() || !r.view.status.last_lsn.is_zero() {
        return Some("the DCS knows a position or a history".into());
    }
    let has_data = |member: &&Member| {
        member.name != r.obs.me && (member.data.timeline().is_some() || member.data.xlog_location().is_some())
    };
    let member = r.view.members.iter().find(has_data)?;
    Some(format!("{} has data", member.name))
}

fn race_to_initialize(r: &mut Round<'_>) -> Step<()> {
    if !r.write(Action::WriteInitialize { value: String::new(), when: When::Absent })? {
        r.fired("BS-1", "lost");
        return finish("failed to acquire initialize lock");
    }
    r.fired("BS-1", "won");
    r.memory.bootstrapping = true;
    r.memory.post_bootstrap = None;
    if r.in_standby_cluster() {
        return r.start(Job::BootstrapStandbyLeader, "trying to bootstrap a new standby leader");
    }
    r.start(Job::Bootstrap, "trying to bootstrap a new cluster")
}

/// Whom `me` copies: a running member with the `clonefrom` tag, else the leader (contract BS-2). Where several offer
/// themselves, each node starts its search at another one, so that they share the load without a random number, and moves
/// on with time, so that it does not try for ever one that cannot be copied.
///
/// Safer than the contract (docs/compatibility.md): whoever `/sync` names copies the leader and nobody else. What it held
/// for the commits of that leader is gone, and with the copy of a standby it could take over without them.
pub fn clone_source<'a>(
    me: &MemberName,
    settings: &Settings,
    cluster: &'a Cluster,
    now: Monotonic,
) -> Option<&'a Member> {
    // Without a leader there is nobody to follow afterwards, so nobody to clone from.
    let leader = cluster.leader_member().filter(|member| member.name != *me && has_address(member))?;
    if is_relied_on(me, settings, cluster) {
        return Some(leader);
    }
    let offering: Vec<&Member> = cluster
        .members
        .iter()
        .filter(|member| member.name != *me && !cluster.is_leader(&member.name))
        .filter(|member| has_address(member) && member.data.is_running() && member.data.tags().clonefrom())
        .collect();
    let minutes = usize::try_from(now.0 / 60_000_000).unwrap_or_default();
    let start = me.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let chosen = start
        .wrapping_add(minutes)
        .checked_rem(offering.len())
        .and_then(|index| offering.get(index).copied());
    Some(chosen.unwrap_or(leader))
}

fn has_address(member: &Member) -> bool {
    member.data.conn_url().is_some()
}

/// `/sync` says that this node has what was acknowledged.
fn is_relied_on(me: &MemberName, settings: &Settings, cluster: &Cluster) -> bool {
    Voters::in_force(settings, cluster).is_some_and(|voters| voters.has(me))
}

/// Contract HA-060 to HA-064: this node's bootstrap job has ended.
pub(crate) fn finish_bootstrap(r: &mut Round<'_>, renewed: Option<bool>) -> Step<String> {
    if !r.obs.postgres.running || r.memory.post_bootstrap == Some(false) {
        return abandon(r);
    }
    match r.memory.post_bootstrap {
        None if !r.obs.postgres.is_primary() => {
            r.fired("HA-061", "");
            // Nothing but a look tells when a server that answers all the time is no standby any more.
            r.wake_within(Duration::from_secs(1));
            Ok("waiting for end of recovery after bootstrap".into())
        }
        None => {
            r.fired("HA-062", "");
            r.request(Action::SetRole(Role::Primary));
            r.start(Job::PostBootstrap, "running post_bootstrap")
        }
        Some(_) => initialized(r, renewed),
    }
}

/// HA-060. `/initialize` is deleted only where it can be the one that this node wrote.
fn abandon(r: &mut Round<'_>) -> Step<String> {
    r.fired("HA-060", "");
    if is_still_mine(r) {
        r.request(Action::DeleteInitialize);
    }
    r.request(Action::AbandonBootstrap);
    let reason = "failed to bootstrap cluster";
    r.request(Action::Exit { stop_postgres: true, reason: reason.into() });
    Ok(reason.into())
}

/// Neither another leader nor another system identifier: nobody else bootstrapped this cluster meanwhile.
fn is_still_mine(r: &Round<'_>) -> bool {
    let theirs = r.view.system_identifier();
    (r.view.is_unlocked() || r.has_lock())
        && theirs.is_none_or(|theirs| r.obs.postgres.system_identifier.as_deref() == Some(theirs))
}

/// HA-064. Nothing is put over what somebody else wrote: a bootstrapper that was frozen and thawed must overwrite
/// neither a holder nor a cluster (DESIGN, "The lease"; the contract puts unconditionally).
fn initialized(r: &mut Round<'_>, renewed: Option<bool>) -> Step<String> {
    let Some(value) = r.obs.postgres.system_identifier.clone() else { return abandon(r) };
    if !is_still_mine(r) {
        r.fired("HA-064", "somebody else initialized the cluster meanwhile");
        return abandon(r);
    }
    if !watchdog::activated(r)? {
        r.fired("HA-063", "");
        return abandon(r);
    }
    let primary = r.obs.postgres.is_primary();
    if primary {
        r.request(Action::EnsureCheckpoint);
    }
    let named = r.view.system_identifier().is_some();
    let when = identity::unchanged_initialize(r.view);
    if !(named || r.write(Action::WriteInitialize { value, when })?) || !r.write(Action::WriteConfig)? {
        r.wake_within(Duration::from_secs(1));
        return Ok("the DCS refused to store the new cluster, trying again".into());
    }
    // The key may be this node's already: an earlier answer of the store was lost.
    let held = match renewed {
        Some(renewed) => renewed,
        None => r.lock(Action::AcquireLock)?,
    };
    // From here on this is a leader like any other: in the cycle that holds the lock nothing may fail any more.
    r.memory.bootstrapping = false;
    r.memory.post_bootstrap = None;
    r.memory.rewind = RewindState::Initial;
    r.memory.joined = true;
    r.wake_within(Duration::ZERO);
    if !held {
        r.fired("HA-064", "somebody else holds the lock");
        return Ok("lost the leader lock after bootstrap".into());
    }
    r.fired("HA-064", "");
    r.request(Action::SetRole(if primary { Role::Primary } else { Role::StandbyLeader }));
    r.request(Action::RunCallback(callbacks::Event::Start));
    // Nobody can be a synchronous standby yet: in strict mode commits wait for the first one.
    if let Some(names) = r.obs.settings.synchronous.names_of_nobody() {
        r.request(Action::SetStandbyNames(names));
    }
    Ok("initialized a new cluster".into())
}
