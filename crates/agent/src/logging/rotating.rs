//! A log file that is renamed to `.1`, `.2`, ... when it has reached its size (contract D.7).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The open file.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    size_max: u64,
    backups: u32,
    mode: Option<u32>,
    file: File,
    size: u64,
}

impl RotatingFile {
    /// Opens or creates the file for appending. `size_max` 0: it is never renamed.
    pub fn open(path: &Path, size_max: u64, backups: u32, mode: Option<u32>) -> io::Result<Self> {
        let file = create(path, mode)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), size_max, backups, mode, file, size })
    }

    /// Appends a line; renames first where it would not fit.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.size_max > 0 && self.size > 0 && self.size + length > self.size_max {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.backups).rev() {
            // A backup that is not there yet is none to move.
            let _ = std::fs::rename(self.backup(number), self.backup(number + 1));
        }
        if self.backups > 0 {
            std::fs::rename(&self.path, self.backup(1))?;
        } else {
            std::fs::remove_file(&self.path)?;
        }
        self.file = create(&self.path, self.mode)?;
        self.size = 0;
        Ok(())
    }

    fn backup(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn create(path: &Path, mode: Option<u32>) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(mode.unwrap_or(0o666)).open(path)?;
    if let Some(mode) = mode {
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_as_many_files_as_it_should() {
        let folder = std::env::temp_dir().join(format!("ptarmigan-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("patroni.log");
        let mut log = RotatingFile::open(&path, 10, 2, Some(0o600)).unwrap();
        for number in 0..5 {
            log.write(format!("line {number}..\n").as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(read("patroni.log"), "line 4..\n");
        assert_eq!(read("patroni.log.1"), "line 3..\n");
        assert_eq!(read("patroni.log.2"), "line 2..\n");
        assert!(!folder.join("patroni.log.3").exists());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
