//! The one place that reads the machine's monotonic clock.

use ptarmigan_types::Monotonic;
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME` now: never goes back, goes on while the machine is suspended.
pub fn now() -> Monotonic {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_nsec / 1000).unwrap_or(0);
    Monotonic(seconds * 1_000_000 + micros)
}
