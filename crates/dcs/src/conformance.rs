//! What every store must do, as one suite: each case runs on a cluster of its own, through [`Harness`], and panics
//! with the case's name where the store does otherwise.

use std::{future::Future, pin::Pin, time::Duration};

use async_trait::async_trait;
use ptarmigan_types::{ClusterPath, Key, Leader, Monotonic};

use crate::{Beside, Changes, Condition, Dcs, Grant, Timing, Verdict, Written};

/// How long a case waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks.
const STEP: Duration = Duration::from_millis(20);

/// A store under test.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A new handle of the member `name` of the cluster at `path`, as a freshly started daemon has it.
    async fn member(&self, path: &ClusterPath, name: &str, timing: Timing) -> Box<dyn Dcs>;

    /// The clock that grants are measured with.
    fn now(&self) -> Monotonic;

    /// Lets time pass, also for the store.
    async fn sleep(&self, time: Duration);

    /// The smallest TTL that the store takes as it stands.
    fn ttl_min(&self) -> Duration;

    /// The least TTL that the store must grant where `ttl` is configured.
    fn granted(&self, ttl: Duration) -> Duration {
        ttl
    }

    /// By how much a lease may outlive its TTL.
    fn expiry_slack(&self) -> Duration;
}

/// One case.
pub type Case = for<'a> fn(&'a dyn Harness, &'a ClusterPath) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The cases by name.
pub const CASES: &[(&str, Case)] = &[
    ("an_empty_cluster_is_empty", |h, p| Box::pin(an_empty_cluster_is_empty(h, p))),
    ("of_many_racers_one_wins", |h, p| Box::pin(of_many_racers_one_wins(h, p))),
    ("a_holder_who_races_again_holds", |h, p| Box::pin(a_holder_who_races_again_holds(h, p))),
    ("a_race_renews_an_older_lease_first", |h, p| Box::pin(a_race_renews_an_older_lease_first(h, p))),
    ("a_renewal_moves_the_grant_and_keeps_the_key", |h, p| {
        Box::pin(a_renewal_moves_the_grant_and_keeps_the_key(h, p))
    }),
    ("what_goes_beside_a_renewal_needs_the_lock", |h, p| {
        Box::pin(what_goes_beside_a_renewal_needs_the_lock(h, p))
    }),
    ("a_deleted_key_is_a_lost_lock", |h, p| Box::pin(a_deleted_key_is_a_lost_lock(h, p))),
    ("a_recreated_key_is_another_lock", |h, p| Box::pin(a_recreated_key_is_another_lock(h, p))),
    ("a_key_of_somebody_else_is_not_renewed", |h, p| Box::pin(a_key_of_somebody_else_is_not_renewed(h, p))),
    ("a_former_run_of_ours_is_adopted", |h, p| Box::pin(a_former_run_of_ours_is_adopted(h, p))),
    ("a_release_compares_the_create_revision", |h, p| Box::pin(a_release_compares_the_create_revision(h, p))),
    ("an_expired_lease_frees_its_keys", |h, p| Box::pin(an_expired_lease_frees_its_keys(h, p))),
    ("a_kept_lease_outlives_its_ttl", |h, p| Box::pin(a_kept_lease_outlives_its_ttl(h, p))),
    ("a_lost_lease_is_replaced", |h, p| Box::pin(a_lost_lease_is_replaced(h, p))),
    ("an_abandoned_lease_runs_out_with_its_keys", |h, p| {
        Box::pin(an_abandoned_lease_runs_out_with_its_keys(h, p))
    }),
    ("another_ttl_drops_the_lease", |h, p| Box::pin(another_ttl_drops_the_lease(h, p))),
    ("own_writes_are_visible_at_once", |h, p| Box::pin(own_writes_are_visible_at_once(h, p))),
    ("a_write_keeps_its_condition", |h, p| Box::pin(a_write_keeps_its_condition(h, p))),
    ("a_delete_keeps_its_condition", |h, p| Box::pin(a_delete_keeps_its_condition(h, p))),
    ("of_many_creators_one_wins", |h, p| Box::pin(of_many_creators_one_wins(h, p))),
    ("a_fresh_view_sees_others_at_once", |h, p| Box::pin(a_fresh_view_sees_others_at_once(h, p))),
    ("a_view_follows_others", |h, p| Box::pin(a_view_follows_others(h, p))),
    ("changes_name_what_changed", |h, p| Box::pin(changes_name_what_changed(h, p))),
    ("values_are_kept_byte_for_byte", |h, p| Box::pin(values_are_kept_byte_for_byte(h, p))),
    ("a_neighbour_survives_delete_cluster", |h, p| Box::pin(a_neighbour_survives_delete_cluster(h, p))),
];

/// Runs every case, one after the other.
pub async fn run(harness: &dyn Harness) {
    for (name, case) in CASES {
        tracing::info!(case = name, "conformance");
        case(harness, &fresh_path(name)).await;
    }
}

/// Runs every case, all at once: for a store whose time is everybody's.
pub async fn run_at_once(harness: &dyn Harness) {
    futures_util::future::join_all(CASES.iter().map(|(name, case)| async move {
        tracing::info!(case = name, "conformance");
        case(harness, &fresh_path(name)).await;
    }))
    .await;
}

/// A cluster path that no other run has used.
pub fn fresh_path(name: &str) -> ClusterPath {
    ClusterPath::new("conformance", &format!("{name}-{:012x}", fastrand::u64(..) >> 16))
}

fn timing(harness: &dyn Harness) -> Timing {
    Timing {
        ttl: harness.ttl_min(),
        loop_wait: Duration::from_secs(1),
        retry_timeout: Duration::from_secs(10),
    }
}

/// A TTL that no case outlasts.
fn long(harness: &dyn Harness) -> Timing {
    Timing { ttl: Duration::from_secs(60), ..timing(harness) }
}

fn granted(verdict: Verdict) -> Grant {
    match verdict {
        Verdict::Held(grant) => grant,
        Verdict::Refused(why) => panic!("refused: {why}"),
    }
}

fn applied(written: Written) -> u64 {
    match written {
        Written::Applied(revision) => revision,
        Written::Conflict => panic!("conflict"),
    }
}

fn refused(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Refused(_))
}

async fn leader(dcs: &dyn Dcs) -> Option<Leader> {
    dcs.view_fresh().await.expect("a fresh view").cluster.leader
}

async fn held_leader(dcs: &dyn Dcs) -> Leader {
    leader(dcs).await.expect("a leader key")
}

async fn acquire(dcs: &dyn Dcs) -> Grant {
    granted(dcs.acquire().await.expect("an answer to the race"))
}

async fn renew(dcs: &dyn Dcs, held: &Leader) -> Verdict {
    dcs.renew(held).await.expect("an answer to the renewal")
}

async fn write(dcs: &dyn Dcs, key: &Key, value: &str, condition: Condition) -> Written {
    dcs.write(key, value, condition).await.expect("an answer to the write")
}

async fn delete(dcs: &dyn Dcs, key: &Key, condition: Condition) -> Written {
    dcs.delete(key, condition).await.expect("an answer to the delete")
}

/// Waits for `condition`, up to [`PATIENCE`].
async fn eventually<F: Future<Output = bool>>(
    harness: &dyn Harness,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let deadline = harness.now() + PATIENCE;
    while !condition().await {
        assert!(harness.now() < deadline, "never came: {what}");
        harness.sleep(STEP).await;
    }
}

async fn an_empty_cluster_is_empty(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    for view in [a.view().await, a.view_fresh().await] {
        let cluster = view.expect("a view").cluster;
        assert!(cluster.is_unlocked() && cluster.members.is_empty() && cluster.initialize.is_none());
        assert_eq!(cluster.sync.revision, 0);
    }
    assert_eq!(a.own_lease(), None);
    assert!(!a.describe().is_empty());
}

async fn of_many_racers_one_wins(harness: &dyn Harness, path: &ClusterPath) {
    let mut racers = Vec::new();
    for name in ["a", "b", "c"] {
        racers.push((name, harness.member(path, name, long(harness)).await));
    }
    let (a, b, c) = (&racers[0].1, &racers[1].1, &racers[2].1);
    let (a, b, c) = tokio::join!(a.acquire(), b.acquire(), c.acquire());
    let verdicts = [a, b, c].map(|verdict| verdict.expect("an answer to the race"));
    let winners: Vec<usize> = (0..3).filter(|&i| !refused(&verdicts[i])).collect();
    assert_eq!(winners.len(), 1, "{verdicts:?}");
    let (name, winner) = &racers[winners[0]];
    let held = held_leader(winner.as_ref()).await;
    assert_eq!(held.name.as_str(), *name);
    let grant = granted(verdicts[winners[0]].clone());
    assert_eq!(grant.create_revision, held.create_revision);
    assert_eq!(Some(&grant.lease), held.lease.as_ref());
    assert_eq!(Some(grant.lease), winner.own_lease());
}

async fn a_holder_who_races_again_holds(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let first = acquire(a.as_ref()).await;
    let second = acquire(a.as_ref()).await;
    assert_eq!(first.create_revision, second.create_revision);
    assert_eq!(first.lease, second.lease);
}

async fn a_race_renews_an_older_lease_first(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", Timing { loop_wait: PATIENCE, ..long(harness) }).await;
    let lease = a.keep_lease(true).await.expect("a lease");
    harness.sleep(Duration::from_millis(200)).await;
    let before = harness.now();
    let grant = acquire(a.as_ref()).await;
    assert_eq!(grant.lease, lease);
    assert!(grant.sent_at >= before, "the grant dates from the lease's grant, not from a renewal");
    assert!(grant.sent_at <= harness.now());
    assert!(grant.ttl >= harness.granted(long(harness).ttl));
}

async fn a_renewal_moves_the_grant_and_keeps_the_key(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let first = acquire(a.as_ref()).await;
    let held = held_leader(a.as_ref()).await;
    harness.sleep(Duration::from_millis(50)).await;
    let before = harness.now();
    let second = granted(renew(a.as_ref(), &held).await);
    assert!(second.sent_at >= before && second.sent_at > first.sent_at);
    assert_eq!(second.create_revision, first.create_revision);
    assert_eq!(second.lease, first.lease);
    assert_eq!(held_leader(a.as_ref()).await, held, "a renewal does not write the key");
}

async fn what_goes_beside_a_renewal_needs_the_lock(harness: &dyn Harness, path: &ClusterPath) {
    let dcs = harness.member(path, "a", long(harness)).await;
    acquire(&*dcs).await;
    let held = held_leader(&*dcs).await;
    let beside = |position: u64| Beside {
        status: Some(format!(r#"{{"optime":{position}}}"#)),
        member: Some(format!(r#"{{"xlog_location":{position}}}"#)),
    };
    let (verdict, carried) = dcs.renew_beside(&held, &beside(5)).await.expect("an answer to the renewal");
    granted(verdict);
    let expected = if carried { 5 } else { 0 };
    for view in [dcs.view().await.expect("a view"), dcs.view_fresh().await.expect("a fresh view")] {
        assert_eq!(view.cluster.status.last_lsn.0, expected);
        let member = view.cluster.member(&"a".into()).filter(|_| carried);
        assert_eq!(member.and_then(|member| member.data.xlog_location()).map_or(0, |lsn| lsn.0), expected);
        assert!(member.is_none_or(|member| member.lease == dcs.own_lease()), "on our lease");
    }
    applied(delete(&*dcs, &Key::Leader, Condition::Always).await);
    let (verdict, carried) = dcs.renew_beside(&held, &beside(6)).await.expect("an answer to the renewal");
    assert!(refused(&verdict) && !carried, "{verdict:?}");
    let view = dcs.view_fresh().await.expect("a fresh view");
    assert_eq!(view.cluster.status.last_lsn.0, expected, "nothing is written without the lock");
}

async fn a_deleted_key_is_a_lost_lock(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let b = harness.member(path, "b", long(harness)).await;
    acquire(a.as_ref()).await;
    let held = held_leader(a.as_ref()).await;
    applied(delete(b.as_ref(), &Key::Leader, Condition::Always).await);
    assert!(refused(&renew(a.as_ref(), &held).await), "renewed under a living lease");
    assert_eq!(leader(a.as_ref()).await, None, "a renewal must not create the key");
}

async fn a_recreated_key_is_another_lock(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let b = harness.member(path, "b", long(harness)).await;
    acquire(a.as_ref()).await;
    let first = held_leader(a.as_ref()).await;
    applied(delete(b.as_ref(), &Key::Leader, Condition::Always).await);
    acquire(a.as_ref()).await;
    let second = held_leader(a.as_ref()).await;
    assert_ne!(first.create_revision, second.create_revision);
    assert!(refused(&renew(a.as_ref(), &first).await));
    granted(renew(a.as_ref(), &second).await);
}

async fn a_key_of_somebody_else_is_not_renewed(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let b = harness.member(path, "b", long(harness)).await;
    acquire(a.as_ref()).await;
    let held = held_leader(a.as_ref()).await;
    assert!(refused(&renew(b.as_ref(), &held).await));
    assert!(refused(&b.acquire().await.expect("an answer to the race")));
    assert!(!b.release(&held).await.expect("an answer to the release"));
    assert_eq!(held_leader(a.as_ref()).await, held);
}

async fn a_former_run_of_ours_is_adopted(harness: &dyn Harness, path: &ClusterPath) {
    let former = harness.member(path, "a", timing(harness)).await;
    let lost = acquire(former.as_ref()).await;
    let a = harness.member(path, "a", long(harness)).await;
    let held = held_leader(a.as_ref()).await;
    let grant = granted(renew(a.as_ref(), &held).await);
    assert_ne!(grant.lease, lost.lease);
    let adopted = held_leader(a.as_ref()).await;
    assert_eq!(adopted.lease, Some(grant.lease));
    assert_eq!(adopted.create_revision, grant.create_revision);
    harness.sleep(lost.ttl + harness.expiry_slack()).await;
    assert_eq!(held_leader(a.as_ref()).await, adopted, "the key went with the lease of the former run");
}

async fn a_release_compares_the_create_revision(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    acquire(a.as_ref()).await;
    let first = held_leader(a.as_ref()).await;
    assert!(a.release(&first).await.expect("an answer to the release"));
    assert_eq!(leader(a.as_ref()).await, None);
    assert!(!a.release(&first).await.expect("an answer to the release"), "there is no key any more");
    acquire(a.as_ref()).await;
    let second = held_leader(a.as_ref()).await;
    assert!(!a.release(&first).await.expect("an answer to the release"), "another lock of the same name");
    assert_eq!(held_leader(a.as_ref()).await, second);
    assert!(a.release(&second).await.expect("an answer to the release"));
    assert!(a.view().await.expect("a view").cluster.is_unlocked());
}

async fn an_expired_lease_frees_its_keys(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", timing(harness)).await;
    let b = harness.member(path, "b", long(harness)).await;
    a.put_member(r#"{"state":"running"}"#).await.expect("the member key");
    applied(write(a.as_ref(), &Key::Status, r#"{"optime":1}"#, Condition::Always).await);
    let grant = acquire(a.as_ref()).await;
    assert!(grant.ttl >= harness.granted(timing(harness).ttl));
    let over = grant.valid_until() + harness.expiry_slack();
    loop {
        let cluster = b.view_fresh().await.expect("a fresh view").cluster;
        if cluster.is_unlocked() {
            break;
        }
        assert!(harness.now() < over, "the leader key outlived its lease");
        harness.sleep(STEP).await;
    }
    assert!(harness.now() >= grant.valid_until(), "the leader key went before its lease was over");
    eventually(harness, "the member key goes", || async {
        b.view_fresh().await.expect("a fresh view").cluster.members.is_empty()
    })
    .await;
    let view = b.view_fresh().await.expect("a fresh view");
    assert_eq!(view.cluster.status.last_lsn.0, 1, "a key without a lease stays");
    eventually(harness, "the watched view follows", || async {
        b.view().await.is_ok_and(|view| view.cluster.is_unlocked() && view.cluster.members.is_empty())
    })
    .await;
    acquire(b.as_ref()).await;
}

async fn a_kept_lease_outlives_its_ttl(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", timing(harness)).await;
    let grant = acquire(a.as_ref()).await;
    let held = held_leader(a.as_ref()).await;
    let deadline = grant.valid_until() + harness.expiry_slack();
    while harness.now() < deadline {
        harness.sleep(grant.ttl / 4).await;
        granted(renew(a.as_ref(), &held).await);
    }
    assert_eq!(held_leader(a.as_ref()).await, held);
}

async fn a_lost_lease_is_replaced(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", timing(harness)).await;
    a.put_member("{}").await.expect("the member key");
    let grant = acquire(a.as_ref()).await;
    let held = held_leader(a.as_ref()).await;
    let over = grant.valid_until() + harness.expiry_slack();
    while leader(a.as_ref()).await.is_some() {
        assert!(harness.now() < over, "the leader key outlived its lease");
        harness.sleep(STEP).await;
    }
    assert!(refused(&renew(a.as_ref(), &held).await), "the key went with the lease");
    let lease = a.keep_lease(false).await.expect("another lease");
    assert_ne!(lease, grant.lease);
    a.put_member("{}").await.expect("the member key on the new lease");
    let cluster = a.view_fresh().await.expect("a fresh view").cluster;
    assert_eq!(cluster.members[0].lease, Some(lease));
}

async fn an_abandoned_lease_runs_out_with_its_keys(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", timing(harness)).await;
    let grant = acquire(a.as_ref()).await;
    a.abandon_lease();
    assert_eq!((a.own_lease(), a.lease_due()), (None, None));
    let over = grant.valid_until() + harness.expiry_slack();
    while leader(a.as_ref()).await.is_some() {
        a.put_member("{}").await.expect("the member key on another lease");
        assert!(harness.now() < over, "the leader key is kept alive");
        harness.sleep(grant.ttl / 8).await;
    }
    let members = a.view_fresh().await.expect("a fresh view").cluster.members;
    assert_eq!(members.len(), 1);
    assert_ne!(members[0].lease, Some(grant.lease));
}

async fn another_ttl_drops_the_lease(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let first = acquire(a.as_ref()).await;
    let held = held_leader(a.as_ref()).await;
    a.set_timing(Timing { loop_wait: Duration::from_secs(2), ..long(harness) });
    assert_eq!(a.own_lease(), Some(first.lease.clone()), "only the TTL matters");
    let ttl = long(harness).ttl * 2;
    a.set_timing(Timing { ttl, ..long(harness) });
    assert_eq!(a.own_lease(), None);
    let grant = granted(renew(a.as_ref(), &held).await);
    assert_ne!(grant.lease, first.lease);
    assert!(grant.ttl >= harness.granted(ttl));
    assert_eq!(held_leader(a.as_ref()).await.lease, Some(grant.lease));
}

async fn own_writes_are_visible_at_once(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    for round in 1..=20_u64 {
        a.put_member(&format!(r#"{{"xlog_location":{round}}}"#)).await.expect("the member key");
        let cluster = a.view().await.expect("a view").cluster;
        assert_eq!(cluster.members[0].data.xlog_location().map(|lsn| lsn.0), Some(round));
        applied(write(a.as_ref(), &Key::Optime, &round.to_string(), Condition::Always).await);
        assert_eq!(a.view().await.expect("a view").cluster.status.last_lsn.0, round);
    }
    let grant = acquire(a.as_ref()).await;
    let held = a.view().await.expect("a view").cluster.leader.expect("our leader key");
    assert_eq!(held.create_revision, grant.create_revision);
    assert!(a.release(&held).await.expect("an answer to the release"));
    assert!(a.view().await.expect("a view").cluster.is_unlocked());
    applied(delete(a.as_ref(), &Key::Optime, Condition::Always).await);
    assert_eq!(a.view().await.expect("a view").cluster.status.last_lsn.0, 0);
}

async fn a_write_keeps_its_condition(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let dcs = a.as_ref();
    let key = Key::Config;
    assert_eq!(write(dcs, &key, "{}", Condition::Revision(1)).await, Written::Conflict, "no key yet");
    let first = applied(write(dcs, &key, r#"{"ttl":1}"#, Condition::Absent).await);
    assert_eq!(write(dcs, &key, r#"{"ttl":2}"#, Condition::Absent).await, Written::Conflict);
    let second = applied(write(dcs, &key, r#"{"ttl":3}"#, Condition::Revision(first)).await);
    assert!(second > first);
    let stale = write(dcs, &key, r#"{"ttl":4}"#, Condition::Revision(first)).await;
    assert_eq!(stale, Written::Conflict);
    let config = a.view().await.expect("a view").cluster.config.expect("the key");
    assert_eq!((config.value["ttl"].as_u64(), config.revision), (Some(3), second));
    let third = applied(write(dcs, &key, r#"{"ttl":5}"#, Condition::Always).await);
    let config = a.view_fresh().await.expect("a fresh view").cluster.config.expect("the key");
    assert_eq!((config.value["ttl"].as_u64(), config.revision), (Some(5), third));
}

async fn a_delete_keeps_its_condition(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let dcs = a.as_ref();
    let key = Key::Initialize;
    applied(delete(dcs, &key, Condition::Always).await);
    assert_eq!(delete(dcs, &key, Condition::Revision(1)).await, Written::Conflict, "no key yet");
    let first = applied(write(dcs, &key, "", Condition::Absent).await);
    assert_eq!(a.view_fresh().await.expect("a view").cluster.initialize.expect("the key").value, "");
    let second = applied(write(dcs, &key, "7000000000000000001", Condition::Always).await);
    assert_eq!(delete(dcs, &key, Condition::Revision(first)).await, Written::Conflict);
    assert!(a.view_fresh().await.expect("a view").cluster.initialize.is_some());
    applied(delete(dcs, &key, Condition::Revision(second)).await);
    assert_eq!(a.view_fresh().await.expect("a view").cluster.initialize, None);
    assert_eq!(a.view().await.expect("a view").cluster.initialize, None);
}

async fn of_many_creators_one_wins(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let b = harness.member(path, "b", long(harness)).await;
    for key in [Key::Initialize, Key::Sync, Key::Config] {
        let (of_a, of_b) =
            tokio::join!(a.write(&key, "a", Condition::Absent), b.write(&key, "b", Condition::Absent));
        let answers = [of_a.expect("an answer"), of_b.expect("an answer")];
        let wins = answers.iter().filter(|written| **written != Written::Conflict).count();
        assert_eq!(wins, 1, "{key:?}");
    }
}

async fn a_fresh_view_sees_others_at_once(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let b = harness.member(path, "b", long(harness)).await;
    b.view().await.expect("a view");
    for round in 1..=20_u64 {
        let before = harness.now();
        applied(write(a.as_ref(), &Key::Optime, &round.to_string(), Condition::Always).await);
        let view = b.view_fresh().await.expect("a fresh view");
        assert_eq!(view.cluster.status.last_lsn.0, round);
        assert!(view.at >= before && view.at <= harness.now());
    }
}

async fn a_view_follows_others(harness: &dyn Harness, path: &ClusterPath) {
    let a = harness.member(path, "a", long(harness)).await;
    let b = harness.member(path, "b", long(harness)).await;
    b.view().await.expect("a view");
    a.put_member(r#"{"state":"running"}"#).await.expect("the member key");
    acquire(a.as_ref()).await;
    let fresh = a.view_fresh().await.expect("a fresh view").cluster;
    eventually(harness, "the watched view equals the fresh one", || async {
        b.view().await.expect("a view").cluster == fresh
    })
    .await;
}

async fn changes_name_what_changed(harness: &dyn Harness, path: &ClusterPath) {
    type Counter = fn(&Changes) -> u64;
    let a = harness.member(path, "a", long(harness)).await;
    let b = harness.member(path, "b", long(harness)).await;
    let mut changes = b.changes();
    b.view().await.expect("a view");
    acquire(a.as_ref()).await;
    let leader: Counter = |changes| changes.leader;
    eventually(harness, "the new leader", || async { leader(&b.changes().borrow()) > 0 }).await;
    let keys: [(Key, Counter); 4] = [
        (Key::Config, |changes| changes.config),
        (Key::Status, |changes| changes.status),
        (Key::Optime, |changes| changes.status),
        (Key::Failover, |changes| changes.failover),
    ];
    for (key, counter) in keys {
        for value in [r#"{"a":1}"#, r#"{"a":2}"#] {
            let before = *changes.borrow_and_update();
            applied(write(a.as_ref(), &key, value, Condition::Always).await);
            eventually(harness, "the change", || async { counter(&b.changes().borrow()) > counter(&before) })
                .await;
            assert!(changes.has_changed().expect("a sender"), "nobody was woken");
            assert_eq!(b.changes().borrow().leader, before.leader, "{key:?} is not the leader key");
        }
    }
    let before = *changes.borrow_and_update();
    a.put_member(r#"{"state":"running"}"#).await.expect("the member key");
    eventually(harness, "the member", || async { b.changes().borrow().members > before.members }).await;
    let held = held_leader(a.as_ref()).await;
    assert!(a.release(&held).await.expect("an answer to the release"));
    eventually(harness, "the leader goes", || async { b.changes().borrow().leader > before.leader }).await;
    assert!(b.view().await.expect("a view").cluster.is_unlocked(), "woken before the view shows it");
}

async fn values_are_kept_byte_for_byte(harness: &dyn Harness, path: &ClusterPath) {
    let name = "m-1 x%20ü";
    let b = harness.member(path, name, long(harness)).await;
    b.put_member(r#"{"state":"ünïcode \u0000 %41 + ?&="}"#).await.expect("the member key");
    let cluster = b.view_fresh().await.expect("a fresh view").cluster;
    assert_eq!(cluster.members.len(), 1);
    assert_eq!(cluster.members[0].name.as_str(), name);
    assert_eq!(cluster.members[0].data.state_text(), "ünïcode \u{0} %41 + ?&=");
    acquire(b.as_ref()).await;
    let held = held_leader(b.as_ref()).await;
    assert_eq!(held.name.as_str(), name);
    granted(renew(b.as_ref(), &held).await);
}

async fn a_neighbour_survives_delete_cluster(harness: &dyn Harness, path: &ClusterPath) {
    let neighbour = ClusterPath::new("", &format!("{}2", path.base()));
    let a = harness.member(path, "a", long(harness)).await;
    let b = harness.member(&neighbour, "b", long(harness)).await;
    for (dcs, other) in [(&a, "a"), (&b, "b")] {
        acquire(dcs.as_ref()).await;
        dcs.put_member("{}").await.unwrap_or_else(|error| panic!("{other}: {error}"));
        applied(write(dcs.as_ref(), &Key::Config, "{}", Condition::Always).await);
    }
    let before = b.view_fresh().await.expect("a fresh view").cluster;
    a.delete_cluster().await.expect("an answer to the delete");
    for view in [a.view().await, a.view_fresh().await] {
        let cluster = view.expect("a view").cluster;
        assert!(cluster.is_unlocked() && cluster.members.is_empty() && cluster.config.is_none());
    }
    assert_eq!(b.view_fresh().await.expect("a fresh view").cluster, before);
    acquire(a.as_ref()).await;
}
