//! The conformance suite on a real Consul.

#![allow(clippy::unwrap_used, reason = "test code, helpers included")]

mod support;

use std::time::Duration;

use async_trait::async_trait;
use ptarmigan_dcs::{
    Dcs, Timing,
    conformance::{self, Harness},
};
use ptarmigan_dcs_consul::{Consul, ConsulSettings};
use ptarmigan_types::{ClusterPath, Monotonic};
use support::{Server, connect, ready};

struct Real {
    settings: ConsulSettings,
}

#[async_trait]
impl Harness for Real {
    async fn member(&self, path: &ClusterPath, name: &str, timing: Timing) -> Box<dyn Dcs> {
        let settings = self.settings.clone();
        Box::new(Consul::connect(settings, path.clone(), "demo", name.into(), timing, true).unwrap())
    }

    fn now(&self) -> Monotonic {
        ptarmigan_clock::now()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn ttl_min(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn granted(&self, ttl: Duration) -> Duration {
        ttl / 2
    }

    // Consul may take twice the TTL.
    fn expiry_slack(&self) -> Duration {
        Duration::from_secs(13)
    }
}

#[tokio::test]
async fn one_server_conforms() {
    let server = Server::start();
    ready(&connect(server.settings(), "x")).await;
    conformance::run_at_once(&Real { settings: server.settings() }).await;
}
