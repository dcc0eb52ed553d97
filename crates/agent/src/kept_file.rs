//! A few bytes that survive the daemon, and a machine that starts anew: in a file beside the data directory. Not in it, because
//! `pg_basebackup` would copy it and `pg_rewind` would remove it. Where the folder beside it cannot be written to (the data
//! directory is a mount point), in an extended attribute of the data directory, which neither of them looks at; where the file
//! system knows none, in the guardian's run folder, which may be gone with the machine.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use ptarmigan_guardian::run_dir::RunDir;
use rustix::{
    fs::{XattrFlags, getxattr, removexattr, setxattr},
    io::Errno,
};

/// Tells one life of the machine from the next.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// More than anything that is kept.
const BYTES_MAX: usize = 4096;

/// What could not be done with the file.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {source}")]
pub struct Error {
    place: Place,
    source: io::Error,
}

impl Error {
    /// The thread that worked on it is gone.
    pub(crate) fn interrupted() -> Self {
        Self { place: Place::File(PathBuf::new()), source: io::ErrorKind::Interrupted.into() }
    }
}

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    File(PathBuf),
    Attribute { folder: PathBuf, name: String },
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "{}", path.display()),
            Self::Attribute { folder, name } => {
                write!(formatter, "extended attribute {name} of {}", folder.display())
            }
        }
    }
}

impl Place {
    fn write(&self, text: &str) -> io::Result<()> {
        match self {
            Self::File(path) => replace(path, text.as_bytes()),
            Self::Attribute { folder, name } => {
                setxattr(folder, name.as_str(), text.as_bytes(), XattrFlags::empty())?;
                fs::File::open(folder)?.sync_all()
            }
        }
    }

    fn read(&self) -> Option<io::Result<String>> {
        match self {
            Self::File(path) => match fs::read_to_string(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                text => Some(text),
            },
            Self::Attribute { folder, name } => {
                let mut buffer = vec![0; BYTES_MAX];
                match getxattr(folder, name.as_str(), &mut buffer[..]) {
                    Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => None,
                    Err(error) => Some(Err(error.into())),
                    Ok(length) => {
                        buffer.truncate(length);
                        let text = String::from_utf8(buffer);
                        Some(text.map_err(|_| io::ErrorKind::InvalidData.into()))
                    }
                }
            }
        }
    }

    fn remove(&self) -> io::Result<()> {
        match self {
            Self::File(path) => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Self::Attribute { folder, name } => match removexattr(folder, name.as_str()) {
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => Ok(()),
                Err(error) => Err(error.into()),
            },
        }
    }
}

/// Where the bytes may lie.
#[derive(Debug, Clone)]
pub(crate) struct KeptFile {
    places: Vec<Place>,
}

impl KeptFile {
    /// `<data_dir>.<name>`, else one of the other places.
    pub(crate) fn beside(data_dir: &Path, name: &str) -> Self {
        let mut beside = data_dir.as_os_str().to_owned();
        beside.push(".");
        beside.push(name);
        let mut places = vec![Place::File(PathBuf::from(beside))];
        let folder = data_dir.parent().unwrap_or(data_dir);
        if rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err() {
            let name_of_attribute = format!("user.ptarmigan.{name}");
            places.push(Place::Attribute { folder: data_dir.to_owned(), name: name_of_attribute });
            let run_dir = RunDir::create(data_dir, None);
            places.extend(run_dir.map(|run_dir| Place::File(run_dir.path().join(name))));
        }
        Self { places }
    }

    #[cfg(test)]
    pub(crate) const fn at(places: Vec<Place>) -> Self {
        Self { places }
    }

    /// Stores it for good before it returns.
    ///
    /// # Errors
    /// The first place's, where no place can be written to.
    pub(crate) fn write(&self, text: &str) -> Result<(), Error> {
        let mut first = None;
        for place in &self.places {
            match place.write(text) {
                Ok(()) => return Ok(()),
                Err(source) => drop(first.get_or_insert_with(|| Error { place: place.clone(), source })),
            }
        }
        Err(first.unwrap_or_else(Error::interrupted))
    }

    /// What lies in every place, and why it cannot be read where something is there.
    pub(crate) fn read(&self) -> impl Iterator<Item = (&Place, io::Result<String>)> {
        self.places.iter().filter_map(|place| Some((place, place.read()?)))
    }

    /// Nothing is kept any more.
    ///
    /// # Errors
    /// Something is there and stays.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        for place in &self.places {
            place.remove().map_err(|source| Error { place: place.clone(), source })?;
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
    fn the_next_place_serves_where_one_cannot_be_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = Place::File(folder.path().join("missing/data.kept"));
        let attribute =
            Place::Attribute { folder: folder.path().to_owned(), name: "user.ptarmigan.kept".into() };
        let no_attribute = Place::Attribute { folder: folder.path().join("missing"), name: "user.x".into() };
        let last = Place::File(folder.path().join("run"));
        for places in [vec![nowhere.clone(), last], vec![nowhere.clone(), no_attribute, attribute]] {
            let file = KeptFile::at(places);
            assert_eq!(file.read().count(), 0);
            file.write("x").unwrap();
            let read: Vec<_> = file.read().map(|(_, text)| text.unwrap()).collect();
            assert_eq!(read, ["x"], "{file:?}");
            file.remove().unwrap();
            assert_eq!(file.read().count(), 0);
            file.remove().unwrap();
        }
        let refused = KeptFile::at(vec![nowhere]).write("x").unwrap_err().to_string();
        assert!(refused.contains("missing/data.kept: "), "{refused}");
    }

    #[test]
    fn it_lies_beside_the_data_directory() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeptFile::beside(&folder.path().join("data"), "kept");
        assert_eq!(file.places[0], Place::File(folder.path().join("data.kept")));
    }
}
