//! A real PostgreSQL under a guardian.

use std::path::PathBuf;
use std::process::{Output, Stdio};

use ptarmigan_clock::now;
use ptarmigan_guardian::protocol::{OsText, StartRequest};
use ptarmigan_guardian::{Guardian, Postmaster, process};
use tokio::process::{Child, Command};

use super::{DEADLINE, Site};

pub(crate) const BIN: &str = "/usr/lib/postgresql/15/bin";

pub(crate) struct Server {
    pub(crate) site: Site,
}

impl Server {
    pub(crate) async fn new() -> Self {
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

    pub(crate) fn request(&self) -> StartRequest {
        let mut argv: Vec<OsText> =
            vec![format!("{BIN}/postgres").into(), "-D".into(), self.site.data().into()];
        let socket = format!("--unix_socket_directories={}", self.site.path().display());
        argv.extend(["--listen_addresses=", &socket, "--fsync=off"].map(OsText::from));
        let env = vec![("PATH".into(), "/usr/bin:/bin".into()), ("LC_ALL".into(), "C".into())];
        StartRequest { argv, env, cwd: "/".into(), umask: 0o077, ..StartRequest::default() }
    }

    pub(crate) async fn start(&self, guardian: &Guardian) -> Postmaster {
        let postmaster = guardian.start(self.request()).await.unwrap();
        self.accepts().await;
        postmaster
    }

    /// Waits until it accepts connections.
    pub(crate) async fn accepts(&self) {
        let started = now();
        loop {
            let output = self.psql("select 1").output().await.unwrap();
            if output.status.success() {
                return;
            }
            assert!(now().since(started) < DEADLINE, "{output:?}");
        }
    }

    pub(crate) fn psql(&self, sql: &str) -> Command {
        let mut command = Command::new(format!("{BIN}/psql"));
        command.args(["-X", "-At", "-U", "postgres", "-d", "postgres", "-h"]).arg(self.site.path());
        command.args(["-c", sql]).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub(crate) async fn query(&self, sql: &str) -> String {
        let output: Output = self.psql(sql).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Backends that commit without end and look neither at their client nor for their postmaster.
    pub(crate) async fn writers(&self, count: usize) -> Vec<Child> {
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

    pub(crate) fn processes(&self) -> usize {
        process::with_cwd(&self.data()).len()
    }

    /// Processes that can still do something: one that is about to be gone has no program any more.
    pub(crate) fn servers(&self) -> usize {
        process::of_postgresql_in(&self.data()).len()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.site.data()
    }
}
