//! A real Consul server for tests: own ports, own folder, gone when dropped.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use ptarmigan_dcs::{Dcs, Timing};
use ptarmigan_dcs_consul::{Consul, ConsulSettings};
use ptarmigan_testkit::Port;
use ptarmigan_types::{ClusterPath, Monotonic};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a test waits for something that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One Consul server that is a cluster of its own.
pub(crate) struct Server {
    dir: TempDir,
    child: Option<Child>,
    pub(crate) port: u16,
    _ports: [Port; 3],
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&json!({}))
    }

    /// With more of its configuration.
    pub(crate) fn start_with(more: &Value) -> Self {
        Self::start_on("http", more)
    }

    /// The same that answers on TLS alone.
    pub(crate) fn start_tls(more: &Value) -> Self {
        Self::start_on("https", more)
    }

    fn start_on(protocol: &str, more: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = [(); 3].map(|()| Port::reserve().unwrap());
        let [port, serf, rpc] = [0, 1, 2].map(|index: usize| ports[index].number());
        let mut config = json!({
            "server": true, "bootstrap": true, "node_name": "c0", "datacenter": "dc1",
            "data_dir": dir.path().join("data"), "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
            "ports": {
                "http": -1, "https": -1, "dns": -1, "grpc": -1, "serf_wan": -1, "serf_lan": serf, "server": rpc,
            },
            "performance": {"raft_multiplier": 1}, "disable_update_check": true, "log_level": "warn",
        });
        config["ports"][protocol] = json!(port);
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let mut server = Self { dir, child: None, port, _ports: ports };
        server.run();
        server
    }

    /// Starts it (again) on the same data and addresses.
    #[expect(clippy::disallowed_methods, reason = "a test starts the server that it talks to")]
    pub(crate) fn run(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("consul");
        command.args(["agent", "-config-file"]).arg(self.dir.path().join("config.json"));
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().expect("consul is installed"));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn section(&self) -> Value {
        json!({"host": format!("127.0.0.1:{}", self.port)})
    }

    pub(crate) fn settings(&self) -> ConsulSettings {
        settings(&self.section())
    }

    /// Asks it by another way than the one under test.
    pub(crate) async fn ask(&self, method: &str, path: &str, token: Option<&str>) -> Value {
        let url = format!("http://127.0.0.1:{}/v1/{path}", self.port);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = http.request(method.parse().unwrap(), url);
        if let Some(token) = token {
            request = request.header("X-Consul-Token", token);
        }
        let text = request.send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) const TIMING: Timing = Timing {
    ttl: Duration::from_secs(30),
    loop_wait: Duration::from_secs(1),
    retry_timeout: Duration::from_secs(6),
};

pub(crate) fn settings(section: &Value) -> ConsulSettings {
    ConsulSettings::from_config(section.as_object().unwrap()).unwrap()
}

pub(crate) fn path() -> ClusterPath {
    ClusterPath::new("service", "demo")
}

/// A watching handle of the cluster `demo`.
pub(crate) fn connect(settings: ConsulSettings, name: &str) -> Consul {
    Consul::connect(settings, path(), "demo", name.into(), TIMING, true).unwrap()
}

/// Waits until Consul has a leader.
pub(crate) async fn ready(consul: &Consul) {
    let deadline = ptarmigan_clock::now() + PATIENCE;
    while let Err(error) = consul.view_fresh().await {
        assert!(ptarmigan_clock::now() < deadline, "{error}");
        pause().await;
    }
}

pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

pub(crate) fn deadline() -> Monotonic {
    ptarmigan_clock::now() + PATIENCE
}
