//! The DCS of a cluster: etcd or Consul.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{Consul, Etcd, Workspace, consul};

/// A key as the store holds it. Its path begins with a slash, whatever the store writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The revision at which the key was created.
    pub create_revision: i64,
    /// The revision of its last change.
    pub mod_revision: i64,
    /// The lease or session that it hangs on.
    pub lease: Option<String>,
}

/// Which store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// etcd.
    #[default]
    Etcd,
    /// Consul.
    Consul,
}

impl Kind {
    /// What the variable `DCS` asks for: `etcd3`, which is the default, or `consul`.
    ///
    /// # Panics
    /// It asks for another one.
    pub fn from_env() -> Self {
        match std::env::var("DCS").as_deref() {
            Err(_) | Ok("" | "etcd3") => Self::Etcd,
            Ok("consul") => Self::Consul,
            Ok(other) => panic!("DCS={other}: it is etcd3 or consul"),
        }
    }
}

/// A running store.
#[derive(Debug)]
pub enum Store {
    /// etcd.
    Etcd(Etcd),
    /// Consul.
    Consul(Consul),
}

/// The same call on either.
macro_rules! on {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            Store::Etcd($inner) => $call,
            Store::Consul($inner) => $call,
        }
    };
}

impl Store {
    /// Starts `servers` servers and waits until they have a leader. Several servers of Consul have an agent beside the
    /// nodes, which finds its way to one that lives.
    ///
    /// # Errors
    /// It is not installed, or does not come up; the message carries its log.
    pub async fn start(workspace: &Workspace, kind: Kind, servers: usize) -> Result<Self> {
        Ok(match kind {
            Kind::Etcd => Self::Etcd(Etcd::start(workspace, servers).await?),
            Kind::Consul => {
                let agents = usize::from(servers > 1);
                let options = consul::Options { servers, agents, ..consul::Options::default() };
                Self::Consul(Consul::start_with(workspace, options).await?)
            }
        })
    }

    /// `127.0.0.1:<port>` of every server.
    pub fn hosts(&self) -> Vec<String> {
        on!(self, store => store.hosts())
    }

    /// What a node's configuration says of it: the section's name, and the section.
    pub fn section(&self) -> (String, Value) {
        match self {
            Self::Etcd(etcd) => ("etcd3".into(), json!({"hosts": etcd.hosts()})),
            Self::Consul(consul) => {
                let host = consul.agents().into_iter().chain(consul.hosts()).next();
                ("consul".into(), json!({"host": host}))
            }
        }
    }

    /// Reads a key as a majority has it; `None` where there is none.
    ///
    /// # Errors
    /// No server answers.
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        on!(self, store => store.get(key).await)
    }

    /// Reads every key that begins with `prefix`.
    ///
    /// # Errors
    /// No server answers.
    pub async fn get_prefix(&self, prefix: &str) -> Result<Vec<KeyValue>> {
        on!(self, store => store.get_prefix(prefix).await)
    }

    /// Writes a key that hangs on nothing.
    ///
    /// # Errors
    /// No server answers.
    pub async fn put(&self, key: &str, value: &str) -> Result<()> {
        on!(self, store => store.put(key, value).await)
    }

    /// Deletes a key and says whether it was there.
    ///
    /// # Errors
    /// No server answers.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        on!(self, store => store.delete(key).await)
    }

    /// Ends a lease or session, and with it every key that hangs on it.
    ///
    /// # Errors
    /// No server answers, or there is no such lease.
    pub async fn revoke(&self, lease: &str) -> Result<()> {
        on!(self, store => store.revoke(lease).await)
    }

    /// Kills a server (SIGKILL). Its data stay.
    ///
    /// # Errors
    /// There is no such server.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        on!(self, store => store.kill(index))
    }

    /// Freezes a server (SIGSTOP): its connections stay open and nobody answers.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&mut self, index: usize) -> Result<()> {
        on!(self, store => store.freeze(index))
    }

    /// Lets a frozen server go on (SIGCONT).
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&mut self, index: usize) -> Result<()> {
        on!(self, store => store.thaw(index))
    }

    /// Starts a server again with its data, after killing it where it still runs, and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn restart(&mut self, index: usize) -> Result<()> {
        on!(self, store => store.restart(index).await)
    }

    /// Which server leads.
    ///
    /// # Errors
    /// None does, or none answers.
    pub async fn leader(&self) -> Result<usize> {
        on!(self, store => store.leader().await)
    }
}
