//! Whether the newest timeline that the local server shares with the upstream is the same one, or only has the same
//! number. PostgreSQL takes the first number for which it finds no `.history` file, so two servers that were promoted
//! without knowing of each other take the same one.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use ptarmigan_types::{
    HistoryEntry, Lsn, Timeline,
    history::{begins_alike, newest_shared},
};

use super::LocalPosition;
use crate::{connection::Session, handle::Postgres, history};

/// What the two beginnings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// They are alike, or not both known.
    NothingToTell,
    /// The histories differ: the timelines were left at different positions on the way here.
    OtherPlace,
    /// They began at the same position, with other records: the first one has its own timestamp and checksum.
    OtherRecords,
}

/// Enough for the longer header of a page (40 bytes) and the header of a record (24), which ends with its checksum.
const COMPARED_BYTES_MAX: u64 = 64;

/// A few bytes of a WAL segment, right where a timeline begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    segment: String,
    offset_bytes: u64,
    length_bytes: u64,
}

impl Stretch {
    /// The first bytes of `timeline` from `begin`, as far as they lie in one segment and before `end`: behind it a file
    /// may hold anything.
    fn at(timeline: Timeline, begin: Lsn, end: Lsn, segment_bytes: u64) -> Option<Self> {
        let segments_per_id = 0x1_0000_0000_u64.checked_div(segment_bytes)?;
        let number = begin.0.checked_div(segment_bytes)?;
        let (id, rest) = (number.checked_div(segments_per_id)?, number.checked_rem(segments_per_id)?);
        let offset_bytes = begin.0.checked_rem(segment_bytes)?;
        let length_bytes =
            COMPARED_BYTES_MAX.min(segment_bytes - offset_bytes).min(end.bytes_ahead_of(begin));
        let segment = format!("{timeline:08X}{id:08X}{rest:08X}");
        (length_bytes > 0).then_some(Self { segment, offset_bytes, length_bytes })
    }

    fn read(&self, data_dir: &Path) -> io::Result<Option<String>> {
        let file = match File::open(data_dir.join("pg_wal").join(&self.segment)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = [0; COMPARED_BYTES_MAX as usize];
        let bytes = &mut bytes[..usize::try_from(self.length_bytes).unwrap_or_default()];
        file.read_exact_at(bytes, self.offset_bytes)?;
        Ok(Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The same bytes of another server, in the same form.
    fn query(&self) -> String {
        let Self { segment, offset_bytes, length_bytes } = self;
        format!(
            "SELECT encode(pg_read_binary_file('pg_wal/{segment}', {offset_bytes}, {length_bytes}, true), 'hex')"
        )
    }
}

/// The way of the upstream to where it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpstreamWay<'a> {
    /// Its history.
    pub(super) entries: &'a [HistoryEntry],
    /// The timeline that it is on.
    pub(super) timeline: Timeline,
}

/// Compares how the newest timeline of both ways began here and, by `session`, on the upstream. `pg_rewind` goes back to
/// that timeline without a look at its records, so it is looked at here, also where the local server is ahead.
pub(super) async fn compare(
    pg: &Postgres,
    session: &Session,
    local: &LocalPosition,
    segment_bytes: u64,
    upstream: UpstreamWay<'_>,
) -> Beginning {
    let own = match history::read_local(&pg.data_dir(), local.timeline) {
        // A file without entries was written to keep the number from being taken: nobody's history.
        Ok(own) => own.map(|own| own.entries).unwrap_or_default(),
        Err(error) => {
            tracing::debug!("how timeline {} began is not known: {error}", local.timeline);
            return Beginning::NothingToTell;
        }
    };
    if own.is_empty() && local.timeline > 1 {
        tracing::debug!("how timeline {} began is not known: no history file", local.timeline);
        return Beginning::NothingToTell;
    }
    if local.timeline <= upstream.timeline && !begins_alike(&own, upstream.entries, local.timeline) {
        return Beginning::OtherPlace;
    }
    let theirs = (upstream.entries, upstream.timeline, Lsn(u64::MAX));
    let shared = newest_shared((&own, local.timeline, local.lsn), theirs);
    let Some((timeline, begin, end)) = shared.filter(|(timeline, ..)| *timeline > 1) else {
        return Beginning::NothingToTell;
    };
    let end = end.min(local.lsn);
    let Some(stretch) = Stretch::at(timeline, begin, end, segment_bytes) else {
        return Beginning::NothingToTell;
    };
    let here = stretch.read(&pg.data_dir()).map_err(|error| error.to_string());
    let there = session.query_text(&stretch.query()).await.map_err(|error| error.to_string());
    let there = there.map(|rows| rows.into_iter().flatten().next().flatten());
    match (here, there) {
        (Ok(Some(here)), Ok(Some(there))) if here != there => Beginning::OtherRecords,
        (Ok(Some(_)), Ok(Some(_))) => Beginning::NothingToTell,
        (here, there) => {
            tracing::debug!("the first record of timeline {timeline}: here {here:?}, upstream {there:?}");
            Beginning::NothingToTell
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BYTES: u64 = 16 << 20;

    fn stretch(begin: u64, end: u64) -> Option<(String, u64, u64)> {
        Stretch::at(10, Lsn(begin), Lsn(end), SEGMENT_BYTES)
            .map(|stretch| (stretch.segment, stretch.offset_bytes, stretch.length_bytes))
    }

    #[test]
    fn stretch_ends_with_the_segment_and_with_what_is_known() {
        let segment = "0000000A00000002000000FF".to_owned();
        let begin = 0x2_FF00_0000;
        assert_eq!(stretch(begin, begin + 1000), Some((segment.clone(), 0, 64)));
        assert_eq!(stretch(begin + 72, begin + 80), Some((segment.clone(), 72, 8)));
        assert_eq!(stretch(0x2_FFFF_FFF0, u64::MAX), Some((segment, SEGMENT_BYTES - 16, 16)));
        assert_eq!(stretch(begin, begin), None);
        assert_eq!(stretch(begin, begin - 8), None);
        assert_eq!(Stretch::at(1, Lsn(1), Lsn(100), 0), None);
    }

    #[test]
    fn stretch_is_read_in_the_form_of_the_query() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("pg_wal")).unwrap();
        let stretch = Stretch::at(2, Lsn(3), Lsn(6), SEGMENT_BYTES).unwrap();
        assert_eq!(stretch.read(data.path()).unwrap(), None);
        let path = data.path().join("pg_wal/000000020000000000000000");
        std::fs::write(&path, b"012\x01\xff5678").unwrap();
        assert_eq!(stretch.read(data.path()).unwrap().as_deref(), Some("01ff35"));
        std::fs::write(&path, b"012").unwrap();
        assert!(stretch.read(data.path()).is_err(), "too short");
        assert!(stretch.query().contains("('pg_wal/000000020000000000000000', 3, 3, true)"));
    }
}
