//! The one source of chance of a run: SplitMix64, written out here so that a seed means the same in every version.

use std::time::Duration;

/// A seeded generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same sequence.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` up to, not including, `high`; `low` where the range is empty.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        let drawn = self.next();
        if high <= low { low } else { low + drawn % (high - low) }
    }

    /// An index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.between(0, len as u64)).unwrap_or(0)
    }

    /// True in `percent` of a hundred cases.
    pub const fn percent(&mut self, percent: u64) -> bool {
        self.between(0, 100) < percent
    }

    /// A time from `low` to `high`, in milliseconds.
    pub const fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1000, high * 1000))
    }
}
