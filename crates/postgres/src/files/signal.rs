//! `standby.signal` and `recovery.signal` (contract B.19.3, PostgreSQL 12 and newer).

use std::{io, path::Path};

use super::{Error, failed, mode_of, write};

/// How a server comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// As a primary, or as its control file says.
    None,
    /// As a standby, until promoted.
    Standby,
    /// It recovers up to a target.
    Recovery,
}

/// Creates the one file and removes the other.
pub fn set(data_dir: &Path, signal: Signal) -> Result<(), Error> {
    for (name, owner) in [("standby.signal", Signal::Standby), ("recovery.signal", Signal::Recovery)] {
        let path = data_dir.join(name);
        if signal == owner {
            write(&path, "", mode_of(&path, data_dir))?;
            continue;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Which file is there; `standby.signal` wins, as it does for the server.
pub fn get(data_dir: &Path) -> Signal {
    if data_dir.join("standby.signal").exists() {
        Signal::Standby
    } else if data_dir.join("recovery.signal").exists() {
        Signal::Recovery
    } else {
        Signal::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_19_3_one_signal_file_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        for signal in [Signal::Standby, Signal::Recovery, Signal::None, Signal::None] {
            set(folder.path(), signal).unwrap();
            assert_eq!(get(folder.path()), signal);
            let expected = usize::from(signal != Signal::None);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), expected);
        }
    }
}
