//! The DCS in etcd, by its v3 API (contract A.4, A.5): keys as Patroni writes them, one lease per node, a watched
//! local copy of the cluster.
//!
//! With `https` endpoints the process must be able to use rustls' ring provider; nothing needs to be installed.

mod cache;
mod connection;
mod failure;
mod leader;
mod lease;
mod nodes;
mod pool;
mod probe;
pub mod settings;
mod srv;
mod store;
mod watching;
mod writes;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use ptarmigan_dcs::{Beside, Changes, Condition, Dcs, Error, Timing, Verdict, View, Written};
use ptarmigan_types::{ClusterPath, Key, Leader, LeaseId, MemberName, Monotonic};
use serde_json::{Map, Value};
use tokio::{sync::watch, task::JoinHandle};

/// An etcd with its default election timeout grants no lease shorter than 2 s; one more for what it takes to use it.
const TTL_MIN: Duration = Duration::from_secs(3);

pub use crate::settings::EtcdSettings;
use crate::{pool::Pool, store::Store};

/// One member's handle on its cluster in etcd. Dropping it ends its watch; its lease runs out by itself.
pub struct Etcd {
    store: Arc<Store>,
    watcher: Option<JoinHandle<()>>,
}

impl Etcd {
    /// Makes a handle; asks nobody yet. `watch`: keep a local copy of the cluster ([`Dcs::view`], [`Dcs::changes`]);
    /// without it, as `ptctl` has it, each view is a linearizable read and nothing wakes [`Dcs::changes`].
    ///
    /// # Errors
    /// [`Error::Fatal`] without an endpoint, or where a watch is wanted outside of a tokio runtime.
    pub fn connect(
        settings: &EtcdSettings,
        path: ClusterPath,
        name: MemberName,
        timing: Timing,
        watch: bool,
    ) -> Result<Self, Error> {
        if settings.endpoints.is_empty() && settings.srv.is_none() {
            return Err(Error::Fatal("no address of etcd is configured".into()));
        }
        let pool = Arc::new(Pool::new(settings.clone(), timing));
        let store = Arc::new(Store::new(pool, path, name));
        let watcher = if watch {
            let runtime = tokio::runtime::Handle::try_current()
                .map_err(|error| Error::Fatal(format!("etcd needs a runtime: {error}")))?;
            Some(runtime.spawn(watching::run(Arc::clone(&store))))
        } else {
            None
        };
        Ok(Self { store, watcher })
    }

    /// Asks whether there is an etcd that can be used: within `retry_timeout`, and without waiting for one that is
    /// not there. Warns where the section was `etcd:`.
    ///
    /// # Errors
    /// [`Error::Fatal`]: wrong password, a server without the v3 API or before 3.0.4. [`Error::Unreachable`]: try
    /// again later.
    pub async fn probe(&self) -> Result<(), Error> {
        probe::probe(&self.store).await
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

#[async_trait]
impl Dcs for Etcd {
    async fn view(&self) -> Result<View, Error> {
        match self.watcher {
            Some(_) => self.store.view_watched().await,
            None => self.store.view_fresh().await,
        }
    }

    async fn view_fresh(&self) -> Result<View, Error> {
        self.store.view_fresh().await
    }

    async fn keep_lease(&self, force: bool) -> Result<LeaseId, Error> {
        let lease = self.store.refresh_lease(self.store.deadline(), force).await?;
        Ok(store::lease_id(lease.id))
    }

    async fn acquire(&self) -> Result<Verdict, Error> {
        self.store.acquire().await
    }

    async fn renew(&self, held: &Leader) -> Result<Verdict, Error> {
        self.store.renew(held, &Beside::default()).await.map(|(verdict, _)| verdict)
    }

    async fn renew_beside(&self, held: &Leader, beside: &Beside) -> Result<(Verdict, bool), Error> {
        self.store.renew(held, beside).await
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
        self.store.own_lease().map(|lease| store::lease_id(lease.id))
    }

    fn abandon_lease(&self) {
        self.store.drop_lease(None);
    }

    fn lease_due(&self) -> Option<Monotonic> {
        self.store.own_lease().map(|lease| lease.due())
    }

    fn changes(&self) -> watch::Receiver<Changes> {
        self.store.changes.subscribe()
    }

    fn set_timing(&self, timing: Timing) {
        let before = self.store.timing();
        self.store.pool.set_timing(timing);
        if before.ttl != timing.ttl {
            self.store.drop_lease(None);
        }
    }

    /// User, password and certificates: with other addresses the daemon is to be started again.
    fn reload(&self, section: &Map<String, Value>) -> Result<(), String> {
        let v2 = self.store.pool.settings().v2;
        let settings = EtcdSettings::from_config(section, v2).map_err(|error| error.to_string())?;
        self.store.pool.reload(&settings)
    }

    fn ttl_min(&self) -> Duration {
        TTL_MIN
    }

    fn describe(&self) -> String {
        let settings = self.store.pool.settings();
        match &settings.srv {
            Some(srv) => format!("etcd that DNS names for {}", srv.domain),
            None => format!("etcd at {}", self.store.pool.candidates().join(", ")),
        }
    }
}
