//! A PostgreSQL that somebody else started: before us, or in the place of ours.

// Helpers of tests unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ptarmigan_clock::now;
use ptarmigan_guardian::{
    AdoptRequest, Deadline, Guardian, How, RawPid, SignalName, State,
    process::{self, start_time_ticks},
    protocol::RefusalKind,
};
use rustix::process::Signal;
use support::{
    kill,
    server::{BIN, Server},
    soon, until,
};

fn after(time: Duration) -> Deadline {
    Deadline { at_boottime_us: Some((now() + time).0), grace_ms: 200 }
}

async fn pg_ctl(server: &Server, arguments: &[&str]) {
    let output = try_pg_ctl(server, arguments).await;
    assert!(output.status.success(), "{output:?}");
}

async fn try_pg_ctl(server: &Server, arguments: &[&str]) -> std::process::Output {
    let options = format!("-k {} -h '' -F", server.site.path().display());
    let mut command = tokio::process::Command::new(format!("{BIN}/pg_ctl"));
    command.args(arguments).arg("-D").arg(server.data()).args(["-w", "-o", &options]);
    command.arg("-l").arg(server.site.path().join("pg_ctl.log"));
    command.stdin(std::process::Stdio::null()).output().await.unwrap()
}

fn postmaster(server: &Server) -> RawPid {
    let text = std::fs::read_to_string(server.data().join("postmaster.pid")).unwrap();
    text.lines().next().unwrap().parse().unwrap()
}

fn request(pid: RawPid, deadline: Deadline) -> AdoptRequest {
    AdoptRequest { pid, start_time_ticks: start_time_ticks(pid).unwrap(), deadline }
}

async fn started_by_hand() -> (Server, Guardian, RawPid) {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    pg_ctl(&server, &["start"]).await;
    let pid = postmaster(&server);
    (server, guardian, pid)
}

#[tokio::test]
async fn what_was_adopted_ends_at_its_deadline_whatever_is_frozen() {
    let (server, guardian, pid) = started_by_hand().await;
    for frozen in [false, true] {
        if frozen {
            let generation = guardian.status().await.unwrap().generation;
            guardian.set_deadline(generation, Deadline::default()).await.unwrap();
            pg_ctl(&server, &["start"]).await;
        }
        let pid = if frozen { postmaster(&server) } else { pid };
        let adopted = guardian.adopt(request(pid, Deadline::default())).await.unwrap();
        assert!(adopted.adopted && !adopted.dies_with_guardian && adopted.argv.is_empty());
        assert_eq!((adopted.pid, guardian.status().await.unwrap().state), (pid, State::Running));
        let writers = server.writers(3).await;
        if frozen {
            kill(pid, Signal::STOP);
        }
        let deadline = after(Duration::from_millis(300));
        // Again, by the daemon's next life: the same postmaster, and no other generation.
        let again = guardian.adopt(request(pid, deadline)).await.unwrap();
        assert_eq!(again, adopted);
        let exit = soon("the exit", guardian.exited(adopted.generation)).await.unwrap();
        assert_eq!((exit.gone.pid, exit.gone.how), (pid, How::Unknown {}));
        assert_eq!(server.servers(), 0);
        assert_eq!(guardian.status().await.unwrap().last_fence.map(|fence| fence.pid), Some(pid));
        println!(
            "nothing is left {} ms after the deadline",
            (exit.at_boottime_us - deadline.at_boottime_us.unwrap()) / 1000
        );
        drop(writers);
    }
}

#[tokio::test]
async fn what_a_killed_one_left_is_killed_before_its_exit_is_reported() {
    let (server, guardian, pid) = started_by_hand().await;
    guardian.adopt(request(pid, Deadline::default())).await.unwrap();
    let _writers = server.writers(3).await;
    guardian.signal(pid, SignalName::Kill).await.unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!(server.servers(), 0);
    // One that waits for a lock sees for itself that its postmaster is gone.
    assert!(exit.orphans_killed >= 1, "{exit:?}");
    // Then the guardian starts one itself. Who is to collect the killed one may not do so, and PostgreSQL would take it for alive.
    for lock in [server.data().join("postmaster.pid"), server.site.path().join(".s.PGSQL.5432.lock")] {
        std::fs::remove_file(lock).unwrap();
    }
    let own = server.start(&guardian).await;
    assert!(!own.adopted && own.generation == 2);
    guardian.freeze_kill(own.pid).await.unwrap();
    soon("the exit", guardian.exited(2)).await.unwrap();
}

#[tokio::test]
async fn frozen_and_killed_by_order() {
    let (server, guardian, pid) = started_by_hand().await;
    guardian.adopt(request(pid, Deadline::default())).await.unwrap();
    let _writers = server.writers(3).await;
    guardian.freeze_kill(pid).await.unwrap();
    soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!(server.servers(), 0);
}

#[tokio::test]
async fn nothing_else_is_adopted() {
    let (server, guardian, pid) = started_by_hand().await;
    let kind = async |request| guardian.adopt(request).await.unwrap_err().refusal();
    let own = RawPid::try_from(std::process::id()).unwrap();
    assert_eq!(kind(request(own, after(Duration::from_secs(60)))).await, Some(RefusalKind::NoSuchPostmaster));
    let mut stranger = request(pid, Deadline::default());
    stranger.start_time_ticks += 1;
    assert_eq!(kind(stranger).await, Some(RefusalKind::NoSuchPostmaster));
    assert_eq!(kind(AdoptRequest { pid: -1, ..stranger }).await, Some(RefusalKind::NoSuchPostmaster));
    let past = Deadline { at_boottime_us: Some(1), grace_ms: 0 };
    assert_eq!(kind(request(pid, past)).await, Some(RefusalKind::Fenced));
    assert_eq!(guardian.status().await.unwrap().state, State::None);
    guardian.adopt(request(pid, Deadline::default())).await.unwrap();
    assert_eq!(kind(request(own, Deadline::default())).await, Some(RefusalKind::Busy));
    guardian.signal(pid, SignalName::Quit).await.unwrap();
    soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!(server.servers(), 0);
}

/// The daemon is dead and an operator restarts PostgreSQL by hand: the deadline is the data directory's.
#[tokio::test]
async fn a_restart_by_hand_does_not_outlive_the_deadline() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    let ours = server.start(&guardian).await;
    let deadline = after(Duration::from_secs(5));
    guardian.set_deadline(ours.generation, deadline).await.unwrap();
    drop(guardian);
    pg_ctl(&server, &["restart"]).await;
    let theirs = postmaster(&server);
    assert_ne!(theirs, ours.pid);
    let writers = server.writers(3).await;
    assert!(now().0 < deadline.at_boottime_us.unwrap(), "the machine is too slow for this test");
    until("the end of what was started by hand", || server.servers() == 0).await;
    let after_ms = (now().0 - deadline.at_boottime_us.unwrap()) / 1000;
    println!("nothing is left {after_ms} ms after the deadline");
    assert!(after_ms < 1000);
    let guardian = server.site.guardian().await;
    assert_eq!(guardian.hello().status.last_fence.map(|fence| fence.pid), Some(theirs));
    drop(writers);
}

/// The server's end takes until the deadline, and whoever restarts it by hand starts it then: nobody has spoken for that either.
#[tokio::test]
async fn what_is_started_by_hand_after_the_deadline_is_ended_and_a_standby_is_not() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    let ours = server.start(&guardian).await;
    guardian.set_deadline(ours.generation, after(Duration::from_millis(200))).await.unwrap();
    soon("the exit", guardian.exited(ours.generation)).await.unwrap();
    for _ in 0..2 {
        // Whether it is ended before it is up is a matter of moments.
        let _ = try_pg_ctl(&server, &["start"]).await;
        let fences = guardian.fences();
        until("the end of what was started", || server.servers() == 0).await;
        assert!(fences.borrow().is_some_and(|fence| fence.pid != ours.pid));
    }
    std::fs::write(server.data().join("standby.signal"), "").unwrap();
    pg_ctl(&server, &["start"]).await;
    let (pid, since) = (postmaster(&server), now());
    until("a second", || now().since(since) > Duration::from_secs(1)).await;
    assert!(process::is_alive(pid));
    // A daemon speaks for it.
    guardian.adopt(request(pid, Deadline::default())).await.unwrap();
    guardian.signal(pid, SignalName::Quit).await.unwrap();
    let generation = guardian.status().await.unwrap().generation;
    soon("the exit", guardian.exited(generation)).await.unwrap();
}

/// The daemon lives, and speaks for what was started by hand; or it says that all is an operator's from now on.
#[tokio::test]
async fn a_restart_by_hand_is_spoken_for_by_the_daemon() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    for forgets in [false, true] {
        let ours = server.start(&guardian).await;
        let deadline = after(Duration::from_secs(3));
        guardian.set_deadline(ours.generation, deadline).await.unwrap();
        pg_ctl(&server, &["stop"]).await;
        soon("the exit", guardian.exited(ours.generation)).await.unwrap();
        let status = guardian.status().await.unwrap();
        assert_eq!((status.state, status.deadline), (State::None, deadline));
        if forgets {
            guardian.set_deadline(status.generation, Deadline::default()).await.unwrap();
        }
        pg_ctl(&server, &["start"]).await;
        let pid = postmaster(&server);
        if !forgets {
            guardian.adopt(request(pid, after(Duration::from_secs(60)))).await.unwrap();
        }
        until("the deadline is over", || now().0 > deadline.at_boottime_us.unwrap() + 500_000).await;
        assert!(process::is_alive(pid), "{forgets}");
        if forgets {
            guardian.adopt(request(pid, Deadline::default())).await.unwrap();
        }
        guardian.signal(pid, SignalName::Int).await.unwrap();
        let generation = guardian.status().await.unwrap().generation;
        soon("the exit", guardian.exited(generation)).await.unwrap();
    }
}
