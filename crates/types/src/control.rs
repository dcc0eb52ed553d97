//! The words of `pg_control`.

use serde::{Deserialize, Serialize};

/// The state that a server last wrote into its control file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlState {
    /// `initdb` was not finished.
    StartingUp,
    /// Cleanly stopped as a primary.
    ShutDown,
    /// Cleanly stopped as a standby.
    ShutDownInRecovery,
    /// A checkpoint for the shutdown is being written.
    ShuttingDown,
    /// Replaying after a crash.
    InCrashRecovery,
    /// A standby, or one that died.
    InArchiveRecovery,
    /// A primary, or one that died.
    InProduction,
    /// Unreadable, or a word that we do not know.
    Unknown,
}

impl ControlState {
    /// Reads the word of `Database cluster state`.
    pub fn read(text: &str) -> Self {
        match text {
            "starting up" => Self::StartingUp,
            "shut down" => Self::ShutDown,
            "shut down in recovery" => Self::ShutDownInRecovery,
            "shutting down" => Self::ShuttingDown,
            "in crash recovery" => Self::InCrashRecovery,
            "in archive recovery" => Self::InArchiveRecovery,
            "in production" => Self::InProduction,
            _ => Self::Unknown,
        }
    }

    /// True for both clean ends.
    pub const fn is_shut_down(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }

    /// True where the data directory was last that of a primary: a clean stop or a crash in production.
    pub const fn is_of_primary(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShuttingDown | Self::InProduction | Self::InCrashRecovery)
    }
}
