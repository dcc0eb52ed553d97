//! A cluster whose nodes are Patroni's or ours, and the questions that every test asks.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ptarmigan_testkit::{
    Binaries, Cluster, Node, Store, Workspace, Writer, http,
    node::{Credentials, Runner, Spec},
    patroni, process, store, wait_until,
};
use serde_json::{Value, json};

use crate::prober::Prober;

/// A start, a clone, a promotion, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// What takes the leader's key to run out, and then a promotion.
pub(crate) const FAILOVER: Duration = Duration::from_secs(90);
/// The cluster's name.
pub(crate) const SCOPE: &str = "lab";

/// What runs a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Patroni,
    Ptarmigan,
}

/// A cluster of `node1`, `node2`, ...; the prober's fields are dropped first, the folder last.
pub(crate) struct Lab {
    pub(crate) prober: Prober,
    pub(crate) cluster: Cluster,
    venv: PathBuf,
    binaries: Binaries,
    workspace: Workspace,
}

impl Lab {
    /// Makes the cluster and starts none of its nodes; `change` may alter a node's configuration. `None`, with a line
    /// that says so, where `PTARMIGAN_OFFLINE=1` forbids to fetch Patroni.
    pub(crate) async fn new(kinds: &[Kind], mut change: impl FnMut(usize, &mut Value)) -> Option<Self> {
        let venv = venv().await?;
        let workspace = Workspace::new("patroni").unwrap();
        let binaries = Binaries::beside(&workspace, env!("CARGO_BIN_EXE_ptarmigan")).unwrap();
        let store = Store::start(&workspace, store::Kind::from_env(), 1).await.unwrap();
        let credentials = Credentials::random();
        let node = |(index, kind): (usize, &Kind)| {
            let spec = Spec {
                name: format!("node{}", index + 1),
                scope: SCOPE.to_owned(),
                namespace: "/service/".to_owned(),
                dcs: store.section(),
                credentials: credentials.clone(),
                runner: runner(*kind, &venv, &binaries),
            };
            Node::new(&workspace, spec, |config| change(index, config)).unwrap()
        };
        let nodes: Vec<Node> = kinds.iter().enumerate().map(node).collect();
        let servers = nodes.iter().map(|node| (node.name().to_owned(), node.postgres_config())).collect();
        let prober = Prober::start(servers);
        let cluster = Cluster { nodes, haproxy: None, store, credentials };
        Some(Self { prober, cluster, venv, binaries, workspace })
    }

    /// Starts the first node, waits until it leads, starts the others and waits until they stream.
    pub(crate) async fn up(&mut self) {
        self.node(0).start().unwrap();
        self.cluster.wait_for_leader(SOON).await.unwrap();
        for index in 1..self.cluster.nodes.len() {
            self.node(index).start().unwrap();
        }
        let leader = self.cluster.wait_for_replicas(SOON).await.unwrap();
        assert_eq!(leader, 0, "the first node leads");
    }

    pub(crate) fn node(&mut self, index: usize) -> &mut Node {
        &mut self.cluster.nodes[index]
    }

    /// From the next start on another daemon runs the node.
    pub(crate) fn swap(&mut self, index: usize, kind: Kind) {
        let runner = runner(kind, &self.venv, &self.binaries);
        self.node(index).set_runner(runner);
    }

    pub(crate) fn address(&self, index: usize) -> String {
        self.cluster.nodes[index].rest_address()
    }

    pub(crate) async fn get(&self, index: usize, path: &str) -> Value {
        self.cluster.nodes[index].get(path).await.unwrap().json().unwrap()
    }

    pub(crate) async fn patch_config(&self, through: usize, patch: &Value) {
        let answer = http::patch(&self.address(through), "/config", patch).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Asks the REST API of `through` for a switchover; it must succeed.
    pub(crate) async fn ask_for_switchover(&self, through: usize, leader: usize, candidate: usize) {
        let name = |index: usize| self.cluster.nodes[index].name().to_owned();
        let body = json!({"leader": name(leader), "candidate": name(candidate)});
        let start = ptarmigan_clock::now();
        let address = self.address(through);
        let request = http::Request::new("POST", &address, "/switchover").body(body.to_string());
        let answer = request.timeout(SOON).send().await.unwrap();
        let took = ptarmigan_clock::now().since(start);
        println!("switchover {body} by {}: {} {} after {took:?}", name(through), answer.status, answer.body);
        let wanted = format!("Successfully switched over to \"{}\"", name(candidate));
        assert_eq!((answer.status, answer.body), (200, wanted), "{}", self.cluster.logs(30));
    }

    /// [`Self::ask_for_switchover`], and waits until the candidate leads and all others stream from it.
    pub(crate) async fn switch_over(&mut self, through: usize, leader: usize, candidate: usize) {
        self.ask_for_switchover(through, leader, candidate).await;
        let now = self.cluster.wait_for_replicas(SOON).await.unwrap();
        assert_eq!(now, candidate, "{}", self.cluster.logs(30));
    }

    /// Waits until `GET /cluster` of every running node says the same: this leader, all others streaming.
    pub(crate) async fn wait_until_all_agree(&mut self, leader: usize) -> Value {
        let running: Vec<bool> = self.cluster.nodes.iter_mut().map(Node::is_running).collect();
        let this = &*self;
        let agreed = wait_until("the same /cluster from every node", SOON, || async {
            let mut documents = Vec::new();
            for (index, _) in running.iter().enumerate().filter(|(_, running)| **running) {
                documents.push(without_positions(this.cluster.nodes[index].get("/cluster").await?.json()?));
            }
            let texts: Vec<String> = documents.iter().map(Value::to_string).collect();
            ensure!(texts.iter().all(|text| *text == texts[0]), "they differ:\n{}", texts.join("\n"));
            let members = documents[0]["members"].as_array().context("members")?;
            for (index, member) in members.iter().enumerate() {
                let (roles, state): (&[&str], _) = if index == leader {
                    (&["leader"], "running")
                } else {
                    (&["replica", "sync_standby", "quorum_standby"], "streaming")
                };
                let role = member["role"].as_str().unwrap_or_default();
                ensure!(roles.contains(&role) && member["state"] == state, "{member}");
                ensure!(member["timeline"] == members[leader]["timeline"], "{member}");
            }
            Ok(documents.swap_remove(0))
        })
        .await;
        agreed.with_context(|| self.cluster.logs(30)).unwrap()
    }

    /// What `patronictl` of the real Patroni prints; it must succeed.
    pub(crate) async fn patronictl(&self, index: usize, arguments: &[&str]) -> String {
        self.tool(index, &self.venv.join("bin/patronictl"), arguments).await
    }

    /// What our `ptctl` prints; it must succeed.
    pub(crate) async fn ptctl(&self, index: usize, arguments: &[&str]) -> String {
        self.tool(index, &self.binaries.ptctl(), arguments).await
    }

    /// What the tool of that kind prints; it must succeed.
    pub(crate) async fn tool_of(&self, kind: Kind, index: usize, arguments: &[&str]) -> String {
        match kind {
            Kind::Patroni => self.patronictl(index, arguments).await,
            Kind::Ptarmigan => self.ptctl(index, arguments).await,
        }
    }

    async fn tool(&self, index: usize, program: &Path, arguments: &[&str]) -> String {
        let node = &self.cluster.nodes[index];
        let mut command = process::command(&self.workspace, node.home(), program);
        command.arg("-c").arg(node.config_path()).args(arguments);
        let output = process::run(command, SOON).await.with_context(|| self.cluster.logs(20)).unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        println!("{}:\n{printed}", arguments.join(" "));
        printed
    }

    /// Pauses the cluster or lets it go on, with one of the tools, and waits until every node knows. The tool itself waits no
    /// longer than `loop_wait`.
    pub(crate) async fn set_pause(&self, through: usize, tool: Kind, paused: bool) {
        let words = [if paused { "pause" } else { "resume" }, SCOPE, "--wait"];
        let printed = self.tool_of(tool, through, &words).await;
        assert!(printed.contains("Success") || printed.contains("after 2 seconds"), "{printed}");
        let known = wait_until("the word from every node", SOON, || async {
            for node in &self.cluster.nodes {
                let own = node.patroni().await?;
                ensure!((own["pause"] == true) == paused, "{own}");
                let key = format!("/service/{SCOPE}/members/{}", node.name());
                let key = self.cluster.store.get(&key).await?.context("no member key")?.value;
                let key: Value = serde_json::from_str(&key)?;
                ensure!((key["pause"] == true) == paused, "{key}");
            }
            Ok(())
        })
        .await;
        known.with_context(|| self.cluster.logs(30)).unwrap();
    }

    /// The nodes of that kind.
    pub(crate) fn of(&self, kind: Kind) -> Vec<usize> {
        let is_kind =
            |node: &Node| matches!(node.spec().runner, Runner::Patroni(_)) == (kind == Kind::Patroni);
        let nodes = self.cluster.nodes.iter().enumerate();
        nodes.filter_map(|(index, node)| is_kind(node).then_some(index)).collect()
    }

    /// A writer that looks for the primary on every node.
    pub(crate) fn writer(&self) -> Writer {
        Writer::start(self.cluster.writer_options()).unwrap()
    }

    /// Waits until a server answers a query with this.
    pub(crate) async fn wait_for_answer(&self, index: usize, query: &str, wanted: &str) {
        let answered = wait_until(&format!("{wanted:?} from node{}", index + 1), SOON, || async {
            let found = self.ask(index, query).await?;
            ensure!(found == wanted, "{query}: {found:?}");
            Ok(())
        })
        .await;
        answered.with_context(|| self.cluster.logs(30)).unwrap();
    }

    /// One value that a server answers.
    pub(crate) async fn ask(&self, index: usize, query: &str) -> Result<String> {
        let client = self.cluster.nodes[index].connect().await?;
        Ok(client.query_one(query, &[]).await?.try_get::<_, Option<String>>(0)?.unwrap_or_default())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::env::var_os("PTARMIGAN_KEEP").is_some() {
            let _ = self.workspace.keep();
            println!("kept: {}", self.workspace.path().display());
        }
    }
}

/// The environment with real Patroni; `None` where the tests shall do without.
pub(crate) async fn venv() -> Option<PathBuf> {
    if std::env::var("PTARMIGAN_OFFLINE").is_ok_and(|value| value == "1") {
        println!("skipped: PTARMIGAN_OFFLINE=1, and this test needs Patroni {} from PyPI", patroni::VERSION);
        return None;
    }
    let dir = patroni::default_venv().unwrap();
    match patroni::ensure_venv(&dir).await {
        Ok(venv) => Some(venv),
        Err(error) => panic!(
            "this test needs Patroni {} from PyPI, which could not be installed in {}; without a network set \
             PTARMIGAN_OFFLINE=1 to leave it out: {error:#}",
            patroni::VERSION,
            dir.display()
        ),
    }
}

fn runner(kind: Kind, venv: &Path, binaries: &Binaries) -> Runner {
    match kind {
        Kind::Patroni => Runner::Patroni(venv.to_owned()),
        Kind::Ptarmigan => Runner::Ptarmigan(binaries.clone()),
    }
}

/// `GET /cluster` with the positions taken out, which move between two requests; the fields stay, in their order.
pub(crate) fn without_positions(mut cluster: Value) -> Value {
    for member in cluster["members"].as_array_mut().into_iter().flatten() {
        for (field, value) in member.as_object_mut().into_iter().flatten() {
            if field.ends_with("lag") || field.ends_with("lsn") {
                *value = "*".into();
            }
        }
    }
    cluster
}
