//! The processes of a data directory that are no children of ours.

use std::path::{Path, PathBuf};

use ptarmigan_types::Monotonic;

use crate::{RawPid, process};

/// The postmaster that `postmaster.pid` names, where it lives and works in the data directory. A server in single-user mode writes
/// a negative number there and is none.
pub(super) fn owner(data_dir: &Path) -> Option<RawPid> {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let pid: RawPid = text.lines().next()?.trim().parse().ok().filter(|&pid| pid > 0)?;
    works_in(pid, data_dir).then_some(pid)
}

/// Whether a server that is started there becomes a standby, or recovers from an archive.
pub(super) fn is_standby(data_dir: &Path) -> bool {
    ["standby.signal", "recovery.signal"].iter().any(|name| data_dir.join(name).exists())
}

/// Whether a living process has the data directory as its working directory.
pub(super) fn works_in(pid: RawPid, data_dir: &Path) -> bool {
    canonical(data_dir).is_some_and(|path| process::cwd(pid).is_ok_and(|cwd| cwd == path))
        && process::is_alive(pid)
}

/// What a postmaster that ended by that time has left: PostgreSQL's processes in the data directory, except those of a
/// postmaster that somebody has started there since.
pub(super) fn orphans(data_dir: &Path, ended: Monotonic) -> Vec<RawPid> {
    let Some(path) = canonical(data_dir) else { return Vec::new() };
    let owner = owner(data_dir);
    let micros_per_tick = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let is_orphan = |&pid: &RawPid| {
        let Ok(stat) = process::stat(pid) else { return false };
        let is_owners = owner.is_some_and(|owner| pid == owner || stat.parent_pid == owner);
        !is_owners && stat.start_time_ticks * micros_per_tick <= ended.0
    };
    process::of_postgresql_in(&path).into_iter().filter(is_orphan).collect()
}

fn canonical(data_dir: &Path) -> Option<PathBuf> {
    data_dir.canonicalize().ok()
}
