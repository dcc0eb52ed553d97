//! Real etcd servers for tests: own ports, own folders, gone when dropped.
#![allow(dead_code, reason = "each test binary uses some of it")]

pub(crate) mod proxy;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ptarmigan_dcs::{Dcs, Timing};
use ptarmigan_dcs_etcd::{Etcd, EtcdSettings};
use ptarmigan_testkit::Port;
use ptarmigan_types::{ClusterPath, Monotonic};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a test waits for something that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A port on which nobody listens as long as it is kept.
pub(crate) fn free_port() -> Port {
    Port::reserve().unwrap()
}

/// One etcd server.
pub(crate) struct Server {
    program: &'static str,
    dir: TempDir,
    args: Vec<String>,
    child: Option<Child>,
    pub(crate) endpoint: String,
    _ports: [Port; 2],
}

impl Server {
    /// A server of its own.
    pub(crate) fn start() -> Self {
        Self::start_with("http", &[])
    }

    /// With more arguments; `protocol` of the client address.
    pub(crate) fn start_with(protocol: &str, more: &[&str]) -> Self {
        Self::cluster(1, protocol, more).pop().unwrap()
    }

    /// Servers that form one cluster.
    pub(crate) fn cluster(count: usize, protocol: &str, more: &[&str]) -> Vec<Self> {
        Self::cluster_of("etcd", count, protocol, more)
    }

    /// Of another release.
    pub(crate) fn cluster_of(
        program: &'static str,
        count: usize,
        protocol: &str,
        more: &[&str],
    ) -> Vec<Self> {
        let peers: Vec<Port> = (0..count).map(|_| free_port()).collect();
        let initial: Vec<String> =
            peers.iter().enumerate().map(|(i, peer)| format!("n{i}=http://{}", peer.address())).collect();
        let initial = initial.join(",");
        let start = |(i, peer)| Self::member(program, &format!("n{i}"), protocol, peer, &initial, more);
        peers.into_iter().enumerate().map(start).collect()
    }

    /// One more member of a cluster that runs.
    pub(crate) fn join(&self, name: &str) -> Self {
        let peer = free_port();
        let added = self.ctl(&["member", "add", name, &format!("--peer-urls=http://{}", peer.address())]);
        let initial = added.lines().find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER="));
        let initial = initial.expect("etcdctl says how to start it").trim_matches('"');
        Self::member(self.program, name, "http", peer, initial, &["--initial-cluster-state", "existing"])
    }

    fn member(
        program: &'static str,
        name: &str,
        protocol: &str,
        peer: Port,
        initial: &str,
        more: &[&str],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let client = free_port();
        let endpoint = format!("{protocol}://{}", client.address());
        let peer_url = format!("http://{}", peer.address());
        let data = dir.path().join("data").display().to_string();
        let mut args: Vec<String> = [
            ["--name", name],
            ["--data-dir", &data],
            ["--listen-client-urls", &endpoint],
            ["--advertise-client-urls", &endpoint],
            ["--listen-peer-urls", &peer_url],
            ["--initial-advertise-peer-urls", &peer_url],
            ["--initial-cluster", initial],
        ]
        .concat()
        .iter()
        .map(ToString::to_string)
        .collect();
        args.extend(more.iter().map(ToString::to_string));
        let mut server = Self { program, dir, args, child: None, endpoint, _ports: [client, peer] };
        server.run();
        server
    }

    /// Starts it (again) on the same data and addresses.
    #[expect(clippy::disallowed_methods, reason = "a test starts the server that it talks to")]
    pub(crate) fn run(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(self.program);
        command.args(&self.args).env_clear().stdin(Stdio::null());
        command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().expect("the server is installed"));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `etcdctl` on it and returns what it printed.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test asks the server by another way than the one under test"
    )]
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .args(["--endpoints", &self.endpoint])
            .args(args)
            .env("ETCDCTL_API", "3")
            .output()
            .expect("etcdctl is installed");
        assert!(output.status.success(), "etcdctl {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
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

pub(crate) fn settings(endpoints: &[&str]) -> EtcdSettings {
    EtcdSettings {
        endpoints: endpoints.iter().map(|&endpoint| endpoint.into()).collect(),
        ..EtcdSettings::default()
    }
}

pub(crate) fn path() -> ClusterPath {
    ClusterPath::new("service", "demo")
}

/// A watching handle of the cluster `demo`.
pub(crate) fn connect(settings: &EtcdSettings, name: &str) -> Etcd {
    Etcd::connect(settings, path(), name.into(), TIMING, true).unwrap()
}

/// Waits until etcd answers.
pub(crate) async fn ready(etcd: &Etcd) {
    let deadline = deadline();
    while let Err(error) = etcd.view_fresh().await {
        assert!(ptarmigan_clock::now() < deadline, "{error}");
        pause().await;
    }
}

pub(crate) fn deadline() -> Monotonic {
    ptarmigan_clock::now() + PATIENCE
}

pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Waits for `condition`.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = deadline();
    while !condition().await {
        assert!(ptarmigan_clock::now() < deadline, "never came: {what}");
        pause().await;
    }
}
