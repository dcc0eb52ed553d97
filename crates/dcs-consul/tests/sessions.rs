//! Sessions, services and tokens on a real Consul (contract A.6).

#![allow(clippy::unwrap_used, reason = "test code, helpers included")]

mod support;

use std::time::Duration;

use ptarmigan_dcs::{Dcs, Error, Timing, Verdict};
use ptarmigan_dcs_consul::Consul;
use rustix::process::Signal;
use serde_json::json;
use support::{PATIENCE, Server, TIMING, connect, deadline, path, pause, ready, settings};

const MEMBER: &str = r#"{"conn_url":"postgres://127.0.0.1:5433/postgres","api_url":"http://127.0.0.1:8009/patroni","state":"running","role":"primary"}"#;

#[tokio::test]
async fn a_6_a_session_has_half_the_ttl_no_checks_and_takes_its_keys_with_it() {
    let server = Server::start();
    let consul = connect(server.settings(), "a");
    ready(&consul).await;
    let lease = consul.keep_lease(false).await.unwrap();
    let session = server.ask("GET", &format!("session/info/{}", lease.0), None).await;
    let session = &session[0];
    assert_eq!((&session["Name"], &session["TTL"]), (&json!("demo-a"), &json!("15.0s")));
    assert_eq!((&session["Behavior"], &session["LockDelay"]), (&json!("delete"), &json!(1_000_000)));
    let checks = ["Checks", "NodeChecks", "ServiceChecks"];
    assert!(checks.iter().all(|key| session[key].as_array().is_none_or(Vec::is_empty)), "{session}");
    // A key without a slash in front, and nothing but the name in it.
    assert!(matches!(consul.acquire().await.unwrap(), Verdict::Held(_)));
    let key = server.ask("GET", "kv/service/demo/leader", None).await;
    assert_eq!((&key[0]["Session"], &key[0]["Value"]), (&json!(lease.0), &json!("YQ==")));
    server.ask("PUT", &format!("session/destroy/{}", lease.0), None).await;
    assert!(consul.view_fresh().await.unwrap().cluster.is_unlocked());
    assert_ne!(consul.keep_lease(true).await.unwrap(), lease, "a new one");
}

#[tokio::test]
async fn a_6_a_ttl_that_is_too_short_becomes_the_shortest_that_consul_takes() {
    let server = Server::start_with(&json!({"session_ttl_min": "12s"}));
    ready(&connect(server.settings(), "x")).await;
    let timing = Timing { ttl: Duration::from_secs(20), ..TIMING };
    let consul = Consul::connect(server.settings(), path(), "demo", "a".into(), timing, true).unwrap();
    let Verdict::Held(grant) = consul.acquire().await.unwrap() else { panic!("refused") };
    assert_eq!(grant.ttl, Duration::from_secs(12));
}

#[tokio::test]
async fn the_member_key_of_a_former_session_makes_place() {
    let server = Server::start();
    let former = connect(server.settings(), "a");
    ready(&former).await;
    former.put_member(MEMBER).await.unwrap();
    let consul = connect(server.settings(), "a");
    consul.put_member(MEMBER).await.unwrap();
    let members = consul.view_fresh().await.unwrap().cluster.members;
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].lease, consul.own_lease());
    assert_ne!(members[0].lease, former.own_lease());
}

#[tokio::test]
async fn a_server_that_stands_still_costs_no_more_than_the_time_of_an_operation() {
    let server = Server::start();
    let timing = Timing { retry_timeout: Duration::from_secs(3), ..TIMING };
    let consul = Consul::connect(server.settings(), path(), "demo", "a".into(), timing, true).unwrap();
    ready(&consul).await;
    assert!(matches!(consul.acquire().await.unwrap(), Verdict::Held(_)));
    let held = consul.view_fresh().await.unwrap().cluster.leader.unwrap();
    server.signal(Signal::STOP);
    let until = deadline();
    // Its threads stop one after the other.
    while consul.view().await.is_ok() {
        assert!(ptarmigan_clock::now() < until, "it goes on answering");
    }
    for _ in 0..2 {
        let before = ptarmigan_clock::now();
        let answers = tokio::join!(consul.view(), consul.renew(&held), consul.put_member(MEMBER));
        assert!(matches!(answers.0, Err(Error::Unreachable(_))), "{:?}", answers.0);
        assert!(matches!(answers.1, Err(Error::Unreachable(_) | Error::Indeterminate(_))), "{:?}", answers.1);
        assert!(answers.2.is_err());
        let took = ptarmigan_clock::now().since(before);
        assert!(took < Duration::from_secs(7), "{took:?}");
    }
    server.signal(Signal::CONT);
    ready(&consul).await;
    assert!(matches!(consul.renew(&held).await.unwrap(), Verdict::Held(_)), "the session lives");
}

#[tokio::test]
async fn a_6_1_a_member_is_a_service_while_it_is_up() {
    let server = Server::start();
    let mut section = server.section();
    section["register_service"] = json!(true);
    section["service_tags"] = json!(["x"]);
    let consul = connect(settings(&section), "a");
    ready(&consul).await;
    consul.put_member(MEMBER).await.unwrap();
    let services = wait_for_tags(&server, &consul, &json!(["x", "primary", "master"])).await;
    let service = &services["demo/a"];
    assert_eq!((&service["Service"], &service["Port"]), (&json!("demo"), &json!(5433)));
    // A service that is wanted no more, and one whose tags change.
    section["service_tags"] = json!(["y"]);
    consul.reload(section.as_object().unwrap()).unwrap();
    wait_for_tags(&server, &consul, &json!(["y", "primary", "master"])).await;
    consul.put_member(&MEMBER.replace("running", "stopped")).await.unwrap();
    wait_for_tags(&server, &consul, &json!(null)).await;
    consul.put_member(MEMBER).await.unwrap();
    consul.reload(server.section().as_object().unwrap()).unwrap();
    assert_eq!(wait_for_tags(&server, &consul, &json!(null)).await, json!({}));
}

/// The agent is told again with the next use of the lease where it did not answer in time.
async fn wait_for_tags(server: &Server, consul: &Consul, tags: &serde_json::Value) -> serde_json::Value {
    let until = deadline();
    loop {
        consul.keep_lease(false).await.unwrap();
        let services = server.ask("GET", "agent/services", None).await;
        if services["demo/a"]["Tags"] == *tags {
            return services;
        }
        assert!(ptarmigan_clock::now() < until, "{tags} is not in {services}");
        pause().await;
    }
}

#[tokio::test]
async fn a_token_that_does_not_allow_it_is_told_and_another_one_taken() {
    let master = "11111111-2222-3333-4444-555555555555";
    let server = Server::start_with(&json!({
        "acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": master}}
    }));
    let mut section = server.section();
    section["token"] = json!(master);
    ready(&connect(settings(&section), "x")).await;
    let consul = connect(settings(&section), "a");
    assert!(matches!(consul.acquire().await.unwrap(), Verdict::Held(_)));
    let held = consul.view_fresh().await.unwrap().cluster.leader.unwrap();
    section["token"] = json!("99999999-2222-3333-4444-555555555555");
    consul.reload(section.as_object().unwrap()).unwrap();
    let refused = consul.renew(&held).await.unwrap();
    assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
    assert!(consul.view().await.is_err());
    section["token"] = json!(master);
    consul.reload(section.as_object().unwrap()).unwrap();
    let until = deadline();
    while !matches!(consul.renew(&held).await, Ok(Verdict::Held(_))) {
        assert!(ptarmigan_clock::now() < until, "not within {PATIENCE:?}");
        pause().await;
    }
}

/// It was destroyed, or a check of it failed: its holder may count on its TTL all the same.
#[tokio::test]
async fn a_session_that_had_checks_is_not_believed_to_have_run_out() {
    let server = Server::start();
    ready(&connect(server.settings(), "x")).await;
    let timing = Timing { ttl: Duration::from_secs(20), ..TIMING };
    for (checks, waits) in [(json!([]), false), (json!(["serfHealth"]), true)] {
        let mut section = server.section();
        section["checks"] = checks;
        let member = |name: &str| {
            Consul::connect(settings(&section), path(), "demo", name.into(), timing, true).unwrap()
        };
        let (a, b) = (member("a"), member("b"));
        let Verdict::Held(grant) = a.acquire().await.unwrap() else { panic!("refused") };
        assert!(b.view().await.unwrap().cluster.is_leader(&"a".into()));
        let gone = ptarmigan_clock::now();
        server.ask("PUT", &format!("session/destroy/{}", grant.lease.0), None).await;
        assert!(b.view().await.unwrap().cluster.is_unlocked());
        let until = deadline();
        while let Verdict::Refused(reason) = b.acquire().await.unwrap() {
            assert!(waits && reason.contains("health checks"), "{reason}");
            assert!(ptarmigan_clock::now() < until);
            pause().await;
        }
        let waited = ptarmigan_clock::now().since(gone);
        assert_eq!(waited >= grant.ttl, waits, "{waited:?}");
        // Who gives it up, does so at once.
        let held = b.view().await.unwrap().cluster.leader.unwrap();
        assert!(b.release(&held).await.unwrap());
        a.view().await.unwrap();
        assert!(matches!(a.acquire().await.unwrap(), Verdict::Held(_)));
        let held = a.view().await.unwrap().cluster.leader.unwrap();
        assert!(a.release(&held).await.unwrap());
    }
}
