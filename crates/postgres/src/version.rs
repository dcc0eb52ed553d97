//! Which PostgreSQL: of the data directory and of the programs.

use std::{fmt, path::Path};

use crate::command::{self, Command};

/// A PostgreSQL version as `server_version_num` gives it: 150004 is 15.4, 90624 is 9.6.24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(pub u32);

/// The oldest version that is supported.
pub const OLDEST: ServerVersion = ServerVersion::major_of(12);

/// Why the version is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not a version.
    #[error("not a PostgreSQL version: {0:?}")]
    Text(String),
    /// `PG_VERSION` cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// `postgres --version` failed.
    #[error(transparent)]
    Command(#[from] command::Error),
}

impl ServerVersion {
    /// The first version of a major release from 10 on.
    pub const fn major_of(major: u32) -> Self {
        Self(major * 10_000)
    }

    /// True where this is `major` (10 or later) or anything newer.
    pub const fn at_least(self, major: u32) -> bool {
        self.0 >= major * 10_000
    }

    /// The number before the first dot.
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// Reads `15.4`, `9.6.24`, `16beta1`, `15.4 (Debian 15.4-1)`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::Text(text.to_owned());
        let head = text.split_whitespace().next().ok_or_else(bad)?;
        let mut numbers = Vec::new();
        for part in head.split('.') {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            let complete = digits.len() == part.len();
            numbers.push(digits.parse::<u32>().map_err(|_| bad())?);
            if !complete {
                break;
            }
        }
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        if at(0) > 1000 || at(1) > 99 || at(2) > 99 {
            return Err(bad());
        }
        Ok(if at(0) >= 10 {
            Self(at(0) * 10_000 + at(1))
        } else {
            Self(at(0) * 10_000 + at(1) * 100 + at(2))
        })
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number) = *self;
        if number >= 100_000 {
            write!(f, "{}.{}", number / 10_000, number % 10_000)
        } else {
            write!(f, "{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
        }
    }
}

/// The major version of a data directory, from its `PG_VERSION`.
pub fn of_data_dir(data_dir: &Path) -> Result<ServerVersion, Error> {
    let path = data_dir.join("PG_VERSION");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| Error::File { path: path.display().to_string(), source })?;
    ServerVersion::parse(&text)
}

/// The version of a server program, from `postgres --version`.
pub async fn of_program(postgres: &Path) -> Result<ServerVersion, Error> {
    let limit = std::time::Duration::from_secs(10);
    let output = Command::new(postgres).arg("--version").deadline(limit).succeed().await?;
    let text = output.stdout_text();
    // `postgres (PostgreSQL) 15.4 (Debian 15.4-1)`: a distribution may put its own words before the product's name.
    let number = text.rsplit_once("PostgreSQL)").map_or(text.as_str(), |(_, rest)| rest);
    ServerVersion::parse(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_version_is_read() {
        for (text, number) in [
            ("15.4", 150_004),
            ("15", 150_000),
            ("9.6.24", 90_624),
            ("9.6", 90_600),
            ("16beta1", 160_000),
            ("18devel", 180_000),
            (" 15.4 (Debian 15.4-1)\n", 150_004),
        ] {
            assert_eq!(ServerVersion::parse(text).unwrap().0, number, "{text}");
        }
        for text in ["", "x", ".5", "-1"] {
            assert!(ServerVersion::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn versions_print_as_they_are_spoken() {
        assert_eq!(ServerVersion(150_004).to_string(), "15.4");
        assert_eq!(ServerVersion(90_624).to_string(), "9.6.24");
        assert!(ServerVersion(120_000).at_least(12) && !ServerVersion(110_022).at_least(12));
    }
}
