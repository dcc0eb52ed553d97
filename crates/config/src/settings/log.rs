//! The `log` section.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value};

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogType {
    /// Text.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

/// The fields of a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A Python `%(name)s` template.
    Template(String),
    /// JSON only: record field and the name it gets.
    Fields(Vec<(String, String)>),
}

impl Default for LogFormat {
    fn default() -> Self {
        Self::Template("%(asctime)s %(levelname)s: %(message)s".to_owned())
    }
}

/// Logging (contract D.7).
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// Text or JSON.
    pub kind: LogType,
    /// Level in Python's words, upper case.
    pub level: String,
    /// `ERROR` prints details of errors always, `DEBUG` only at level DEBUG.
    pub traceback_level: String,
    /// Fields of a line.
    pub format: LogFormat,
    /// `strftime` format of the time, `None` for Python's own.
    pub dateformat: Option<String>,
    /// JSON only: added to every line.
    pub static_fields: Map<String, Value>,
    /// Longest queue of unwritten records.
    pub max_queue_size: u64,
    /// Folder of `patroni.log`; `None` logs to stderr.
    pub dir: Option<PathBuf>,
    /// Mode of the log file; `None` follows the umask.
    pub mode: Option<u32>,
    /// Size in bytes at which the file is rotated.
    pub file_size_bytes: u64,
    /// Rotated files kept.
    pub file_num: u32,
    /// Level by logger.
    pub loggers: BTreeMap<String, String>,
    /// Whether identical "no action" lines are dropped.
    pub deduplicate_heartbeat_logs: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            kind: LogType::Plain,
            level: "INFO".to_owned(),
            traceback_level: "ERROR".to_owned(),
            format: LogFormat::default(),
            dateformat: None,
            static_fields: Map::new(),
            max_queue_size: 1000,
            dir: None,
            mode: None,
            file_size_bytes: 25_000_000,
            file_num: 4,
            loggers: BTreeMap::new(),
            deduplicate_heartbeat_logs: false,
        }
    }
}
