//! Failsafe mode of this node: what it promised, and what everybody promised it (contract B.15). The rules are the core's
//! ([`ptarmigan_ha::failsafe`]); here are the lock that REST, the race and the promotion share, the file, and the round.

mod promise_file;
mod round;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use promise_file::PromiseFile;
use ptarmigan_ha::{
    failsafe::{Ledger, Promise, Refusal, Standing, with_positions, with_promised_leader},
    observation::JobKind,
};
use ptarmigan_types::{Cluster, FailsafeRequest, Lsn, MemberName, Monotonic, Role};
pub use round::ask;

use crate::{kept_file, node::Node};

/// The node's side of failsafe mode.
#[derive(Debug)]
pub struct Failsafe {
    ledger: Mutex<Ledger>,
    file: Arc<PromiseFile>,
    /// Held while the file is written or removed.
    writing: tokio::sync::Mutex<()>,
    own: Mutex<Own>,
}

/// What everybody promised this node.
#[derive(Clone, Debug, Default)]
struct Own {
    until: Option<Monotonic>,
    positions: BTreeMap<MemberName, Lsn>,
}

/// Why a promise is not given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The core says no.
    #[error("{0}")]
    Refused(Refusal),
    /// It would not survive the daemon.
    #[error("the promise cannot be stored: {0}")]
    Store(#[from] kept_file::Error),
}

/// A race or a promotion under way: no promise is given meanwhile.
#[derive(Debug)]
pub struct UnderWay<'f>(&'f Failsafe);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.ledger().end();
    }
}

impl Failsafe {
    /// With what an earlier life of the daemon promised.
    pub fn new(file: PromiseFile) -> Self {
        let promise = file.read(ptarmigan_clock::now());
        if let Some(promise) = &promise {
            tracing::info!("this node promised {} not to lead, in failsafe mode", promise.to);
        }
        Self {
            ledger: Mutex::new(Ledger::with(promise)),
            file: Arc::new(file),
            writing: tokio::sync::Mutex::default(),
            own: Mutex::default(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A race or a promotion begins; it is over when the answer is dropped.
    ///
    /// # Errors
    /// It must not: that one has this node's promise.
    pub fn begin(&self) -> Result<UnderWay<'_>, MemberName> {
        self.ledger().begin(ptarmigan_clock::now())?;
        Ok(UnderWay(self))
    }

    /// The promise that holds at `now`.
    pub fn promise(&self, now: Monotonic) -> Option<Promise> {
        self.ledger().promise(now).cloned()
    }

    /// Until when failsafe mode is active here, as the health checks show it: a promise given, or a round that passed.
    pub fn active_until(&self) -> Option<Monotonic> {
        let given = self.promise(ptarmigan_clock::now()).map(|promise| promise.until);
        given.max(self.own().until)
    }

    /// Everybody promised.
    fn passed(&self, until: Monotonic, positions: BTreeMap<MemberName, Lsn>) {
        *self.own() = Own { until: Some(until), positions };
    }

    /// The last round did not pass.
    fn failed(&self) {
        *self.own() = Own::default();
    }

    async fn store(&self, promise: &Promise, now: Monotonic) -> Result<(), kept_file::Error> {
        let _writing = self.writing.lock().await;
        let (file, promise) = (Arc::clone(&self.file), promise.clone());
        let stored = tokio::task::spawn_blocking(move || file.write(&promise, now)).await;
        stored.unwrap_or_else(|_| Err(kept_file::Error::interrupted()))
    }

    /// The promise that lasts until then is not owed any more (contract HA-022, HA-256), and no round counts.
    pub async fn forget(&self, until: Option<Monotonic>) {
        self.failed();
        let Some(until) = until else { return };
        self.ledger().forget(until);
        let _writing = self.writing.lock().await;
        if self.promise(ptarmigan_clock::now()).is_some() {
            return;
        }
        let file = Arc::clone(&self.file);
        if let Err(error) = tokio::task::spawn_blocking(move || file.remove()).await.unwrap_or(Ok(())) {
            tracing::warn!("the promise of failsafe mode stays: {error}");
        }
    }
}

/// Contract FS-6 to FS-8: the promise is stored before it is given. Answers with this node's position.
///
/// # Errors
/// It is refused.
pub async fn promise(node: &Node, request: &FailsafeRequest) -> Result<Option<Lsn>, Error> {
    let now = ptarmigan_clock::now();
    let standing = standing(node, now);
    let before = node.failsafe.promise(now);
    let promise = node.failsafe.ledger().give(&standing, request, now).map_err(Error::Refused)?;
    node.failsafe.store(&promise, now).await?;
    if before.is_none() {
        tracing::warn!(
            "{} has lost the DCS; promised not to lead for the next {:?}",
            promise.to,
            promise.until.since(now)
        );
        // The view of the next cycle has that leader in it (LV-2).
        node.wake();
    }
    crate::publish::publish(node);
    let known = node.known();
    let figures = known.figures.as_ref().filter(|_| node.postgres.is_alive());
    Ok(figures.map(|figures| crate::figures::facts(figures).lsn).filter(|lsn| !lsn.is_zero()))
}

fn standing(node: &Node, now: Monotonic) -> Standing {
    let (failsafe_mode, ttl) = node
        .configuration
        .with(|settings| (settings.global.failsafe_mode, std::time::Duration::from_secs(settings.ttl_s)));
    Standing {
        me: node.name.clone(),
        failsafe_mode,
        ttl,
        may_write: may_write(node, now),
        leads: node.lease.is_held_at(now),
        last_leader: node.known().last_leader.clone(),
    }
}

/// The server writes, or something is under way at whose end it may.
fn may_write(node: &Node, now: Monotonic) -> bool {
    let job = node.jobs.view(now).map(|job| job.kind);
    let role_writes = matches!(node.postgres.role(), Role::Primary | Role::Promoted);
    let begins = match job {
        Some(JobKind::Bootstrap | JobKind::PostBootstrap | JobKind::Promote | JobKind::StartPrimary) => true,
        Some(JobKind::Restart) => role_writes,
        _ => false,
    };
    let answered = node.known().figures.as_ref().is_some_and(|figures| !figures.in_recovery);
    begins || node.postgres.is_alive() && (role_writes || answered)
}

/// LV-2: the cluster with the leader that has this node's promise.
pub fn seen(node: &Node, cluster: &Cluster) -> Option<Cluster> {
    let now = ptarmigan_clock::now();
    with_promised_leader(cluster, node.failsafe.promise(now).as_ref(), now)
}

/// The cluster as it was seen last, for the slots while the DCS is away (contract HA-401, HA-403, FS-5).
pub fn last_seen(node: &Node) -> Option<Cluster> {
    let cluster = node.known().last_cluster.clone()?;
    let now = ptarmigan_clock::now();
    if let Some(promise) = node.failsafe.promise(now) {
        let unlocked = Cluster { leader: None, ..cluster };
        return with_promised_leader(&unlocked, Some(&promise), now);
    }
    let own = node.failsafe.own();
    match own.until {
        Some(until) if now < until => Some(with_positions(&cluster, &own.positions)),
        _ => Some(cluster),
    }
}

#[cfg(test)]
mod tests;
