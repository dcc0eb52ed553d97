//! The data directory, and whose it is (contract B.8).

use std::time::Duration;

use ptarmigan_types::{Cluster, Role};

use crate::{
    action::{Action, DemoteMode, Job, Outcome, When},
    bootstrap,
    observation::DataDirectory,
    round::{Round, Step, finish},
    watchdog,
};

/// Contract HA-080 to HA-091.
pub(crate) fn check(r: &mut Round<'_>, renewed: Option<bool>) -> Step<()> {
    match &r.obs.postgres.data_directory {
        DataDirectory::Present => {}
        DataDirectory::Empty => return without_data(r, None),
        DataDirectory::Unreadable(reason) => return without_data(r, Some(reason.clone())),
    }
    let Some(mine) = r.obs.postgres.system_identifier.clone() else {
        return no_system_identifier(r, renewed);
    };
    if let Some(theirs) = r.view.system_identifier() {
        if theirs == mine {
            return Ok(());
        }
        let reason = format!(
            "system ID mismatch, node {} belongs to a different cluster: {theirs} != {mine}",
            r.obs.me
        );
        if r.is_paused() {
            return other_cluster_in_pause(r, &reason);
        }
        r.fired("HA-088", reason.clone());
        r.request(Action::Exit { stop_postgres: true, reason: reason.clone() });
        return finish(reason);
    }
    no_identity_yet(r, mine)
}

/// HA-086, HA-087: an operator may be about to put the right data directory back.
fn other_cluster_in_pause(r: &mut Round<'_>, reason: &str) -> Step<()> {
    if r.has_lock() {
        r.fired("HA-086", reason);
        r.release();
        return finish("released leader key voluntarily due to the system ID mismatch");
    }
    r.fired("HA-087", reason);
    Ok(())
}

/// `/initialize` as this view shows it, as the condition of a write.
pub(crate) fn unchanged_initialize(view: &Cluster) -> When {
    view.initialize.as_ref().map_or(When::Absent, |key| When::Revision(key.revision))
}

/// HA-085. The contract does not renew the lock here, so that it runs out where nothing can be started; this node
/// renews always, and gives it up instead. A server that may be writable steps down for a holder all the same.
fn no_system_identifier(r: &mut Round<'_>, renewed: Option<bool>) -> Step<()> {
    r.fired("HA-085", "");
    let line = "data dir for the cluster is not empty, but system ID is invalid; consider doing reinitialize";
    let postgres = &r.obs.postgres;
    if !postgres.running {
        if r.has_lock() {
            r.release();
        }
        return finish(line);
    }
    if postgres.may_write() && renewed != Some(true) && !r.view.is_unlocked() && !r.is_paused() {
        r.forget_lease();
        return r.start(Job::Demote(DemoteMode::ImmediateNoLock), line);
    }
    finish(line)
}

/// HA-080 to HA-084. Nothing is given up and nothing is begun before the server is known to be stopped.
fn without_data(r: &mut Round<'_>, unreadable: Option<String>) -> Step<()> {
    r.fired("HA-080", unreadable.clone().unwrap_or_else(|| "empty".into()));
    if r.obs.postgres.running
        && let Outcome::Failed(reason) = r.need(Action::StopImmediate)?
    {
        r.wake_within(Duration::from_secs(1));
        return finish(format!(
            "data directory is empty or not accessible, and PostgreSQL does not stop: {reason}"
        ));
    }
    watchdog::disable(r);
    if r.obs.postgres.role != Role::Uninitialized {
        r.request(Action::SetRole(Role::Uninitialized));
    }
    if r.has_lock() {
        r.fired("HA-081", "");
        r.release();
        return finish("released leader key voluntarily as data dir is empty or not accessible");
    }
    if let Some(reason) = unreadable {
        r.fired("HA-082", reason.clone());
        return finish(format!("data directory is not accessible: {reason}"));
    }
    if r.is_paused() {
        r.fired("HA-083", "");
        return finish("running with empty data directory");
    }
    r.fired("HA-084", "");
    bootstrap::empty_data_directory(r)
}

/// HA-089 to HA-091: `/initialize` holds no system identifier.
fn no_identity_yet(r: &mut Round<'_>, mine: String) -> Step<()> {
    if !r.view.is_unlocked() || r.is_paused() {
        r.fired("HA-091", "");
        return Ok(());
    }
    // Whoever joined already leaves the key to the next leader (HA-007).
    if r.memory.joined {
        r.fired("HA-091", "joined already");
        return Ok(());
    }
    let postgres = &r.obs.postgres;
    if postgres.running && !postgres.is_primary() {
        r.fired("HA-089", "");
        if postgres.server.is_none() {
            return finish(
                "waiting for PostgreSQL to tell whether it is a standby, as there is no initialize key",
            );
        }
        let reason = "a running standby without a leader and without an initialize key: \
                      refusing to promote it into a new cluster. Start the daemon on the primary first";
        r.request(Action::Exit { stop_postgres: false, reason: reason.into() });
        return finish(reason);
    }
    r.fired("HA-090", mine.clone());
    if !r.write(Action::WriteInitialize { value: mine, when: unchanged_initialize(r.view) })? {
        // Another server may have been first: not a word about leadership before that is read.
        r.wake_within(Duration::from_secs(1));
        return finish("the initialize key was not written, reading it again");
    }
    Ok(())
}
