//! The environment that the server is started with (contract B.26).

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use ptarmigan_guardian::{RawPid, process};

use super::pid_file::PidFile;

/// Nothing whose name starts so is the server's business, and some of it is secret.
const REMOVED_PREFIXES: &[&str] = &["PATRONI_", "KUBERNETES_", "PTARMIGAN_"];

/// Variables of systemd that are meant for us alone.
const REMOVED: &[&str] =
    &["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// What tells the server that `postmaster.pid` is a leftover although there is a process of that pid.
pub const STALE_PID: &str = "PG_GRANDPARENT_PID";

/// The process that `postmaster.pid` names, where there is one. A dead one counts that nobody has taken note of yet, an
/// orphan's in a container whose first process reaps late or never: to the server it looks alive.
///
/// Only for a data directory in which nothing runs.
pub fn stale_pid(data_dir: &Path) -> Option<RawPid> {
    PidFile::read(data_dir).ok().map(|file| file.pid.abs()).filter(|&pid| process::stat(pid).is_ok())
}

/// Our environment without what is not the server's business. `stale_pid` is the process that `postmaster.pid` names
/// without being our postmaster: the server then knows that the file is a leftover.
pub fn of_server(
    ours: impl IntoIterator<Item = (OsString, OsString)>,
    stale_pid: Option<RawPid>,
    krbsrvname: Option<&str>,
) -> Vec<(OsString, OsString)> {
    let mut arenas = None;
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    for (key, value) in ours {
        if key == "PG_MALLOC_ARENA_MAX" {
            arenas = Some(value.clone());
        }
        if !is_removed(&key) {
            env.push((key, value));
        }
    }
    let set = [
        ("MALLOC_ARENA_MAX", arenas),
        (STALE_PID, stale_pid.map(|pid| pid.to_string().into())),
        ("PGKRBSRVNAME", krbsrvname.map(OsString::from)),
    ];
    for (key, value) in set {
        if let Some(value) = value {
            env.retain(|(other, _)| other != key);
            env.push((key.into(), value));
        }
    }
    env
}

fn is_removed(key: &OsStr) -> bool {
    let key = key.to_string_lossy();
    REMOVED.contains(&key.as_ref()) || REMOVED_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(key, value)| (OsString::from(key), OsString::from(value))).collect()
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a child that nobody waits for is what is tested")]
    fn a_dead_postmaster_that_nobody_has_reaped_is_a_leftover() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(stale_pid(dir.path()), None);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = RawPid::try_from(child.id()).unwrap();
        std::fs::write(dir.path().join("postmaster.pid"), format!("{pid}\n/data\n1000\n5432\n\n\n")).unwrap();
        while process::is_alive(pid) {
            std::thread::yield_now();
        }
        assert_eq!(stale_pid(dir.path()), Some(pid));
        child.wait().unwrap();
        assert_eq!(stale_pid(dir.path()), None);
    }

    #[test]
    fn b_26_start_env() {
        let ours = pairs(&[
            ("PATH", "/bin"),
            ("NOTIFY_SOCKET", "/run/x"),
            ("PATRONI_SUPERUSER_PASSWORD", "secret"),
            ("KUBERNETES_PORT", "1"),
            ("PTARMIGAN_GUARDIAN", "/g"),
            ("MALLOC_ARENA_MAX", "8"),
            ("PG_MALLOC_ARENA_MAX", "1"),
        ]);
        let expected = pairs(&[
            ("PATH", "/bin"),
            ("PG_MALLOC_ARENA_MAX", "1"),
            ("MALLOC_ARENA_MAX", "1"),
            ("PG_GRANDPARENT_PID", "42"),
            ("PGKRBSRVNAME", "pg"),
        ]);
        assert_eq!(of_server(ours, Some(42), Some("pg")), expected);
        assert_eq!(of_server(pairs(&[("A", "b")]), None, None), pairs(&[("A", "b")]));
    }
}
