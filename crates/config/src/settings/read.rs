//! Reading typed fields from a section: what cannot be read is remarked on and takes its default, what is missing
//! and needed is a fault.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf};

use ptarmigan_types::scalar::{is_truthy, parse_bool, parse_int, parse_real, python_str};
use serde_json::{Map, Value};

use crate::{HostPort, Secret, Warning, dynamic::scalar_text};

/// Remarks and faults of one reading.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) warnings: RefCell<Vec<Warning>>,
    pub(super) faults: RefCell<Vec<Warning>>,
}

/// One mapping of the configuration.
pub(super) struct Section<'a> {
    path: String,
    map: Option<&'a Map<String, Value>>,
    notes: &'a Notes,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    pub(super) fn root(map: &'a Map<String, Value>, notes: &'a Notes) -> Self {
        Self { path: String::new(), map: Some(map), notes }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn warn(&self, key: &str, reason: impl Into<String>) {
        self.notes.warnings.borrow_mut().push(Warning::new(self.key(key), reason));
    }

    pub(super) fn fault(&self, key: &str, reason: impl Into<String>) {
        self.notes.faults.borrow_mut().push(Warning::new(self.key(key), reason));
    }

    /// A value; `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.is_some_and(|map| map.contains_key(key))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a String> {
        self.map.into_iter().flat_map(Map::keys)
    }

    /// A section below; empty where absent, null or no mapping.
    pub(super) fn section(&self, key: &str) -> Self {
        let value = self.get(key);
        let map = value.and_then(Value::as_object);
        if map.is_none() && value.is_some_and(is_truthy) {
            self.warn(key, "is not a mapping of keys to values: ignored");
        }
        Self { path: self.key(key), map, notes: self.notes }
    }

    /// A mapping as it is; empty where absent.
    pub(super) fn mapping(&self, key: &str) -> Map<String, Value> {
        self.section(key).map.cloned().unwrap_or_default()
    }

    /// A text; a number is taken as its text.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        let value = self.get(key)?;
        if let Value::Bool(_) = value {
            self.warn(key, "is a boolean where a text is meant: put it in quotes");
        }
        let text = scalar_text(value);
        if text.is_none() {
            self.warn(key, "is a list or mapping where a text is meant: ignored");
        }
        text
    }

    /// A text that says something.
    pub(super) fn filled_text(&self, key: &str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    pub(super) fn required_text(&self, key: &str) -> String {
        let text = self.get(key).and_then(scalar_text).filter(|text| !text.is_empty());
        if text.is_none() {
            self.fault(key, if self.get(key).is_some() { "is not a text" } else { "is not defined" });
        }
        text.unwrap_or_default()
    }

    pub(super) fn secret(&self, key: &str) -> Option<Secret> {
        self.text(key).map(Secret::new)
    }

    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        self.filled_text(key).map(PathBuf::from)
    }

    /// A command line; a list is joined.
    pub(super) fn command(&self, key: &str) -> Option<String> {
        self.filled_text(key)
    }

    /// A flag; also read as PostgreSQL reads it, so that the text `off` is off.
    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        let Some(value) = self.get(key) else { return default };
        match parse_bool(value) {
            Some(flag) => flag,
            None if !is_truthy(value) => false,
            None => {
                self.warn(key, format!("is not a boolean: {default} is used"));
                default
            }
        }
    }

    /// An integer of at least `least`.
    pub(super) fn int(&self, key: &str, default: i64, least: i64) -> i64 {
        let Some(value) = self.get(key) else { return default };
        match parse_int(value, None) {
            Some(number) if number >= least => number,
            Some(_) => {
                self.warn(key, format!("is less than {least}: {default} is used"));
                default
            }
            None => {
                self.warn(key, format!("is not an integer: {default} is used"));
                default
            }
        }
    }

    pub(super) fn seconds(&self, key: &str, default: f64) -> f64 {
        let Some(value) = self.get(key) else { return default };
        let seconds = parse_real(value, Some("s")).filter(|seconds| *seconds >= 0.0);
        seconds.unwrap_or_else(|| {
            self.warn(key, format!("is not a number of seconds: {default} is used"));
            default
        })
    }

    /// One of several words in any case.
    pub(super) fn word<T: Copy>(&self, key: &str, words: &[(&str, T)], default: T) -> T {
        let Some(value) = self.get(key) else { return default };
        let text = python_str(value).to_lowercase();
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => *value,
            None => {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                self.warn(key, format!("is none of {}: the default is used", known.join(", ")));
                default
            }
        }
    }

    /// Lines of a file: a list of texts. A text is split at its line ends.
    pub(super) fn lines(&self, key: &str) -> Vec<String> {
        self.texts(key, '\n')
    }

    /// Names or addresses: a list of texts. A text is split at its commas.
    pub(super) fn names(&self, key: &str) -> Vec<String> {
        self.texts(key, ',')
    }

    fn texts(&self, key: &str, separator: char) -> Vec<String> {
        let texts: Vec<String> = match self.get(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let mut texts = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    match scalar_text(item) {
                        Some(text) => texts.push(text),
                        None => self.warn(&format!("{key}[{index}]"), "is not a text: ignored"),
                    }
                }
                return texts;
            }
            Some(Value::String(text)) => text.split(separator).map(|part| part.trim().to_owned()).collect(),
            Some(value) => {
                if is_truthy(value) {
                    self.warn(key, "is not a list of texts: ignored");
                }
                Vec::new()
            }
        };
        texts.into_iter().filter(|text| !text.is_empty()).collect()
    }

    /// Names and texts.
    pub(super) fn text_map(&self, key: &str) -> BTreeMap<String, String> {
        let section = self.section(key);
        section.keys().filter_map(|name| section.text(name).map(|text| (name.clone(), text))).collect()
    }

    pub(super) fn address(&self, key: &str, default_port: u16) -> Option<HostPort> {
        let text = self.filled_text(key)?;
        match HostPort::parse(&text, default_port) {
            Ok(address) => Some(address),
            Err(error) => {
                self.warn(key, format!("is not host:port: {error}: ignored"));
                None
            }
        }
    }

    pub(super) fn required_address(&self, key: &str, default_port: u16) -> HostPort {
        let text = self.required_text(key);
        HostPort::parse(&text, default_port).unwrap_or_else(|error| {
            self.fault(key, format!("is not host:port: {error}"));
            HostPort::default()
        })
    }

    /// User and password, where both are given.
    pub(super) fn login(&self) -> Option<(String, Secret)> {
        let section = self.section("authentication");
        match (section.filled_text("username"), section.secret("password")) {
            (Some(username), Some(password)) => Some((username, password)),
            (None, None) => None,
            _ => {
                self.warn("authentication", "needs both username and password: ignored");
                None
            }
        }
    }
}
