//! An etcd cluster of one or more members on this machine, and its keys through the v3 JSON gateway.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{Port, Process, Workspace, http::Request, process, store::KeyValue, wait_until};

/// What an etcd needs to come up on a slow machine.
const STARTUP: Duration = Duration::from_secs(30);

/// A running etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    workspace: Workspace,
    members: Vec<Member>,
    no_fsync: bool,
}

#[derive(Debug)]
struct Member {
    name: String,
    client: Port,
    peer: Port,
    process: Option<Process>,
}

impl Etcd {
    /// Starts `members` members and waits until they have a leader.
    ///
    /// # Errors
    /// etcd is not installed, or does not come up within 30 s; the message carries its log.
    pub async fn start(workspace: &Workspace, members: usize) -> Result<Self> {
        let mut etcd =
            Self { workspace: workspace.clone(), members: Vec::new(), no_fsync: no_fsync_supported().await? };
        for index in 0..members {
            let member = Member {
                name: format!("etcd{index}"),
                client: Port::reserve()?,
                peer: Port::reserve()?,
                process: None,
            };
            etcd.members.push(member);
        }
        for index in 0..members {
            etcd.spawn(index)?;
        }
        for index in 0..members {
            etcd.wait_healthy(index).await?;
        }
        Ok(etcd)
    }

    /// `http://127.0.0.1:<port>` of every member.
    pub fn client_urls(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("http://{}", member.client.address())).collect()
    }

    /// `127.0.0.1:<port>` of every member.
    pub fn hosts(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.address()).collect()
    }

    /// Kills a member (SIGKILL). Its data stay.
    ///
    /// # Errors
    /// There is no such member.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.member(index)?.process = None;
        Ok(())
    }

    /// Freezes a member (SIGSTOP): its connections stay open and nobody answers.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&mut self, index: usize) -> Result<()> {
        self.process(index)?.signal(Signal::STOP)
    }

    /// Lets a frozen member go on (SIGCONT).
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&mut self, index: usize) -> Result<()> {
        self.process(index)?.signal(Signal::CONT)
    }

    /// Starts a member again with its data, after killing it where it still runs, and waits until it answers.
    /// Where too few members run, it cannot answer: start the others with [`Etcd::spawn`] first.
    ///
    /// # Errors
    /// It does not come up within 30 s.
    pub async fn restart(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        self.wait_healthy(index).await
    }

    /// Starts a member without waiting for it.
    ///
    /// # Errors
    /// There is no such member, or etcd cannot be started.
    pub fn spawn(&mut self, index: usize) -> Result<()> {
        self.kill(index)?;
        let command = self.command(index)?;
        let process = Process::spawn(&self.workspace, &self.members[index].name, command)?;
        self.members[index].process = Some(process);
        Ok(())
    }

    /// Reads a key (linearizable); `None` where there is none.
    ///
    /// # Errors
    /// No member answers.
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        Ok(self.range(json!({"key": STANDARD.encode(key)})).await?.into_iter().next())
    }

    /// Reads every key that begins with `prefix`.
    ///
    /// # Errors
    /// No member answers.
    pub async fn get_prefix(&self, prefix: &str) -> Result<Vec<KeyValue>> {
        let mut end = prefix.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        self.range(json!({"key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end)})).await
    }

    /// Writes a key without a lease.
    ///
    /// # Errors
    /// No member answers.
    pub async fn put(&self, key: &str, value: &str) -> Result<()> {
        let body = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)});
        self.call("/v3/kv/put", &body).await.map(drop)
    }

    /// Deletes a key and says whether it was there.
    ///
    /// # Errors
    /// No member answers.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        let answer = self.call("/v3/kv/deleterange", &json!({"key": STANDARD.encode(key)})).await?;
        Ok(answer["deleted"].as_str().is_some_and(|count| count != "0"))
    }

    /// Ends a lease, and with it every key that hangs on it.
    ///
    /// # Errors
    /// No member answers, or there is no such lease.
    pub async fn revoke(&self, lease: &str) -> Result<()> {
        self.call("/v3/lease/revoke", &json!({"ID": lease})).await.map(drop)
    }

    /// Which member leads.
    ///
    /// # Errors
    /// None does, or none answers.
    pub async fn leader(&self) -> Result<usize> {
        for (index, member) in self.members.iter().enumerate().filter(|(_, member)| member.process.is_some())
        {
            let address = member.client.address();
            let request = Request::new("POST", &address, "/v3/maintenance/status").body("{}");
            let Ok(answer) = request.timeout(Duration::from_secs(3)).send().await else { continue };
            let status = answer.json()?;
            if status["leader"].is_string() && status["leader"] == status["header"]["member_id"] {
                return Ok(index);
            }
        }
        anyhow::bail!("no etcd member leads")
    }

    async fn range(&self, body: Value) -> Result<Vec<KeyValue>> {
        let answer = self.call("/v3/kv/range", &body).await?;
        answer["kvs"].as_array().into_iter().flatten().map(key_value).collect()
    }

    /// Asks one running member after the other.
    async fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let mut last = anyhow::anyhow!("no member runs");
        for member in self.members.iter().filter(|member| member.process.is_some()) {
            let address = member.client.address();
            let request = Request::new("POST", &address, path).body(body.to_string());
            match request.timeout(Duration::from_secs(3)).send().await {
                Ok(answer) if answer.status == 200 => return answer.json(),
                Ok(answer) => last = anyhow::anyhow!("{path}: {} {}", answer.status, answer.body),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn member(&mut self, index: usize) -> Result<&mut Member> {
        self.members.get_mut(index).with_context(|| format!("no etcd member {index}"))
    }

    fn process(&mut self, index: usize) -> Result<&mut Process> {
        self.member(index)?.process.as_mut().with_context(|| format!("etcd{index} does not run"))
    }

    fn command(&self, index: usize) -> Result<Command> {
        let member = &self.members[index];
        let home = self.workspace.folder(&member.name)?;
        let (client, peer) =
            (format!("http://{}", member.client.address()), format!("http://{}", member.peer.address()));
        let cluster: Vec<String> = self
            .members
            .iter()
            .map(|other| format!("{}=http://{}", other.name, other.peer.address()))
            .collect();
        let mut command = process::command(&self.workspace, &home, "etcd");
        command.args(["--name", &member.name, "--data-dir"]).arg(home.join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-token", "testkit"]);
        command.args(["--initial-cluster-state", "new", "--logger", "zap"]);
        if self.no_fsync {
            command.arg("--unsafe-no-fsync");
        }
        Ok(command)
    }

    async fn wait_healthy(&mut self, index: usize) -> Result<()> {
        let member = self.member(index)?;
        let address = member.client.address();
        let process = member.process.as_mut().context("not started")?;
        let result = wait_until(&format!("etcd{index} to answer"), STARTUP, || {
            let exit = process.exit_status();
            let request = Request::new("GET", &address, "/health").timeout(Duration::from_secs(2)).send();
            async move {
                ensure!(exit.is_none(), "etcd ended: {exit:?}");
                let answer = request.await?;
                ensure!(answer.status == 200 && answer.body.contains("\"true\""), "health: {}", answer.body);
                Ok(())
            }
        })
        .await;
        result.with_context(|| process.log_tail(10))
    }
}

/// etcd 3.5 and newer can leave out the fsync, which tests do not need.
async fn no_fsync_supported() -> Result<bool> {
    let mut help = process::bare_command("etcd");
    help.arg("--help").env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    let output = process::run(help, Duration::from_secs(10)).await.context("is etcd installed?")?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).contains("--unsafe-no-fsync"))
}

fn key_value(entry: &Value) -> Result<KeyValue> {
    let text = |name: &str| -> Result<String> {
        let bytes = STANDARD.decode(entry[name].as_str().unwrap_or_default())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let number = |name: &str| entry[name].as_str().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    Ok(KeyValue {
        key: text("key")?,
        value: text("value")?,
        create_revision: number("create_revision"),
        mod_revision: number("mod_revision"),
        lease: entry["lease"].as_str().filter(|id| *id != "0").map(str::to_owned),
    })
}
