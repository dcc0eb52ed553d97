//! Copies of the configuration files in the data directory (`*.backup`): a base backup takes them along, so that a copy
//! of a server whose files are kept elsewhere can be configured from them (contract C.5).

use std::path::{Path, PathBuf};

use super::{Error, failed, mode_of, write_if_changed};

fn copy_of(file: &Path, data_dir: &Path) -> Option<PathBuf> {
    let mut name = file.file_name()?.to_owned();
    name.push(".backup");
    Some(data_dir.join(name))
}

/// Copies each file that exists into the data directory as `<name>.backup`.
pub fn save(files: &[PathBuf], data_dir: &Path) -> Result<(), Error> {
    for file in files.iter().filter(|file| file.is_file()) {
        let Some(copy) = copy_of(file, data_dir) else { continue };
        let text = std::fs::read_to_string(file).map_err(failed("read", file))?;
        write_if_changed(&copy, &text, mode_of(&copy, data_dir))?;
    }
    Ok(())
}

/// Puts each missing file back from its copy; one without a copy is created empty where it is named in `needed`.
pub fn restore(files: &[PathBuf], needed: &[&str], data_dir: &Path) -> Result<(), Error> {
    for file in files.iter().filter(|file| !file.is_file()) {
        let Some(copy) = copy_of(file, data_dir) else { continue };
        let is_needed = file.file_name().is_some_and(|name| needed.iter().any(|needed| name == *needed));
        let text = match std::fs::read_to_string(&copy) {
            Ok(text) => text,
            Err(_) if is_needed => String::new(),
            Err(_) => continue,
        };
        write_if_changed(file, &text, mode_of(file, data_dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_5_backup_and_restore() {
        let folder = tempfile::tempdir().unwrap();
        let (data_dir, config_dir) = (folder.path().join("data"), folder.path().join("conf"));
        for path in [&data_dir, &config_dir] {
            std::fs::create_dir(path).unwrap();
        }
        let files: Vec<PathBuf> =
            ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"].map(|name| config_dir.join(name)).into();
        std::fs::write(&files[0], "port = 1").unwrap();
        save(&files, &data_dir).unwrap();
        assert_eq!(std::fs::read_to_string(data_dir.join("postgresql.conf.backup")).unwrap(), "port = 1");
        std::fs::remove_file(&files[0]).unwrap();
        restore(&files, &["pg_ident.conf"], &data_dir).unwrap();
        assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), "port = 1");
        assert!(files[2].exists() && !files[1].exists());
    }
}
