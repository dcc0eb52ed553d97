//! Our lease: one per node, shared by `/leader` and `/members/<me>` (contract A.5, "lease").

use std::{sync::PoisonError, time::Duration};

use ptarmigan_types::{Monotonic, lease};

use crate::{
    failure::Failure,
    nodes::Stamp,
    pool::{Answer, Deadline, Policy},
    store::{Store, from_i64, lease_id},
};

/// A lease of ours as it was last answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnLease {
    pub(crate) id: i64,
    /// When the last answered grant or keep-alive was sent.
    pub(crate) sent_at: Monotonic,
    /// As granted.
    pub(crate) ttl: Duration,
}

impl OwnLease {
    pub(crate) fn due(&self) -> Monotonic {
        self.sent_at + lease::refresh_after(self.ttl)
    }
}

impl Store {
    pub(crate) fn own_lease(&self) -> Option<OwnLease> {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_own_lease(&self, lease: Option<OwnLease>) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }

    /// Forgets a lease that etcd does not know any more, or whose TTL is not wanted any more.
    pub(crate) fn drop_lease(&self, id: Option<i64>) {
        let mut own = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if id.is_none() || own.map(|lease| lease.id) == id {
            *own = None;
        }
    }

    /// A living lease: kept alive where that is due (`force`: always), granted where there is none.
    pub(crate) async fn refresh_lease(&self, deadline: Deadline, force: bool) -> Result<OwnLease, Failure> {
        let _one_at_a_time = self.refreshing.lock().await;
        if let Some(own) = self.own_lease() {
            if !force && ptarmigan_clock::now() < own.due() {
                return Ok(own);
            }
            match self.keep_alive(deadline, own.id).await {
                Ok(sent_at) => {
                    let kept = OwnLease { sent_at, ..own };
                    // Meanwhile a new TTL may have dropped it.
                    if self.own_lease().map(|lease| lease.id) == Some(own.id) {
                        self.set_own_lease(Some(kept));
                        return Ok(kept);
                    }
                }
                Err(failure) if failure.is_lease_not_found() => {
                    tracing::info!(lease = %lease_id(own.id).0, "the lease is lost, asking for a new one");
                    self.drop_lease(Some(own.id));
                }
                Err(failure) => return Err(failure),
            }
        }
        self.grant(deadline).await
    }

    /// When the keep-alive that was answered was sent.
    async fn keep_alive(&self, deadline: Deadline, id: i64) -> Result<Monotonic, Failure> {
        let answer = self.pool.call(deadline, Policy::UntilDeadline, |mut client| async move {
            let sent_at = ptarmigan_clock::now();
            // The stream is used for one question and dropped.
            client.lease_keep_alive(id).await?;
            Ok((sent_at, None))
        });
        Ok(answer.await?.value)
    }

    async fn grant(&self, deadline: Deadline) -> Result<OwnLease, Failure> {
        let wanted = self.timing().ttl;
        let seconds = i64::try_from(wanted.as_secs()).unwrap_or(i64::MAX).max(1);
        let answer = self.pool.call(deadline, Policy::UntilDeadline, |mut client| async move {
            let sent_at = ptarmigan_clock::now();
            let granted = client.lease_grant(seconds, None).await?;
            let ttl = Duration::from_secs(from_i64(granted.ttl()));
            Ok((OwnLease { id: granted.id(), sent_at, ttl }, Stamp::of(granted.header())))
        });
        let Answer { value: granted, .. } = answer.await?;
        if self.timing().ttl == wanted {
            self.set_own_lease(Some(granted));
        }
        Ok(granted)
    }
}
