//! Where a standby tells its upstream which rows its logical slots still need: `hot_standby_feedback` (contract B.23.6).

use std::collections::BTreeSet;

use ptarmigan_types::{Cluster, MemberName, Tags, slot::name_of_member};

use super::{Kind, View, kind_of};

/// The members that a member's WAL passes on its way from the leader, itself first. `None` where one of them does not
/// stream, or the way never ends.
pub(super) fn chain(cluster: &Cluster, member: &MemberName, tags: &Tags) -> Option<Vec<MemberName>> {
    let mut way = vec![member.clone()];
    let mut seen = BTreeSet::from([member.clone()]);
    let mut tags = tags.clone();
    loop {
        if tags.nostream() {
            return None;
        }
        let next = tags.replicatefrom().and_then(|name| cluster.member(&name));
        let Some(next) = next.filter(|next| !cluster.is_leader(&next.name)) else { return Some(way) };
        if !seen.insert(next.name.clone()) {
            return None;
        }
        way.push(next.name.clone());
        tags = next.data.tags();
    }
}

/// Whether `hot_standby_feedback` must be on here: this node, or one that replicates through it, should have permanent
/// logical slots, and the primary's vacuum has to spare what they need.
pub fn needs_feedback(view: &View<'_>) -> bool {
    let settings = &view.settings;
    let logical = |(name, spec): (&String, _)| matches!(kind_of(name, spec), Some(Kind::Logical { .. }));
    if !settings.use_slots || settings.standby_cluster || !settings.permanent.iter().any(logical) {
        return false;
    }
    let here = !view.tags.nofailover() && !view.chain_is_broken();
    here || view.cluster.members.iter().any(|member| {
        let tags = member.data.tags();
        let through_here = |way: Vec<MemberName>| way.contains(view.me);
        member.name != *view.me
            && !tags.nofailover()
            && chain(view.cluster, &member.name, &tags).is_some_and(through_here)
    })
}

/// The slot on the primary by which this node's feedback arrives there: its own, or that of the member at the head of
/// its cascade.
pub fn slot_on_primary(cluster: &Cluster, me: &MemberName, tags: &Tags) -> Option<String> {
    chain(cluster, me, tags)?.last().map(|member| name_of_member(member.as_str()))
}
