//! The journal of decisions: what was observed, what was decided, by which rules. It is what `ptctl why` reads, and
//! what the core can be replayed from.
//!
//! The last rounds are kept in memory, as text: as values, maps and all, they take many times as much. With `journal.file` in the local configuration every round that differs from the
//! one before it is also appended to that file, one JSON object a line; it is renamed to `.1` at `journal.file_size` bytes
//! (25000000 by default).

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ptarmigan_ha::{Decision, Memory, Observation, decision::Fired, words};
use ptarmigan_rest::why::{Decided, Reason};
use ptarmigan_types::scalar::parse_int;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::logging::rotating::RotatingFile;

const FILE_SIZE_BYTES: u64 = 25_000_000;

/// One round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Entry<'a> {
    /// Memory before the round.
    pub memory: &'a Memory,
    /// What was observed.
    pub observation: &'a Observation,
    /// What was decided.
    pub decision: &'a Decision,
}

/// The most recent rounds.
#[derive(Debug)]
pub struct Journal(Mutex<State>);

/// A round as it is kept.
#[derive(Debug)]
struct Kept {
    at: jiff::Timestamp,
    /// Of the first round that it repeats.
    since: jiff::Timestamp,
    /// How many rounds it stands for.
    times: u64,
    report: Vec<Fired>,
    status: String,
    again: bool,
    /// One line of JSON, without its end.
    json: Box<str>,
}

#[derive(Debug)]
struct State {
    entries: VecDeque<Kept>,
    limit: usize,
    file: Option<RotatingFile>,
}

impl Journal {
    /// Keeps at most `limit` rounds; `config` is the local configuration. A file that cannot be written: an error in the
    /// log, and the memory alone.
    pub fn new(limit: usize, config: &Map<String, Value>) -> Self {
        let section = config.get("journal").and_then(Value::as_object);
        let path = section.and_then(|section| section.get("file")).and_then(Value::as_str).map(PathBuf::from);
        let size = section
            .and_then(|section| section.get("file_size"))
            .and_then(|size| u64::try_from(parse_int(size, None)?).ok())
            .unwrap_or(FILE_SIZE_BYTES);
        let file = path.and_then(|path| match RotatingFile::open(&path, size, 1, Some(0o600)) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::error!("journal.file: cannot write {}: {error}", path.display());
                None
            }
        });
        Self(Mutex::new(State { entries: VecDeque::new(), limit, file }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a round. One that repeats the round before it, in rules and status line, takes its place.
    pub fn add(&self, entry: Entry<'_>) {
        let json = match serde_json::to_string(&entry) {
            Ok(json) => json.into_boxed_str(),
            Err(error) => return tracing::error!("a round cannot be put into the journal: {error}"),
        };
        let mut kept = Kept {
            at: entry.observation.wall,
            since: entry.observation.wall,
            times: 1,
            report: entry.decision.report.clone(),
            status: entry.decision.line.clone(),
            again: entry.decision.again,
            json,
        };
        let mut state = self.state();
        match state.entries.pop_back_if(|last| last.is_repeated_by(&kept)) {
            Some(last) => (kept.since, kept.times) = (last.since, last.times + 1),
            None => state.write(&kept.json),
        }
        if state.entries.len() == state.limit {
            state.entries.pop_front();
        }
        state.entries.push_back(kept);
    }

    /// What was decided, cycle by cycle and oldest first, in an operator's words: the document of `GET /why`.
    pub fn why(&self) -> Value {
        let mut told: Vec<Decided> = Vec::new();
        for kept in self.state().entries.iter().filter(|kept| !kept.again) {
            let decided = kept.told();
            let repeats = |last: &&mut Decided| last.line == decided.line && same_rules(last, &decided);
            match told.last_mut().filter(repeats) {
                Some(last) => {
                    *last = Decided { since: last.since, times: last.times + decided.times, ..decided }
                }
                None => told.push(decided),
            }
        }
        serde_json::to_value(told).expect("invariant: a decision is plain data")
    }

    /// The rounds as JSON objects, oldest first.
    pub fn entries(&self) -> Vec<String> {
        self.state().entries.iter().map(|kept| kept.json.to_string()).collect()
    }
}

fn same_rules(one: &Decided, other: &Decided) -> bool {
    one.reasons.iter().map(|reason| &reason.rule).eq(other.reasons.iter().map(|reason| &reason.rule))
}

impl Kept {
    fn is_repeated_by(&self, next: &Self) -> bool {
        let rules = |kept: &Self| kept.report.iter().map(|fired| fired.rule.clone()).collect::<Vec<_>>();
        self.status == next.status && self.again == next.again && rules(self) == rules(next)
    }

    fn told(&self) -> Decided {
        let reasons = self.report.iter().map(|fired| Reason {
            rule: fired.rule.0.to_string(),
            says: words::of(&fired.rule.0).unwrap_or("a rule without words").to_owned(),
            facts: fired.facts.clone(),
        });
        let line = self.status.clone();
        Decided { at: self.at, since: self.since, times: self.times, line, reasons: reasons.collect() }
    }
}

impl State {
    fn write(&mut self, json: &str) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write(format!("{json}\n").as_bytes()) {
            tracing::error!("journal.file: {error}; no more is written to it");
            self.file = None;
        }
    }
}
