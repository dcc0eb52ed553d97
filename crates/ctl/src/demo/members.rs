//! The member table of the demo's cluster, read from the DCS as `ptctl list` reads it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ptarmigan_config::{CtlSettings, DcsChoice};
use ptarmigan_dcs::Timing;
use serde_json::{Map, json};

use crate::{
    cli::Format,
    config::Configuration,
    console::Console,
    members::Style,
    session::{Context, NoGroup, Session},
};

/// The table of one cluster.
pub(super) struct Members {
    session: Session,
}

impl Members {
    /// Of the cluster `scope` in the etcd at `hosts`.
    ///
    /// # Errors
    /// The addresses are none.
    pub(super) fn new(console: Console, scope: &str, hosts: &[String]) -> Result<Self> {
        let mut section = Map::new();
        section.insert("etcd3".to_owned(), json!({"hosts": hosts}));
        let seconds = Duration::from_secs;
        let config = Configuration {
            scope: Some(scope.to_owned()),
            namespace: "service".to_owned(),
            dcs: Some(DcsChoice::read(&section).context("invariant: a store is configured")?),
            ctl: CtlSettings::read(&Map::new()).0,
            timing: Timing { ttl: seconds(20), loop_wait: seconds(2), retry_timeout: seconds(2) },
            citus: None,
        };
        let session = Context::new(console, config, "ptctl").open(Some(scope), None, NoGroup::Refused)?;
        Ok(Self { session })
    }

    /// The table as it is now.
    ///
    /// # Errors
    /// etcd does not answer in time.
    pub(super) async fn table(&self) -> Result<String> {
        let cluster = self.session.view().await?;
        Ok(self.session.rows(&cluster, false).render(Style::List(Format::Pretty)))
    }
}
