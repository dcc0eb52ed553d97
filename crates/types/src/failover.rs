//! `/failover` (contract A.3.8).

use serde::{Deserialize, Serialize};

use crate::{MemberName, Revision};

/// An operator's wish: a switchover (leader named) or a manual failover (candidate only).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// Must still be the leader; set: this is a switchover.
    pub leader: Option<MemberName>,
    /// Who shall take over; the wire's field is `member`.
    pub candidate: Option<MemberName>,
    /// When; `None` means now. Text that is not a time is kept as [`ScheduledAt::Unusable`].
    pub scheduled_at: Option<ScheduledAt>,
    /// For conditional writes.
    pub revision: Revision,
}

/// The schedule as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScheduledAt {
    /// A moment.
    At(jiff::Timestamp),
    /// Text that no reader understands, or without a zone.
    Unusable(String),
}
