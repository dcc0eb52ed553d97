//! The history of timelines: what the primary writes into `/history` (contract B.24, A.3.9).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::{Timestamp, Zoned, tz::TimeZone};
use ptarmigan_types::{History, HistoryEntry, MemberName, Timeline, history};

use crate::files;

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
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] files::Error),
    /// More numbers than a cluster can be behind.
    #[error("{0} timelines would have to be skipped")]
    TooMany(u32),
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
    /// The timeline that it tells of.
    pub timeline: Timeline,
    /// When the file was written: the moment of the promotion.
    pub written_at: SystemTime,
}

/// The newest timeline that a `.history` file in `pg_wal` tells of; 0 where there is none, or nothing can be read.
pub fn newest_local(data_dir: &Path) -> Timeline {
    let Ok(entries) = fs::read_dir(data_dir.join("pg_wal")) else { return 0 };
    let timeline = |name: &str| {
        let digits = name.strip_suffix(".history").filter(|digits| digits.len() == 8)?;
        Timeline::from_str_radix(digits, 16).ok()
    };
    entries.flatten().filter_map(|entry| timeline(entry.file_name().to_str()?)).max().unwrap_or(0)
}

/// Reads `pg_wal/<timeline>.history`; `None` where there is none.
///
/// # Errors
/// The file cannot be read or is damaged.
pub fn read_local(data_dir: &Path, timeline: Timeline) -> Result<Option<LocalHistory>, Error> {
    let path = path_of(data_dir, timeline);
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
    Ok(Some(LocalHistory { entries, timeline, written_at }))
}

fn path_of(data_dir: &Path, timeline: Timeline) -> PathBuf {
    data_dir.join(format!("pg_wal/{timeline:08X}.history"))
}

/// A file that only keeps a number from being taken. PostgreSQL skips the comment; what is left is the history of no
/// server, which every server refuses to follow. With the lines of the true history a standby could take the number for
/// its target between two looks at its WAL, and would then claim to descend from a timeline that it never was on.
const SKIPPED: &str = "# skipped by ptarmigan: another member has begun this timeline\n";

/// What `/history` says of a number that was skipped.
const SKIPPED_REASON: &str = "skipped: begun by another member";

/// A `/history` further ahead than this is not this cluster's.
const SKIPPED_MAX: u32 = 100;

/// Makes the next promotion take a number above `newest`: PostgreSQL takes the first one above its own timeline, `local`,
/// that has no history file, so those are made here that are missing. Returns the numbers.
///
/// # Errors
/// A file cannot be written, or `newest` is too far ahead.
pub fn skip_timelines(data_dir: &Path, local: Timeline, newest: Timeline) -> Result<Vec<Timeline>, Error> {
    let missing: Vec<_> = match newest.saturating_sub(local) {
        ahead if ahead > SKIPPED_MAX => return Err(Error::TooMany(ahead)),
        _ => (local.saturating_add(1)..=newest)
            .filter(|timeline| is_missing(&path_of(data_dir, *timeline)))
            .collect(),
    };
    for timeline in &missing {
        let path = path_of(data_dir, *timeline);
        files::write(&path, SKIPPED, files::mode_of(&path, data_dir))?;
    }
    Ok(missing)
}

fn is_missing(path: &Path) -> bool {
    path.try_exists().is_ok_and(|exists| !exists)
}

/// Removes what a promotion left behind that did not come about: a standby could follow nobody to the timeline of that
/// number. Where a timeline was begun after the skipped ones, they stay: standbys ask for every file up to the newest.
///
/// # Errors
/// A file cannot be removed.
pub fn forget_skipped(data_dir: &Path) -> Result<(), Error> {
    let folder = data_dir.join("pg_wal");
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |source| Error::Io { path, source }
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).map_err(at(&folder))? {
        let path = entry.map_err(at(&folder))?.path();
        if path.extension().is_some_and(|extension| extension == "history") {
            paths.push(path);
        }
    }
    paths.sort();
    while let Some(path) =
        paths.pop().filter(|path| fs::read_to_string(path).is_ok_and(|text| text == SKIPPED))
    {
        fs::remove_file(&path).map_err(at(&path))?;
    }
    Ok(())
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
/// older ones what the old value says of the same timeline and position. Where the promotion skipped numbers, the newest
/// entry is the last of those: the next number is told by it. `None` where there is nothing to write.
pub fn merged(
    local: &LocalHistory,
    old: Option<&History>,
    lines_max: u64,
    me: &MemberName,
    zone: &TimeZone,
) -> Option<Vec<HistoryEntry>> {
    let mut entries = local.entries.clone();
    if let Some(last) =
        entries.last().filter(|last| last.timeline.saturating_add(1) < local.timeline).cloned()
    {
        entries.push(HistoryEntry {
            timeline: local.timeline - 1,
            reason: SKIPPED_REASON.to_owned(),
            ..last
        });
    }
    let lines_max = usize::try_from(lines_max).unwrap_or(usize::MAX);
    if lines_max > 0 {
        entries.drain(..entries.len().saturating_sub(lines_max));
    }
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
            timeline: 4,
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
    fn b_24_skipped_number_is_not_given_again() {
        let written_at = SystemTime::UNIX_EPOCH;
        let local =
            LocalHistory { entries: vec![entry(1, 10, None), entry(2, 20, None)], timeline: 5, written_at };
        let merge = |lines| merged(&local, None, lines, &"me".into(), &TimeZone::UTC).unwrap();
        let new = merge(0);
        assert_eq!(
            new.iter().map(|entry| (entry.timeline, entry.lsn.0)).collect::<Vec<_>>(),
            [(1, 10), (2, 20), (4, 20)]
        );
        assert_eq!((new[1].new_leader.is_none(), new[2].reason.as_str()), (true, SKIPPED_REASON));
        let value = old(new);
        assert_eq!(value.timeline(), 5);
        assert!(!needs_update(5, Some(&value)));
        assert_eq!(merge(1).len(), 1);
    }

    #[test]
    fn skipped_numbers_go_again_unless_one_follows() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("pg_wal")).unwrap();
        let there = || {
            let timelines = (1..10).filter(|timeline| path_of(data.path(), *timeline).exists());
            timelines.collect::<Vec<_>>()
        };
        let real = "1\t0/3000060\tno recovery target specified\n";
        fs::write(path_of(data.path(), 3), real).unwrap();
        assert_eq!(skip_timelines(data.path(), 2, 2).unwrap(), Vec::<Timeline>::new());
        assert_eq!(skip_timelines(data.path(), 3, 1).unwrap(), Vec::<Timeline>::new());
        assert_eq!(skip_timelines(data.path(), 2, 5).unwrap(), [4, 5]);
        assert_eq!(skip_timelines(data.path(), 2, 5).unwrap(), Vec::<Timeline>::new());
        assert_eq!(fs::read_to_string(path_of(data.path(), 3)).unwrap(), real, "never overwritten");
        assert!(matches!(skip_timelines(data.path(), 2, Timeline::MAX), Err(Error::TooMany(_))));
        fs::write(path_of(data.path(), 6), real).unwrap();
        forget_skipped(data.path()).unwrap();
        assert_eq!(there(), [3, 4, 5, 6], "a promotion took the next one");
        fs::remove_file(path_of(data.path(), 6)).unwrap();
        forget_skipped(data.path()).unwrap();
        assert_eq!(there(), [3]);
        assert_eq!(read_local(data.path(), 3).unwrap().unwrap().timeline, 3);
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
