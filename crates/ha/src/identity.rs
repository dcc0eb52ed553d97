//! The data directory, and whose it is (contract B.8).

use ptarmigan_types::Role;

use crate::{
    action::{Action, When},
    bootstrap,
    observation::DataDirectory,
    round::{Round, Step, finish},
};

/// Contract HA-080 to HA-091.
pub(crate) fn check(r: &mut Round<'_>) -> Step<()> {
    match &r.obs.postgres.data_directory {
        DataDirectory::Present => {}
        DataDirectory::Empty => return without_data(r, None),
        DataDirectory::Unreadable(reason) => return without_data(r, Some(reason.clone())),
    }
    let Some(mine) = r.obs.postgres.system_identifier.clone() else {
        r.fired("HA-085", "");
        return finish(format!(
            "data dir for the cluster is not empty, but system ID is invalid; consider doing reinitialize"
        ));
    };
    if let Some(theirs) = r.view.system_identifier() {
        if theirs == mine {
            return Ok(());
        }
        let reason = format!(
            "system ID mismatch, node {} belongs to a different cluster: {theirs} != {mine}",
            r.obs.me
        );
        r.fired("HA-088", reason.clone());
        r.request(Action::Exit { stop_postgres: true, reason: reason.clone() });
        return finish(reason);
    }
    no_identity_yet(r, mine)
}

/// HA-080 to HA-084.
fn without_data(r: &mut Round<'_>, unreadable: Option<String>) -> Step<()> {
    r.fired("HA-080", unreadable.clone().unwrap_or_else(|| "empty".into()));
    if r.obs.postgres.role != Role::Uninitialized {
        r.request(Action::SetRole(Role::Uninitialized));
    }
    if r.obs.postgres.running {
        r.request(Action::StopImmediate);
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
    r.fired("HA-084", "");
    bootstrap::empty_data_directory(r)
}

/// HA-089 to HA-091: `/initialize` holds no system identifier.
fn no_identity_yet(r: &mut Round<'_>, mine: String) -> Step<()> {
    if !r.view.is_unlocked() {
        r.fired("HA-091", "");
        return Ok(());
    }
    let postgres = &r.obs.postgres;
    if postgres.running && !postgres.is_primary() && !r.memory.joined {
        let reason = "a running standby without a leader and without an initialize key: \
                      refusing to promote it into a new cluster. Start the daemon on the primary first";
        r.fired("HA-089", "");
        r.request(Action::Exit { stop_postgres: false, reason: reason.into() });
        return finish(reason);
    }
    r.fired("HA-090", mine.clone());
    let when = if r.view.initialize.is_none() { When::Absent } else { When::Always };
    r.request(Action::WriteInitialize { value: mine, when });
    Ok(())
}
