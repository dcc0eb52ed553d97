//! The `log` section.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value};

use super::read::Section;

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

impl LogSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let upper = |key: &str, fallback: String| {
            section.filled_text(key).map_or(fallback, |text| text.to_uppercase())
        };
        let unsigned = |key: &str, fallback: i64| u64::try_from(section.int(key, fallback, 0)).unwrap_or(0);
        Self {
            kind: section.word("type", &[("plain", LogType::Plain), ("json", LogType::Json)], LogType::Plain),
            level: upper("level", default.level),
            traceback_level: upper("traceback_level", default.traceback_level),
            format: format(section),
            dateformat: section.filled_text("dateformat"),
            static_fields: section.mapping("static_fields"),
            max_queue_size: unsigned("max_queue_size", 1000),
            dir: section.path("dir"),
            mode: mode(section),
            file_size_bytes: unsigned("file_size", 25_000_000),
            file_num: u32::try_from(unsigned("file_num", 4)).unwrap_or(u32::MAX),
            loggers: section.text_map("loggers"),
            deduplicate_heartbeat_logs: section.flag("deduplicate_heartbeat_logs", false),
        }
    }
}

/// `0644` is octal to YAML, and as a text to us.
fn mode(section: &Section<'_>) -> Option<u32> {
    section.get("mode")?;
    let mode = u32::try_from(section.int("mode", -1, 0)).ok().filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        section.warn("mode", "is not a file mode: the umask decides");
    }
    mode
}

fn format(section: &Section<'_>) -> LogFormat {
    match section.get("format") {
        Some(Value::Array(items)) if !items.is_empty() => {
            let mut fields = Vec::new();
            for item in items {
                match item {
                    Value::String(name) => fields.push((name.clone(), name.clone())),
                    Value::Object(pair) if pair.len() == 1 => {
                        let renamed = pair
                            .iter()
                            .filter_map(|(name, to)| Some((name.clone(), to.as_str()?.to_owned())));
                        fields.extend(renamed);
                    }
                    _ => section
                        .warn("format", "holds something that is neither a field nor 'field: name': ignored"),
                }
            }
            LogFormat::Fields(fields)
        }
        _ => section.filled_text("format").map_or_else(LogFormat::default, LogFormat::Template),
    }
}
