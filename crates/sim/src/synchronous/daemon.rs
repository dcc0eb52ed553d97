//! What the daemon has to do with synchronous replication, as the agent does it: whose `synchronous_standby_names` is, what it
//! is set to, when it is in force, and the rows that the core sees.

use std::time::Duration;

use ptarmigan_ha::{
    Outcome,
    sync::{self, Commit, Mode, PLACEHOLDER, Standby, Wanted},
};
use ptarmigan_types::{Lsn, MemberState, Monotonic, Role};
use serde_json::{Map, Value};

use super::drawn;
use crate::{member::Member, postgres::Process, world::World};

/// A reload gets this long before it is asked whether it took effect.
const RELOAD_TIME: Duration = Duration::from_millis(100);
/// A server that shows other names than it was told is told again after this time.
const TOLD_AGAIN: Duration = Duration::from_secs(5);
/// The size of a transaction that does nothing, in bytes.
const LITTLE_WAL_BYTES: u64 = 34;

/// What a daemon knows of `synchronous_standby_names`.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The value that the HA loop gave it; `None`: it is the configuration's, which names nobody.
    owned: Option<String>,
    /// What the running server was told, and when.
    told: Option<(Option<String>, Monotonic)>,
}

/// The settings that decisions depend on, in `/config`.
pub fn settings(config: &Map<String, Value>) -> sync::Settings {
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    let strict = config.get("synchronous_mode_strict") == Some(&Value::Bool(true));
    let count = number("synchronous_node_count").and_then(|count| u32::try_from(count).ok());
    sync::Settings {
        mode: match (drawn::is_quorum(config), drawn::is_on(config)) {
            (true, _) => Mode::Quorum,
            (_, true) => Mode::Priority,
            _ => Mode::Off,
        },
        strict,
        node_count: count.unwrap_or(1).max(1),
        maximum_lag_bytes: number("maximum_lag_on_syncnode").filter(|bytes| *bytes > 0),
    }
}

impl Known {
    /// The value with which a server is started.
    pub fn for_start(&self) -> String {
        self.owned.clone().unwrap_or_default()
    }
}

fn writes(this: &Member) -> bool {
    matches!(this.role, Role::Primary | Role::Promoted)
}

impl World {
    /// What the local server says of synchronous replication. `answers`: it does.
    pub fn sync_facts(&self, member: usize, answers: bool) -> sync::Facts {
        let this = &self.members[member];
        let server = &this.postgres.synchronous;
        let owned = this.names.owned.is_some();
        if !answers {
            return sync::Facts { owned, ..sync::Facts::default() };
        }
        let standby = |row: &super::Sender| Standby {
            application_name: row.name.to_string(),
            state: if row.caught_up { "streaming" } else { "catchup" }.into(),
            sync_state: server.sync_state(row).into(),
            lsn: row.flush,
        };
        sync::Facts {
            names: Some(server.shown.clone()),
            owned,
            commit: Commit::Flush,
            standbys: server.rows.iter().map(standby).collect(),
        }
    }

    /// In synchronous mode the HA loop takes the names over as they are; without it, a node that does not lead gives them
    /// back.
    pub fn claim_names(&mut self, member: usize) {
        if !self.scenario.synchronous.used {
            return;
        }
        self.look_at_senders(member);
        let now = self.now;
        let this = &mut self.members[member];
        let owned = this.names.owned.is_some();
        if !this.settings.synchronous.is_on() {
            if owned && !this.leads(now) && !writes(this) {
                this.names.owned = None;
                self.write_names(member);
            }
            return;
        }
        let bootstraps = this.known.as_ref().is_some_and(|view| view.config.is_none());
        if owned || bootstraps {
            return;
        }
        let answers = this.postgres.process == Process::Up && !this.trouble.hung;
        let server = &this.postgres.synchronous;
        this.names.owned = if answers && this.state == MemberState::Running {
            Some(server.shown.clone())
        } else if this.postgres.process != Process::Down {
            None
        } else if server.file.is_empty() && this.settings.synchronous.strict && writes(this) {
            Some(PLACEHOLDER.to_owned())
        } else {
            Some(server.file.clone())
        };
    }

    /// Sets the names: in the file, and by a reload where the server runs and was told others before.
    pub fn set_names(&mut self, member: usize, wanted: &Wanted) -> Outcome {
        let names = match wanted {
            Wanted::Configured => None,
            Wanted::Text(names) => Some(names.clone()),
        };
        let this = &mut self.members[member];
        let changed = this.names.owned != names;
        this.names.owned.clone_from(&names);
        let fresh = |at: &Monotonic| self.now.since(*at) < TOLD_AGAIN;
        let told = this.names.told.as_ref().is_some_and(|(told, at)| *told == names && fresh(at));
        if this.postgres.process == Process::Down || this.state != MemberState::Running || told && !changed {
            return Outcome::Done;
        }
        self.note(member, &format!("synchronous_standby_names: {names:?}"));
        self.write_names(member);
        self.members[member].names.told = Some((names, self.now));
        Outcome::Done
    }

    fn write_names(&mut self, member: usize) {
        let this = &mut self.members[member];
        this.postgres.synchronous.file = this.names.for_start();
        if matches!(this.postgres.process, Process::Up | Process::Starting) {
            self.reload_names(member);
        }
    }

    /// Whether every process of the server goes by these names, and where its WAL ended by then.
    pub fn settle_names(&mut self, member: usize, names: &str, from_nothing: bool) -> Outcome {
        let number = self.fresh();
        let now = self.now;
        let this = &mut self.members[member];
        let fresh = this.names.told.as_ref().is_some_and(|(_, at)| now.since(*at) < RELOAD_TIME);
        let changing = fresh || this.names.owned.as_deref() != Some(names);
        let answers = this.postgres.process == Process::Up && !this.trouble.stops_server(now);
        let server = &this.postgres.synchronous;
        let behind = server.shown != names
            || !this.postgres.in_recovery && !server.senders_agree()
            || from_nothing && server.checkpointer_behind;
        if changing || !answers || behind {
            return Outcome::Settled(None);
        }
        if this.postgres.in_recovery {
            return Outcome::Settled(Some(Lsn::ZERO));
        }
        let position = this.postgres.end();
        this.postgres.append(number, LITTLE_WAL_BYTES);
        Outcome::Settled(Some(position))
    }
}
