//! The guardian with a real PostgreSQL.

// Helpers of tests unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use ptarmigan_clock::now;
use ptarmigan_guardian::protocol::{OsText, StartRequest};
use ptarmigan_guardian::{Deadline, Guardian, How, Postmaster, RawPid, SignalName, process};
use support::{DEADLINE, Site, soon, until};
use tokio::process::{Child, Command};

const BIN: &str = "/usr/lib/postgresql/15/bin";

struct Server {
    site: Site,
}

impl Server {
    async fn new() -> Self {
        let site = Site::new();
        let output = Command::new(format!("{BIN}/initdb"))
            .args([
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--no-locale",
                "--username=postgres",
                "-D",
            ])
            .arg(site.data())
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Self { site }
    }

    fn request(&self) -> StartRequest {
        let mut argv: Vec<OsText> =
            vec![format!("{BIN}/postgres").into(), "-D".into(), self.site.data().into()];
        let socket = format!("--unix_socket_directories={}", self.site.path().display());
        argv.extend(["--listen_addresses=", &socket, "--fsync=off"].map(OsText::from));
        let env = vec![("PATH".into(), "/usr/bin:/bin".into()), ("LC_ALL".into(), "C".into())];
        StartRequest { argv, env, cwd: "/".into(), umask: 0o077, ..StartRequest::default() }
    }

    async fn start(&self, guardian: &Guardian) -> Postmaster {
        let postmaster = guardian.start(self.request()).await.unwrap();
        let started = now();
        loop {
            let output = self.psql("select 1").output().await.unwrap();
            if output.status.success() {
                return postmaster;
            }
            assert!(now().since(started) < DEADLINE, "{output:?}");
        }
    }

    fn psql(&self, sql: &str) -> Command {
        let mut command = Command::new(format!("{BIN}/psql"));
        command.args(["-X", "-At", "-U", "postgres", "-d", "postgres", "-h"]).arg(self.site.path());
        command.args(["-c", sql]).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn query(&self, sql: &str) -> String {
        let output: Output = self.psql(sql).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Backends that commit without end and look neither at their client nor for their postmaster.
    async fn writers(&self, count: usize) -> Vec<Child> {
        self.query("create table if not exists t (at timestamptz default clock_timestamp())").await;
        let sql = "do $$ begin loop insert into t default values; commit; end loop; end $$";
        let quiet = || self.psql(sql).stderr(Stdio::null()).spawn().unwrap();
        let writers: Vec<Child> = (0..count).map(|_| quiet()).collect();
        let started = now();
        let writing = format!(
            "select (select count(*) from t) > 100 and count(*) = {count} from pg_stat_activity where query like 'do %'"
        );
        while self.query(&writing).await != "t" {
            assert!(now().since(started) < DEADLINE, "the writers write");
        }
        writers
    }

    fn processes(&self) -> usize {
        process::with_cwd(&self.data()).len()
    }

    fn data(&self) -> PathBuf {
        self.site.data()
    }
}

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
    assert_ne!(exit.gone.how, How::Signal(libc::SIGKILL), "an immediate shutdown was enough");
    let after_ms = (exit.at_boottime_us - deadline.at_boottime_us.unwrap()) / 1000;
    println!("nothing is left {after_ms} ms after the deadline");
    drop(writers);
}
