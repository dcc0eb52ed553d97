//! A primary that runs without its daemon: it was left running in pause, and the cluster was resumed (DESIGN, "Failsafe, pause,
//! race"). It holds no lock and renews nothing, and nobody here can stop it.

use ptarmigan_types::Tags;

use crate::{
    candidates,
    round::{Round, Step},
};

/// The name under which the report tells of it.
const RULE: &str = "unmanaged_primary";

/// Whether nobody here races because WAL still arrives from such a primary. By default a replica is promoted beside it, as
/// with Patroni, and the log says so; with `unmanaged_primary: wait` an operator has to name a candidate first.
pub(crate) fn holds_race_back(r: &mut Round<'_>) -> Step<bool> {
    if r.in_standby_cluster() {
        return Ok(false);
    }
    // Whoever publishes its member key has a daemon, and that one stops what may not write.
    let former = r.memory.old_leader.as_ref();
    if former.is_some_and(|name| r.view.member(name).is_some()) {
        return Ok(false);
    }
    let former = former.map_or_else(|| "the primary".to_owned(), ToString::to_string);
    let mine = r.obs.postgres.server.as_ref().is_some_and(|server| server.streaming);
    let mine = mine && follows_primary(&r.obs.settings.tags);
    if !r.obs.settings.unmanaged_primary_waits {
        if mine {
            r.fired(
                RULE,
                format!("{former} still sends WAL, and its daemon is gone: it may still be writable"),
            );
        }
        return Ok(false);
    }
    let receiver = if mine { Some(r.obs.me.clone()) } else { receiving_peer(r)? };
    let Some(receiver) = receiver else { return Ok(false) };
    r.fired(
        RULE,
        format!(
            "{receiver} still receives WAL from {former}, whose daemon is gone: it may still be writable, and \
             nobody takes over (unmanaged_primary: wait). Start its daemon, or stop it, or name a candidate with \
             `ptctl failover`"
        ),
    );
    r.wake_within(std::time::Duration::from_secs(1));
    Ok(true)
}

/// A member that follows another standby receives WAL whether or not there is a primary.
fn follows_primary(tags: &Tags) -> bool {
    tags.replicatefrom().is_none()
}

fn receiving_peer(r: &mut Round<'_>) -> Step<Option<ptarmigan_types::MemberName>> {
    let members: Vec<_> = r.view.members.iter().filter(|member| member.name != r.obs.me).collect();
    let answers = candidates::ask(r, &members)?;
    let receives = |answer: &&&crate::facts::PeerAnswer| {
        answer.in_recovery && answer.streaming && follows_primary(&answer.tags)
    };
    Ok(answers.iter().find(receives).map(|answer| answer.name.clone()))
}
