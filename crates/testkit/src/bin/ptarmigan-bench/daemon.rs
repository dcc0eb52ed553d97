//! What becomes of a primary whose daemon is gone, for good or for a moment.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ptarmigan_testkit::{
    Node, Prober,
    prober::{self, Write},
    wait_until,
    writer::Acknowledged,
};
use ptarmigan_types::Monotonic;
use rustix::process::{Signal, kill_process};

use crate::{
    figure::{Figure, Sample},
    measure::{CALM_ROWS, PATIENCE, Running},
    scenario::Event,
};

/// How often the prober tries to write on every node.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// How long everybody is watched once another node writes, or the daemon is back.
const WATCHED: Duration = Duration::from_secs(5);
/// How long a daemon is away that is started again.
const AWAY: Duration = Duration::from_secs(1);

impl Running {
    /// The primary's daemon is killed or frozen, and nobody helps until another node has led for a while.
    pub(crate) async fn lose_daemon(&mut self, way: Event) -> Result<Sample> {
        let old = self.ready().await?;
        let since = ptarmigan_clock::now();
        let nodes = self.cluster.nodes.iter().map(Node::postgres_config).collect();
        let mut prober = Prober::start(nodes, PROBE_INTERVAL)?;
        wait_until("the prober's first rows", PATIENCE, || async {
            ensure!(prober.writes().len() >= CALM_ROWS, "{} rows", prober.writes().len());
            Ok(())
        })
        .await?;
        self.writer()?.mark();
        let node = &mut self.cluster.nodes[old];
        if way == Event::DaemonFrozen {
            node.signal(Signal::STOP)?;
        } else {
            node.kill_daemon()?;
        }
        let new = wait_until("rows of another primary", PATIENCE, || async {
            prober.writes().iter().map(|row| row.node).find(|node| *node != old).context("none")
        })
        .await?;
        self.watch().await?;
        let writer = self.writer()?;
        let gap = writer.longest_gap();
        prober.stop();
        let (probes, rows) = (prober.writes(), writer.acknowledged());
        let lost = lost_rows(&self.cluster.nodes[new], old, since, &probes, &rows).await?;
        let node = &mut self.cluster.nodes[old];
        if way == Event::DaemonFrozen {
            node.signal(Signal::CONT)?;
        } else {
            node.start()?;
        }
        Ok(vec![
            (Figure::RowsLost, f64::from(u32::try_from(lost)?)),
            (Figure::TwoPrimaries, prober::overlap(&probes).as_secs_f64() * 1e3),
            (Figure::Gap, gap.as_secs_f64()),
        ])
    }

    /// The primary's daemon is killed and started again before its lease ends.
    pub(crate) async fn restart_daemon(&mut self) -> Result<Sample> {
        let leader = self.ready().await?;
        let failed = self.writer()?.failed().len();
        self.writer()?.mark();
        self.cluster.nodes[leader].kill_daemon()?;
        tokio::time::sleep(AWAY).await;
        self.cluster.nodes[leader].start()?;
        self.went_on(leader, failed).await
    }

    /// The primary's daemon, and the guardian with it, execute their programs anew.
    pub(crate) async fn upgrade_daemon(&mut self) -> Result<Sample> {
        let leader = self.ready().await?;
        let failed = self.writer()?.failed().len();
        let log = self.cluster.nodes[leader].log_path();
        let already = fs::read(&log)?.len();
        self.writer()?.mark();
        let daemon = self.cluster.nodes[leader].daemon_pid().context("the daemon has ended")?;
        kill_process(daemon, Signal::USR2)?;
        wait_until("the upgraded daemon in the log", PATIENCE, || async {
            let log = fs::read(&log)?;
            let news = String::from_utf8_lossy(log.get(already..).unwrap_or_default()).into_owned();
            for line in ["the guardian was upgraded in place", "taking care of the running PostgreSQL"] {
                ensure!(news.contains(line), "no line \"{line}\"");
            }
            Ok(())
        })
        .await?;
        self.went_on(leader, failed).await
    }

    /// Lets some time go by in which the client must write.
    async fn watch(&self) -> Result<()> {
        let rows = self.writer()?.wait_for_rows(CALM_ROWS, PATIENCE);
        let (rows, ()) = tokio::join!(rows, tokio::time::sleep(WATCHED));
        rows
    }

    /// The client's failures and longest gap, once the same node has led for a while.
    async fn went_on(&mut self, leader: usize, failed_before: usize) -> Result<Sample> {
        let now = self.cluster.wait_for_replicas(PATIENCE).await?;
        ensure!(now == leader, "another node took over");
        self.watch().await?;
        let writer = self.writer()?;
        let failed = writer.failed().len() - failed_before;
        ensure!(self.cluster.nodes[leader].is_primary().await, "it is no primary any more");
        Ok(vec![
            (Figure::FailedStatements, f64::from(u32::try_from(failed)?)),
            (Figure::Gap, writer.longest_gap().as_secs_f64()),
        ])
    }
}

/// How many rows of `old` since then the node `new` does not have, the prober's and the client's.
async fn lost_rows(
    new: &Node,
    old: usize,
    since: Monotonic,
    probes: &[Write],
    rows: &[Acknowledged],
) -> Result<usize> {
    let client = new.connect().await?;
    let mut lost = 0;
    let of_prober = probes.iter().filter(|row| row.node == old && row.sent >= since).map(|row| row.id);
    let of_writer = rows.iter().filter(|row| row.target == old && row.sent >= since).map(|row| row.id);
    let tables: [(&str, Vec<i64>); 2] =
        [("ptarmigan_probe", of_prober.collect()), ("ptarmigan_writes", of_writer.collect())];
    for (table, acknowledged) in tables {
        ensure!(!acknowledged.is_empty(), "the old primary acknowledged no row in {table}");
        let present = client.query(&format!("SELECT id FROM {table}"), &[]).await?;
        let present = present.iter().map(|row| row.try_get(0)).collect::<Result<BTreeSet<i64>, _>>()?;
        lost += missing(&acknowledged, &present);
    }
    Ok(lost)
}

/// How many of the acknowledged rows are not there.
fn missing(acknowledged: &[i64], present: &BTreeSet<i64>) -> usize {
    acknowledged.iter().filter(|id| !present.contains(id)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_was_acknowledged_and_is_not_there_is_lost() {
        let present = BTreeSet::from([1, 2, 4, 9]);
        assert_eq!(missing(&[1, 2, 3, 4, 5], &present), 2);
        assert_eq!(missing(&[], &present), 0);
        assert_eq!(missing(&[9, 1], &present), 0);
    }
}
