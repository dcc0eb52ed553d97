//! Replication slots of this node, once a cycle (contract B.23.3, B.23.6). What to do is decided in
//! [`ptarmigan_ha::slots`].

use std::{collections::BTreeMap, time::Duration};

use ptarmigan_config::DynamicSettings;
use ptarmigan_ha::slots::{self, Actual, Kind, Settings, Situation, SlotAction, View, Wanted};
use ptarmigan_postgres::{Purpose, slots::sql};
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
        settings: settings_of(&settings.global),
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
    };
    let session = match node.postgres.session(Purpose::Heartbeat).await {
        Ok(session) => session,
        Err(error) => return tracing::debug!("slots are not looked at: {error}"),
    };
    let actual = match sql::read_slots(&session, version).await {
        Ok(actual) => actual,
        Err(error) => return tracing::warn!("cannot read replication slots: {error}"),
    };
    complain_of_logical(&wanted.slots, &actual);
    let actions = slots::plan(&wanted.slots, &actual, &situation);
    for (action, result) in sql::apply(&session, &actions).await {
        match result {
            // Standbys advance their slots all the time.
            Ok(()) if matches!(action, SlotAction::Advance { .. }) => {
                tracing::debug!("replication slot: {action:?}");
            }
            Ok(()) => tracing::info!("replication slot: {action:?}"),
            Err(error) => tracing::warn!("replication slot: {action:?}: {error}"),
        }
    }
    node.known().slots = Some(slots::positions(&wanted.slots, &actual));
}

fn complain_of_logical(wanted: &BTreeMap<String, Wanted>, actual: &BTreeMap<String, Actual>) {
    for (name, wish) in wanted {
        if wish.kind != Kind::Physical && !actual.contains_key(name) {
            tracing::debug!("creating logical replication slots is not supported yet: {name}");
        }
    }
}

const fn settings_of(global: &DynamicSettings) -> Settings<'_> {
    Settings {
        use_slots: global.use_slots,
        member_slots_ttl: Duration::from_secs(global.member_slots_ttl_s),
        permanent: &global.slots,
        standby_cluster: global.standby_cluster.is_some(),
    }
}

/// What `/status` shows of the slots (contract A.3.4).
pub fn published(node: &Node, own: Lsn) -> Option<BTreeMap<String, Lsn>> {
    let positions = node.known().slots.clone()?;
    node.configuration
        .with(|settings| slots::published(positions, &node.name, own, &settings_of(&settings.global)))
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
