//! Replication slots of this node, once a cycle (contract B.23.3, B.23.6).

use std::{collections::BTreeMap, time::Duration};

use ptarmigan_postgres::{
    Purpose,
    slots::{self, Actual, Kind, Situation, View, sql},
};
use ptarmigan_types::{Cluster, Lsn, slot::name_of_member};

use crate::node::Node;

/// Creates, advances and drops slots. Whatever fails is tried again in the next cycle.
pub async fn sync(node: &Node) {
    let (cluster, is_primary, version) = {
        let known = node.known();
        let (Some(view), Some(status)) = (&known.view, &known.status) else { return };
        (view.cluster.clone(), !status.in_recovery, status.version())
    };
    let effective = node.configuration.current();
    let settings = &effective.settings;
    let view = View {
        cluster: &cluster,
        me: &node.name,
        role: node.postgres.role(),
        tags: &settings.tags,
        settings: &settings.global,
    };
    let Some(wanted) = slots::wanted(&view) else { return };
    for complaint in &wanted.complaints {
        tracing::error!("{complaint}");
    }
    let situation = Situation {
        paused: settings.global.pause,
        has_leader: !cluster.is_unlocked(),
        leader_is_me: cluster.is_leader(&node.name),
        is_primary,
        ignore_slots: &settings.global.ignore_slots,
        version,
    };
    let session = match node.postgres.session(Purpose::Heartbeat).await {
        Ok(session) => session,
        Err(error) => return tracing::debug!("slots are not looked at: {error}"),
    };
    let actual = match sql::read_slots(&session, version).await {
        Ok(actual) => actual,
        Err(error) => return tracing::warn!("cannot read replication slots: {error}"),
    };
    let actions = slots::plan(&wanted.slots, &actual, &situation);
    for (action, result) in sql::apply(&session, &actions).await {
        match result {
            // Standbys advance their slots all the time.
            Ok(()) if matches!(action, slots::SlotAction::Advance { .. }) => {
                tracing::debug!("replication slot: {action:?}");
            }
            Ok(()) => tracing::info!("replication slot: {action:?}"),
            Err(error) => tracing::warn!("replication slot: {action:?}: {error}"),
        }
    }
    let managed = actual.iter().filter(|(name, _)| wanted.slots.contains_key(*name));
    node.known().slots = Some(managed.filter_map(|(name, slot)| position(name, slot)).collect());
}

fn position(name: &str, slot: &Actual) -> Option<(String, Lsn)> {
    let lsn = match slot.kind {
        Kind::Physical => slot.restart_lsn,
        Kind::Logical { .. } => slot.confirmed_flush_lsn,
    };
    lsn.map(|lsn| (name.to_owned(), lsn))
}

/// What `/status` shows of the slots: those that exist, and this node's own name with its own position, so that the
/// others keep WAL for its return (contract A.3.4). Only permanent ones where members' slots are dropped at once.
pub fn published(node: &Node, own: Lsn) -> Option<BTreeMap<String, Lsn>> {
    let mut slots = node.known().slots.clone()?;
    slots.insert(name_of_member(node.name.as_str()), own);
    node.configuration.with(|settings| {
        if settings.global.member_slots_ttl_s == 0 {
            slots.retain(|name, _| settings.global.slots.contains_key(name));
        }
    });
    Some(slots).filter(|slots| !slots.is_empty())
}

/// The names whose slots are kept although their members may be gone (contract B.23.4).
pub fn retained(node: &Node) -> Option<Vec<String>> {
    let effective = node.configuration.current();
    let global = &effective.settings.global;
    let ttl = Duration::from_secs(global.member_slots_ttl_s);
    let mut known = node.known();
    let cluster = known.view.as_ref().map_or_else(Cluster::default, |view| view.cluster.clone());
    let mut existing: Vec<String> = known.slots.iter().flatten().map(|(name, _)| name.clone()).collect();
    existing.push(name_of_member(node.name.as_str()));
    let names = known.retained.update(
        &cluster,
        &node.name,
        existing.iter().map(String::as_str),
        &global.slots,
        ttl,
        ptarmigan_clock::now(),
    );
    Some(names).filter(|names| !names.is_empty())
}

/// A new holder gives every retained slot its full time again (contract B.23.4).
pub fn keep_retained(node: &Node) {
    let mut known = node.known();
    let published = known.view.as_ref().and_then(|view| view.cluster.status.retain_slots.clone());
    known.retained.take_over(&published.unwrap_or_default(), ptarmigan_clock::now());
}
