//! Our own programs, where the servers' user can run them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::Workspace;

/// The programs a workspace uses.
const PROGRAMS: [&str; 3] = ["ptarmigan", "ptarmigan-guardian", "ptctl"];

/// A folder with `ptarmigan`, and `ptarmigan-guardian` and `ptctl` where they have been built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// Takes the programs from `$PTARMIGAN_BIN_DIR`, or from beside the running program.
    ///
    /// # Errors
    /// `ptarmigan` is not there; or a copy fails.
    pub fn locate(workspace: &Workspace) -> Result<Self> {
        if let Some(dir) = std::env::var_os("PTARMIGAN_BIN_DIR") {
            return Self::from_dir(workspace, Path::new(&dir));
        }
        let program = std::env::current_exe().context("the running program's path")?;
        let mut dir = program.parent().context("the running program has no folder")?;
        if dir.ends_with("deps") {
            // test programs lie one folder deeper than the programs they test
            dir = dir.parent().unwrap_or(dir);
        }
        Self::from_dir(workspace, dir)
    }

    /// Takes the programs that lie beside `ptarmigan`; tests pass `env!("CARGO_BIN_EXE_ptarmigan")`.
    ///
    /// # Errors
    /// It is not there; or a copy fails.
    pub fn beside(workspace: &Workspace, ptarmigan: impl AsRef<Path>) -> Result<Self> {
        Self::from_dir(workspace, ptarmigan.as_ref().parent().context("a path with a folder")?)
    }

    /// Takes the programs of a folder. As root they are linked or copied into the workspace, once: the folder may be
    /// below `/root`, where the user `postgres` cannot run them.
    ///
    /// # Errors
    /// `ptarmigan` is not there; or a copy fails.
    pub fn from_dir(workspace: &Workspace, dir: &Path) -> Result<Self> {
        let ptarmigan = dir.join(PROGRAMS[0]);
        ensure!(ptarmigan.is_file(), "{} does not exist: build it first", ptarmigan.display());
        if workspace.account().is_none() {
            return Ok(Self { dir: dir.to_owned() });
        }
        let target = workspace.folder("bin")?;
        for program in PROGRAMS {
            let (from, to) = (dir.join(program), target.join(program));
            if from.is_file() && !to.exists() && fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            }
        }
        Ok(Self { dir: target })
    }

    /// The daemon.
    pub fn ptarmigan(&self) -> PathBuf {
        self.dir.join("ptarmigan")
    }

    /// The guardian, where it has been built.
    pub fn guardian(&self) -> Option<PathBuf> {
        Some(self.dir.join("ptarmigan-guardian")).filter(|path| path.is_file())
    }

    /// The daemon cannot work without its guardian, which cargo does not build for another package's tests.
    ///
    /// # Errors
    /// It has not been built.
    pub fn ensure_guardian(&self) -> Result<()> {
        let built = self.guardian().is_some();
        ensure!(
            built,
            "ptarmigan-guardian was not built beside ptarmigan: run `cargo build --workspace --bins` first"
        );
        Ok(())
    }

    /// The operator's tool.
    pub fn ptctl(&self) -> PathBuf {
        self.dir.join("ptctl")
    }

    /// The folder they are in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn programs_are_taken_from_a_folder_and_stay_executable() {
        let source = tempfile::tempdir().unwrap();
        for program in ["ptarmigan", "ptctl"] {
            fs::write(source.path().join(program), "#!/bin/sh\n").unwrap();
            fs::set_permissions(source.path().join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let workspace = Workspace::new("unit").unwrap();
        let binaries = Binaries::beside(&workspace, source.path().join("ptarmigan")).unwrap();
        assert_eq!(binaries.guardian(), None);
        assert!(
            binaries.ensure_guardian().unwrap_err().to_string().contains("cargo build --workspace --bins")
        );
        assert_eq!(fs::metadata(binaries.ptarmigan()).unwrap().permissions().mode() & 0o111, 0o111);
        assert_eq!(binaries.dir().starts_with(workspace.path()), workspace.account().is_some());
        assert_eq!(Binaries::from_dir(&workspace, source.path()).unwrap(), binaries);
    }

    #[test]
    fn a_folder_without_the_daemon_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        let workspace = Workspace::new("unit").unwrap();
        let error = Binaries::from_dir(&workspace, empty.path()).unwrap_err();
        assert!(error.to_string().contains("build it first"), "{error}");
    }
}
