//! What the agent publishes for REST: plain data, replaced as a whole, read without waiting for anything.

use std::{collections::BTreeMap, time::Duration};

use ptarmigan_types::{Cluster, Lsn, MemberName, MemberState, Monotonic, Role, Tags, Timeline};
use serde_json::{Map, Value};

/// The node as its agent last saw it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// My name.
    pub name: MemberName,
    /// The cluster's name.
    pub scope: String,
    /// The version that this node reports (contract A.9.1).
    pub version: String,
    /// Until when this node may call itself leader: the validity of the lease, cut by any earlier deadline.
    /// `None`: not leader. Judged at the moment of the request.
    pub leader_until: Option<Monotonic>,
    /// The last full view of the DCS and when it was read; `None` before the first and after a failed read.
    pub view: Option<CachedView>,
    /// Epoch seconds of the last full DCS read, 0 before the first.
    pub dcs_last_seen: i64,
    /// Timing and the cluster-wide switches that verdicts depend on.
    pub global: GlobalSettings,
    /// What the agent knows without asking PostgreSQL.
    pub state: MemberState,
    /// The role as the agent keeps it.
    pub role: Role,
    /// The last answer of PostgreSQL; `None` where the last query failed or PostgreSQL is down.
    pub figures: Option<Figures>,
    /// Configured tags, filtered (contract A.5 of the surface).
    pub tags: Tags,
    /// Tags in effect: configured ones and temporary overrides.
    pub effective_tags: Tags,
    /// PostgreSQL's system identifier.
    pub system_identifier: Option<String>,
    /// Parameter to `{old_value, new_value}`.
    pub pending_restart_reason: Map<String, Value>,
    /// The stored restart request with `schedule` and its filters, without internal fields.
    pub scheduled_restart: Option<Map<String, Value>>,
    /// True where the kernel watchdog is required and unusable.
    pub watchdog_failed: bool,
    /// Whether the guardian ends PostgreSQL where nobody speaks for it any more; `None` where it is switched off.
    pub guardian_armed: Option<bool>,
    /// What is wrong with a PostgreSQL that runs, as `GET /patroni` shows it; `None` where nothing is.
    pub ailment: Option<Value>,
    /// The least that was left, at one of the last renewals of the leader lease, until this node would have had to end its
    /// server; `None` where it does not lead.
    pub lease_headroom: Option<Duration>,
    /// What the DCS usually takes to renew the leader lock; `None` where this node has not renewed it.
    pub dcs_latency: Option<Duration>,
    /// `/failsafe` as it was read last, by name and address: stays where the DCS does not answer.
    pub failsafe: Option<BTreeMap<String, String>>,
    /// Until when failsafe mode is active here: this node promised another one not to lead, or everybody promised it.
    pub failsafe_until: Option<Monotonic>,
    /// When the next HA cycle is due.
    pub next_run: Monotonic,
    /// The postmaster is alive.
    pub postmaster_alive: bool,
    /// The action in flight, as operators know it (`restart`, `reinitialize`, ...).
    pub job: Option<String>,
}

/// A parsed view with its age.
#[derive(Clone, Debug)]
pub struct CachedView {
    /// The view.
    pub cluster: Cluster,
    /// When it was read; valid for `ttl`.
    pub at: Monotonic,
}

/// Settings that verdicts use.
#[derive(Clone, Debug)]
pub struct GlobalSettings {
    /// TTL of the leader lease.
    pub ttl: Duration,
    /// The longest sleep of the HA loop.
    pub loop_wait: Duration,
    /// DCS budget.
    pub retry_timeout: Duration,
    /// Maintenance mode as last known from `/config`.
    pub pause: bool,
    /// This cluster follows another one.
    pub standby_cluster: bool,
    /// Synchronous mode is on (either kind; false in a standby cluster).
    pub synchronous: bool,
    /// It is quorum mode.
    pub quorum: bool,
    /// Bytes.
    pub maximum_lag_on_failover_bytes: u64,
    /// Failsafe mode is on.
    pub failsafe_mode: bool,
    /// Seconds a primary may take to start.
    pub primary_start_timeout: Duration,
}

/// PostgreSQL's answer to the monitoring query.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// When the query was answered.
    pub at: Monotonic,
    /// In recovery.
    pub in_recovery: bool,
    /// `server_version_num`.
    pub server_version: u32,
    /// `YYYY-MM-DD HH:MM:SS.ffffff+HH:MM`.
    pub postmaster_start_time: String,
    /// Primary: flush position.
    pub location: Lsn,
    /// Standby: contract A.10's rule.
    pub received_location: Lsn,
    /// Standby: replay position.
    pub replayed_location: Lsn,
    /// Standby: commit time of the last replayed transaction, same form as `postmaster_start_time`.
    pub replayed_timestamp: Option<String>,
    /// Standby: replay is paused.
    pub replay_paused: bool,
    /// Standby: what the WAL receiver last heard of the sender's position; zero where unknown.
    pub latest_end_lsn: Lsn,
    /// The timeline, where known.
    pub timeline: Option<Timeline>,
    /// `streaming`, `in archive recovery` or nothing.
    pub replication_state: Option<String>,
    /// Rows of `pg_stat_replication`: usename, application_name, client_addr, state, sync_state, sync_priority.
    pub replication: Vec<Map<String, Value>>,
}
