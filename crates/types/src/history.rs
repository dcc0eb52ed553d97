//! `/history` (contract A.3.9) and PostgreSQL's own `.history` files.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Lsn, Revision, Timeline, pyjson, scalar};

/// One finished timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where it ended.
    pub lsn: Lsn,
    /// PostgreSQL's reason.
    pub reason: String,
    /// When the next one began, ISO 8601.
    pub timestamp: Option<String>,
    /// Who was promoted.
    pub new_leader: Option<String>,
}

/// The key as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Oldest first; `None` where the value was garbage.
    pub entries: Option<Vec<HistoryEntry>>,
    /// For conditional writes.
    pub revision: Revision,
}

/// A line of a `.history` file has three fields, but the first two are not a timeline and a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the timeline history is not a timeline and a log position: {text:?}")]
pub struct Error {
    /// Counted from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

impl History {
    /// Reads `/history`. Entries that make no sense are left out; where the newest one makes none, nobody can tell
    /// the timeline, and the whole value is garbage.
    pub fn read(text: &str, revision: Revision) -> Self {
        Self { entries: read_entries(text), revision }
    }

    /// The value of `/history`; garbage is written as an empty history.
    pub fn to_json(&self) -> String {
        pyjson::compact(&self.entries.iter().flatten().map(write_entry).collect())
    }

    /// The timeline after the newest entry; 1 for an empty history, 0 for garbage.
    pub fn timeline(&self) -> Timeline {
        match &self.entries {
            None => 0,
            Some(entries) => entries.last().map_or(1, |last| last.timeline.saturating_add(1)),
        }
    }
}

fn read_entries(text: &str) -> Option<Vec<HistoryEntry>> {
    if text == "[]" {
        return Some(Vec::new());
    }
    let Ok(Value::Array(lines)) = serde_json::from_str(text) else { return None };
    read_entry(lines.last()?)?;
    Some(lines.iter().filter_map(read_entry).collect())
}

fn read_entry(line: &Value) -> Option<HistoryEntry> {
    let fields = line.as_array()?;
    let timeline = Timeline::try_from(scalar::python_int(fields.first()?)?).ok()?;
    let lsn = fields.get(1).and_then(|lsn| {
        lsn.as_u64().or_else(|| scalar::python_int(lsn).and_then(|lsn| u64::try_from(lsn).ok()))
    });
    let text = |index: usize| fields.get(index).and_then(Value::as_str).map(str::to_owned);
    Some(HistoryEntry {
        timeline,
        lsn: Lsn(lsn.unwrap_or_default()),
        reason: text(2).unwrap_or_default(),
        timestamp: text(3),
        new_leader: text(4),
    })
}

fn write_entry(entry: &HistoryEntry) -> Value {
    let mut fields = vec![entry.timeline.into(), entry.lsn.0.into(), entry.reason.as_str().into()];
    if let Some(timestamp) = &entry.timestamp {
        fields.push(timestamp.as_str().into());
        // The place of the name is behind the time: without one it cannot be told.
        fields.extend(entry.new_leader.as_deref().map(Value::from));
    }
    Value::Array(fields)
}

/// Reads a `.history` file of PostgreSQL: `timeline<TAB>position<TAB>reason`, oldest first. Comments, blank lines and
/// lines with fewer fields are skipped.
///
/// # Errors
/// A line with three fields that do not begin with a timeline and a position.
pub fn parse_history_file(text: &str) -> Result<Vec<HistoryEntry>, Error> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut fields = line.splitn(3, '\t');
        let (Some(timeline), Some(lsn), Some(reason)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (Ok(timeline), Ok(lsn)) = (timeline.trim().parse(), lsn.trim().parse()) else {
            return Err(Error { line: index + 1, text: line.to_owned() });
        };
        let reason = reason.to_owned();
        entries.push(HistoryEntry { timeline, lsn, reason, timestamp: None, new_leader: None });
    }
    Ok(entries)
}

/// Where `timeline` was left on the way that `entries` describe; `None` where that way never passed through it.
pub fn switchpoint(entries: &[HistoryEntry], timeline: Timeline) -> Option<Lsn> {
    entries
        .iter()
        .find(|entry| entry.timeline >= timeline)
        .filter(|entry| entry.timeline == timeline)
        .map(|entry| entry.lsn)
}

/// False where two servers that both know a `timeline` came to it by different ways: they began it without knowing of each
/// other, and share no more than its number.
pub fn begins_alike(one: &[HistoryEntry], other: &[HistoryEntry], timeline: Timeline) -> bool {
    let earlier = |entry: &&HistoryEntry| entry.timeline < timeline;
    let place = |entry: &HistoryEntry| (entry.timeline, entry.lsn);
    one.iter().filter(earlier).map(place).eq(other.iter().filter(earlier).map(place))
}

/// The newest timeline that two ways have in common as far as history files tell: by its number, and by where it and all
/// before it began. Where it began, and the first position at which one of the two ways leaves it or ends.
///
/// A way is the entries of a history file and the timeline, with its last position, that they lead to.
pub fn newest_shared(
    one: (&[HistoryEntry], Timeline, Lsn),
    other: (&[HistoryEntry], Timeline, Lsn),
) -> Option<(Timeline, Lsn, Lsn)> {
    let end = |way: (&[HistoryEntry], Timeline, Lsn), timeline| {
        if way.1 == timeline { Some(way.2) } else { switchpoint(way.0, timeline) }
    };
    let newest_first = one.0.iter().map(|entry| entry.timeline).chain([one.1]).rev();
    newest_first.into_iter().find_map(|timeline| {
        let end = end(one, timeline)?.min(end(other, timeline)?);
        let begin =
            one.0.iter().rfind(|entry| entry.timeline < timeline).map_or(Lsn::ZERO, |entry| entry.lsn);
        begins_alike(one.0, other.0, timeline).then_some((timeline, begin, end))
    })
}

/// What the timelines and positions say of a rewind (contract RW-7, RW-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// The local server has left the upstream's way: it must be rewound, or cloned again.
    Needed,
    /// It can follow.
    NotNeeded,
    /// The upstream's `.history` file must be asked: [`divergence_from_history`].
    AskHistory,
    /// Not in recovery and below this switchpoint: it can follow only where its last checkpoint record ends exactly here.
    CheckpointMustEndAt(Lsn),
}

/// Compares the local timeline with the one that the upstream's `IDENTIFY_SYSTEM` reports (contract RW-7).
pub fn divergence_from_timelines(local: Timeline, upstream: Timeline) -> Divergence {
    match local.cmp(&upstream) {
        Ordering::Greater => Divergence::Needed,
        Ordering::Equal => Divergence::NotNeeded,
        Ordering::Less => Divergence::AskHistory,
    }
}

/// Compares the local position with the upstream's history (contract RW-8); `in_recovery` is the state in which the
/// local server was stopped.
pub fn divergence_from_history(
    entries: &[HistoryEntry],
    local: Timeline,
    local_lsn: Lsn,
    in_recovery: bool,
) -> Divergence {
    match switchpoint(entries, local) {
        None => Divergence::Needed,
        Some(left) if in_recovery && local_lsn > left => Divergence::Needed,
        Some(_) if in_recovery => Divergence::NotNeeded,
        Some(left) if local_lsn >= left => Divergence::Needed,
        Some(left) => Divergence::CheckpointMustEndAt(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n1\t0/5000000\tno recovery target specified\r\n\n\
                        3\t0/7000000\tbefore\t2000-01-01 00:00:00+00\nbad line\n";

    #[test]
    fn a_history_file_keeps_its_reasons() {
        let entries = parse_history_file(FILE).unwrap();
        let lines: Vec<_> =
            entries.iter().map(|entry| (entry.timeline, entry.lsn.0, entry.reason.as_str())).collect();
        assert_eq!(
            lines,
            [
                (1, 0x500_0000, "no recovery target specified"),
                (3, 0x700_0000, "before\t2000-01-01 00:00:00+00")
            ]
        );
        assert_eq!(parse_history_file(""), Ok(Vec::new()));
    }

    #[test]
    fn a_broken_line_is_named() {
        for line in ["x\t0/1\tr", "1\t0-1\tr", "-1\t0/1\tr", "4294967296\t0/1\tr"] {
            let error = parse_history_file(&format!("1\t0/1\tr\n{line}\n")).unwrap_err();
            assert_eq!(error, Error { line: 2, text: line.into() });
        }
    }

    #[test]
    fn rw_7_timelines() {
        assert_eq!(divergence_from_timelines(3, 2), Divergence::Needed);
        assert_eq!(divergence_from_timelines(2, 2), Divergence::NotNeeded);
        assert_eq!(divergence_from_timelines(1, 2), Divergence::AskHistory);
    }

    #[test]
    fn rw_7_same_number_by_another_way() {
        let entries = parse_history_file(FILE).unwrap();
        let elsewhere = parse_history_file("1\t0/5000001\tbefore\n3\t0/7000000\t\n").unwrap();
        assert!(begins_alike(&entries, &entries, 4));
        assert!(!begins_alike(&entries, &elsewhere, 4) && !begins_alike(&entries, &elsewhere, 3));
        assert!(begins_alike(&entries, &entries[..1], 3), "what came later does not count");
        assert!(!begins_alike(&entries, &entries[..1], 4) && !begins_alike(&[], &entries, 2));
        assert!(begins_alike(&entries, &elsewhere, 1), "the first one began with the cluster");
    }

    #[test]
    fn rw_7_newest_timeline_of_both_ways() {
        let way = |text: &str| parse_history_file(text).unwrap();
        let (one, left) = (way("1\t0/10\tr\n2\t0/20\tr\n3\t0/30\tr\n"), way("1\t0/10\tr\n2\t0/20\tr\n"));
        let elsewhere = way("1\t0/10\tr\n2\t0/21\tr\n");
        let shared = |other: &[HistoryEntry], timeline, end| {
            newest_shared((&one, 4, Lsn(0x40)), (other, timeline, Lsn(end)))
        };
        assert_eq!(shared(&one, 4, 0x50), Some((4, Lsn(0x30), Lsn(0x40))));
        assert_eq!(shared(&left, 3, 0x50), Some((3, Lsn(0x20), Lsn(0x30))), "ahead of the other way");
        assert_eq!(shared(&left, 3, 0x25), Some((3, Lsn(0x20), Lsn(0x25))));
        assert_eq!(shared(&elsewhere, 3, 0x50), Some((2, Lsn(0x10), Lsn(0x20))), "3 began elsewhere");
        assert_eq!(shared(&[], 1, 0x50), Some((1, Lsn(0), Lsn(0x10))));
        assert_eq!(shared(&way("2\t0/10\tr\n"), 5, 0x50), None, "nothing in common");
    }

    #[test]
    fn rw_8_switchpoint() {
        let entries = parse_history_file(FILE).unwrap();
        let left = Lsn(0x500_0000);
        let ask =
            |timeline, lsn, in_recovery| divergence_from_history(&entries, timeline, Lsn(lsn), in_recovery);
        assert_eq!(ask(1, left.0, true), Divergence::NotNeeded);
        assert_eq!(ask(1, left.0 + 1, true), Divergence::Needed);
        assert_eq!(ask(1, left.0, false), Divergence::Needed);
        assert_eq!(ask(1, left.0 - 1, false), Divergence::CheckpointMustEndAt(left));
        assert_eq!(ask(2, 0, true), Divergence::Needed, "the upstream never was on timeline 2");
        assert_eq!(ask(4, 0, true), Divergence::Needed, "no entry");
        assert_eq!(switchpoint(&entries, 3), Some(Lsn(0x700_0000)));
    }
}
