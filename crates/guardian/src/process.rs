//! Facts about processes, from `/proc`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::RawPid;

/// The part of `/proc/<pid>/stat` that is of use here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The process's name as it set it: any bytes, blanks and parentheses too.
    pub comm: OsString,
    /// `R`, `S`, `D`, `T`, `Z` (exited, not yet waited for), `X`, ...
    pub state: char,
    /// The parent.
    pub parent_pid: RawPid,
    /// Start time in clock ticks since boot.
    pub start_time_ticks: u64,
}

impl Stat {
    /// Whether it has not exited.
    pub const fn lives(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// Reads `/proc/<pid>/stat`.
///
/// # Errors
/// `NotFound` where no such process exists; `InvalidData` where the kernel's line is not understood.
pub fn stat(pid: RawPid) -> io::Result<Stat> {
    let line = fs::read(format!("/proc/{pid}/stat")).map_err(gone_is_not_found)?;
    parse_stat(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat")))
}

/// `comm` may hold anything, so the fields are counted from the last `)`.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|&byte| byte == b'(')?;
    let close = line.iter().rposition(|&byte| byte == b')')?;
    let comm = OsString::from_vec(line.get(open + 1..close)?.to_vec());
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent_pid = fields.next()?.parse().ok()?;
    // state is field 3, ppid 4, starttime 22.
    let start_time_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat { comm, state, parent_pid, start_time_ticks })
}

/// A process that vanishes while its files are read gives ESRCH.
fn gone_is_not_found(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::ESRCH) { io::ErrorKind::NotFound.into() } else { error }
}

/// Start time in clock ticks since boot; with the pid, it names a process for ever.
///
/// # Errors
/// As [`stat`].
pub fn start_time_ticks(pid: RawPid) -> io::Result<u64> {
    stat(pid).map(|stat| stat.start_time_ticks)
}

/// When a process with that start time started, since the epoch.
///
/// The kernel gives the time of boot in whole seconds, so two processes compare exactly and a process and a file
/// to about a second (contract B.26 allows 3).
///
/// # Errors
/// Where `/proc/stat` cannot be read or has no `btime`.
pub fn start_time_epoch(start_time_ticks: u64) -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let boot_seconds: u64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/stat: no btime"))?;
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    let micros = u128::from(start_time_ticks) * 1_000_000 / u128::from(ticks_per_second);
    Ok(Duration::from_secs(boot_seconds) + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
}

/// Whether the process exists and has not exited. False for one that exited and was not yet waited for.
pub fn is_alive(pid: RawPid) -> bool {
    stat(pid).is_ok_and(|stat| stat.lives())
}

/// A descriptor of a living process, which never comes to mean another one of the same pid, and the process's start time in
/// clock ticks since boot.
///
/// # Errors
/// `NotFound` where it does not live; `Unsupported` on a kernel before 5.3.
pub fn descriptor(pid: RawPid) -> io::Result<(OwnedFd, u64)> {
    let raw = Some(pid).filter(|&pid| pid > 0).and_then(Pid::from_raw);
    let raw = raw.ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK).map_err(|errno| match errno {
        rustix::io::Errno::SRCH => io::ErrorKind::NotFound.into(),
        rustix::io::Errno::NOSYS => io::ErrorKind::Unsupported.into(),
        other => io::Error::from(other),
    })?;
    // Read after the pidfd was opened: if it had become another process's meanwhile, the pidfd would be that
    // one's too, or the entry would be gone.
    Ok((pidfd, start_time_ticks(pid)?))
}

/// Whether the process of a [`descriptor`] has not exited, as [`is_alive`], at the price of one system call.
pub fn lives(descriptor: BorrowedFd<'_>) -> bool {
    !state_of(descriptor, PollFlags::IN).contains(PollFlags::IN)
}

/// What can be said of a descriptor at this moment, without waiting; nothing where that is not known.
pub(crate) fn state_of(fd: BorrowedFd<'_>, wanted: PollFlags) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd, wanted)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).map_or(PollFlags::empty(), |_| fds[0].revents())
}

/// The file name of the program it runs, also where that file has been deleted since (a package upgrade).
///
/// # Errors
/// `NotFound` where no such process exists; `PermissionDenied` where it is another user's.
pub fn exe_name(pid: RawPid) -> io::Result<OsString> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).map_err(gone_is_not_found)?;
    let name = path.file_name().unwrap_or_default().as_bytes();
    Ok(OsString::from_vec(name.strip_suffix(b" (deleted)").unwrap_or(name).to_vec()))
}

/// Its working directory. A postmaster's and its children's is the data directory.
///
/// # Errors
/// As [`exe_name`].
pub fn cwd(pid: RawPid) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).map_err(gone_is_not_found)
}

/// The children of a process, zombies included. Children that come or go meanwhile may or may not be in it.
///
/// # Errors
/// `NotFound` where no such process exists.
pub fn children(pid: RawPid) -> io::Result<Vec<RawPid>> {
    match children_of_tasks(pid) {
        // A kernel without CONFIG_PROC_CHILDREN.
        Err(error) if error.kind() == io::ErrorKind::NotFound && stat(pid).is_ok() => {
            Ok(children_by_scan(pid))
        }
        answer => answer,
    }
}

fn children_of_tasks(pid: RawPid) -> io::Result<Vec<RawPid>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(gone_is_not_found)? {
        let text = fs::read_to_string(task?.path().join("children")).map_err(gone_is_not_found)?;
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<RawPid>().ok()));
    }
    Ok(children)
}

fn children_by_scan(pid: RawPid) -> Vec<RawPid> {
    all().into_iter().filter(|&child| stat(child).is_ok_and(|stat| stat.parent_pid == pid)).collect()
}

/// Every process there is, in ascending order; empty where `/proc` cannot be read.
pub fn all() -> Vec<RawPid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<RawPid> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The living processes whose working directory is `dir` (a canonical path): with a data directory, every process
/// of the PostgreSQL that runs in it. Processes of other users are seen by root only.
pub fn with_cwd(dir: &Path) -> Vec<RawPid> {
    all().into_iter().filter(|&pid| cwd(pid).is_ok_and(|cwd| cwd == dir) && is_alive(pid)).collect()
}

/// The living processes of PostgreSQL's program that work in `dir` (a canonical path).
pub fn of_postgresql_in(dir: &Path) -> Vec<RawPid> {
    let is_postgres =
        |pid: &RawPid| exe_name(*pid).is_ok_and(|name| name.to_string_lossy().starts_with("postgres"));
    with_cwd(dir).into_iter().filter(is_postgres).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn stat_survives_any_name() {
        let mut fields = vec!["S", "4", "5"];
        fields.resize(19, "0");
        fields.extend(["123456", "7"]);
        let line = format!("42 (a) S 9 (b)) {}\n", fields.join(" "));
        let stat = parse_stat(line.as_bytes()).expect("the line is understood");
        assert_eq!(stat.comm, "a) S 9 (b)");
        assert_eq!((stat.state, stat.parent_pid, stat.start_time_ticks), ('S', 4, 123_456));
        assert_eq!(parse_stat(b"42 (a S 4"), None);
    }

    #[test]
    fn own_facts_are_right() {
        let own = RawPid::try_from(std::process::id()).unwrap();
        assert!(is_alive(own));
        assert_eq!(cwd(own).unwrap(), std::env::current_dir().unwrap());
        assert_eq!(exe_name(own).unwrap(), std::env::current_exe().unwrap().file_name().unwrap());
        assert!(with_cwd(&std::env::current_dir().unwrap()).contains(&own));
        let parent = stat(own).unwrap().parent_pid;
        assert!(children(parent).unwrap().contains(&own));
        assert!(children_by_scan(parent).contains(&own));
        assert_eq!(stat(RawPid::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(children(RawPid::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[expect(clippy::disallowed_methods, reason = "a child that ends when it is told to")]
    #[test]
    fn a_descriptor_tells_when_its_process_has_exited_and_before_it_is_waited_for() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = RawPid::try_from(child.id()).unwrap();
        let (process, start) = descriptor(pid).unwrap();
        assert_eq!(start, start_time_ticks(pid).unwrap());
        assert!(lives(process.as_fd()));
        drop(child.stdin.take());
        let limit = ptarmigan_clock::now() + Duration::from_secs(10);
        while lives(process.as_fd()) {
            assert!(ptarmigan_clock::now() < limit, "it does not end");
            std::thread::yield_now();
        }
        assert_eq!((stat(pid).unwrap().state, is_alive(pid)), ('Z', false));
        child.wait().unwrap();
        assert!(!lives(process.as_fd()));
        assert_eq!(descriptor(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(descriptor(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn b_26_start_time_compares_with_the_clock_within_3_seconds() {
        let own = RawPid::try_from(std::process::id()).unwrap();
        let started = start_time_epoch(start_time_ticks(own).unwrap()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the start time is wall time")]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!(started <= now + Duration::from_secs(3), "{started:?} {now:?}");
        assert!(now <= started + Duration::from_secs(600), "{started:?} {now:?}");
    }
}
