//! Replication slots of this node, once a cycle (contract B.23.3, B.23.6). What to do is decided in
//! [`ptarmigan_ha::slots`].

mod beside;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ptarmigan_config::DynamicSettings;
use ptarmigan_ha::{
    Outcome,
    slots::{self, Actual, Kind, Lineage, Settings, Situation, SlotAction, View, Way, kind_of},
};
use ptarmigan_postgres::{Purpose, Session, slots::sql, status::ServerStatus, version::ServerVersion};
use ptarmigan_types::{Cluster, Lsn, Timeline, slot::name_of_member};

pub use self::beside::Logical;
use crate::{apply::Unapplied, node::Node};

/// Creates, advances and drops slots. Whatever fails is tried again in the next cycle.
pub async fn sync(node: &Arc<Node>) -> Outcome {
    let (cluster, status) = {
        let known = node.known();
        let Some(status) = known.status.clone() else { return Outcome::Done };
        (known.view.as_ref().map(|view| view.cluster.clone()), status)
    };
    // While the DCS is away, slots follow what was seen last and what others tell (contract HA-401, HA-403).
    let Some(cluster) = cluster.or_else(|| crate::failsafe::last_seen(node)) else { return Outcome::Done };
    match sync_with(node, &cluster, &status).await {
        Ok(to_copy) if to_copy.is_empty() => Outcome::Done,
        Ok(to_copy) => Outcome::SlotsToCopy(to_copy),
        Err(reason) => {
            tracing::warn!("replication slots are not seen to: {reason}");
            Outcome::Failed(reason)
        }
    }
}

/// The same with this view of the cluster; the logical slots that have to be copied from the leader.
///
/// # Errors
/// The slots could not be read.
async fn sync_with(
    node: &Arc<Node>,
    cluster: &Cluster,
    status: &ServerStatus,
) -> Result<Vec<String>, String> {
    let effective = node.configuration.current();
    let settings = &effective.settings;
    let view = View {
        cluster,
        me: &node.name,
        role: node.postgres.role(),
        tags: &settings.tags,
        settings: settings_of(&settings.global),
    };
    let Some(wanted) = slots::wanted(&view) else { return Ok(Vec::new()) };
    complain(node, wanted.complaints);
    force_feedback(node, slots::needs_feedback(&view));
    let session = node.postgres.session(Purpose::Heartbeat).await.map_err(|error| error.to_string())?;
    let version = status.version();
    let mut actual = read(&session, version).await?;
    let broken = known_of(node, cluster, status, &actual);
    let situation = Situation {
        paused: settings.global.pause,
        has_leader: !cluster.is_unlocked(),
        leader_is_me: cluster.is_leader(&node.name),
        is_primary: !status.in_recovery,
        replay_lsn: status.replay_lsn,
        lineage: lineage(node, cluster, status),
        broken: &broken,
        kept: &wanted.kept,
        ignore_slots: &settings.global.ignore_slots,
    };
    let actions = slots::plan(&wanted.slots, &actual, &situation);
    if carry_out(node, &session, &actions).await {
        // What is published must not tell of slots that are gone, or were made anew.
        actual = read(&session, version).await?;
    }
    let to_copy = actions.iter().filter(|action| matches!(action, SlotAction::Copy { .. }));
    let to_copy: Vec<String> = to_copy.map(|action| action.name().clone()).collect();
    let mut work = beside::Work::of(&actions);
    let mut known = node.known();
    known.slots = Some(known.published.update(cluster, &wanted.slots, &actual));
    let leader = cluster.leader_name().filter(|name| **name != node.name && status.in_recovery);
    if let Some(leader) = leader.filter(|_| !known.logical.readiness.is_empty()) {
        work.ask(leader.clone(), actual);
    }
    drop(known);
    beside::begin(node, work);
    Ok(to_copy)
}

async fn read(session: &Session, version: ServerVersion) -> Result<BTreeMap<String, Actual>, String> {
    sql::read_slots(session, version).await.map_err(|error| error.to_string())
}

/// Notes a start of the server, and whether its feedback takes another way; the slots that cannot be advanced.
fn known_of(
    node: &Node,
    cluster: &Cluster,
    status: &ServerStatus,
    actual: &BTreeMap<String, Actual>,
) -> BTreeSet<String> {
    let timeline = timeline(node);
    let way = way(node, cluster, status, timeline);
    let logical = &mut node.known().logical;
    logical.started(&status.postmaster_start_time, actual);
    if status.in_recovery {
        logical.readiness.watch(way, actual);
    } else {
        logical.readiness = slots::Readiness::default();
    }
    logical.broken.clone()
}

/// The timeline of this node's WAL, as far as it is known.
fn timeline(node: &Node) -> Option<Timeline> {
    node.known().figures.as_ref().and_then(|figures| figures.timeline)
}

/// What is known of this standby's WAL beside the leader's.
pub fn lineage(node: &Node, cluster: &Cluster, status: &ServerStatus) -> Lineage {
    let tags = node.configuration.with(|settings| settings.tags.clone());
    slots::lineage(cluster, &node.name, &tags, status.streamed_timeline(), timeline(node))
}

/// The way that this standby's feedback takes to the primary.
fn way(node: &Node, cluster: &Cluster, status: &ServerStatus, timeline: Option<Timeline>) -> Way {
    let tags = node.configuration.with(|settings| settings.tags.clone());
    // Without a leader the way is the one to the former, and nobody has asked for more of it.
    let leads_elsewhere = cluster.leader_name().is_some_and(|leader| *leader != node.name);
    Way {
        server: Some(status.postmaster_start_time.clone()),
        timeline,
        receiver: status.wal_receiver.as_ref().and_then(|receiver| receiver.pid),
        slot: slots::slot_on_primary(cluster, &node.name, &tags).filter(|_| leads_elsewhere),
    }
}

/// Says what is new of it; a cycle is no reason to say it again.
fn complain(node: &Node, complaints: Vec<String>) {
    let mut known = node.known();
    for complaint in complaints.iter().filter(|complaint| !known.slot_complaints.contains(complaint)) {
        tracing::error!("{complaint}");
    }
    known.slot_complaints = complaints;
}

fn force_feedback(node: &Node, needed: bool) {
    if node.postgres.force_hot_standby_feedback(needed) {
        tracing::info!(
            "hot_standby_feedback is {}",
            if needed { "on, logical slots need it" } else { "as configured" }
        );
        let mut known = node.known();
        known.unapplied =
            Some(known.unapplied.map_or(Unapplied::Changed, |before| before.max(Unapplied::Changed)));
    }
}

/// True where slots came or went.
async fn carry_out(node: &Node, session: &Session, actions: &[SlotAction]) -> bool {
    let mut changed = false;
    for (action, result) in sql::apply(session, actions).await {
        match result {
            // Standbys advance their slots all the time.
            Ok(()) if matches!(action, SlotAction::Advance { .. }) => {
                tracing::debug!("replication slot: {action:?}");
            }
            Ok(()) => {
                tracing::info!("replication slot: {action:?}");
                changed = true;
                if matches!(action, SlotAction::Create { .. }) {
                    node.known().published.made(action.name());
                }
            }
            Err(error) => tracing::warn!("replication slot: {action:?}: {error}"),
        }
    }
    changed
}

/// Before a promotion: what operators have to know of logical slots (contract SL-11).
pub fn warn_of_unready(node: &Node) {
    let (cluster, status) = {
        let known = node.known();
        (known.view.as_ref().map(|view| view.cluster.clone()), known.status.clone())
    };
    if let Some((cluster, status)) = cluster.zip(status) {
        let way = way(node, &cluster, &status, timeline(node));
        node.known().logical.readiness.watch_way(way);
    }
    let known = node.known();
    let unready: Vec<&str> = known.logical.readiness.unready().collect();
    if !unready.is_empty() {
        tracing::warn!(
            "logical replication slots that might be unsafe to use after the promotion, because rows that they need may \
             have been removed: {}",
            unready.join(", ")
        );
    }
}

/// Permanent logical slots are configured.
pub fn has_logical(global: &DynamicSettings) -> bool {
    let logical = |(name, spec): (&String, _)| matches!(kind_of(name, spec), Some(Kind::Logical { .. }));
    global.use_slots && global.slots.iter().any(logical)
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

/// What a leader in failsafe mode tells of its slots: all that it manages, and its own name with its own position
/// (contract FS-3).
pub fn known(node: &Node) -> Option<BTreeMap<String, Lsn>> {
    let known = node.known();
    let mut positions = known.slots.clone()?;
    let own = crate::figures::facts(known.figures.as_ref()?).lsn;
    positions.insert(name_of_member(node.name.as_str()), own);
    Some(positions)
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
