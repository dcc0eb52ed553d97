//! A daemon that cannot speak for its primary any more: the guardian ends the server before somebody else leads.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::ensure;
use ptarmigan_testkit::{Writer, http::Request, wait_until};
use ptarmigan_types::Monotonic;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    prober::Prober,
    site::{LIMIT, Site, TTL, home_of},
};

/// Between two tries of the prober.
const OFTEN: Duration = Duration::from_millis(10);

pub(crate) fn configure(config: &mut Value) {
    let dcs = config["bootstrap"]["dcs"].as_object_mut().unwrap();
    for (key, value) in [("ttl", 20), ("loop_wait", 1), ("retry_timeout", 3)] {
        dcs.insert(key.into(), json!(value));
    }
}

/// Somebody else leads, and by then nothing of the old one's server is left.
pub(crate) async fn is_fenced(site: &mut Site, old: usize, prober: &Prober, writer: &Writer) -> usize {
    wait_until("another leader", 3 * LIMIT, || async {
        let key = site.key("leader").await;
        ensure!(key.as_ref().is_some_and(|key| key.value != site.name(old)), "{key:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(site.servers(old, "postgres"), [], "{}", site.node(old).log_tail(10));
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    let new = writer.last_acknowledged().unwrap().target;
    assert_ne!(new, old);
    let last = prober.last_of(old).unwrap();
    let row = writer.acknowledged().into_iter().filter(|row| row.target == old).map(|row| row.at).max();
    eprintln!(
        "{}: its last write {:?} ago",
        site.name(old),
        ptarmigan_clock::now().since(last.max(row.unwrap()))
    );
    new
}

#[tokio::test]
async fn a_primary_whose_daemon_is_killed_or_frozen_is_ended_before_another_leads() {
    let (mut site, mut leader) = Site::ready("fence", 3, configure).await;
    let (prober, mut writer) = (site.prober_every(OFTEN), site.writer());
    for way in ["killed", "frozen", "killed, and its postmaster frozen"] {
        writer.wait_for_rows(20, LIMIT).await.unwrap();
        let begin = ptarmigan_clock::now();
        if way == "frozen" {
            site.node_mut(leader).signal(Signal::STOP).unwrap();
        } else {
            site.node_mut(leader).kill_daemon().unwrap();
        }
        if way.contains("postmaster") {
            kill_process(site.node(leader).postmaster_pid().unwrap(), Signal::STOP).unwrap();
        }
        let new = is_fenced(&mut site, leader, &prober, &writer).await;
        let after = ptarmigan_clock::now().since(begin);
        eprintln!("{way}: another one writes after {after:?}");
        assert!(after < TTL + Duration::from_secs(10), "{way}: {after:?}");
        if way == "frozen" {
            site.node_mut(leader).signal(Signal::CONT).unwrap();
        } else {
            site.node_mut(leader).start().unwrap();
        }
        assert_eq!(site.settled().await, new);
        leader = new;
    }
    writer.stop();
    prober.finish();
}

/// PostgreSQL goes with its guardian; the postmaster that it was.
pub(crate) async fn kill_guardian(site: &Site, index: usize) -> Pid {
    let postmaster = site.node(index).postmaster_pid().unwrap();
    kill_process(site.node(index).guardian_pid().unwrap(), Signal::KILL).unwrap();
    wait_until("the end of the server", Duration::from_secs(5), || async {
        ensure!(rustix::process::test_kill_process(postmaster).is_err(), "it lives");
        Ok(())
    })
    .await
    .unwrap();
    postmaster
}

#[tokio::test]
async fn the_guardians_own_death_and_a_pause() {
    let (mut site, leader) = Site::ready("fence-guardian", 2, configure).await;
    let (prober, mut writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let postmaster = kill_guardian(&site, leader).await;
    // Its daemon leads, and starts it again under another guardian.
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    assert_eq!(site.settled().await, leader);
    assert_ne!(site.node(leader).postmaster_pid().unwrap(), postmaster);

    // In pause a server is the operator's.
    site.ptctl(&["pause", "--wait"]).await;
    let postmaster = site.node(leader).postmaster_pid().unwrap();
    let lines = site.log_lines(leader);
    site.wait_for_log(leader, lines, "PAUSE: no action").await;
    let paused_at = ptarmigan_clock::now();
    site.node_mut(leader).kill_daemon().unwrap();
    wait_until("a ttl and more", 2 * LIMIT, || async {
        ensure!(ptarmigan_clock::now().since(paused_at) > TTL + Duration::from_secs(3), "not yet");
        Ok(())
    })
    .await
    .unwrap();
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    assert_eq!(site.node(leader).postmaster_pid().unwrap(), postmaster);
    site.node_mut(leader).start().unwrap();
    wait_until("the leader key", LIMIT, || async {
        let key = site.key("leader").await;
        ensure!(key.as_ref().is_some_and(|key| key.value == site.name(leader)), "{key:?}");
        Ok(())
    })
    .await
    .unwrap();
    site.ptctl(&["resume", "--wait"]).await;
    assert_eq!(site.settled().await, leader);
    writer.stop();
    prober.finish();
}

/// A daemon stands still somewhere in a switchover, the old leader's or the new one's, and wakes when everything is over.
#[tokio::test]
async fn a_daemon_that_is_frozen_in_a_switchover_leaves_no_second_primary() {
    let (mut site, mut leader) = Site::ready("fence-switchover", 3, configure).await;
    let (prober, mut writer) = (site.prober_every(OFTEN), site.writer());
    for (freezes_candidate, millis) in [(true, 20), (false, 20), (true, 120), (false, 120)] {
        writer.wait_for_rows(20, LIMIT).await.unwrap();
        let candidate = (leader + 1) % 3;
        let frozen = if freezes_candidate { candidate } else { leader };
        let body = json!({"leader": site.name(leader), "candidate": site.name(candidate)});
        let pid = site.node_mut(frozen).daemon_pid().unwrap();
        let freeze = async {
            tokio::time::timeout(Duration::from_millis(millis), std::future::pending::<()>())
                .await
                .unwrap_err();
            kill_process(pid, Signal::STOP).unwrap();
        };
        let address = site.node(leader).rest_address();
        let request = Request::new("POST", &address, "/switchover").body(body.to_string());
        // Whoever is frozen does not answer.
        let (_, answer) = tokio::join!(freeze, request.timeout(Duration::from_secs(3)).send());
        eprintln!(
            "frozen after {millis} ms, the candidate {freezes_candidate}: {:?}",
            answer.map(|a| a.body)
        );
        // Longer than a ttl: whatever the frozen one held is over.
        let since = ptarmigan_clock::now();
        wait_until("the others to go on without it", 3 * LIMIT, || async {
            ensure!(ptarmigan_clock::now().since(since) > TTL + Duration::from_secs(2), "not yet");
            let row = writer.last_acknowledged().unwrap();
            ensure!(row.target != frozen && row.at > since, "{row:?}");
            Ok(())
        })
        .await
        .unwrap();
        kill_process(pid, Signal::CONT).unwrap();
        leader = site.settled().await;
    }
    writer.stop();
    prober.finish();
}

/// As with Patroni: a server lives on without its daemon, and beside whoever leads next.
#[tokio::test]
async fn guardian_off_leaves_postgresql_to_itself() {
    let (mut site, leader) = Site::ready("fence-off", 2, |config| {
        configure(config);
        config["guardian"] = json!({"mode": "off"});
    })
    .await;
    let other = 1 - leader;
    let status = site.node(leader).patroni().await.unwrap();
    assert_eq!(status.get("guardian"), None, "{status}");
    let postmaster = site.node(leader).postmaster_pid().unwrap();
    // Nor does it go with the guardian, which then is nobody but its parent.
    kill_process(site.node(leader).guardian_pid().unwrap(), Signal::KILL).unwrap();
    site.wait_for_cycles(leader, 3).await;
    assert_eq!(site.node(leader).postmaster_pid().unwrap(), postmaster);
    assert_eq!(site.sql(leader, "SELECT pg_is_in_recovery()").await.unwrap(), "f");
    site.node_mut(leader).kill_daemon().unwrap();
    site.wait_for_sql(other, "SELECT pg_is_in_recovery()", "f").await;
    assert_eq!(site.sql(leader, "SELECT pg_is_in_recovery()").await.unwrap(), "f", "a second primary");
    site.node_mut(leader).start().unwrap();
    assert_eq!(site.settled().await, other);
}

#[tokio::test]
async fn an_operator_is_told_what_was_decided_and_why() {
    let (site, leader) = Site::ready("why", 2, configure).await;
    let status = site.node(leader).patroni().await.unwrap();
    assert_eq!(status["guardian"], json!({"armed": true}), "{status}");
    site.wait_for_cycles(leader, 2).await;
    let told = site.ptctl(&["why"]).await;
    for (index, line) in
        [(leader, "the leader with the lock"), (1 - leader, "a secondary, and following a leader")]
    {
        let expected = format!("no action. I am ({}), {line}", site.name(index));
        assert!(told.contains(&expected), "{expected:?} in {told}");
    }
    assert!(told.contains("    the leader lock was to be renewed: renewed [UL-2]\n"), "{told}");
    let one = site.ptctl(&["why", &site.name(1 - leader), "-n", "100"]).await;
    assert!(
        one.contains("the data are copied from another member")
            && !one.contains(&format!("\n{},", site.name(leader))),
        "{one}"
    );
    let (one, other) = (site.name(leader), site.name(1 - leader));
    let told = site.ptctl(&["check", "--if-lost", &one]).await;
    let expected = format!("If the leader {one} is lost, {other} takes over, within 20 s.\n");
    assert!(told.starts_with(&expected) && told.contains(&format!("  {other} at 0/")), "{told}");
    let told = site.ptctl(&["check", "--if-lost", &other]).await;
    let expected = format!(
        "If {other} is lost, {one} goes on leading.\n  Note: nobody could take over from the leader then.\n"
    );
    assert_eq!(told, expected);
    let nobody = site.ptctl_fails(&["why", "nobody"]).await;
    assert!(nobody.contains("there is no member nobody in cluster demo"), "{nobody}");
}

/// Once its last session is gone a server has nothing to commit: however long it takes to archive, it may end cleanly.
#[tokio::test]
async fn a_shutdown_that_takes_longer_than_the_lease_is_left_to_its_end() {
    let (mut site, leader) = Site::ready("fence-slow-stop", 1, |config| {
        configure(config);
        let slow = home_of(config).join("slow");
        let parameters = &mut config["bootstrap"]["dcs"]["postgresql"]["parameters"];
        parameters["archive_mode"] = json!("on");
        parameters["archive_command"] = json!(format!("test ! -e {} || sleep 24", slow.display()));
    })
    .await;
    site.wait_for_sql(leader, "SELECT pg_is_in_recovery()", "f").await;
    assert_eq!(site.node(leader).patroni().await.unwrap()["guardian"], json!({"armed": true}));
    std::fs::write(site.node(leader).home().join("slow"), "").unwrap();
    let begin = ptarmigan_clock::now();
    site.node_mut(leader).stop(2 * LIMIT).await.unwrap();
    let took = ptarmigan_clock::now().since(begin);
    assert!(took > TTL, "{took:?}: it was to take longer than the lease");
    let log = site.log(leader);
    assert!(log.contains("database system is shut down"), "{log}");
    assert!(!log.contains("immediate shutdown") && !log.contains("has passed: ending it"), "{log}");
}

/// Sets a deadline for a node's PostgreSQL in its daemon's place.
fn order(site: &Site, index: usize, deadline: Monotonic) {
    let runs = std::fs::read_dir(site.node(index).home().join("run")).unwrap();
    let socket =
        runs.map(|run| run.unwrap().path().join("guardian.sock")).find(|path| path.exists()).unwrap();
    let mut stream = UnixStream::connect(socket).unwrap();
    let lines = [
        json!({"v": 1, "id": 1, "request": "hello", "role": "owner"}),
        json!({"v": 1, "id": 2, "request": "deadline", "generation": 1, "at_boottime_us": deadline.0, "grace_ms": 200}),
    ];
    for line in lines {
        writeln!(stream, "{line}").unwrap();
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).unwrap();
        assert!(!answer.contains("error"), "{answer}");
    }
}

/// Its daemon is back after the fence, and before the end of the lease: the others need not wait for that.
#[tokio::test]
async fn the_lock_of_a_fenced_server_is_released_by_the_next_daemon() {
    let (mut site, leader) = Site::ready("fence-release", 2, configure).await;
    let (prober, mut writer) = (site.prober_every(OFTEN), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    site.everything_streamed(leader).await;
    let lines = site.log_lines(leader);
    site.node_mut(leader).kill_daemon().unwrap();
    let begin = ptarmigan_clock::now();
    // As if its word were older than it is.
    order(&site, leader, begin + Duration::from_millis(100));
    wait_until("the end of the server", LIMIT, || async {
        let left = site.servers(leader, "postgres");
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
    .unwrap();
    site.node_mut(leader).start().unwrap();
    site.wait_for_log(leader, lines, "its leader lock is released").await;
    wait_until("somebody who leads", LIMIT, || async {
        let row = writer.last_acknowledged().unwrap();
        ensure!(row.at > begin + Duration::from_millis(500), "{row:?}");
        Ok(())
    })
    .await
    .unwrap();
    let after = ptarmigan_clock::now().since(begin);
    eprintln!("fenced and released: somebody writes after {after:?}");
    assert!(after < Duration::from_secs(8), "{after:?}");
    site.settled().await;
    writer.stop();
    prober.finish();
}
