//! The former leader's server, where a guardian stands behind it: it ends with its lease, and until then it may still write. The lock
//! can vanish before that: its key was deleted by hand, or its lease revoked, while the daemon stood still.

use std::time::Duration;

use ptarmigan_types::Member;

use crate::{
    action::{Action, Outcome},
    round::{Round, Step},
};

/// How soon it is asked again.
const SOON: Duration = Duration::from_millis(100);

/// Whether nobody here races yet, because that server says itself that it is a primary; for a `ttl` at most, by then its guardian has
/// ended it. An operator who asks for a failover to a candidate knows better; a switchover waits like any race.
pub(crate) fn may_still_write(r: &mut Round<'_>) -> Step<bool> {
    if r.in_standby_cluster() {
        return Ok(false);
    }
    let since = r.memory.unlocked_since.unwrap_or(r.obs.now);
    if r.obs.now.since(since) >= r.obs.settings.ttl {
        return Ok(false);
    }
    let Some(conn_url) = armed_leader(r).and_then(|member| member.data.conn_url().map(str::to_owned)) else {
        return Ok(false);
    };
    let name = r.memory.old_leader.clone().unwrap_or_else(|| r.obs.me.clone());
    if !matches!(r.need(Action::AskWhetherPrimary { name: name.clone(), conn_url })?, Outcome::Primary(true))
    {
        return Ok(false);
    }
    r.fired("GD-2", format!("{name} is still a primary, and its guardian has yet to end it"));
    r.wake_within(SOON);
    Ok(true)
}

/// As its key shows it, or has shown it while it led: a lease that was revoked has taken the key with it.
fn armed_leader(r: &Round<'_>) -> Option<Member> {
    let former = r.memory.old_leader.as_ref().filter(|name| **name != r.obs.me)?;
    let member = r.view.member(former);
    let member = member.or_else(|| r.memory.old_members.iter().find(|member| member.name == *former))?;
    member.data.guardian_armed().then(|| member.clone())
}
