//! Time as the core sees it: a number that somebody else read from a clock.

use std::{ops::Add, time::Duration};

use serde::{Deserialize, Serialize};

/// A reading of `CLOCK_BOOTTIME` in microseconds since boot: it never goes back and goes on during suspend.
/// Readings of different machines have nothing to do with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// Time from `earlier` to `self`, zero where `self` is not later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}
