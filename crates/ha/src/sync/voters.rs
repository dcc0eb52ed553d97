//! Who may take over under synchronous replication, as the rules of a race ask it (contract B.10, "sync active").

use ptarmigan_types::{Cluster, MemberName};

use super::{Mode, NameSet};
use crate::{observation::Settings, round::Round};

/// `/sync`, where synchronous mode is on and the key has a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Voters {
    leader: MemberName,
    standbys: NameSet,
    /// How many votes of others a candidate needs that has one itself. Also where quorum mode was switched off since: until
    /// `/sync` is written anew, what it says is what commits went by.
    pub(crate) needed: usize,
    /// Votes are counted.
    pub(crate) counted: bool,
}

impl Voters {
    /// `None`: synchronous replication is not active, and everybody may take over.
    pub(crate) fn of(r: &Round<'_>) -> Option<Self> {
        Self::in_force(&r.obs.settings, r.view)
    }

    /// As [`Self::of`], outside of a round.
    pub(crate) fn in_force(settings: &Settings, cluster: &Cluster) -> Option<Self> {
        let sync = &cluster.sync;
        let leader = sync.leader.clone().filter(|_| settings.synchronous.is_on())?;
        Some(Self {
            leader,
            standbys: sync.standbys.iter().cloned().collect(),
            needed: usize::try_from(sync.quorum).unwrap_or(usize::MAX),
            counted: sync.quorum > 0 || settings.synchronous.mode == Mode::Quorum,
        })
    }

    /// Its leader, or one of its standbys.
    pub(crate) fn has(&self, name: &MemberName) -> bool {
        self.is_leader(name) || self.standbys.contains(name)
    }

    /// One of its standbys: somebody who may take over from its leader.
    pub(crate) fn votes_for(&self, name: &MemberName) -> bool {
        self.standbys.contains(name)
    }

    /// Who led when it was written.
    pub(crate) fn is_leader(&self, name: &MemberName) -> bool {
        self.leader.as_str().to_lowercase() == name.as_str().to_lowercase()
    }
}
