//! The end of the daemon (contract B.28).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ptarmigan_postgres::stop::{self, Hook, StopMode, StopRequest};
use ptarmigan_types::{MemberState, Role};

use crate::{
    execute::write_member,
    jobs::{ENFORCED_STOP, FAST_STOP_MIN, cannot_commit},
    node::Node,
    release, server, synchronous,
};

/// Stops PostgreSQL and gives the lock up. False where PostgreSQL could not be stopped: the lock stays (contract SD-8).
/// Whatever the store does, it is waited for no longer than `retry_timeout` each time it is needed.
pub async fn shutdown(node: &Arc<Node>) -> bool {
    node.jobs.close().await;
    if node.is_paused() {
        node.watchdog().disable();
        tracing::info!("paused: PostgreSQL is left as it is, and the leader lock runs out by itself");
        return true;
    }
    let led = node.leads();
    let leaving = synchronous::leave(node).await;
    let (hook, released) = release::early(node);
    let mut stopped = stop(node, led.then_some(hook)).await;
    if let Err(error) = &stopped {
        tracing::error!("{error}; killing it");
        stopped = kill(node).await;
    }
    if !finish(node, led, &released, stopped).await {
        return false;
    }
    drop(leaving);
    // The member key goes with its lease where this is not answered.
    let _ = tokio::time::timeout(node.configuration.timing().retry_timeout, write_member(node)).await;
    true
}

/// Gives the lock up, where PostgreSQL is stopped.
async fn finish(
    node: &Arc<Node>,
    led: bool,
    released: &AtomicBool,
    stopped: Result<(), stop::Error>,
) -> bool {
    if let Err(error) = stopped {
        tracing::error!("{error}, the leader lock is kept");
        return false;
    }
    node.watchdog().disable();
    let patience = node.configuration.timing().retry_timeout;
    if led && !released.load(Ordering::Acquire) {
        let position = release::final_position(node).await;
        if tokio::time::timeout(patience, release::release(node, position)).await.is_err() {
            tracing::warn!("the DCS does not answer, the leader lock will run out by itself");
        }
    }
    node.postgres.set_state(MemberState::Stopped);
    true
}

/// A standby may take its time. A server that may be writable has as long as nobody else can lead; after that only what
/// cannot commit any more is left to end by itself (contract SD-10 has the lock run out meanwhile).
async fn stop(
    node: &Arc<Node>,
    on_shutdown: Option<Hook<ptarmigan_postgres::ControlData>>,
) -> Result<(), stop::Error> {
    let harmless = Arc::new(AtomicBool::new(!may_write(node)));
    let flag = Arc::clone(&harmless);
    let guarded = Arc::clone(node);
    let request = StopRequest {
        on_safepoint: Some(Box::new(move |()| {
            Box::pin(async move {
                flag.store(true, Ordering::Release);
                cannot_commit(&guarded).await;
            })
        })),
        on_shutdown,
        timeout: synchronous::stop_timeout(node),
        ..StopRequest::new(StopMode::Fast)
    };
    let left = node.lease.left_at(ptarmigan_clock::now()).saturating_sub(ENFORCED_STOP).max(FAST_STOP_MIN);
    let too_late = async {
        tokio::time::sleep(left).await;
        if harmless.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        stopped = server::stop(node, request) => stopped.map(drop),
        () = too_late => {
            tracing::error!("PostgreSQL still has sessions and the leader lease ends: immediate shutdown");
            kill(node).await
        }
    }
}

fn may_write(node: &Node) -> bool {
    matches!(node.postgres.role(), Role::Primary | Role::Promoted)
}

/// Immediate shutdown, and SIGKILL a moment later.
pub async fn kill(node: &Node) -> Result<(), stop::Error> {
    let request =
        StopRequest { timeout: Some(Duration::from_secs(1)), ..StopRequest::new(StopMode::Immediate) };
    server::stop(node, request).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ptarmigan_dcs::memory::Fault;
    use ptarmigan_ha::Action;
    use ptarmigan_types::{Key, Lsn};

    use super::*;
    use crate::{execute::execute, testing::Fixture};

    /// A leader whose PostgreSQL is stopped already.
    async fn leader() -> Fixture {
        let fixture = Fixture::new();
        fixture.put(Key::Status, r#"{"optime": 7, "slots": {"b": 5}}"#).await;
        execute(&fixture.node, &Action::AcquireLock).await.unwrap();
        fixture.node.postgres.set_role(Role::Primary);
        fixture.look().await;
        fixture
    }

    #[tokio::test]
    async fn sd_6_the_lock_goes_once_postgresql_is_stopped() {
        let fixture = leader().await;
        assert!(shutdown(&fixture.node).await);
        let after = fixture.cluster().await;
        assert_eq!((after.leader, fixture.node.leads()), (None, false));
        // Without a data directory the position is not known, and the old one stays.
        assert_eq!(after.status.last_lsn, Lsn(7));
        let other = Fixture::new();
        other.join("b", None, true).await;
        other.look().await;
        assert!(shutdown(&other.node).await);
        assert!(other.cluster().await.leader.is_some(), "somebody else's lock stays");
    }

    #[tokio::test]
    async fn sd_5_what_a_release_writes_is_where_a_successor_must_have_got() {
        let fixture = leader().await;
        release::release(&fixture.node, Some(Lsn(9))).await;
        let after = fixture.cluster().await;
        let slots = Some(BTreeMap::from([("b".to_owned(), Lsn(5))]));
        assert_eq!((after.leader, after.status.last_lsn, after.status.slots), (None, Lsn(9), slots));
    }

    #[tokio::test]
    async fn sd_7_the_member_says_that_it_is_stopped_and_keeps_its_role() {
        let fixture = leader().await;
        assert!(shutdown(&fixture.node).await);
        let cluster = fixture.cluster().await;
        let member = &cluster.member(&fixture.node.name).unwrap().data;
        assert_eq!((&member.0["state"], &member.0["role"]), (&"stopped".into(), &"primary".into()));
    }

    #[tokio::test]
    async fn sd_8_the_lock_stays_where_postgresql_could_not_be_stopped() {
        let fixture = leader().await;
        let released = AtomicBool::new(false);
        let source = std::io::ErrorKind::TimedOut.into();
        let stubborn = Err(stop::Error(ptarmigan_postgres::postmaster::Error::Process { pid: 7, source }));
        assert!(!finish(&fixture.node, true, &released, stubborn).await);
        let after = fixture.cluster().await;
        assert!(after.leader.is_some() && fixture.node.leads());
        assert!(after.member(&fixture.node.name).is_none(), "nor is it said to be stopped");
    }

    #[tokio::test]
    async fn sd_10_a_store_that_does_not_answer_keeps_no_shutdown_waiting() {
        let fixture = leader().await;
        fixture.store.set_fault(&fixture.node.name, Fault::Unreachable);
        assert!(shutdown(&fixture.node).await);
        assert!(!fixture.node.leads());
        assert!(
            fixture.cluster().await.leader.is_some(),
            "it runs out by itself: nothing renews it any more"
        );
    }
}
