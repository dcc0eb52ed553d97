//! Writing the managed files of a server (contract C.5, B.19.3).

use std::{collections::BTreeMap, path::PathBuf};

use ptarmigan_types::Role;

use super::{Error, auto_conf, backup, conf, failed, hba, mode_of, signal, write, write_if_changed};
use crate::{Postgres, guc, pgpass, recovery::Recovery};

/// Where the configuration files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFiles {
    /// `<config_dir>/<config_base_name>.conf`: the managed one.
    pub conf: PathBuf,
    /// `<config_dir>/<config_base_name>.base.conf`: the original.
    pub base: PathBuf,
    /// `<config_dir>/pg_hba.conf`.
    pub hba: PathBuf,
    /// `<config_dir>/pg_ident.conf`.
    pub ident: PathBuf,
}

impl ConfigFiles {
    fn all(&self) -> [PathBuf; 4] {
        [self.conf.clone(), self.base.clone(), self.hba.clone(), self.ident.clone()]
    }
}

/// Which of the managed files changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// `postgresql.conf`.
    pub conf: bool,
    /// `pg_hba.conf` or `pg_ident.conf`.
    pub access: bool,
}

impl Written {
    /// True where anything changed.
    pub const fn any(self) -> bool {
        self.conf || self.access
    }
}

/// Why the files were not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file.
    #[error(transparent)]
    File(#[from] Error),
    /// What to write is not known.
    #[error(transparent)]
    Parameters(#[from] guc::ParametersError),
    /// The password file.
    #[error(transparent)]
    Pgpass(#[from] pgpass::Error),
}

impl Postgres {
    /// Where the configuration files are.
    pub fn config_files(&self) -> ConfigFiles {
        let settings = self.settings();
        let (folder, name) = (&settings.config_dir, &settings.config_base_name);
        ConfigFiles {
            conf: folder.join(format!("{name}.conf")),
            base: folder.join(format!("{name}.base.conf")),
            hba: folder.join("pg_hba.conf"),
            ident: folder.join("pg_ident.conf"),
        }
    }

    /// Writes `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf` for a role, with the recovery parameters that were
    /// written last.
    pub async fn write_config(&self, role: Role) -> Result<Written, WriteError> {
        let parameters = self.server_parameters(role).await?;
        self.keep_original()?;
        let conf = self.write_conf(&parameters)?;
        Ok(Written { conf, access: self.write_access(role)? })
    }

    /// Sets how the server comes up next, or what a running standby follows after a reload: signal file, password file,
    /// recovery parameters (contract B.19.3). A running primary's signal files are not touched by [`Recovery::None`]
    /// more than by the server itself, which removed them when it was promoted.
    pub async fn write_recovery(
        &self,
        role: Role,
        recovery: Recovery,
        passfile_lines: &[String],
    ) -> Result<Written, WriteError> {
        let data_dir = self.data_dir();
        if !passfile_lines.is_empty() {
            pgpass::write(&self.pgpass_path(), passfile_lines)?;
        }
        let kind = match &recovery {
            Recovery::None => signal::Signal::None,
            Recovery::Standby(_) => signal::Signal::Standby,
            Recovery::Target(_) => signal::Signal::Recovery,
            Recovery::Existing => signal::get(&data_dir),
        };
        if recovery != Recovery::Existing {
            auto_conf::clean(&data_dir)?;
        }
        self.remember_recovery(recovery);
        let written = self.write_config(role).await?;
        // Last: a standby that lacks its parameters would recover from nowhere, but a primary that is one by mistake
        // would write.
        if signal::get(&data_dir) != kind {
            signal::set(&data_dir, kind)?;
        }
        Ok(written)
    }

    /// The original configuration keeps its text under the base name, missing files come back from their copies.
    fn keep_original(&self) -> Result<(), Error> {
        let (files, settings) = (self.config_files(), self.settings());
        let data_dir = &settings.data_dir;
        backup::restore(&files.all(), &["pg_ident.conf"], data_dir)?;
        if settings.custom_conf.is_some() || files.base.exists() {
            return Ok(());
        }
        if files.conf.exists() {
            std::fs::rename(&files.conf, &files.base).map_err(failed("rename", &files.conf))
        } else {
            write(&files.base, "", mode_of(&files.base, data_dir))
        }
    }

    fn write_conf(&self, parameters: &BTreeMap<String, String>) -> Result<bool, Error> {
        let (files, settings) = (self.config_files(), self.settings());
        let recovery = self.recovery_parameters();
        let file_name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let include = settings
            .custom_conf
            .as_ref()
            .map_or_else(|| file_name(&files.base), |path| path.display().to_string());
        let mut parameters = parameters.clone();
        for (name, value) in &mut parameters {
            if matches!(name.to_ascii_lowercase().as_str(), "hba_file" | "ident_file") {
                *value = settings.config_dir.join(&*value).display().to_string();
            }
        }
        let text = conf::Conf {
            include: &include,
            parameters: &parameters,
            hba_file: &files.hba.display().to_string(),
            ident_file: &files.ident.display().to_string(),
            recovery: &recovery,
        }
        .text();
        write_if_changed(&files.conf, &text, mode_of(&files.conf, &settings.data_dir))
    }

    fn write_access(&self, role: Role) -> Result<bool, Error> {
        let (files, settings) = (self.config_files(), self.settings());
        let of_role =
            |all: &Vec<String>, overlay| guc::of_role(overlay, role).cloned().unwrap_or_else(|| all.clone());
        let managed = [
            ("hba_file", &files.hba, of_role(&settings.pg_hba, &settings.pg_hba_by_role)),
            ("ident_file", &files.ident, of_role(&settings.pg_ident, &settings.pg_ident_by_role)),
        ];
        let mut changed = false;
        if self.custom_bootstrap().is_some() {
            return self.trust_ourselves();
        }
        for (guc, path, lines) in managed {
            let elsewhere = settings.parameters.get(guc).map(guc::text);
            let is_default = elsewhere.is_none_or(|value| settings.config_dir.join(value) == *path);
            if is_default && !lines.is_empty() {
                changed |= write_if_changed(path, &hba::text(&lines), mode_of(path, &settings.data_dir))?;
            }
        }
        Ok(changed)
    }

    /// Copies the configuration files into the data directory (contract C.5, `*.backup`); not those of a custom bootstrap.
    pub fn backup_config(&self) -> Result<(), Error> {
        if self.custom_bootstrap().is_some() {
            return Ok(());
        }
        backup::save(&self.config_files().all(), &self.data_dir())
    }

    /// Puts missing configuration files back from their copies beside the data, and removes what would promote the server
    /// (contract B.17.2, B.17.3): for a data directory that was copied from elsewhere.
    pub(crate) fn settle_copied_data(&self) -> Result<(), Error> {
        let settings = self.settings();
        let paths = self.config_files();
        let mut restored = vec![paths.conf, paths.hba, paths.ident];
        if settings.custom_conf.is_none() {
            restored.push(paths.base);
        }
        backup::restore(&restored, &["pg_ident.conf"], &settings.data_dir)?;
        let path = settings.data_dir.join("promote");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// The recovery parameters in force: those that we wrote, else those that a managed file has from before us.
    fn recovery_parameters(&self) -> BTreeMap<String, String> {
        if let Some(recovery) = self.remembered_recovery().filter(|known| *known != Recovery::Existing) {
            return recovery.parameters();
        }
        let text = std::fs::read_to_string(self.config_files().conf).unwrap_or_default();
        conf::recovery_of(&text)
    }

    /// Takes `synchronous_standby_names` over from the configuration (`Some`), or gives it back (`None`); true where that
    /// is a change. Written and reloaded by the caller's next [`Postgres::write_config`].
    pub fn own_synchronous_standby_names(&self, names: Option<&str>) -> bool {
        let names = names.map(str::to_owned);
        self.0
            .synchronous_standby_names
            .send_if_modified(|old| std::mem::replace(old, names.clone()) != names)
    }

    /// Puts `hot_standby_feedback` on, whatever is configured, or gives it back (contract B.23.6); true where that
    /// changes something, which the next write of the files brings to the server.
    pub fn force_hot_standby_feedback(&self, forced: bool) -> bool {
        self.0.hot_standby_feedback.send_if_modified(|old| std::mem::replace(old, forced) != forced)
    }

    pub(crate) fn forces_hot_standby_feedback(&self) -> bool {
        *self.0.hot_standby_feedback.borrow()
    }

    /// The names that were taken over, where they were.
    pub fn owned_synchronous_standby_names(&self) -> Option<String> {
        self.0.synchronous_standby_names.borrow().clone()
    }

    /// The names that the managed file has, of whoever wrote it; `None` where it names nobody.
    pub fn written_synchronous_standby_names(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.config_files().conf).unwrap_or_default();
        conf::value_of(&text, guc::STANDBY_NAMES)
    }
}
