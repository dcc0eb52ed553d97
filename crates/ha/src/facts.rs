//! What peers say of themselves (contract A.10, HN-4).

use ptarmigan_types::{Lsn, MemberName, Tags, Timeline};
use serde::{Deserialize, Serialize};

/// A reachable peer's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerAnswer {
    /// Who.
    pub name: MemberName,
    /// Neither a position of its own nor the role of a primary.
    pub in_recovery: bool,
    /// In recovery: the greater of received and replayed; else zero.
    pub lsn: Lsn,
    /// Its timeline, where told.
    pub timeline: Option<Timeline>,
    /// Tags in effect.
    pub tags: Tags,
    /// It needs a watchdog and has none.
    pub watchdog_failed: bool,
    /// Its PostgreSQL runs and does not work.
    #[serde(default)]
    pub ailing: bool,
    /// Its WAL receiver is streaming.
    #[serde(default)]
    pub streaming: bool,
    /// It answers, but has no data directory. For a race it is as unreachable as one that tells no position (contract HN-3);
    /// that it does not lead is certain.
    #[serde(default)]
    pub without_data: bool,
}

impl PeerAnswer {
    /// The answer of a member that has no data directory.
    pub fn without_data(name: MemberName) -> Self {
        Self {
            name,
            in_recovery: true,
            lsn: Lsn::ZERO,
            timeline: None,
            tags: Tags::default(),
            watchdog_failed: false,
            ailing: false,
            streaming: false,
            without_data: true,
        }
    }

    /// Contract HN-5: why this peer cannot take over; `None` where it can.
    pub fn limitation(&self) -> Option<&'static str> {
        if self.tags.nofailover() {
            Some("nofailover")
        } else if self.watchdog_failed {
            Some("watchdog failed")
        } else if self.ailing {
            Some("its PostgreSQL does not work")
        } else {
            None
        }
    }
}
