//! A cluster with its folder, and looks at it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ptarmigan_testkit::{
    Binaries, Cluster, Consul, Node, Store, Workspace, Writer, cluster, consul,
    http::{Request, Response},
    node::{Credentials, Runner, Spec},
    postgres, process,
    store::{KeyValue, Kind},
    wait_until,
};
use ptarmigan_types::Monotonic;
use serde_json::{Value, json};

use crate::prober::Prober;

/// For what takes a second or two on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// `ttl` of every cluster here, the shortest that the contract allows.
pub(crate) const TTL: Duration = Duration::from_secs(20);

/// Writes a script that its owner may run, and returns its path.
pub(crate) fn script(path: &Path, body: &str) -> String {
    fs::write(path, format!("#!/bin/sh\nset -eu\n{body}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// The folder of the node that a configuration belongs to.
pub(crate) fn home_of(config: &Value) -> PathBuf {
    let data_dir = Path::new(config["postgresql"]["data_dir"].as_str().unwrap());
    data_dir.parent().unwrap().to_owned()
}

/// A cluster named `demo` below `/service/`. Its logs are shown where the test fails.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) workspace: Workspace,
    pub(crate) binaries: Binaries,
}

impl Site {
    /// Starts `nodes` daemons at once and waits for nothing.
    pub(crate) async fn start(name: &str, nodes: usize, change: impl FnMut(&mut Value)) -> Self {
        Self::start_on(name, nodes, Kind::from_env(), 1, change).await
    }

    /// On that store, whichever was asked for.
    pub(crate) async fn start_on(
        name: &str,
        nodes: usize,
        store: Kind,
        store_servers: usize,
        change: impl FnMut(&mut Value),
    ) -> Self {
        let (workspace, binaries) = Self::place(name);
        let options = cluster::Options {
            scope: "demo".to_owned(),
            store,
            store_servers,
            nodes: vec![Runner::Ptarmigan(binaries.clone()); nodes],
            haproxy_check: None,
        };
        let cluster = Cluster::start(&workspace, options, change).await.unwrap();
        Self { cluster, workspace, binaries }
    }

    /// The same, with the leader's index once everybody streams from it.
    pub(crate) async fn ready(name: &str, nodes: usize, change: impl FnMut(&mut Value)) -> (Self, usize) {
        let mut site = Self::start(name, nodes, change).await;
        let leader = site.settled().await;
        (site, leader)
    }

    /// A cluster of nodes that were not started, and whose store is down.
    pub(crate) async fn asleep(name: &str, nodes: usize) -> Self {
        let (workspace, binaries) = Self::place(name);
        let mut store = Store::start(&workspace, Kind::from_env(), 1).await.unwrap();
        store.kill(0).unwrap();
        let credentials = Credentials::random();
        let cluster = Cluster { nodes: Vec::new(), haproxy: None, store, credentials };
        let mut site = Self { cluster, workspace, binaries };
        for number in 1..=nodes {
            let node = site.another(&format!("node{number}"), |_| {});
            site.cluster.nodes.push(node);
        }
        site
    }

    /// On a Consul like that, with nodes whose section `consul` is what `section` says of the node's index and the store.
    pub(crate) async fn on_consul(
        name: &str,
        nodes: usize,
        options: consul::Options,
        section: impl Fn(usize, &Consul) -> Value,
    ) -> Self {
        let (workspace, binaries) = Self::place(name);
        let store = Store::Consul(Consul::start_with(&workspace, options).await.unwrap());
        let credentials = Credentials::random();
        let cluster = Cluster { nodes: Vec::new(), haproxy: None, store, credentials };
        let mut site = Self { cluster, workspace, binaries };
        for index in 0..nodes {
            let section = section(index, site.consul());
            let node = site.another(&format!("node{}", index + 1), |config| {
                config["consul"] = section;
                // An agent that is restarted is back within the time of an operation.
                config["bootstrap"]["dcs"]["ttl"] = json!(30);
                config["bootstrap"]["dcs"]["retry_timeout"] = json!(10);
            });
            site.cluster.nodes.push(node);
            site.node_mut(index).start().unwrap();
        }
        site
    }

    /// # Panics
    /// The store is another one.
    pub(crate) fn consul(&mut self) -> &mut Consul {
        match &mut self.cluster.store {
            Store::Consul(consul) => consul,
            Store::Etcd(_) => panic!("not on Consul"),
        }
    }

    fn place(name: &str) -> (Workspace, Binaries) {
        let workspace = Workspace::new(name).unwrap();
        let binaries = Binaries::beside(&workspace, env!("CARGO_BIN_EXE_ptarmigan")).unwrap();
        (workspace, binaries)
    }

    /// One more node, not started and not part of `cluster.nodes`.
    pub(crate) fn another(&self, name: &str, change: impl FnOnce(&mut Value)) -> Node {
        let spec = Spec {
            name: name.to_owned(),
            scope: "demo".to_owned(),
            namespace: "/service/".to_owned(),
            dcs: self.cluster.store.section(),
            credentials: self.cluster.credentials.clone(),
            runner: Runner::Ptarmigan(self.binaries.clone()),
        };
        Node::new(&self.workspace, spec, change).unwrap()
    }

    /// Waits until everybody whose daemon runs streams from one leader; its index.
    pub(crate) async fn settled(&mut self) -> usize {
        self.cluster.wait_for_replicas(2 * LIMIT).await.unwrap()
    }

    pub(crate) fn node(&self, index: usize) -> &Node {
        &self.cluster.nodes[index]
    }

    pub(crate) fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.cluster.nodes[index]
    }

    pub(crate) fn name(&self, index: usize) -> String {
        self.node(index).name().to_owned()
    }

    /// A node's configuration as it was written, to be altered and written again.
    pub(crate) fn config(&self, index: usize) -> Value {
        let text = fs::read_to_string(self.node(index).config_path()).unwrap();
        Value::Object(ptarmigan_config::yaml::parse_mapping(&text).unwrap().0)
    }

    /// A key of the cluster.
    pub(crate) async fn key(&self, name: &str) -> Option<KeyValue> {
        self.cluster.store.get(&format!("/service/demo/{name}")).await.unwrap()
    }

    pub(crate) async fn put(&self, name: &str, value: &str) {
        self.cluster.store.put(&format!("/service/demo/{name}"), value).await.unwrap();
    }

    pub(crate) async fn delete(&self, name: &str) -> bool {
        self.cluster.store.delete(&format!("/service/demo/{name}")).await.unwrap()
    }

    /// Everything that a node's daemon has said.
    pub(crate) fn log(&self, index: usize) -> String {
        self.node(index).log_tail(usize::MAX)
    }

    /// How much it has said: to look at what comes later, with [`Site::log_since`].
    pub(crate) fn log_lines(&self, index: usize) -> usize {
        self.log(index).lines().count()
    }

    pub(crate) fn log_since(&self, index: usize, lines: usize) -> String {
        self.log(index).lines().skip(lines).map(|line| format!("{line}\n")).collect()
    }

    pub(crate) async fn wait_for_log(&self, index: usize, lines: usize, text: &str) {
        wait_until(&format!("{text:?} in the log of {}", self.name(index)), LIMIT, || async {
            ensure!(self.log_since(index, lines).contains(text), "{}", self.node(index).log_tail(15));
            Ok(())
        })
        .await
        .unwrap();
    }

    /// Waits until a daemon has finished a cycle that began after now.
    pub(crate) async fn wait_for_cycles(&self, index: usize, cycles: usize) {
        let start = self.log_lines(index);
        wait_until(&format!("{cycles} cycles of {}", self.name(index)), LIMIT, || async {
            let seen = self.log_since(index, start);
            let beats = seen.lines().filter(|line| line.contains("no action. I am (")).count();
            ensure!(beats >= cycles, "{beats} of {cycles}\n{seen}");
            Ok(())
        })
        .await
        .unwrap();
    }

    pub(crate) async fn timeline(&self, index: usize) -> Result<u64> {
        let status = self.node(index).patroni().await?;
        status["timeline"].as_u64().with_context(|| format!("no timeline: {status}"))
    }

    /// One value, as text, asked as superuser.
    pub(crate) async fn sql(&self, index: usize, query: &str) -> Result<String> {
        let client = self.node(index).connect().await?;
        let rows = client.simple_query(query).await?;
        let value = rows.iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(value.unwrap_or_default())
    }

    /// Waits until a query's one value is the wanted one.
    pub(crate) async fn wait_for_sql(&self, index: usize, query: &str, wanted: &str) {
        wait_until(&format!("{query} on {} to say {wanted}", self.name(index)), LIMIT, || async {
            let value = self.sql(index, query).await?;
            ensure!(value == wanted, "it says {value}");
            Ok(())
        })
        .await
        .unwrap();
    }

    /// A REST request that may take long.
    pub(crate) async fn ask(&self, index: usize, method: &str, path: &str, body: &Value) -> Response {
        let address = self.node(index).rest_address();
        let request = Request::new(method, &address, path).body(body.to_string());
        request.timeout(LIMIT).send().await.unwrap()
    }

    /// What an operator does with a node's PostgreSQL.
    pub(crate) async fn pg_ctl(&self, index: usize, arguments: &[&str]) {
        let node = self.node(index);
        let program = postgres::bin_dir().unwrap().join("pg_ctl");
        let mut command = process::command(&self.workspace, node.home(), program);
        command.arg("-w").arg("-D").arg(node.data_dir());
        command.arg("-l").arg(node.home().join("by_hand.log")).args(arguments);
        let output = process::run(command, LIMIT).await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// What `ptctl` prints; a failure of it is the test's.
    pub(crate) async fn ptctl(&self, arguments: &[&str]) -> String {
        let home = self.node(0).home();
        let mut command = process::command(&self.workspace, home, self.binaries.ptctl());
        command.arg("-c").arg(self.node(0).config_path()).args(arguments);
        let output = process::run(command, LIMIT).await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `ptctl` says where it has to fail.
    pub(crate) async fn ptctl_fails(&self, arguments: &[&str]) -> String {
        let home = self.node(0).home();
        let mut command = process::command(&self.workspace, home, self.binaries.ptctl());
        command.arg("-c").arg(self.node(0).config_path()).args(arguments);
        format!("{:#}", process::run(command, LIMIT).await.unwrap_err())
    }

    pub(crate) fn writer(&self) -> Writer {
        Writer::start(self.cluster.writer_options()).unwrap()
    }

    /// Tries to write on every node all the time.
    pub(crate) fn prober(&self) -> Prober {
        Prober::start(self.cluster.nodes.iter().map(Node::postgres_config).collect())
    }

    pub(crate) fn prober_every(&self, interval: Duration) -> Prober {
        Prober::start_every(interval, self.cluster.nodes.iter().map(Node::postgres_config).collect())
    }

    /// Waits until every other running node has received everything that the leader has written by now, and returns
    /// when that "now" was: what was acknowledged before cannot be lost.
    pub(crate) async fn everything_streamed(&self, leader: usize) -> Monotonic {
        let now = ptarmigan_clock::now();
        let lsn = self.sql(leader, "SELECT pg_current_wal_lsn()").await.unwrap();
        let behind = format!(
            "SELECT CASE WHEN count(*) = 0 THEN 'nobody streams' ELSE \
             count(*) FILTER (WHERE flush_lsn IS NULL OR flush_lsn < '{lsn}')::text END FROM pg_stat_replication"
        );
        self.wait_for_sql(leader, &behind, "0").await;
        now
    }

    /// The processes of a node's PostgreSQL whose title contains `title`.
    pub(crate) fn servers(&self, index: usize, title: &str) -> Vec<rustix::process::Pid> {
        let titled = |pid: rustix::process::Pid| {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(title)
        };
        self.node(index).processes().into_iter().map(|found| found.pid).filter(|pid| titled(*pid)).collect()
    }

    /// Every node that answers has this one system identifier.
    pub(crate) async fn assert_one_cluster(&self) {
        let initialize = self.key("initialize").await.unwrap().value;
        let mut identifiers = BTreeSet::from([initialize]);
        for node in &self.cluster.nodes {
            let status = node.patroni().await.unwrap();
            identifiers.insert(status["database_system_identifier"].as_str().unwrap().to_owned());
        }
        assert_eq!(identifiers.len(), 1, "{identifiers:?}");
    }

    /// How often the logs of all nodes contain a text.
    pub(crate) fn said(&self, text: &str) -> usize {
        (0..self.cluster.nodes.len()).map(|index| self.log(index).matches(text).count()).sum()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.cluster.logs(60));
        }
        if std::env::var_os("PTARMIGAN_KEEP").is_some() {
            let _ = self.workspace.keep();
            eprintln!("kept: {}", self.workspace.path().display());
        }
    }
}
