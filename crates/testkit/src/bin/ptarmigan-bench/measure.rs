//! One product's cluster, and what is done to it.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ptarmigan_testkit::{Cluster, Workspace, Writer, cluster, node::Runner, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    progress,
    report::{Column, Outcome},
    scenario::Scenario,
};

/// Longer than any failover takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rows that must be acknowledged before something is called over: two seconds without another gap.
const CALM_ROWS: usize = 100;

/// What is measured.
pub(crate) struct Bench {
    /// Its name and version.
    pub(crate) product: String,
    /// What runs each node.
    pub(crate) runner: Runner,
    /// How often each thing is done.
    pub(crate) rounds: u32,
}

/// A cluster with a client that writes.
struct Running {
    cluster: Cluster,
    writer: Writer,
}

impl Bench {
    /// Measures all of it; what fails is in the report.
    pub(crate) async fn run(&self, scenarios: &[Scenario]) -> Column {
        let mut column = Column { product: self.product.clone(), outcomes: Vec::new(), remarks: Vec::new() };
        for scenario in scenarios {
            progress(&format!("{}: {} ({})", self.product, scenario.title(), scenario.settings()));
            let mut outcome = Outcome::default();
            // Each has a cluster of its own: what one leaves behind is not the other's load.
            if let Err(error) = self.measure(*scenario, &mut outcome, &mut column.remarks).await {
                progress(&format!("  failed: {error:#}"));
                outcome.failure = Some(format!("{error:#}").lines().next().unwrap_or_default().to_owned());
            }
            column.outcomes.push((*scenario, outcome));
        }
        column
    }

    async fn measure(
        &self,
        scenario: Scenario,
        outcome: &mut Outcome,
        remarks: &mut Vec<String>,
    ) -> Result<()> {
        let workspace = Workspace::new("bench")?;
        let options = cluster::Options {
            scope: "bench".to_owned(),
            etcd_members: 1,
            nodes: vec![self.runner.clone(); 3],
            haproxy_check: None,
        };
        let mut cluster = Cluster::start(&workspace, options, |config| {
            for (name, value) in scenario.dynamic().as_object().into_iter().flatten() {
                config["bootstrap"]["dcs"][name] = value.clone();
            }
        })
        .await?;
        cluster.wait_for_replicas(PATIENCE).await?;
        let writer = Writer::start(cluster.writer_options())?;
        let mut running = Running { cluster, writer };
        for round in 1..=self.rounds {
            running.writer.wait_for_rows(CALM_ROWS, PATIENCE).await?;
            let sample = match scenario {
                Scenario::Switchover => running.switchover().await?,
                Scenario::Postmaster => running.kill_postmaster().await?,
                Scenario::Node => running.kill_node().await?,
                Scenario::Memory => running.memory().await?,
            };
            progress(&format!("  round {round}: {}", scenario.show(sample)));
            outcome.samples.push(sample);
        }
        if scenario == Scenario::Memory {
            remarks.extend(running.guardian_memory().map(|size| {
                format!("{}: each daemon's guardian takes {} besides.", self.product, scenario.show(size))
            }));
        }
        Ok(())
    }
}

impl Running {
    async fn switchover(&mut self) -> Result<f64> {
        let leader = self.cluster.wait_for_replicas(PATIENCE).await?;
        self.offset().await;
        self.writer.mark();
        self.cluster.switchover(leader, Some((leader + 1) % self.cluster.nodes.len())).await?;
        self.gap().await
    }

    async fn kill_postmaster(&mut self) -> Result<f64> {
        let leader = self.cluster.wait_for_replicas(PATIENCE).await?;
        self.offset().await;
        self.writer.mark();
        kill_process(self.cluster.nodes[leader].postmaster_pid()?, Signal::KILL)?;
        let gap = self.gap().await?;
        let now = self.cluster.wait_for_leader(PATIENCE).await?;
        ensure!(now == leader, "another node took over: it was not recovered in place");
        Ok(gap)
    }

    async fn kill_node(&mut self) -> Result<f64> {
        let leader = self.cluster.wait_for_replicas(PATIENCE).await?;
        self.offset().await;
        self.writer.mark();
        self.cluster.nodes[leader].kill_machine().await?;
        let gap = self.gap().await?;
        self.cluster.nodes[leader].start()?;
        Ok(gap)
    }

    /// The largest of the three daemons, in MB, after they have changed roles once more.
    async fn memory(&mut self) -> Result<f64> {
        self.switchover().await?;
        let mut largest: f64 = 0.0;
        for node in &mut self.cluster.nodes {
            largest = largest.max(resident_mb(node.daemon_pid().context("a daemon has ended")?)?);
        }
        Ok(largest)
    }

    fn guardian_memory(&self) -> Option<f64> {
        let sizes = self.cluster.nodes.iter().filter_map(|node| resident_mb(node.guardian_pid()?).ok());
        sizes.reduce(f64::max)
    }

    /// Some moment of the products' own rhythm, which is `loop_wait`.
    async fn offset(&self) {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..5_000))).await;
    }

    /// The time without an acknowledged write, once writes flow again and the node that takes them has the lock.
    async fn gap(&self) -> Result<f64> {
        wait_until("the gap", PATIENCE, || async {
            let over = self.writer.longest_gap() > Duration::from_millis(100);
            ensure!(over, "writes never stopped");
            Ok(())
        })
        .await?;
        self.writer.wait_for_rows(CALM_ROWS, PATIENCE).await?;
        Ok(self.writer.longest_gap().as_secs_f64())
    }
}

/// The process's resident memory in MB (10^6 bytes).
fn resident_mb(pid: Pid) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}
