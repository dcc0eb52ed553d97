//! Both sides of failsafe mode over a store in memory, and peers that say what a test wants.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use ptarmigan_dcs::memory::Fault;
use ptarmigan_ha::{
    Action, Outcome,
    action::{PeerAddress, When},
    observation::{JobEnd, JobKind},
};
use ptarmigan_rest::{Request as RestRequest, snapshot::Figures};
use ptarmigan_types::{FailsafeRequest, Key, Role};
use serde_json::json;

use super::*;
use crate::{
    execute::{execute, patience},
    requests,
    testing::{Fixture, TIMING, text},
};

/// A node whose mode is on, as everybody's.
async fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let config = json!({"ttl": 30, "loop_wait": 1, "retry_timeout": 3, "failsafe_mode": true});
    fixture.put(Key::Config, &config.to_string()).await;
    let view = fixture.look().await;
    crate::apply::adopt_dynamic(&fixture.node, view.cluster.config.as_ref());
    fixture
}

async fn run(fixture: &Fixture, action: Action) -> Outcome {
    execute(&fixture.node, &action).await.unwrap()
}

fn asks(name: &str) -> FailsafeRequest {
    FailsafeRequest {
        name: name.into(),
        conn_url: format!("postgres://{name}:5432/postgres"),
        api_url: format!("http://{name}:8008/patroni"),
        slots: None,
        ttl: None,
        lock: None,
        guarded: false,
    }
}

async fn post(fixture: &Fixture, request: FailsafeRequest) -> (u16, String, Option<Lsn>) {
    let reply = requests::handle(&fixture.node, RestRequest::Failsafe(request)).await;
    let lsn = reply.lsn;
    let (status, text) = text(&reply);
    (status, text, lsn)
}

/// A member's REST API that gives these answers, one for each question, and the last one for ever: status line, headers
/// and body. Its address, and how often it was asked.
fn member(answers: &'static [&'static str]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/patroni", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let number = count.fetch_add(1, Ordering::SeqCst);
            let answer = answers[number.min(answers.len() - 1)];
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (url, asked)
}

const ACCEPTED: &str = "HTTP/1.0 200 OK\r\nlsn: 77\r\n\r\nAccepted";
const REFUSED: &str = "HTTP/1.0 500 Internal Server Error\r\n\r\nRunning as a leader";
const NOTHING: &str = "";

fn address(name: &str, api_url: &str) -> PeerAddress {
    PeerAddress { name: name.into(), api_url: api_url.into() }
}

#[tokio::test]
async fn fs_8_a_promise_is_stored_and_keeps_this_node_from_racing() {
    let fixture = fixture().await;
    let node = &fixture.node;
    node.known().figures =
        Some(Figures { in_recovery: true, received_location: Lsn(55), ..Figures::default() });
    assert_eq!(post(&fixture, asks("b")).await, (200, "Accepted".into(), None), "PostgreSQL does not run");
    let promise = node.failsafe.promise(ptarmigan_clock::now()).unwrap();
    assert_eq!(promise.to.as_str(), "b");
    assert!(node.snapshot.load().failsafe_until == Some(promise.until));
    let refused = run(&fixture, Action::AcquireLock).await;
    assert_eq!(refused, Outcome::Refused("promised b not to lead".into()));
    assert_eq!(fixture.cluster().await.leader, None);
    // Another life of the daemon.
    let again = Failsafe::new(PromiseFile::beside(&node.postgres.data_dir()));
    assert_eq!(again.promise(ptarmigan_clock::now()), Some(promise.clone()));
    run(&fixture, Action::ForgetFailsafe(None)).await;
    assert!(node.failsafe.promise(ptarmigan_clock::now()).is_some());
    run(&fixture, Action::ForgetFailsafe(Some(promise.until))).await;
    assert!(matches!(run(&fixture, Action::AcquireLock).await, Outcome::Held { .. }));
    let forgotten = Failsafe::new(PromiseFile::beside(&node.postgres.data_dir()));
    assert_eq!(forgotten.promise(ptarmigan_clock::now()), None);
}

#[tokio::test]
async fn fs_7_a_node_that_may_lead_refuses() {
    let fixture = fixture().await;
    let node = &fixture.node;
    let refused = |text: &str| (500, text.to_owned(), None);
    let race = node.failsafe.begin().unwrap();
    let racing = "this node is racing for the leader lock or promoting PostgreSQL";
    assert_eq!(post(&fixture, asks("b")).await, refused(racing));
    drop(race);
    node.jobs.start(JobKind::StartPrimary, ptarmigan_clock::now(), |_| std::future::pending()).unwrap();
    let primary = "PostgreSQL on this node is running as a primary";
    assert_eq!(post(&fixture, asks("b")).await, refused(primary));
    node.jobs.cancel().await;
    run(&fixture, Action::AcquireLock).await;
    assert_eq!(post(&fixture, asks("b")).await, refused("this node holds the leader lock"));
    let held = fixture.cluster().await.leader.unwrap();
    run(&fixture, Action::ReleaseLock(held)).await;
    fixture.join("c", None, true).await;
    fixture.look().await;
    assert_eq!(post(&fixture, asks("b")).await, refused("the last known leader is c"));
    assert_eq!(post(&fixture, asks("c")).await.0, 200);
    // The role of a server that does not run says nothing about what it may do.
    node.postgres.set_role(Role::Primary);
    assert_eq!(post(&fixture, asks("c")).await.0, 200);
}

#[tokio::test]
async fn fs_6_nothing_is_promised_where_the_mode_is_off() {
    let fixture = Fixture::new();
    let (status, text, _) = post(&fixture, asks("b")).await;
    assert_eq!((status, text.as_str()), (502, "failsafe_mode is not enabled on this node"));
}

#[tokio::test]
async fn fs_8_what_cannot_be_stored_is_no_promise() {
    let fixture = fixture().await;
    let node = &fixture.node;
    let request = FailsafeRequest {
        name: "b".into(),
        conn_url: "c".into(),
        api_url: "u".into(),
        slots: None,
        ttl: None,
        lock: None,
        guarded: false,
    };
    let nowhere = Failsafe::new(PromiseFile::beside(std::path::Path::new("/proc/none/data")));
    let now = ptarmigan_clock::now();
    let promise = nowhere.ledger().give(&standing(node, now), &request, now).unwrap();
    let stored = nowhere.store(&promise, now).await;
    assert!(stored.is_err() || nowhere.file.read(now) == Some(promise), "{stored:?}");
}

#[tokio::test]
async fn fs_5_the_lease_is_counted_from_the_first_question_and_needs_everybody() {
    let fixture = fixture().await;
    let node = &fixture.node;
    let (b, asked_b) = member(&[NOTHING, ACCEPTED]);
    let (c, _) = member(&[ACCEPTED]);
    let before = ptarmigan_clock::now();
    let members = vec![address("b", &b), address("c", &c)];
    let outcome = run(&fixture, Action::AskFailsafe(members.clone())).await;
    let Outcome::Promised { until, positions } = outcome else { panic!("{outcome:?}") };
    assert!(until >= before + TIMING.ttl && until <= ptarmigan_clock::now() + TIMING.ttl);
    assert_eq!(positions, BTreeMap::from([("b".into(), Lsn(77)), ("c".into(), Lsn(77))]));
    assert_eq!(asked_b.load(Ordering::SeqCst), 2, "one retry");
    assert_eq!((node.lease.until(), node.snapshot.load().leader_until), (Some(until), Some(until)));
    assert_eq!(node.snapshot.load().failsafe_until, Some(until));
    // One who refuses is not asked again, and moves nothing.
    let (d, asked_d) = member(&[REFUSED]);
    let refused = run(&fixture, Action::AskFailsafe(vec![address("c", &c), address("d", &d)])).await;
    assert_eq!(refused, Outcome::Refused("d: 500 Running as a leader".into()));
    assert_eq!(asked_d.load(Ordering::SeqCst), 1);
    assert_eq!(node.lease.until(), Some(until));
    assert_eq!(node.snapshot.load().failsafe_until, None);
    // Nobody else is there.
    assert!(matches!(run(&fixture, Action::AskFailsafe(Vec::new())).await, Outcome::Promised { .. }));
    let gone = run(&fixture, Action::AskFailsafe(vec![address("e", "http://127.0.0.1:1/patroni")])).await;
    assert!(matches!(&gone, Outcome::Refused(reason) if reason.starts_with("e: ")), "{gone:?}");
}

#[tokio::test]
async fn fs_5_leadership_that_ended_meanwhile_does_not_come_back() {
    let fixture = fixture().await;
    let node = &fixture.node;
    let asked = node.lease.ask();
    node.lease.forget();
    node.lease.prolong(asked, ptarmigan_clock::now() + TIMING.ttl);
    assert!(!node.leads());
}

#[tokio::test]
async fn ha_401_a_leader_waits_for_the_store_no_longer_than_a_round_and_a_stop_allow() {
    let fixture = fixture().await;
    let node = &fixture.node;
    let lead_for = |seconds| {
        node.lease.hold(node.lease.ask(), ptarmigan_clock::now() + Duration::from_secs(seconds));
    };
    lead_for(30);
    assert_eq!(patience(node), TIMING.retry_timeout);
    lead_for(8);
    assert!(patience(node) <= Duration::from_secs(2), "2 s for the stop, 4 s for the round");
    // A primary without the lock that goes on by the promise of all waits for a race no longer.
    fixture.store.set_fault(&node.name, Fault::Unreachable);
    let lost = run(&fixture, Action::AcquireLock).await;
    assert!(matches!(lost, Outcome::NoAnswer { .. }), "{lost:?}");
}

#[tokio::test]
async fn ul_3_failsafe_is_written_on_its_revision() {
    let fixture = fixture().await;
    let write = |members: &[&str], when| Action::WriteFailsafe {
        members: members.iter().map(|name| ((*name).to_owned(), format!("http://{name}/"))).collect(),
        when,
    };
    assert_eq!(run(&fixture, write(&["a"], When::Absent)).await, Outcome::Done);
    let first = fixture.cluster().await;
    assert_eq!(first.failsafe, Some(BTreeMap::from([("a".to_owned(), "http://a/".to_owned())])));
    let revision = first.failsafe_revision.unwrap();
    assert_eq!(run(&fixture, write(&["a", "b"], When::Revision(revision))).await, Outcome::Done);
    for late in [When::Absent, When::Revision(revision)] {
        assert!(matches!(run(&fixture, write(&["z"], late)).await, Outcome::Refused(_)), "{late:?}");
    }
    fixture.look().await;
    crate::publish::publish(&fixture.node);
    // `GET /failsafe` goes on showing it where the store is away.
    fixture.store.set_fault(&fixture.node.name, Fault::Unreachable);
    crate::observe::view(&fixture.node).await.unwrap_err();
    crate::publish::publish(&fixture.node);
    let snapshot = fixture.node.snapshot.load();
    assert_eq!(snapshot.failsafe.as_ref().map(BTreeMap::len), Some(2));
    assert!(snapshot.view.is_none());
}

#[tokio::test]
async fn lv_2_the_loop_sees_the_leader_that_has_the_promise_and_health_checks_do_not() {
    let fixture = fixture().await;
    let node = &fixture.node;
    post(&fixture, asks("b")).await;
    let view = crate::observe::view(node).await.unwrap();
    assert_eq!(view.leader_name().map(MemberName::as_str), Some("b"));
    let leader = ptarmigan_ha::Upstream::from(MemberName::from("b"));
    assert_eq!(crate::local::node_to_follow(node).as_ref(), Some(&leader));
    assert!(crate::local::upstream(node, &leader).is_ok(), "by the address that the promise has");
    crate::publish::publish(node);
    assert!(node.snapshot.load().view.as_ref().unwrap().cluster.is_unlocked());
    // Without the store the slots follow it too.
    fixture.store.set_fault(&node.name, Fault::Unreachable);
    crate::observe::view(node).await.unwrap_err();
    assert_eq!(last_seen(node).unwrap().leader_name().map(MemberName::as_str), Some("b"));
}

#[tokio::test]
async fn lv_6_the_members_positions_reach_the_slots_of_the_leader() {
    let fixture = fixture().await;
    let node = &fixture.node;
    let other = fixture.other("c");
    let data = json!({"conn_url": "postgres://c/", "tags": {"replicatefrom": "b"}, "xlog_location": 5});
    ptarmigan_dcs::Dcs::put_member(&other, &data.to_string()).await.unwrap();
    fixture.look().await;
    let position = || last_seen(node).unwrap().member(&"c".into()).unwrap().data.xlog_location();
    assert_eq!(position(), Some(Lsn(5)));
    let (c, _) = member(&[ACCEPTED]);
    run(&fixture, Action::AskFailsafe(vec![address("c", &c)])).await;
    assert_eq!(position(), Some(Lsn(77)));
}

#[tokio::test]
async fn a_promotion_is_refused_where_somebody_has_the_promise() {
    let fixture = fixture().await;
    let node = &fixture.node;
    post(&fixture, asks("b")).await;
    node.lease.hold(node.lease.ask(), ptarmigan_clock::now() + TIMING.ttl);
    crate::jobs::begin(node, ptarmigan_ha::action::Job::Promote { timeline: None }).unwrap();
    let mut ended = Vec::new();
    crate::testing::until("the promotion ends", || {
        ended.extend(node.jobs.observe(ptarmigan_clock::now()).1);
        !ended.is_empty()
    })
    .await;
    assert_eq!(ended[0].end, JobEnd::Failed("promised b not to lead".into()));
}
