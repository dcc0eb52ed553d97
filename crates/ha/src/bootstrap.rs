//! An empty data directory becomes a cluster's first node or a replica (contract B.6, B.17.1).

use ptarmigan_types::{Member, Role};

use crate::{
    action::{Action, Job, ReloadAfter, When},
    memory::RewindState,
    round::{Round, Step, finish},
};

/// Contract BS-1 to BS-4.
pub(crate) fn empty_data_directory(r: &mut Round<'_>) -> Step<()> {
    let me = &r.obs.me;
    if r.view.is_unlocked()
        && r.view.initialize.is_none()
        && !r.obs.settings.tags.nofailover()
        && r.obs.settings.can_bootstrap
    {
        return race_to_initialize(r);
    }
    if let Some(source) = clone_source(r) {
        let from = if r.view.is_leader(&source.name) { "leader" } else { "replica" };
        let line = format!("trying to bootstrap from {from} '{}'", source.name);
        r.fired("BS-2", source.name.to_string());
        return r.start(Job::Clone { source: Some(source.name.clone()) }, line);
    }
    let initializing = r.view.initialize.as_ref().is_some_and(|key| key.value.is_empty());
    if r.view.is_unlocked() && r.obs.settings.can_clone_without_leader && !initializing {
        r.fired("BS-3", "");
        return r.start(Job::Clone { source: None }, "trying to bootstrap (without leader)");
    }
    r.fired("BS-4", format!("{me} waits"));
    finish("waiting for leader to bootstrap")
}

fn race_to_initialize(r: &mut Round<'_>) -> Step<()> {
    if !r.write(Action::WriteInitialize { value: String::new(), when: When::Absent })? {
        r.fired("BS-1", "lost");
        return finish("failed to acquire initialize lock");
    }
    r.fired("BS-1", "won");
    r.memory.bootstrapping = true;
    r.memory.post_bootstrap = None;
    r.start(Job::Bootstrap, "trying to bootstrap a new cluster")
}

/// A running member with the `clonefrom` tag, else the leader. Where several offer themselves, each node starts its
/// search at another one, so that they share the load without a random number.
fn clone_source<'a>(r: &Round<'a>) -> Option<&'a Member> {
    let leader = r.view.leader_member().filter(|member| member.data.conn_url().is_some());
    let offering: Vec<&Member> = r
        .view
        .members
        .iter()
        .filter(|member| member.name != r.obs.me && !r.view.is_leader(&member.name))
        .filter(|member| member.data.conn_url().is_some() && member.data.is_running())
        .filter(|member| member.data.tags().clonefrom())
        .collect();
    // Without a leader there is nobody to follow afterwards, so nobody to clone from (contract BS-2).
    leader?;
    let start =
        r.obs.me.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let chosen = start.checked_rem(offering.len()).and_then(|index| offering.get(index).copied());
    chosen.or(leader)
}

/// Contract HA-060 to HA-064: this node's bootstrap job has ended.
pub(crate) fn finish_bootstrap(r: &mut Round<'_>) -> Step<String> {
    if !r.obs.postgres.running || r.memory.post_bootstrap == Some(false) {
        return abandon(r);
    }
    match r.memory.post_bootstrap {
        None if !r.obs.postgres.is_primary() => {
            r.fired("HA-061", "");
            Ok("waiting for end of recovery after bootstrap".into())
        }
        None => {
            r.fired("HA-062", "");
            r.request(Action::SetRole(Role::Primary));
            r.start(Job::PostBootstrap, "running post_bootstrap")
        }
        Some(_) => initialized(r),
    }
}

fn abandon(r: &mut Round<'_>) -> Step<String> {
    r.fired("HA-060", "");
    r.request(Action::DeleteInitialize);
    r.request(Action::AbandonBootstrap);
    let reason = "failed to bootstrap cluster";
    r.request(Action::Exit { stop_postgres: true, reason: reason.into() });
    Ok(reason.into())
}

/// HA-064. The lock is created only if nobody holds it: a bootstrapper that was frozen and thawed must not overwrite a
/// holder (DESIGN, "The lease"; the contract puts unconditionally).
fn initialized(r: &mut Round<'_>) -> Step<String> {
    let Some(value) = r.obs.postgres.system_identifier.clone() else { return abandon(r) };
    // HA-063: the watchdog has its place here.
    r.request(Action::EnsureCheckpoint);
    let identified = r.write(Action::WriteInitialize { value, when: When::Always })?;
    if !identified || !r.write(Action::WriteConfig)? {
        r.wake_within(std::time::Duration::from_secs(1));
        return Ok("the DCS refused to store the new cluster, trying again".into());
    }
    let held = r.lock(Action::AcquireLock)?;
    r.fired("HA-064", if held { "" } else { "somebody else holds the lock" });
    r.reload_view(ReloadAfter::Bootstrap)?;
    r.memory.bootstrapping = false;
    r.memory.post_bootstrap = None;
    r.memory.rewind = RewindState::Initial;
    r.memory.joined = true;
    r.request(Action::SetRole(Role::Primary));
    r.wake_within(std::time::Duration::ZERO);
    Ok(if held { "initialized a new cluster".into() } else { "lost the leader lock after bootstrap".into() })
}
