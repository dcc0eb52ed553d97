//! The DCS in Consul, by its HTTP API (contract A.4, A.6): keys as Patroni writes them, one session per node. Every view is a read;
//! a blocking query tells when to look.
//!
//! The adapter is our own: see `docs/adr/0001-consul-client.md`.

mod former;
mod http;
mod leader;
mod probe;
mod service;
mod session;
pub mod settings;
mod store;
mod watching;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use ptarmigan_dcs::{Changes, Condition, Dcs, Error, Timing, Verdict, View, Written};
use ptarmigan_types::{ClusterPath, Key, Leader, LeaseId, MemberName, Monotonic};
use serde_json::{Map, Value};
use tokio::{sync::watch, task::JoinHandle};

pub use crate::settings::ConsulSettings;
use crate::{http::Http, settings::Consistency, store::Store};

/// Consul takes no session shorter than 10 s as it is configured by default, and that is half of it.
const TTL_MIN: Duration = Duration::from_secs(20);

/// One member's handle on its cluster in Consul. Dropping it ends its watch; its session runs out by itself.
pub struct Consul {
    store: Arc<Store>,
    watcher: Option<JoinHandle<()>>,
}

impl Consul {
    /// Makes a handle; asks nobody yet. `scope`: the cluster's name, which sessions and services carry. `watch`: wake
    /// [`Dcs::changes`], and read as `consul.consistency` has it; without it, as `ptctl` has it, nothing wakes, and every
    /// read is what a majority agrees on.
    ///
    /// # Errors
    /// [`Error::Fatal`] where a certificate cannot be used, or a watch is wanted outside of a tokio runtime.
    pub fn connect(
        settings: ConsulSettings,
        path: ClusterPath,
        scope: &str,
        name: MemberName,
        timing: Timing,
        watch: bool,
    ) -> Result<Self, Error> {
        let http = Http::new(settings, timing).map_err(Error::Fatal)?;
        let store = Arc::new(Store::new(http, path, scope.to_owned(), name));
        let watcher = if watch {
            let runtime = tokio::runtime::Handle::try_current()
                .map_err(|error| Error::Fatal(format!("Consul needs a runtime: {error}")))?;
            Some(runtime.spawn(watching::run(Arc::clone(&store))))
        } else {
            None
        };
        Ok(Self { store, watcher })
    }

    /// Asks whether there is a Consul that can be used, by asking for a session: within `retry_timeout`. Warns of an agent that
    /// takes sessions with it when it is stopped, and of `consul.checks`.
    ///
    /// # Errors
    /// Try again later.
    pub async fn probe(&self) -> Result<(), Error> {
        probe::probe(&self.store).await
    }

    fn consistency(&self) -> Consistency {
        match self.watcher {
            Some(_) => self.store.http.settings().consistency,
            None => Consistency::Consistent,
        }
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

#[async_trait]
impl Dcs for Consul {
    async fn view(&self) -> Result<View, Error> {
        self.store.view(self.consistency()).await
    }

    async fn view_fresh(&self) -> Result<View, Error> {
        self.store.view(Consistency::Consistent).await
    }

    async fn keep_lease(&self, force: bool) -> Result<LeaseId, Error> {
        let deadline = self.store.http.deadline();
        let session = self.store.refresh_session(deadline, force).await?;
        self.store.register_again(deadline).await;
        Ok(session.lease_id())
    }

    async fn acquire(&self) -> Result<Verdict, Error> {
        self.store.acquire().await
    }

    async fn renew(&self, held: &Leader) -> Result<Verdict, Error> {
        self.store.renew(held).await
    }

    async fn release(&self, held: &Leader) -> Result<bool, Error> {
        self.store.release(held).await
    }

    async fn put_member(&self, json: &str) -> Result<(), Error> {
        self.store.put_member(json).await
    }

    async fn write(&self, key: &Key, value: &str, condition: Condition) -> Result<Written, Error> {
        self.store.write(key, value, condition).await
    }

    async fn delete(&self, key: &Key, condition: Condition) -> Result<Written, Error> {
        self.store.delete(key, condition).await
    }

    async fn delete_cluster(&self) -> Result<(), Error> {
        self.store.delete_cluster().await
    }

    fn own_lease(&self) -> Option<LeaseId> {
        self.store.own_session().map(|session| session.lease_id())
    }

    fn abandon_lease(&self) {
        self.store.drop_session(None);
    }

    fn lease_due(&self) -> Option<Monotonic> {
        self.store.own_session().map(|session| session.due())
    }

    fn changes(&self) -> watch::Receiver<Changes> {
        self.store.changes.subscribe()
    }

    fn set_timing(&self, timing: Timing) {
        if self.store.http.set_timing(timing).ttl != timing.ttl {
            self.store.drop_session(None);
        }
    }

    fn reload(&self, section: &Map<String, Value>) -> Result<(), String> {
        let settings = ConsulSettings::from_config(section).map_err(|error| error.to_string())?;
        self.store.http.set_settings(settings)
    }

    fn ttl_min(&self) -> Duration {
        TTL_MIN
    }

    fn describe(&self) -> String {
        let settings = self.store.http.settings();
        let dc = settings.dc.as_ref().map(|dc| format!(", datacenter {dc}")).unwrap_or_default();
        format!("consul at {}{dc}", settings.base.origin().ascii_serialization())
    }
}
