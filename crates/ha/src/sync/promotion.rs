//! Synchronous replication before a promotion (contract HA-255): whoever takes over promises no more than it keeps.

use std::time::Duration;

use super::{
    Mode, NameSet,
    quorum_commit::{count_under, members_but},
    standby_names::{self, Abilities},
    steps::{self, off},
};
use crate::{
    leader, race,
    round::{Round, Step, finish},
};

const SOON: Duration = Duration::from_millis(100);

/// Ends the cycle where the promotion has to wait, or must not be.
pub(crate) fn before_promotion(r: &mut Round<'_>) -> Step<()> {
    let settings = r.obs.settings.synchronous;
    if settings.mode == Mode::Off {
        return off(r);
    }
    entitled(r)?;
    let me = r.obs.me.clone();
    let sync = r.view.sync.clone();
    let others = members_but(&sync, &me);
    // In quorum mode the key is handed over at once. The contract leaves it until after the promotion: what its leader of
    // then still had on the way would promise what the new one does not keep.
    let (keep, quorum) = match settings.mode {
        Mode::Quorum => (others, sync.quorum),
        // By what quorum mode left no single member has every commit.
        _ if settings.strict && sync.quorum == 0 => (others, 0),
        _ => (NameSet::default(), 0),
    };
    let as_wanted = sync.leader_matches(me.as_str())
        && sync.quorum == quorum
        && sync.standbys.iter().cloned().collect::<NameSet>() == keep
        && r.memory.synchronous.fenced == Some(sync.revision);
    if !as_wanted && steps::write_sync(r, &sync, "HA-255", &keep, quorum)?.is_none() {
        r.wake_within(SOON);
        return finish("promotion postponed: /sync could not be written");
    }
    let count = match settings.mode {
        Mode::Quorum => Some(count_under(&keep, quorum).max(settings.least())),
        _ => keep.is_empty().then(|| settings.least()),
    };
    let keep = if count == Some(0) { NameSet::default() } else { keep };
    let text = standby_names::print(settings.mode, &keep, count, Abilities::ALL);
    in_force(r, &text)
}

/// A commit of the new primary must wait for these from the first one on.
fn in_force(r: &mut Round<'_>, text: &str) -> Step<()> {
    if r.obs.postgres.synchronous.names.as_deref() != Some(text) || steps::is_changing(r, text) {
        let set = steps::tell(r, text)?;
        r.fired(
            "HA-255",
            format!("synchronous_standby_names {text:?}{}", if set { "" } else { ": not set" }),
        );
        if text.is_empty() && set {
            return Ok(());
        }
        r.wake_within(SOON);
        return finish("promotion postponed until synchronous_standby_names is in force");
    }
    if text.is_empty() {
        return Ok(());
    }
    if steps::ask(r, text)?.is_some() {
        return Ok(());
    }
    r.fired("HA-255", "synchronous_standby_names is not in force yet");
    r.wake_within(SOON);
    finish("promotion postponed until synchronous_standby_names is in force")
}

/// Safer than the contract (docs/compatibility.md): the lock may have been won by a `/sync` that was out of date by then. What
/// it says now decides, unless an operator wanted this very node.
fn entitled(r: &mut Round<'_>) -> Step<()> {
    let sync = &r.view.sync;
    let held = r.held().map(|held| held.create_revision);
    let memory = &r.memory.synchronous;
    if sync.is_empty()
        || sync.leader_matches(r.obs.me.as_str())
        || memory.raced_on == Some(sync.revision)
        || (held.is_some() && memory.wished == held)
    {
        return Ok(());
    }
    if r.obs.postgres.lsn().is_none() {
        r.wake_within(SOON);
        return finish("promotion postponed: the server does not answer");
    }
    if race::would_win(r)? {
        r.memory.synchronous.raced_on = Some(r.view.sync.revision);
        return Ok(());
    }
    r.fired("HA-255", "/sync does not let this node take over any more");
    if let Some(line) = leader::is_being_promoted(r)? {
        return finish(line);
    }
    r.release();
    finish("released the leader lock: /sync does not let this node take over any more")
}
