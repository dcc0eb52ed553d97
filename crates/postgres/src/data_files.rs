//! What a data directory that came from elsewhere needs before its first start (contract B.17.3): the configuration
//! files that were saved beside the data, and no left-over signal.

use std::{fs, io, path::Path};

use crate::{clone::Error, handle::Postgres};

/// Restores `*.backup` of the configuration files, creates an empty `pg_ident.conf`, removes a trigger file.
pub(crate) fn finish_clone(pg: &Postgres) -> Result<(), Error> {
    let settings = pg.settings();
    let base = &settings.config_base_name;
    let mut names = vec![format!("{base}.conf")];
    if settings.custom_conf.is_none() {
        names.push(format!("{base}.base.conf"));
    }
    names.extend(["pg_hba.conf".to_owned(), "pg_ident.conf".to_owned()]);
    for name in names {
        restore(&settings.data_dir.join(format!("{name}.backup")), &settings.config_dir.join(&name))?;
    }
    let ident = settings.config_dir.join("pg_ident.conf");
    if !ident.exists() {
        fs::write(&ident, "").map_err(|source| Error::Io { path: ident, source })?;
    }
    // The server takes it for an order to promote.
    remove(&settings.data_dir.join("promote"))
}

fn restore(backup: &Path, file: &Path) -> Result<(), Error> {
    if file.exists() || !backup.is_file() {
        return Ok(());
    }
    fs::copy(backup, file).map(|_| ()).map_err(|source| Error::Io { path: file.to_owned(), source })
}

pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}
