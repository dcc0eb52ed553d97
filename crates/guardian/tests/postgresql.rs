//! The guardian with a real PostgreSQL.

// Helpers of tests unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ptarmigan_clock::now;
use ptarmigan_guardian::{Deadline, How, RawPid, SignalName, process};
use support::{server::Server, soon, until};

#[tokio::test]
async fn backends_of_a_killed_postmaster_are_gone_when_the_exit_is_reported() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    let postmaster = server.start(&guardian).await;
    let writers = server.writers(4).await;
    let before = server.processes();
    assert!(before >= 1 + 4 + 5, "postmaster, writers and helpers live: {before}");

    let killed_at = now();
    guardian.signal(postmaster.pid, SignalName::Kill).await.unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    let elapsed = now().since(killed_at);
    assert_eq!(server.processes(), 0);
    assert_eq!(exit.gone.how, How::Signal(libc::SIGKILL));
    assert!(exit.orphans_killed >= 4, "{exit:?}");
    println!(
        "SIGKILL to exited: {elapsed:?}; {} of {before} processes killed, the last {} ms after the postmaster",
        exit.orphans_killed, exit.elapsed_ms
    );

    let again_at = now();
    let again = server.start(&guardian).await;
    println!("next postmaster accepts after {:?}", now().since(again_at));
    assert_eq!(again.generation, 2);
    assert!(server.query("select count(*) from t").await.parse::<u64>().unwrap() > 100);
    drop(writers);
    guardian.signal(again.pid, SignalName::Int).await.unwrap();
    let exit = soon("the fast shutdown", guardian.exited(2)).await.unwrap();
    assert_eq!((exit.gone.how, exit.orphans_killed), (How::Code(0), 0));
    println!("fast shutdown: nothing left after {} ms", exit.elapsed_ms);
}

#[tokio::test]
async fn b_26_freeze_kill_ends_postgresql() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    let postmaster = server.start(&guardian).await;
    let _writers = server.writers(8).await;
    let killed_at = now();
    guardian.freeze_kill(postmaster.pid).await.unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    println!("freeze_kill to exited: {:?}, {} orphans", now().since(killed_at), exit.orphans_killed);
    assert_eq!(server.processes(), 0);
    assert!(exit.orphans_killed >= 8, "{exit:?}");
    server.start(&guardian).await;
}

#[tokio::test]
async fn postgresql_goes_on_without_a_daemon() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    let postmaster = server.start(&guardian).await;
    server.query("create table kept (n int)").await;
    drop(guardian);
    server.query("insert into kept values (1)").await;
    let guardian = server.site.guardian().await;
    assert_eq!(guardian.hello().status.postmaster.as_ref(), Some(&postmaster));
    assert_eq!(process::exe_name(postmaster.pid).unwrap(), "postgres");
    assert_eq!(process::cwd(postmaster.pid).unwrap(), server.data());
    // An archive_command left behind is PostgreSQL's too.
    server.query("copy (select 1) to program 'cat > /dev/null; setsid sleep 1000 > /dev/null 2>&1 &'").await;
    let guardian_pid = guardian.hello().guardian_pid;
    // Before it has a session of its own, a signal to its backend's process group would end it.
    let is_sleep = |&pid: &RawPid| process::exe_name(pid).is_ok_and(|name| name == "sleep");
    let adopted = || process::children(guardian_pid).unwrap().iter().any(is_sleep);
    until("the left process is the guardian's", adopted).await;
    guardian.signal(postmaster.pid, SignalName::Int).await.unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!((exit.gone.how, exit.orphans_killed), (How::Code(0), 1));
    assert_eq!(server.processes(), 0);
}

/// The postmaster and a backend are frozen, the others write: at the end of the grace nothing of it is left.
#[tokio::test]
async fn nothing_writes_after_the_deadline_whatever_is_frozen() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    let postmaster = server.start(&guardian).await;
    let writers = server.writers(4).await;
    let backends =
        server.query("select string_agg(pid::text, ' ') from pg_stat_activity where query like 'do %'").await;
    let frozen: RawPid = backends.split(' ').next().unwrap().parse().unwrap();
    support::kill(frozen, rustix::process::Signal::STOP);
    support::kill(postmaster.pid, rustix::process::Signal::STOP);
    let deadline = now() + Duration::from_millis(500);
    let deadline = Deadline { at_boottime_us: Some(deadline.0), grace_ms: 200 };
    guardian.set_deadline(1, deadline).await.unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!(server.processes(), 0);
    let after_ms = (exit.at_boottime_us - deadline.at_boottime_us.unwrap()) / 1000;
    println!(
        "frozen postmaster and backend: nothing is left {after_ms} ms after the deadline (grace 200 ms)"
    );
    drop(writers);
}

#[tokio::test]
async fn a_server_obeys_its_deadline_within_the_grace() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    server.start(&guardian).await;
    let writers = server.writers(4).await;
    let deadline = now() + Duration::from_millis(300);
    let deadline = Deadline { at_boottime_us: Some(deadline.0), grace_ms: 5000 };
    guardian.set_deadline(1, deadline).await.unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!(server.processes(), 0);
    assert_eq!(
        exit.gone.how,
        How::Code(0),
        "a fast shutdown was enough: its WAL senders have sent everything"
    );
    let after_ms = (exit.at_boottime_us - deadline.at_boottime_us.unwrap()) / 1000;
    println!("nothing is left {after_ms} ms after the deadline");
    drop(writers);
}
