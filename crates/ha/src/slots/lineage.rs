//! Whether positions in the leader's WAL mean anything in this standby's.

use ptarmigan_types::{Cluster, MemberName, Role, Tags, Timeline};

/// What is known of a standby's WAL beside the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// It is the beginning of the leader's: it arrives on the leader's timeline, which no sender lets anybody continue
    /// whose WAL has left it.
    Shared,
    /// It comes from the archive, and is on the leader's timeline. Nobody can tell more.
    Archived,
    /// It is the leader's: this node leads a standby cluster.
    Own,
    /// It may have left the leader's: nothing arrives, or on another timeline, or nobody tells on which one he writes.
    Unknown,
}

/// Compares with what the leader publishes. `receiving`: the timeline that this standby's WAL receiver streams right now;
/// `timeline`: the one that its WAL is on, streaming or not.
pub fn lineage(
    cluster: &Cluster,
    me: &MemberName,
    tags: &Tags,
    receiving: Option<Timeline>,
    timeline: Option<Timeline>,
) -> Lineage {
    let leader = cluster.leader_member();
    if let Some(mine) = leader.filter(|leader| leader.name == *me) {
        // Whoever holds the lock and is about to be promoted may have been away while somebody else led.
        let leads = mine.data.role() == Some(Role::StandbyLeader);
        return if leads { Lineage::Own } else { Lineage::Unknown };
    }
    // A key that tells of a standby tells of the timeline before the leader's promotion.
    let writes =
        leader.filter(|leader| matches!(leader.data.role(), Some(Role::Primary | Role::StandbyLeader)));
    let Some(theirs) = writes.and_then(|leader| leader.data.timeline()) else { return Lineage::Unknown };
    if receiving == Some(theirs) {
        Lineage::Shared
    } else if tags.nostream() && timeline == Some(theirs) {
        Lineage::Archived
    } else {
        Lineage::Unknown
    }
}
