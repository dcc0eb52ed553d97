//! The testkit against the real servers.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use ptarmigan_testkit::{
    Consul, Etcd, HaProxy, Port, Process, Workspace, Writer,
    haproxy::Backend,
    http,
    node::GUARDIAN,
    postgres::Server,
    process::{self, processes_of},
    wait_until,
    writer::{Options, Target},
};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn etcd_keeps_keys_over_the_loss_of_a_member() {
    let workspace = Workspace::new("etcd").unwrap();
    let mut etcd = Etcd::start(&workspace, 3).await.unwrap();
    assert_eq!(etcd.client_urls().len(), 3);
    assert_eq!(etcd.get("/service/demo/leader").await.unwrap(), None);
    etcd.put("/service/demo/leader", "node1").await.unwrap();
    let first = etcd.get("/service/demo/leader").await.unwrap().unwrap();
    assert_eq!((first.value.as_str(), first.lease), ("node1", None));
    assert!(first.create_revision > 0 && first.create_revision == first.mod_revision);

    etcd.kill(0).unwrap();
    wait_until("the two others to take a write", DEADLINE, || etcd.put("/service/demo/leader", "node2"))
        .await
        .unwrap();
    etcd.restart(0).await.unwrap();
    etcd.put("/service/demo/members/ä", "{}").await.unwrap();
    let all = etcd.get_prefix("/service/demo/").await.unwrap();
    let keys: Vec<&str> = all.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["/service/demo/leader", "/service/demo/members/ä"]);
    assert_eq!(all[0].value, "node2");
    assert!(all[0].mod_revision > all[0].create_revision);

    assert!(etcd.delete("/service/demo/leader").await.unwrap());
    assert!(!etcd.delete("/service/demo/leader").await.unwrap());
}

#[tokio::test]
async fn consul_keeps_keys_over_the_loss_of_a_server() {
    let workspace = Workspace::new("consul").unwrap();
    let mut consul = Consul::start(&workspace, 3).await.unwrap();
    assert_eq!(consul.get("/service/demo/leader").await.unwrap(), None);
    consul.put("/service/demo/leader", "node1").await.unwrap();
    let first = consul.get("/service/demo/leader").await.unwrap().unwrap();
    assert_eq!(
        (first.key.as_str(), first.value.as_str(), first.lease),
        ("/service/demo/leader", "node1", None)
    );
    assert!(first.create_revision > 0 && first.create_revision == first.mod_revision);

    let leader = consul.leader().await.unwrap();
    consul.kill(leader).unwrap();
    wait_until("the two others to take a write", DEADLINE, || consul.put("/service/demo/leader", "node2"))
        .await
        .unwrap();
    consul.restart(leader).await.unwrap();
    let all = consul.get_prefix("/service/demo/").await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].value, "node2");
    assert!(consul.delete("/service/demo/leader").await.unwrap());
    assert!(!consul.delete("/service/demo/leader").await.unwrap());
}

#[tokio::test]
async fn a_frozen_etcd_does_not_answer_until_it_is_thawed() {
    let workspace = Workspace::new("etcd").unwrap();
    let mut etcd = Etcd::start(&workspace, 1).await.unwrap();
    etcd.freeze(0).unwrap();
    assert!(etcd.put("key", "value").await.is_err());
    etcd.thaw(0).unwrap();
    wait_until("the thawed member to answer", DEADLINE, || etcd.put("key", "value")).await.unwrap();
}

#[tokio::test]
async fn a_writer_measures_a_crash_and_misses_no_acknowledged_row() {
    let workspace = Workspace::new("writer").unwrap();
    let mut server = Server::start(&workspace, "plain").await.unwrap();
    let dead = Port::reserve().unwrap();
    let mut writer = Writer::start(writer_options(&server, dead.number())).unwrap();
    writer.wait_for_rows(20, DEADLINE).await.unwrap();
    assert!(writer.acknowledged().iter().all(|row| row.target == 1 && row.at >= row.sent));

    writer.mark();
    let before = ptarmigan_clock::now();
    server.crash();
    wait_until("a failed write", DEADLINE, || async {
        ensure!(!writer.failed().is_empty(), "none failed");
        Ok(())
    })
    .await
    .unwrap();
    server.restart().await.unwrap();
    let down = ptarmigan_clock::now().since(before);
    writer.wait_for_rows(20, DEADLINE).await.unwrap();
    writer.stop();

    let gap = writer.longest_gap();
    let rows = writer.acknowledged();
    let failed_at = writer.failed()[0].at;
    let last_before = rows.iter().rev().find(|row| row.at < failed_at).unwrap().at;
    let first_after = rows.iter().find(|row| row.at > failed_at).unwrap().at;
    let outage = first_after.since(last_before.max(before));
    assert!(gap >= outage && gap < down + Duration::from_secs(5), "{gap:?}, {outage:?}, {down:?}");
    let client = server.connect().await.unwrap();
    assert_eq!(writer.verify(&client).await.unwrap(), Vec::<i64>::new());

    let lost = writer.acknowledged()[7].id;
    client.execute("DELETE FROM ptarmigan_writes WHERE id = $1", &[&lost]).await.unwrap();
    assert_eq!(writer.verify(&client).await.unwrap(), [lost]);
}

#[tokio::test]
async fn a_server_stops_cleanly_and_keeps_its_data() {
    let workspace = Workspace::new("server").unwrap();
    let mut server = Server::start(&workspace, "plain").await.unwrap();
    let client = server.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT 7 AS x").await.unwrap();
    server.stop().await.unwrap();
    assert!(server.connect().await.is_err());
    server.restart().await.unwrap();
    let row = server.connect().await.unwrap().query_one("SELECT x FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
}

#[tokio::test]
async fn haproxy_leads_to_the_server_whose_check_succeeds() {
    let workspace = Workspace::new("haproxy").unwrap();
    let server = Server::start(&workspace, "plain").await.unwrap();
    let (healthy, sick) = (responder("200 OK").await.unwrap(), responder("503 No").await.unwrap());
    let unused = Port::reserve().unwrap();
    let backend = |name: &str, postgres_port, rest_port| Backend {
        name: name.to_owned(),
        host: "127.0.0.1".to_owned(),
        postgres_port,
        rest_port,
    };
    let backends = [backend("down", unused.number(), sick), backend("up", server.port(), healthy)];
    let haproxy = HaProxy::start(&workspace, &backends, "GET /primary").await.unwrap();

    let mut options = writer_options(&server, 0);
    options.targets = vec![Target::local(haproxy.primary_port())];
    let writer = Writer::start(options).unwrap();
    writer.wait_for_rows(5, DEADLINE).await.unwrap();
    let statistics = http::get(&haproxy.statistics_address(), "/;csv").await.unwrap().body;
    assert!(statistics.contains("primary,up,") && statistics.contains("replicas,down,"), "{statistics}");
}

#[tokio::test]
async fn dropping_the_workspace_ends_what_outlived_its_parent() {
    let workspace = Workspace::new("orphans").unwrap();
    let home = workspace.folder("home").unwrap();
    let mut shell = process::command(&workspace, &home, "sh");
    shell.args(["-c", "setsid sleep 1000 & setsid sleep 1000 & echo started; exit 0"]);
    let mut process = Process::spawn(&workspace, "shell", shell).unwrap();
    assert!(process.wait(DEADLINE).await.unwrap().success());
    assert_eq!(process.log_tail(1), "started");
    wait_until("the two orphans", DEADLINE, || async {
        let found = processes_of(&home);
        ensure!(found.iter().filter(|one| one.name == "sleep").count() == 2, "{found:?}");
        Ok(())
    })
    .await
    .unwrap();
    let path = workspace.path().to_owned();
    drop(workspace);
    assert_eq!(processes_of(&path), []);
    assert!(!path.exists());
}

/// The guardian clears its environment, leaves its session and works in `/`.
#[tokio::test]
async fn a_guardian_is_found_by_the_paths_it_was_started_with() {
    let workspace = Workspace::new("orphans").unwrap();
    let (home, other) = (workspace.folder("node1").unwrap(), workspace.folder("node10").unwrap());
    let program = workspace.path().join("ptarmigan-guardian");
    std::fs::copy("/usr/bin/tail", &program).unwrap();
    let mut shell = process::command(&workspace, &home, "sh");
    shell.args(["-c", r#"cd / && env -i setsid "$0" -f /dev/null "$1" & exit 0"#]);
    shell.arg(&program).arg(home.join("data"));
    Process::spawn(&workspace, "shell", shell).unwrap().wait(DEADLINE).await.unwrap();
    wait_until("the guardian", DEADLINE, || async {
        let found = processes_of(&home);
        ensure!(found.len() == 1 && found[0].name == GUARDIAN, "{found:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(processes_of(&other), []);
    let path = workspace.path().to_owned();
    drop(workspace);
    assert_eq!(processes_of(&path), []);
}

#[tokio::test]
async fn a_server_whose_postmaster_was_killed_leaves_nothing_behind() {
    let workspace = Workspace::new("orphans").unwrap();
    let server = Server::start(&workspace, "plain").await.unwrap();
    let data = server.data_dir();
    let client = server.connect().await.unwrap();
    let backend = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
    let found = processes_of(&data);
    assert!(found.iter().any(|one| one.pid.as_raw_nonzero().get() == backend), "{found:?}");
    for one in found.iter().filter(|one| one.pid.as_raw_nonzero().get() == backend) {
        rustix::process::kill_process(one.pid, Signal::STOP).unwrap();
    }
    drop(server);
    assert_eq!(processes_of(&data), []);
}

/// The janitor: the test program runs itself, starts a server, and dies of SIGKILL.
#[tokio::test]
async fn a_killed_program_leaves_no_server_and_no_folder_behind() {
    const ROLE: &str = "TESTKIT_VICTIM";
    if std::env::var_os(ROLE).is_some() {
        let workspace = Workspace::new("victim").unwrap();
        let server = Server::start(&workspace, "plain").await.unwrap();
        let program = workspace.path().join("ptarmigan-guardian");
        std::fs::copy("/usr/bin/tail", &program).unwrap();
        let mut guardian = process::command(&workspace, Path::new("/"), &program);
        guardian.env_clear().args(["-f", "/dev/null"]).arg(server.data_dir());
        let _guardian = Process::spawn(&workspace, "guardian", guardian).unwrap();
        println!("\nworkspace {} {}", workspace.path().display(), server.port());
        std::future::pending::<()>().await;
    }
    let mut victim = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "a_killed_program_leaves_no_server_and_no_folder_behind"])
        .env(ROLE, "yes")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut output = victim.stdout.take().unwrap();
    let mut text = String::new();
    let path = loop {
        let mut buffer = [0; 1024];
        let count = tokio::time::timeout(DEADLINE, output.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0, "the victim ended: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if let Some(line) = text.lines().find(|line| line.starts_with("workspace ") && text.ends_with('\n')) {
            break line.split(' ').nth(1).unwrap().to_owned();
        }
    };
    let path = Path::new(&path);
    let found = processes_of(path);
    assert!(found.iter().any(|one| one.name == GUARDIAN) && found.len() > 2, "{found:?}");
    victim.kill().await.unwrap();
    wait_until("the janitor", DEADLINE, || async {
        let found = processes_of(path);
        ensure!(found.is_empty() && !path.exists(), "{found:?}, folder: {}", path.exists());
        Ok(())
    })
    .await
    .unwrap();
}

fn writer_options(server: &Server, dead_port: u16) -> Options {
    let targets = vec![Target::local(dead_port), Target::local(server.port())];
    Options::new(targets, "postgres", server.password())
}

/// Answers every request with the same status.
async fn responder(status: &'static str) -> Result<u16> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(format!("HTTP/1.0 {status}\r\n\r\n").as_bytes()).await;
        }
    });
    Ok(port)
}
