//! Synchronous replication: who a commit waits for, and who may take over for that (contract B.21, B.22).
//!
//! Two places say it: `/sync` in the DCS names who may be promoted, `synchronous_standby_names` of the primary names whom
//! commits wait for. Between two steps of a change a crash may leave things as they are, so every step keeps what the other
//! place promises: `/sync` shrinks before the names do, and grows after them.

use ptarmigan_types::Lsn;
use serde::{Deserialize, Serialize};

pub mod candidates;
mod name_set;
mod priority;
mod promotion;
pub mod quorum;
mod quorum_commit;
pub mod standby_names;
mod steps;
mod voters;

pub use name_set::NameSet;
pub(crate) use promotion::before_promotion;
pub use standby_names::{Kind, PLACEHOLDER, StandbyNames};
pub(crate) use steps::replicate;
pub use steps::{Memory, Settled, Told};
pub(crate) use voters::Voters;

/// Synchronous replication as configured; off in a standby cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Asynchronous.
    #[default]
    Off,
    /// Every synchronous standby has every commit.
    Priority,
    /// A number of them has every commit.
    Quorum,
}

/// The settings of synchronous replication (contract C.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Which kind.
    pub mode: Mode,
    /// Commits wait also where no standby is there.
    pub strict: bool,
    /// How many standbys a commit shall wait for.
    pub node_count: u32,
    /// Standbys further behind than this are replaced, in bytes; `None`: never.
    pub maximum_lag_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { mode: Mode::Off, strict: false, node_count: 1, maximum_lag_bytes: None }
    }
}

impl Settings {
    /// Whether any kind is on.
    pub fn is_on(&self) -> bool {
        self.mode != Mode::Off
    }

    /// What the names are where nobody can be named (contract HA-064, HA-113); `None` where synchronous mode is off.
    pub fn names_of_nobody(&self) -> Option<Wanted> {
        let text = standby_names::print(
            self.mode,
            &NameSet::default(),
            Some(self.least()),
            standby_names::Abilities::ALL,
        );
        self.is_on().then_some(Wanted::Text(text))
    }

    /// How many standbys there must be for a commit to be acknowledged (contract B.21, `min_sync`).
    pub fn least(&self) -> u32 {
        u32::from(self.strict)
    }
}

/// What the local server says of synchronous replication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `synchronous_standby_names` in force; `None` where the server did not answer.
    pub names: Option<String>,
    /// The daemon sets the names; false where they come from the configuration.
    pub owned: bool,
    /// Which position counts.
    pub commit: Commit,
    /// Who streams from here.
    pub standbys: Vec<Standby>,
}

/// `synchronous_commit`, as far as it says which position of a standby counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Commit {
    /// Synced to disk.
    #[default]
    Flush,
    /// Handed to the operating system (`remote_write`).
    Write,
    /// Visible to queries (`remote_apply`).
    Apply,
}

impl Commit {
    /// By the setting's value.
    pub fn of_setting(value: &str) -> Self {
        match value {
            "remote_apply" => Self::Apply,
            "remote_write" => Self::Write,
            _ => Self::Flush,
        }
    }
}

/// One row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// Its name for itself: that of its member.
    pub application_name: String,
    /// `streaming`, `catchup`, `backup`, ...
    pub state: String,
    /// `async`, `potential`, `sync`, `quorum`.
    pub sync_state: String,
    /// Its position by [`Commit`]; `None` where it has told none.
    pub lsn: Option<Lsn>,
}

/// What is asked of `synchronous_standby_names`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// The operator's own value, from the configuration.
    Configured,
    /// This value; empty for nobody.
    Text(String),
}
