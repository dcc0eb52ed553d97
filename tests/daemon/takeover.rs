//! `--generate-config` looks at a PostgreSQL that nobody manages; with what it writes the daemon takes that server over.

use std::{path::Path, process::Command};

use anyhow::{Context as _, ensure};
use ptarmigan_testkit::{
    Binaries, Etcd, Port, Process, Workspace, http::Request, postgres::Server, process, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::site::LIMIT;

struct Place {
    workspace: Workspace,
    binaries: Binaries,
    server: Server,
    rest: Port,
}

impl Drop for Place {
    /// The daemon, the guardian and PostgreSQL.
    fn drop(&mut self) {
        while process::signal_all(self.home(), Signal::KILL) > 0 {
            std::thread::yield_now();
        }
    }
}

impl Place {
    fn home(&self) -> &Path {
        Path::new(self.workspace.path())
    }

    fn ptarmigan(&self, environment: &[(&str, &str)]) -> Command {
        let mut command = process::command(&self.workspace, self.home(), self.binaries.ptarmigan());
        command.envs(environment.iter().copied());
        command
    }

    fn dsn(&self) -> String {
        let (port, password) = (self.server.port(), self.server.password());
        format!("host=127.0.0.1 port={port} user=postgres password={password}")
    }

    async fn sql(&self, query: &str) -> String {
        let client = self.server.connect().await.unwrap();
        let rows = client.simple_query(query).await.unwrap();
        let values: Vec<String> = rows
            .iter()
            .filter_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect();
        values.join(",")
    }
}

/// A refusal: status 1, its reason on standard error, nothing on standard output.
async fn refused(mut command: Command, status: i32) -> String {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap()
}

/// A server that somebody has set up by hand.
async fn configure(server: &mut Server) {
    let client = server.connect().await.unwrap();
    for statement in [
        "CREATE USER replicator REPLICATION PASSWORD 'geheim'",
        "CREATE USER plain PASSWORD 'geheim'",
        "ALTER SYSTEM SET work_mem = '7MB'",
        "ALTER SYSTEM SET max_connections = 61",
        "ALTER SYSTEM SET wal_keep_size = '64MB'",
        "ALTER SYSTEM SET cluster_name = 'demo'",
        "ALTER DATABASE postgres SET work_mem = '9MB'",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    server.stop().await.unwrap();
    server.restart().await.unwrap();
}

/// Contract D.1, D.2.
#[tokio::test]
async fn d_1_a_server_is_taken_over_with_its_generated_configuration() {
    let workspace = Workspace::new("takeover").unwrap();
    let binaries = Binaries::beside(&workspace, env!("CARGO_BIN_EXE_ptarmigan")).unwrap();
    let etcd = Etcd::start(&workspace, 1).await.unwrap();
    let mut server = Server::start(&workspace, "plain").await.unwrap();
    configure(&mut server).await;
    let place = Place { workspace, binaries, server, rest: Port::reserve().unwrap() };
    let before = place.sql("SELECT pg_postmaster_start_time()").await;

    let file = place.home().join("node/generated.yml");
    refuses_what_makes_no_sense(&place, &file).await;
    let hosts = etcd.hosts().join(",");
    let store = [
        ("PATRONI_ETCD3_HOSTS", hosts.as_str()),
        ("PATRONI_REPLICATION_USERNAME", "replicator"),
        ("PATRONI_REPLICATION_PASSWORD", "geheim"),
        ("PATRONI_NAME", "node1"),
    ];
    let mut command = place.ptarmigan(&store);
    command.arg("--generate-config").arg(&file).args(["--dsn", &place.dsn()]);
    process::run(command, LIMIT).await.unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap()) & 0o777, 0o600);
    let mut command = place.ptarmigan(&store);
    command.arg("--generate-config").arg(&file).args(["--dsn", &place.dsn()]);
    assert!(refused(command, 1).await.contains("exists already"));
    let mut command = place.ptarmigan(&[]);
    command.args(["--validate-config", "--ignore-listen-port", "--print"]).arg(&file);
    let printed = process::run(command, LIMIT).await.unwrap().stdout;
    let (config, _) = ptarmigan_config::yaml::parse_mapping(&String::from_utf8(printed).unwrap()).unwrap();
    let parameters = &config["bootstrap"]["dcs"]["postgresql"]["parameters"];
    assert_eq!(parameters["work_mem"], "7MB", "the database's own setting is not the server's");
    assert_eq!((&config["scope"], &config["name"]), (&json!("demo"), &json!("node1")));
    // the port is in use
    let mut command = place.ptarmigan(&[]);
    command.arg("--validate-config").arg(&file);
    assert!(refused(command, 1).await.contains("is already in use"));

    let run_dir = place.workspace.folder("run").unwrap().display().to_string();
    let rest = place.rest.address();
    let mut command = place.ptarmigan(&[
        ("PTARMIGAN_RUN_DIR", &run_dir),
        ("PATRONI_RESTAPI_LISTEN", &rest),
        ("PATRONI_RESTAPI_CONNECT_ADDRESS", &rest),
    ]);
    command.arg(&file);
    let daemon = Process::spawn(&place.workspace, "daemon", command).unwrap();
    wait_until("the server to be the cluster's primary", LIMIT, || async {
        let answer = Request::new("GET", &rest, "/primary").send().await?;
        ensure!(answer.status == 200, "{}\n{}", answer.body, daemon.log_tail(15));
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(place.sql("SELECT pg_postmaster_start_time()").await, before, "it was not restarted");
    let stored = wait_until("its parameters in the store", LIMIT, || async {
        let key = etcd.get("/service/demo/config").await?.context("no key yet")?;
        Ok(serde_json::from_str::<Value>(&key.value)?)
    })
    .await
    .unwrap();
    assert_eq!(&stored["postgresql"]["parameters"], parameters);
    assert_eq!(&stored, &config["bootstrap"]["dcs"]);

    survives_a_restart(&place, &daemon).await;
}

async fn refuses_what_makes_no_sense(place: &Place, file: &Path) {
    // what is refused says why, and leaves nothing behind
    let mut command = place.ptarmigan(&[]);
    command.arg("--generate-config").arg(file).args(["--dsn", "nonsense"]);
    assert!(refused(command, 1).await.starts_with("--dsn: "));
    let mut command = place.ptarmigan(&[]);
    command.arg("--generate-config").arg(file);
    command.args([
        "--dsn",
        &place.dsn().replace("user=postgres", "user=plain").replace(place.server.password(), "geheim"),
    ]);
    assert!(refused(command, 1).await.contains("plain is no superuser"));
    let mut command = place.ptarmigan(&[]);
    command.args(["--generate-config", "--validate-config"]);
    assert!(refused(command, 2).await.contains("cannot be used with"));
    assert!(!file.exists());
}

/// After a restart by the daemon it is the server that it was.
async fn survives_a_restart(place: &Place, daemon: &Process) {
    let query = "SELECT name || '=' || reset_val FROM pg_settings WHERE name IN \
                 ('max_connections', 'wal_keep_size', 'cluster_name', 'wal_level', 'shared_buffers', 'listen_addresses') \
                 ORDER BY name";
    let started = "SELECT pg_postmaster_start_time()";
    let before = place.sql(started).await;
    let settings = place.sql(query).await;
    let rules = place.sql("SELECT count(*) FROM pg_hba_file_rules").await;
    let restart = Request::new("POST", &place.rest.address(), "/restart")
        .body("{}")
        .timeout(LIMIT)
        .send()
        .await
        .unwrap();
    assert_eq!(restart.status, 200, "{}\n{}", restart.body, daemon.log_tail(30));
    assert_ne!(place.sql(started).await, before);
    assert_eq!(place.sql(query).await, settings);
    assert_eq!(place.sql("SELECT count(*) FROM pg_hba_file_rules").await, rules);
    assert_eq!(
        place.sql("SELECT setting FROM pg_file_settings WHERE name = 'work_mem' AND applied").await,
        "7MB"
    );
}
