//! A real PostgreSQL for these tests, run as the user `postgres` where the tests run as root.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use ptarmigan_config::{Effective, Settings};
use ptarmigan_postgres::{ConnInfo, Login, Options, Postgres, Purpose, Session, Upstream};
use ptarmigan_testkit::{Port, Process, Workspace, process, wait_until};
use rustix::process::{Gid, Signal, Uid};
use serde_json::{Value, json};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Runs a test in a thread that is the user `postgres`: the library starts PostgreSQL's programs, which refuse root.
pub(crate) fn as_postgres<F: Future<Output = ()>>(test: F) {
    if rustix::process::geteuid().is_root() {
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let line =
            users.lines().find(|line| line.starts_with("postgres:")).expect("there is a user postgres");
        let id = |index: usize| line.split(':').nth(index).unwrap().parse().unwrap();
        rustix::thread::set_thread_gid(Gid::from_raw(id(3))).unwrap();
        rustix::thread::set_thread_uid(Uid::from_raw(id(2))).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

pub(crate) struct Server {
    pub(crate) pg: Postgres,
    pub(crate) settings: Settings,
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    workspace: Workspace,
    port: Port,
    process: Option<Process>,
}

impl Server {
    /// Nothing but a handle; `postgresql` and `bootstrap` are merged over what every test needs.
    pub(crate) fn new(workspace: &Workspace, name: &str, postgresql: &Value, bootstrap: &Value) -> Self {
        let home = workspace.folder(name).unwrap();
        let port = Port::reserve().unwrap();
        let mut section = json!({
            "listen": port.address(), "connect_address": port.address(), "data_dir": home.join("data"),
            "bin_dir": ptarmigan_testkit::postgres::bin_dir().unwrap(), "pgpass": home.join("pgpass"),
            "use_unix_socket": false, "use_pg_rewind": true, "basebackup": [{"checkpoint": "fast"}, "no-sync"],
            "authentication": {
                "superuser": {"username": "postgres", "password": "super secret"},
                "replication": {"username": "replicator", "password": "repl:secret\\"},
                "rewind": {"username": "rewind-user", "password": "rewind'secret"},
            },
        });
        merge(&mut section, postgresql);
        let mut first = json!({
            "initdb": ["data-checksums", "no-sync", {"auth": "scram-sha-256"}, {"wal-segsize": 16}],
        });
        merge(&mut first, bootstrap);
        let local = json!({
            "name": name, "scope": "demo", "etcd3": {"host": "127.0.0.1:2379"},
            "restapi": {"listen": "127.0.0.1:8008", "connect_address": "127.0.0.1:8008"},
            "postgresql": section, "bootstrap": first,
        });
        let dynamic = serde_json::Map::new();
        let settings = Effective::build(local.as_object().unwrap(), &dynamic).unwrap().settings;
        let pg = Postgres::new(Options {
            name: name.into(),
            scope: "demo".into(),
            settings: Arc::new(settings.postgresql.clone()),
        });
        Self { pg, settings, name: name.into(), home, workspace: workspace.clone(), port, process: None }
    }

    /// A primary with its users.
    pub(crate) async fn bootstrapped(workspace: &Workspace, name: &str) -> Self {
        let mut server = Self::new(workspace, name, &json!({}), &json!({}));
        let bootstrap = server.settings.bootstrap.clone().unwrap();
        ptarmigan_postgres::bootstrap::initdb(&server.pg, &bootstrap).await.unwrap();
        server.start(&[]).await;
        ptarmigan_postgres::bootstrap::post_bootstrap(&server.pg, &bootstrap).await.unwrap();
        server
    }

    /// A running standby of `primary`.
    pub(crate) async fn standby_of(primary: &Self, name: &str) -> Self {
        let mut server = Self::new(&primary.workspace, name, &json!({}), &json!({}));
        let method =
            ptarmigan_postgres::clone::clone(&server.pg, Some(&primary.upstream()), &[]).await.unwrap();
        assert_eq!(method, "basebackup");
        server.follow(primary);
        server.start(&[]).await;
        server
    }

    pub(crate) fn upstream(&self) -> Upstream {
        let url = format!("postgres://{}/postgres", self.port.address());
        Upstream::of_conn_url(self.name.as_str().into(), &url).unwrap()
    }

    /// Writes what makes this data directory a standby of `primary`.
    pub(crate) fn follow(&self, primary: &Self) {
        let info = primary.upstream().conninfo(&self.pg, Login::Replication);
        let text = info.text(self.pg.version().unwrap()).replace('\\', r"\\").replace('\'', "''");
        let line = format!("\nprimary_conninfo = '{text}'\nrecovery_target_timeline = 'latest'\n");
        let path = self.pg.data_dir().join("postgresql.conf");
        let old = fs::read_to_string(&path).unwrap();
        fs::write(&path, old + &line).unwrap();
        fs::write(self.pg.data_dir().join("standby.signal"), "").unwrap();
    }

    /// Starts the data directory and waits until it takes connections.
    pub(crate) async fn start(&mut self, options: &[&str]) {
        let bin = self.pg.settings().bin_dir.join("postgres");
        let mut command = process::command(&self.workspace, &self.home, bin);
        command.arg("-D").arg(self.pg.data_dir());
        let fixed = [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", self.home.display()),
            "fsync=off".to_owned(),
            "wal_keep_size=256MB".to_owned(),
            "hot_standby=on".to_owned(),
            "log_statement=all".to_owned(),
        ];
        for option in fixed.iter().map(String::as_str).chain(options.iter().copied()) {
            command.arg("-c").arg(option);
        }
        self.process = Some(Process::spawn(&self.workspace, &self.name, command).unwrap());
        wait_until(&format!("{} to take connections", self.name), LIMIT, || async {
            self.session_or_error(Login::Superuser).await.map(drop)
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.problems()));
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.workspace.log_path(&self.name)).unwrap_or_default()
    }

    /// The log without statements.
    fn problems(&self) -> String {
        let log = self.log();
        log.lines().filter(|line| !line.contains("LOG:  statement")).collect::<Vec<_>>().join("\n")
    }

    /// A clean stop.
    pub(crate) async fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::INT).unwrap();
        process.wait(LIMIT).await.unwrap();
    }

    /// Kills all its processes at once.
    pub(crate) async fn crash(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill();
        let data_dir = self.pg.data_dir();
        wait_until("all processes to be gone", LIMIT, || async {
            let left = process::signal_all(&data_dir, Signal::KILL);
            ensure!(left == 0, "{left} processes");
            Ok(())
        })
        .await
        .unwrap();
    }

    /// Where it listens, for a login.
    pub(crate) fn conninfo(&self, login: Login) -> ConnInfo {
        self.upstream().conninfo(&self.pg, login)
    }

    async fn session_or_error(&self, login: Login) -> anyhow::Result<Session> {
        Session::connect(&self.conninfo(login), Purpose::Heartbeat).await.context("no connection")
    }

    pub(crate) async fn session(&self) -> Session {
        self.session_or_error(Login::Superuser).await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.session().await.execute(sql).await.unwrap();
    }

    /// The first value of a query.
    pub(crate) async fn value(&self, sql: &str) -> String {
        let rows = self.session().await.query_text(sql).await.unwrap();
        rows.into_iter().flatten().flatten().next().unwrap_or_default()
    }

    /// Waits until a query gives a value.
    pub(crate) async fn wait_for(&self, sql: &str, expected: &str) {
        wait_until(&format!("{sql} to give {expected} on {}", self.name), LIMIT, || async {
            let rows = self.session_or_error(Login::Superuser).await?.query_text(sql).await?;
            let value = rows.into_iter().flatten().flatten().next().unwrap_or_default();
            ensure!(value == expected, "{value}");
            Ok(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.problems()));
    }

    /// Waits until `standby` has replayed what this primary has written.
    pub(crate) async fn wait_for_replay(&self, standby: &Self) {
        let lsn = self.value("SELECT pg_current_wal_lsn()").await;
        standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t").await;
    }

    pub(crate) async fn promote(&self) {
        self.execute("SELECT pg_promote()").await;
        self.wait_for("SELECT pg_is_in_recovery()", "f").await;
        self.execute("CHECKPOINT").await;
    }
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}
