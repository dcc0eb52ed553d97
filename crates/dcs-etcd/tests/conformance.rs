//! The conformance suite on a real etcd.

#![allow(clippy::unwrap_used, reason = "test code, helpers included")]

mod support;

use std::time::Duration;

use async_trait::async_trait;
use ptarmigan_dcs::{
    Dcs, Timing,
    conformance::{self, Harness},
};
use ptarmigan_dcs_etcd::{Etcd, EtcdSettings};
use ptarmigan_types::{ClusterPath, Monotonic};
use support::{Server, connect, ready, settings};

struct Real {
    settings: EtcdSettings,
}

#[async_trait]
impl Harness for Real {
    async fn member(&self, path: &ClusterPath, name: &str, timing: Timing) -> Box<dyn Dcs> {
        Box::new(Etcd::connect(&self.settings, path.clone(), name.into(), timing, true).unwrap())
    }

    fn now(&self) -> Monotonic {
        ptarmigan_clock::now()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    // etcd grants at least one and a half election timeouts: two seconds as it is configured by default.
    fn ttl_min(&self) -> Duration {
        Duration::from_secs(3)
    }

    // etcd looks for leases that ran out every half second, and its time is in whole seconds.
    fn expiry_slack(&self) -> Duration {
        Duration::from_secs(3)
    }
}

#[tokio::test]
async fn one_server_conforms() {
    let server = Server::start();
    let settings = settings(&[&server.endpoint]);
    ready(&connect(&settings, "x")).await;
    conformance::run_at_once(&Real { settings }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_conform() {
    let servers = Server::cluster(3, "http", &[]);
    let endpoints: Vec<&str> = servers.iter().map(|server| server.endpoint.as_str()).collect();
    let settings = settings(&endpoints);
    ready(&connect(&settings, "x")).await;
    conformance::run_at_once(&Real { settings }).await;
}

/// The next release of etcd, beside that of the distribution; `make setup` installs it where there are packages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_3_5_conform() {
    let servers = Server::cluster_of("etcd-3.5", 3, "http", &[]);
    let endpoints: Vec<&str> = servers.iter().map(|server| server.endpoint.as_str()).collect();
    let settings = settings(&endpoints);
    let etcd = connect(&settings, "x");
    ready(&etcd).await;
    etcd.probe().await.unwrap();
    conformance::run_at_once(&Real { settings }).await;
}
