//! What every command has: the console, the configuration, one cluster in its DCS, the REST client.

use std::{cell::OnceCell, future::Future, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use ptarmigan_config::DcsKind;
use ptarmigan_dcs::{Condition, Dcs, Written};
use ptarmigan_dcs_consul::{Consul, ConsulSettings};
use ptarmigan_dcs_etcd::{Etcd, EtcdSettings};
use ptarmigan_types::{Cluster, ClusterPath, Key, MemberName};

use crate::{
    cli::Format,
    config::Configuration,
    console::Console,
    members::{ClusterRows, Style},
    rest,
};

/// What the commands share.
pub(crate) struct Context {
    /// The standard streams.
    pub(crate) console: Console,
    /// The configuration.
    pub(crate) config: Configuration,
    /// The name that this program was called by.
    pub(crate) program: &'static str,
    client: OnceCell<rest::Client>,
}

/// What a command does on a Citus cluster where no group was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoGroup {
    /// Takes the configuration's group.
    Configured,
    /// Refuses.
    Refused,
}

/// One cluster in the DCS.
pub(crate) struct Session {
    dcs: Box<dyn Dcs>,
    /// The cluster's name.
    pub(crate) name: String,
    /// The Citus group.
    pub(crate) group: Option<i64>,
    /// No operation takes longer.
    deadline: Duration,
}

impl Context {
    /// The context of one run.
    pub(crate) fn new(console: Console, config: Configuration, program: &'static str) -> Self {
        Self { console, config, program, client: OnceCell::new() }
    }

    /// The REST client, made when it is first needed: certificates that cannot be read concern nobody else.
    ///
    /// # Errors
    /// A certificate or key cannot be used.
    pub(crate) fn client(&self) -> Result<&rest::Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = rest::Client::new(&self.config.ctl)?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The cluster that was named, by default the configuration's.
    ///
    /// # Errors
    /// There is no name, no DCS, or a group is needed.
    pub(crate) fn open(
        &self,
        cluster: Option<&str>,
        group: Option<i64>,
        no_group: NoGroup,
    ) -> Result<Session> {
        let Some(name) = cluster.or(self.config.scope.as_deref()) else {
            bail!("no cluster name was given and the configuration has no scope");
        };
        let group = match (group, self.config.citus) {
            (None, Some(configured)) if no_group == NoGroup::Configured => configured,
            (None, Some(_)) => bail!("On a Citus cluster --group must be given"),
            (group, _) => group,
        };
        let scope = group.map_or_else(|| name.to_owned(), |group| format!("{name}/{group}"));
        let path = ClusterPath::new(&self.config.namespace, &scope);
        Ok(Session {
            dcs: self.connect(path)?,
            name: name.to_owned(),
            group,
            deadline: 2 * self.config.timing.retry_timeout,
        })
    }

    fn connect(&self, path: ClusterPath) -> Result<Box<dyn Dcs>> {
        let choice = self.config.dcs()?;
        match &choice.kind {
            DcsKind::Etcd | DcsKind::Etcd3 => {
                let settings = EtcdSettings::from_config(&choice.section, choice.kind == DcsKind::Etcd)?;
                // Nothing that hangs on a lease is written, so the name is never used.
                let name = MemberName::from("ptctl");
                Ok(Box::new(Etcd::connect(&settings, path, name, self.config.timing, false)?))
            }
            DcsKind::Consul => {
                let settings = ConsulSettings::from_config(&choice.section)?;
                // Nor is a service registered, or a session made, which have the cluster's name.
                let name = MemberName::from("ptctl");
                Ok(Box::new(Consul::connect(settings, path, "", name, self.config.timing, false)?))
            }
            other @ DcsKind::Other(_) => bail!("the DCS {} is not supported", other.as_str()),
        }
    }

    /// Prints the members of a cluster as `list` does.
    ///
    /// # Errors
    /// The reader of the output is gone.
    pub(crate) fn show(&self, session: &Session, cluster: &Cluster) -> Result<()> {
        self.show_as(session, cluster, Format::Pretty)
    }

    /// The same in another format.
    ///
    /// # Errors
    /// The reader of the output is gone.
    pub(crate) fn show_as(&self, session: &Session, cluster: &Cluster, format: Format) -> Result<()> {
        let style = Style::List(format);
        self.console.write(&session.rows(cluster, false).render(style))
    }
}

impl Session {
    /// The cluster by a linearizable read.
    ///
    /// # Errors
    /// The DCS does not answer in time.
    pub(crate) async fn view(&self) -> Result<Cluster> {
        let view = self.in_time(self.dcs.view_fresh()).await?;
        Ok(view.cluster)
    }

    /// Writes a key.
    ///
    /// # Errors
    /// The DCS does not answer in time, or refuses.
    pub(crate) async fn write(&self, key: &Key, value: &str, condition: Condition) -> Result<Written> {
        self.in_time(self.dcs.write(key, value, condition)).await
    }

    /// Deletes all keys of the cluster.
    ///
    /// # Errors
    /// The DCS does not answer in time, or refuses.
    pub(crate) async fn delete_all(&self) -> Result<()> {
        self.in_time(self.dcs.delete_cluster()).await
    }

    /// The rows of this cluster.
    pub(crate) fn rows<'a>(&'a self, cluster: &'a Cluster, extended: bool) -> ClusterRows<'a> {
        ClusterRows {
            name: &self.name,
            groups: vec![(self.group, cluster)],
            only_group: self.group.is_some(),
            extended,
        }
    }

    async fn in_time<T>(
        &self,
        operation: impl Future<Output = Result<T, ptarmigan_dcs::Error>>,
    ) -> Result<T> {
        let seconds = self.deadline.as_secs();
        tokio::time::timeout(self.deadline, operation)
            .await
            .unwrap_or_else(|_| Err(ptarmigan_dcs::Error::Indeterminate(format!("none within {seconds} s"))))
            .map_err(|error| anyhow!(error))
            .with_context(|| self.dcs.describe())
    }
}
