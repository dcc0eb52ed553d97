//! Whether positions in the leader's WAL mean anything in this standby's.

use ptarmigan_types::{Cluster, MemberName, Role, Timeline};

/// What is known of a standby's WAL beside the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// It is the beginning of the leader's: it arrives on the leader's timeline, which no sender lets anybody continue
    /// whose WAL has left it.
    Shared,
    /// It may have left the leader's: it is on another timeline, or the leader does not tell yet, or not any more, on which
    /// it writes.
    Apart,
    /// Nothing arrives, from an archive perhaps, and no more can be told.
    Unknown,
}

/// Compares with what the leader publishes. `receiving`: the timeline that this standby's WAL receiver streams right now;
/// `timeline`: the one that its WAL is on, streaming or not.
pub fn lineage(
    cluster: &Cluster,
    me: &MemberName,
    receiving: Option<Timeline>,
    timeline: Option<Timeline>,
) -> Lineage {
    let leader = cluster.leader_member().filter(|leader| leader.name != *me);
    let Some((role, theirs)) = leader.and_then(|leader| leader.data.role().zip(leader.data.timeline()))
    else {
        return Lineage::Unknown;
    };
    match role {
        // A key that still tells of a standby tells of the timeline before its promotion.
        Role::Primary | Role::StandbyLeader if receiving == Some(theirs) => Lineage::Shared,
        Role::Primary | Role::StandbyLeader if timeline.is_some_and(|mine| mine != theirs) => Lineage::Apart,
        Role::Primary | Role::StandbyLeader => Lineage::Unknown,
        _ => Lineage::Apart,
    }
}
