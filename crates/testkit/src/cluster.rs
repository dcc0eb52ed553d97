//! A whole cluster on one machine: its DCS, nodes, and HAProxy where it is wanted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    HaProxy, Node, Store, Workspace,
    haproxy::Backend,
    http,
    node::{Credentials, Runner, Spec},
    postgres, store, wait_until,
    writer::{self, Target},
};

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's name.
    pub scope: String,
    /// Which DCS.
    pub store: store::Kind,
    /// How many servers it has.
    pub store_servers: usize,
    /// What runs each node; they are called `node1`, `node2`, ...
    pub nodes: Vec<Runner>,
    /// The health check of the primary's listener, for example `OPTIONS /`; `None` for no HAProxy.
    pub haproxy_check: Option<String>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes in their order.
    pub nodes: Vec<Node>,
    /// HAProxy, where it was asked for.
    pub haproxy: Option<HaProxy>,
    /// The DCS.
    pub store: Store,
    /// The passwords of the database users.
    pub credentials: Credentials,
}

impl Cluster {
    /// Starts everything without waiting for a leader. `change` may alter each node's configuration.
    ///
    /// # Errors
    /// A server cannot be started.
    pub async fn start(
        workspace: &Workspace,
        options: Options,
        mut change: impl FnMut(&mut Value),
    ) -> Result<Self> {
        let store = Store::start(workspace, options.store, options.store_servers).await?;
        let credentials = Credentials::random();
        let mut nodes = Vec::new();
        for (index, runner) in options.nodes.into_iter().enumerate() {
            let spec = Spec {
                name: format!("node{}", index + 1),
                scope: options.scope.clone(),
                namespace: "/service/".to_owned(),
                dcs: store.section(),
                credentials: credentials.clone(),
                runner,
            };
            nodes.push(Node::new(workspace, spec, &mut change)?);
        }
        let haproxy = match &options.haproxy_check {
            Some(check) => Some(HaProxy::start(workspace, &backends(&nodes), check).await?),
            None => None,
        };
        for node in &mut nodes {
            node.start()?;
        }
        Ok(Self { nodes, haproxy, store, credentials })
    }

    /// Waits until exactly one node answers `GET /primary` with 200, and returns its index.
    ///
    /// # Errors
    /// There is none, or more than one, at the deadline; the message carries the nodes' logs.
    pub async fn wait_for_leader(&self, deadline: Duration) -> Result<usize> {
        let found = wait_until("one leader", deadline, || async {
            let primaries = self.primaries().await;
            ensure!(primaries.len() == 1, "primaries: {primaries:?}");
            Ok(primaries[0])
        })
        .await;
        found.with_context(|| self.logs(15))
    }

    /// Waits until the leader streams to every other node whose daemon runs, and returns the leader's index.
    ///
    /// # Errors
    /// It does not by the deadline; the message carries the nodes' logs.
    pub async fn wait_for_replicas(&mut self, deadline: Duration) -> Result<usize> {
        let replicas = self.nodes.iter_mut().filter_map(|node| node.is_running().then_some(())).count() - 1;
        let this = &*self;
        let found = wait_until(&format!("{replicas} streaming replicas"), deadline, || async {
            let members = this.members().await?;
            let streaming = members.iter().filter(|member| member["state"] == "streaming").count();
            let primaries = this.primaries().await;
            ensure!(
                primaries.len() == 1 && streaming == replicas,
                "primaries: {primaries:?}, members: {}",
                Value::from(members)
            );
            Ok(primaries[0])
        })
        .await;
        found.with_context(|| self.logs(15))
    }

    /// The `members` of `GET /cluster`, asked from the first node that answers.
    ///
    /// # Errors
    /// None answers.
    pub async fn members(&self) -> Result<Vec<Value>> {
        let mut last = anyhow::anyhow!("there are no nodes");
        for node in &self.nodes {
            match node.get("/cluster").await.and_then(|answer| answer.json()) {
                Ok(cluster) => {
                    return cluster["members"].as_array().cloned().context("no members in /cluster");
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The indices of the nodes that answer `GET /primary` with 200.
    pub async fn primaries(&self) -> Vec<usize> {
        let answers = self.nodes.iter().map(Node::is_primary);
        let answers = futures_util::future::join_all(answers).await;
        answers.iter().enumerate().filter_map(|(index, primary)| primary.then_some(index)).collect()
    }

    /// Asks the leader for a switchover and returns what it said.
    ///
    /// # Errors
    /// No answer within a minute, or one that is not 200.
    pub async fn switchover(&self, leader: usize, candidate: Option<usize>) -> Result<String> {
        let mut body = json!({"leader": self.nodes[leader].name()});
        if let Some(candidate) = candidate {
            body["candidate"] = json!(self.nodes[candidate].name());
        }
        let address = self.nodes[leader].rest_address();
        let request = http::Request::new("POST", &address, "/switchover").body(body.to_string());
        let answer = request.timeout(Duration::from_secs(60)).send().await?;
        ensure!(answer.status == 200, "switchover: {} {}", answer.status, answer.body);
        Ok(answer.body)
    }

    /// Opens a superuser's connection through HAProxy to whatever node it takes for the primary.
    ///
    /// # Errors
    /// There is no HAProxy, or no primary behind it.
    pub async fn connect_through_haproxy(&self) -> Result<Client> {
        let haproxy = self.haproxy.as_ref().context("there is no HAProxy")?;
        postgres::connect(&postgres::superuser_config(haproxy.primary_port(), &self.credentials.superuser))
            .await
    }

    /// How a [`crate::Writer`] reaches the nodes directly.
    pub fn writer_options(&self) -> writer::Options {
        let targets = self.nodes.iter().map(|node| Target::local(node.postgres_port())).collect();
        writer::Options::new(targets, "postgres", &self.credentials.superuser)
    }

    /// The last lines of every node's log.
    pub fn logs(&self, lines: usize) -> String {
        let tails = self.nodes.iter().map(|node| format!("--- {}\n{}\n", node.name(), node.log_tail(lines)));
        tails.collect()
    }
}

fn backends(nodes: &[Node]) -> Vec<Backend> {
    let backend = |node: &Node| Backend {
        name: node.name().to_owned(),
        host: "127.0.0.1".to_owned(),
        postgres_port: node.postgres_port(),
        rest_port: node.rest_port(),
    };
    nodes.iter().map(backend).collect()
}
