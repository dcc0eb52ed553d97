//! A Consul of one or more servers on this machine, and its keys.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{Port, Process, Workspace, http::Request, process, store::KeyValue, wait_until};

/// What a Consul needs to come up and to elect a leader on a slow machine.
const STARTUP: Duration = Duration::from_secs(60);

/// How long one server is asked.
const ANSWER: Duration = Duration::from_secs(3);

/// What a Consul is made of.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Its servers.
    pub servers: usize,
    /// Agents that are no servers, as there is one beside each node of a cluster. They come after the servers: the first
    /// one's index is the number of servers.
    pub agents: usize,
    /// Added to every configuration.
    pub config: Value,
    /// With which the keys are read and written.
    pub token: Option<String>,
}

/// A running Consul, whose gossip is encrypted.
#[derive(Debug)]
pub struct Consul {
    workspace: Workspace,
    options: Options,
    gossip_key: String,
    /// The servers, then the agents.
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    http: Port,
    rpc: Port,
    serf: Port,
    process: Option<Process>,
}

impl Consul {
    /// Starts `servers` servers and waits until they have a leader.
    ///
    /// # Errors
    /// Consul is not installed, or does not come up within a minute; the message carries its log.
    pub async fn start(workspace: &Workspace, servers: usize) -> Result<Self> {
        Self::start_with(workspace, Options { servers, ..Options::default() }).await
    }

    /// Starts all of it and waits until everybody knows a leader.
    ///
    /// # Errors
    /// As [`Consul::start`].
    pub async fn start_with(workspace: &Workspace, options: Options) -> Result<Self> {
        let gossip_key =
            STANDARD.encode(std::iter::repeat_with(|| fastrand::u8(..)).take(32).collect::<Vec<_>>());
        let mut consul = Self { workspace: workspace.clone(), options, gossip_key, members: Vec::new() };
        let (servers, all) = (consul.options.servers, consul.options.servers + consul.options.agents);
        for index in 0..all {
            let kind = if index < servers { "consul" } else { "agent" };
            consul.members.push(Member {
                name: format!("{kind}{index}"),
                http: Port::reserve()?,
                rpc: Port::reserve()?,
                serf: Port::reserve()?,
                process: None,
            });
        }
        for index in 0..all {
            consul.spawn(index)?;
        }
        for index in 0..all {
            consul.wait_healthy(index).await?;
        }
        Ok(consul)
    }

    /// `127.0.0.1:<port>` of every server.
    pub fn hosts(&self) -> Vec<String> {
        self.members[..self.options.servers].iter().map(|server| server.http.address()).collect()
    }

    /// `127.0.0.1:<port>` of every agent that is no server.
    pub fn agents(&self) -> Vec<String> {
        self.members[self.options.servers..].iter().map(|agent| agent.http.address()).collect()
    }

    /// Asks a server or an agent to end (SIGTERM) and waits for it. An agent leaves the cluster then, as Consul has it.
    ///
    /// # Errors
    /// It does not run, or not end in time.
    pub async fn stop(&mut self, index: usize) -> Result<()> {
        let process = self.process(index)?;
        process.signal(Signal::TERM)?;
        process.wait(STARTUP).await?;
        self.member(index)?.process = None;
        Ok(())
    }

    /// Kills a server (SIGKILL). Its data stay.
    ///
    /// # Errors
    /// There is no such server.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.member(index)?.process = None;
        Ok(())
    }

    /// Freezes a server (SIGSTOP): its connections stay open and nobody answers.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&mut self, index: usize) -> Result<()> {
        self.process(index)?.signal(Signal::STOP)
    }

    /// Lets a frozen server go on (SIGCONT).
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&mut self, index: usize) -> Result<()> {
        self.process(index)?.signal(Signal::CONT)
    }

    /// Starts a server again with its data, after killing it where it still runs, and waits until it knows a leader.
    ///
    /// # Errors
    /// It does not come up within a minute.
    pub async fn restart(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        self.wait_healthy(index).await
    }

    /// Starts a server without waiting for it.
    ///
    /// # Errors
    /// There is no such server, or Consul cannot be started.
    pub fn spawn(&mut self, index: usize) -> Result<()> {
        self.kill(index)?;
        let command = self.command(index)?;
        let process = Process::spawn(&self.workspace, &self.members[index].name, command)?;
        self.members[index].process = Some(process);
        Ok(())
    }

    /// Reads a key as a majority has it; `None` where there is none.
    ///
    /// # Errors
    /// No server answers.
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        Ok(self.read(key, "?consistent").await?.into_iter().next())
    }

    /// Reads every key that begins with `prefix`.
    ///
    /// # Errors
    /// No server answers.
    pub async fn get_prefix(&self, prefix: &str) -> Result<Vec<KeyValue>> {
        self.read(prefix, "?recurse&consistent").await
    }

    /// Writes a key without a session.
    ///
    /// # Errors
    /// No server answers.
    pub async fn put(&self, key: &str, value: &str) -> Result<()> {
        let write = json!([{"KV": {"Verb": "set", "Key": bare(key), "Value": STANDARD.encode(value)}}]);
        self.call("PUT", "/v1/txn", Some(&write.to_string())).await.map(drop)
    }

    /// Deletes a key and says whether it was there.
    ///
    /// # Errors
    /// No server answers.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        let was_there = self.get(key).await?.is_some();
        self.call("DELETE", &path(key, ""), None).await?;
        Ok(was_there)
    }

    /// Ends a session, and with it every key that hangs on it.
    ///
    /// # Errors
    /// No server answers.
    pub async fn revoke(&self, session: &str) -> Result<()> {
        self.call("PUT", &format!("/v1/session/destroy/{session}"), None).await.map(drop)
    }

    /// Which server leads.
    ///
    /// # Errors
    /// None does, or none answers.
    pub async fn leader(&self) -> Result<usize> {
        let (_, answer) = self.call("GET", "/v1/status/leader", None).await?;
        let leader: String = serde_json::from_str(&answer)?;
        let found = self.members.iter().position(|member| member.rpc.address() == leader);
        found.with_context(|| format!("no server of ours leads: {leader:?}"))
    }

    async fn read(&self, key: &str, query: &str) -> Result<Vec<KeyValue>> {
        let (status, answer) = self.call("GET", &path(key, query), None).await?;
        if status == 404 {
            return Ok(Vec::new());
        }
        let entries: Vec<Value> = serde_json::from_str(&answer).with_context(|| answer.clone())?;
        entries.iter().map(key_value).collect()
    }

    /// Asks one running server after the other.
    async fn call(&self, method: &str, path: &str, body: Option<&str>) -> Result<(u16, String)> {
        let mut last = anyhow::anyhow!("no server runs");
        for member in self.members.iter().filter(|member| member.process.is_some()) {
            let address = member.http.address();
            let mut request = Request::new(method, &address, path).timeout(ANSWER);
            if let Some(token) = &self.options.token {
                request = request.header("X-Consul-Token", token);
            }
            if let Some(body) = body {
                request = request.body(body);
            }
            match request.send().await {
                Ok(answer) if matches!(answer.status, 200 | 404) => return Ok((answer.status, answer.body)),
                Ok(answer) => last = anyhow::anyhow!("{path}: {} {}", answer.status, answer.body),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn member(&mut self, index: usize) -> Result<&mut Member> {
        self.members.get_mut(index).with_context(|| format!("no member {index} of Consul"))
    }

    fn process(&mut self, index: usize) -> Result<&mut Process> {
        self.member(index)?.process.as_mut().with_context(|| format!("member {index} of Consul does not run"))
    }

    fn command(&self, index: usize) -> Result<Command> {
        let member = &self.members[index];
        let home = self.workspace.folder(&member.name)?;
        let others: Vec<String> = self.members.iter().map(|other| other.serf.address()).collect();
        let mut config = json!({
            "server": index < self.options.servers,
            "retry_join": others,
            "retry_interval": "1s",
            "node_name": member.name,
            "data_dir": home.join("data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "encrypt": self.gossip_key,
            "ports": {
                "http": member.http.number(), "server": member.rpc.number(), "serf_lan": member.serf.number(),
                "dns": -1, "grpc": -1, "serf_wan": -1,
            },
            // elections as fast as Consul can
            "performance": {"raft_multiplier": 1},
            "disable_update_check": true,
            "log_level": "warn",
        });
        if index < self.options.servers {
            config["bootstrap_expect"] = json!(self.options.servers);
            // a server that was killed and comes back counts at once, not after ten seconds
            config["autopilot"] =
                json!({"cleanup_dead_servers": false, "server_stabilization_time": "100ms"});
        }
        for (key, value) in self.options.config.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let path = home.join("config.json");
        self.workspace.write(&path, &config.to_string())?;
        let mut command = process::command(&self.workspace, &home, "consul");
        command.args(["agent", "-config-file"]).arg(path);
        Ok(command)
    }

    async fn wait_healthy(&mut self, index: usize) -> Result<()> {
        let member = self.member(index)?;
        let address = member.http.address();
        let process = member.process.as_mut().context("not started")?;
        let result = wait_until(&format!("consul{index} to know a leader"), STARTUP, || {
            let exit = process.exit_status();
            let request = Request::new("GET", &address, "/v1/kv/x?consistent").timeout(ANSWER).send();
            async move {
                ensure!(exit.is_none(), "Consul ended: {exit:?}");
                let answer = request.await?;
                match answer.status {
                    // 403: it knows a leader, and whom it does not know
                    200 | 403 | 404 => Ok(()),
                    status => bail!("{status} {}", answer.body),
                }
            }
        })
        .await;
        result.with_context(|| process.log_tail(10))
    }
}

/// A key as Consul has it: without the slash in front.
fn bare(key: &str) -> &str {
    key.trim_start_matches('/')
}

fn path(key: &str, query: &str) -> String {
    format!("/v1/kv/{}{query}", bare(key))
}

fn key_value(entry: &Value) -> Result<KeyValue> {
    let bytes = STANDARD.decode(entry["Value"].as_str().unwrap_or_default())?;
    Ok(KeyValue {
        key: format!("/{}", entry["Key"].as_str().context("no key")?),
        value: String::from_utf8_lossy(&bytes).into_owned(),
        create_revision: entry["CreateIndex"].as_i64().unwrap_or(0),
        mod_revision: entry["ModifyIndex"].as_i64().unwrap_or(0),
        lease: entry["Session"].as_str().filter(|session| !session.is_empty()).map(str::to_owned),
    })
}
