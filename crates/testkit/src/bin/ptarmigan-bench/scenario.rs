//! What is measured, and under which settings.

use clap::ValueEnum;
use serde_json::{Value, json};

/// Something that happens to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Scenario {
    /// A planned switchover.
    Switchover,
    /// SIGKILL to the primary's postmaster.
    Postmaster,
    /// SIGKILL to everything of the primary's node at once.
    Node,
    /// The memory that a daemon takes after switchovers.
    Memory,
}

impl Scenario {
    /// What happens, in the words of the report.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Switchover => "planned switchover: writes stand still",
            Self::Postmaster => "postmaster killed, recovered in place: writes stand still",
            Self::Node => "node killed (daemon and PostgreSQL): writes stand still",
            Self::Memory => "resident memory of a daemon, the largest of three",
        }
    }

    /// Its settings, in the words of the report.
    pub(crate) const fn settings(self) -> &'static str {
        match self {
            Self::Node => "ttl 20, loop_wait 10, retry_timeout 5",
            _ => "defaults: ttl 30, loop_wait 10, retry_timeout 10",
        }
    }

    /// What Ptarmigan wants to reach.
    pub(crate) const fn goal(self) -> &'static str {
        match self {
            Self::Switchover => "0.6 s",
            Self::Postmaster => "1.0 s",
            Self::Node => "21.0 s (ttl + 1.0 s)",
            Self::Memory => "15 MB",
        }
    }

    /// The dynamic settings.
    pub(crate) fn dynamic(self) -> Value {
        match self {
            Self::Node => json!({"ttl": 20, "loop_wait": 10, "retry_timeout": 5}),
            _ => json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}),
        }
    }

    /// A sample in the scenario's unit.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Memory => format!("{value:.1} MB"),
            _ => format!("{value:.2} s"),
        }
    }
}
