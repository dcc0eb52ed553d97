//! The house rules that neither rustc nor clippy can check.

mod attributes;
mod contract;
mod dependencies;
mod docs;
mod layers;
mod names;
mod size;
mod text;

use std::{fmt, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    rules::list::{LIST, Rules},
    say, source,
};
use source::Source;

/// Files longer than this are shown, without being an offence.
const LONG_FILE_LINES: usize = 400;

/// A rule that is broken somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Offence {
    path: String,
    line: usize,
    message: String,
}

impl Offence {
    fn new(source: &Source, line: usize, message: impl Into<String>) -> Self {
        Self { path: source.path.clone(), line, message: message.into() }
    }
}

impl fmt::Display for Offence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Checks the whole workspace and prints what is wrong.
///
/// # Errors
/// The files cannot be read, or `cargo tree` cannot be run.
pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    let sources = source::read_all(root)?;
    let rules =
        sources.iter().find(|source| source.path == LIST).with_context(|| format!("{LIST} is missing"))?;
    let rules = Rules::parse(&rules.text);
    let mut offences: Vec<Offence> = sources.iter().flat_map(|source| check(source, &rules)).collect();
    offences.extend(layers::check(root)?);
    offences.extend(dependencies::check(&sources));
    offences.sort();
    for source in &sources {
        let lines = size::file_lines(source);
        if source.is_rust() && !source.is_test && lines > LONG_FILE_LINES {
            say(&format!("note: {} has {lines} lines, aim at 200", source.path));
        }
    }
    for offence in &offences {
        say(&offence.to_string());
    }
    say(&format!("tidy: {} files, {} offences", sources.len(), offences.len()));
    Ok(if offences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that is wrong with one file.
fn check(source: &Source, rules: &Rules) -> Vec<Offence> {
    let mut offences = text::check(source);
    offences.extend(names::check(source));
    if source.is_rust() {
        offences.extend(size::check(source));
        offences.extend(docs::check(source));
        offences.extend(attributes::check(source));
        offences.extend(contract::check(source, rules));
    }
    offences
}
