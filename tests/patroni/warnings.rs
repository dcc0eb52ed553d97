//! What Patroni says at WARNING and above, compared with what it says in a cluster of Patroni alone.

use std::collections::BTreeSet;

use crate::lab::{Kind, Lab};

/// What an operator does with a cluster; or the store is away.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Situation {
    Tour,
    WithoutDcs,
}

impl Situation {
    const fn path(self) -> &'static str {
        match self {
            Self::Tour => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/patroni/warnings/tour.txt"),
            Self::WithoutDcs => {
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/patroni/warnings/without_dcs.txt")
            }
        }
    }

    /// What nodes of an all-Patroni cluster said: see `what_patroni_alone_says` in `tour.rs`.
    fn known(self) -> BTreeSet<String> {
        std::fs::read_to_string(self.path()).unwrap().lines().map(str::to_owned).collect()
    }
}

/// What Patroni says where its own PostgreSQL, or its own store, ends in the middle of a question that it asks: rare, and no
/// other member has a part in it.
const BY_CHANCE: [&str; 2] = ["ERROR: get_postgresql_status [", "ERROR: touch_member ["];

/// How Patroni's clients of the stores say that theirs does not answer; which of its calls meets that is chance.
const STORE_IS_AWAY: [&str; 4] =
    ["[etcd.Etcd", "[urllib3.exceptions.", "[patroni.dcs.consul.", "[patroni.utils.RetryFailedError]"];

/// The kinds of such lines of the nodes that Patroni runs.
fn of(lab: &Lab) -> BTreeSet<String> {
    let log = |index: &usize| lab.cluster.nodes[*index].log_tail(1_000_000);
    lab.of(Kind::Patroni).iter().map(log).flat_map(|log| of_log(&log)).collect()
}

fn of_log(log: &str) -> Vec<String> {
    let mut said = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((level, text)) = patronis(line) else { continue };
        let mut entry = format!("{level}: {}", kind(text));
        // The last line of a traceback, which has none of the times that begin the others, names the exception.
        if lines.peek().is_some_and(|next| next.starts_with("Traceback")) {
            let mut exception = String::new();
            while let Some(next) = lines.next_if(|next| !begins_entry(next)) {
                let is_class = !next.starts_with([' ', '\t']) && !next.is_empty() && !next.ends_with(':');
                if is_class {
                    exception = next.split([':', '(']).next().unwrap_or_default().trim().to_owned();
                }
            }
            entry.push_str(&format!(" [{exception}]"));
        }
        if matches!(level, "WARNING" | "ERROR" | "CRITICAL") {
            said.push(entry);
        }
    }
    said
}

/// `2026-01-02 03:04:05,678 LEVEL: text`; PostgreSQL, in the same file, has no comma in its times.
fn patronis(line: &str) -> Option<(&str, &str)> {
    let (time, rest) = line.split_at_checked(23)?;
    if time.as_bytes()[19] != b',' {
        return None;
    }
    rest.trim_start().split_once(": ")
}

fn begins_entry(line: &str) -> bool {
    line.as_bytes().get(4) == Some(&b'-') && line.as_bytes().first().is_some_and(u8::is_ascii_digit)
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
pub(crate) fn learn(lab: &Lab, situation: Situation) {
    let known: BTreeSet<String> = situation.known().into_iter().chain(of(lab)).collect();
    std::fs::write(situation.path(), known.iter().map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
}

/// # Panics
/// Patroni said something that it does not say among its own.
pub(crate) fn assert_known(lab: &Lab, situation: Situation) {
    let known = situation.known();
    let said = of(lab);
    println!("{} kinds of warnings of Patroni", said.len());
    let by_chance = |line: &str| {
        let is_away = matches!(situation, Situation::WithoutDcs);
        BY_CHANCE.iter().any(|beginning| line.starts_with(beginning))
            || is_away && STORE_IS_AWAY.iter().any(|exception| line.contains(exception))
    };
    let new: Vec<&String> = said.difference(&known).filter(|line| !by_chance(line)).collect();
    assert!(new.is_empty(), "Patroni says what it does not say among its own:\n{new:#?}");
}

#[test]
fn lines_are_found_and_made_comparable() {
    let log = "2026-11-27 03:00:57,819 INFO: no action. I am (node1), a secondary\n\
               2026-11-27 03:00:57.825 UTC [29779] WARNING:  started at 0/4000000\n\
               2026-11-27 03:00:57,819 WARNING: Request failed to node2: GET http://127.0.0.1:8008/patroni (0x7f3a)\n\
               Traceback (most recent call last):\n\
               \x20 File \"a.py\", line 1, in run\n\
               KeyError: 'x'\n\
               \n\
               The above exception was the direct cause of the following exception:\n\
               \n\
               Traceback (most recent call last):\n\
               patroni.exceptions.DCSError: 'y'\n\
               2026-11-27 03:00:58,000 ERROR: wal 0/5000028 on node12\n";
    let expected = ["WARNING: Request failed to # [patroni.exceptions.DCSError]", "ERROR: wal # on #"];
    assert_eq!(of_log(log), expected);
}
