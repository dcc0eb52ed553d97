//! YAML as PyYAML's `safe_load` and `safe_dump` read and write it.
//!
//! The structure comes from a YAML parser's events; what a plain scalar means is resolved here by PyYAML's own
//! rules, which differ from every YAML 1.2 library: `on` is a boolean, `1e3` a text, `010` eight, `1:30` ninety.
//! Dates stay texts, as they were written.

mod emit;
mod parse;
mod resolve;

pub use emit::{Layout, to_yaml, to_yaml_with};
pub use parse::{Document, parse, parse_mapping};

/// Why a text is no YAML that PyYAML would load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct Error {
    /// Line, counted from 1.
    pub line: usize,
    /// Column, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub reason: String,
}
