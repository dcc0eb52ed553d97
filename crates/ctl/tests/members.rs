//! The commands that act through members, against our own REST server with a scripted agent and a real etcd.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use ptarmigan_config::{HostPort, RestSettings, Secret, VerifyClient};
use ptarmigan_rest::{Envelope, GlobalSettings, Reply, Request, Requests, Server, Snapshot};
use ptarmigan_testkit::{Etcd, Workspace};
use ptarmigan_types::{MemberState, Monotonic, Role, Tags};
use serde_json::json;
use support::Ptctl;
use tokio::{sync::mpsc, task::JoinSet};

/// Members `a` (leader) and `b` whose REST API is one server; what was asked of its agent is kept.
struct Fixture {
    ptctl: Ptctl,
    etcd: Etcd,
    asked: Arc<Mutex<Vec<Request>>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    _server: Server,
    _agent: JoinSet<()>,
    _workspace: Workspace,
}

fn settings() -> RestSettings {
    RestSettings {
        listen: HostPort { host: "127.0.0.1".into(), port: 0 },
        connect_address: HostPort::default(),
        authentication: Some(("admin".into(), Secret::new("sesame"))),
        certfile: None,
        keyfile: None,
        keyfile_password: None,
        cafile: None,
        ciphers: None,
        verify_client: VerifyClient::None,
        allowlist: Vec::new(),
        allowlist_include_members: false,
        http_extra_headers: Default::default(),
        https_extra_headers: Default::default(),
        request_queue_size: 5,
        server_tokens: "original".into(),
    }
}

fn snapshot(state: MemberState) -> Snapshot {
    Snapshot {
        name: "b".into(),
        scope: "demo".into(),
        version: "4.1.4".into(),
        leader_until: None,
        view: None,
        dcs_last_seen: 0,
        global: GlobalSettings {
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(10),
            pause: false,
            standby_cluster: false,
            synchronous: false,
            quorum: false,
            maximum_lag_on_failover_bytes: 0,
            failsafe_mode: false,
            primary_start_timeout: Duration::from_secs(300),
        },
        state,
        role: Role::Replica,
        figures: None,
        tags: Tags::default(),
        effective_tags: Tags::default(),
        system_identifier: None,
        pending_restart_reason: serde_json::Map::new(),
        scheduled_restart: None,
        watchdog_failed: false,
        guardian_armed: None,
        ailment: None,
        lease_headroom: None,
        dcs_latency: None,
        failsafe: None,
        failsafe_until: None,
        next_run: Monotonic(0),
        postmaster_alive: true,
        job: None,
    }
}

impl Fixture {
    /// `answer` is what the agent says.
    async fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let workspace = Workspace::new("ptctl").unwrap();
        let etcd = Etcd::start(&workspace, 1).await.unwrap();
        let (sender, mut receiver) = mpsc::channel::<Envelope>(8);
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(MemberState::Running)));
        let server = Server::start(settings(), Arc::clone(&snapshot), Requests(sender)).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let mut agent = JoinSet::new();
        agent.spawn(async move {
            while let Some((request, reply)) = receiver.recv().await {
                let _ = reply.send(answer(&request));
                log.lock().unwrap().push(request);
            }
        });
        let api = server.addresses()[0];
        for (name, role) in [("a", "primary"), ("b", "replica")] {
            let member = json!({"conn_url": format!("postgres://{name}:5432/postgres"), "role": role,
                "api_url": format!("http://{api}/patroni"), "state": "running",
                "scheduled_restart": {"schedule": "2198-01-01T10:00:00+00:00"}});
            etcd.put(&format!("/service/demo/members/{name}"), &member.to_string()).await.unwrap();
        }
        etcd.put("/service/demo/leader", "a").await.unwrap();
        etcd.put("/service/demo/config", r#"{"loop_wait":7}"#).await.unwrap();
        let ptctl = Ptctl::default()
            .with("PATRONI_ETCD3_HOST", &etcd.hosts()[0])
            .with("PATRONI_SCOPE", "demo")
            .with("PATRONI_RESTAPI_USERNAME", "admin")
            .with("PATRONI_RESTAPI_PASSWORD", "sesame");
        Self { ptctl, etcd, asked, snapshot, _server: server, _agent: agent, _workspace: workspace }
    }

    fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// What stands below the first table.
fn below_table(out: &str) -> String {
    let lines = out.lines().filter(|line| !line.starts_with(['+', '|']));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Result lines without their time, which must have five digits of a second (contract C.1).
fn without_time(line: &str) -> &str {
    let (time, rest) = line.split_at("2026-11-20 17:10:30.12345".len());
    assert!(time.as_bytes()[19] == b'.' && time[20..].bytes().all(|byte| byte.is_ascii_digit()), "{line}");
    rest
}

#[tokio::test]
async fn c_5_switchover_and_failover_by_rest() {
    let fixture = Fixture::start(|request| match request {
        Request::Failover(wish) if wish.action == "switchover" => {
            Reply::text(200, "Successfully switched over to \"b\"")
        }
        _ => Reply::text(412, "no good candidates"),
    })
    .await;
    let out = fixture.ptctl.run("switchover --scheduled=now --force --primary=a --candidate=b").await.ok();
    assert!(out.starts_with("Current cluster topology\n+ Cluster: demo "), "{out}");
    let line = out.lines().find(|line| line.contains("switched over")).unwrap();
    assert_eq!(without_time(line), " Successfully switched over to \"b\"");
    assert_eq!(out.matches("+ Cluster: demo").count(), 2, "the table again: {out}");
    let Request::Failover(wish) = fixture.asked().remove(0) else { panic!() };
    assert_eq!((wish.leader.as_deref(), wish.candidate.as_deref()), (Some("a"), Some("b")));
    let out = fixture.ptctl.run("failover --force --candidate=b").await.ok();
    assert!(out.ends_with("\nFailover failed, details: 412, no good candidates\n"), "{out}");
    assert_eq!(out.matches("+ Cluster: demo").count(), 1);
    let Request::Failover(wish) = fixture.asked().remove(0) else { panic!() };
    assert_eq!((wish.action, wish.leader), ("failover", None));
    assert!(fixture.etcd.get("/service/demo/failover").await.unwrap().is_none());
}

#[tokio::test]
async fn h_4_a_503_falls_back_only_where_it_blames_the_dcs() {
    let answers = Mutex::new(vec![
        Reply::text(503, "Switchover status unknown"),
        Reply::text(503, "Switchover failed"),
        Reply::dcs_unreachable(),
    ]);
    let fixture = Fixture::start(move |_| answers.lock().unwrap().pop().unwrap()).await;
    let ptctl = fixture.ptctl.clone().with("LOGLEVEL", "ERROR");
    let out = ptctl.run("switchover --force").await.ok();
    assert!(out.contains("falling back to DCS"), "{out}");
    let written = fixture.etcd.get("/service/demo/failover").await.unwrap().unwrap();
    assert_eq!(written.value, r#"{"leader":"a"}"#);
    fixture.etcd.delete("/service/demo/failover").await.unwrap();
    let out = ptctl.run("switchover --force").await.ok();
    assert!(out.ends_with("\nSwitchover failed, details: 503, Switchover failed\n"), "{out}");
    let out = ptctl.run("switchover --force").await.ok();
    assert!(out.ends_with("\nSwitchover result unknown, details: 503, Switchover status unknown\n"), "{out}");
    assert!(fixture.etcd.get("/service/demo/failover").await.unwrap().is_none());
}

#[tokio::test]
async fn c_5_restart() {
    let fixture = Fixture::start(|request| match request {
        Request::Restart(restart) if restart.schedule.is_some() => Reply::text(202, "Restart scheduled"),
        Request::Restart(restart) if restart.restart_pending => Reply::text(409, ""),
        Request::Restart(restart) if restart.postgres_version.is_some() => Reply::text(503, "no need"),
        _ => Reply::text(200, "Restarted"),
    })
    .await;
    let ptctl = &fixture.ptctl;
    let out = ptctl.run("restart demo --force").await.ok();
    assert_eq!(below_table(&out), "Success: restart on member a\nSuccess: restart on member b\n");
    assert_eq!(fixture.asked(), [Request::Restart(Default::default()), Request::Restart(Default::default())]);
    let out = ptctl.run("restart demo b --force --scheduled 2199-01-01T10:00+01 --timeout 1min").await.ok();
    assert_eq!(below_table(&out), "Success: restart scheduled on member b\n");
    let asked = fixture.asked();
    assert_eq!(asked[0], Request::CancelRestart, "--force removes what is scheduled");
    let Request::Restart(restart) = &asked[1] else { panic!() };
    assert_eq!(restart.body["schedule"], "2199-01-01T10:00:00+01:00");
    assert_eq!(restart.timeout_s, Some(60));
    let out = ptctl.run("restart demo -r replica --force --pg-version 17.5").await.ok();
    assert_eq!(below_table(&out), "Failed: restart for member b, status code=503, (no need)\n");
    let out = ptctl.run("restart demo --any --force").await.ok();
    assert_eq!(below_table(&out).lines().count(), 1);
    let out = ptctl.run("restart demo --pending --force").await.ok();
    assert_eq!(below_table(&out), "", "nothing is pending");
    let wrong = ptctl.clone().with("PATRONI_CTL_USERNAME", "admin").with("PATRONI_CTL_PASSWORD", "x");
    let out = wrong.run("restart demo b --force").await.ok();
    assert!(out.ends_with("Failed: restart for member b, status code=401, (not authenticated)\n"), "{out}");
}

#[tokio::test]
async fn c_5_reload_and_version() {
    let fixture = Fixture::start(|_| Reply::text(202, "reload scheduled")).await;
    let out = fixture.ptctl.run("reload demo b --force").await.ok();
    let expected = "Reload request received for member b and will be processed within 7 seconds\n";
    assert_eq!(below_table(&out), expected);
    assert_eq!(fixture.asked(), [Request::Reload]);
    let out = fixture.ptctl.run("version demo b").await.ok();
    assert!(out.ends_with("\n\nb: Patroni 4.1.4\n"), "{out}");
}

#[tokio::test]
async fn c_5_reinit_can_cancel_what_is_in_progress_and_wait() {
    let fixture = Fixture::start(|request| match request {
        Request::Reinitialize { force: false, .. } => Reply::text(503, "restart already in progress"),
        _ => Reply::text(200, "reinitialize started"),
    })
    .await;
    let snapshots = Arc::clone(&fixture.snapshot);
    snapshots.store(Arc::new(snapshot(MemberState::CreatingReplica)));
    let rebuilt = async {
        let has_begun = || async {
            let is_forced = |request: &Request| matches!(request, Request::Reinitialize { force: true, .. });
            anyhow::ensure!(fixture.asked.lock().unwrap().iter().any(is_forced), "nobody asked");
            Ok(())
        };
        ptarmigan_testkit::wait_until("the rebuild", Duration::from_secs(30), has_begun).await.unwrap();
        // Long enough for at least one look at a member that is being rebuilt.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        snapshots.store(Arc::new(snapshot(MemberState::Running)));
    };
    let command = fixture.ptctl.typed("reinit demo --wait --from-leader", "b\ny\ny\n");
    let (run, ()) = tokio::join!(command, rebuilt);
    let out = run.ok();
    let busy = "Failed: reinitialize for member b, status code=503, (restart already in progress)\n";
    assert!(out.contains(busy), "{out}");
    let rest = "Do you want to cancel it and reinitialize anyway? [y/N]: Success: reinitialize for member b\n\
                Waiting for reinitialize to complete on: b\nReinitialize is completed on: b\n";
    assert!(out.ends_with(rest), "{out}");
    let asked: Vec<Request> = fixture
        .asked()
        .into_iter()
        .filter(|request| matches!(request, Request::Reinitialize { .. }))
        .collect();
    let wish = |force| Request::Reinitialize { force, from_leader: true };
    assert_eq!(asked, [wish(false), wish(true)]);
    let out = fixture.ptctl.run("reinit demo b").await;
    out.fails_with("Aborted!");
}

#[tokio::test]
async fn c_5_flush() {
    let fixture = Fixture::start(|request| match request {
        Request::CancelRestart => Reply::text(200, "scheduled restart deleted"),
        _ => Reply::text(200, "scheduled switchover deleted"),
    })
    .await;
    let ptctl = &fixture.ptctl;
    let unscheduled =
        json!({"conn_url": "postgres://c:5432/postgres", "role": "replica", "state": "running"});
    fixture.etcd.put("/service/demo/members/c", &unscheduled.to_string()).await.unwrap();
    let out = ptctl.run("flush demo restart --force").await.ok();
    let expected = "Success: flush scheduled restart for member a\n\
                    Success: flush scheduled restart for member b\n\
                    No scheduled restart for member c\n";
    assert_eq!(below_table(&out), expected);
    assert_eq!(fixture.asked(), [Request::CancelRestart, Request::CancelRestart]);
    let out = ptctl.typed("flush demo b c restart", "y\n").await.ok();
    let asked =
        "Are you sure you want to flush members b, c? [y/N]: Success: flush scheduled restart for member b\n";
    assert!(out.contains(asked), "{out}");
    fixture.asked();
    ptctl.typed("flush demo restart -r replica", "n\n").await.fails_with("Error: Aborted flush");
    assert_eq!(ptctl.run("flush demo switchover").await.ok(), "No pending scheduled switchover\n");
    for wrong in ["flush demo", "flush demo a", "flush"] {
        let run = ptctl.run(wrong).await;
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{wrong}: what, must be said");
        assert!(run.err.starts_with("Usage: ptctl flush "), "{}", run.err);
    }
    assert_eq!(fixture.asked(), []);
    let wish = r#"{"leader":"a","member":"b","scheduled_at":"2198-01-01T10:00:00+00:00"}"#;
    fixture.etcd.put("/service/demo/failover", wish).await.unwrap();
    assert_eq!(ptctl.run("flush demo switchover").await.ok(), "Success: scheduled switchover deleted\n");
    assert_eq!(fixture.asked(), [Request::CancelSwitchover]);
}

#[tokio::test]
async fn c_5_flush_switchover_falls_back_on_the_dcs() {
    let fixture = Fixture::start(|_| Reply::text(409, "changed")).await;
    let wish = r#"{"leader":"a","scheduled_at":"2198-01-01T10:00:00+00:00"}"#;
    fixture.etcd.put("/service/demo/failover", wish).await.unwrap();
    let run = fixture.ptctl.clone().with("LOGLEVEL", "ERROR").run("flush demo switchover").await.ok();
    let lines: Vec<&str> = run.lines().collect();
    let refused = |member: &str| format!("Failed: member={member}, status_code=409, (changed)");
    assert_eq!(lines[..2], [refused("a"), refused("b")], "the leader first");
    assert_eq!(without_time(lines[2]), " Could not find any accessible member of cluster demo");
    assert_eq!(fixture.etcd.get("/service/demo/failover").await.unwrap().unwrap().value, "{}");
}

/// The changes of the configuration among what was asked for.
fn patches(asked: Vec<Request>) -> Vec<serde_json::Value> {
    let patch = |request| match request {
        Request::PatchConfig(patch) => Some(json!(patch)),
        _ => None,
    };
    asked.into_iter().filter_map(patch).collect()
}

#[tokio::test]
async fn c_5_pause_and_resume() {
    let refuse = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let refuses = Arc::clone(&refuse);
    let fixture = Fixture::start(move |_| {
        if refuses.load(std::sync::atomic::Ordering::SeqCst) {
            return Reply::text(409, "changed");
        }
        Reply::json(200, json!({}))
    })
    .await;
    let (ptctl, etcd) = (&fixture.ptctl, &fixture.etcd);
    ptctl.run("resume").await.fails_with("Error: Cluster is not paused");
    assert_eq!(ptctl.run("pause").await.ok(), "Success: cluster management is paused\n");
    assert_eq!(patches(fixture.asked()), [json!({"pause": true})]);
    refuse.store(true, std::sync::atomic::Ordering::SeqCst);
    let out = ptctl.run("pause demo --wait").await.ok();
    assert_eq!(out, "Failed: pause cluster management status code=409, (changed)\n");
    refuse.store(false, std::sync::atomic::Ordering::SeqCst);
    // Members that are there say so in time; those that are not are not waited for.
    etcd.put("/service/demo/config", r#"{"loop_wait":1,"pause":true}"#).await.unwrap();
    ptctl.run("pause").await.fails_with("Error: Cluster is already paused");
    fixture.asked();
    let member = async |name: &str, paused: bool| {
        let path = format!("/service/demo/members/{name}");
        let text = etcd.get(&path).await.unwrap().unwrap().value;
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value.as_object_mut().unwrap().insert("pause".into(), paused.into());
        etcd.put(&path, &value.to_string()).await.unwrap();
    };
    member("a", true).await;
    member("b", true).await;
    let noticed = async {
        let asked = || async {
            anyhow::ensure!(!fixture.asked.lock().unwrap().is_empty(), "nobody asked");
            Ok(())
        };
        ptarmigan_testkit::wait_until("the request", Duration::from_secs(30), asked).await.unwrap();
        member("a", false).await;
        member("b", false).await;
    };
    let (run, ()) = tokio::join!(ptctl.run("resume --wait"), noticed);
    let sent = "'resume' request sent, waiting until it is recognized by all nodes\n";
    assert_eq!(run.ok(), format!("{sent}Success: cluster management is resumed\n"));
    assert_eq!(patches(fixture.asked()), [json!({"pause": null})]);
    // One writes its key and has not noticed.
    member("a", true).await;
    let writes = async {
        let asked = || async {
            anyhow::ensure!(!fixture.asked.lock().unwrap().is_empty(), "nobody asked");
            Ok(())
        };
        ptarmigan_testkit::wait_until("the request", Duration::from_secs(30), asked).await.unwrap();
        member("a", true).await;
    };
    let (run, ()) = tokio::join!(ptctl.run("resume --wait"), writes);
    let late = "a members didn't recognized pause state after 1 seconds\n";
    assert_eq!(run.ok(), format!("{sent}{late}"));
}

#[tokio::test]
async fn resume_tells_of_a_primary_without_its_daemon() {
    let fixture = Fixture::start(|_| Reply::json(200, json!({}))).await;
    let (ptctl, etcd) = (&fixture.ptctl, &fixture.etcd);
    etcd.put("/service/demo/config", r#"{"pause":true}"#).await.unwrap();
    assert_eq!(
        ptctl.run("resume").await.ok(),
        "Success: cluster management is resumed\n",
        "the leader answers"
    );
    // The daemon of the leader is gone, and with it its keys.
    etcd.delete("/service/demo/leader").await.unwrap();
    etcd.delete("/service/demo/members/a").await.unwrap();
    let history = r#"[[1,25623960,"no recovery target specified","2019-09-23T16:57:57+02:00","a"]]"#;
    etcd.put("/service/demo/history", history).await.unwrap();
    assert_eq!(ptctl.run("resume").await.ok(), "Success: cluster management is resumed\n", "no WAL arrives");
    let value = etcd.get("/service/demo/members/b").await.unwrap().unwrap().value;
    let mut value: serde_json::Value = serde_json::from_str(&value).unwrap();
    value.as_object_mut().unwrap().insert("replication_state".into(), "streaming".into());
    etcd.put("/service/demo/members/b", &value.to_string()).await.unwrap();
    for (setting, consequence) in [
        ("promote", "a replica will be promoted beside it"),
        ("wait", "no replica takes over while it receives WAL from there"),
    ] {
        let config = json!({"pause": true, "unmanaged_primary": setting});
        etcd.put("/service/demo/config", &config.to_string()).await.unwrap();
        let run = ptctl.run("resume").await;
        assert_eq!((run.code, run.out.as_str()), (0, "Success: cluster management is resumed\n"));
        assert!(run.err.contains("b still receive WAL: a primary (the last was a)"), "{}", run.err);
        assert!(run.err.contains(consequence), "{}", run.err);
    }
}
