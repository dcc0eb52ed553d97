//! The `watchdog` and `guardian` sections (contract D.6).

use std::path::PathBuf;

/// How much the kernel watchdog is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchdogMode {
    /// Not used.
    Off,
    /// Used where it works.
    #[default]
    Automatic,
    /// No leadership without it.
    Required,
}

/// The kernel watchdog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogSettings {
    /// How much it is wanted.
    pub mode: WatchdogMode,
    /// Its device.
    pub device: PathBuf,
    /// Seconds before the end of the lock at which the host is reset; -1 for half of ttl.
    pub safety_margin_s: i64,
    /// `default` or `testing`.
    pub driver: String,
}

impl Default for WatchdogSettings {
    fn default() -> Self {
        Self {
            mode: WatchdogMode::Automatic,
            device: PathBuf::from("/dev/watchdog"),
            safety_margin_s: 5,
            driver: "default".to_owned(),
        }
    }
}

/// How much the guardian is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuardianMode {
    /// PostgreSQL is not fenced.
    Off,
    /// Used where it works.
    #[default]
    Automatic,
    /// No leadership without it.
    Required,
}
