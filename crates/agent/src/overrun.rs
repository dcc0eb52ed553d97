//! The last resort inside the daemon: the lease ran out and the loop has not stepped down, because something that it waits
//! for takes longer than it ever should. Somebody else may lead from that moment on.
//!
//! Every wait of a leader has a deadline of its own, so this is not part of any plan. It does not help where the process
//! itself stands still: that is the guardian's and the watchdog's business.

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::{
    action::{DemoteMode, Job},
    observation::JobKind,
};
use ptarmigan_types::Role;

use crate::{jobs, node::Node, publish};

/// How often it is looked at while there is no lease.
const IDLE: Duration = Duration::from_millis(500);

/// Resolves when this node still calls itself leader and its lease is over. The loop forgets the lease in the same breath in
/// which it decides to step down, so then it has not decided anything.
pub async fn overrun(node: &Node) {
    loop {
        let now = ptarmigan_clock::now();
        match node.lease.until() {
            Some(until) if now < until => tokio::time::sleep(until.since(now)).await,
            Some(_) if may_write(node) => return,
            _ => tokio::time::sleep(IDLE).await,
        }
    }
}

fn may_write(node: &Node) -> bool {
    matches!(node.postgres.role(), Role::Primary | Role::Promoted) && !node.is_paused()
}

/// Steps down without the loop: whatever is in flight is cancelled unless it stops the server at once already.
pub async fn step_down(node: &Arc<Node>) {
    tracing::error!(
        "the leader lease ran out and the HA loop has not stepped down: stopping PostgreSQL at once"
    );
    node.lease.forget();
    publish::publish(node);
    let kind = node.jobs.view(ptarmigan_clock::now()).map(|job| job.kind);
    if matches!(kind, Some(JobKind::Demote(DemoteMode::Immediate | DemoteMode::ImmediateNoLock))) {
        return;
    }
    node.jobs.cancel().await;
    if let Err(refused) = jobs::begin(node, Job::Demote(DemoteMode::ImmediateNoLock)) {
        tracing::error!("{refused}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, until};

    fn lead_for(node: &Node, lease: Duration) {
        node.lease.hold(node.lease.ask(), ptarmigan_clock::now() + lease);
    }

    async fn is_overrun(node: &Node) -> bool {
        tokio::time::timeout(Duration::from_millis(100), overrun(node)).await.is_ok()
    }

    #[tokio::test]
    async fn lease_that_nobody_renewed_or_forgot_is_overrun() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        node.postgres.set_role(Role::Primary);
        assert!(!is_overrun(node).await, "never led");
        lead_for(node, Duration::from_secs(60));
        assert!(!is_overrun(node).await, "leads");
        lead_for(node, Duration::ZERO);
        assert!(is_overrun(node).await);
        node.postgres.set_role(Role::Demoted);
        assert!(!is_overrun(node).await, "cannot write");
        node.postgres.set_role(Role::Promoted);
        node.lease.forget();
        assert!(!is_overrun(node).await, "the loop has stepped down");
    }

    #[tokio::test]
    async fn overrun_cancels_what_is_in_flight_and_demotes() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        node.postgres.set_role(Role::Primary);
        lead_for(node, Duration::ZERO);
        let now = ptarmigan_clock::now();
        node.jobs.start(JobKind::Restart, now, |_| std::future::pending()).unwrap();
        step_down(node).await;
        assert!(!node.leads());
        until("the demotion is done", || node.postgres.role() == Role::Demoted).await;
        node.jobs.close().await;
    }
}
