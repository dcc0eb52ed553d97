//! Promotion (contract B.13, "promote task").

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::{callbacks::Callbacks, observation::JobEnd};
use ptarmigan_postgres::{command::Command, history};
use ptarmigan_types::{Role, Timeline};

use super::Cancellable;
use crate::{fence, node::Node, planned, server};

/// What must be left of the lease when `pg_ctl promote` is called: a promotion that would end without the lock is none.
const LEASE_LEFT_MIN: Duration = Duration::from_secs(1);

/// How long to look for the effect of an order that seems to have failed.
const ORDER_SEEN: Duration = Duration::from_secs(1);

pub(super) async fn run(node: &Arc<Node>, timeline: Option<Timeline>, cancellable: &Cancellable) -> JobEnd {
    planned::here("promote: begun");
    if let Err(reason) = pre_promote(node).await {
        tracing::error!("pre_promote: {reason}");
        return JobEnd::PrePromoteFailed;
    }
    // Nor is a promise given from here on that another one leads.
    let _promotion = match node.failsafe.begin() {
        Ok(promotion) => promotion,
        Err(other) => return JobEnd::Failed(format!("promised {other} not to lead")),
    };
    // The lease may have run out while the script ran, and the server may have moved to another timeline.
    let now = ptarmigan_clock::now();
    if !node.lease.is_held_at(now + LEASE_LEFT_MIN) {
        return JobEnd::Failed("the leader lease is about to end".into());
    }
    let seen = node.known().figures.as_ref().and_then(|figures| figures.timeline);
    if timeline.is_some() && seen.is_some() && seen != timeline {
        return JobEnd::Failed(format!("the timeline changed from {timeline:?} to {seen:?}"));
    }
    // The cycle that decided this may have known of no standby cluster yet.
    if node.configuration.with(|settings| settings.global.standby_cluster.is_some()) {
        return JobEnd::Failed("this is a standby cluster, nobody in it is promoted".into());
    }
    skip_timelines(node, timeline.or(seen));
    crate::slots::warn_of_unready(node);
    cancellable.end();
    // From here on the server counts as one that may write, also where this action is cancelled half-way: whoever finds
    // the lock lost must stop it (HA-033, HA-172, HA-402).
    let before = node.postgres.role();
    node.postgres.set_role(Role::Promoted);
    planned::here("promote: counts as a primary");
    if let Err(reason) = fence::before_promotion(node).await {
        tracing::error!("not promoting: {reason}");
        not_promoted(node, before);
        return JobEnd::PrePromoteFailed;
    }
    // The guardian may have taken its time.
    if !node.lease.is_held_at(ptarmigan_clock::now() + LEASE_LEFT_MIN) {
        not_promoted(node, before);
        return JobEnd::Failed("the leader lease is about to end".into());
    }
    planned::here("promote: the guardian knows");
    let timing = node.configuration.timing();
    let limit = timing.retry_timeout.min(node.lease.left_at(ptarmigan_clock::now()));
    if let Err(error) = node.postgres.promote(limit).await {
        // The order may have come through although its answer did not.
        if node.postgres.wait_promoted(ORDER_SEEN).await.is_ok() {
            server::tell(node, Callbacks::changes_role);
            return JobEnd::Done;
        }
        not_promoted(node, before);
        return JobEnd::Failed(error.to_string());
    }
    planned::here("promote: ordered");
    server::tell(node, Callbacks::changes_role);
    // A promotion that takes longer goes on; the loop sees its end.
    if let Err(error) = node.postgres.wait_promoted(timing.loop_wait).await {
        tracing::warn!("the promotion is not known to be done yet: {error}");
    }
    planned::here("promote: done");
    JobEnd::Done
}

/// The server goes on as what it was.
fn not_promoted(node: &Node, before: Role) {
    node.postgres.set_role(before);
    if let Err(error) = history::forget_skipped(&node.postgres.data_dir()) {
        tracing::warn!("numbers of timelines stay skipped: {error}");
    }
}

/// PostgreSQL numbers the new timeline by what it finds in its own `pg_wal`. Another member may have begun one since that
/// this server never heard of; two of one number could not be told apart any more.
fn skip_timelines(node: &Node, local: Option<Timeline>) {
    let history = node.known().view.as_ref().and_then(|view| view.cluster.history.clone());
    let (Some(local), Some(history)) = (local, history) else { return };
    match history::skip_timelines(&node.postgres.data_dir(), local, history.timeline()) {
        Ok(skipped) if skipped.is_empty() => {}
        Ok(skipped) => tracing::info!("/history tells of newer timelines; skipping {skipped:?}"),
        Err(error) => tracing::warn!("numbers of timelines are not skipped: {error}"),
    }
}

async fn pre_promote(node: &Node) -> Result<(), String> {
    let settings = node.postgres.settings();
    let Some(line) = settings.pre_promote.as_deref().filter(|line| !line.trim().is_empty()) else {
        return Ok(());
    };
    let words = shlex::split(line).filter(|words| !words.is_empty());
    let words = words.ok_or_else(|| format!("{line:?} is not a command line"))?;
    Command::new(&words[0]).args(&words[1..]).succeed().await.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;

    async fn promote(fixture: &Fixture, timeline: Option<Timeline>) -> JobEnd {
        run(&fixture.node, timeline, &Cancellable::new()).await
    }

    #[tokio::test]
    async fn promotion_needs_the_lease() {
        let fixture = Fixture::new();
        let refused = JobEnd::Failed("the leader lease is about to end".into());
        assert_eq!(promote(&fixture, None).await, refused);
        let lease = &fixture.node.lease;
        lease.hold(lease.ask(), ptarmigan_clock::now() + LEASE_LEFT_MIN / 2);
        assert_eq!(promote(&fixture, None).await, refused, "it would end without");
    }

    #[tokio::test]
    async fn failed_order_leaves_the_role_and_no_signal_file() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        node.postgres.set_role(Role::Replica);
        node.lease.hold(node.lease.ask(), ptarmigan_clock::now() + Duration::from_secs(60));
        let data_dir = node.postgres.data_dir();
        std::fs::create_dir(&data_dir).unwrap();
        std::fs::write(data_dir.join("promote"), "").unwrap();
        let end = promote(&fixture, None).await;
        assert!(matches!(end, JobEnd::Failed(_)), "{end:?}");
        assert_eq!(node.postgres.role(), Role::Replica);
        assert!(!data_dir.join("promote").exists());
    }

    #[tokio::test]
    async fn timelines_of_others_are_skipped_until_the_order_failed() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        node.lease.hold(node.lease.ask(), ptarmigan_clock::now() + Duration::from_secs(60));
        let wal = node.postgres.data_dir().join("pg_wal");
        std::fs::create_dir_all(&wal).unwrap();
        fixture
            .put(ptarmigan_types::Key::History, r#"[[1,100,"no recovery target specified"],[2,200,""]]"#)
            .await;
        fixture.look().await;
        skip_timelines(node, None);
        skip_timelines(node, Some(3));
        assert_eq!(std::fs::read_dir(&wal).unwrap().count(), 0);
        skip_timelines(node, Some(1));
        for timeline in ["00000002", "00000003"] {
            assert!(wal.join(format!("{timeline}.history")).exists());
        }
        let end = promote(&fixture, Some(1)).await;
        assert!(matches!(end, JobEnd::Failed(_)), "{end:?}");
        assert_eq!(std::fs::read_dir(&wal).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn ha_252_pre_promote_that_fails_ends_the_promotion() {
        let fixture = Fixture::new();
        fixture.configure(&serde_json::json!({"postgresql": {"pre_promote": "/bin/false"}}));
        assert!(fixture.node.configuration.reload());
        let settings = fixture.node.configuration.current().settings.postgresql.clone();
        fixture.node.postgres.set_settings(Arc::new(settings));
        assert_eq!(promote(&fixture, None).await, JobEnd::PrePromoteFailed);
    }
}
