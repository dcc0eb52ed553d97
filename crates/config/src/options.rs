//! Options for `initdb`, `pg_basebackup` and `pg_rewind` that the operator wrote (contract B.17.2).

use ptarmigan_types::scalar::{is_truthy, python_str};
use serde_json::Value;

use crate::Warning;

/// Options that `initdb` may not get: the manager sets them.
pub const NOT_FOR_INITDB: &[&str] = &["pgdata", "nosync", "pwfile", "sync-only", "version"];

/// Options that `pg_basebackup` may not get.
pub const NOT_FOR_BASEBACKUP: &[&str] = &[
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "version",
    "dbname",
    "host",
    "port",
    "username",
    "password",
];

/// Options that `pg_rewind` may not get.
pub const NOT_FOR_REWIND: &[&str] = &[
    "target-pgdata",
    "source-pgdata",
    "source-server",
    "write-recovery-conf",
    "dry-run",
    "restore-target-wal",
    "config-file",
    "no-ensure-shutdown",
    "version",
    "help",
];

/// Arguments from a list of `name` and `name: value`, or from a mapping (whose empty values are left out).
///
/// What cannot be passed is left out with a warning under `key`; `initdb` must treat any warning as an error.
/// A number or boolean in a list is taken as its text, where Patroni leaves it out.
pub fn user_options(key: &str, options: &Value, not_allowed: &[&str]) -> (Vec<String>, Vec<Warning>) {
    let mut arguments = Vec::new();
    let mut warnings = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        if not_allowed.contains(&name) {
            warnings
                .push(Warning::new(format!("{key}.{name}"), "may not be set: the manager sets it; ignored"));
            return;
        }
        arguments.push(match value {
            Some(value) => format!("--{name}={}", unquote(&value)),
            None => format!("--{name}"),
        });
    };
    let mut wrong = Vec::new();
    match options {
        Value::Null => {}
        Value::Object(map) => {
            for (name, value) in map.iter().filter(|(_, value)| is_truthy(value)) {
                add(name, Some(python_str(value)));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                match item {
                    Value::String(name) => add(name, None),
                    Value::Object(pair) if pair.len() == 1 => {
                        let (name, value) = pair.iter().next().expect("invariant: the mapping has one pair");
                        match value {
                            Value::String(_) | Value::Number(_) | Value::Bool(_) => {
                                add(name, Some(python_str(value)));
                            }
                            _ => wrong.push((format!("{key}.{name}"), "is not a text or number; ignored")),
                        }
                    }
                    Value::Object(_) => wrong.push((
                        format!("{key}[{index}]"),
                        "has several keys: write one option to a list item; ignored",
                    )),
                    _ => wrong
                        .push((format!("{key}[{index}]"), "is neither a name nor a 'name: value'; ignored")),
                }
            }
        }
        _ => wrong.push((key.to_owned(), "is neither a list nor a mapping; ignored")),
    }
    warnings.extend(wrong.into_iter().map(|(key, reason)| Warning::new(key, reason)));
    (arguments, warnings)
}

/// Removes one level of quotes as a shell does; a text that a shell takes for none or several words, or with
/// unbalanced quotes, stays as it is.
fn unquote(text: &str) -> String {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return text.to_owned();
    }
    let mut plain = String::new();
    let mut chars = trimmed.chars();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, ' ' | '\t' | '\n' | '\r') => return text.to_owned(),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None, '\\') => match chars.next() {
                Some(next) => plain.push(next),
                None => return text.to_owned(),
            },
            (Some('"'), '\\') => match chars.next() {
                Some(next @ ('"' | '\\')) => plain.push(next),
                Some(next) => plain.extend(['\\', next]),
                None => return text.to_owned(),
            },
            _ => plain.push(c),
        }
    }
    if quote.is_some() { text.to_owned() } else { plain }
}
