//! What interrupts a client: a switchover, a dead postmaster, a dead node.

use anyhow::{Result, ensure};
use ptarmigan_testkit::wait_until;
use rustix::process::{Signal, kill_process};

use crate::{
    figure::{Figure, Sample},
    measure::{CALM_ROWS, PATIENCE, Running},
};

impl Running {
    /// A planned switchover to the next node.
    pub(crate) async fn switchover(&mut self) -> Result<Sample> {
        let leader = self.ready().await?;
        self.writer()?.mark();
        self.cluster.switchover(leader, Some((leader + 1) % self.cluster.nodes.len())).await?;
        self.gap_until_another_than(leader).await
    }

    /// SIGKILL to the primary's postmaster; the same node must recover.
    pub(crate) async fn kill_postmaster(&mut self) -> Result<Sample> {
        let leader = self.ready().await?;
        let writer = self.writer()?;
        let failed = writer.failed().len();
        writer.mark();
        kill_process(self.cluster.nodes[leader].postmaster_pid()?, Signal::KILL)?;
        wait_until("the client to notice", PATIENCE, || async {
            ensure!(writer.failed().len() > failed, "no statement failed");
            Ok(())
        })
        .await?;
        let sample = self.gap_so_far().await?;
        let now = self.cluster.wait_for_leader(PATIENCE).await?;
        ensure!(now == leader, "another node took over: it was not recovered in place");
        Ok(sample)
    }

    /// SIGKILL to the daemon, its guardian and every PostgreSQL process at once.
    pub(crate) async fn kill_node(&mut self) -> Result<Sample> {
        let leader = self.ready().await?;
        self.writer()?.mark();
        self.cluster.nodes[leader].kill_machine().await?;
        let sample = self.gap_until_another_than(leader).await?;
        self.cluster.nodes[leader].start()?;
        Ok(sample)
    }

    /// The gap, once rows of another node come and go on coming.
    async fn gap_until_another_than(&self, old: usize) -> Result<Sample> {
        let writer = self.writer()?;
        wait_until("rows of another primary", PATIENCE, || async {
            let last = writer.last_acknowledged();
            ensure!(last.is_some_and(|row| row.target != old), "the last row is {last:?}");
            Ok(())
        })
        .await?;
        self.gap_so_far().await
    }

    async fn gap_so_far(&self) -> Result<Sample> {
        let writer = self.writer()?;
        writer.wait_for_rows(CALM_ROWS, PATIENCE).await?;
        Ok(vec![(Figure::Gap, writer.longest_gap().as_secs_f64())])
    }
}
