//! What Patroni says at WARNING and above, compared with what it says in a cluster of Patroni alone.

use std::collections::BTreeSet;

use crate::lab::{Kind, Lab};

/// What nodes of an all-Patroni cluster said in the same tests: see `what_patroni_alone_says` in `tour.rs`.
const KNOWN: &str = include_str!("warnings.txt");

/// The kinds of such lines of the nodes that Patroni runs.
pub(crate) fn of(lab: &Lab) -> BTreeSet<String> {
    let log = |index: &usize| lab.cluster.nodes[*index].log_tail(1_000_000);
    lab.of(Kind::Patroni).iter().map(log).flat_map(|log| of_log(&log)).collect()
}

fn of_log(log: &str) -> Vec<String> {
    // 2026-01-02 03:04:05,678 WARNING: text; PostgreSQL in the same file has no comma in its times
    let said = |line: &str| {
        let (time, rest) = line.split_at_checked(23)?;
        let (level, text) = rest.trim_start().split_once(": ")?;
        let patronis = time.as_bytes()[19] == b',' && matches!(level, "WARNING" | "ERROR" | "CRITICAL");
        patronis.then(|| format!("{level}: {}", kind(text)))
    };
    log.lines().filter_map(said).collect()
}

/// What differs from run to run comes after a colon or in brackets, or is a name or a number.
fn kind(text: &str) -> String {
    let plain = |word: &str| {
        let letters = word.trim_matches(|c: char| c.is_ascii_punctuation());
        if letters.contains(|c: char| c.is_ascii_digit()) {
            word.replace(letters, "#")
        } else {
            word.to_owned()
        }
    };
    let words = text.split([':', '(']).next().unwrap_or_default().split_whitespace();
    words.map(plain).collect::<Vec<_>>().join(" ")
}

/// Adds what was said to the file.
pub(crate) fn learn(lab: &Lab) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/patroni/warnings.txt");
    let known = std::fs::read_to_string(path).unwrap();
    let known: BTreeSet<String> = known.lines().map(str::to_owned).chain(of(lab)).collect();
    std::fs::write(path, known.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

/// # Panics
/// Patroni said something that it does not say among its own.
pub(crate) fn assert_known(lab: &Lab) {
    let known: BTreeSet<&str> = KNOWN.lines().collect();
    let said = of(lab);
    println!("{} kinds of warnings of Patroni", said.len());
    let new: Vec<&String> = said.iter().filter(|line| !known.contains(line.as_str())).collect();
    assert!(new.is_empty(), "Patroni says what it does not say among its own:\n{new:#?}");
}

#[test]
fn lines_are_found_and_made_comparable() {
    let log = "2026-11-27 03:00:57,819 INFO: no action. I am (node1), a secondary\n\
               2026-11-27 03:00:57.825 UTC [29779] WARNING:  started at 0/4000000\n\
               2026-11-27 03:00:57,819 WARNING: Request failed to node2: GET http://127.0.0.1:8008/patroni (0x7f3a)\n\
               Traceback (most recent call last):\n\
               2026-11-27 03:00:58,000 ERROR: wal 0/5000028 on node12\n";
    let expected = ["WARNING: Request failed to #", "ERROR: wal # on #"];
    assert_eq!(of_log(log), expected);
}
