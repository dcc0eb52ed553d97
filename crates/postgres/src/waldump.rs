//! Where a WAL record ends, by `pg_waldump` (contract RW-8).

use std::time::Duration;

use ptarmigan_types::{Lsn, Timeline};

use crate::{
    binaries::{self, Tool},
    command,
    handle::Postgres,
};

/// Two records are read.
const DEADLINE: Duration = Duration::from_secs(30);

/// Size of a WAL page in every distribution's build.
const PAGE_BYTES: u64 = 8192;
/// Header of every page but a segment's first.
const SHORT_HEADER_BYTES: u64 = 24;
/// Header of a segment's first page.
const LONG_HEADER_BYTES: u64 = 40;

/// Why the end of a record is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `pg_waldump` is missing.
    #[error(transparent)]
    Missing(#[from] binaries::Error),
    /// It could not be run.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// It printed no record.
    #[error("pg_waldump shows no record at {lsn}: {stderr}")]
    NoRecord {
        /// Where one was expected.
        lsn: Lsn,
        /// What the program said.
        stderr: String,
    },
}

/// The end of the record at `lsn`: the place of the next record, as PostgreSQL writes it into a `.history` file.
///
/// # Errors
/// The record cannot be read.
pub async fn end_of_record(
    pg: &Postgres,
    timeline: Timeline,
    lsn: Lsn,
    segment_bytes: u64,
) -> Result<Lsn, Error> {
    let output = pg
        .command(Tool::PgWaldump)?
        .args(["-t", &timeline.to_string(), "-s", &lsn.to_string(), "-n", "2"])
        .arg("-p")
        .arg(pg.data_dir().join("pg_wal"))
        .deadline(DEADLINE)
        .output()
        .await?;
    // It fails where nothing follows the record, which is the rule after a clean stop.
    end_from_output(lsn, &output.stdout_text(), &output.stderr_text(), segment_bytes)
        .ok_or_else(|| Error::NoRecord { lsn, stderr: output.stderr_text() })
}

/// Where the record right before `lsn` stands, if that record is a switch to a new WAL file (contract B.16, "prev LSN").
///
/// # Errors
/// The record at `lsn`, or the one before it, cannot be read.
pub async fn switch_before(pg: &Postgres, timeline: Timeline, lsn: Lsn) -> Result<Option<Lsn>, Error> {
    let previous = previous_in(&one_record(pg, timeline, lsn).await?);
    let previous = previous.ok_or_else(|| Error::NoRecord { lsn, stderr: String::new() })?;
    let record = one_record(pg, timeline, previous).await?;
    Ok(is_switch(&record).then_some(previous))
}

async fn one_record(pg: &Postgres, timeline: Timeline, lsn: Lsn) -> Result<String, Error> {
    let output = pg
        .command(Tool::PgWaldump)?
        .args(["-t", &timeline.to_string(), "-s", &lsn.to_string(), "-n", "1"])
        .arg("-p")
        .arg(pg.data_dir().join("pg_wal"))
        .deadline(DEADLINE)
        .output()
        .await?;
    let text = output.stdout_text();
    match text.lines().find(|line| line.starts_with("rmgr:")) {
        Some(record) => Ok(record.to_owned()),
        None => Err(Error::NoRecord { lsn, stderr: output.stderr_text() }),
    }
}

/// `..., lsn: 0/01500718, prev 0/015006E0, desc: ...`
fn previous_in(record: &str) -> Option<Lsn> {
    let (_, rest) = record.split_once("prev ")?;
    rest.split([',', ' ']).next()?.parse().ok()
}

fn is_switch(record: &str) -> bool {
    record.split_once("desc:").is_some_and(|(_, desc)| desc.trim_start().starts_with("SWITCH"))
}

fn end_from_output(lsn: Lsn, stdout: &str, stderr: &str, segment_bytes: u64) -> Option<Lsn> {
    let mut records = stdout.lines().filter_map(read_record);
    let (first, total_bytes) = records.next()?;
    if first != lsn {
        return None;
    }
    // "error in WAL record at 0/182E220: invalid record length at 0/182E298: wanted 24, got 0"
    let next = stderr
        .split_once("invalid record length at ")
        .and_then(|(_, rest)| rest.split([':', ' ', ',']).next().and_then(|text| text.parse::<Lsn>().ok()));
    records
        .next()
        .map(|(second, _)| second)
        .or(next)
        .filter(|next| *next > lsn)
        .or_else(|| Some(computed_end(lsn, total_bytes, segment_bytes)))
}

/// `rmgr: XLOG  len (rec/tot):  114/   114, tx: 0, lsn: 0/01500718, prev ...`: position and size.
fn read_record(line: &str) -> Option<(Lsn, u64)> {
    let (_, rest) = line.strip_prefix("rmgr:")?.split_once("len (rec/tot):")?;
    let (_, rest) = rest.split_once('/')?;
    let (total, rest) = rest.split_once(',')?;
    let (_, rest) = rest.split_once("lsn:")?;
    let lsn = rest.trim_start().split([',', ' ']).next()?.parse().ok()?;
    Some((lsn, total.trim().parse().ok()?))
}

/// The end of a record of `total_bytes` at `lsn`, page headers on its way counted in.
fn computed_end(lsn: Lsn, total_bytes: u64, segment_bytes: u64) -> Lsn {
    let mut at = lsn.0;
    let mut left = total_bytes.next_multiple_of(8);
    loop {
        let room = PAGE_BYTES - at % PAGE_BYTES;
        if left <= room {
            return Lsn(at + left);
        }
        left -= room;
        at += room;
        at += if at.is_multiple_of(segment_bytes) { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/0182E220, prev 0/0182E1E8, desc: CHECKPOINT_SHUTDOWN redo 0/182E220; tli 1";
    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn rw_8_end_of_the_checkpoint_record() {
        let lsn = Lsn(0x182_E220);
        let errors = [
            "pg_waldump: fatal: error in WAL record at 0/182E220: invalid record length at 0/182E298: wanted 24, got 0",
            "pg_waldump: error: error in WAL record at 0/182E220: invalid record length at 0/182E298: expected at least 24, got 0",
            "pg_waldump: error: error in WAL record at 0/182E220: record with incorrect prev-link",
            "",
        ];
        for stderr in errors {
            assert_eq!(end_from_output(lsn, RECORD, stderr, SEGMENT), Some(Lsn(0x182_E298)), "{stderr}");
        }
        let second = format!(
            "{RECORD}\n{}",
            RECORD.replace("0/0182E220, prev 0/0182E1E8", "0/0182E2A0, prev 0/0182E220")
        );
        assert_eq!(end_from_output(lsn, &second, "", SEGMENT), Some(Lsn(0x182_E2A0)));
        assert_eq!(end_from_output(Lsn(1), RECORD, "", SEGMENT), None);
        assert_eq!(end_from_output(lsn, "", errors[0], SEGMENT), None);
    }

    #[test]
    fn records_across_pages_count_the_headers() {
        assert_eq!(computed_end(Lsn(8192 - 8), 114, SEGMENT), Lsn(8192 + 24 + 112));
        assert_eq!(computed_end(Lsn(SEGMENT - 16), 24, SEGMENT), Lsn(SEGMENT + 40 + 8));
        assert_eq!(computed_end(Lsn(8192 - 120), 114, SEGMENT), Lsn(8192));
    }
}
