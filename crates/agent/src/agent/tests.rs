//! The loop's timing (contract B.0.2) and what it makes of `/config`.

use ptarmigan_dcs::Timing;
use ptarmigan_ha::observation::{JobEnd, JobKind};
use ptarmigan_rest::Request;
use ptarmigan_types::Key;
use serde_json::json;

use super::*;
use crate::{
    requests,
    testing::{Fixture, TIMING, until},
};

/// Long enough for anything that happens at once.
const SOON: Duration = Duration::from_secs(5);

/// An agent whose next cycle is due in an hour.
fn idle(fixture: &Fixture) -> Agent {
    let mut agent = Agent::new(Arc::clone(&fixture.node));
    agent.wake_at = ptarmigan_clock::now() + Duration::from_secs(3600);
    agent
}

async fn sleeps_on(agent: &mut Agent) -> bool {
    tokio::time::timeout(Duration::from_millis(200), agent.sleep()).await.is_err()
}

async fn wakes(agent: &mut Agent) -> bool {
    tokio::time::timeout(SOON, agent.sleep()).await.is_ok()
}

#[tokio::test]
async fn t_1_the_next_cycle_comes_after_loop_wait_and_at_once_where_that_is_over() {
    let fixture = Fixture::new();
    let mut agent = Agent::new(Arc::clone(&fixture.node));
    let before = ptarmigan_clock::now();
    agent.cycle().await.unwrap();
    assert!(agent.wake_at <= ptarmigan_clock::now() + TIMING.loop_wait);
    assert_eq!(fixture.node.snapshot.load().next_run, agent.wake_at, "as /liveness judges it");
    agent.wake_at = before;
    assert!(wakes(&mut agent).await);
}

#[tokio::test]
async fn t_2_a_sleep_that_is_cut_short_begins_the_next_one_from_then() {
    let fixture = Fixture::new();
    let mut agent = idle(&fixture);
    fixture.node.wake();
    assert!(wakes(&mut agent).await);
    agent.cycle().await.unwrap();
    assert!(agent.wake_at <= ptarmigan_clock::now() + TIMING.loop_wait, "not in an hour any more");
}

#[tokio::test]
async fn a_lease_that_comes_due_in_the_middle_of_a_sleep_is_refreshed() {
    let fixture = Fixture::new();
    let node = &fixture.node;
    let mut agent = idle(&fixture);
    node.dcs.set_timing(Timing { ttl: Duration::from_secs(2), ..TIMING });
    let lease = node.dcs.keep_lease(false).await.unwrap();
    let due = node.dcs.lease_due().unwrap();
    let slept = async {
        agent.sleep().await;
        panic!("a refresh is no reason for a cycle");
    };
    tokio::select! {
        () = slept => {}
        () = until("the lease is refreshed", || node.dcs.lease_due().unwrap() > due) => {}
    }
    assert!(ptarmigan_clock::now() >= due);
    assert_eq!(node.dcs.own_lease(), Some(lease));
}

#[tokio::test]
async fn a_lock_that_is_let_go_runs_out_and_the_member_key_does_not() {
    let fixture = Fixture::new();
    let node = &fixture.node;
    node.dcs.set_timing(Timing { ttl: Duration::from_secs(2), ..TIMING });
    execute(node, &Action::AcquireLock).await.unwrap();
    let lease = node.dcs.own_lease();
    let_lock_go(node, &fixture.cluster().await);
    assert_eq!(node.dcs.own_lease(), None);
    assert_eq!(crate::execute::write_member(node).await, ptarmigan_ha::Outcome::Done);
    // Once: what hangs on the next one is not the lock.
    let other = node.dcs.own_lease();
    let_lock_go(node, &fixture.cluster().await);
    assert!(other != lease && node.dcs.own_lease() == other);
    let deadline = ptarmigan_clock::now() + SOON;
    while !fixture.cluster().await.is_unlocked() {
        assert!(ptarmigan_clock::now() < deadline, "the lock is kept alive");
        node.dcs.keep_lease(true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(fixture.cluster().await.member(&node.name).is_some());
}

#[tokio::test]
async fn t_6_what_happens_on_this_node_wakes_the_loop() {
    let fixture = Fixture::new();
    fixture.put(Key::Config, r#"{"ttl": 30}"#).await;
    let node = &fixture.node;
    // A long action that ends.
    let mut agent = idle(&fixture);
    node.jobs.start(JobKind::Restart, ptarmigan_clock::now(), |_| async { JobEnd::Done }).unwrap();
    assert!(wakes(&mut agent).await);
    // A changed configuration and a wish of an operator, through this node or any other.
    for (key, value) in [(Key::Config, r#"{"ttl": 40}"#), (Key::Failover, r#"{"member": "b"}"#)] {
        let mut agent = idle(&fixture);
        fixture.put(key, value).await;
        assert!(wakes(&mut agent).await, "{value}");
    }
    let mut agent = idle(&fixture);
    let patch = json!({"loop_wait": 5}).as_object().unwrap().clone();
    requests::handle(node, Request::PatchConfig(patch)).await;
    assert!(wakes(&mut agent).await);
    // PostgreSQL that changes its state.
    let mut agent = idle(&fixture);
    node.postgres.set_state(MemberState::Crashed);
    assert!(wakes(&mut agent).await);
}

#[tokio::test]
async fn t_8_a_reload_waits_for_the_next_cycle() {
    let fixture = Fixture::new();
    let mut agent = idle(&fixture);
    requests::handle(&fixture.node, Request::Reload).await;
    assert!(sleeps_on(&mut agent).await);
    assert!(fixture.node.known().reload_asked);
}

#[tokio::test]
async fn t_7_another_ttl_is_in_effect_with_the_renewal_of_the_very_cycle_that_sees_it() {
    let fixture = Fixture::new();
    let node = &fixture.node;
    fixture.put(Key::Config, r#"{"ttl": 30, "loop_wait": 1, "retry_timeout": 3}"#).await;
    fixture.look().await;
    execute(node, &Action::AcquireLock).await.unwrap();
    let mut agent = Agent::new(Arc::clone(node));
    fixture.put(Key::Config, r#"{"ttl": 90, "loop_wait": 1, "retry_timeout": 3}"#).await;
    let before = ptarmigan_clock::now();
    agent.cycle().await.unwrap();
    assert!(node.lease.left_at(before) > Duration::from_secs(60), "{:?}", node.lease.left_at(before));
}

#[tokio::test]
async fn ha_002_a_config_that_is_not_valid_leaves_the_last_one_in_effect() {
    let fixture = Fixture::new();
    let mut agent = Agent::new(Arc::clone(&fixture.node));
    let ttl = || fixture.node.configuration.with(|settings| settings.ttl_s);
    fixture.put(Key::Config, r#"{"ttl": 50}"#).await;
    agent.cycle().await.unwrap();
    assert_eq!(ttl(), 50);
    for garbage in ["not json", "[]", r#"{"ttl": "long"}"#] {
        fixture.put(Key::Config, garbage).await;
        agent.cycle().await.unwrap();
        assert_eq!(ttl(), 50, "{garbage}");
    }
}

#[tokio::test]
async fn what_was_decided_is_told_in_an_operators_words() {
    use ptarmigan_rest::{Body, why::Decided};
    let fixture = Fixture::new();
    fixture.join("b", None, true).await;
    let mut agent = Agent::new(Arc::clone(&fixture.node));
    for _ in 0..3 {
        agent.cycle().await.unwrap();
        fixture.node.jobs.cancel().await;
    }
    let reply = requests::handle(&fixture.node, Request::Why).await;
    let Body::Json(document) = reply.body else { panic!("{reply:?}") };
    let told: Vec<Decided> = serde_json::from_value(document).unwrap();
    let last = told.last().unwrap();
    assert!(told.iter().map(|decided| decided.times).sum::<u64>() == 3 && last.since <= last.at, "{told:?}");
    let reason = last.reasons.iter().find(|reason| reason.rule == "HA-084").unwrap();
    assert_eq!(reason.says, "the data directory is empty: it is to be filled");
}
