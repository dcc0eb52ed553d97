//! Whether this data directory has left the upstream's history, and `pg_rewind` (contract B.20). The state machine is
//! the HA loop's; here are the facts and the run.

mod beginning;

use std::{fmt::Write as _, path::Path, time::Duration};

use ptarmigan_config::options;
use ptarmigan_types::{
    Lsn, Timeline,
    history::{self, Divergence, HistoryEntry, divergence_from_history, divergence_from_timelines},
};

use crate::{
    archive,
    binaries::{self, Tool},
    bootstrap::option_name,
    command::{self, Command},
    connection::{self, Purpose, Session},
    controldata::{ControlData, ControlState},
    crash_recovery, data_directory,
    handle::{ControlDataError, Login, Postgres},
    pgpass, replication,
    upstream::{PasswordFiles, Upstream, without_passwords},
    version::{self, ServerVersion},
    waldump,
};
use beginning::{Beginning, UpstreamWay};

/// In the `backup_label` of a primary in an exclusive backup; `pg_basebackup` and `pg_rewind` name other methods.
const EXCLUSIVE: &[u8] = b"BACKUP METHOD: pg_start_backup";

/// `pg_rewind --help` only prints.
const HELP_DEADLINE: Duration = Duration::from_secs(10);

/// Why a rewind was not tried, or its result is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A PostgreSQL process works in the data directory.
    #[error("data directory is in use by process {0}")]
    InUse(u32),
    /// A program is missing.
    #[error(transparent)]
    Missing(#[from] binaries::Error),
    /// A program could not be run.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// The password file cannot be written.
    #[error(transparent)]
    PasswordFile(#[from] pgpass::Error),
    /// The data directory's version cannot be read.
    #[error(transparent)]
    Version(#[from] version::Error),
    /// The upstream gave no answer.
    #[error(transparent)]
    Sql(#[from] connection::Error),
    /// The upstream's timelines are not known.
    #[error(transparent)]
    Replication(#[from] replication::Error),
    /// The control file is not known.
    #[error(transparent)]
    ControlData(#[from] ControlDataError),
    /// The upstream's history cannot be read.
    #[error(transparent)]
    History(#[from] history::Error),
    /// The blocks of such a copy may be of a history that neither its WAL nor the upstream's tells of.
    #[error("this copy has not replayed the WAL that it needs to be consistent, it cannot be rewound")]
    InconsistentCopy,
    /// The data directory cannot be brought to a clean stop.
    #[error(transparent)]
    CrashRecovery(#[from] crash_recovery::Error),
}

/// Where the local WAL ends (contract RW-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPosition {
    /// The timeline.
    pub timeline: Timeline,
    /// Replayed so far, the minimum recovery end, or the latest checkpoint.
    pub lsn: Lsn,
    /// False after a clean stop as a primary: then the checkpoint record itself lies behind `lsn`.
    pub in_recovery: bool,
}

/// The answer to "must this data directory be rewound?" (contract RW-5 to RW-8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has left the upstream's history.
    Need,
    /// It can follow.
    NotNeed,
    /// It and the upstream began a timeline of the same number without knowing of each other, and at the same position or
    /// as the newest of both: `pg_rewind` takes them for one, and only a new copy can follow.
    SameTimelineTwice,
    /// Not to be told now, and why; ask again later.
    Unknown(String),
}

/// How a rewind ended (contract RW-15, RW-16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The data directory follows the upstream's history.
    Success,
    /// Failed, and another try would fail as well; the reason.
    Failed(String),
    /// Failed because of the upstream; the reason.
    Retry(String),
}

/// What a run of `pg_rewind` left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// How it ended.
    pub outcome: Outcome,
    /// True unless it is known that it ended before it changed anything. Where it failed after that, the data directory is
    /// neither what it was nor what it was to become: no server may run on it.
    pub changed: bool,
}

/// What is known before a run of `pg_rewind`.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The data directory, stopped cleanly.
    pub control: ControlData,
    /// The timeline of the upstream.
    pub upstream_timeline: Timeline,
}

/// The position that the control file of a server tells that does not accept connections (contract RW-5); `None` for
/// a server that did not stop cleanly.
pub fn local_position(control: &ControlData) -> Option<LocalPosition> {
    let checkpoint = LocalPosition {
        timeline: control.checkpoint_timeline,
        lsn: control.checkpoint_lsn,
        in_recovery: false,
    };
    match control.state {
        ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery => {
            let unset = control.min_recovery_end_lsn.is_zero() || control.min_recovery_end_timeline == 0;
            Some(if unset {
                checkpoint
            } else {
                LocalPosition {
                    timeline: control.min_recovery_end_timeline,
                    lsn: control.min_recovery_end_lsn,
                    in_recovery: true,
                }
            })
        }
        ControlState::ShutDown => Some(checkpoint),
        _ => None,
    }
}

/// True for a copy, made by `pg_basebackup` or `pg_rewind`, that has not replayed yet what it needs to be consistent.
pub fn is_inconsistent_copy(data_dir: &Path, control: &ControlData) -> bool {
    let label = std::fs::read(data_dir.join("backup_label")).unwrap_or_default();
    // A primary that crashed in an exclusive backup (before PostgreSQL 15) has a label too.
    let exclusive = label.windows(EXCLUSIVE.len()).any(|bytes| bytes == EXCLUSIVE);
    let not_started_yet = !label.is_empty() && !exclusive;
    not_started_yet || !control.backup_start_lsn.is_zero()
}

/// True where the checkpoint after a promotion is done: the control file knows the running timeline (contract RW-30).
pub fn is_checkpoint_done(running: Timeline, control: &ControlData) -> bool {
    control.checkpoint_timeline == running
}

/// True where `pg_rewind` may be used: configured, installed, and the data directory keeps what it needs
/// (contract RW-1).
pub async fn is_possible(pg: &Postgres) -> bool {
    if !pg.settings().use_pg_rewind {
        return false;
    }
    let Ok(command) = pg.command(Tool::PgRewind) else { return false };
    if command.arg("--help").deadline(HELP_DEADLINE).succeed().await.is_err() {
        return false;
    }
    can_be_rewound(pg).await
}

async fn can_be_rewound(pg: &Postgres) -> bool {
    pg.control_data().await.is_ok_and(|control| control.wal_log_hints || control.data_checksum_version != 0)
}

/// Compares the local history with the upstream's (contract RW-5 to RW-8). That the upstream publishes the role of a
/// primary is for the caller to know; here it is asked by SQL.
pub async fn check(pg: &Postgres, upstream: &Upstream) -> Verdict {
    match compare(pg, upstream).await {
        Ok(verdict) => verdict,
        Err(error) => Verdict::Unknown(error.to_string()),
    }
}

async fn compare(pg: &Postgres, upstream: &Upstream) -> Result<Verdict, Error> {
    let control = pg.control_data().await?;
    let Some(local) = current_position(pg, &control).await? else {
        return Ok(Verdict::Unknown(format!("local server is {:?}", control.state)));
    };
    tracing::info!("Local timeline={} lsn={}", local.timeline, local.lsn);
    let upstream = &upstream.writable_host(pg).await;
    let session = Session::connect(&upstream.conninfo(pg, Login::Rewind), Purpose::Heartbeat).await?;
    if !is_writable(&session).await? {
        return Ok(Verdict::Unknown(format!("{} is in recovery", upstream.name)));
    }
    let info = upstream.conninfo(pg, Login::Replication);
    let mut connection = replication::Connection::connect(&info).await?;
    let identity = connection.identify_system().await?;
    if identity.system_identifier != control.system_identifier {
        let reason = format!("{} has the system identifier {}", upstream.name, identity.system_identifier);
        return Ok(Verdict::Unknown(reason));
    }
    tracing::info!("primary_timeline={}", identity.timeline);
    let mut divergence = divergence_from_timelines(local.timeline, identity.timeline);
    if local.timeline.max(identity.timeline) > 1 {
        let entries = match upstream_history(&mut connection, identity.timeline).await {
            Err(error) if divergence != Divergence::AskHistory => {
                tracing::debug!("how timeline {} began is not known: {error}", identity.timeline);
                return Ok(verdict_without_history(divergence));
            }
            entries => entries?,
        };
        let way = UpstreamWay { entries: &entries, timeline: identity.timeline };
        let began = beginning::compare(pg, &session, &local, control.wal_segment_bytes, way).await;
        let newer = divergence == Divergence::AskHistory;
        if newer {
            divergence = divergence_from_history(&entries, local.timeline, local.lsn, local.in_recovery);
        }
        match began {
            Beginning::NothingToTell => {}
            // pg_rewind reads both histories where there are two timelines to compare.
            Beginning::OtherPlace if newer => divergence = Divergence::Needed,
            Beginning::OtherPlace | Beginning::OtherRecords => {
                tracing::warn!("{} and this server began one timeline independently", upstream.name);
                return Ok(Verdict::SameTimelineTwice);
            }
        }
    }
    Ok(match divergence {
        Divergence::Needed => Verdict::Need,
        Divergence::NotNeeded => Verdict::NotNeed,
        Divergence::AskHistory => Verdict::Unknown("no history".to_owned()),
        Divergence::CheckpointMustEndAt(switchpoint) => {
            checkpoint_ends_at(pg, &local, control.wal_segment_bytes, switchpoint).await
        }
    })
}

/// What is left to say where nobody knows how a timeline began.
const fn verdict_without_history(divergence: Divergence) -> Verdict {
    match divergence {
        Divergence::Needed => Verdict::Need,
        _ => Verdict::NotNeed,
    }
}

async fn upstream_history(
    connection: &mut replication::Connection,
    timeline: Timeline,
) -> Result<Vec<HistoryEntry>, Error> {
    Ok(history::parse_history_file(&connection.timeline_history(timeline).await?)?)
}

/// RW-8: a primary that stopped cleanly follows only where its last record was the last one of the timeline.
async fn checkpoint_ends_at(
    pg: &Postgres,
    local: &LocalPosition,
    segment_bytes: u64,
    switchpoint: Lsn,
) -> Verdict {
    match waldump::end_of_record(pg, local.timeline, local.lsn, segment_bytes).await {
        Ok(end) if end == switchpoint => Verdict::NotNeed,
        Ok(_) => Verdict::Need,
        Err(error) => {
            tracing::warn!("The end of the checkpoint record at {} is not known: {error}", local.lsn);
            Verdict::Need
        }
    }
}

/// RW-5: of a running standby by its own connections, else by the control file.
async fn current_position(pg: &Postgres, control: &ControlData) -> Result<Option<LocalPosition>, Error> {
    let session = match Session::connect(&pg.local_conninfo(Login::Superuser), Purpose::Heartbeat).await {
        Ok(session) => session,
        Err(connection::Error::Refused(_) | connection::Error::Rejecting(_)) => {
            return Ok(local_position(control));
        }
        // A running standby has replayed more than its control file says.
        Err(error) if data_directory::holder(&pg.data_dir()).is_some() => return Err(error.into()),
        Err(_) => return Ok(local_position(control)),
    };
    let rows = session.query_text("SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()").await?;
    let cell = |index: usize| rows.first().and_then(|row| row.get(index)).and_then(Option::as_deref);
    let lsn = cell(1).and_then(|text| text.parse::<Lsn>().ok());
    let (Some("t"), Some(lsn)) = (cell(0), lsn) else { return Ok(None) };
    let mut connection = replication::Connection::connect(&pg.local_conninfo(Login::Replication)).await?;
    let timeline = connection.identify_system().await?.timeline;
    Ok(Some(LocalPosition { timeline, lsn, in_recovery: true }))
}

/// RW-6.
async fn is_primary(pg: &Postgres, upstream: &Upstream) -> Result<bool, Error> {
    let upstream = upstream.writable_host(pg).await;
    is_writable(&Session::connect(&upstream.conninfo(pg, Login::Rewind), Purpose::Heartbeat).await?).await
}

async fn is_writable(session: &Session) -> Result<bool, Error> {
    let rows = session.query_text("SELECT pg_is_in_recovery()").await?;
    Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some("f"))
}

/// Makes sure that the upstream's control file knows its timeline, where it does not publish that (contract RW-12):
/// a CHECKPOINT where we may, else only the question. False: not yet.
///
/// # Errors
/// The upstream gave no answer.
pub async fn ensure_upstream_checkpoint(pg: &Postgres, upstream: &Upstream) -> Result<bool, Error> {
    let upstream = upstream.writable_host(pg).await;
    let session = Session::connect(&upstream.conninfo(pg, Login::Rewind), Purpose::Unlimited).await?;
    let settings = pg.settings();
    if !settings.rewind_configured || settings.rewind.username == settings.superuser.username {
        session.execute("CHECKPOINT").await?;
        return Ok(true);
    }
    let rows = session
        .query_text(
            "SELECT timeline_id = ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int \
             FROM pg_control_checkpoint()",
        )
        .await?;
    Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some("t"))
}

/// Brings the data directory to a clean stop, as `pg_rewind` itself would, and asks the upstream for its timeline.
///
/// # Errors
/// A server runs, the upstream gave no answer, or crash recovery failed.
pub async fn prepare(pg: &Postgres, upstream: &Upstream) -> Result<Prepared, Error> {
    if let Some(pid) = data_directory::holder(&pg.data_dir()) {
        return Err(Error::InUse(pid));
    }
    let upstream = upstream.writable_host(pg).await;
    let info = upstream.conninfo(pg, Login::Replication);
    let identity = replication::Connection::connect(&info).await?.identify_system().await?;
    let mut control = pg.control_data().await?;
    if is_inconsistent_copy(&pg.data_dir(), &control) {
        return Err(Error::InconsistentCopy);
    }
    if !matches!(control.state, ControlState::ShutDown | ControlState::ShutDownInRecovery) {
        crash_recovery::run(pg).await?;
        control = pg.control_data().await?;
    }
    Ok(Prepared { control, upstream_timeline: identity.timeline })
}

/// Rewinds the stopped data directory to the upstream's history (contract RW-11 without the stop, RW-13 to RW-16).
/// Cancelled by dropping, which may leave the data directory unusable.
///
/// # Errors
/// A server runs, or nothing could be tried: the data directory is as before.
pub async fn execute(pg: &Postgres, upstream: &Upstream) -> Result<Rewound, Error> {
    let data_dir = pg.data_dir();
    if let Some(pid) = data_directory::holder(&data_dir) {
        return Err(Error::InUse(pid));
    }
    if let Err(error) = archive::archive_ready(pg).await {
        tracing::error!("Could not archive before pg_rewind: {error}");
    }
    let Some(failure) = run(pg, upstream).await? else {
        tracing::info!("pg_rewind from {} succeeded", upstream.name);
        return Ok(Rewound { outcome: Outcome::Success, changed: true });
    };
    let Failure { reason, changed } = failure;
    tracing::error!("Failed to rewind from {}: {reason}", upstream.name);
    let again = !is_primary(pg, upstream).await.unwrap_or(false) && can_be_rewound(pg).await;
    let outcome = if again { Outcome::Retry(reason) } else { Outcome::Failed(reason) };
    Ok(Rewound { outcome, changed })
}

/// Why `pg_rewind` failed.
#[derive(Debug)]
struct Failure {
    reason: String,
    changed: bool,
}

impl Failure {
    fn of(output: &command::Output) -> Self {
        let (stdout, stderr) = (output.stdout_text(), output.stderr_text());
        let changed = may_have_changed(&stdout) || may_have_changed(&stderr);
        let told: Vec<_> = stderr.lines().filter(|line| !is_progress(line)).collect();
        Self { reason: told.join("\n"), changed }
    }
}

/// With `--progress` every version tells how much there is to copy, and begins to change the target after that.
fn may_have_changed(printed: &str) -> bool {
    printed.contains("need to copy") || printed.lines().any(is_progress)
}

/// " 1024/40960 kB (2%) copied".
fn is_progress(line: &str) -> bool {
    line.contains(" kB (") && line.trim_end().ends_with("%) copied")
}

/// Runs `pg_rewind`, fetching missing WAL between tries (contract RW-14); `Some` is the reason of the failure.
async fn run(pg: &Postgres, upstream: &Upstream) -> Result<Option<Failure>, Error> {
    let settings = pg.settings();
    let version = pg.version()?;
    let restore_command =
        archive::setting_of_stopped_server(pg, "restore_command").await.unwrap_or_else(|error| {
            tracing::warn!("restore_command is not known: {error}");
            String::new()
        });
    let same_folder = settings.config_dir == settings.data_dir;
    let native = !restore_command.is_empty() && restores_natively(version, same_folder);
    let mut arguments = Vec::new();
    if native {
        arguments.push("--restore-target-wal".to_owned());
        if !same_folder {
            let file = settings.config_dir.join(format!("{}.conf", settings.config_base_name));
            arguments.push(format!("--config-file={}", file.display()));
        }
    }
    let info = upstream.conninfo(pg, Login::Rewind).with("target_session_attrs", "read-write");
    let files = PasswordFiles::write(pg, "rewind", &info)?;
    let dsn = without_passwords(info).text(version);
    let mut fetched = None;
    loop {
        let command = files.apply(rewind_command(pg, &arguments, &dsn)?);
        let output = command.output().await?;
        if output.status.success() {
            return Ok(None);
        }
        let mut failure = Failure::of(&output);
        let missing = missing_segment(&failure.reason).filter(|_| !native && !restore_command.is_empty());
        match missing {
            Some(segment) if fetched.as_ref() != Some(&segment) && !failure.changed => {
                if let Err(error) = archive::restore(&settings.data_dir, &restore_command, &segment).await {
                    let _ = write!(failure.reason, "; {segment} could not be restored: {error}");
                    return Ok(Some(failure));
                }
                fetched = Some(segment);
            }
            _ => return Ok(Some(failure)),
        }
    }
}

fn rewind_command(pg: &Postgres, arguments: &[String], dsn: &str) -> Result<Command, Error> {
    let settings = pg.settings();
    let (wanted, warnings) =
        options::user_options("postgresql.rewind", &settings.rewind_options, options::NOT_FOR_REWIND);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let wanted = wanted.into_iter().filter(|argument| {
        let allowed = !options::NOT_FOR_REWIND.contains(&option_name(argument));
        if !allowed {
            tracing::warn!("postgresql.rewind: {argument} is not possible; ignored");
        }
        allowed
    });
    Ok(pg
        .command(Tool::PgRewind)?
        .args(arguments)
        .arg("--progress")
        .arg("-D")
        .arg(&settings.data_dir)
        .arg("--source-server")
        .arg(dsn)
        .args(wanted)
        .env("PGOPTIONS", "-c statement_timeout=0"))
}

/// The WAL segment that `pg_rewind` could not open.
fn missing_segment(stderr: &str) -> Option<String> {
    stderr.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once("could not open file \"")?;
        let (path, _) = rest.split_once('"')?;
        let name = Path::new(path).file_name()?.to_str()?;
        let is_segment = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_segment.then(|| name.to_owned())
    })
}

/// True where `pg_rewind` of this version can fetch missing WAL itself (contract RW-13).
const fn restores_natively(version: ServerVersion, config_in_data_dir: bool) -> bool {
    version.at_least(15) || (version.at_least(13) && config_in_data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = include_str!("../testdata/pg_controldata_15.txt");

    fn control(state: ControlState, end: u64, timeline: Timeline) -> ControlData {
        let mut control = ControlData::parse(PRINTED).unwrap();
        control.state = state;
        control.min_recovery_end_lsn = Lsn(end);
        control.min_recovery_end_timeline = timeline;
        control.checkpoint_lsn = Lsn(100);
        control.checkpoint_timeline = 7;
        control
    }

    #[test]
    fn rw_5_position_from_the_control_file() {
        let checkpoint = Some(LocalPosition { timeline: 7, lsn: Lsn(100), in_recovery: false });
        let recovery = Some(LocalPosition { timeline: 8, lsn: Lsn(200), in_recovery: true });
        for (state, end, timeline, expected) in [
            (ControlState::ShutDown, 200, 8, checkpoint),
            (ControlState::ShutDownInRecovery, 200, 8, recovery),
            (ControlState::InArchiveRecovery, 200, 8, recovery),
            (ControlState::InArchiveRecovery, 0, 8, checkpoint),
            (ControlState::ShutDownInRecovery, 200, 0, checkpoint),
            (ControlState::InProduction, 200, 8, None),
            (ControlState::InCrashRecovery, 200, 8, None),
            (ControlState::ShuttingDown, 200, 8, None),
        ] {
            assert_eq!(
                local_position(&control(state, end, timeline)),
                expected,
                "{state:?} {end} {timeline}"
            );
        }
    }

    #[test]
    fn rw_7_timelines_decide_first() {
        assert_eq!(divergence_from_timelines(3, 2), Divergence::Needed);
        assert_eq!(divergence_from_timelines(2, 2), Divergence::NotNeeded);
        assert_eq!(divergence_from_timelines(1, 2), Divergence::AskHistory);
    }

    #[test]
    fn rw_8_history_decides() {
        let entries = history::parse_history_file("1\t0/64\tx\n2\t0/C8\tx\n4\t0/12C\tx\n").unwrap();
        for (timeline, lsn, in_recovery, expected) in [
            (1, 100, true, Divergence::NotNeeded),
            (1, 101, true, Divergence::Needed),
            (2, 150, true, Divergence::NotNeeded),
            (1, 100, false, Divergence::Needed),
            (1, 99, false, Divergence::CheckpointMustEndAt(Lsn(100))),
            (3, 0, true, Divergence::Needed),
            (5, 0, true, Divergence::Needed),
        ] {
            let found = divergence_from_history(&entries, timeline, Lsn(lsn), in_recovery);
            assert_eq!(found, expected, "{timeline} {lsn} {in_recovery}");
        }
    }

    #[test]
    fn rw_10_what_is_a_copy_that_is_not_consistent() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let is = |state, start| {
            let control = ControlData { backup_start_lsn: Lsn(start), ..control(state, 0, 0) };
            is_inconsistent_copy(data, &control)
        };
        assert!(!is(ControlState::InArchiveRecovery, 0) && !is(ControlState::InProduction, 0));
        assert!(is(ControlState::InArchiveRecovery, 9) && is(ControlState::ShutDownInRecovery, 9));
        for (method, copy) in [("pg_rewind", true), ("streamed", true), ("pg_start_backup", false)] {
            let label =
                format!("CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: {method}\nBACKUP FROM: primary\n");
            std::fs::write(data.join("backup_label"), label).unwrap();
            assert_eq!(is(ControlState::InProduction, 0), copy, "{method}");
        }
    }

    #[test]
    fn rw_16_whether_a_failed_rewind_has_changed_anything() {
        let before = "pg_rewind: servers diverged at WAL location 0/405C180 on timeline 5\n\
                      pg_rewind: rewinding from last common checkpoint at 0/404D758 on timeline 5\n\
                      pg_rewind: reading source file list\npg_rewind: reading target file list\n\
                      pg_rewind: reading WAL in target\n\
                      pg_rewind: error: could not find previous WAL record at 0/404D758";
        assert!(!may_have_changed(before));
        let copies = "pg_rewind: need to copy 67 MB (total source directory size is 95 MB)";
        assert!(may_have_changed(copies));
        assert!(may_have_changed("   34816/69020 kB (50%) copied\npg_rewind: error: server closed"));
        assert!(!is_progress("pg_rewind: error: could not write 34816 kB"));
    }

    #[test]
    fn rw_14_the_missing_segment_is_named() {
        let stderr = "pg_rewind: servers diverged at WAL location 0/3000060 on timeline 1\n\
                      pg_rewind: error: could not open file \"/data/pg_wal/000000010000000000000002\": No such file or directory\n\
                      pg_rewind: error: could not find previous WAL record at 0/2FFFF28";
        assert_eq!(missing_segment(stderr).as_deref(), Some("000000010000000000000002"));
        assert_eq!(missing_segment("could not open file \"/data/global/pg_control\": x"), None);
    }

    #[test]
    fn rw_30_checkpoint_is_done_when_the_control_file_knows_the_timeline() {
        let control = control(ControlState::InProduction, 0, 0);
        assert!(is_checkpoint_done(7, &control) && !is_checkpoint_done(8, &control));
    }
}
