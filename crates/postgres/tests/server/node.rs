//! A node under test: the handle, a real PostgreSQL, the real guardian.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc, time::Duration};

use ptarmigan_config::{Effective, PostgresSettings};
use ptarmigan_postgres::{
    GuardianPlace, Options, Postgres, Purpose, Recovery, Session, StartRequest, Started, Tool, Upstream,
};
use ptarmigan_testkit::{Port, Workspace};
use ptarmigan_types::Role;
use rustix::process::{Gid, Uid};
use serde_json::{Map, Value, json};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Runs a test in a thread that is the user `postgres`: PostgreSQL's programs refuse root.
pub(crate) fn as_postgres<F: Future<Output = ()>>(test: impl FnOnce(Vec<u8>) -> F) {
    let guardian = guardian_program();
    if rustix::process::geteuid().is_root() {
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let line =
            users.lines().find(|line| line.starts_with("postgres:")).expect("there is a user postgres");
        let id = |index: usize| line.split(':').nth(index).unwrap().parse().unwrap();
        rustix::thread::set_thread_gid(Gid::from_raw(id(3))).unwrap();
        rustix::thread::set_thread_uid(Uid::from_raw(id(2))).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test(guardian));
}

/// The guardian's program, built where it has not been yet. Its folder may be closed to the user `postgres`.
fn guardian_program() -> Vec<u8> {
    let program = std::env::current_exe().unwrap();
    let path = program.parent().unwrap().parent().unwrap().join("ptarmigan-guardian");
    if !path.is_file() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let build = async {
            let mut command = tokio::process::Command::new(cargo);
            command.args(["build", "-q", "-p", "ptarmigan-guardian", "--bin", "ptarmigan-guardian"]);
            command.status().await.unwrap()
        };
        assert!(runtime.block_on(build).success(), "the guardian must build");
    }
    fs::read(path).unwrap()
}

pub(crate) struct Node {
    pub(crate) pg: Postgres,
    pub(crate) name: String,
    pub(crate) port: Port,
    home: PathBuf,
    place: GuardianPlace,
    section: Value,
}

impl Node {
    /// A handle whose data directory does not exist yet; `postgresql` is merged over what every test needs.
    pub(crate) fn new(workspace: &Workspace, guardian: &[u8], name: &str, postgresql: &Value) -> Self {
        let home = workspace.folder(name).unwrap();
        let program = home.join("ptarmigan-guardian");
        fs::write(&program, guardian).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let place = GuardianPlace { program: Some(program), run_dir: Some(workspace.path().join("run")) };
        let port = Port::reserve().unwrap();
        let mut section = json!({
            "listen": port.address(), "connect_address": port.address(), "data_dir": home.join("data"),
            "bin_dir": ptarmigan_testkit::postgres::bin_dir().unwrap(), "pgpass": home.join("pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", "password": "super secret"},
                "replication": {"username": "postgres", "password": "super secret"},
            },
            "parameters": {"unix_socket_directories": home, "logging_collector": "off", "fsync": "off"},
        });
        merge(&mut section, postgresql);
        let mut node = Self {
            pg: handle(name, &place, &section, &json!({})),
            name: name.into(),
            port,
            home,
            place,
            section,
        };
        node.reopen();
        node
    }

    /// Another daemon: a handle that remembers nothing.
    pub(crate) fn reopen(&mut self) {
        self.pg = handle(&self.name, &self.place, &self.section, &json!({}));
    }

    /// The section with changes, dynamic ones apart.
    pub(crate) fn settings(&self, local: &Value, dynamic: &Value) -> Arc<PostgresSettings> {
        let mut section = self.section.clone();
        merge(&mut section, local);
        Arc::new(settings(&self.name, &section, dynamic))
    }

    pub(crate) async fn initdb(&self) {
        let passwords = self.home.join("pw");
        fs::write(&passwords, "super secret\n").unwrap();
        let command = self.pg.command(Tool::Initdb).unwrap().args([
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "-N",
            "--pwfile",
        ]);
        command.arg(&passwords).arg("-D").arg(self.pg.data_dir()).deadline(LIMIT).succeed().await.unwrap();
        let hba = "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n\
                   host replication all 127.0.0.1/32 scram-sha-256\n";
        fs::write(self.pg.data_dir().join("pg_hba.conf"), hba).unwrap();
    }

    pub(crate) fn request(role: Role, recovery: Recovery) -> StartRequest {
        StartRequest { role, recovery, passfile_lines: Vec::new(), timeout: Some(LIMIT) }
    }

    pub(crate) async fn start_primary(&self) {
        self.pg.set_role(Role::Primary);
        let started = self.pg.start(Self::request(Role::Primary, Recovery::None)).await.unwrap();
        assert!(matches!(started, Started::Accepting(_)), "{started:?}");
    }

    /// A new cluster, running.
    pub(crate) async fn primary(
        workspace: &Workspace,
        guardian: &[u8],
        name: &str,
        postgresql: &Value,
    ) -> Self {
        let node = Self::new(workspace, guardian, name, postgresql);
        node.initdb().await;
        node.start_primary().await;
        node
    }

    pub(crate) fn upstream(&self) -> Upstream {
        let url = format!("postgres://{}/postgres", self.port.address());
        Upstream::of_conn_url(self.name.as_str().into(), &url).unwrap()
    }

    /// Copies a running primary.
    pub(crate) async fn clone_from(&self, primary: &Self) {
        let info = primary.upstream().conninfo(&self.pg, ptarmigan_postgres::Login::Replication);
        let files = ptarmigan_postgres::upstream::PasswordFiles::write(&self.pg, "test", &info).unwrap();
        let command = self.pg.command(Tool::PgBasebackup).unwrap().args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-c",
            "fast",
        ]);
        let command = command.arg("-p").arg(primary.port.to_string()).arg("-D").arg(self.pg.data_dir());
        files.apply(command).deadline(LIMIT).succeed().await.unwrap();
    }

    pub(crate) async fn session(&self) -> Session {
        self.pg.connect(Purpose::Unlimited).await.unwrap()
    }

    pub(crate) async fn value(&self, sql: &str) -> String {
        let rows = self.session().await.query_text(sql).await.unwrap();
        rows.into_iter().flatten().flatten().next().unwrap_or_default()
    }
}

fn handle(name: &str, place: &GuardianPlace, section: &Value, dynamic: &Value) -> Postgres {
    let options = Options {
        name: name.into(),
        scope: "demo".into(),
        settings: Arc::new(settings(name, section, dynamic)),
    };
    Postgres::with_guardian(options, place.clone())
}

fn settings(name: &str, section: &Value, dynamic: &Value) -> PostgresSettings {
    let local = json!({
        "name": name, "scope": "demo", "etcd3": {"host": "127.0.0.1:2379"},
        "restapi": {"listen": "127.0.0.1:8008", "connect_address": "127.0.0.1:8008"}, "postgresql": section,
    });
    let none = Map::new();
    let dynamic = json!({"postgresql": dynamic});
    let dynamic = dynamic.as_object().unwrap_or(&none);
    Effective::build(local.as_object().unwrap(), dynamic).unwrap().settings.postgresql
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        match (into.get_mut(key), value) {
            (Some(Value::Object(_)), Value::Object(_)) => merge(&mut into[key], value),
            _ => into[key] = value.clone(),
        }
    }
}
