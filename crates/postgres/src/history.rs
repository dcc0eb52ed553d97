//! The history of timelines: what the primary writes into `/history` (contract B.24, A.3.9).

use std::{fs, io, path::Path, time::SystemTime};

use jiff::{Timestamp, Zoned, tz::TimeZone};
use ptarmigan_types::{History, HistoryEntry, MemberName, Timeline, history};

/// Why the local history is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("{path}: {source}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong.
        source: history::Error,
    },
}

/// A `.history` file of `pg_wal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalHistory {
    /// One entry per finished timeline, oldest first; no timestamps, no names.
    pub entries: Vec<HistoryEntry>,
    /// When the file was written: the moment of the promotion.
    pub written_at: SystemTime,
}

/// Reads `pg_wal/<timeline>.history`; `None` where there is none.
///
/// # Errors
/// The file cannot be read or is damaged.
pub fn read_local(data_dir: &Path, timeline: Timeline) -> Result<Option<LocalHistory>, Error> {
    let path = data_dir.join(format!("pg_wal/{timeline:08X}.history"));
    let shown = || path.display().to_string();
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|source| Error::Io { path: shown(), source })?,
    };
    let written_at = fs::metadata(&path)
        .and_then(|metadata| metadata.modified())
        .map_err(|source| Error::Io { path: shown(), source })?;
    let entries =
        history::parse_history_file(&text).map_err(|source| Error::Content { path: shown(), source })?;
    Ok(Some(LocalHistory { entries, written_at }))
}

/// True where `/history` does not tell yet how `timeline` began: the local file should be read and [`merged`].
/// Timeline 1 has no file; see [`is_to_be_emptied`].
pub fn needs_update(timeline: Timeline, old: Option<&History>) -> bool {
    if timeline <= 1 {
        return false;
    }
    let last = old.and_then(|history| history.entries.as_deref()).and_then(<[_]>::last);
    last.is_none_or(|last| {
        last.timeline != timeline - 1 || last.timestamp.is_none() || last.new_leader.is_none()
    })
}

/// True on timeline 1 while `/history` holds entries, of another life of the cluster: it becomes `[]`.
pub fn is_to_be_emptied(timeline: Timeline, old: Option<&History>) -> bool {
    timeline == 1
        && old.is_some_and(|history| history.entries.as_ref().is_none_or(|entries| !entries.is_empty()))
}

/// The new value: the last `lines_max` entries of the local file (0: all). The newest gets the file's time and `me`,
/// older ones what the old value says of the same timeline and position. `None` where there is nothing to write.
pub fn merged(
    local: &LocalHistory,
    old: Option<&History>,
    lines_max: u64,
    me: &MemberName,
    zone: &TimeZone,
) -> Option<Vec<HistoryEntry>> {
    let lines_max = usize::try_from(lines_max).unwrap_or(usize::MAX);
    let skip = if lines_max == 0 { 0 } else { local.entries.len().saturating_sub(lines_max) };
    let mut entries: Vec<HistoryEntry> = local.entries[skip..].to_vec();
    let known = old.and_then(|history| history.entries.as_deref()).unwrap_or_default();
    for entry in &mut entries {
        let same = |old: &&HistoryEntry| old.timeline == entry.timeline && old.lsn == entry.lsn;
        if let Some(old) = known.iter().find(same) {
            entry.timestamp.clone_from(&old.timestamp);
            entry.new_leader.clone_from(&old.new_leader);
        }
    }
    let newest = entries.last_mut()?;
    newest.timestamp = Some(iso(local.written_at, zone));
    newest.new_leader = Some(me.as_str().to_owned());
    Some(entries)
}

/// `2026-11-20T19:01:54.123456+01:00`, as Python's `isoformat` prints a local time.
fn iso(time: SystemTime, zone: &TimeZone) -> String {
    let timestamp = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    let local: Zoned = timestamp.to_zoned(zone.clone());
    let format =
        if local.subsec_nanosecond() < 1000 { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%dT%H:%M:%S.%6f%:z" };
    local.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ptarmigan_types::Lsn;

    use super::*;

    fn entry(timeline: Timeline, lsn: u64, who: Option<&str>) -> HistoryEntry {
        HistoryEntry {
            timeline,
            lsn: Lsn(lsn),
            reason: "no recovery target specified".into(),
            timestamp: who.map(|_| "2020-01-01T00:00:00+00:00".into()),
            new_leader: who.map(str::to_owned),
        }
    }

    fn old(entries: Vec<HistoryEntry>) -> History {
        History { entries: Some(entries), revision: 1 }
    }

    #[test]
    fn b_24_when_to_write() {
        let complete = old(vec![entry(1, 10, Some("a"))]);
        assert!(needs_update(2, None));
        assert!(!needs_update(2, Some(&complete)));
        assert!(needs_update(3, Some(&complete)));
        assert!(needs_update(2, Some(&old(vec![entry(1, 10, None)]))));
        assert!(needs_update(2, Some(&History { entries: None, revision: 1 })));
        assert!(!needs_update(1, Some(&complete)) && is_to_be_emptied(1, Some(&complete)));
        assert!(!is_to_be_emptied(1, None) && !is_to_be_emptied(1, Some(&old(vec![]))));
        assert!(!is_to_be_emptied(2, Some(&complete)));
    }

    #[test]
    fn b_24_merge_keeps_what_the_old_value_knows() {
        let local = LocalHistory {
            entries: vec![entry(1, 10, None), entry(2, 20, None), entry(3, 30, None)],
            written_at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_600_000_000_500_000),
        };
        let before = old(vec![entry(1, 10, Some("a")), entry(2, 99, Some("b"))]);
        let new =
            merged(&local, Some(&before), 0, &"me".into(), &TimeZone::fixed(jiff::tz::offset(2))).unwrap();
        assert_eq!(new[0].new_leader.as_deref(), Some("a"));
        assert_eq!(new[1].new_leader, None, "another position: another timeline");
        assert_eq!(new[2].new_leader.as_deref(), Some("me"));
        assert_eq!(new[2].timestamp.as_deref(), Some("2020-09-13T14:26:40.500000+02:00"));
        let cut = merged(&local, Some(&before), 2, &"me".into(), &TimeZone::UTC).unwrap();
        assert_eq!(cut.iter().map(|entry| entry.timeline).collect::<Vec<_>>(), [2, 3]);
        let empty = LocalHistory { entries: vec![], ..local };
        assert_eq!(merged(&empty, None, 0, &"me".into(), &TimeZone::UTC), None);
    }

    #[test]
    fn a_3_9_local_file_is_read() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("pg_wal")).unwrap();
        assert_eq!(read_local(data.path(), 11).unwrap(), None);
        fs::write(
            data.path().join("pg_wal/0000000B.history"),
            "10\t0/3000060\tno recovery target specified\n",
        )
        .unwrap();
        let local = read_local(data.path(), 11).unwrap().unwrap();
        assert_eq!((local.entries[0].timeline, local.entries[0].lsn), (10, Lsn(0x300_0060)));
    }
}
