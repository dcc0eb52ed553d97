//! What the loop, the long actions and the request handlers share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use ptarmigan_dcs::{Dcs, View};
use ptarmigan_ha::slots::{Published, Retained};
use ptarmigan_postgres::{Postgres, pending_restart::Change, status::ServerStatus};
use ptarmigan_rest::snapshot::{Figures, Snapshot};
use ptarmigan_types::{Cluster, Lsn, MemberName, MemberState, Monotonic, Revision, Role, Tags, Timeline};
use ptarmigan_watchdog::Watchdog;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::{
    configuration::Configuration,
    failsafe::{Failsafe, PromiseFile},
    fence::Fence,
    health::Health,
    jobs::Jobs,
    journal::Journal,
    lease::Lease,
    margin::Margin,
    server::Told,
    unfinished_rewind::UnfinishedRewind,
};

/// One node of one cluster.
pub struct Node {
    /// My name.
    pub name: MemberName,
    /// The configuration.
    pub configuration: Configuration,
    /// The store.
    pub dcs: Arc<dyn Dcs>,
    /// The local PostgreSQL.
    pub postgres: Postgres,
    /// How long I may call myself leader.
    pub lease: Lease,
    /// What the guardian was told.
    pub fence: Fence,
    /// What is wrong with a PostgreSQL that runs.
    pub health: Health,
    /// How long the DCS takes, and what it leaves of the lease.
    pub margin: Margin,
    /// Failsafe mode: what this node promised, and what it was promised.
    pub failsafe: Failsafe,
    /// Whether `pg_rewind` was cut off.
    pub unfinished_rewind: UnfinishedRewind,
    /// The kernel watchdog.
    watchdog: Mutex<Watchdog>,
    /// The one long action.
    pub jobs: Arc<Jobs>,
    /// Which callbacks were run, and which are due.
    pub told: Told,
    /// What peers are asked with.
    pub peers: ptarmigan_rest::Client,
    /// What REST reads.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What was decided, and why.
    pub journal: Journal,
    /// Held during a cycle, and by whoever starts a long action outside of one: a job never begins in mid-cycle
    /// (contract B.0.1).
    pub cycle: tokio::sync::Mutex<()>,
    /// Held by the one request that asks PostgreSQL anew: a flood of them asks once (contract surface A.4).
    pub refreshing: tokio::sync::Mutex<()>,
    /// The last fresh view for those who only look, and when its reading began.
    pub shared_view: tokio::sync::Mutex<Option<(Monotonic, View)>>,
    wake: Arc<Notify>,
    known: Mutex<Known>,
}

/// What was learnt and may be needed again before it is learnt anew.
#[derive(Debug, Default)]
pub struct Known {
    /// The last view of the DCS; gone where a read failed.
    pub view: Option<View>,
    /// The last view as it was read, where [`Self::view`] shows a leader that has this node's promise instead (contract
    /// LV-2).
    pub unlocked_view: Option<View>,
    /// The cluster as it was read last; stays where a read failed.
    pub last_cluster: Option<Cluster>,
    /// The last holder of the lock that was seen, and the create revision of its lock.
    pub last_leader: Option<(MemberName, Revision)>,
    /// Epoch seconds of the last read that succeeded.
    pub dcs_last_seen: i64,
    /// PostgreSQL's last answer; gone where the last query failed.
    pub figures: Option<Figures>,
    /// The same as PostgreSQL gave it.
    pub status: Option<ServerStatus>,
    /// The last answer of `IDENTIFY_SYSTEM` (contract A.3.3.3).
    pub standby_timeline: Option<Timeline>,
    /// PostgreSQL's system identifier.
    pub system_identifier: Option<String>,
    /// The restart that waits for its time, as the request came, with `schedule` and `postmaster_start_time`.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// The timeout of the restart under way.
    pub start_timeout: Option<std::time::Duration>,
    /// Positions of this node's slots.
    pub slots: Option<BTreeMap<String, Lsn>>,
    /// When each slot's member was last seen (contract B.23.4).
    pub retained: Retained,
    /// What slots tell of their consumers.
    pub published: Published,
    /// Logical slots.
    pub logical: crate::slots::Logical,
    /// What was last said of slots that collide or are invalid.
    pub slot_complaints: Vec<String>,
    /// What was written since [`Self::view`] was read.
    pub written: crate::beside::Written,
    /// What `/optime/leader` was last written with (contract A.3.5).
    pub optime: Option<Lsn>,
    /// The system's next due cycle.
    pub next_run: Monotonic,
    /// What REST calls the action in flight.
    pub job: Option<String>,
    /// The state that the last cycle saw, and since when.
    pub state: Option<(MemberState, Monotonic)>,
    /// Contract RW-1, and in which life of the postmaster (its start time in ticks, 0 while stopped) it was found out.
    pub rewind_possible: Option<(u64, bool)>,
    /// A configuration that PostgreSQL has not been told yet.
    pub unapplied: Option<crate::apply::Unapplied>,
    /// The role whose overlay PostgreSQL has (contract CF-25); `None`: it was not told anything by this process yet.
    pub applied_role: Option<Role>,
    /// Why the configuration was not applied the last time.
    pub apply_error: Option<String>,
    /// The checkpoint after a promotion is being made.
    pub checkpoint_running: bool,
    /// An operator asked for a reload of the files.
    pub reload_asked: bool,
    /// The `synchronous_standby_names` that the running server was last told, and when.
    pub names_told: Option<crate::synchronous::Told>,
    /// How many actions in flight want this node not to be a synchronous standby (contract B.0, `disable_sync`).
    pub leaving_sync: u32,
}

impl Known {
    /// How long the state has been what it is, as far as the cycles saw.
    pub fn in_state_for(&mut self, state: MemberState, now: Monotonic) -> std::time::Duration {
        match self.state {
            Some((seen, since)) if seen == state => now.since(since),
            _ => {
                self.state = Some((state, now));
                std::time::Duration::ZERO
            }
        }
    }
}

/// A restart that waits for its time.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledRestart {
    /// As the core reads it.
    pub request: ptarmigan_ha::observation::ScheduledRestart,
    /// As the member key shows it.
    pub published: Map<String, Value>,
}

/// What a [`Node`] is made from.
pub struct Parts {
    /// The configuration.
    pub configuration: Configuration,
    /// The store.
    pub dcs: Arc<dyn Dcs>,
    /// The local PostgreSQL.
    pub postgres: Postgres,
    /// The kernel watchdog, not open.
    pub watchdog: Watchdog,
    /// What peers are asked with.
    pub peers: ptarmigan_rest::Client,
    /// What REST reads.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
}

/// How many rounds of decisions are kept.
const JOURNAL_ROUNDS: usize = 256;

impl Node {
    /// A node that has done nothing yet.
    pub fn new(parts: Parts) -> Self {
        let wake = Arc::new(Notify::new());
        Self {
            name: parts.configuration.with(|settings| settings.name.clone()),
            dcs: parts.dcs,
            lease: Lease::default(),
            fence: Fence::default(),
            health: Health::default(),
            margin: Margin::default(),
            failsafe: Failsafe::new(PromiseFile::beside(&parts.postgres.data_dir())),
            unfinished_rewind: UnfinishedRewind::beside(&parts.postgres.data_dir()),
            postgres: parts.postgres,
            watchdog: Mutex::new(parts.watchdog),
            jobs: Arc::new(Jobs::new(Arc::clone(&wake))),
            told: Told::default(),
            peers: parts.peers,
            snapshot: parts.snapshot,
            journal: Journal::new(JOURNAL_ROUNDS, &parts.configuration.current().local),
            configuration: parts.configuration,
            cycle: tokio::sync::Mutex::new(()),
            refreshing: tokio::sync::Mutex::new(()),
            shared_view: tokio::sync::Mutex::new(None),
            wake,
            known: Mutex::new(Known::default()),
        }
    }

    /// What is known now. Never held across a wait. After a panic it is still what the end of the daemon goes by.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel watchdog. Never held across a wait; nothing that it does waits either.
    pub fn watchdog(&self) -> MutexGuard<'_, Watchdog> {
        self.watchdog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the next cycle now, or as soon as the current one is over.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Resolves at the next [`Node::wake`].
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Parameter to its old and new value (contract C.6).
    pub fn pending_restart_reason(&self) -> Map<String, Value> {
        let reasons = self.postgres.pending_restart();
        let change = |change: Change| json!({"old_value": change.old_value, "new_value": change.new_value});
        reasons.into_iter().map(|(name, reason)| (name, change(reason))).collect()
    }

    /// Configured tags as they are published.
    pub fn tags(&self) -> Tags {
        self.configuration.with(|settings| settings.tags.published())
    }

    /// The same, and that this node is not to be a synchronous standby for now (contract RS-8).
    pub fn effective_tags(&self) -> Tags {
        let mut tags = self.tags();
        if self.known().leaving_sync > 0 {
            tags.0.insert("nosync".into(), json!(true));
            tags.0.insert("sync_priority".into(), json!(0));
        }
        tags
    }

    /// What was learnt of the data directory is learnt again: an operator may have put another one there.
    pub fn forget_identity(&self) {
        let mut known = self.known();
        known.system_identifier = known.status.as_ref().map(|status| status.system_identifier.clone());
        (known.slots, known.standby_timeline, known.rewind_possible) = (None, None, None);
    }

    /// The cluster is in maintenance mode, as far as this node has heard.
    pub fn is_paused(&self) -> bool {
        self.configuration.with(|settings| settings.global.pause)
    }

    /// Whether I lead at this moment.
    pub fn leads(&self) -> bool {
        self.lease.is_held_at(ptarmigan_clock::now())
    }

    /// I lead, and `pg_control` does not carry the running timeline yet (contract A.3.3, RW-30).
    pub fn checkpoint_outstanding(&self) -> bool {
        if !self.leads() {
            return false;
        }
        let known = self.known();
        match (&known.status, &known.figures) {
            (Some(status), Some(figures)) if !status.in_recovery => {
                figures.timeline != Some(status.checkpoint_timeline)
            }
            _ => true,
        }
    }
}
