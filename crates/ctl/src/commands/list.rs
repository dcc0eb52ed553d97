//! `list`: the members of clusters (contract C.4).

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    cli::{List, Watch},
    members::Style,
    moment,
    session::{Context, NoGroup},
};

/// How clusters are shown, once or again and again.
pub(super) struct Listing {
    pub(super) clusters: Vec<String>,
    pub(super) group: Option<i64>,
    pub(super) extended: bool,
    pub(super) timestamp: bool,
    pub(super) style: Style,
    pub(super) watch: Watch,
}

pub(super) async fn run(context: &Context, options: List) -> Result<()> {
    let listing = Listing {
        clusters: options.clusters,
        group: options.group,
        extended: options.extended,
        timestamp: options.timestamp,
        style: Style::List(options.format),
        watch: options.watch,
    };
    listing.run(context).await
}

impl Listing {
    pub(super) async fn run(mut self, context: &Context) -> Result<()> {
        if self.clusters.is_empty() {
            self.clusters.extend(context.config.scope.clone());
        }
        if self.clusters.is_empty() {
            tracing::warn!("Listing members: No cluster names were provided");
            return Ok(());
        }
        let Some(interval) = interval(&self.watch)? else { return self.show(context).await };
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            context.console.clear()?;
            self.show(context).await?;
        }
    }

    async fn show(&self, context: &Context) -> Result<()> {
        for name in &self.clusters {
            let session = context.open(Some(name), self.group, NoGroup::Refused)?;
            let cluster = session.view().await?;
            if self.timestamp {
                context.console.line(moment::timestamp())?;
            }
            context.console.write(&session.rows(&cluster, self.extended).render(self.style))?;
        }
        Ok(())
    }
}

/// `-w` wins over `-W`; `None` for once.
fn interval(watch: &Watch) -> Result<Option<Duration>> {
    let Some(seconds) = watch.watch.or_else(|| watch.every_two.then_some(2.0)) else { return Ok(None) };
    match Duration::try_from_secs_f64(seconds) {
        Ok(interval) if !interval.is_zero() => Ok(Some(interval)),
        _ => bail!("--watch must be a number of seconds above 0, not {seconds}"),
    }
}
