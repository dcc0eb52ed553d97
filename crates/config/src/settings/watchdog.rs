//! The `watchdog` and `guardian` sections (contract D.6).

use std::path::PathBuf;

use super::read::Section;

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

impl WatchdogSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let modes = [
            ("off", WatchdogMode::Off),
            ("false", WatchdogMode::Off),
            ("disable", WatchdogMode::Off),
            ("disabled", WatchdogMode::Off),
            ("automatic", WatchdogMode::Automatic),
            ("auto", WatchdogMode::Automatic),
            ("required", WatchdogMode::Required),
            ("require", WatchdogMode::Required),
        ];
        let mode = match section.get("mode") {
            None => default.mode,
            // An unknown mode is off (contract D.6).
            Some(_) => section.word("mode", &modes, WatchdogMode::Off),
        };
        Self {
            mode,
            device: section.path("device").unwrap_or(default.device),
            safety_margin_s: section.int("safety_margin", default.safety_margin_s, -1),
            driver: section.filled_text("driver").unwrap_or(default.driver),
        }
    }
}

impl GuardianMode {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let modes = [
            ("off", Self::Off),
            ("false", Self::Off),
            ("automatic", Self::Automatic),
            ("required", Self::Required),
        ];
        section.word("mode", &modes, Self::Automatic)
    }
}
