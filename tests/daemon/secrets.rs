//! Passwords are in no command line, no log, and no file that others can read.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::site::Site;

/// WAL and tables, which nobody else may read, are not searched.
const PRIVATE_BYTES_MAX: u64 = 100_000;

/// Every command line that the machine saw meanwhile.
pub(crate) struct CommandLines {
    seen: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CommandLines {
    pub(crate) fn watch() -> Self {
        let (seen, stopping) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
        let (lines, stop) = (Arc::clone(&seen), Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                look(&mut lines.lock().unwrap());
                std::thread::park_timeout(Duration::from_millis(10));
            }
        });
        Self { seen, stopping, thread: Some(thread) }
    }

    pub(crate) fn finish(mut self) -> BTreeSet<Vec<u8>> {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for CommandLines {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

fn look(lines: &mut BTreeSet<Vec<u8>>) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(|first: char| first.is_ascii_digit())
            && let Ok(line) = fs::read(entry.path().join("cmdline"))
        {
            lines.insert(line);
        }
    }
}

/// After a cluster has bootstrapped, cloned and rewound.
pub(crate) fn assert_kept(site: &Site, command_lines: &BTreeSet<Vec<u8>>) {
    let credentials = &site.cluster.credentials;
    let secrets = [&credentials.superuser, &credentials.replication, &credentials.rewind];
    let holds = |bytes: &[u8]| {
        secrets.iter().any(|secret| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()))
    };
    for program in ["initdb", "pg_basebackup", "pg_rewind"] {
        let ran = command_lines.iter().any(|line| String::from_utf8_lossy(line).contains(program));
        assert!(ran, "{program} was not seen");
    }
    for line in command_lines {
        assert!(!holds(line), "a password in a command line: {}", String::from_utf8_lossy(line));
    }
    let mut scan = Scan { holds: &holds, programs: site.binaries.dir(), logs: 0, holders: 0 };
    scan.folder(site.workspace.path());
    assert!(
        scan.logs >= 3 && scan.holders >= 3,
        "{} logs and {} files with a password",
        scan.logs,
        scan.holders
    );
}

struct Scan<'a> {
    holds: &'a dyn Fn(&[u8]) -> bool,
    /// Our own programs, which are linked there.
    programs: &'a Path,
    logs: usize,
    holders: usize,
}

impl Scan<'_> {
    fn folder(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && entry.path() != self.programs {
                self.folder(&entry.path());
            } else if kind.is_file() {
                self.file(&entry.path());
            }
        }
    }

    fn file(&mut self, path: &Path) {
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        self.logs += usize::from(is_log);
        // files come and go under a running server
        let Ok(facts) = fs::metadata(path) else { return };
        let mode = facts.permissions().mode() & 0o777;
        let is_private = mode & 0o077 == 0;
        if is_private && !is_log && facts.len() > PRIVATE_BYTES_MAX {
            return;
        }
        let Ok(content) = fs::read(path) else { return };
        if !(self.holds)(&content) {
            return;
        }
        self.holders += 1;
        assert!(!is_log, "a password in {}", path.display());
        assert_eq!(mode & 0o077, 0, "a password in {}, mode {mode:o}", path.display());
    }
}
