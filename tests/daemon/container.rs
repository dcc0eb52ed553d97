//! The daemon as the first process of a container.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::{Context as _, ensure};
use ptarmigan_testkit::{Binaries, Process, Workspace, process, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::site::LIMIT;

/// The children of a process, as the kernel lists them.
fn children(pid: Pid) -> Vec<Pid> {
    let number = pid.as_raw_nonzero();
    let listed =
        std::fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap_or_default();
    let numbers = listed.split_whitespace().filter_map(|number| number.parse().ok());
    numbers.filter_map(Pid::from_raw).collect()
}

/// Contract D.2, D.4: signals reach the daemon, the dead are buried, and the status is 0.
#[tokio::test]
async fn d_4_the_first_process_of_a_container_passes_signals_on_and_buries_the_dead() {
    let workspace = Workspace::new("container").unwrap();
    let binaries = Binaries::beside(&workspace, env!("CARGO_BIN_EXE_ptarmigan")).unwrap();
    let home = workspace.folder("home").unwrap();
    let config = home.join("node.yml");
    // nobody listens there: the daemon waits for its store until it is told to end
    let text = "scope: demo\nname: n\nrestapi: {listen: '127.0.0.1:1', connect_address: '127.0.0.1:1'}\n\
                etcd3: {host: '127.0.0.1:1'}\npostgresql:\n  listen: 127.0.0.1:2\n  data_dir: data\n  \
                authentication: {replication: {username: r}, superuser: {username: p}}\n";
    workspace.write(&config, text).unwrap();
    let mut namespaces = process::command(&workspace, &home, "unshare");
    namespaces.args(["--user", "--pid", "--fork", "true"]);
    if process::run(namespaces, LIMIT).await.is_err() {
        println!("skipped: this machine gives no namespaces of process ids");
        return;
    }
    let mut command = process::command(&workspace, &home, "unshare");
    command.args(["--user", "--pid", "--fork", "--kill-child"]).arg(binaries.ptarmigan()).arg(&config);
    let mut container = Process::spawn(&workspace, "container", command).unwrap();
    let outside = container.pid();
    let (first, worker) = wait_until("the daemon to wait for its store", LIMIT, || {
        let log = container.log_tail(20);
        async move {
            ensure!(log.contains("waiting on DCS"), "{log}");
            let first = *children(outside).first().context("no first process")?;
            let worker = *children(first).first().context("no daemon")?;
            Ok((first, worker))
        }
    })
    .await
    .unwrap();
    assert_eq!(children(first), [worker]);
    // A reload is not the end of anything.
    kill_process(first, Signal::HUP).unwrap();
    kill_process(first, Signal::TERM).unwrap();
    let status = container.wait(Duration::from_secs(30)).await.unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None), "{}", container.log_tail(20));
    assert!(rustix::process::test_kill_process(worker).is_err(), "the daemon is gone");

    // A daemon that cannot start says why, and the container ends all the same.
    let mut command = process::command(&workspace, &home, "unshare");
    command.args(["--user", "--pid", "--fork"]).arg(binaries.ptarmigan()).arg("/nonexistent.yml");
    let mut refused = Process::spawn(&workspace, "refused", command).unwrap();
    let status = refused.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(refused.log_tail(20).contains("/nonexistent.yml"), "{}", refused.log_tail(20));
}
