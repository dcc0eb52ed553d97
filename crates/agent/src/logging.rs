//! The log, in the lines that Patroni's users know (contract D.7): `log.level`, `format`, `dateformat`, `type`, `dir`,
//! `file_size`, `file_num`, `mode`, `static_fields`, `loggers`.

pub mod format;
pub mod rotating;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
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

/// Lines that wait for the writer. More are dropped and counted (contract D.7, "queue").
const QUEUE_LINES_MAX: usize = 1000;

/// How long the end of the process waits for the last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Lets a running process change how it logs.
#[derive(Clone)]
pub struct Logging {
    sink: Arc<ArcSwap<Sink>>,
    queue: Queue,
}

/// The way to the thread that writes: a full disk, a hung NFS or a stopped terminal must not hold the HA loop up.
#[derive(Clone)]
struct Queue {
    lines: mpsc::SyncSender<Item>,
    lost: Arc<AtomicU64>,
}

enum Item {
    Line(Arc<Sink>, String),
    Flush(mpsc::Sender<()>),
}

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
    let logging = Logging { sink: Arc::new(ArcSwap::from_pointee(Sink::first())), queue: Queue::start() };
    let installed = tracing_subscriber::registry().with(ToSink(logging.clone())).try_init();
    if installed.is_err() {
        tracing::debug!("another log is installed already");
    }
    logging
}

impl Logging {
    /// Waits a moment for what is not written yet.
    pub fn flush(&self) {
        self.queue.flush();
    }

    /// Applies the `log` section. What cannot be applied is said in the log, and falls back to stderr.
    pub fn apply(&self, settings: &LogSettings) {
        let (sink, complaint) = Sink::new(settings);
        self.sink.store(Arc::new(sink));
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

impl Queue {
    fn start() -> Self {
        let (lines, queue) = mpsc::sync_channel(QUEUE_LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        let writer =
            std::thread::Builder::new().name("log".into()).spawn(move || write_all(&queue, &counter));
        if let Err(error) = writer {
            // Without it nobody hears of anything; with the receiver gone every line is written where it arises.
            let _ = writeln!(std::io::stderr().lock(), "no thread for the log: {error}");
        }
        Self { lines, lost }
    }

    fn send(&self, sink: Arc<Sink>, line: String) {
        match self.lines.try_send(Item::Line(sink, line)) {
            Ok(()) => {}
            Err(mpsc::TrySendError::Full(_)) => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
            Err(mpsc::TrySendError::Disconnected(Item::Line(sink, line))) => write(&sink, &line),
            Err(mpsc::TrySendError::Disconnected(Item::Flush(_))) => {}
        }
    }

    fn flush(&self) {
        let (done, written) = mpsc::channel();
        let deadline = ptarmigan_clock::now() + FLUSH_LIMIT;
        let mut item = Item::Flush(done);
        while let Err(mpsc::TrySendError::Full(back)) = self.lines.try_send(item) {
            if ptarmigan_clock::now() >= deadline {
                return;
            }
            // The loop has ended: nothing but this waits.
            std::thread::park_timeout(Duration::from_millis(10));
            item = back;
        }
        // A writer that hangs is left behind.
        let _ = written.recv_timeout(deadline.since(ptarmigan_clock::now()));
    }
}

/// The writer's thread.
fn write_all(queue: &mpsc::Receiver<Item>, lost: &AtomicU64) {
    while let Ok(item) = queue.recv() {
        match item {
            Item::Line(sink, line) => {
                write(&sink, &line);
                let count = lost.swap(0, Ordering::Relaxed);
                if count > 0 {
                    write(
                        &sink,
                        &format!("{count} log lines were lost: they could not be written in time\n"),
                    );
                }
            }
            // Whoever waited may have given up.
            Item::Flush(done) => drop(done.send(())),
        }
    }
}

struct ToSink(Logging);

impl<S: Subscriber> Layer<S> for ToSink {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.0.sink.load().level_for(metadata.target())
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
        let sink = self.0.sink.load_full();
        let mut line = match &sink.layout {
            Layout::Plain(template) => template.render(&record),
            Layout::Json { fields, fixed, date } => json_line(&record, fields, fixed, date.as_deref()),
        };
        line.push('\n');
        self.0.queue.send(sink, line);
    }
}

/// A log that cannot be written to must not take the daemon down; what the file refuses goes to stderr.
fn write(sink: &Sink, line: &str) {
    let mut output = sink.output.lock().unwrap_or_else(PoisonError::into_inner);
    let to_stderr = match &mut *output {
        Output::Stderr => true,
        Output::File(file) => file.write(line.as_bytes()).is_err(),
    };
    if to_stderr {
        // There is no other place to complain.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
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
        let logging = install();
        let written = || {
            logging.flush();
            std::fs::read_to_string(dir.path().join("patroni.log")).unwrap()
        };
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

    #[test]
    fn d_7_a_writer_that_hangs_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let settings = LogSettings { dir: Some(dir.path().to_owned()), ..LogSettings::default() };
        let (sink, complaint) = Sink::new(&settings);
        assert_eq!(complaint, None);
        let sink = Arc::new(sink);
        let queue = Queue::start();
        let hung = sink.output.lock().unwrap();
        for number in 0..QUEUE_LINES_MAX + 500 {
            queue.send(Arc::clone(&sink), format!("{number}\n"));
        }
        let lost = queue.lost.load(Ordering::Relaxed);
        // The writer may have taken one line out before it hung.
        assert!((499..=500).contains(&lost), "{lost}");
        drop(hung);
        queue.flush();
        let text = std::fs::read_to_string(dir.path().join("patroni.log")).unwrap();
        assert!(text.contains(&format!("{lost} log lines were lost")), "{}", &text[..200]);
        assert!(text.starts_with("0\n"));
        assert_eq!(text.lines().count(), QUEUE_LINES_MAX + 500 - usize::try_from(lost).unwrap() + 1);
    }

    #[test]
    fn d_7_unwritable_folder_falls_back_to_stderr() {
        let settings = LogSettings { dir: Some("/proc/none".into()), ..LogSettings::default() };
        let (sink, complaint) = Sink::new(&settings);
        assert!(complaint.unwrap().starts_with("log.dir: cannot write /proc/none/patroni.log: "));
        assert!(matches!(*sink.output.lock().unwrap(), Output::Stderr));
    }
}
