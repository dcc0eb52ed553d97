//! Python's log formats: `%(asctime)s %(levelname)s: %(message)s` and the like.

use jiff::Zoned;

/// Patroni's default.
const DEFAULT: &str = "%(asctime)s %(levelname)s: %(message)s";

/// One line of the log before it is text.
#[derive(Debug)]
pub struct Record<'a> {
    /// Local time.
    pub time: Zoned,
    /// Python's level name.
    pub level: &'a str,
    /// The module that speaks.
    pub name: &'a str,
    /// The source file.
    pub path: &'a str,
    /// The line in it.
    pub line: u32,
    /// What it says.
    pub message: &'a str,
}

impl Record<'_> {
    /// A field by Python's name; `None` for one that does not exist here.
    pub fn field(&self, name: &str) -> Option<String> {
        let file = || self.path.rsplit('/').next().unwrap_or_default();
        Some(match name {
            "message" => self.message.to_owned(),
            "levelname" => self.level.to_owned(),
            "levelno" => level_number(self.level).to_string(),
            "name" => self.name.to_owned(),
            "pathname" => self.path.to_owned(),
            "filename" => file().to_owned(),
            "module" => file().trim_end_matches(".rs").to_owned(),
            "funcName" => self.name.rsplit("::").next().unwrap_or_default().to_owned(),
            "lineno" => self.line.to_string(),
            "process" => std::process::id().to_string(),
            "processName" => "ptarmigan".to_owned(),
            "threadName" => std::thread::current().name().unwrap_or("main").to_owned(),
            "thread" => "0".to_owned(),
            "created" => format!("{:.6}", self.created()),
            "msecs" => (self.time.subsec_nanosecond() / 1_000_000).to_string(),
            "asctime" => self.asctime(None),
            _ => return None,
        })
    }

    /// Python's default form, `YYYY-MM-DD HH:MM:SS,mmm`, or a `strftime` one.
    pub fn asctime(&self, format: Option<&str>) -> String {
        let written = |format: &str| jiff::fmt::strtime::format(format, &self.time);
        if let Some(Ok(text)) = format.map(written) {
            return text;
        }
        let millis = self.time.subsec_nanosecond() / 1_000_000;
        written("%Y-%m-%d %H:%M:%S").map_or_else(|_| String::new(), |text| format!("{text},{millis:03}"))
    }

    fn created(&self) -> f64 {
        self.time.timestamp().as_duration().as_secs_f64()
    }
}

fn level_number(level: &str) -> u8 {
    match level {
        "CRITICAL" => 50,
        "ERROR" => 40,
        "WARNING" => 30,
        "INFO" => 20,
        _ => 10,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field { name: String, left: bool, width: usize },
}

/// A parsed format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    date: Option<String>,
}

impl Default for Template {
    fn default() -> Self {
        Self::parse(DEFAULT, None)
    }
}

impl Template {
    /// The default format with another form of the time.
    pub fn with_date(date: Option<String>) -> Self {
        Self::parse(DEFAULT, date)
    }

    /// Parses `%(name)s` with its flags and width; anything else stays as it is.
    pub fn parse(format: &str, date: Option<String>) -> Self {
        let mut parts = Vec::new();
        let mut rest = format;
        while let Some(start) = rest.find('%') {
            let (before, from) = rest.split_at(start);
            push_text(&mut parts, before);
            match placeholder(from) {
                Some((part, length)) => {
                    parts.push(part);
                    rest = &from[length..];
                }
                None => {
                    push_text(&mut parts, "%");
                    rest = from.strip_prefix("%%").unwrap_or_else(|| &from[1..]);
                }
            }
        }
        push_text(&mut parts, rest);
        Self { parts, date }
    }

    /// The names of the fields, in order.
    pub fn field_names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field { name, .. } => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// One line without its end.
    pub fn render(&self, record: &Record<'_>) -> String {
        let mut line = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Field { name, left, width } => {
                    let text = if name == "asctime" {
                        record.asctime(self.date.as_deref())
                    } else {
                        record.field(name).unwrap_or_default()
                    };
                    let padded = if *left { format!("{text:<width$}") } else { format!("{text:>width$}") };
                    line.push_str(&padded);
                }
            }
        }
        line
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if let Some(Part::Text(last)) = parts.last_mut() {
        last.push_str(text);
    } else if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

/// `%(name)-8s`: the part and its length in bytes.
fn placeholder(text: &str) -> Option<(Part, usize)> {
    let inner = text.strip_prefix("%(")?;
    let (name, rest) = inner.split_once(')')?;
    let conversion = rest.find(|c: char| c.is_ascii_alphabetic())?;
    let flags = &rest[..conversion];
    if !flags.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '.' | ' ' | '+' | '#')) {
        return None;
    }
    let left = flags.starts_with('-');
    let digits: String = flags
        .trim_start_matches(['-', '+', ' ', '#', '0'])
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let width = digits.parse().unwrap_or(0);
    let length = "%(".len() + name.len() + ")".len() + conversion + 1;
    Some((Part::Field { name: name.to_owned(), left, width }, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str) -> Record<'_> {
        Record {
            time: "2026-11-20T19:01:02.345678[UTC]".parse().unwrap(),
            level: "INFO",
            name: "ptarmigan_agent::agent",
            path: "crates/agent/src/agent.rs",
            line: 7,
            message,
        }
    }

    #[test]
    fn default_line_is_patronis() {
        assert_eq!(
            Template::default().render(&record("no action")),
            "2026-11-20 19:01:02,345 INFO: no action"
        );
    }

    #[test]
    fn placeholders_with_width_and_unknown_text() {
        let template = Template::parse("%(levelname)-8s|%(lineno)4d|100%% %(module)s %(nothing)s%x", None);
        assert_eq!(template.render(&record("")), "INFO    |   7|100% agent %x");
    }

    #[test]
    fn date_format_is_strftime() {
        let template = Template::parse("%(asctime)s", Some("%d.%m.%Y".into()));
        assert_eq!(template.render(&record("")), "20.11.2026");
    }
}
