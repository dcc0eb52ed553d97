//! Starting and stopping the server, and the callbacks that come with it (contract B.25).

use std::sync::{Mutex, MutexGuard, PoisonError};

use ptarmigan_config::Callbacks as Commands;
use ptarmigan_ha::{
    callbacks::{Call, Callbacks, Event, How},
    observation::JobKind,
};
use ptarmigan_postgres::{
    postmaster::start::{self, StartRequest, Started},
    stop::{self, StopRequest, Stopped},
};
use ptarmigan_routing::callbacks::{Runner, Script, Slot};
use ptarmigan_types::Role;

use crate::{fence, node::Node};

/// What was told to whom.
#[derive(Debug, Default)]
pub struct Told {
    callbacks: Mutex<Callbacks>,
    runner: Runner,
}

impl Told {
    fn callbacks(&self) -> MutexGuard<'_, Callbacks> {
        self.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the state machine what happened, and runs the callback that it names.
pub fn tell(node: &Node, what: impl FnOnce(&mut Callbacks, Role) -> Option<Call>) {
    let call = what(&mut node.told.callbacks(), node.postgres.role());
    if let Some(call) = call {
        run(node, call);
    }
}

fn run(node: &Node, call: Call) {
    let settings = node.postgres.settings();
    let Some(command) = command(&settings.callbacks, call.event) else { return };
    let script = Script {
        slot: if call.event == Event::Reload { Slot::Reload } else { Slot::State },
        command,
        event: call.event.name(),
        role: call.role.as_str(),
        scope: node.postgres.scope(),
    };
    if let Err(error) = node.told.runner.run(script) {
        tracing::error!("{error}");
    }
}

fn command(commands: &Commands, event: Event) -> Option<&str> {
    let command = match event {
        Event::Start => &commands.on_start,
        Event::Stop => &commands.on_stop,
        Event::Restart => &commands.on_restart,
        Event::Reload => &commands.on_reload,
        Event::RoleChange => &commands.on_role_change,
    };
    command.as_deref().filter(|command| !command.trim().is_empty())
}

/// This node makes a new cluster: no callbacks until it is there.
pub fn bootstraps(node: &Node) {
    node.told.callbacks().bootstraps();
}

/// It does not, or not any more.
pub fn bootstraps_no_more(node: &Node) {
    node.told.callbacks().bootstraps_no_more();
}

/// Starts the server and waits until it accepts connections, or recovers for longer than the limit.
///
/// # Errors
/// As [`ptarmigan_postgres::Postgres::start`], and where `pg_rewind` was interrupted in the data directory.
pub async fn start(node: &Node, request: StartRequest, how: How) -> Result<Started, start::Error> {
    node.told.callbacks().starts(how);
    let mut attempt = Attempt { node, is_over: false };
    let fit = match half_rewound(node).await {
        Ok(()) => may_write(node, request.role),
        unfit => unfit,
    };
    let started = match fit {
        Err(error) => Err(error),
        Ok(()) => {
            let guard = fence::guard(node, request.role);
            node.postgres.start_guarded(request, guard).await
        }
    };
    if matches!(started, Ok(Started::Accepting(_))) {
        tell(node, Callbacks::accepts);
    }
    attempt.is_over = true;
    started
}

/// A start. Where the wait for it is cut short, the server goes on, if there is one already; otherwise somebody begins anew.
struct Attempt<'n> {
    node: &'n Node,
    is_over: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_over || self.node.postgres.is_alive() {
            tell(self.node, Callbacks::attempted);
        }
    }
}

/// Whoever wants it started, and for whatever reason: what an interrupted `pg_rewind` left is no database.
async fn half_rewound(node: &Node) -> Result<(), start::Error> {
    let unusable = |reason| start::Error::Unusable { reason };
    let note = &node.unfinished_rewind;
    if !note.is_there() {
        return Ok(());
    }
    let Ok(control) = node.postgres.control_data().await else {
        // Nothing starts on that either.
        return Ok(());
    };
    match note.of(&control) {
        Ok(None) => note.settle().map_err(unusable),
        Ok(Some(begun)) => Err(unusable(format!(
            "pg_rewind from {} was interrupted in the data directory, as {} tells: it needs a new copy",
            begun.source.leader,
            note.place()
        ))),
        Err(reason) => Err(unusable(reason)),
    }
}

/// A server that comes up writable leads, but for the first one of a new cluster, whose lock nobody can hold yet. What was
/// known when the start was decided may be over by now.
fn may_write(node: &Node, role: Role) -> Result<(), start::Error> {
    let writes = matches!(role, Role::Primary | Role::Promoted);
    let job = node.jobs.view(ptarmigan_clock::now()).map(|job| job.kind);
    let bootstraps = matches!(job, Some(JobKind::Bootstrap | JobKind::PostBootstrap));
    if !writes || bootstraps || node.leads() {
        return Ok(());
    }
    Err(start::Error::Unusable { reason: "the leader lease is over, a primary is not started".into() })
}

/// Stops the server for good, that is, not to start it again in the same breath.
///
/// # Errors
/// As [`ptarmigan_postgres::Postgres::stop`].
pub async fn stop(node: &Node, request: StopRequest) -> Result<Stopped, stop::Error> {
    node.told.callbacks().stops(node.postgres.role(), node.postgres.is_alive());
    let stopped = node.postgres.stop(request).await?;
    tell(node, |callbacks, role| callbacks.stopped(role, stopped.was_running));
    Ok(stopped)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, until};

    #[tokio::test]
    async fn b_25_commands_of_the_configuration_are_run_with_role_and_scope() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        let folder = node.configuration.with(|settings| settings.postgresql.data_dir.clone());
        let folder = folder.parent().unwrap().to_owned();
        let log = folder.join("callbacks");
        let line = format!("/bin/sh -c 'echo $0 $@ >> {}'", log.display());
        fixture.configure(&json!({"postgresql": {"callbacks": {"on_role_change": line, "on_stop": ""}}}));
        assert!(node.configuration.reload());
        let settings = node.configuration.current().settings.postgresql.clone();
        node.postgres.set_settings(std::sync::Arc::new(settings));
        node.postgres.set_role(Role::Promoted);
        let told = || std::fs::read_to_string(&log).unwrap_or_default();
        tell(node, |callbacks, role| callbacks.stopped(role, true));
        tell(node, Callbacks::accepts);
        tell(node, |callbacks, role| callbacks.run(Event::RoleChange, role));
        until("the callback ran", || !told().is_empty()).await;
        assert_eq!(told(), format!("on_role_change primary {}\n", node.postgres.scope()));
    }
}
