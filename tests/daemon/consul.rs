//! Consul as it is deployed: several servers, and an agent beside each node (contract A.6).

use std::time::Duration;

use anyhow::ensure;
use ptarmigan_testkit::{consul::Options, http::Request, store::KeyValue, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    relay::Relay,
    short_lease::until,
    site::{LIMIT, Site},
};

/// Three servers, and an agent for each of two nodes.
const WITH_AGENTS: Options = Options { servers: 3, agents: 2, config: Value::Null, token: None };

/// The index of the first agent.
const AGENT: usize = 3;

/// For how long a session is granted with the `ttl` of 30 s that these clusters have.
const LEASE: Duration = Duration::from_secs(15);

/// Each node talks to its own agent.
async fn beside_agents(name: &str, options: Options) -> (Site, usize) {
    let section = |index: usize, consul: &ptarmigan_testkit::Consul| json!({"host": consul.agents()[index]});
    let mut site = Site::on_consul(name, 2, options, section).await;
    let leader = site.settled().await;
    (site, leader)
}

async fn wait_for_other_leader(site: &Site, former: usize) -> usize {
    wait_until("another leader", 2 * LIMIT, || async {
        let primaries = site.cluster.primaries().await;
        ensure!(primaries.len() == 1 && primaries[0] != former, "{primaries:?}");
        Ok(primaries[0])
    })
    .await
    .unwrap()
}

/// Its session is over; whoever holds another lock by then is somebody else, or has begun anew.
async fn wait_for_end_of_lock(site: &Site, lock: &KeyValue, limit: Duration) {
    let begin = ptarmigan_clock::now();
    wait_until("the end of the lock", limit, || async {
        let now = site.key("leader").await;
        ensure!(now.is_none_or(|now| now.lease != lock.lease), "it is there");
        Ok(())
    })
    .await
    .unwrap();
    eprintln!("the lock was gone after {:?}", ptarmigan_clock::now().since(begin));
}

#[tokio::test]
async fn without_a_quorum_of_servers_nobody_writes_and_a_killed_agent_keeps_its_sessions() {
    let (mut site, leader) = beside_agents("consul-quorum", WITH_AGENTS).await;
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let lock = site.key("leader").await.unwrap();

    // An agent that is killed and comes back has its sessions still.
    site.consul().kill(AGENT + leader).unwrap();
    site.consul().restart(AGENT + leader).await.unwrap();
    site.wait_for_cycles(leader, 3).await;
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.lease), (lock.value, lock.lease), "the same session holds the lock");
    assert_eq!(writer.failed(), [], "{}", site.cluster.logs(30));

    // Two of the three servers are lost: the agent lives, and nothing is decided any more.
    let lost: Vec<usize> = vec![1, 2];
    for server in &lost {
        site.consul().kill(*server).unwrap();
    }
    let killed_at = ptarmigan_clock::now();
    wait_until("the leader to be read-only", LIMIT, || async {
        ensure!(site.sql(leader, "SELECT pg_is_in_recovery()").await? == "t", "it is writable");
        Ok(())
    })
    .await
    .unwrap();
    let last = prober.last_of(leader).unwrap().since(killed_at);
    eprintln!("no quorum: the last write was acknowledged {last:?} after");
    assert!(last < LEASE, "still writable {last:?} after the quorum was lost");
    for server in lost {
        site.consul().spawn(server).unwrap();
    }
    let new = site.settled().await;
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    prober.finish();
    let lost = writer.verify(&site.node(new).connect().await.unwrap()).await.unwrap();
    assert!(new != leader || lost.is_empty(), "the same node leads, and lost {lost:?}");
    site.assert_one_cluster().await;
}

#[tokio::test]
async fn an_agent_that_leaves_takes_the_lock_with_it_and_a_dead_one_does_not() {
    let (mut site, leader) = beside_agents("consul-leaving", WITH_AGENTS).await;
    assert_eq!(site.said("the Consul agent has leave_on_terminate"), 2, "each node is warned of its agent");
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    site.everything_streamed(leader).await;

    // The lock is free at once, although its holder goes on for a while.
    let lock = site.key("leader").await.unwrap();
    site.consul().stop(AGENT + leader).await.unwrap();
    wait_for_end_of_lock(&site, &lock, LEASE / 2).await;
    site.consul().restart(AGENT + leader).await.unwrap();
    let heir = site.settled().await;
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    site.everything_streamed(heir).await;
    let leader = 1 - heir;

    // An agent that is dead for good takes nothing with it: the session runs out.
    let lock = site.key("leader").await.unwrap();
    site.consul().kill(AGENT + heir).unwrap();
    let killed_at = ptarmigan_clock::now();
    until(killed_at + LEASE / 3).await;
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.lease), (lock.value, lock.lease), "the same session holds the lock");
    assert_eq!(wait_for_other_leader(&site, heir).await, leader);
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    eprintln!("the agent was killed: another node leads {:?} after", ptarmigan_clock::now().since(killed_at));
    site.consul().restart(AGENT + heir).await.unwrap();
    assert_eq!(site.settled().await, leader);
    prober.finish();
    site.assert_one_cluster().await;
}

#[tokio::test]
async fn an_agent_that_does_not_leave_keeps_the_lock_over_its_restart() {
    let stays = Options { config: json!({"leave_on_terminate": false}), ..WITH_AGENTS };
    let (mut site, leader) = beside_agents("consul-stays", stays).await;
    assert_eq!(site.said("leave_on_terminate"), 0, "nothing to warn of");
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let lock = site.key("leader").await.unwrap();
    site.consul().stop(AGENT + leader).await.unwrap();
    site.consul().restart(AGENT + leader).await.unwrap();
    site.wait_for_cycles(leader, 3).await;
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.lease), (lock.value, lock.lease), "the same session holds the lock");
    assert_eq!(writer.failed(), [], "{}", site.cluster.logs(30));
    prober.finish();
}

/// Whoever asks Consul for the cluster's service finds the members that are up, each by its role.
#[tokio::test]
async fn a_6_1_members_are_services_with_their_role() {
    let section = |index: usize, consul: &ptarmigan_testkit::Consul| json!({"host": consul.agents()[index], "register_service": true, "service_check_interval": "1s"});
    let mut site = Site::on_consul("consul-service", 2, WITH_AGENTS, section).await;
    let leader = site.settled().await;
    assert_services(&mut site, leader, Some(1 - leader)).await;
    site.cluster.switchover(leader, Some(1 - leader)).await.unwrap();
    assert_eq!(site.settled().await, 1 - leader);
    assert_services(&mut site, 1 - leader, Some(leader)).await;
    site.node_mut(leader).stop(LIMIT).await.unwrap();
    assert_services(&mut site, 1 - leader, None).await;
}

/// By the ports of those that pass their check.
async fn assert_services(site: &mut Site, primary: usize, replica: Option<usize>) {
    let host = site.consul().hosts()[0].clone();
    let port = |index: usize| json!(site.node(index).postgres_port());
    for (tag, wanted) in [("primary", Some(primary)), ("replica", replica)] {
        let path = format!("/v1/health/service/demo?passing&tag={tag}");
        let wanted: Vec<Value> = wanted.into_iter().map(port).collect();
        wait_until(&format!("the services with the tag {tag}"), LIMIT, || async {
            let found: Value = Request::new("GET", &host, &path).send().await?.json()?;
            let ports: Vec<&Value> =
                found.as_array().into_iter().flatten().map(|entry| &entry["Service"]["Port"]).collect();
            ensure!(ports == wanted.iter().collect::<Vec<_>>(), "{found}");
            Ok(())
        })
        .await
        .unwrap();
    }
}

/// With `checks` the lock ends with the agent's health, long before its TTL and before the leader can know.
#[tokio::test]
async fn with_serf_health_as_a_check_the_lock_goes_with_the_agent_and_never_do_two_lead() {
    let section = |index: usize, consul: &ptarmigan_testkit::Consul| json!({"host": consul.agents()[index], "checks": ["serfHealth"]});
    let mut site = Site::on_consul("consul-checks", 2, WITH_AGENTS, section).await;
    let leader = site.settled().await;
    assert_eq!(site.said("consul.checks names serfHealth"), 2, "each node is warned of it");
    let lock = site.key("leader").await.unwrap();
    let session = lock.lease.clone().unwrap();
    let host = site.consul().hosts()[0].clone();
    let path = format!("/v1/session/info/{session}");
    let info: Value = Request::new("GET", &host, &path).send().await.unwrap().json().unwrap();
    assert!(info[0].to_string().contains("serfHealth"), "{info}");
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    site.consul().kill(AGENT + leader).unwrap();
    wait_for_end_of_lock(&site, &lock, LIMIT).await;
    site.consul().restart(AGENT + leader).await.unwrap();
    site.settled().await;
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    prober.finish();
    site.assert_one_cluster().await;
}

/// One address, behind which is now this server and now that one.
#[tokio::test]
async fn behind_an_address_that_moves_the_sessions_go_on() {
    let options = Options { servers: 3, ..Options::default() };
    let mut relays = Vec::new();
    let mut site = Site::on_consul("consul-moves", 0, options, |_, _| Value::Null).await;
    for number in 1..=2 {
        let relay = Relay::to(site.consul().hosts()[0].clone());
        let address = relay.address();
        let node =
            site.another(&format!("node{number}"), |config| config["consul"] = json!({"host": address}));
        site.cluster.nodes.push(node);
        site.node_mut(number - 1).start().unwrap();
        relays.push(relay);
    }
    let leader = site.settled().await;
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let lock = site.key("leader").await.unwrap();
    for server in [1, 2, 0] {
        let host = site.consul().hosts()[server].clone();
        relays.iter().for_each(|relay| relay.move_to(host.clone()));
        for index in 0..2 {
            site.wait_for_cycles(index, 2).await;
        }
    }
    // It is away for a moment.
    relays.iter().for_each(Relay::cut);
    until(ptarmigan_clock::now() + Duration::from_secs(2)).await;
    relays.iter().for_each(Relay::mend);
    site.wait_for_cycles(leader, 3).await;
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.lease), (lock.value, lock.lease), "the same session holds the lock");
    assert_eq!(writer.failed(), [], "{}", site.cluster.logs(30));
    prober.finish();
}

const MASTER: &str = "11111111-2222-3333-4444-555555555555";

/// A token that may do what a member needs, and nothing else.
async fn token(site: &mut Site, name: &str) -> (String, String) {
    let host = site.consul().hosts()[0].clone();
    let rules = r#"key_prefix "service/demo/" { policy = "write" } session_prefix "" { policy = "write" }
                   service_prefix "" { policy = "write" } agent_prefix "" { policy = "read" }"#;
    let policy = json!({"Name": name, "Rules": rules});
    let ask = async |path: &str, body: &Value| {
        let request = Request::new("PUT", &host, path).header("X-Consul-Token", MASTER);
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json().unwrap()
    };
    ask("/v1/acl/policy", &policy).await;
    let token = ask("/v1/acl/token", &json!({"Policies": [{"Name": name}]})).await;
    let field = |name: &str| token[name].as_str().unwrap().to_owned();
    (field("AccessorID"), field("SecretID"))
}

#[tokio::test]
async fn with_a_refused_token_nothing_begins_and_a_token_is_replaced_on_the_running_daemon() {
    let options = Options {
        servers: 1,
        agents: 0,
        config: json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": MASTER}}}),
        token: Some(MASTER.to_owned()),
    };
    let mut site = Site::on_consul("consul-token", 0, options, |_, _| Value::Null).await;
    wait_until("the first token", LIMIT, || async {
        let host = site.cluster.store.hosts()[0].clone();
        let request = Request::new("GET", &host, "/v1/acl/policies").header("X-Consul-Token", MASTER);
        let answer = request.send().await?;
        ensure!(answer.status == 200, "{}", answer.body);
        Ok(())
    })
    .await
    .unwrap();
    let host = site.consul().hosts()[0].clone();
    let mut config = Value::Null;
    let node = site.another("node1", |made| {
        made["consul"] = json!({"host": host, "token": "99999999-2222-3333-4444-555555555555"});
        config = made.clone();
    });
    site.cluster.nodes.push(node);
    site.node_mut(0).start().unwrap();
    site.wait_for_log(0, 0, "ACL not found").await;
    assert!(!site.node(0).data_dir().exists(), "nothing has begun");

    let (first, secret) = token(&mut site, "first").await;
    config["consul"]["token"] = json!(secret);
    site.node(0).write_config(&config).unwrap();
    site.node_mut(0).signal(Signal::HUP).unwrap();
    assert_eq!(site.settled().await, 0);
    let writer = site.writer();
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let lock = site.key("leader").await.unwrap();

    let (_, secret) = token(&mut site, "second").await;
    config["consul"]["token"] = json!(secret);
    site.node(0).write_config(&config).unwrap();
    site.node_mut(0).signal(Signal::HUP).unwrap();
    site.wait_for_cycles(0, 2).await;
    let path = format!("/v1/acl/token/{first}");
    let deleted = Request::new("DELETE", &host, &path).header("X-Consul-Token", MASTER).send().await.unwrap();
    assert_eq!(deleted.status, 200, "{}", deleted.body);
    site.wait_for_cycles(0, 3).await;
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.lease), (lock.value, lock.lease), "the same session holds the lock");
    assert_eq!(writer.failed(), [], "{}", site.cluster.logs(30));
    assert_eq!(site.said("a restart of the daemon brings that into force"), 0);
}
