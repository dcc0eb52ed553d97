//! The log, in the lines that Patroni's users know (contract D.7): `log.level`, `format`, `dateformat`, `type`, `dir`,
//! `file_size`, `file_num`, `mode`, `static_fields`, `loggers`.

pub mod format;
pub mod rotating;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use ptarmigan_config::{LogFormat, LogSettings, LogType};
use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

use format::{Record, Template};
use rotating::RotatingFile;

/// Lets a running process change how it logs.
#[derive(Clone)]
pub struct Logging(Arc<ArcSwap<Sink>>);

struct Sink {
    level: Level,
    loggers: BTreeMap<String, Level>,
    layout: Layout,
    output: Mutex<Output>,
}

enum Layout {
    Plain(Template),
    Json { fields: Vec<(String, String)>, fixed: Map<String, Value>, date: Option<String> },
}

enum Output {
    Stderr,
    File(RotatingFile),
}

/// Installs the log for the whole process: level INFO, plain, to stderr, until the configuration is known.
pub fn install() -> Logging {
    let logging = Logging(Arc::new(ArcSwap::from_pointee(Sink::first())));
    let installed = tracing_subscriber::registry().with(ToSink(Arc::clone(&logging.0))).try_init();
    if installed.is_err() {
        tracing::debug!("another log is installed already");
    }
    logging
}

impl Logging {
    /// Applies the `log` section. What cannot be applied is said in the log, and falls back to stderr.
    pub fn apply(&self, settings: &LogSettings) {
        let (sink, complaint) = Sink::new(settings);
        self.0.store(Arc::new(sink));
        // Every place that logs remembers whether anybody listens at its level.
        tracing::callsite::rebuild_interest_cache();
        if let Some(complaint) = complaint {
            tracing::error!("{complaint}");
        }
    }
}

impl Sink {
    fn first() -> Self {
        Self {
            level: Level::INFO,
            loggers: BTreeMap::new(),
            layout: Layout::Plain(Template::default()),
            output: Mutex::new(Output::Stderr),
        }
    }

    fn new(settings: &LogSettings) -> (Self, Option<String>) {
        let (output, complaint) = match &settings.dir {
            None => (Output::Stderr, None),
            Some(dir) => {
                let path = dir.join("patroni.log");
                let opened =
                    RotatingFile::open(&path, settings.file_size_bytes, settings.file_num, settings.mode);
                match opened {
                    Ok(file) => (Output::File(file), None),
                    Err(error) => {
                        let complaint =
                            format!("log.dir: cannot write {}: {error}; logging to stderr", path.display());
                        (Output::Stderr, Some(complaint))
                    }
                }
            }
        };
        let sink = Self {
            level: level(&settings.level).unwrap_or(Level::INFO),
            loggers: settings
                .loggers
                .iter()
                .filter_map(|(name, text)| Some((name.clone(), level(text)?)))
                .collect(),
            layout: layout(settings),
            output: Mutex::new(output),
        };
        (sink, complaint)
    }

    /// The level for one of our modules: that of the longest logger name that covers it.
    fn level_for(&self, target: &str) -> Level {
        let dotted = target.replace("::", ".");
        let covers = |name: &str| dotted == name || dotted.starts_with(&format!("{name}."));
        let own = self.loggers.iter().filter(|(name, _)| covers(name)).max_by_key(|(name, _)| name.len());
        // Libraries speak at their INFO of what is nobody's business here.
        let ours = target.starts_with("ptarmigan") || target.starts_with("ptctl");
        match own {
            Some((_, level)) => *level,
            None if ours => self.level,
            None => self.level.min(Level::WARN),
        }
    }
}

fn layout(settings: &LogSettings) -> Layout {
    let date = settings.dateformat.clone().filter(|format| !format.is_empty());
    match (settings.kind, &settings.format) {
        (LogType::Plain, LogFormat::Template(text)) => Layout::Plain(Template::parse(text, date)),
        (LogType::Plain, LogFormat::Fields(_)) => Layout::Plain(Template::with_date(date)),
        (LogType::Json, format) => {
            let fields = match format {
                LogFormat::Fields(fields) => fields.clone(),
                LogFormat::Template(text) => Template::parse(text, None)
                    .field_names()
                    .map(|name| (name.to_owned(), name.to_owned()))
                    .collect(),
            };
            Layout::Json { fields, fixed: settings.static_fields.clone(), date }
        }
    }
}

/// Python's level names; `None` for an unknown one.
pub fn level(text: &str) -> Option<Level> {
    Some(match text.to_ascii_uppercase().as_str() {
        "DEBUG" | "NOTSET" => Level::DEBUG,
        "INFO" => Level::INFO,
        "WARN" | "WARNING" => Level::WARN,
        "ERROR" | "FATAL" | "CRITICAL" => Level::ERROR,
        _ => return None,
    })
}

struct ToSink(Arc<ArcSwap<Sink>>);

impl<S: Subscriber> Layer<S> for ToSink {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.0.load().level_for(metadata.target())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Message::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let record = Record {
            time: jiff::Zoned::now(),
            level: if text.critical { "CRITICAL" } else { level_name(*metadata.level()) },
            name: metadata.target(),
            path: metadata.file().unwrap_or(""),
            line: metadata.line().unwrap_or(0),
            message: &text.text,
        };
        let sink = self.0.load();
        let mut line = match &sink.layout {
            Layout::Plain(template) => template.render(&record),
            Layout::Json { fields, fixed, date } => json_line(&record, fields, fixed, date.as_deref()),
        };
        line.push('\n');
        write(&sink, &line);
    }
}

/// A log that cannot be written to must not take the daemon down.
fn write(sink: &Sink, line: &str) {
    let Ok(mut output) = sink.output.lock() else { return };
    let written = match &mut *output {
        Output::Stderr => std::io::stderr().lock().write_all(line.as_bytes()),
        Output::File(file) => file.write(line.as_bytes()),
    };
    drop(written);
}

fn json_line(
    record: &Record<'_>,
    fields: &[(String, String)],
    fixed: &Map<String, Value>,
    date: Option<&str>,
) -> String {
    let mut object = Map::new();
    for (name, key) in fields {
        let text = if name == "asctime" { Some(record.asctime(date)) } else { record.field(name) };
        object.insert(key.clone(), text.map_or(Value::Null, |text| json!(text)));
    }
    object.extend(fixed.clone());
    Value::Object(object).to_string()
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

/// The text of an event. A field `critical = true` raises an error to Python's level CRITICAL.
#[derive(Default)]
struct Message {
    text: String,
    critical: bool,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let separator = if self.text.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.text, "{separator}{value:?}")
        } else {
            write!(self.text, "{separator}{}={value:?}", field.name())
        };
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "critical" {
            self.critical = value;
        } else {
            self.record_debug(field, &value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speak() {
        tracing::debug!("a detail");
    }

    #[test]
    fn d_7_a_changed_level_reaches_places_that_were_silent_before() {
        let dir = tempfile::tempdir().unwrap();
        let settings = |level: &str| LogSettings {
            dir: Some(dir.path().to_owned()),
            level: level.to_owned(),
            ..LogSettings::default()
        };
        let written = || std::fs::read_to_string(dir.path().join("patroni.log")).unwrap();
        let logging = install();
        logging.apply(&settings("INFO"));
        speak();
        assert_eq!(written(), "");
        logging.apply(&settings("DEBUG"));
        speak();
        assert!(written().contains("DEBUG: a detail"), "{}", written());
        logging.apply(&settings("INFO"));
        let before = written();
        speak();
        assert_eq!(written(), before);
    }
}
