//! Health checks as fast as they are answered, with `wrk`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ptarmigan_testkit::{
    Node,
    process::{self, SERVERS},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    figure::{Figure, Sample},
    measure::Running,
};

/// How long wrk asks.
pub(crate) const SECONDS: u32 = 5;
const CONNECTIONS: u64 = 64;

/// What wrk has seen.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Wrk {
    answers: u64,
    /// Answers whose status is neither 2xx nor 3xx.
    refusals: u64,
    per_second: f64,
    /// The 99th percentile of the latency, in milliseconds.
    latency_ms: f64,
}

impl Running {
    /// The rate of `GET /primary`, and its latency while PostgreSQL is stopped.
    pub(crate) async fn health(&mut self) -> Result<Sample> {
        let leader = self.ready().await?;
        let node = &self.cluster.nodes[leader];
        let usual = wrk(node).await?;
        ensure!(usual.refusals == 0, "{} of {} answers were not 200", usual.refusals, usual.answers);
        ensure!(usual.answers > 0, "no answer");
        let stopped = Stopped::new(node)?;
        let meanwhile = wrk(node).await?;
        drop(stopped);
        // at least one connection has waited all the time
        let latency = if meanwhile.answers < CONNECTIONS { f64::INFINITY } else { meanwhile.latency_ms };
        Ok(vec![(Figure::HealthRate, usual.per_second), (Figure::HealthLatency, latency)])
    }
}

/// A PostgreSQL that stands still until this is dropped.
struct Stopped {
    processes: Vec<Pid>,
}

impl Stopped {
    fn new(node: &Node) -> Result<Self> {
        let postmaster = node.postmaster_pid()?;
        // the postmaster first: it starts no other process meanwhile
        kill_process(postmaster, Signal::STOP)?;
        let mut stopped = Self { processes: vec![postmaster] };
        let found = node.processes();
        for process in found.iter().filter(|found| SERVERS.contains(&found.name.as_str())) {
            // a backend may have ended since
            let _ = kill_process(process.pid, Signal::STOP);
            stopped.processes.push(process.pid);
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.processes {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

async fn wrk(node: &Node) -> Result<Wrk> {
    let mut command = process::bare_command("wrk");
    command.args(["-t2", &format!("-c{CONNECTIONS}"), &format!("-d{SECONDS}s"), "--latency"]);
    // wrk leaves an answer that takes longer than this out of the latencies
    command.args(["--timeout", "60s", &format!("http://{}/primary", node.rest_address())]);
    let output = process::run(command, Duration::from_secs(60)).await;
    let output = output.context("is wrk installed? `make setup` installs it on Debian")?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(text: &str) -> Result<Wrk> {
    let value = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let answers = text
        .lines()
        .find_map(|line| line.split_once(" requests in ")?.0.trim().parse().ok())
        .with_context(|| format!("no \"requests in\": {text}"))?;
    let per_second = value("Requests/sec:").with_context(|| format!("no \"Requests/sec:\": {text}"))?;
    let latency = value("99%").with_context(|| format!("no \"99%\": {text}"))?;
    Ok(Wrk {
        answers,
        refusals: value("Non-2xx or 3xx responses:").map_or(Ok(0), str::parse)?,
        per_second: per_second.parse()?,
        latency_ms: milliseconds(latency)?,
    })
}

/// `1.23ms`
fn milliseconds(text: &str) -> Result<f64> {
    // the longest unit first: `s` ends all of them
    for (unit, factor) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3600e3)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("not a time: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERED: &str = "\
Running 5s test @ http://127.0.0.1:8008/primary
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.21ms  300.00us   9.32ms   81.01%
    Req/Sec    26.05k     1.50k   29.00k    60.00%
  Latency Distribution
     50%    1.10ms
     75%    1.42ms
     90%    1.80ms
     99%    2.61ms
  259311 requests in 5.00s, 170.11MB read
  Non-2xx or 3xx responses: 17
Requests/sec:  51844.12
Transfer/sec:     34.01MB
";

    #[test]
    fn what_wrk_prints_is_read() {
        let wrk = parse(ANSWERED).unwrap();
        assert_eq!(wrk, Wrk { answers: 259_311, refusals: 17, per_second: 51_844.12, latency_ms: 2.61 });
        let without = ANSWERED.replace("  Non-2xx or 3xx responses: 17\n", "");
        assert_eq!(parse(&without).unwrap().refusals, 0);
    }

    #[test]
    fn output_without_a_figure_is_an_error() {
        for line in [
            "     99%    2.61ms\n",
            "Requests/sec:  51844.12\n",
            "  259311 requests in 5.00s, 170.11MB read\n",
        ] {
            assert!(parse(&ANSWERED.replace(line, "")).is_err(), "{line}");
        }
        assert!(parse("unable to connect").is_err());
    }

    #[test]
    fn every_unit_of_wrk_is_known() {
        for (text, expected) in [("950.00us", 0.95), ("2.61ms", 2.61), ("4.90s", 4900.0), ("1.50m", 90_000.0)]
        {
            assert!((milliseconds(text).unwrap() - expected).abs() < 1e-6, "{text}");
        }
        assert!(milliseconds("-nan").is_err());
    }
}
