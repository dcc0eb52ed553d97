//! The server's configuration files as we manage them (contract C.5).

use std::{
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

pub mod auto_conf;
pub mod backup;
pub mod conf;
pub mod hba;
pub mod manage;
pub mod signal;

/// A configuration file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}", path = path.display())]
pub struct Error {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// The operating system's reason.
    pub source: io::Error,
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { action, path, source }
}

/// The mode of a file of ours: inside the data directory it follows the directory (0600, or 0640 where that is readable
/// by its group), outside the umask (contract C.5, "modes").
pub fn mode_of(path: &Path, data_dir: &Path) -> u32 {
    if path.starts_with(data_dir) {
        let open = std::fs::metadata(data_dir).is_ok_and(|meta| meta.mode() & 0o040 != 0);
        return if open { 0o640 } else { 0o600 };
    }
    0o666 & !umask()
}

/// The umask under which the server and our programs make files in this data directory (contract C.5).
pub fn umask_of(data_dir: &Path) -> u32 {
    let open = std::fs::metadata(data_dir).is_ok_and(|meta| meta.mode() & 0o040 != 0);
    if open { 0o027 } else { 0o077 }
}

/// The process's umask; the system call can only be asked by setting it.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o077)
}

/// Replaces a file as a whole: whoever reads it sees the old or the new text, also after a power failure. A symbolic
/// link stays one; its target is replaced.
pub fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".ptarmigan");
    let temporary = target.with_file_name(name);
    put(&temporary, &target, text, mode).map_err(failed("write", path))
}

fn put(temporary: &Path, target: &Path, text: &str, mode: u32) -> io::Result<()> {
    // A leftover may have another owner or mode.
    let _ = std::fs::remove_file(temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    file.write_all(text.as_bytes())?;
    // The umask may have taken bits away that the data directory's other files have.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    std::fs::rename(temporary, target)?;
    match target.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Writes the file unless it holds that text already; true where it was written.
pub fn write_if_changed(path: &Path, text: &str, mode: u32) -> Result<bool, Error> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    write(path, text, mode)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn c_5_modes_follow_the_data_directory() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        std::fs::create_dir(&data_dir).unwrap();
        let path = data_dir.join("postgresql.conf");
        for (folder_mode, file_mode, umask) in [(0o700, 0o600, 0o077), (0o750, 0o640, 0o027)] {
            std::fs::set_permissions(&data_dir, std::fs::Permissions::from_mode(folder_mode)).unwrap();
            write(&path, "x", mode_of(&path, &data_dir)).unwrap();
            assert_eq!((mode(&path), umask_of(&data_dir)), (file_mode, umask));
        }
        assert_eq!(mode_of(folder.path(), &data_dir), 0o666 & !umask());
    }

    #[test]
    fn link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(write_if_changed(&link, "new", 0o600).unwrap());
        assert!(!write_if_changed(&link, "new", 0o600).unwrap());
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
