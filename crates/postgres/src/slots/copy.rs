//! Logical slots that are copied from the leader: their files below `pg_replslot` (contract B.23.5). Only while no server
//! runs on the data directory.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use ptarmigan_types::Lsn;

use super::sql::State;

/// The files could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write replication slot {slot}: {source}")]
pub struct Error {
    slot: String,
    source: io::Error,
}

/// Writes the slots in place of those of the same names. A slot is there whole or not at all: PostgreSQL removes what ends
/// in `.tmp` when it starts.
///
/// # Errors
/// One of them could not be written; those before it are there.
pub fn write(data_dir: &Path, states: &[State]) -> Result<(), Error> {
    let folder = data_dir.join("pg_replslot");
    for state in states {
        write_one(&folder, state).map_err(|source| Error { slot: state.name.clone(), source })?;
    }
    Ok(())
}

fn write_one(folder: &Path, state: &State) -> io::Result<()> {
    let (there, temporary) = (folder.join(&state.name), folder.join(format!("{}.tmp", state.name)));
    remove(&temporary)?;
    fs::create_dir(&temporary)?;
    let mut file = File::create_new(temporary.join("state"))?;
    file.write_all(&state.file)?;
    file.sync_all()?;
    sync(&temporary)?;
    remove(&there)?;
    fs::rename(&temporary, &there)?;
    sync(&there)?;
    sync(folder)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// True where the WAL file with this position lies in `pg_wal`, of whatever timeline: a slot that needs WAL which this
/// server has not got could never be used here.
pub fn has_wal(data_dir: &Path, segment_bytes: u64, lsn: Lsn) -> bool {
    let Some(segment) = lsn.0.checked_div(segment_bytes) else { return false };
    let per_log = (1_u64 << 32) / segment_bytes;
    let wanted = format!("{:08X}{:08X}", segment / per_log, segment % per_log);
    let Ok(files) = fs::read_dir(data_dir.join("pg_wal")) else { return false };
    files.flatten().any(|file| {
        let name = file.file_name();
        name.len() == 24 && name.to_str().and_then(|name| name.get(8..)) == Some(&wanted)
    })
}

#[cfg(test)]
mod tests {
    use ptarmigan_ha::slots::Kind;

    use super::*;

    fn state(name: &str, file: &[u8]) -> State {
        State {
            name: name.into(),
            kind: Kind::Logical { database: "d".into(), plugin: "p".into() },
            restart_lsn: Lsn(1),
            confirmed_flush_lsn: Lsn(2),
            file: file.into(),
        }
    }

    #[test]
    fn b_23_5_a_copied_slot_takes_the_place_of_the_old_one() {
        let data_dir = tempfile::tempdir().unwrap();
        let folder = data_dir.path().join("pg_replslot");
        let error = write(data_dir.path(), &[state("cdc", b"x")]).unwrap_err();
        assert!(error.to_string().starts_with("cannot write replication slot cdc: "), "{error}");
        fs::create_dir_all(folder.join("cdc.tmp/left/over")).unwrap();
        fs::create_dir(folder.join("cdc")).unwrap();
        fs::write(folder.join("cdc/state"), "old").unwrap();
        fs::write(folder.join("cdc/xid-1-lsn-0-1.spill"), "of a decoding that is gone").unwrap();
        fs::create_dir(folder.join("member")).unwrap();
        write(data_dir.path(), &[state("cdc", b"new"), state("more", b"\0more")]).unwrap();
        assert_eq!(fs::read(folder.join("cdc/state")).unwrap(), b"new");
        assert_eq!(fs::read(folder.join("more/state")).unwrap(), b"\0more");
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["cdc", "member", "more"]);
        assert_eq!(fs::read_dir(folder.join("cdc")).unwrap().count(), 1);
    }

    #[test]
    fn b_23_5_wal_is_looked_for_by_its_position() {
        let data_dir = tempfile::tempdir().unwrap();
        let wal = data_dir.path().join("pg_wal");
        fs::create_dir_all(wal.join("archive_status")).unwrap();
        fs::write(wal.join("0000000300000001000000FE"), "").unwrap();
        fs::write(wal.join("000000030000000200000001.partial"), "").unwrap();
        fs::write(wal.join("00000003.history"), "").unwrap();
        let mebibytes = |count: u64| count << 20;
        for (lsn, segment_bytes, there) in [
            (0x1_FE00_0000, mebibytes(16), true),
            (0x1_FEFF_FFFF, mebibytes(16), true),
            (0x1_FF00_0000, mebibytes(16), false),
            (0x2_0100_0000, mebibytes(16), false),
            // Of a server with larger files the same name is another position.
            (0x1_FE00_0000, mebibytes(64), false),
            (0x1_FE00_0000, 0, false),
        ] {
            assert_eq!(has_wal(data_dir.path(), segment_bytes, Lsn(lsn)), there, "{lsn:X} {segment_bytes}");
        }
        assert!(!has_wal(&data_dir.path().join("none"), mebibytes(16), Lsn(1)));
    }
}
