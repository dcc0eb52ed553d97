//! Hears at once when the postmaster ends, and sees when a starting server accepts connections.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use ptarmigan_ha::callbacks::Callbacks;
use ptarmigan_postgres::postmaster::start::Startup;
use ptarmigan_types::MemberState;
use tokio::sync::watch::Receiver;

use crate::{node::Node, server};

/// How often a server that is coming up is looked at.
const STARTING_POLL: Duration = Duration::from_millis(50);

/// How often to look for a postmaster that somebody else may have started.
const FOREIGN_POLL: Duration = Duration::from_secs(5);

/// How long to wait before watching again after a panic.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// Runs for the life of the daemon, which a panic in here does not end.
pub async fn watch(node: Arc<Node>) {
    loop {
        // The panic itself is reported by the hook.
        let _ = AssertUnwindSafe(watch_until_panic(&node)).catch_unwind().await;
        tokio::time::sleep(PANIC_PAUSE).await;
    }
}

async fn watch_until_panic(node: &Arc<Node>) {
    let mut state = node.postgres.watch_state();
    let mut ends = node.jobs.watch_ends();
    loop {
        state.mark_unchanged();
        // A start that is cut short leaves a server that is starting, and changes no state.
        ends.mark_unchanged();
        if is_starting(node.postgres.state()) && node.jobs.view(ptarmigan_clock::now()).is_none() {
            check_startup(node).await;
            tokio::time::sleep(STARTING_POLL).await;
            continue;
        }
        match node.postgres.hold().await {
            Ok(Some(held)) => {
                tokio::select! {
                    exit = held.exited() => match exit {
                        Ok(_) => ended(node),
                        Err(error) => {
                            // The guardian died. Whether the server did with it is seen next.
                            tracing::warn!("the postmaster is not watched any more: {error}");
                            tokio::time::sleep(STARTING_POLL).await;
                            if node.postgres.is_alive() {
                                node.fence.look();
                            } else {
                                ended(node);
                            }
                        }
                    },
                    _ = state.changed() => {}
                    _ = ends.changed() => {}
                }
            }
            Ok(None) => wait(&mut state, &mut ends).await,
            Err(error) => {
                tracing::warn!("the postmaster cannot be watched: {error}");
                wait(&mut state, &mut ends).await;
            }
        }
    }
}

async fn wait(state: &mut Receiver<MemberState>, ends: &mut Receiver<u64>) {
    tokio::select! {
        changed = state.changed() => {
            if changed.is_err() { std::future::pending::<()>().await; }
        }
        // The sender lives as long as the node.
        _ = ends.changed() => {}
        () = tokio::time::sleep(FOREIGN_POLL) => {}
    }
}

const fn is_starting(state: MemberState) -> bool {
    matches!(state, MemberState::Starting | MemberState::StartingAfterCustomBootstrap)
}

/// Contract B.5, "check startup".
async fn check_startup(node: &Node) {
    if node.postgres.check_startup().await == Startup::Running {
        server::tell(node, Callbacks::accepts);
    }
}

/// Nothing of the server is left. While a job works on it, the job knows why.
fn ended(node: &Node) {
    if node.jobs.view(ptarmigan_clock::now()).is_some() {
        return;
    }
    if matches!(node.postgres.state(), MemberState::Running | MemberState::Starting) {
        if node.is_paused() {
            // Whether it crashed or was stopped by hand is seen in the next cycle (contract HA-040).
            tracing::warn!("PostgreSQL ended, and the cluster is paused: it is not started");
        } else {
            tracing::error!("PostgreSQL ended unexpectedly");
            node.postgres.set_state(MemberState::Crashed);
        }
    }
    node.wake();
}

#[cfg(test)]
mod tests {
    use ptarmigan_ha::observation::JobKind;

    use super::*;
    use crate::testing::{Fixture, until};

    #[tokio::test]
    async fn b_5_a_start_that_is_cut_short_is_looked_after() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        let began = || node.jobs.view(ptarmigan_clock::now()).is_some();
        node.jobs.start(JobKind::Follow, ptarmigan_clock::now(), |_| std::future::pending()).unwrap();
        assert!(began());
        node.postgres.set_state(MemberState::Starting);
        let watching = watch(Arc::clone(node));
        let cut_short = async {
            tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await.unwrap_err();
            assert_eq!(node.postgres.state(), MemberState::Starting, "the job's business");
            node.jobs.cancel().await;
            // There is none: to be looked at is to be found out.
            let looked = until("somebody looks", || node.postgres.state() == MemberState::StartFailed);
            tokio::time::timeout(FOREIGN_POLL / 2, looked)
                .await
                .expect("it was not for this end that it looked");
        };
        tokio::select! {
            () = watching => unreachable!("it runs for the life of the daemon"),
            () = cut_short => {}
        }
    }
}
