//! Signals, and what systemd hears.

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use ptarmigan_testkit::{postgres, process};
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::UnixDatagram;

use crate::site::{LIMIT, Site};

/// The socket that systemd would listen on.
struct Systemd(UnixDatagram);

impl Systemd {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        Self(socket)
    }

    async fn expect(&self, state: &str) -> String {
        let mut buffer = [0; 4096];
        let length = tokio::time::timeout(LIMIT, self.0.recv(&mut buffer)).await.expect(state).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(text.lines().any(|line| line == state), "{state} is expected, {text:?} came");
        text
    }
}

/// What `pg_controldata` says of a stopped server.
async fn control_state(site: &Site, index: usize) -> String {
    let program = postgres::bin_dir().unwrap().join("pg_controldata");
    let mut command = process::command(&site.workspace, site.node(index).home(), program);
    command.arg(site.node(index).data_dir());
    let text = String::from_utf8(process::run(command, LIMIT).await.unwrap().stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("Database cluster state:")).unwrap();
    line.split(':').nth(1).unwrap().trim().to_owned()
}

/// Ends the leader's daemon with a signal, given twice, and returns the new leader.
async fn end_leader(site: &mut Site, leader: usize, signal: Signal, systemd: Option<&Systemd>) -> usize {
    let writer = site.writer();
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let other = 1 - leader;
    writer.mark();
    let told_at = ptarmigan_clock::now();
    site.node_mut(leader).signal(signal).unwrap();
    if let Some(systemd) = systemd {
        systemd.expect("STOPPING=1").await;
    }
    // it may have ended already
    let _ = site.node_mut(leader).signal(signal);
    let status = site.node_mut(leader).wait_for_end(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{signal:?}");
    eprintln!("{signal:?}: ended after {:?}", ptarmigan_clock::now().since(told_at));
    assert!(site.node(leader).postmaster_pid().is_err(), "PostgreSQL runs");
    assert!(site.servers(leader, "postgres").is_empty());
    assert_eq!(control_state(site, leader).await, "shut down");

    assert_eq!(site.settled().await, other);
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    let gap = writer.longest_gap();
    eprintln!("{signal:?}: writes resumed after {gap:?}");
    // far below the time to live: the lock was given up and did not run out
    assert!(gap < Duration::from_secs(10), "{gap:?}");
    let lost = writer.verify(&site.node(other).connect().await.unwrap()).await.unwrap();
    assert_eq!(lost, Vec::<i64>::new(), "acknowledged rows lost by a clean stop");
    let lines = site.log_lines(leader);
    site.node_mut(leader).start().unwrap();
    assert_eq!(site.settled().await, other);
    assert!(!site.log_since(leader, lines).contains("pg_rewind"), "a clean stop needs no rewind");
    other
}

#[tokio::test]
async fn sd_signals_end_the_daemon_cleanly_and_systemd_is_told() {
    let (mut site, leader) = Site::ready("ending", 2, |_| {}).await;
    let path = site.workspace.path().join("notify");
    let systemd = Systemd::listen(&path);
    let prober = site.prober();

    // a new daemon, so that it knows the socket
    site.node_mut(leader).kill_daemon().unwrap();
    site.node_mut(leader).set_env("NOTIFY_SOCKET", path.to_str().unwrap());
    site.node_mut(leader).start().unwrap();
    systemd.expect("READY=1").await;
    site.wait_for_cycles(leader, 1).await;

    // SIGHUP: a rule for clients and the log's level
    let mut config: Value = site.config(leader);
    config["log"] = serde_json::json!({"level": "DEBUG"});
    let rules = config["postgresql"]["pg_hba"].as_array_mut().unwrap();
    rules.insert(0, "host all nobody 127.0.0.9/32 reject".into());
    site.node(leader).write_config(&config).unwrap();
    let (lines, postmaster) = (site.log_lines(leader), site.node(leader).postmaster_pid().unwrap());
    site.node_mut(leader).signal(Signal::HUP).unwrap();
    let text = systemd.expect("RELOADING=1").await;
    assert!(text.contains("MONOTONIC_USEC="), "{text:?}");
    systemd.expect("READY=1").await;
    let rule = "SELECT count(*) FROM pg_hba_file_rules WHERE address = '127.0.0.9'";
    site.wait_for_sql(leader, rule, "1").await;
    site.wait_for_log(leader, lines, "DEBUG: ").await;
    assert_eq!(site.node(leader).postmaster_pid().unwrap(), postmaster);
    // a file that cannot be read changes nothing
    std::fs::write(site.node(leader).config_path(), "scope: [").unwrap();
    let lines = site.log_lines(leader);
    site.node_mut(leader).signal(Signal::HUP).unwrap();
    systemd.expect("RELOADING=1").await;
    systemd.expect("READY=1").await;
    site.wait_for_log(leader, lines, "the configuration is not reloaded").await;
    assert!(site.node(leader).is_primary().await);
    site.node(leader).write_config(&config).unwrap();

    let leader = end_leader(&mut site, leader, Signal::TERM, Some(&systemd)).await;
    end_leader(&mut site, leader, Signal::INT, None).await;
    prober.finish();
}

/// A panic in the middle of the loop, where the leader decides: there is nobody left who could keep the lock and look after
/// PostgreSQL, so PostgreSQL goes first, then the lock, then the process (contract HA-021 lets the loop go on).
#[cfg(debug_assertions)]
#[tokio::test]
async fn ha_021_a_killed_core_stops_postgresql_gives_the_lock_up_and_ends_with_an_error() {
    let (mut site, leader) = Site::ready("panic", 2, |_| {}).await;
    let (prober, writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    site.wait_for_cycles(leader, 1).await;
    writer.mark();

    site.node(leader).plan("panic core").unwrap();
    let status = site.node_mut(leader).wait_for_end(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(site.node(leader).postmaster_pid().is_err(), "PostgreSQL runs");
    assert!(site.servers(leader, "postgres").is_empty());
    assert_eq!(control_state(&site, leader).await, "shut down");
    let log = site.log(leader);
    for text in [
        "planned by a test: core",
        "the decision core panicked, stopping PostgreSQL",
        "released the leader lock",
    ] {
        assert!(log.contains(text), "{text}\n{log}");
    }

    let other = 1 - leader;
    assert_eq!(site.settled().await, other);
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    let gap = writer.longest_gap();
    eprintln!("the core panicked: writes resumed after {gap:?}");
    // far below the time to live: the lock was given up and did not run out
    assert!(gap < Duration::from_secs(10), "{gap:?}");
    let lost = writer.verify(&site.node(other).connect().await.unwrap()).await.unwrap();
    assert_eq!(lost, Vec::<i64>::new());
    site.node_mut(leader).start().unwrap();
    assert_eq!(site.settled().await, other);
    prober.finish();
}
