//! Reading the local configuration (contract CF-1 to CF-4).

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use ptarmigan_types::merge::merge;
use serde_json::{Map, Value};

use crate::{Warning, env::Environment, yaml};

/// The name that may not be a member's: the placeholder of strict synchronous mode.
pub const STRICT_PLACEHOLDER: &str = "__patroni_strict_sync_replica_placeholder__";

/// Why there is no local configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no YAML mapping.
    #[error("{path}: {source}")]
    Yaml {
        /// Which one.
        path: PathBuf,
        /// Line, column and reason.
        source: yaml::Error,
    },
    /// `PATRONI_CONFIGURATION` is no YAML mapping.
    #[error("PATRONI_CONFIGURATION: {0}")]
    Variable(yaml::Error),
    /// Nothing is configured.
    #[error("no configuration: {0}")]
    Empty(String),
}

/// The local configuration as it was written, environment included.
///
/// `Debug` leaves the configuration out: it holds passwords.
#[derive(Clone, Default, PartialEq)]
pub struct LocalConfig {
    /// The configuration.
    pub config: Map<String, Value>,
    /// The file or folder it came from, read again at SIGHUP; `None` where only variables count.
    pub source: Option<PathBuf>,
    /// Duplicate keys and unreadable variables.
    pub warnings: Vec<Warning>,
}

impl fmt::Debug for LocalConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("LocalConfig");
        shown.field("source", &self.source).field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

/// Loads the local configuration.
///
/// An existing file or folder counts with the environment over it (CF-2); without one,
/// `PATRONI_CONFIGURATION` alone, else the environment alone (CF-3).
///
/// # Errors
/// Where a file cannot be read or is no mapping, and where nothing is configured at all (CF-4).
pub fn load(argument: Option<&Path>, environment: &Environment) -> Result<LocalConfig, Error> {
    let mut warnings = Vec::new();
    let existing = argument.filter(|path| path.exists());
    let config = match (existing, &environment.configuration) {
        (Some(path), _) => {
            let mut config = load_path(path, &mut warnings)?;
            merge(&mut config, &environment.config);
            warnings.extend(environment.warnings.iter().cloned());
            config
        }
        (None, Some(text)) => {
            let (config, found) = yaml::parse_mapping(text).map_err(Error::Variable)?;
            warnings.extend(found);
            config
        }
        (None, None) => {
            warnings.extend(environment.warnings.iter().cloned());
            environment.config.clone()
        }
    };
    if config.is_empty() {
        let reason = match (existing, argument) {
            (Some(path), _) => format!("{} holds none", path.display()),
            (None, Some(path)) => {
                format!("{} does not exist and no PATRONI_ variable is set", path.display())
            }
            (None, None) => "neither a file nor a PATRONI_ variable is given".to_owned(),
        };
        return Err(Error::Empty(reason));
    }
    Ok(LocalConfig { config, source: existing.map(Path::to_path_buf), warnings })
}

/// Loads a file, or the `*.yml` and `*.yaml` files of a folder in their sorted order, later ones merged over
/// earlier ones (CF-1, CF-6). A section that is null at the top counts as absent, in a single file, too.
///
/// # Errors
/// Where a file cannot be read or is no mapping.
pub fn load_path(path: &Path, warnings: &mut Vec<Warning>) -> Result<Map<String, Value>, Error> {
    let read_error = |source| Error::Read { path: path.to_path_buf(), source };
    let mut files = Vec::new();
    if !path.is_dir() {
        files.push(path.to_path_buf());
    }
    let entries = if path.is_dir() { Some(fs::read_dir(path).map_err(read_error)?) } else { None };
    for entry in entries.into_iter().flatten() {
        let file = entry.map_err(read_error)?.path();
        let is_yaml = file.extension().is_some_and(|extension| extension == "yml" || extension == "yaml");
        if is_yaml && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    let mut config = Map::new();
    for file in files {
        merge(&mut config, &load_file(&file, warnings)?);
    }
    Ok(config)
}

fn load_file(path: &Path, warnings: &mut Vec<Warning>) -> Result<Map<String, Value>, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    let (config, found) =
        yaml::parse_mapping(&text).map_err(|source| Error::Yaml { path: path.to_path_buf(), source })?;
    warnings.extend(
        found
            .into_iter()
            .map(|warning| Warning::new(warning.key, format!("{} (in {})", warning.reason, path.display()))),
    );
    Ok(config)
}
