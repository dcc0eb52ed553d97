//! Positions in the write-ahead log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A byte position in the write-ahead log. On the wire it is the plain integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

/// The text is not `%X/%X`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a log position of the form X/X: {0:?}")]
pub struct Error(pub String);

impl Lsn {
    /// The position before all WAL; PostgreSQL prints it as `0/0`.
    pub const ZERO: Self = Self(0);

    /// True for `0/0`, which stands for "unknown" in every answer of PostgreSQL.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `0/0182E220`: the low half in eight digits, as file names and some tools want it.
    pub fn to_padded(self) -> String {
        format!("{:X}/{:08X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }

    /// Bytes from `earlier` to `self`; 0 where `self` is not ahead.
    pub const fn bytes_ahead_of(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some(Self(u64::from(high) << 32 | u64::from(low)))
        };
        parse().ok_or_else(|| Error(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.0, 0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("0/0".parse::<Lsn>().unwrap(), Lsn::ZERO);
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["", "1", "1/", "/1", "g/1", "1/100000000", "1/1/1", "-1/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
