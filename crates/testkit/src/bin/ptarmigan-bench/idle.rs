//! What a cluster costs while nothing happens: memory, CPU time, requests to etcd.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ptarmigan_testkit::{Node, http::Request, process::SERVERS};
use rustix::process::Pid;

use crate::{
    figure::{Figure, Sample},
    measure::{PATIENCE, Running},
    progress,
};

/// After its bootstrap a cluster is left alone for two cycles before it counts as idle.
const CALM: Duration = Duration::from_secs(25);
const WINDOW: Duration = Duration::from_secs(60);
/// `/proc` counts CPU time in hundredths of a second on every architecture.
const TICK_MS: f64 = 10.0;

const MESSAGES: &str = "grpc_server_msg_received_total";

/// What etcd has counted.
#[derive(Clone, Debug, Default, PartialEq)]
struct Etcd {
    calls: f64,
    messages: f64,
    /// What the messages are, by method.
    methods: BTreeMap<String, f64>,
}

impl Running {
    /// Waits until nothing of the bootstrap is left to be done.
    pub(crate) async fn calm_down(&mut self) -> Result<()> {
        self.cluster.wait_for_replicas(PATIENCE).await?;
        tokio::time::sleep(CALM).await;
        Ok(())
    }

    /// Looks, waits for a minute without a single request of our own to daemons, and looks again.
    pub(crate) async fn idle(&mut self) -> Result<Sample> {
        let etcd = self.etcd_counters().await?;
        let (since, before) = (ptarmigan_clock::now(), self.ticks()?);
        tokio::time::sleep(WINDOW).await;
        let after = self.ticks()?;
        let minutes = ptarmigan_clock::now().since(since).as_secs_f64() / 60.0;
        let etcd_after = self.etcd_counters().await?;
        let mut received = etcd_after.methods;
        for (method, count) in &mut received {
            *count -= etcd.methods.get(method).copied().unwrap_or(0.0);
        }
        received.retain(|_, count| *count > 0.0);
        progress(&format!("  etcd received {received:?}"));
        let mut spent = 0;
        for (pid, ticks) in &before {
            spent += after.get(pid).with_context(|| format!("process {pid} has ended"))? - ticks;
        }
        ensure!(before.len() == after.len(), "processes have come: {before:?}, {after:?}");
        let mut memory: f64 = 0.0;
        for node in &self.cluster.nodes {
            let mut kib = 0;
            for pid in managers(node) {
                kib += pss_kib(&proc_file(pid, "smaps_rollup")?)?;
            }
            memory = memory.max(f64::from(kib) * 1024.0 / 1e6);
        }
        let nodes = f64::from(u32::try_from(self.cluster.nodes.len())?);
        Ok(vec![
            (Figure::Memory, memory),
            (Figure::Cpu, f64::from(spent) * TICK_MS / nodes / minutes),
            (Figure::EtcdCalls, (etcd_after.calls - etcd.calls) / minutes),
            (Figure::EtcdMessages, (etcd_after.messages - etcd.messages) / minutes),
        ])
    }

    /// The CPU time of every manager process of every node.
    fn ticks(&mut self) -> Result<BTreeMap<i32, u32>> {
        let mut found = BTreeMap::new();
        for node in &mut self.cluster.nodes {
            let daemon = node.daemon_pid().with_context(|| format!("{} has ended", node.name()))?;
            let pids = managers(node);
            ensure!(pids.contains(&daemon), "{} is not among its processes", node.name());
            for pid in pids {
                found.insert(pid.as_raw_pid(), cpu_ticks(&proc_file(pid, "stat")?)?);
            }
        }
        Ok(found)
    }

    async fn etcd_counters(&self) -> Result<Etcd> {
        let mut sum = Etcd::default();
        for address in self.cluster.store.hosts() {
            let metrics = Request::new("GET", &address, "/metrics").send().await?.body;
            sum.calls += counter(&metrics, "grpc_server_handled_total")?;
            sum.messages += counter(&metrics, MESSAGES)?;
            for sample in metrics.lines().filter_map(|line| line.strip_prefix(MESSAGES)?.strip_prefix('{')) {
                let (labels, value) = sample.rsplit_once("} ").context("no value")?;
                let method = labels.split('"').nth(1).context("no method")?;
                *sum.methods.entry(method.to_owned()).or_insert(0.0) += value.parse::<f64>()?;
            }
        }
        Ok(sum)
    }
}

/// The node's processes without PostgreSQL's.
fn managers(node: &Node) -> Vec<Pid> {
    let processes = node.processes();
    let others = processes.iter().filter(|found| !SERVERS.contains(&found.name.as_str()));
    others.map(|found| found.pid).collect()
}

fn proc_file(pid: Pid, name: &str) -> Result<String> {
    let path = format!("/proc/{}/{name}", pid.as_raw_pid());
    fs::read_to_string(&path).context(path)
}

/// `utime` and `stime` of `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Result<u32> {
    // the name before it may hold anything
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let mut times = fields.split(' ').skip(11);
    let mut next = || -> Result<u32> { Ok(times.next().context("stat is too short")?.parse()?) };
    Ok(next()? + next()?)
}

/// `Pss` of `/proc/PID/smaps_rollup`, in KiB.
fn pss_kib(rollup: &str) -> Result<u32> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// The sum of a counter over its labels, in Prometheus' text format.
fn counter(metrics: &str, name: &str) -> Result<f64> {
    let samples = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let (mut sum, mut count) = (0.0, 0);
    for sample in samples {
        let (_, value) = sample.rsplit_once("} ").with_context(|| format!("{name}: {sample}"))?;
        sum += value.parse::<f64>()?;
        count += 1;
    }
    ensure!(count > 0, "etcd does not count {name}");
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 4363 0 13 0 25 17 3 4 20 0 2 0 75 9 8 7";
        assert_eq!(cpu_ticks(stat).unwrap(), 42);
        assert!(cpu_ticks("42 (a) S 1").is_err());
        assert!(cpu_ticks("").is_err());
    }

    #[test]
    fn pss_is_the_line_of_that_name() {
        let rollup = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nPss:       4321 kB\n\
                      Pss_Dirty:  1 kB\n";
        assert_eq!(pss_kib(rollup).unwrap(), 4321);
        assert!(pss_kib("Rss: 1 kB\n").is_err());
    }

    #[test]
    fn a_counter_is_summed_over_its_labels_and_must_be_there() {
        let metrics = "# HELP grpc_server_handled_total Total number\n\
                       grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Txn\"} 12\n\
                       grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\"} 1.5e+03\n\
                       grpc_server_handled_total_other{grpc_code=\"OK\"} 7\n\
                       grpc_server_msg_sent_total{grpc_method=\"Put\"} 9\n";
        assert!((counter(metrics, "grpc_server_handled_total").unwrap() - 1512.0).abs() < 1e-9);
        assert!(counter(metrics, "grpc_server_msg_received_total").is_err());
    }
}
