//! A node for unit tests: its store is in memory, its data directory is empty, its peers are what a test says they are.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use ptarmigan_dcs::{
    Condition, Dcs, Timing, View, Written,
    memory::{Member, Store},
};
use ptarmigan_postgres::{Options, Postgres};
use ptarmigan_rest::{Body, Reply};
use ptarmigan_types::{Cluster, ClusterPath, Key, MemberName};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    configuration::Configuration,
    node::{Node, Parts},
    start,
};

pub(crate) const TIMING: Timing = Timing {
    ttl: Duration::from_secs(30),
    loop_wait: Duration::from_secs(1),
    retry_timeout: Duration::from_secs(3),
};

/// A node named `a` of the cluster `demo`, and the store that it shares with [`Fixture::other`].
pub(crate) struct Fixture {
    pub(crate) node: Arc<Node>,
    pub(crate) store: Store,
    /// Holds the data directory and the configuration file.
    pub(crate) folder: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_config(folder.path(), &json!({}));
        let configuration = Configuration::start(Some(&folder.path().join("node.yml"))).unwrap();
        let store = Store::new();
        let dcs = Arc::new(member(&store, "a"));
        let settings = configuration.current();
        let postgres = Postgres::new(Options {
            name: settings.settings.name.clone(),
            scope: settings.settings.scope.clone(),
            settings: Arc::new(settings.settings.postgresql.clone()),
        });
        let peers = ptarmigan_rest::Client::new(None).unwrap();
        let snapshot = Arc::new(ArcSwap::from_pointee(start::first_snapshot(&settings.settings)));
        let node = Node::new(Parts {
            configuration,
            dcs,
            postgres,
            watchdog: ptarmigan_watchdog::Watchdog::default(),
            peers,
            snapshot,
        });
        Self { node: Arc::new(node), store, folder }
    }

    /// Another member's handle on the store.
    pub(crate) fn other(&self, name: &str) -> Member {
        member(&self.store, name)
    }

    /// Writes a key, whatever it holds.
    pub(crate) async fn put(&self, key: Key, value: &str) {
        let written = self.other("test").write(&key, value, Condition::Always).await.unwrap();
        assert!(matches!(written, Written::Applied(_)));
    }

    /// Another member, with the address where it answers; it takes the lock where `leads`.
    pub(crate) async fn join(&self, name: &str, api_url: Option<&str>, leads: bool) -> Member {
        let other = self.other(name);
        let data =
            json!({"conn_url": "postgres://127.0.0.1:1/postgres", "api_url": api_url, "state": "running"});
        let mut data = data.as_object().unwrap().clone();
        data.retain(|_, value| !value.is_null());
        other.put_member(&Value::Object(data).to_string()).await.unwrap();
        if leads {
            assert!(matches!(other.acquire().await.unwrap(), ptarmigan_dcs::Verdict::Held(_)));
        }
        other
    }

    pub(crate) async fn cluster(&self) -> Cluster {
        self.other("test").view_fresh().await.unwrap().cluster
    }

    /// Has the node read the store, as a cycle does.
    pub(crate) async fn look(&self) -> View {
        crate::observe::view(&self.node).await.unwrap();
        self.node.known().view.clone().unwrap()
    }

    /// Changes the configuration file.
    pub(crate) fn configure(&self, over: &Value) {
        write_config(self.folder.path(), over);
    }
}

fn member(store: &Store, name: &str) -> Member {
    store.member(ClusterPath::new("/service/", "demo"), MemberName::from(name), TIMING)
}

/// JSON is YAML. `over` replaces whole top-level keys, and keys of `postgresql`.
fn write_config(folder: &Path, over: &Value) {
    let mut config = json!({
        "name": "a", "scope": "demo",
        "restapi": {"listen": "127.0.0.1:8008", "connect_address": "127.0.0.1:8008"},
        "etcd3": {"host": "127.0.0.1:2379"},
        "bootstrap": {"dcs": {"loop_wait": 1, "retry_timeout": 3, "ttl": 30}},
        "postgresql": {
            "listen": "127.0.0.1:5432", "connect_address": "127.0.0.1:5432", "data_dir": folder.join("data"),
            "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "rep"}},
        },
    });
    for (key, value) in over.as_object().unwrap() {
        match (key.as_str(), value) {
            ("postgresql", Value::Object(section)) => {
                config["postgresql"].as_object_mut().unwrap().extend(section.clone());
            }
            _ => drop(config.as_object_mut().unwrap().insert(key.clone(), value.clone())),
        }
    }
    std::fs::write(folder.join("node.yml"), config.to_string()).unwrap();
}

/// A peer's REST API that always tells this status; its address.
pub(crate) fn peer(status: &Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = status.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    format!("http://{address}/patroni")
}

/// The status of a standby that could take over.
pub(crate) fn standby() -> Value {
    json!({"state": "running", "role": "replica", "timeline": 1,
           "xlog": {"received_location": 100, "replayed_location": 100}})
}

pub(crate) fn text(reply: &Reply) -> (u16, String) {
    match &reply.body {
        Body::Text(text) => (reply.status, text.clone()),
        Body::Json(value) => (reply.status, value.to_string()),
    }
}

/// Waits for a condition, at most ten seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = ptarmigan_clock::now() + Duration::from_secs(10);
    while !holds() {
        assert!(ptarmigan_clock::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
