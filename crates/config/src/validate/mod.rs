//! `--validate-config` (contract C.7): every fault of a local configuration, by its path.

mod checks;
mod schema;

use std::fmt;

use ptarmigan_types::scalar::{parse_bool, parse_int, python_str};
use serde_json::{Map, Value};

pub use checks::{Checks, SystemChecks};
use schema::{Check, Entry};

use crate::{HostPort, settings::STORES};

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path of the key.
    pub path: String,
    /// The value as Python prints it, empty where none is given, `***` where it is a secret.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.path, self.value, self.reason)
    }
}

/// What may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether ports to listen on may be in use (`--ignore-listen-port`).
    pub ignore_listen_port: bool,
}

/// Checks a local configuration; unknown keys are accepted. Ports, stores, folders and programs are asked for
/// through `checks`.
pub fn validate(config: &Map<String, Value>, options: Options, checks: &dyn Checks) -> Vec<Fault> {
    let mut validator = Validator { config, options, checks, faults: Vec::new() };
    validator.section(&schema::root(), config, "");
    let unsupported = STORES.iter().find(|store| config.contains_key(**store));
    if let Some(store) = unsupported.filter(|store| !["consul", "etcd", "etcd3"].contains(store)) {
        validator.fault(store, None, "is a store that is not supported: use etcd3, etcd or consul");
    }
    if config.contains_key("citus") {
        validator.fault("citus", None, "Citus clusters are not supported yet");
    }
    validator.faults
}

struct Validator<'a> {
    config: &'a Map<String, Value>,
    options: Options,
    checks: &'a dyn Checks,
    faults: Vec<Fault>,
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn is_secret(path: &str) -> bool {
    let key = path.rsplit('.').next().unwrap_or(path);
    key.contains("password") || key == "token"
}

impl Validator<'_> {
    fn fault(&mut self, path: &str, value: Option<&Value>, reason: impl Into<String>) {
        let value = match value {
            Some(_) if is_secret(path) => "***".to_owned(),
            Some(value) => python_str(value),
            None => String::new(),
        };
        self.faults.push(Fault { path: path.to_owned(), value, reason: reason.into() });
    }

    fn failed(&mut self, path: &str, value: &Value, reason: impl fmt::Display) {
        self.fault(path, Some(value), format!("didn't pass validation: {reason}"));
    }

    fn section(&mut self, entries: &[Entry], map: &Map<String, Value>, path: &str) {
        for entry in entries {
            match entry {
                Entry::Required(key, check) => match map.get(*key) {
                    Some(value) => self.check(check, value, &join(path, key)),
                    None => self.fault(&join(path, key), None, "is not defined."),
                },
                Entry::Optional(key, check) => {
                    if let Some(value) = map.get(*key) {
                        self.check(check, value, &join(path, key));
                    }
                }
                Entry::OrDefault(key, default, check) => {
                    let default = Value::from(*default);
                    self.check(check, map.get(*key).unwrap_or(&default), &join(path, key));
                }
                Entry::OneOf(choices) => {
                    let given = choices.iter().any(|(key, _)| map.contains_key(*key));
                    for (key, check) in choices {
                        match map.get(*key) {
                            Some(value) => self.check(check, value, &join(path, key)),
                            None if given => {}
                            None => self.fault(&join(path, key), None, "is not defined."),
                        }
                    }
                }
                Entry::AtMostOne(choices) => self.at_most_one(choices, map, path),
            }
        }
    }

    fn at_most_one(&mut self, choices: &[(&str, Check)], map: &Map<String, Value>, path: &str) {
        let given: Vec<_> = choices.iter().filter(|(key, _)| map.contains_key(*key)).collect();
        match given[..] {
            [(key, check)] => {
                if let Some(value) = map.get(*key) {
                    self.check(check, value, &join(path, key));
                }
            }
            [] => {}
            _ => {
                let names: Vec<String> = choices.iter().map(|(key, _)| format!("'{key}'")).collect();
                self.fault(path, None, format!("Multiple of ({}) provided", names.join(", ")));
            }
        }
    }

    fn check(&mut self, check: &Check, value: &Value, path: &str) {
        match check {
            Check::Text => self.kind(path, value, value.is_string(), "a string"),
            Check::Flag => self.kind(path, value, value.is_boolean(), "a boolean"),
            Check::Integer => self.kind(path, value, is_integer(value), "an integer"),
            Check::Mapping => self.kind(path, value, value.is_object(), "a dictionary"),
            Check::Section(entries) => match value.as_object() {
                Some(map) => self.section(entries, map, path),
                None => self.fault(path, Some(value), "is not a dictionary"),
            },
            Check::List(inner) => self.list(inner, value, path),
            Check::AnyOf(choices) => self.any_of(choices, value, path),
            Check::Number { least, most, unit, typed } => {
                if *typed && !is_integer(value) {
                    self.fault(path, Some(value), "is not an integer");
                } else if !parse_int(value, *unit).is_some_and(|number| (*least..=*most).contains(&number)) {
                    self.failed(path, value, "Wrong value");
                }
            }
            Check::Word { words, any_case } => {
                let text = value.as_str().unwrap_or_default();
                let same = |word: &&&str| **word == text || (*any_case && word.eq_ignore_ascii_case(text));
                if !value.is_string() || !words.iter().any(|word| same(&word)) {
                    self.failed(path, value, "Wrong value");
                }
            }
            Check::SynchronousMode => {
                let quorum = value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("quorum"));
                self.kind(path, value, parse_bool(value).is_some() || quorum, "a boolean");
            }
            Check::WatchdogMode => match value {
                Value::Bool(false) => {}
                Value::String(mode) if ["off", "automatic", "required"].contains(&mode.as_str()) => {}
                Value::Bool(_) | Value::String(_) => self.failed(path, value, "Wrong value"),
                _ => self.failed(path, value, "expected type is not a string"),
            },
            Check::LogFormat => self.log_format(value, path),
            Check::Listen { many } => self.text_check(value, path, |this, text| this.listen(text, *many)),
            Check::Connect => self.text_check(value, path, |_, text| connect_address(text)),
            Check::Reachable => self.text_check(value, path, |this, text| this.reachable(text)),
            Check::ReachableList => self.text_check(value, path, |this, text| {
                text.split(',').try_for_each(|address| this.reachable(address.trim()))
            }),
            Check::DataDir => self.text_check(value, path, |this, text| {
                this.checks.data_dir(text, this.bin_dir(), &this.program("postgres"))
            }),
            Check::Program => self.text_check(value, path, |this, text| this.program_exists(text)),
            Check::BinDir => self.programs(value, path),
        }
    }

    fn kind(&mut self, path: &str, value: &Value, is_right: bool, kind: &str) {
        if !is_right {
            self.fault(path, Some(value), format!("is not {kind}"));
        }
    }

    fn text_check(
        &mut self,
        value: &Value,
        path: &str,
        check: impl FnOnce(&Self, &str) -> Result<(), String>,
    ) {
        let Some(text) = value.as_str() else {
            self.fault(path, Some(value), "is not a string");
            return;
        };
        if let Err(reason) = check(self, text) {
            self.failed(path, value, reason);
        }
    }

    fn list(&mut self, inner: &Check, value: &Value, path: &str) {
        let Some(items) = value.as_array() else {
            self.fault(path, Some(value), "is not a list");
            return;
        };
        if items.is_empty() {
            self.fault(path, Some(value), "is an empty list");
        }
        for (index, item) in items.iter().enumerate() {
            self.check(inner, item, &join(path, &index.to_string()));
        }
    }

    /// Reports the faults of the choice whose kind fits, else of the first.
    fn any_of(&mut self, choices: &[Check], value: &Value, path: &str) {
        let mut best: Option<Vec<Fault>> = None;
        for choice in choices {
            let mut attempt = Validator {
                config: self.config,
                options: self.options,
                checks: self.checks,
                faults: Vec::new(),
            };
            attempt.check(choice, value, path);
            if attempt.faults.is_empty() {
                return;
            }
            if best.is_none() || choice.fits(value) {
                best = Some(attempt.faults);
            }
        }
        self.faults.extend(best.unwrap_or_default());
    }

    fn log_format(&mut self, value: &Value, path: &str) {
        let is_field = |item: &Value| match item {
            Value::String(_) => true,
            Value::Object(pair) => pair.len() == 1 && pair.values().all(Value::is_string),
            _ => false,
        };
        match value {
            Value::String(_) => {}
            Value::Array(items) if items.is_empty() => {
                self.failed(path, value, "should contain at least one item");
            }
            Value::Array(items) if items.iter().all(is_field) => {}
            Value::Array(_) => {
                self.failed(path, value, "each item should be a string or a dictionary with string values");
            }
            _ => self.failed(path, value, "Should be a string or a list"),
        }
    }

    fn postgresql(&self, key: &str) -> Option<&Value> {
        self.config.get("postgresql")?.get(key)
    }

    fn bin_dir(&self) -> Option<&str> {
        self.postgresql("bin_dir").and_then(Value::as_str).filter(|dir| !dir.is_empty())
    }

    fn program(&self, name: &str) -> String {
        let own = self.postgresql("bin_name").and_then(|names| names.get(name)).and_then(Value::as_str);
        own.unwrap_or(name).to_owned()
    }

    fn program_exists(&self, name: &str) -> Result<(), String> {
        if name.is_empty() {
            return Err("is an empty string".to_owned());
        }
        if self.checks.has_program(name, self.bin_dir()) {
            return Ok(());
        }
        Err(format!("does not contain '{name}' in '{}'", self.bin_dir().unwrap_or("$PATH")))
    }

    fn programs(&mut self, value: &Value, path: &str) {
        let Some(dir) = value.as_str() else { return };
        if let Err(reason) = self.checks.folder(dir) {
            self.fault(path, None, reason);
            return;
        }
        for name in ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready"] {
            if let Err(reason) = self.program_exists(&self.program(name)) {
                self.fault(path, None, reason);
            }
        }
    }

    fn listen(&self, text: &str, many: bool) -> Result<(), String> {
        let address = HostPort::parse(text, 1).map_err(|_| "contains a wrong value".to_owned())?;
        let hosts: Vec<&str> = if many { address.hosts().collect() } else { vec![&address.host] };
        if hosts.contains(&"*") && hosts.len() != 1 {
            return Err("expecting '*' alone".to_owned());
        }
        for host in hosts {
            if self.checks.is_listening(host, address.port)? && !self.options.ignore_listen_port {
                return Err(format!("Port {} is already in use.", address.port));
            }
        }
        Ok(())
    }

    fn reachable(&self, text: &str) -> Result<(), String> {
        let address = HostPort::parse(text, 1).map_err(|_| "contains a wrong value".to_owned())?;
        if self.checks.is_listening(&address.host, address.port)? {
            Ok(())
        } else {
            Err(format!("{text} is not reachable"))
        }
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.is_boolean()
}

fn connect_address(text: &str) -> Result<(), String> {
    let address = HostPort::parse(text, 1).map_err(|_| "contains a wrong value".to_owned())?;
    if ["127.0.0.1", "0.0.0.0", "*", "::1", "localhost"].contains(&address.host.as_str()) {
        return Err("must not contain \"127.0.0.1\", \"0.0.0.0\", \"*\", \"::1\", \"localhost\"".to_owned());
    }
    Ok(())
}
