//! A few bytes that survive the daemon, and a machine that starts anew: in a file beside the data directory. Not in it, because
//! `pg_basebackup` would copy it and `pg_rewind` would remove it; where the folder beside it cannot be written to, in the
//! guardian's run folder.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use ptarmigan_guardian::run_dir::RunDir;

/// Tells one life of the machine from the next.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What could not be done with the file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Error {
    /// The thread that worked on it is gone.
    pub(crate) fn interrupted() -> Self {
        Self { path: PathBuf::new(), source: io::ErrorKind::Interrupted.into() }
    }
}

/// Where the file may lie.
#[derive(Debug, Clone)]
pub(crate) struct KeptFile {
    paths: Vec<PathBuf>,
}

impl KeptFile {
    /// `<data_dir>.<suffix>`, else `<name>` in the run folder.
    pub(crate) fn beside(data_dir: &Path, suffix: &str, name: &str) -> Self {
        let mut beside = data_dir.as_os_str().to_owned();
        beside.push(".");
        beside.push(suffix);
        let mut paths = vec![PathBuf::from(beside)];
        let folder = data_dir.parent().unwrap_or(data_dir);
        if rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err() {
            paths.extend(RunDir::create(data_dir, None).map(|dir| dir.path().join(name)));
        }
        Self { paths }
    }

    #[cfg(test)]
    pub(crate) const fn at(paths: Vec<PathBuf>) -> Self {
        Self { paths }
    }

    /// The first place.
    pub(crate) fn path(&self) -> &Path {
        &self.paths[0]
    }

    /// Stores it for good before it returns.
    ///
    /// # Errors
    /// The first place's, where no place can be written to.
    pub(crate) fn write(&self, text: &str) -> Result<(), Error> {
        let mut first = None;
        for path in &self.paths {
            match replace(path, text.as_bytes()) {
                Ok(()) => return Ok(()),
                Err(source) => drop(first.get_or_insert_with(|| Error { path: path.clone(), source })),
            }
        }
        Err(first.unwrap_or_else(Error::interrupted))
    }

    /// What lies in every place, and why it cannot be read where something is there.
    pub(crate) fn read(&self) -> impl Iterator<Item = (&Path, Result<String, io::Error>)> {
        self.paths.iter().filter_map(|path| match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            text => Some((path.as_path(), text)),
        })
    }

    /// Nothing is kept any more.
    ///
    /// # Errors
    /// A file is there and stays.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        for path in &self.paths {
            match fs::remove_file(path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error { path: path.clone(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Which life of the machine this is; empty where that is not known.
pub(crate) fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_place_serves_where_the_first_cannot_be_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("missing/data.kept");
        let file = KeptFile::at(vec![nowhere.clone(), folder.path().join("run")]);
        assert_eq!(file.read().count(), 0);
        file.write("x").unwrap();
        let read: Vec<_> = file.read().map(|(_, text)| text.unwrap()).collect();
        assert_eq!(read, ["x"]);
        let refused = KeptFile::at(vec![nowhere]).write("x").unwrap_err().to_string();
        assert!(refused.contains("missing/data.kept: "), "{refused}");
        file.remove().unwrap();
        assert_eq!(file.read().count(), 0);
        file.remove().unwrap();
    }

    #[test]
    fn it_lies_beside_the_data_directory() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeptFile::beside(&folder.path().join("data"), "kept", "kept");
        assert_eq!(file.path(), folder.path().join("data.kept"));
    }
}
