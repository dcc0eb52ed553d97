//! What a daemon refuses to start on, and what it lives through.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _};

use anyhow::ensure;
use ptarmigan_testkit::{Node, node::GUARDIAN, wait_until};
use serde_json::{Value, json};

use crate::site::{LIMIT, Site};

/// Starts a node that must end with status 1 and say so.
async fn assert_refuses(mut node: Node, message: &str) {
    node.start().unwrap();
    let end = node.wait_for_end(LIMIT).await;
    let log = node.log_tail(usize::MAX);
    assert_eq!(end.expect(&log).code(), Some(1), "{log}");
    assert!(log.contains(message), "{message:?} is not in\n{log}");
    // the guardian stays a little, in case a daemon comes again
    let left = node.processes();
    assert!(left.iter().all(|process| process.name == GUARDIAN), "{left:?}");
}

#[tokio::test]
async fn a_node_that_cannot_be_right_ends_with_1_and_disturbs_nobody() {
    let (mut site, _) = Site::ready("refusals", 1, |_| {}).await;
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let (postmaster, lock) = (site.node(0).postmaster_pid().unwrap(), site.key("leader").await.unwrap());
    writer.mark();

    let twin = site.another("twin", |config| config["name"] = json!("node1"));
    assert_refuses(twin, "Can't start; there is already a node named 'node1' running").await;

    let address = site.node(0).rest_address();
    let taken = site.another("taken", |config| config["restapi"]["listen"] = json!(address));
    assert_refuses(taken, &address).await;

    let citus = site.another("citus", |config| config["citus"] = json!({"group": 1, "database": "citus"}));
    assert_refuses(citus, "citus: Citus clusters are not supported yet").await;

    // without its programs it cannot join; it says so and tries again
    let mut lost = site.another("lost", |config| config["postgresql"]["bin_dir"] = json!("/nonexistent/bin"));
    lost.start().unwrap();
    wait_until("a word about the programs, twice", LIMIT, || async {
        let log = lost.log_tail(usize::MAX);
        ensure!(
            log.matches("/nonexistent/bin/postgres does not exist: check postgresql.bin_dir").count() > 1,
            "{log}"
        );
        Ok(())
    })
    .await
    .unwrap();
    assert!(lost.is_running());
    lost.stop(LIMIT).await.unwrap();

    // a node of another cluster on the same machine, which is then told that it belongs to this one
    let mut foreign = site.another("foreign", |config| config["scope"] = json!("other"));
    foreign.start().unwrap();
    wait_until("the other cluster", LIMIT, || async {
        ensure!(foreign.is_primary().await, "{}", foreign.log_tail(10));
        Ok(())
    })
    .await
    .unwrap();
    let identifier = foreign.patroni().await.unwrap()["database_system_identifier"].clone();
    foreign.stop(LIMIT).await.unwrap();
    let config = fs::read_to_string(foreign.config_path()).unwrap().replace("\"other\"", "\"demo\"");
    fs::write(foreign.config_path(), config).unwrap();
    let data = foreign.data_dir();
    let message = format!(
        "node foreign belongs to a different cluster: {} != ",
        site.key("initialize").await.unwrap().value
    );
    assert_refuses(foreign, &message).await;
    assert!(data.join("PG_VERSION").is_file() && identifier.is_string());

    let gap = writer.longest_gap();
    assert_eq!(writer.failed(), []);
    eprintln!("longest gap while others were refused: {gap:?}");
    assert_eq!(site.node(0).postmaster_pid().unwrap(), postmaster);
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.create_revision), (lock.value, lock.create_revision));
    assert!(site.node_mut(0).is_running());
    prober.finish();
}

#[tokio::test]
async fn a_node_lives_through_what_can_be_mended() {
    let (mut site, _) = Site::ready("mended", 1, |_| {}).await;

    // a copy of the dynamic configuration that was half written
    site.node_mut(0).stop(LIMIT).await.unwrap();
    let copy = site.node(0).data_dir().join("patroni.dynamic.json");
    let whole: Value = serde_json::from_str(&fs::read_to_string(&copy).unwrap()).unwrap();
    fs::write(&copy, "{\"ttl\": 2").unwrap();
    site.node_mut(0).start().unwrap();
    assert_eq!(site.settled().await, 0);
    wait_until("a whole copy", LIMIT, || async {
        let now: Value = serde_json::from_str(&fs::read_to_string(&copy)?)?;
        ensure!(now == whole, "{now}");
        Ok(())
    })
    .await
    .unwrap();

    // somebody sits on PostgreSQL's port for a while
    site.node_mut(0).stop(LIMIT).await.unwrap();
    let squatter = TcpListener::bind(("127.0.0.1", site.node(0).postgres_port())).unwrap();
    let lines = site.log_lines(0);
    site.node_mut(0).start().unwrap();
    let message = format!("127.0.0.1:{} is in use by another program", site.node(0).postgres_port());
    site.wait_for_log(0, lines, &message).await;
    assert!(site.node_mut(0).is_running());
    assert_eq!(site.node(0).get("/liveness").await.unwrap().status, 200);
    assert_eq!(site.cluster.primaries().await, [0; 0]);
    drop(squatter);
    assert_eq!(site.settled().await, 0);

    // a data directory that cannot be made
    let home = site.workspace.folder("closed").unwrap();
    let mut closed =
        site.another("shut", |config| config["postgresql"]["data_dir"] = json!(home.join("data")));
    fs::set_permissions(&home, fs::Permissions::from_mode(0o500)).unwrap();
    closed.start().unwrap();
    wait_until("a word about the data directory", LIMIT, || async {
        let log = closed.log_tail(usize::MAX);
        ensure!(log.contains("closed/data") && log.contains("ermission denied"), "{log}");
        Ok(())
    })
    .await
    .unwrap();
    assert!(closed.is_running());
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    wait_until("the closed node to stream", LIMIT, || async {
        ensure!(closed.is_replica().await, "{}", closed.log_tail(10));
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(site.cluster.primaries().await, [0]);
}

/// HA-089: a standby does not begin a cluster of its own, and what it served until then it goes on serving.
#[tokio::test]
async fn sd_3_a_standby_that_finds_no_cluster_leaves_its_server_alone() {
    let (mut site, leader) = Site::ready("join-refused", 2, |_| {}).await;
    let replica = 1 - leader;
    for index in [leader, replica] {
        site.node_mut(index).kill_daemon().unwrap();
    }
    for key in ["initialize", "leader"] {
        assert!(site.delete(key).await);
    }
    let postmaster = site.node(replica).postmaster_pid().unwrap();
    let lines = site.log_lines(replica);
    site.node_mut(replica).start().unwrap();
    let status = site.node_mut(replica).wait_for_end(LIMIT).await.unwrap();
    let said = site.log_since(replica, lines);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("Start the daemon on the primary first"), "{said}");
    assert_eq!(site.node(replica).postmaster_pid().unwrap(), postmaster);
    assert_eq!(site.sql(replica, "SELECT pg_is_in_recovery()").await.unwrap(), "t");

    site.node_mut(leader).start().unwrap();
    wait_until("the primary to lead", LIMIT, || async {
        ensure!(site.node(leader).is_primary().await, "{}", site.node(leader).log_tail(10));
        Ok(())
    })
    .await
    .unwrap();
    site.node_mut(replica).start().unwrap();
    assert_eq!(site.settled().await, leader);
    assert_eq!(site.node(replica).postmaster_pid().unwrap(), postmaster);
}
