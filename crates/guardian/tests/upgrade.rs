//! The guardian's upgrade in place: PostgreSQL and its clients notice nothing, and it is guarded as before.

// Helpers of tests unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ptarmigan_clock::now;
use ptarmigan_guardian::{
    Deadline, Guardian, RawPid, SignalName, State,
    client::Error,
    process,
    protocol::{RefusalKind, StartRequest},
};
use rustix::process::Signal;
use support::{kill, server::Server, soon, until};

async fn upgraded(server: &Server, guardian: Guardian) -> Guardian {
    let (before, generation) = (guardian.hello().clone(), guardian.status().await.unwrap().generation);
    let after = guardian.upgrade(&server.site.options()).await.unwrap();
    assert_eq!(after.hello().guardian_pid, before.guardian_pid, "the same process");
    assert_eq!(after.hello().status.generation, generation);
    drop(guardian);
    after
}

/// Started as the daemon starts it: it ends with its guardian.
async fn start(server: &Server, guardian: &Guardian) -> RawPid {
    let request = StartRequest { dies_with_guardian: true, ..server.request() };
    let pid = guardian.start(request).await.unwrap().pid;
    until("PostgreSQL's pid file", || server.data().join("postmaster.pid").exists()).await;
    server.accepts().await;
    pid
}

#[tokio::test]
async fn postgresql_and_its_deadline_go_over() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    let pid = start(&server, &guardian).await;
    let mut writers = server.writers(2).await;
    let far = Deadline { at_boottime_us: Some((now() + Duration::from_secs(600)).0), grace_ms: 200 };
    guardian.set_deadline(1, far).await.unwrap();
    let mut guardian = upgraded(&server, guardian).await;
    for _ in 0..3 {
        guardian = upgraded(&server, guardian).await;
    }
    let status = guardian.status().await.unwrap();
    let postmaster = status.postmaster.unwrap();
    assert_eq!((postmaster.pid, postmaster.dies_with_guardian, status.deadline), (pid, true, far));
    let before: u64 = server.query("select count(*) from t").await.parse().unwrap();
    assert!(writers.iter_mut().all(|writer| writer.try_wait().unwrap().is_none()), "the writers write");
    assert!(server.query("select count(*) from t").await.parse::<u64>().unwrap() > before);
    // As before: an order, an exit, and the deadline.
    let near = Deadline { at_boottime_us: Some((now() + Duration::from_millis(300)).0), grace_ms: 200 };
    guardian.set_deadline(1, near).await.unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!((exit.gone.pid, server.processes()), (pid, 0));
    let guardian = upgraded(&server, guardian).await;
    let status = guardian.status().await.unwrap();
    assert_eq!(
        (status.state, status.last_exit, status.last_fence.map(|fence| fence.pid)),
        (State::None, Some(exit), Some(pid))
    );
    assert_eq!(guardian.start(server.request()).await.unwrap().generation, 2);
    drop(writers);
}

#[tokio::test]
async fn postgresql_still_ends_with_its_guardian_and_leaves_nothing() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    let pid = start(&server, &guardian).await;
    let _writers = server.writers(2).await;
    let guardian = upgraded(&server, guardian).await;
    // It is still the reaper of what a killed postmaster leaves.
    guardian.signal(pid, SignalName::Kill).await.unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert!(exit.orphans_killed >= 2 && server.processes() == 0, "{exit:?}");
    start(&server, &guardian).await;
    let guardian = upgraded(&server, guardian).await;
    kill(guardian.hello().guardian_pid, Signal::KILL);
    until("PostgreSQL ends", || server.processes() == 0).await;
}

#[tokio::test]
async fn a_program_that_cannot_go_on_changes_nothing() {
    let server = Server::new().await;
    let guardian = server.site.guardian().await;
    let pid = start(&server, &guardian).await;
    let with = |program: &str| {
        let mut options = server.site.options();
        options.program = Some(program.into());
        options
    };
    let error = guardian.upgrade(&with("/bin/false")).await.unwrap_err();
    assert!(matches!(error, Error::Start { .. }), "{error}");
    let error = guardian.upgrade(&with("/nowhere/guardian")).await.unwrap_err();
    assert!(matches!(error, Error::Run { .. }), "{error}");
    assert_eq!(guardian.status().await.unwrap().postmaster.unwrap().pid, pid);
    // While everything is being ended, nobody goes.
    kill(pid, Signal::STOP);
    let at = Deadline { at_boottime_us: Some((now() + Duration::from_millis(10)).0), grace_ms: 3000 };
    guardian.set_deadline(1, at).await.unwrap();
    let mut fences = guardian.fences();
    soon("the deadline", fences.wait_for(Option::is_some)).await.unwrap();
    let error = guardian.upgrade(&server.site.options()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::Busy), "{error}");
    soon("the exit", guardian.exited(1)).await.unwrap();
    assert!(process::is_alive(guardian.hello().guardian_pid));
}
