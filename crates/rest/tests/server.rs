//! The server over raw TCP: protocol, bodies, access, what the agent is asked, overload, reload and shutdown.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use ptarmigan_clock::now;
use ptarmigan_config::HostPort;
use ptarmigan_rest::{Reply, Request, Requests, spawn_thread};
use ptarmigan_types::{Cluster, HistoryEntry, Lsn, MemberData};
use serde_json::json;
use support::{
    Answer, PASSWORD, connect, exchange, primary, read_all, replica, settings, start, start_replica, willing,
    with_password,
};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
}

#[test]
fn f_1_haproxy_default_check() {
    let node = start(settings(), primary(now()), willing);
    let answer = node.raw("OPTIONS / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "");
    for header in ["server:", "date:", "content-type:"] {
        assert!(!answer.to_lowercase().contains(header), "{answer}");
    }
    let answer = node.raw("HEAD /replica HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
}

#[test]
fn a_1_any_path_and_leading_slashes() {
    let node = start(settings(), primary(now()), willing);
    assert_eq!(node.get("//leader").status, 200, "as vip-manager asks");
    assert_eq!(node.get("//").status, 200);
    assert_eq!(node.get("/?lag=1").status, 200);
    assert_eq!(node.get("/nosuch").status, 503);
    assert_eq!(node.get("/nosuch").json()["role"], "primary", "a verdict of 503 has its document");
    assert_eq!(node.send("HEAD", "/liveness", "", "").status, 503);
    assert_eq!(node.get("/liveness/foo").status, 200);
}

#[test]
fn a_1_json_is_printed_as_python_does() {
    let mut snapshot = replica(now());
    snapshot.scope = "d\u{e9}mo".into();
    let node = start(settings(), snapshot, willing);
    let answer = node.get("/replica");
    assert!(
        answer.body.starts_with(r#"{"state": "running", "postmaster_start_time": "2026"#),
        "{}",
        answer.body
    );
    assert!(answer.body.contains(r#""scope": "d\u00e9mo""#), "{}", answer.body);
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
}

#[test]
fn requests_may_be_pipelined() {
    let node = start_replica();
    let one = "GET /replica HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "OPTIONS /primary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = node.raw(&format!("{one}{one}{last}"));
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 503 ").count(), 1, "{answers}");
}

#[test]
fn garbage_is_a_bad_request() {
    let node = start_replica();
    for garbage in
        ["\u{1}\u{2}\u{3}\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET / x HTTP/1.1\r\n\r\n"]
    {
        let answer = node.raw(garbage);
        assert_eq!(answer.split(' ').nth(1), Some("400"), "{garbage:?}: {answer}");
    }
    assert_eq!(node.get("/replica").status, 200);
}

#[test]
fn a_slow_head_is_cut_off() {
    let node = start_replica();
    let mut stream = connect(node.address());
    let began = now();
    let mut cut = false;
    for byte in b"GET /replica HTTP/1.1\r\nX: ".iter().chain([b'a'; 1000].iter()) {
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let ended = stream.write_all(&[*byte]).is_err() || stream.read(&mut [0; 64]).is_ok();
        if ended {
            cut = true;
            break;
        }
        assert!(now().since(began) < Duration::from_secs(12), "still open");
    }
    assert!(cut && now().since(began) >= Duration::from_secs(4));
}

#[test]
fn a_7_bodies_are_checked() {
    let node = start_replica();
    let head = "PATCH /config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let cases = [
        (format!("{head}\r\n"), 411),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"), 411),
        (format!("{head}Content-Length: 0\r\n\r\n"), 400),
        (format!("{head}Content-Length: 2\r\n\r\n{{}}"), 400),
        (format!("{head}Content-Length: 2\r\n\r\n[]"), 400),
        (format!("{head}Content-Length: 3\r\n\r\n{{a}}"), 400),
        (format!("{head}Content-Length: 1048577\r\n\r\n{{"), 413),
        (format!("{head}Content-Length: 9\r\n\r\n{{\"a\": 1}}\n"), 200),
    ];
    for (request, status) in cases {
        let answer = Answer::read(&node.raw(&request));
        assert_eq!(answer.status, status, "{request}");
        if status != 200 {
            assert!(answer.body.contains(&format!("Error code: {status}")), "{}", answer.body);
        }
    }
    assert_eq!(node.asked.lock().unwrap().len(), 1, "only the good one reaches the agent");
}

#[test]
fn a_7_a_chunked_restart_is_not_one_without_filters() {
    let node = start_replica();
    let chunked = "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n";
    let answer = Answer::read(&node.raw(&format!("POST /restart HTTP/1.1\r\nHost: x\r\n{chunked}")));
    assert_eq!(answer.status, 411);
    assert_eq!(node.send("POST", "/restart", "", "[1]").status, 400);
    assert!(node.asked.lock().unwrap().is_empty());
    assert_eq!(node.send("POST", "/restart", "", "").status, 200, "the body is optional");
    assert_eq!(*node.asked.lock().unwrap(), [Request::Restart(Default::default())]);
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let node = start_replica();
    let mut stream = connect(node.address());
    stream.write_all(b"PUT /config HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{").unwrap();
    assert_eq!(Answer::read(&read_all(&mut stream)).status, 408);
}

#[test]
fn a_7_wrong_types_are_named() {
    let node = start_replica();
    let cases = [
        ("/switchover", r#"{"leader": 5}"#, "leader: must be a string, not a number"),
        ("/failover", r#"{"candidate": ["a"]}"#, "candidate: must be a string, not an array"),
        ("/restart", r#"{"schedule": true}"#, "schedule: must be a string, not a boolean"),
        ("/reinitialize", r#"{"force": {}}"#, "force: must be a boolean, not an object"),
        ("/reinitialize", r#"{"from_leader": "maybe"}"#, "from_leader: must be a boolean, not \"maybe\""),
    ];
    for (path, body, text) in cases {
        let answer = node.send("POST", path, "", body);
        assert_eq!((answer.status, answer.body.as_str()), (400, text), "{path} {body}");
    }
    assert!(node.asked.lock().unwrap().is_empty());
}

#[test]
fn requests_reach_the_agent() {
    let node = start_replica();
    let calls = [
        ("PUT", "/config", r#"{"ttl": 20}"#),
        ("POST", "/reload", ""),
        ("POST", "/reinitialize", r#"{"force": "on", "from_leader": true}"#),
        ("DELETE", "/switchover", ""),
        ("DELETE", "/restart", ""),
        ("GET", "/cluster", ""),
    ];
    for (method, path, body) in calls {
        let answer = node.send(method, path, "", body);
        assert_eq!((answer.status, answer.body.as_str()), (200, "done"), "{method} {path}");
    }
    let config = json!({"ttl": 20}).as_object().unwrap().clone();
    let wanted = [
        Request::PutConfig(config),
        Request::Reload,
        Request::Reinitialize { force: true, from_leader: true },
        Request::CancelSwitchover,
        Request::CancelRestart,
        Request::Cluster,
    ];
    assert_eq!(*node.asked.lock().unwrap(), wanted);
    assert_eq!(node.send("POST", "/sigterm", "", "").status, 202);
}

#[test]
fn a_1_other_methods_are_unsupported() {
    let node = start_replica();
    for (method, path) in
        [("POST", "/nosuch"), ("PUT", "/"), ("DELETE", "/config"), ("TRACE", "/"), ("PATCH", "/x")]
    {
        let answer = node.send(method, path, "", "");
        assert_eq!(answer.status, 501, "{method} {path}");
        assert!(answer.body.contains("Server does not support this operation"), "{}", answer.body);
    }
}

#[test]
fn a_8_basic_authentication_guards_what_changes_something() {
    let node = start(with_password(settings()), replica(now()), willing);
    let wrong = "Authorization: Basic YWRtaW46d3Jvbmc=\r\n";
    let lower = PASSWORD.replace("Basic", "basic");
    for (headers, status, text) in [
        ("", 401, "no auth header received"),
        (wrong, 401, "not authenticated"),
        (lower.as_str(), 401, "not authenticated"),
        (PASSWORD, 200, "done"),
    ] {
        let answer = node.send("PATCH", "/config", headers, r#"{"ttl": 20}"#);
        assert_eq!((answer.status, answer.body.as_str()), (status, text), "{headers}");
        assert_eq!(answer.head.contains("www-authenticate: basic realm=\"patroni\""), status == 401);
    }
    assert_eq!(node.send("PATCH", "/config", "", "").status, 401, "before the body is looked at");
    assert_eq!(node.get("/replica").status, 200);
}

#[test]
fn a_8_an_allowlist_lets_nobody_in() {
    let mut guarded = settings();
    guarded.allowlist = vec!["127.0.0.1".into()];
    let node = start(guarded, replica(now()), willing);
    let answer = node.send("POST", "/reload", "", "");
    assert_eq!((answer.status, answer.body.as_str()), (403, "Access is denied"));
    assert_eq!(node.get("/replica").status, 200);
}

#[test]
fn tls_is_refused_rather_than_left_out() {
    let mut secure = settings();
    secure.certfile = Some("/nonexistent".into());
    let node = start_replica();
    let error = block_on(node.handle.reload(secure)).unwrap_err();
    assert!(error.to_string().starts_with("restapi.certfile: "), "{error}");
    assert_eq!(node.get("/replica").status, 200);
}

#[test]
fn h_4_an_unreachable_dcs_is_marked() {
    let node = start(settings(), replica(now()), |_, _| Some(Reply::dcs_unreachable()));
    let answer = node.send("POST", "/failover", "", r#"{"candidate": "pg-2"}"#);
    assert_eq!((answer.status, answer.body.as_str()), (503, "DCS is not accessible"));
    assert!(answer.head.contains("x-ptarmigan-dcs: unreachable"), "{}", answer.head);
    let mut without_view = replica(now());
    without_view.view = None;
    node.snapshot.store(Arc::new(without_view));
    for path in ["/history", "/config"] {
        let answer = node.get(path);
        assert!(answer.status == 503 && answer.head.contains("x-ptarmigan-dcs: unreachable"), "{path}");
    }
    let node = start(settings(), replica(now()), |_, _| Some(Reply::text(503, "Failover failed")));
    let answer = node.send("POST", "/failover", "", r#"{"candidate": "pg-2"}"#);
    assert!(answer.status == 503 && !answer.head.contains("x-ptarmigan-dcs"), "{}", answer.head);
}

#[test]
fn a_6_config_and_history_come_from_the_view() {
    let mut snapshot = replica(now());
    let cluster: &mut Cluster = &mut snapshot.view.as_mut().unwrap().cluster;
    let entry = |timeline, timestamp: Option<&str>, new_leader: Option<&str>| HistoryEntry {
        timeline,
        lsn: Lsn(100),
        reason: "no recovery target specified".into(),
        timestamp: timestamp.map(str::to_owned),
        new_leader: new_leader.map(str::to_owned),
    };
    let entries = Some(vec![entry(1, None, None), entry(2, Some("2026-01-01T00:00:00+00:00"), Some("pg-2"))]);
    cluster.history = Some(ptarmigan_types::History { entries, revision: 9 });
    let node = start(settings(), snapshot.clone(), willing);
    assert_eq!(node.get("/config").body, r#"{"ttl": 30}"#);
    let history = r#"[[1, 100, "no recovery target specified"], [2, 100, "no recovery target specified", "2026-01-01T00:00:00+00:00", "pg-2"]]"#;
    assert_eq!(node.get("/history").body, history);
    let cluster = &mut snapshot.view.as_mut().unwrap().cluster;
    (cluster.config, cluster.history) = (None, None);
    node.snapshot.store(Arc::new(snapshot));
    assert_eq!(node.get("/config").status, 502);
    assert_eq!(node.get("/history").body, "[]");
}

/// What Patroni 4.1.4 prints for the same keys, but for the order of two fields that are `unknown`.
#[test]
fn a_6_cluster_document() {
    let mut cluster = replica(now()).view.unwrap().cluster;
    let member = |name: &str, data: serde_json::Value| ptarmigan_types::Member {
        name: name.into(),
        revision: 1,
        lease: None,
        data: MemberData(data.as_object().unwrap().clone()),
    };
    cluster.status.last_lsn = Lsn(200);
    cluster.leader.as_mut().unwrap().name = "a".into();
    let members = vec![
        member(
            "b",
            json!({
                "conn_url": "postgres://10.0.0.2:5433/postgres", "api_url": "http://10.0.0.2:8008/patroni",
                "state": "running", "role": "replica", "replication_state": "streaming", "xlog_location": 100,
                "receive_lsn": 100, "replay_lsn": 50, "timeline": 3, "tags": {"x": 1}, "pending_restart": true,
            }),
        ),
        member("a", json!({"conn_url": "postgres://10.0.0.1/postgres", "state": "running", "timeline": 3})),
        member("c", json!({})),
    ];
    cluster.members = members.into();
    cluster.failover = ptarmigan_types::Failover::read(
        r#"{"leader": "a", "member": "b", "scheduled_at": "2030-01-02T03:04:05+00:00"}"#,
        1,
    );
    let mut global = replica(now()).global;
    global.pause = true;
    let text = ptarmigan_types::pyjson::spaced(&ptarmigan_rest::cluster_document(&cluster, &global, "demo"));
    let unknown = r#""receive_lag": "unknown", "receive_lsn": "unknown", "replay_lag": "unknown", "replay_lsn": "unknown", "lag": "unknown", "lsn": "unknown""#;
    let wanted = [
        r#"{"members": [{"name": "a", "role": "leader", "state": "running", "api_url": null, "host": "10.0.0.1", "port": 5432, "timeline": 3}, "#,
        r#"{"name": "b", "role": "replica", "state": "streaming", "api_url": "http://10.0.0.2:8008/patroni", "host": "10.0.0.2", "port": 5433, "timeline": 3, "pending_restart": true, "tags": {"x": 1}, "receive_lag": 100, "receive_lsn": "0/64", "replay_lag": 150, "replay_lsn": "0/32", "lag": 100, "lsn": "0/64"}, "#,
        r#"{"name": "c", "role": "replica", "state": "", "api_url": null, "#,
        unknown,
        r#"}], "pause": true, "scheduled_switchover": {"at": "2030-01-02T03:04:05+00:00", "from": "a", "to": "b"}, "scope": "demo"}"#,
    ];
    assert_eq!(text, wanted.concat());
}

#[test]
fn patroni_asks_for_fresh_figures_once_for_many() {
    let node = start(settings(), replica(now()), |request, snapshot| {
        let mut next = (**snapshot.load()).clone();
        let figures = next.figures.as_mut().unwrap();
        (figures.at, figures.received_location) = (now(), Lsn(99_999_999));
        snapshot.store(Arc::new(next));
        thread::park_timeout(Duration::from_millis(200));
        (*request == Request::RefreshFigures).then(|| Reply::text(200, ""))
    });
    let address = node.address();
    let clients: Vec<_> =
        (0..20).map(|_| thread::spawn(move || exchange(address, "GET /patroni HTTP/1.0\r\n\r\n"))).collect();
    for client in clients {
        let answer = Answer::read(&client.join().unwrap());
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["xlog"]["received_location"], 99_999_999);
    }
    let asked = node.asked.lock().unwrap().len();
    assert!((1..10).contains(&asked), "asked {asked} times");
}

#[test]
fn a_busy_agent_delays_patroni_little_and_health_checks_not_at_all() {
    let node = start(settings(), replica(now()), |_, _| None);
    let began = now();
    let answer = node.get("/patroni");
    let took = now().since(began);
    assert!(answer.status == 200 && answer.json().get("xlog").is_some(), "the last figures are not old yet");
    assert!((Duration::from_millis(1400)..Duration::from_secs(4)).contains(&took), "{took:?}");
    let mut old = replica(now());
    old.figures.as_mut().unwrap().at = ptarmigan_types::Monotonic(now().0 - 60_000_000);
    node.snapshot.store(Arc::new(old));
    let answer = node.get("/patroni");
    assert!(answer.status == 200 && answer.json().get("xlog").is_none());
    let began = now();
    for _ in 0..100 {
        assert_eq!(node.get("/replica").status, 503);
    }
    assert!(now().since(began) < Duration::from_secs(2));
}

#[test]
fn health_checks_have_old_figures_refreshed_once_a_second_and_wait_for_nobody() {
    let node = start(settings(), replica(now()), |_, _| None);
    assert_eq!(node.get("/replica").status, 200);
    assert!(node.asked.lock().unwrap().is_empty(), "the figures are fresh");
    let mut old = replica(now());
    old.figures.as_mut().unwrap().at = ptarmigan_types::Monotonic(now().0 - 3_000_000);
    node.snapshot.store(Arc::new(old));
    let began = now();
    for path in ["/replica?lag=1MB", "/readiness", "/health"].iter().cycle().take(30) {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    let seconds = usize::try_from(now().since(began).as_secs()).unwrap();
    assert!(seconds < 2, "the agent answers nothing and delays nothing");
    let asked = || node.asked.lock().unwrap().len();
    let deadline = now() + Duration::from_secs(5);
    while asked() == 0 && now() < deadline {
        thread::park_timeout(Duration::from_millis(10));
    }
    assert!((1..=1 + seconds).contains(&asked()), "asked {} times", asked());
    assert!(node.asked.lock().unwrap().iter().all(|request| *request == Request::RefreshFigures));
}

#[test]
fn patroni_of_a_stopped_server_asks_nobody() {
    let mut snapshot = replica(now());
    snapshot.state = ptarmigan_types::MemberState::Stopped;
    (snapshot.postmaster_alive, snapshot.figures) = (false, None);
    let node = start(settings(), snapshot, |_, _| None);
    let answer = node.get("/patroni");
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("stopped")));
    assert!(node.asked.lock().unwrap().is_empty());
}

#[test]
fn an_agent_that_is_gone_is_reported() {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    drop(receiver);
    let snapshot = Arc::new(arc_swap::ArcSwap::from_pointee(replica(now())));
    let handle = spawn_thread(settings(), snapshot, Requests(sender)).unwrap();
    let answer = Answer::read(&exchange(handle.addresses()[0], "GET /cluster HTTP/1.0\r\n\r\n"));
    assert_eq!((answer.status, answer.body.as_str()), (503, "The HA loop is not running"));
}

#[test]
fn a_flood_is_answered() {
    let node = start(settings(), primary(now()), willing);
    let address = node.address();
    let clients: Vec<_> = (0..64)
        .map(|_| {
            thread::spawn(move || {
                let good = (0..20)
                    .filter(|_| exchange(address, "OPTIONS /primary HTTP/1.0\r\n\r\n").contains(" 200 "));
                good.count()
            })
        })
        .collect();
    let answered: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!(answered, 64 * 20);
}

#[test]
fn connections_beyond_512_are_closed() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let node = start_replica();
    // They send nothing; the server drops them after its header timeout.
    let idle: Vec<TcpStream> = (0..512).map(|_| connect(node.address())).collect();
    let mut excess = connect(node.address());
    let began = now();
    assert_eq!(excess.read(&mut [0; 8]).unwrap(), 0, "closed without a word");
    assert!(now().since(began) < Duration::from_secs(2));
    drop(idle);
    let deadline = now() + Duration::from_secs(4);
    while !matches!(
        TcpStream::connect(node.address()).and_then(|mut stream| {
            stream.write_all(b"OPTIONS /replica HTTP/1.0\r\n\r\n")?;
            stream.read(&mut [0; 8])
        }),
        Ok(8)
    ) {
        assert!(now() < deadline, "no place is free again");
    }
}

#[test]
fn clients_that_reset_do_no_harm() {
    let node = start_replica();
    for _ in 0..50 {
        let mut stream = connect(node.address());
        stream.write_all(b"GET /patroni HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // Closing with unread data sends a reset.
        drop(stream);
    }
    assert_eq!(node.get("/replica").status, 200);
}

#[test]
fn sd_9_a_stopping_node_answers_503() {
    let node = start(settings(), primary(now()), willing);
    assert_eq!(node.get("/primary").status, 200);
    node.handle.begin_shutdown();
    for path in ["/", "/primary", "/leader", "/health", "/readiness", "/liveness", "/patroni", "/read-only"] {
        assert_eq!(node.get(path).status, 503, "{path}");
    }
    assert!(node.get("/patroni").json().get("xlog").is_none(), "peers leave a stopping node out");
    assert_eq!(node.send("POST", "/reload", "", "").status, 503);
    let address = node.address();
    node.handle.shutdown();
    assert!(!accepts(address));
}

#[test]
fn a_9_reload_applies_live_and_moves_the_listener() {
    let node = start_replica();
    let old = node.address();
    block_on(node.handle.reload(with_password(settings()))).unwrap();
    assert_eq!(node.send("POST", "/reload", "", "").status, 401);
    assert_eq!(node.get("/replica").status, 200, "the listener stayed: port 0 is the same setting");

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut moved = settings();
    moved.listen.port = free;
    block_on(node.handle.reload(moved.clone())).unwrap();
    let new = SocketAddr::from(([127, 0, 0, 1], free));
    assert!(exchange(new, "OPTIONS /replica HTTP/1.0\r\n\r\n").contains(" 200 "));
    assert!(!accepts(old));

    // The same port on all addresses needs the old socket out of the way.
    moved.listen.host = "0.0.0.0".into();
    block_on(node.handle.reload(moved.clone())).unwrap();
    assert!(exchange(new, "OPTIONS /replica HTTP/1.0\r\n\r\n").contains(" 200 "));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    moved.listen = HostPort { host: "127.0.0.1".into(), port: taken.local_addr().unwrap().port() };
    let error = block_on(node.handle.reload(moved)).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("restapi.listen: cannot listen on {}", taken.local_addr().unwrap())),
        "{error}"
    );
    assert!(exchange(new, "OPTIONS /replica HTTP/1.0\r\n\r\n").contains(" 200 "), "the old one is back");
}

#[test]
fn bind_errors_name_the_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = |host: &str| HostPort { host: host.into(), port: taken.local_addr().unwrap().port() };
    for host in ["127.0.0.1", "192.0.2.1", "no-such-host.invalid"] {
        let mut wanted = settings();
        wanted.listen = listen(host);
        let (sender, _receiver) = tokio::sync::mpsc::channel(1);
        let snapshot = Arc::new(arc_swap::ArcSwap::from_pointee(replica(now())));
        let Err(error) = spawn_thread(wanted, snapshot, Requests(sender)) else {
            panic!("{host} is listening")
        };
        assert!(
            error.to_string().starts_with(&format!("restapi.listen: cannot listen on {host}:")),
            "{error}"
        );
    }
}

#[test]
fn a_1_all_addresses_are_dual_stack() {
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    for host in ["", "*"] {
        let mut all = settings();
        all.listen.host = host.into();
        let node = start(all, replica(now()), willing);
        let port = node.address().port();
        assert!(accepts(SocketAddr::from(([127, 0, 0, 1], port))), "{host:?}");
        if has_ipv6 {
            assert!(accepts(format!("[::1]:{port}").parse().unwrap()), "{host:?}");
        }
    }
    let mut one = settings();
    one.listen.host = "localhost".into();
    assert!(start(one, replica(now()), willing).address().is_ipv4(), "IPv4 first");
}

#[test]
fn a_9_banner_and_extra_headers() {
    let mut decorated = settings();
    decorated.server_tokens = "productonly".into();
    decorated.http_extra_headers =
        [("X-Frame".to_owned(), "deny".to_owned()), ("bad name".to_owned(), "x".to_owned())].into();
    decorated.https_extra_headers = [("X-Secure".to_owned(), "1".to_owned())].into();
    let node = start(decorated, replica(now()), willing);
    let answer = node.get("/replica");
    assert!(
        answer.head.contains("server: patroni\r\n") && answer.head.contains("x-frame: deny"),
        "{}",
        answer.head
    );
    assert!(!answer.head.contains("x-secure") && answer.head.contains("date: "), "{}", answer.head);
    for bare in
        [node.send("HEAD", "/replica", "", ""), node.get("/readiness"), node.send("POST", "/x", "", "")]
    {
        assert!(!bare.head.contains("x-frame"), "{}", bare.head);
    }
}

/// The agent of a member that promises.
fn promising(request: &Request, _: &arc_swap::ArcSwap<ptarmigan_rest::Snapshot>) -> Option<Reply> {
    let Request::Failsafe(asked) = request else { return Some(Reply::text(500, "something else")) };
    let lsn = asked.slots.as_ref().and_then(|slots| slots.get("b")).copied();
    Some(Reply { lsn, ..Reply::text(200, "Accepted") })
}

const ASKS: &str = r#"{"name": "a", "conn_url": "postgres://a/", "api_url": "http://a/", "slots": {"b": 7}}"#;

fn with_failsafe() -> ptarmigan_rest::Snapshot {
    let mut snapshot = replica(now());
    snapshot.global.failsafe_mode = true;
    snapshot
}

#[test]
fn fs_9_who_is_a_member_does_not_matter_for_failsafe() {
    let mut members_only = with_password(settings());
    members_only.allowlist_include_members = true;
    let node = start(members_only, with_failsafe(), promising);
    let refused = node.send("POST", "/failsafe", "", ASKS);
    assert_eq!((refused.status, refused.body.as_str()), (401, "no auth header received"));
    let answer = node.send("POST", "/failsafe", PASSWORD, ASKS);
    assert_eq!((answer.status, answer.body.as_str()), (200, "Accepted"));
    assert_eq!(node.send("POST", "/reload", PASSWORD, "").status, 403, "it does for everything else");
    let mut listed = settings();
    listed.allowlist = vec!["192.0.2.1".into()];
    let node = start(listed, with_failsafe(), promising);
    assert_eq!(node.send("POST", "/failsafe", "", ASKS).status, 403, "the list itself counts");
}

#[test]
fn fs_6_fs_8_post_failsafe() {
    let node = start(settings(), with_failsafe(), promising);
    let answer = node.send("POST", "/failsafe", "", ASKS);
    assert_eq!((answer.status, answer.body.as_str()), (200, "Accepted"));
    assert!(answer.head.to_lowercase().contains("\r\nlsn: 7\r\n"), "{}", answer.head);
    // What is not understood never reaches the agent, so that it marks nothing.
    for body in ["{", "{}", "[]", r#"{"conn_url": "c", "api_url": "u"}"#, r#"{"name": 5}"#] {
        let answer = node.send("POST", "/failsafe", "", body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
    }
    let node = start(settings(), replica(now()), promising);
    assert_eq!(node.send("POST", "/failsafe", "", ASKS).status, 502, "the mode is off");
}

#[test]
fn a_6_get_failsafe_shows_the_key_as_it_was_read_last() {
    let mut snapshot = replica(now());
    snapshot.view = None;
    let members = [("b", "http://b/"), ("a", "http://a/")];
    snapshot.failsafe = Some(members.map(|(name, url)| (name.to_owned(), url.to_owned())).into());
    let node = start(settings(), snapshot, willing);
    let answer = node.get("/failsafe");
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"a": "http://a/", "b": "http://b/"}"#));
    assert_eq!(start(settings(), replica(now()), willing).get("/failsafe").status, 502);
}
