//! Whom a standby follows, copies or is compared with.

use std::fmt;

use ptarmigan_types::MemberName;
use serde::{Deserialize, Serialize};

/// A server that WAL or data come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upstream {
    /// A member of this cluster.
    Member(MemberName),
    /// The remote end of a standby cluster, as `standby_cluster` in `/config` describes it: a primary elsewhere, an archive,
    /// or both.
    Remote,
}

/// What decisions depend on of the remote end of a standby cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// A host or a port is configured, so there is a server to stream from and not just an archive.
    pub has_address: bool,
}

impl Upstream {
    /// The member, where it is one.
    pub const fn member(&self) -> Option<&MemberName> {
        match self {
            Self::Member(name) => Some(name),
            Self::Remote => None,
        }
    }
}

impl From<MemberName> for Upstream {
    fn from(name: MemberName) -> Self {
        Self::Member(name)
    }
}

impl From<&MemberName> for Upstream {
    fn from(name: &MemberName) -> Self {
        Self::Member(name.clone())
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(name) => name.fmt(formatter),
            Self::Remote => formatter.write_str("the remote member"),
        }
    }
}
