//! Situations of the contract's vector files as snapshots, a server with a scripted agent, and a raw HTTP client.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses a part of this module")]

pub mod exposition;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use ptarmigan_config::{HostPort, RestSettings, Secret, VerifyClient};
use ptarmigan_rest::{
    CachedView, Envelope, Figures, GlobalSettings, Handle, Reply, Request, Requests, Snapshot, spawn_thread,
};
use ptarmigan_types::{
    Cluster, DynamicConfig, Leader, Lsn, MemberName, MemberState, Monotonic, Role, Status, SyncState, Tags,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The position of the vectors.
pub const POSITION: u64 = 67_393_608;

const START: &str = "2026-07-24 12:00:00.123456+00:00";

fn tags(value: Value) -> Tags {
    match value {
        Value::Object(map) => Tags(map),
        other => panic!("{other}"),
    }
}

pub fn set_tags(snapshot: &mut Snapshot, value: Value) {
    snapshot.tags = tags(value).published();
    snapshot.effective_tags = snapshot.tags.clone();
}

fn cluster(leader: Option<&str>) -> Cluster {
    let leader = leader.map(|name| Leader {
        name: MemberName::from(name),
        revision: 7,
        create_revision: 7,
        lease: None,
    });
    let value = json!({"ttl": 30}).as_object().unwrap().clone();
    let config = Some(DynamicConfig { value, revision: 3 });
    let status = Status { last_lsn: Lsn(POSITION), ..Status::default() };
    Cluster { leader, config, status, ..Cluster::default() }
}

fn standby_figures(now: Monotonic) -> Figures {
    Figures {
        at: now,
        in_recovery: true,
        server_version: 170_005,
        postmaster_start_time: START.into(),
        received_location: Lsn(POSITION),
        replayed_location: Lsn(POSITION),
        replayed_timestamp: Some(START.into()),
        latest_end_lsn: Lsn(POSITION),
        timeline: Some(3),
        replication_state: Some("streaming".into()),
        ..Figures::default()
    }
}

fn primary_figures(now: Monotonic) -> Figures {
    let row = json!({
        "usename": "replicator", "application_name": "pg-2", "client_addr": "10.0.0.2", "state": "streaming",
        "sync_state": "async", "sync_priority": 0,
    });
    Figures {
        at: now,
        server_version: 170_005,
        postmaster_start_time: START.into(),
        location: Lsn(POSITION),
        timeline: Some(3),
        replication: vec![row.as_object().unwrap().clone()],
        ..Figures::default()
    }
}

/// A streaming replica of a healthy cluster; `now` must be some minutes after boot.
pub fn replica(now: Monotonic) -> Snapshot {
    Snapshot {
        name: MemberName::from("pg-1"),
        scope: "demo".into(),
        version: "4.1.4".into(),
        leader_until: None,
        view: Some(CachedView { cluster: cluster(Some("pg-2")), at: now }),
        dcs_last_seen: 1_753_358_400,
        global: GlobalSettings {
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(10),
            pause: false,
            standby_cluster: false,
            synchronous: false,
            quorum: false,
            maximum_lag_on_failover_bytes: 1_048_576,
            failsafe_mode: false,
            primary_start_timeout: Duration::from_secs(300),
        },
        state: MemberState::Running,
        role: Role::Replica,
        figures: Some(standby_figures(now)),
        tags: Tags::default(),
        effective_tags: Tags::default(),
        system_identifier: Some("7500000000000000001".into()),
        pending_restart_reason: serde_json::Map::new(),
        scheduled_restart: None,
        watchdog_failed: false,
        guardian_armed: None,
        ailment: None,
        lease_headroom: None,
        dcs_latency: None,
        failsafe: None,
        failsafe_until: None,
        next_run: now + Duration::from_secs(5),
        postmaster_alive: true,
        job: None,
    }
}

/// The primary that holds the lock.
pub fn primary(now: Monotonic) -> Snapshot {
    let mut snapshot = replica(now);
    snapshot.role = Role::Primary;
    snapshot.figures = Some(primary_figures(now));
    snapshot.leader_until = Some(now + Duration::from_secs(20));
    set_leader(&mut snapshot, Some("pg-1"));
    snapshot
}

fn set_leader(snapshot: &mut Snapshot, leader: Option<&str>) {
    let at = snapshot.next_run;
    snapshot.view = Some(CachedView { cluster: cluster(leader), at });
}

fn set_sync(snapshot: &mut Snapshot, standbys: &[&str], is_quorum: bool) {
    snapshot.global.synchronous = true;
    snapshot.global.quorum = is_quorum;
    let standbys = standbys.iter().map(|name| MemberName::from(*name)).collect();
    let leader = Some(MemberName::from("pg-2"));
    if let Some(view) = &mut snapshot.view {
        view.cluster.sync = SyncState { leader, standbys, quorum: u32::from(is_quorum), revision: 5 };
    }
}

fn without_sql(snapshot: &mut Snapshot, state: MemberState) {
    snapshot.state = state;
    snapshot.figures = None;
    snapshot.postmaster_alive =
        matches!(state, MemberState::Running | MemberState::Starting | MemberState::Restarting);
}

/// The scenario of that name in the vector files.
pub fn situation(name: &str, now: Monotonic) -> Snapshot {
    if name.starts_with("primary_") { primary_situation(name, now) } else { replica_situation(name, now) }
}

fn primary_situation(name: &str, now: Monotonic) -> Snapshot {
    let mut snapshot = primary(now);
    let node = &mut snapshot;
    match name {
        "primary_locked" => {}
        "primary_locked_paused" => node.global.pause = true,
        "primary_lock_held_not_promoted" => {
            node.role = Role::Promoted;
            node.figures = Some(standby_figures(now));
        }
        "primary_locked_starting" => without_sql(node, MemberState::Starting),
        "primary_locked_restarting" => without_sql(node, MemberState::Restarting),
        "primary_locked_stopped" => {
            without_sql(node, MemberState::Stopped);
            node.role = Role::Demoted;
        }
        "primary_locked_sqlfail" => without_sql(node, MemberState::Running),
        "primary_failsafe" => {
            node.view = None;
            node.failsafe_until = Some(Monotonic(u64::MAX));
        }
        "primary_dcsdown_lease_ok" => node.view = None,
        "primary_dcsdown_lease_expired" => {
            node.view = None;
            node.leader_until = Some(now);
        }
        "primary_dcsdown_paused" => {
            node.view = None;
            node.leader_until = None;
            node.global.pause = true;
        }
        "primary_nolock_paused" => {
            set_leader(node, None);
            node.leader_until = None;
            node.global.pause = true;
        }
        "primary_sync_mode" => set_sync(node, &["pg-2"], false),
        other => panic!("unknown scenario {other}"),
    }
    snapshot
}

fn replica_situation(name: &str, now: Monotonic) -> Snapshot {
    let mut snapshot = replica(now);
    let node = &mut snapshot;
    match name {
        "replica_streaming" => {}
        "replica_archive" => {
            let figures = node.figures.as_mut().unwrap();
            figures.replication_state = Some("in archive recovery".into());
            figures.received_location = Lsn(50_331_648);
            figures.replayed_location = Lsn(50_331_648);
            figures.latest_end_lsn = Lsn::ZERO;
        }
        "replica_noloadbalance" => set_tags(node, json!({"noloadbalance": true})),
        "replica_starting" => without_sql(node, MemberState::Starting),
        "replica_starting_sqlok" => node.state = MemberState::Starting,
        "replica_stopped" => without_sql(node, MemberState::Stopped),
        "replica_creating" => {
            without_sql(node, MemberState::CreatingReplica);
            node.role = Role::Uninitialized;
        }
        "replica_sqlfail" => without_sql(node, MemberState::Running),
        "replica_paused" => node.global.pause = true,
        "replica_dcsdown" => node.view = None,
        "replica_dcsdown_paused" => {
            node.view = None;
            node.global.pause = true;
        }
        "replica_unlocked" => set_leader(node, None),
        "sync_standby" => set_sync(node, &["PG-1"], false),
        "async_in_sync_mode" => set_sync(node, &["pg-3"], false),
        "sync_standby_dcsdown" => {
            set_sync(node, &["pg-1"], false);
            node.view = None;
        }
        "quorum_standby" => set_sync(node, &["pg-1", "pg-3"], true),
        other => return standby_cluster_situation(other, now),
    }
    snapshot
}

fn standby_cluster_situation(name: &str, now: Monotonic) -> Snapshot {
    let mut snapshot = if name == "standby_cluster_primary" { primary(now) } else { replica(now) };
    let node = &mut snapshot;
    node.global.standby_cluster = true;
    if name.starts_with("standby_leader") {
        node.role = Role::StandbyLeader;
        node.leader_until = Some(now + Duration::from_secs(20));
        set_leader(node, Some("pg-1"));
    }
    match name {
        "standby_leader" | "standby_cluster_primary" | "standby_replica" => {}
        "standby_leader_role_replica" => node.role = Role::Replica,
        "standby_leader_stopped" => without_sql(node, MemberState::Stopped),
        "standby_leader_dcsdown_paused" => {
            node.view = None;
            node.leader_until = None;
            node.global.pause = true;
        }
        "standby_replica_sync_configured" => set_sync(node, &["pg-1"], false),
        other => panic!("unknown scenario {other}"),
    }
    snapshot
}

/// One row of `health_query_vectors.tsv`.
pub struct QueryRow {
    pub scenario: String,
    pub path: String,
    pub code: u16,
    pub setup: String,
}

pub fn query_rows() -> Vec<QueryRow> {
    let text = include_str!("../../testdata/health_query_vectors.tsv");
    text.lines()
        .skip(1)
        .map(|line| {
            let mut cells = line.split('\t').map(str::to_owned);
            let mut cell = || cells.next().unwrap_or_default();
            QueryRow { scenario: cell(), path: cell(), code: cell().parse().unwrap(), setup: cell() }
        })
        .collect()
}

impl QueryRow {
    /// The scenario with what its `setup` column adds.
    pub fn snapshot(&self, now: Monotonic) -> Snapshot {
        let mut snapshot = situation(&self.scenario, now);
        let figures = snapshot.figures.as_mut();
        let behind = Lsn(POSITION - 2_097_152);
        match self.setup.as_str() {
            "" | "query key without value is dropped by the parser" => {}
            "node is exactly 2097152 bytes behind on replay, 0 behind on receive; maximum_lag_on_failover=1048576"
            | "DCS down; replay 2097152 behind latest_end_lsn reported by wal receiver" => {
                figures.unwrap().replayed_location = behind;
            }
            "DCS down; wal receiver reports no latest_end_lsn (lag unknown)"
            | "DCS down; no latest_end_lsn; failsafe inactive" => {
                figures.unwrap().latest_end_lsn = Lsn::ZERO;
            }
            "DCS down; no latest_end_lsn; failsafe active" => {
                figures.unwrap().latest_end_lsn = Lsn::ZERO;
                snapshot.failsafe_until = Some(Monotonic(u64::MAX));
            }
            "tags={dc:'a',b:true,n:1,f:1.4,s:'True',nofailover:false}" => set_tags(
                &mut snapshot,
                json!({"dc": "a", "b": true, "n": 1, "f": 1.4, "s": "True", "nofailover": false}),
            ),
            other => panic!("unknown setup {other}"),
        }
        snapshot
    }
}

pub fn settings() -> RestSettings {
    let listen = HostPort { host: "127.0.0.1".into(), port: 0 };
    RestSettings {
        connect_address: listen.clone(),
        listen,
        authentication: None,
        certfile: None,
        keyfile: None,
        keyfile_password: None,
        cafile: None,
        ciphers: None,
        verify_client: VerifyClient::None,
        allowlist: Vec::new(),
        allowlist_include_members: false,
        http_extra_headers: BTreeMap::new(),
        https_extra_headers: BTreeMap::new(),
        request_queue_size: 5,
        server_tokens: "original".into(),
    }
}

pub fn with_password(mut settings: RestSettings) -> RestSettings {
    settings.authentication = Some(("admin".into(), Secret::new("sesame")));
    settings
}

/// `admin:sesame`.
pub const PASSWORD: &str = "Authorization: Basic YWRtaW46c2VzYW1l\r\n";

/// How the agent answers; `None` keeps the client waiting.
pub type Script = fn(&Request, &ArcSwap<Snapshot>) -> Option<Reply>;

/// A server, its snapshot, and what the agent was asked.
pub struct Node {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub handle: Handle,
    pub asked: Arc<Mutex<Vec<Request>>>,
}

/// Answers 200 `done` to everything, and refreshes the figures when asked.
pub fn willing(request: &Request, snapshot: &ArcSwap<Snapshot>) -> Option<Reply> {
    if *request == Request::RefreshFigures {
        let mut next = Snapshot::clone(&snapshot.load());
        if let Some(figures) = &mut next.figures {
            figures.at = ptarmigan_clock::now();
        }
        snapshot.store(Arc::new(next));
    }
    Some(Reply::text(200, "done"))
}

pub fn start(settings: RestSettings, snapshot: Snapshot, script: Script) -> Node {
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
    let (sender, mut receiver) = mpsc::channel::<Envelope>(16);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (seen, published) = (Arc::clone(&asked), Arc::clone(&snapshot));
    // Ends with the server, which holds the only sender.
    thread::spawn(move || {
        let mut unanswered = Vec::new();
        while let Some((request, reply)) = receiver.blocking_recv() {
            seen.lock().unwrap().push(request.clone());
            match script(&request, &published) {
                Some(answer) => drop(reply.send(answer)),
                None => unanswered.push(reply),
            }
        }
    });
    let handle = spawn_thread(settings, Arc::clone(&snapshot), Requests(sender)).unwrap();
    Node { snapshot, handle, asked }
}

pub fn start_replica() -> Node {
    start(settings(), replica(ptarmigan_clock::now()), willing)
}

impl Node {
    pub fn address(&self) -> SocketAddr {
        self.handle.addresses()[0]
    }

    /// Sends bytes, reads until the server closes.
    pub fn raw(&self, request: &str) -> String {
        exchange(self.address(), request)
    }

    /// One request of HTTP/1.1 whose connection is closed after it.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        Answer::read(&self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}{headers}\r\n{body}"
        )))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "")
    }
}

pub fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    read_all(&mut stream)
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

pub fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// A parsed answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self { status: status.unwrap(), head: head.to_lowercase(), body: body.to_owned() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}
