//! `synchronous_standby_names` of the local server: whose it is, setting it, and when it is in force (contract B.21, C.4).

use std::{sync::Arc, time::Duration};

use ptarmigan_config::{DynamicSettings, SynchronousMode};
use ptarmigan_ha::{
    Outcome,
    sync::{self, Commit, Mode, PLACEHOLDER, Standby, StandbyNames, Wanted},
};
use ptarmigan_postgres::{
    Purpose,
    status::{ServerStatus, WalSender},
};
use ptarmigan_types::{Cluster, Lsn, MemberName, MemberState, Monotonic, Role};

use crate::{execute::write_member, node::Node};

/// A reload takes a millisecond; a server's processes get this long (contract B.21, "wait 0.1 s").
const RELOAD_TIME: Duration = Duration::from_millis(100);

/// A server that shows other names than it was told is told again after this time.
const TOLD_AGAIN: Duration = Duration::from_secs(5);

/// How long the questions about a change may take.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// The names that a running server was told, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    names: Option<String>,
    at: Monotonic,
}

/// The settings that decisions depend on.
pub fn settings(global: &DynamicSettings) -> sync::Settings {
    sync::Settings {
        mode: match global.synchronous_mode {
            SynchronousMode::Off => Mode::Off,
            SynchronousMode::On => Mode::Priority,
            SynchronousMode::Quorum => Mode::Quorum,
        },
        strict: global.synchronous_mode_strict,
        node_count: global.synchronous_node_count,
        maximum_lag_bytes: u64::try_from(global.maximum_lag_on_syncnode_bytes)
            .ok()
            .filter(|bytes| *bytes > 0),
    }
}

/// What the server says of synchronous replication.
pub fn facts(node: &Node, status: Option<&ServerStatus>) -> sync::Facts {
    let owned = node.postgres.owned_synchronous_standby_names().is_some();
    let Some(status) = status else { return sync::Facts { owned, ..sync::Facts::default() } };
    let commit = Commit::of_setting(&status.synchronous_commit);
    sync::Facts {
        names: Some(status.synchronous_standby_names.clone()),
        owned,
        commit,
        standbys: status.replication.iter().map(|row| standby(row, commit)).collect(),
    }
}

fn standby(row: &WalSender, commit: Commit) -> Standby {
    Standby {
        application_name: row.application_name.clone(),
        state: row.state.clone().unwrap_or_default(),
        sync_state: row.sync_state.clone().unwrap_or_default(),
        lsn: match commit {
            Commit::Flush => row.flush_lsn,
            Commit::Write => row.write_lsn,
            Commit::Apply => row.replay_lsn,
        },
    }
}

/// Synchronous mode is on.
pub fn is_on(node: &Node) -> bool {
    node.configuration.with(|settings| settings.global.synchronous_mode != SynchronousMode::Off)
}

/// Synchronous mode is on, and whose names the running server has is not known yet: its files are not to be rewritten.
pub fn is_unclaimed(node: &Node) -> bool {
    is_on(node)
        && node.postgres.owned_synchronous_standby_names().is_none()
        && node.postgres.is_alive()
        && !bootstraps(node)
}

/// A cluster without `/config` is being bootstrapped: its scripts must not wait for standbys.
fn bootstraps(node: &Node) -> bool {
    node.known().view.as_ref().is_some_and(|view| view.cluster.config.is_none())
}

/// In synchronous mode `synchronous_standby_names` belongs to the HA loop, and what the configuration says of it is
/// ignored. It starts with what the server has: a daemon that is restarted must not have commits acknowledged that nobody
/// waited for. Where synchronous mode was switched off, a node that does not lead gives it back by itself; a leader waits for
/// the core, which deletes `/sync` first.
pub fn claim(node: &Node) {
    let owned = node.postgres.owned_synchronous_standby_names().is_some();
    if !is_on(node) {
        let writes = matches!(node.postgres.role(), Role::Primary | Role::Promoted);
        if owned && !node.leads() && !writes {
            node.postgres.own_synchronous_standby_names(None);
            node.known().unapplied = Some(crate::apply::Unapplied::Changed);
        }
        return;
    }
    if owned || bootstraps(node) {
        return;
    }
    let in_force = node.known().status.as_ref().map(|status| status.synchronous_standby_names.clone());
    let names = match in_force {
        Some(names) => names,
        None if node.postgres.is_alive() => return,
        None => names_for_start(node),
    };
    node.postgres.own_synchronous_standby_names(Some(&names));
}

fn names_for_start(node: &Node) -> String {
    let written = node.postgres.written_synchronous_standby_names().filter(|names| !names.is_empty());
    let strict = node.configuration.with(|settings| settings.global.synchronous_mode_strict);
    let writes = matches!(node.postgres.role(), Role::Primary | Role::Promoted);
    written.unwrap_or_else(|| if strict && writes { PLACEHOLDER.to_owned() } else { String::new() })
}

/// A server that starts as a standby names nobody (contract DM-9).
pub fn clear(node: &Node) {
    if is_on(node) {
        node.postgres.own_synchronous_standby_names(Some(""));
    }
}

/// How long a server may take to stop whose commits wait for standbys (contract DM-3, SD-4).
pub fn stop_timeout(node: &Node) -> Option<Duration> {
    let limit = node.configuration.with(|settings| settings.global.primary_stop_timeout_s);
    (is_on(node) && limit > 0).then(|| Duration::from_secs(limit))
}

/// As long as it lives, this node tells everybody that it is no synchronous standby.
pub struct Leaving(Arc<Node>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut known = self.0.known();
        known.leaving_sync = known.leaving_sync.saturating_sub(1);
        drop(known);
        self.0.wake();
    }
}

/// How often the key is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Contract RS-8: before its server stops, a standby asks not to be waited for, and waits until `/sync` does not name it any
/// more; at most two `loop_wait`, and not where the DCS is away.
pub async fn leave(node: &Arc<Node>) -> Option<Leaving> {
    if !is_on(node) || node.leads() || node.tags().nosync() {
        return None;
    }
    node.known().leaving_sync += 1;
    let leaving = Leaving(Arc::clone(node));
    let limit = 2 * node.configuration.timing().loop_wait;
    let left = async {
        drop(write_member(node).await);
        while node.dcs.view().await.is_ok_and(|view| is_named(&view.cluster, &node.name)) {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(limit, left).await.is_err() {
        tracing::warn!(
            "this node is still a synchronous standby: commits wait until the leader sees that it is gone"
        );
    }
    Some(leaving)
}

/// Somebody else's `/sync` says nothing about whom this leader waits for.
fn is_named(cluster: &Cluster, me: &MemberName) -> bool {
    let sync = &cluster.sync;
    let current = cluster.leader_name().is_some_and(|leader| sync.leader_matches(leader.as_str()));
    !sync.is_empty() && (!current || sync.matches(me.as_str()))
}

/// Sets the names: in the files, and by a reload where the server runs and was told others before.
pub async fn set(node: &Node, wanted: &Wanted) -> Outcome {
    let names = match wanted {
        Wanted::Configured => None,
        Wanted::Text(names) => Some(names.clone()),
    };
    let changed = node.postgres.own_synchronous_standby_names(names.as_deref());
    // Who asks again after that time has seen other names all the while: the server was started by hand since, or its files
    // came from another member.
    let now = ptarmigan_clock::now();
    let is_it = |told: &Told| told.names == names && now.since(told.at) < TOLD_AGAIN;
    let told = node.known().names_told.as_ref().is_some_and(is_it);
    if !node.postgres.is_alive() || node.postgres.state() != MemberState::Running || (told && !changed) {
        return Outcome::Done;
    }
    match names.as_deref() {
        None => tracing::info!("synchronous_standby_names comes from the configuration again"),
        Some("") => tracing::info!("synchronous_standby_names: nobody"),
        Some(names) => tracing::info!("synchronous_standby_names: {names}"),
    }
    node.known().names_told = None;
    let written = node.postgres.write_config(node.postgres.role()).await.map_err(|error| error.to_string());
    let reloaded = match written {
        Ok(_) => node.postgres.reload().await.map_err(|error| error.to_string()),
        Err(reason) => Err(reason),
    };
    match reloaded {
        Ok(()) => {
            node.known().names_told = Some(Told { names, at: ptarmigan_clock::now() });
            Outcome::Done
        }
        Err(reason) => {
            tracing::error!("synchronous_standby_names is not set: {reason}");
            Outcome::Failed(reason)
        }
    }
}

/// Whether every process of the server goes by these names, and up to where WAL was written by then. Commits look at a
/// flag that the checkpointer sets when it reads its configuration, which it does not in the middle of its work: until it has,
/// they may wait for nobody although the names are in force (`from_nothing`).
pub async fn settle(node: &Node, names: &str, from_nothing: bool) -> Outcome {
    let now = ptarmigan_clock::now();
    let fresh = node.known().names_told.as_ref().is_some_and(|told| now.since(told.at) < RELOAD_TIME);
    // What is shown may be on its way out.
    if fresh || node.postgres.owned_synchronous_standby_names().as_deref() != Some(names) {
        return Outcome::Settled(None);
    }
    match tokio::time::timeout(SETTLE_LIMIT.min(crate::apply::patience(node)), ask(node, names, from_nothing))
        .await
    {
        Ok(Ok(position)) => Outcome::Settled(position),
        Ok(Err(error)) => {
            tracing::debug!("whether synchronous_standby_names is in force is not known: {error}");
            Outcome::Settled(None)
        }
        Err(_) => Outcome::Settled(None),
    }
}

async fn ask(
    node: &Node,
    names: &str,
    from_nothing: bool,
) -> Result<Option<Lsn>, ptarmigan_postgres::connection::Error> {
    let session = node.postgres.session(Purpose::Heartbeat).await?;
    let rows = session.query_text(&settle_sql(names)).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let column = |index: usize| row.get(index).and_then(Option::as_deref).unwrap_or_default();
    let checkpointer_saw = matches!(column(1), "CheckpointerMain" | "CheckpointWriteDelay");
    if column(0) != names || column(2) != "0" || (from_nothing && !checkpointer_saw) {
        return Ok(None);
    }
    let position = column(3).parse().unwrap_or(Lsn::ZERO);
    if !position.is_zero() {
        // Something for the standbys to confirm, without waiting for them.
        session
            .execute(
                "DO 'BEGIN SET LOCAL synchronous_commit TO local; PERFORM pg_catalog.txid_current(); END'",
            )
            .await?;
    }
    Ok(Some(position))
}

/// What is in force here, what the checkpointer does, how many WAL senders go by other names, and the position.
fn settle_sql(names: &str) -> String {
    let members = StandbyNames::in_force(names).members;
    let literals: Vec<String> = members
        .iter()
        .map(|name| format!("'{}'", name.as_str().to_lowercase().replace('\'', "''")))
        .collect();
    let listed = if literals.is_empty() { "NULL".to_owned() } else { literals.join(",") };
    format!(
        "SELECT current_setting('synchronous_standby_names'), \
         (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'checkpointer' LIMIT 1), \
         CASE WHEN r.in_recovery THEN 0 ELSE (SELECT count(*) FROM pg_stat_replication \
         WHERE state IN ('streaming', 'catchup') \
         AND (sync_priority > 0) <> coalesce(lower(application_name) IN ({listed}), false)) END, \
         CASE WHEN NOT r.in_recovery THEN pg_current_wal_flush_lsn() END \
         FROM (SELECT pg_is_in_recovery() AS in_recovery) r"
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use ptarmigan_types::Key;
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, until};

    /// Node `a` of a cluster that `b` leads, in this mode; `/sync` as given.
    pub(crate) async fn follower(mode: &serde_json::Value, sync: &str) -> Fixture {
        let fixture = Fixture::new();
        fixture.put(Key::Config, &json!({"synchronous_mode": mode, "loop_wait": 1}).to_string()).await;
        fixture.put(Key::Sync, sync).await;
        drop(fixture.join("b", None, true).await);
        let view = fixture.look().await;
        crate::apply::adopt_dynamic(&fixture.node, view.cluster.config.as_ref());
        fixture
    }

    pub(crate) const NAMED: &str = r#"{"leader":"b","quorum":0,"sync_standby":"a"}"#;

    async fn published(fixture: &Fixture) -> serde_json::Value {
        let cluster = fixture.cluster().await;
        let tags = cluster.member(&fixture.node.name).unwrap().data.tags();
        json!(tags)
    }

    #[tokio::test]
    async fn rs_8_a_standby_asks_to_be_left_out_and_waits_for_it() {
        let fixture = follower(&json!(true), NAMED).await;
        let node = Arc::clone(&fixture.node);
        let asking = tokio::task::LocalSet::new();
        let left = asking.run_until(async {
            let leaving = tokio::task::spawn_local(async move { leave(&node).await });
            until("the tags to be published", || fixture.node.known().leaving_sync == 1).await;
            tokio::time::timeout(Duration::from_secs(5), async {
                while published(&fixture).await != json!({"nosync": true, "sync_priority": 0}) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await
            .unwrap();
            assert!(!leaving.is_finished(), "/sync still names it");
            fixture.put(Key::Sync, r#"{"leader":"b","quorum":0,"sync_standby":null}"#).await;
            leaving.await.unwrap()
        });
        let left = left.await;
        assert!(left.is_some());
        assert_eq!(fixture.node.snapshot.load().tags, fixture.node.tags(), "the configured ones stay");
        drop(left);
        assert_eq!(fixture.node.effective_tags(), fixture.node.tags());
    }

    #[tokio::test]
    async fn rs_8_nobody_is_asked_where_there_is_nothing_to_leave() {
        assert!(leave(&follower(&json!(false), NAMED).await.node).await.is_none());
        let leader = follower(&json!(true), NAMED).await;
        leader.node.lease.hold(leader.node.lease.ask(), ptarmigan_clock::now() + Duration::from_secs(60));
        assert!(leave(&leader.node).await.is_none());
        // A key of somebody who does not lead any more says nothing: it is waited for, and not for ever.
        let stale = follower(&json!(true), r#"{"leader":"c","quorum":0,"sync_standby":null}"#).await;
        let begin = ptarmigan_clock::now();
        assert!(leave(&stale.node).await.is_some());
        let waited = ptarmigan_clock::now().since(begin);
        assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(10), "{waited:?}");
        // Without a key nobody is named.
        assert!(!is_named(&Cluster::default(), &stale.node.name));
    }

    #[tokio::test]
    async fn dm_9_who_starts_as_a_standby_names_nobody() {
        let fixture = follower(&json!("quorum"), NAMED).await;
        let postgres = &fixture.node.postgres;
        postgres.own_synchronous_standby_names(Some("b"));
        clear(&fixture.node);
        assert_eq!(postgres.owned_synchronous_standby_names().as_deref(), Some(""));
        let off = follower(&json!(false), NAMED).await;
        clear(&off.node);
        assert_eq!(off.node.postgres.owned_synchronous_standby_names(), None);
    }

    #[tokio::test]
    async fn dm_3_primary_stop_timeout_counts_in_synchronous_mode() {
        for (config, limit) in [
            (json!({"synchronous_mode": true, "primary_stop_timeout": 7}), Some(7)),
            (json!({"synchronous_mode": "quorum", "master_stop_timeout": 7}), Some(7)),
            (json!({"synchronous_mode": true}), None),
            (json!({"primary_stop_timeout": 7}), None),
        ] {
            let fixture = Fixture::new();
            fixture.put(Key::Config, &config.to_string()).await;
            let view = fixture.look().await;
            crate::apply::adopt_dynamic(&fixture.node, view.cluster.config.as_ref());
            assert_eq!(stop_timeout(&fixture.node), limit.map(Duration::from_secs), "{config}");
        }
    }

    #[tokio::test]
    async fn c_4_names_are_the_loops_and_given_back() {
        let fixture = follower(&json!(true), NAMED).await;
        let node = &fixture.node;
        let owned = || node.postgres.owned_synchronous_standby_names();
        // No server runs: what it was started with last is in its file, and strict mode waits for somebody in any case.
        claim(node);
        assert_eq!(owned().as_deref(), Some(""));
        node.postgres.own_synchronous_standby_names(None);
        fixture.put(Key::Config, r#"{"synchronous_mode":true,"synchronous_mode_strict":true}"#).await;
        let view = fixture.look().await;
        crate::apply::adopt_dynamic(node, view.cluster.config.as_ref());
        node.postgres.set_role(Role::Primary);
        claim(node);
        assert_eq!(owned().as_deref(), Some(PLACEHOLDER));
        // Off: a leader waits until the core has deleted /sync, anybody else gives it back.
        fixture.put(Key::Config, "{}").await;
        let view = fixture.look().await;
        crate::apply::adopt_dynamic(node, view.cluster.config.as_ref());
        claim(node);
        assert_eq!(owned().as_deref(), Some(PLACEHOLDER));
        node.postgres.set_role(Role::Replica);
        claim(node);
        assert_eq!(owned(), None);
        // A cluster that is being bootstrapped has no /config yet.
        let new = Fixture::new();
        new.configure(&json!({"bootstrap": {"dcs": {"synchronous_mode": true}}}));
        new.look().await;
        claim(&new.node);
        assert_eq!(new.node.postgres.owned_synchronous_standby_names(), None);
    }

    #[test]
    fn b_21_who_goes_by_other_names_is_counted() {
        let sql = settle_sql("ANY 1 (\"B-1\",\"o'c\")");
        assert!(sql.contains("lower(application_name) IN ('b-1','o''c')"), "{sql}");
        assert!(settle_sql(PLACEHOLDER).contains("IN (NULL)"));
    }
}
