//! The distributed configuration store (DCS) as the agent and `ptctl` use it: one trait, an in-memory store,
//! and the conformance suite that every store must pass.

mod changes;
pub mod conformance;
pub mod memory;

use std::time::Duration;

use async_trait::async_trait;
use ptarmigan_types::{Cluster, Key, Leader, LeaseId, Monotonic, Revision};
use serde_json::{Map, Value};
use tokio::sync::watch;

/// Why an operation on the store has no answer. "The store said no" is not an error: see [`Verdict::Refused`]
/// and [`Written::Conflict`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing was sent, or the answer says that nothing was applied: certainly without effect.
    #[error("DCS is not accessible: {0}")]
    Unreachable(String),
    /// The request was sent and no answer came: it may or may not have been applied.
    #[error("DCS gave no answer, the request may have been carried out: {0}")]
    Indeterminate(String),
    /// The store answered with a definite error to something else than an operation on the leader key
    /// (those report [`Verdict::Refused`]): no permission, no space, invalid request.
    #[error("DCS refused: {0}")]
    Refused(String),
    /// The credentials are wrong or the server cannot be used at all; retrying is pointless.
    #[error("DCS cannot be used: {0}")]
    Fatal(String),
}

/// The proof that a lease was alive: what leadership may be built on (DESIGN, "The lease").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The lease that the leader key hangs on.
    pub lease: LeaseId,
    /// When the last *answered* grant or keep-alive of this lease was *sent*. A put or a read never moves it.
    pub sent_at: Monotonic,
    /// The TTL that the store granted, read back; it may be more than was asked for.
    pub ttl: Duration,
    /// `create_revision` of the leader key that was compared, or that the race created.
    pub create_revision: Revision,
}

impl Grant {
    /// The earliest moment at which the store may give the lock to somebody else.
    pub fn valid_until(&self) -> Monotonic {
        self.sent_at + self.ttl
    }
}

/// The answer to an operation on the leader key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The key is ours, on a living lease of ours.
    Held(Grant),
    /// Definitely not ours (contract A.5, "False"), with the reason.
    Refused(String),
}

/// On what a write depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    Always,
    /// The key does not exist.
    Absent,
    /// The key's revision is this one.
    Revision(Revision),
}

/// The answer to a write or a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Applied; the key's new revision (of a delete: the store's).
    Applied(Revision),
    /// The condition did not hold; nothing changed.
    Conflict,
}

/// A parsed snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The parsed keys.
    pub cluster: Cluster,
    /// When the store was last known to show this: of a watched view, the moment of the call.
    pub at: Monotonic,
}

/// Timing that follows the dynamic configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// TTL of the lease. A change drops the lease: the old one runs out by itself (contract A.5).
    pub ttl: Duration,
    /// The longest sleep between two cycles; an unforced refresh of the lease happens at most this often.
    pub loop_wait: Duration,
    /// The budget of one operation, its repetitions included.
    pub retry_timeout: Duration,
}

/// What changed in the watched prefix since the start; each number only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// `/leader` was written with another value, created or deleted.
    pub leader: u64,
    /// `/config` changed.
    pub config: u64,
    /// `/status` or `/optime/leader` changed.
    pub status: u64,
    /// `/failover` changed.
    pub failover: u64,
    /// A member key changed.
    pub members: u64,
    /// Anything else below the prefix, or the watch was re-established.
    pub other: u64,
}

/// What a leader has to publish when it renews its lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// For `/status`.
    pub status: Option<String>,
    /// For our member key.
    pub member: Option<String>,
}

/// A store, seen by one member of one cluster. Every operation is bounded by [`Timing::retry_timeout`].
#[async_trait]
pub trait Dcs: Send + Sync {
    /// The cluster, from the watched local copy where the store has one. A copy whose watch is broken is rebuilt
    /// first; while that fails this is an error (contract A.5). Own writes are visible at once.
    async fn view(&self) -> Result<View, Error>;

    /// The cluster by a linearizable read that bypasses every copy.
    async fn view_fresh(&self) -> Result<View, Error>;

    /// Makes sure that this node has a living lease: refreshes it where it is due ([`Dcs::lease_due`]; `force`: always), and asks
    /// for a new one where it is lost.
    async fn keep_lease(&self, force: bool) -> Result<LeaseId, Error>;

    /// Races for the leader lock: refreshes the lease first, then creates the key if it does not exist.
    async fn acquire(&self) -> Result<Verdict, Error>;

    /// Renews the lock: refreshes the lease (always), then compares the leader key's value, lease and create
    /// revision linearizably. A key with our name, the create revision of `held` and another lease (a former run of
    /// this daemon, or a lease that was lost) is put again on our lease. A missing or re-created key is refused.
    async fn renew(&self, held: &Leader) -> Result<Verdict, Error>;

    /// [`Dcs::renew`]; a store that can carries `beside` in the same request, applied only where the lock is held. Says
    /// too whether it was written; elsewhere that is left to the caller.
    async fn renew_beside(&self, held: &Leader, beside: &Beside) -> Result<(Verdict, bool), Error> {
        let _ = beside;
        Ok((self.renew(held).await?, false))
    }

    /// Deletes the leader key if its value is our name and its create revision that of `held`.
    /// `Ok(false)`: it was not ours any more.
    async fn release(&self, held: &Leader) -> Result<bool, Error>;

    /// Writes our member key on our lease.
    async fn put_member(&self, json: &str) -> Result<(), Error>;

    /// Writes a key without a lease.
    async fn write(&self, key: &Key, value: &str, condition: Condition) -> Result<Written, Error>;

    /// Deletes a key.
    async fn delete(&self, key: &Key, condition: Condition) -> Result<Written, Error>;

    /// Deletes every key of the cluster.
    async fn delete_cluster(&self) -> Result<(), Error>;

    /// The lease that this node writes its keys with, as far as it is known without asking.
    fn own_lease(&self) -> Option<LeaseId>;

    /// Leaves our lease, and what hangs on it, to run out: whatever is written next hangs on another one.
    fn abandon_lease(&self);

    /// From when on the lease must be refreshed ([`ptarmigan_types::lease::refresh_after`]); `None` where there is none.
    fn lease_due(&self) -> Option<Monotonic>;

    /// Wakes whoever waits for a change below the prefix.
    fn changes(&self) -> watch::Receiver<Changes>;

    /// Applies new timing.
    fn set_timing(&self, timing: Timing);

    /// Takes over what a reload of the configuration may change, as far as the store has it: credentials, certificates, services.
    /// `section`: its section of the configuration.
    ///
    /// # Errors
    /// Names the key and the reason; the former settings stay.
    fn reload(&self, section: &Map<String, Value>) -> Result<(), String>;

    /// The shortest TTL that the store keeps.
    fn ttl_min(&self) -> Duration;

    /// One line for the log: kind and endpoints, without credentials.
    fn describe(&self) -> String;
}
