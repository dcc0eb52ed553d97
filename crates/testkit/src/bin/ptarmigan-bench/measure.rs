//! One product's clusters, and what they are made ready for.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ptarmigan_testkit::{Cluster, Workspace, Writer, cluster, node::Runner, store, wait_until};
use serde_json::Value;

use crate::{
    progress,
    report::{Column, Outcome},
    scenario::{Event, Line, Work},
    settings::{Product, Settings},
};

/// Longer than any failover takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Rows that must be acknowledged before something is called over: two seconds without another gap.
pub(crate) const CALM_ROWS: usize = 100;
const SCOPE: &str = "bench";

/// What is measured.
pub(crate) struct Bench {
    /// Whose daemon it is.
    pub(crate) product: Product,
    /// Its name and version.
    pub(crate) name: String,
    /// What runs each node.
    pub(crate) runner: Runner,
    /// How often each thing is done.
    pub(crate) rounds: u32,
}

/// A cluster, with a client that writes where the measurement has one.
pub(crate) struct Running {
    pub(crate) cluster: Cluster,
    pub(crate) writer: Option<Writer>,
    product: Product,
    settings: Settings,
}

impl Bench {
    /// Measures all of it; what fails is in the report.
    pub(crate) async fn run(&self, lines: &[Line]) -> Column {
        let mut column = Column { name: self.name.clone(), outcomes: Vec::new() };
        for work in lines.iter().map(|line| line.work()) {
            let done = column.outcomes.iter().any(|(known, _)| *known == work);
            if done || !work.event.known_to(self.product) {
                continue;
            }
            progress(&format!("{}: {} ({})", self.name, work.event.title(), work.settings.title()));
            let mut outcome = Outcome::default();
            // Each has a cluster of its own: what one leaves behind is not the other's load.
            if let Err(error) = self.measure(work, &mut outcome).await {
                progress(&format!("  failed: {error:#}"));
                outcome.failure = Some(format!("{error:#}").lines().next().unwrap_or_default().to_owned());
            }
            column.outcomes.push((work, outcome));
        }
        column
    }

    async fn measure(&self, work: Work, outcome: &mut Outcome) -> Result<()> {
        let workspace = Workspace::new("bench")?;
        let mut running = Running::start(&workspace, self, work).await?;
        if work.event == Event::Idle {
            running.calm_down().await?;
        }
        for round in 1..=self.rounds {
            let sample = match work.event {
                Event::Switchover => running.switchover().await,
                Event::Postmaster => running.kill_postmaster().await,
                Event::Node => running.kill_node().await,
                Event::DaemonKilled | Event::DaemonFrozen => running.lose_daemon(work.event).await,
                Event::DaemonRestarted => running.restart_daemon().await,
                Event::DaemonUpgraded => running.upgrade_daemon().await,
                Event::Idle => running.idle().await,
                Event::Health => running.health().await,
            }?;
            let shown =
                sample.iter().map(|(figure, value)| format!("{} {}", figure.title(), figure.show(*value)));
            progress(&format!("  round {round}: {}", shown.collect::<Vec<_>>().join(", ")));
            outcome.samples.push(sample);
        }
        Ok(())
    }
}

impl Running {
    async fn start(workspace: &Workspace, bench: &Bench, work: Work) -> Result<Self> {
        let options = cluster::Options {
            scope: SCOPE.to_owned(),
            store: store::Kind::Etcd,
            store_servers: 1,
            nodes: vec![bench.runner.clone(); 3],
            haproxy_check: None,
        };
        let mut cluster = Cluster::start(workspace, options, |config| {
            for (name, value) in work.settings.dynamic(bench.product).as_object().into_iter().flatten() {
                config["bootstrap"]["dcs"][name] = value.clone();
            }
        })
        .await?;
        cluster.wait_for_replicas(PATIENCE).await?;
        // A crash recovery waits until the whole data directory is on disk: what the bootstrap wrote is no part of it.
        tokio::task::spawn_blocking(rustix::fs::sync).await?;
        let writer =
            if work.event.has_writer() { Some(Writer::start(cluster.writer_options())?) } else { None };
        Ok(Self { cluster, writer, product: bench.product, settings: work.settings })
    }

    /// The client that writes.
    pub(crate) fn writer(&self) -> Result<&Writer> {
        self.writer.as_ref().context("nobody writes in this measurement")
    }

    /// Waits until all is as it should be, and then for a random moment of the daemons' rhythm. Returns the leader.
    pub(crate) async fn ready(&mut self) -> Result<usize> {
        if let Some(writer) = &self.writer {
            writer.wait_for_rows(CALM_ROWS, PATIENCE).await?;
        }
        self.wait_for_timeouts().await?;
        let leader = self.cluster.wait_for_replicas(PATIENCE).await?;
        let rhythm = self.settings.rhythm(self.product);
        tokio::time::sleep(rhythm.mul_f64(fastrand::f64())).await;
        Ok(leader)
    }

    /// Waits until `/config` has the timeouts that are to be measured, and the daemons have had time to take them up.
    async fn wait_for_timeouts(&self) -> Result<()> {
        let wanted = self.settings.timeouts(self.product);
        let mut looks = 0;
        wait_until(&format!("(ttl, loop_wait, retry_timeout) {wanted:?} in /config"), PATIENCE, || {
            looks += 1;
            async {
                let key = self.cluster.store.get(&format!("/service/{SCOPE}/config")).await?;
                let config: Value = serde_json::from_str(&key.context("no key /config")?.value)?;
                let number = |name: &str| config[name].as_u64().unwrap_or_default();
                let found = (number("ttl"), number("loop_wait"), number("retry_timeout"));
                ensure!(found == wanted, "{found:?}");
                Ok(())
            }
        })
        .await?;
        if looks > 1 {
            tokio::time::sleep(3 * self.settings.rhythm(self.product)).await;
        }
        Ok(())
    }
}
