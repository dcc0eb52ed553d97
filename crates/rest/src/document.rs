//! The documents that `GET` returns (contract surface A.4, A.6).

use ptarmigan_types::{Cluster, History, Lsn, Member, conn_url};
use serde_json::{Map, Value, json};

use crate::{
    reported::Reported,
    snapshot::{Figures, GlobalSettings},
};

/// The status document; the order of its fields is the contract's.
pub fn status_document(reported: &Reported<'_>) -> Value {
    let snapshot = reported.snapshot;
    let mut document = Map::new();
    let mut put = |key: &str, value: Value| document.insert(key.to_owned(), value);
    put("state", reported.state.into());
    if let Some(figures) = reported.figures {
        put("postmaster_start_time", figures.postmaster_start_time.clone().into());
    }
    put("role", reported.role.as_str().into());
    if let Some(figures) = reported.figures {
        put("server_version", figures.server_version.into());
        put("xlog", xlog(figures));
        if reported.is_sync_standby() {
            put("sync_standby", true.into());
        }
        if reported.is_quorum_standby() {
            put("quorum_standby", true.into());
        }
        put("timeline", figures.timeline.map_or(Value::Null, Value::from));
        if let Some(state) = figures.replication_state.as_ref().filter(|_| figures.in_recovery) {
            put("replication_state", state.clone().into());
        }
        if !figures.replication.is_empty() {
            put("replication", figures.replication.iter().cloned().map(Value::Object).collect());
        }
    }
    cluster_fields(reported, &mut put);
    if !snapshot.effective_tags.0.is_empty() {
        put("tags", Value::Object(snapshot.effective_tags.0.clone()));
    }
    if let Some(identifier) = &snapshot.system_identifier {
        put("database_system_identifier", identifier.clone().into());
    }
    if !snapshot.pending_restart_reason.is_empty() {
        put("pending_restart", true.into());
        put("pending_restart_reason", Value::Object(snapshot.pending_restart_reason.clone()));
    }
    let name = snapshot.name.as_str();
    put("patroni", json!({"version": snapshot.version, "scope": snapshot.scope, "name": name}));
    if let Some(restart) = &snapshot.scheduled_restart {
        put("scheduled_restart", Value::Object(restart.clone()));
    }
    if snapshot.watchdog_failed {
        put("watchdog_failed", true.into());
    }
    if let Some(armed) = snapshot.guardian_armed {
        put("guardian", json!({"armed": armed}));
    }
    if let Some(ailment) = &snapshot.ailment {
        put("ailment", ailment.clone());
    }
    Value::Object(document)
}

fn cluster_fields(reported: &Reported<'_>, put: &mut impl FnMut(&str, Value) -> Option<Value>) {
    if reported.snapshot.global.pause {
        put("pause", true.into());
    }
    if reported.view.is_none_or(Cluster::is_unlocked) {
        put("cluster_unlocked", true.into());
    }
    if reported.is_failsafe_active() {
        put("failsafe_mode_is_active", true.into());
    }
    put("dcs_last_seen", reported.snapshot.dcs_last_seen.into());
}

fn xlog(figures: &Figures) -> Value {
    if !figures.in_recovery {
        return json!({"location": figures.location.0});
    }
    json!({
        "received_location": figures.received_location.0,
        "replayed_location": figures.replayed_location.0,
        "replayed_timestamp": figures.replayed_timestamp,
        "paused": figures.replay_paused,
    })
}

/// The topology of `GET /cluster` (contract surface A.6): members by name, what is going on, and
/// `scope` last, where Patroni puts it.
pub fn cluster_document(cluster: &Cluster, global: &GlobalSettings, scope: &str) -> Value {
    let mut members: Vec<&Member> = cluster.members.iter().collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let members: Vec<Value> =
        members.into_iter().map(|member| member_fields(member, cluster, global)).collect();
    let mut document = Map::new();
    document.insert("members".into(), members.into());
    if global.pause {
        document.insert("pause".into(), true.into());
    }
    if let Some(switchover) = scheduled_switchover(cluster) {
        document.insert("scheduled_switchover".into(), switchover);
    }
    document.insert("scope".into(), scope.into());
    Value::Object(document)
}

fn member_fields(member: &Member, cluster: &Cluster, global: &GlobalSettings) -> Value {
    let is_owner = cluster.is_leader(&member.name);
    let role = member_role(member, cluster, global);
    let state = match member.data.replication_state() {
        Some(state) if role != "leader" => state,
        _ => member.data.0.get("state").and_then(Value::as_str).unwrap_or_default(),
    };
    let mut fields = Map::new();
    fields.insert("name".into(), member.name.as_str().into());
    fields.insert("role".into(), role.into());
    fields.insert("state".into(), state.into());
    fields.insert("api_url".into(), member.data.api_url().into());
    if let Some(url) = member.data.conn_url().and_then(conn_url::parse) {
        fields.insert("host".into(), url.host.into());
        fields.insert("port".into(), url.port.into());
    }
    for field in ["timeline", "pending_restart", "pending_restart_reason", "scheduled_restart", "tags"] {
        if let Some(value) = member.data.0.get(field) {
            fields.insert(field.into(), value.clone());
        }
    }
    if !is_owner {
        let newest = cluster.status.last_lsn;
        put_lag(&mut fields, "receive_", newest, member.data.receive_lsn());
        put_lag(&mut fields, "replay_", newest, member.data.replay_lsn());
        put_lag(&mut fields, "", newest, member.data.xlog_location());
    }
    Value::Object(fields)
}

fn member_role(member: &Member, cluster: &Cluster, global: &GlobalSettings) -> &'static str {
    if cluster.is_leader(&member.name) {
        return if global.standby_cluster { "standby_leader" } else { "leader" };
    }
    let is_listed =
        global.synchronous && !global.standby_cluster && cluster.sync.matches(member.name.as_str());
    match (is_listed, global.quorum) {
        (true, true) => "quorum_standby",
        (true, false) => "sync_standby",
        (false, _) => "replica",
    }
}

/// The position as text and how far it is behind; `unknown` both, where it is missing or zero.
fn put_lag(fields: &mut Map<String, Value>, prefix: &str, newest: Lsn, position: Option<Lsn>) {
    let (lag, lsn) = match position.filter(|lsn| !lsn.is_zero()) {
        Some(lsn) => (newest.bytes_ahead_of(lsn).into(), lsn.to_string().into()),
        None => (Value::from("unknown"), Value::from("unknown")),
    };
    fields.insert(format!("{prefix}lag"), lag);
    fields.insert(format!("{prefix}lsn"), lsn);
}

fn scheduled_switchover(cluster: &Cluster) -> Option<Value> {
    let failover = cluster.failover.as_ref()?;
    let at = failover.scheduled_at_text.clone()?;
    let mut fields = Map::new();
    fields.insert("at".into(), at.into());
    if let Some(leader) = &failover.leader {
        fields.insert("from".into(), leader.as_str().into());
    }
    if let Some(candidate) = &failover.candidate {
        fields.insert("to".into(), candidate.as_str().into());
    }
    Some(Value::Object(fields))
}

/// `GET /history`: one array of three to five elements for each finished timeline.
pub fn history_document(cluster: &Cluster) -> Value {
    let entries = cluster.history.as_ref().and_then(|History { entries, .. }| entries.as_ref());
    entries
        .into_iter()
        .flatten()
        .map(|entry| {
            let mut line = vec![json!(entry.timeline), json!(entry.lsn.0), json!(entry.reason)];
            if entry.timestamp.is_some() || entry.new_leader.is_some() {
                line.push(json!(entry.timestamp));
            }
            line.extend(entry.new_leader.as_ref().map(|name| json!(name)));
            Value::Array(line)
        })
        .collect()
}

/// `GET /config`: the object as it is stored; `None` where it is missing or not an object.
pub fn config_document(cluster: &Cluster) -> Option<Value> {
    let config = cluster.config.as_ref().filter(|config| config.is_valid())?;
    Some(Value::Object(config.value.clone()))
}
