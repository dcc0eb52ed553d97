//! What becomes of the operations when etcd, or the way to it, fails.

#![allow(clippy::unwrap_used, reason = "test code, helpers included")]

mod support;

use std::time::Duration;

use ptarmigan_dcs::{Beside, Condition, Dcs, Error, Grant, Verdict, Written};
use ptarmigan_dcs_etcd::{Etcd, EtcdSettings};
use ptarmigan_testkit::Port;
use ptarmigan_types::{Key, Leader};
use rustix::process::Signal;
use serde_json::json;
use support::{Server, TIMING, connect, eventually, free_port, path, proxy::Proxy, ready, settings};

async fn acquire(etcd: &Etcd) -> (Grant, Leader) {
    let Verdict::Held(grant) = etcd.acquire().await.unwrap() else { panic!("refused") };
    (grant, etcd.view_fresh().await.unwrap().cluster.leader.unwrap())
}

async fn held(etcd: &Etcd, leader: &Leader) -> Grant {
    match etcd.renew(leader).await.unwrap() {
        Verdict::Held(grant) => grant,
        Verdict::Refused(why) => panic!("refused: {why}"),
    }
}

/// Nobody listens there as long as the port is kept.
fn dead_endpoint() -> (Port, String) {
    let port = free_port();
    let endpoint = format!("http://{}", port.address());
    (port, endpoint)
}

#[tokio::test]
async fn a_dead_first_endpoint_is_passed_over() {
    let server = Server::start();
    let (_port, dead) = dead_endpoint();
    let settings = settings(&[&dead, &server.endpoint]);
    let etcd = connect(&settings, "a");
    ready(&etcd).await;
    let (_, leader) = acquire(&etcd).await;
    for _ in 0..50 {
        held(&etcd, &leader).await;
    }
    // A call that has one node only is served too: the failure of the first chose the second.
    let written = etcd.write(&Key::Status, "{}", Condition::Always).await.unwrap();
    assert!(matches!(written, Written::Applied(_)));
}

#[tokio::test]
async fn a_silent_first_endpoint_is_passed_over() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start();
    ready(&connect(&settings(&[&server.endpoint]), "x")).await;
    let first = format!("http://{}", silent.local_addr().unwrap());
    let etcd = connect(&settings(&[&first, &server.endpoint]), "a");
    let before = ptarmigan_clock::now();
    acquire(&etcd).await;
    assert!(ptarmigan_clock::now().since(before) < TIMING.retry_timeout);
}

#[tokio::test]
async fn a_5_refused_connections_are_unreachable_within_the_budget() {
    let [(_first_port, first), (_second_port, second)] = [dead_endpoint(), dead_endpoint()];
    let etcd = connect(&settings(&[&first, &second]), "a");
    let before = ptarmigan_clock::now();
    let answers = tokio::join!(
        etcd.acquire(),
        etcd.probe(),
        etcd.view(),
        etcd.view_fresh(),
        etcd.write(&Key::Sync, "{}", Condition::Absent),
        etcd.put_member("{}"),
    );
    let took = ptarmigan_clock::now().since(before);
    assert!(matches!(answers.0, Err(Error::Unreachable(_))), "{:?}", answers.0);
    assert!(matches!(answers.1, Err(Error::Unreachable(_))), "{:?}", answers.1);
    assert!(matches!(answers.2, Err(Error::Unreachable(_))), "{:?}", answers.2);
    assert!(matches!(answers.3, Err(Error::Unreachable(_))), "{:?}", answers.3);
    assert!(matches!(answers.4, Err(Error::Unreachable(_))), "{:?}", answers.4);
    assert!(matches!(answers.5, Err(Error::Unreachable(_))), "{:?}", answers.5);
    assert!(took < TIMING.retry_timeout + Duration::from_secs(1), "{took:?}");
    let before = ptarmigan_clock::now();
    let answer = etcd.write(&Key::Status, "{}", Condition::Always).await;
    assert!(matches!(answer, Err(Error::Unreachable(_))), "{answer:?}");
    assert!(ptarmigan_clock::now().since(before) < Duration::from_secs(1), "one node is not asked for long");
}

#[tokio::test]
async fn a_frozen_server_is_indeterminate_and_good_again_after() {
    let server = Server::start();
    let etcd = connect(&settings(&[&server.endpoint]), "a");
    ready(&etcd).await;
    let (_, leader) = acquire(&etcd).await;
    server.signal(Signal::STOP);
    let before = ptarmigan_clock::now();
    let answer = etcd.renew(&leader).await;
    let took = ptarmigan_clock::now().since(before);
    server.signal(Signal::CONT);
    assert!(matches!(answer, Err(Error::Indeterminate(_))), "{answer:?}");
    assert!(took < TIMING.retry_timeout + Duration::from_secs(1), "{took:?}");
    let grant = held(&etcd, &leader).await;
    assert!(grant.sent_at > before + took, "an unanswered renewal must not count");
}

#[tokio::test]
async fn a_watch_survives_a_restart() {
    let mut server = Server::start();
    let (a, b) = (connect(&settings(&[&server.endpoint]), "a"), connect(&settings(&[&server.endpoint]), "b"));
    ready(&a).await;
    let (_, leader) = acquire(&a).await;
    eventually("b sees a", async || b.view().await.unwrap().cluster.is_leader(&"a".into())).await;
    server.kill();
    let before = ptarmigan_clock::now();
    eventually("the copy is given up", async || matches!(b.view().await, Err(Error::Unreachable(_)))).await;
    assert!(ptarmigan_clock::now().since(before) < TIMING.retry_timeout * 2);
    assert!(matches!(a.renew(&leader).await, Err(Error::Unreachable(_) | Error::Indeterminate(_))));
    let changes = *b.changes().borrow();
    server.run();
    ready(&a).await;
    held(&a, &leader).await;
    a.write(&Key::Config, r#"{"ttl":31}"#, Condition::Always).await.unwrap();
    eventually("b sees the new configuration", async || {
        b.view().await.is_ok_and(|view| view.cluster.config.is_some())
    })
    .await;
    let after = *b.changes().borrow();
    assert!(after.config > changes.config && after.other > changes.other);
    assert_eq!(after.leader, changes.leader, "the same key is no change");
}

/// What a watch would go on from is gone: it begins anew from a fresh copy.
#[tokio::test]
async fn a_watch_survives_a_compaction() {
    let server = Server::start();
    let proxy = Proxy::start(&server.endpoint).await;
    let (a, b) = (connect(&settings(&[&server.endpoint]), "a"), connect(&settings(&[&proxy.endpoint]), "b"));
    ready(&a).await;
    ready(&b).await;
    b.view().await.unwrap();
    let ttl = async |etcd: &Etcd| {
        etcd.view().await.ok()?.cluster.config.as_ref().map(|config| config.value["ttl"].clone())
    };
    // b hears nothing of what is written and forgotten meanwhile.
    proxy.lose_answers();
    let mut revision = 0;
    for number in 20..30 {
        let written =
            a.write(&Key::Config, &format!("{{\"ttl\":{number}}}"), Condition::Always).await.unwrap();
        let Written::Applied(at) = written else { panic!("{written:?}") };
        revision = at;
    }
    server.ctl(&["compact", &revision.to_string(), "--physical"]);
    proxy.heal();
    eventually("b sees the last configuration", async || ttl(&b).await == Some(29.into())).await;
    // Compacted under a watch that is up to date.
    let Written::Applied(at) = a.write(&Key::Config, r#"{"ttl":31}"#, Condition::Always).await.unwrap()
    else {
        panic!("unconditional")
    };
    server.ctl(&["compact", &at.to_string(), "--physical"]);
    a.write(&Key::Config, r#"{"ttl":32}"#, Condition::Always).await.unwrap();
    eventually("b sees the one after", async || ttl(&b).await == Some(32.into())).await;
}

/// The store has no space left: it takes no writes, and the lock is held all the same.
#[tokio::test]
async fn a_renewal_passes_where_what_goes_beside_it_cannot_be_written() {
    let server = Server::start_with("http", &["--quota-backend-bytes", "65536"]);
    let etcd = connect(&settings(&[&server.endpoint]), "a");
    ready(&etcd).await;
    let (_, leader) = acquire(&etcd).await;
    let filler = "x".repeat(16_384);
    eventually("a full store", async || {
        matches!(etcd.write(&Key::Config, &filler, Condition::Always).await, Err(Error::Refused(_)))
    })
    .await;
    let beside = Beside { status: Some(r#"{"optime":5}"#.into()), member: Some("{}".into()) };
    let (verdict, written) = etcd.renew_beside(&leader, &beside).await.unwrap();
    assert!(matches!(verdict, Verdict::Held(_)) && !written, "{verdict:?}");
    assert!(matches!(etcd.write(&Key::Status, "{}", Condition::Always).await, Err(Error::Refused(_))));
}

/// An address of which DNS knows nothing: the reason names the key.
#[tokio::test]
async fn a_domain_without_records_is_named() {
    let section = json!({"srv": "cluster.invalid"});
    let settings = EtcdSettings::from_config(section.as_object().unwrap(), false).unwrap();
    let error = connect(&settings, "a").probe().await.unwrap_err();
    assert!(error.to_string().contains("etcd3.srv: "), "{error}");
    // Where there are others, they are used.
    let server = Server::start();
    let host = server.endpoint.trim_start_matches("http://");
    let section = json!({"srv": "cluster.invalid", "hosts": [host]});
    let settings = EtcdSettings::from_config(section.as_object().unwrap(), false).unwrap();
    ready(&connect(&settings, "a")).await;
}

/// Renews ten times after `harm`, follows the view and a foreign write.
async fn survives(servers: &mut [Server], settings: &EtcdSettings, harm: impl FnOnce(&mut [Server])) {
    let (a, b) = (connect(settings, "a"), connect(settings, "b"));
    ready(&a).await;
    let (_, leader) = acquire(&a).await;
    b.view().await.unwrap();
    // The member list comes beside the first answers.
    for etcd in [&a, &b] {
        let knows = async || {
            etcd.view_fresh().await.unwrap();
            servers.iter().all(|server| etcd.describe().contains(&server.endpoint))
        };
        eventually("the members are known", knows).await;
    }
    harm(servers);
    for _ in 0..10 {
        held(&a, &leader).await;
    }
    a.write(&Key::Sync, r#"{"leader":"a"}"#, Condition::Absent).await.unwrap();
    eventually("b follows", async || {
        // Its own requests tell it that the node is gone.
        let _ = b.keep_lease(true).await;
        b.view().await.is_ok_and(|view| view.cluster.sync.revision != 0)
    })
    .await;
}

/// Members leave and join while the client knows one of them by its configuration; that one dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    // Which would have a cluster wait for some seconds before its members may change.
    let mut servers = Server::cluster(3, "http", &["--strict-reconfig-check=false"]);
    let etcd = connect(&settings(&[&servers[0].endpoint]), "a");
    ready(&etcd).await;
    let (_, leader) = acquire(&etcd).await;
    let knows = |server: &Server| etcd.describe().contains(&server.endpoint);
    eventually("the members are known", async || {
        etcd.view_fresh().await.unwrap();
        servers.iter().all(knows)
    })
    .await;
    let members = servers[0].ctl(&["member", "list"]);
    let last = members.lines().find(|line| line.contains(", n2, ")).unwrap();
    servers[0].ctl(&["member", "remove", last.split(',').next().unwrap()]);
    servers[2].kill();
    let joined = servers[0].join("n3");
    ready(&connect(&settings(&[&joined.endpoint]), "x")).await;
    servers[0].kill();
    eventually("the new member is known, the removed one is not", async || {
        held_if_answered(&etcd, &leader).await;
        knows(&joined) && !knows(&servers[2])
    })
    .await;
    for _ in 0..10 {
        held(&etcd, &leader).await;
    }
}

/// The lock is not refused; whether there was an answer is another question.
async fn held_if_answered(etcd: &Etcd, leader: &Leader) {
    let answer = etcd.renew(leader).await;
    assert!(!matches!(answer, Ok(Verdict::Refused(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_servers_may_die() {
    let mut servers = Server::cluster(3, "http", &[]);
    let endpoints: Vec<String> = servers.iter().map(|server| server.endpoint.clone()).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    survives(&mut servers, &settings(&endpoints), |servers| servers[0].kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_servers_may_freeze() {
    let mut servers = Server::cluster(3, "http", &[]);
    let endpoints: Vec<String> = servers.iter().map(|server| server.endpoint.clone()).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    survives(&mut servers, &settings(&endpoints), |servers| servers[0].signal(Signal::STOP)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_5_members_are_discovered_from_one_endpoint() {
    let mut servers = Server::cluster(3, "http", &[]);
    let only = servers[0].endpoint.clone();
    survives(&mut servers, &settings(&[&only]), |servers| servers[0].kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_5_proxies_are_not_left() {
    let mut servers = Server::cluster(3, "http", &[]);
    let settings = EtcdSettings { use_proxies: true, ..settings(&[&servers[0].endpoint]) };
    let etcd = connect(&settings, "a");
    ready(&etcd).await;
    let (_, leader) = acquire(&etcd).await;
    servers[0].kill();
    let answer = etcd.renew(&leader).await;
    assert!(matches!(answer, Err(Error::Unreachable(_) | Error::Indeterminate(_))), "{answer:?}");
}

/// A handle behind a proxy that can lose answers, and one that is not.
async fn behind_proxy(server: &Server) -> (Proxy, Etcd, Etcd) {
    let other = connect(&settings(&[&server.endpoint]), "other");
    ready(&other).await;
    let proxy = Proxy::start(&server.endpoint).await;
    let settings = EtcdSettings { use_proxies: true, ..settings(&[&proxy.endpoint]) };
    let etcd = Etcd::connect(&settings, path(), "a".into(), TIMING, false).unwrap();
    etcd.keep_lease(true).await.unwrap();
    (proxy, etcd, other)
}

#[tokio::test]
async fn a_write_with_a_lost_answer_is_found_by_its_repetition() {
    let server = Server::start();
    let (proxy, a, other) = behind_proxy(&server).await;
    proxy.lose_answers();
    let heal = async {
        eventually("the write is carried out", async || {
            other.view_fresh().await.unwrap().cluster.sync.revision != 0
        })
        .await;
        proxy.heal();
    };
    let (written, ()) = tokio::join!(a.write(&Key::Sync, r#"{"leader":"a"}"#, Condition::Absent), heal);
    let revision = other.view_fresh().await.unwrap().cluster.sync.revision;
    assert_eq!(written, Ok(Written::Applied(revision)));
}

#[tokio::test]
async fn a_write_with_a_lost_answer_that_was_overwritten_is_indeterminate() {
    let server = Server::start();
    let (proxy, a, other) = behind_proxy(&server).await;
    proxy.lose_answers();
    let heal = async {
        eventually("the write is carried out", async || {
            other.view_fresh().await.unwrap().cluster.sync.revision != 0
        })
        .await;
        other.write(&Key::Sync, r#"{"leader":"b"}"#, Condition::Always).await.unwrap();
        proxy.heal();
    };
    let (written, ()) = tokio::join!(a.write(&Key::Sync, r#"{"leader":"a"}"#, Condition::Absent), heal);
    assert!(matches!(written, Err(Error::Indeterminate(_))), "{written:?}");
}

#[tokio::test]
async fn a_write_whose_answers_stay_lost_is_indeterminate() {
    let server = Server::start();
    let (proxy, a, other) = behind_proxy(&server).await;
    proxy.lose_answers();
    let written = a.write(&Key::Config, "{}", Condition::Absent).await;
    assert!(matches!(written, Err(Error::Indeterminate(_))), "{written:?}");
    assert!(other.view_fresh().await.unwrap().cluster.config.is_some());
}

#[tokio::test]
async fn a_renewal_with_lost_answers_moves_no_grant() {
    let server = Server::start();
    let (proxy, a, _other) = behind_proxy(&server).await;
    let (_, leader) = acquire(&a).await;
    proxy.lose_answers();
    let answer = a.renew(&leader).await;
    assert!(matches!(answer, Err(Error::Indeterminate(_))), "{answer:?}");
    let lost_until = ptarmigan_clock::now();
    proxy.heal();
    let grant = held(&a, &leader).await;
    assert!(grant.sent_at >= lost_until);
}

#[tokio::test]
async fn a_race_that_cannot_refresh_its_lease_touches_nothing() {
    let server = Server::start();
    let (proxy, a, other) = behind_proxy(&server).await;
    proxy.lose_answers();
    let answer = a.acquire().await;
    assert!(matches!(answer, Err(Error::Unreachable(_))), "{answer:?}");
    assert!(other.view_fresh().await.unwrap().cluster.is_unlocked());
}

#[tokio::test]
async fn a_race_with_a_lost_answer_is_found_by_its_repetition() {
    let server = Server::start();
    let (proxy, a, other) = behind_proxy(&server).await;
    proxy.lose_answers_to("/service/demo/leader");
    let heal = async {
        eventually("the race is won", async || !other.view_fresh().await.unwrap().cluster.is_unlocked())
            .await;
        proxy.heal();
    };
    let (verdict, ()) = tokio::join!(a.acquire(), heal);
    let Ok(Verdict::Held(grant)) = verdict else { panic!("{verdict:?}") };
    let leader = other.view_fresh().await.unwrap().cluster.leader.unwrap();
    assert_eq!((Some(grant.lease), grant.create_revision), (leader.lease, leader.create_revision));
}

#[tokio::test]
async fn a_race_whose_answers_stay_lost_is_indeterminate() {
    let server = Server::start();
    let (proxy, a, other) = behind_proxy(&server).await;
    proxy.lose_answers_to("/service/demo/leader");
    let answer = a.acquire().await;
    assert!(matches!(answer, Err(Error::Indeterminate(_))), "{answer:?}");
    let leader = other.view_fresh().await.unwrap().cluster.leader.expect("it was won all the same");
    proxy.heal();
    held(&a, &leader).await;
}

#[tokio::test]
async fn a_release_with_a_lost_answer_is_found_by_its_repetition() {
    let server = Server::start();
    let (proxy, a, other) = behind_proxy(&server).await;
    let (_, leader) = acquire(&a).await;
    proxy.lose_answers_to("/service/demo/leader");
    let heal = async {
        eventually("the key goes", async || other.view_fresh().await.unwrap().cluster.is_unlocked()).await;
        proxy.heal();
    };
    let (released, ()) = tokio::join!(a.release(&leader), heal);
    assert_eq!(released, Ok(true));
}

#[tokio::test]
async fn a_comparison_with_a_lost_answer_is_repeated() {
    let server = Server::start();
    let (proxy, a, _other) = behind_proxy(&server).await;
    let (_, leader) = acquire(&a).await;
    proxy.lose_answers_to("/service/demo/leader");
    let heal = async {
        eventually("the comparison is sent", async || proxy.loses_answers()).await;
        let sent = ptarmigan_clock::now();
        proxy.heal();
        sent
    };
    let before = ptarmigan_clock::now();
    let (grant, sent) = tokio::join!(held(&a, &leader), heal);
    assert!(grant.sent_at >= before && grant.sent_at < sent, "the keep-alive before the comparison counts");
}

#[tokio::test]
async fn without_a_watch_each_view_is_fresh() {
    let server = Server::start();
    let (_proxy, a, other) = behind_proxy(&server).await;
    let changes = a.changes();
    for round in 1..=10_u64 {
        other.write(&Key::Optime, &round.to_string(), Condition::Always).await.unwrap();
        assert_eq!(a.view().await.unwrap().cluster.status.last_lsn.0, round);
    }
    assert!(!changes.has_changed().unwrap());
}

#[tokio::test]
async fn keys_are_where_patroni_has_them() {
    let server = Server::start();
    let etcd = connect(&settings(&[&server.endpoint]), "a");
    ready(&etcd).await;
    acquire(&etcd).await;
    etcd.put_member(r#"{"state":"running"}"#).await.unwrap();
    let keys = server.ctl(&["get", "--prefix", "/service/demo/"]);
    let expected = "/service/demo/leader\na\n/service/demo/members/a\n{\"state\":\"running\"}\n";
    assert_eq!(keys, expected);
    let leases = server.ctl(&["lease", "list"]);
    assert!(leases.contains(&etcd.own_lease().unwrap().0), "{leases}");
}
