//! A place for one test: a user that PostgreSQL accepts, a data directory, a run folder, and whatever the test
//! starts there, ended with it.

// setuid has no wrapper that changes all threads. Not every test program uses every helper.
// Helpers of tests unwrap as tests do.
#![allow(unsafe_code, dead_code, clippy::unwrap_used)]

pub(crate) mod server;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use ptarmigan_clock::now;
use ptarmigan_guardian::protocol::{OsText, StartRequest};
use ptarmigan_guardian::{Guardian, Options, RawPid, process};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The programs a test may start, opened before we become a user who could not reach them in root's folders.
struct Programs {
    guardian: Mutex<File>,
    own: Mutex<File>,
}

static PROGRAMS: OnceLock<Programs> = OnceLock::new();

fn programs() -> &'static Programs {
    PROGRAMS.get_or_init(|| {
        let open = |path: &Path| Mutex::new(File::open(path).unwrap());
        let guardian = open(Path::new(env!("CARGO_BIN_EXE_ptarmigan-guardian")));
        let own = open(&std::env::current_exe().unwrap());
        if rustix::process::geteuid().is_root() {
            become_postgres();
        }
        Programs { guardian, own }
    })
}

/// PostgreSQL refuses root, and the guardian's folder must be its own user's.
fn become_postgres() {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("there is a user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    let (uid, gid) = (fields[2].parse().unwrap(), fields[3].parse().unwrap());
    // SAFETY: these take numbers; glibc applies them to every thread.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(gid, gid, gid), 0);
        assert_eq!(libc::setresuid(uid, uid, uid), 0);
    }
}

pub(crate) struct Site {
    temp: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let programs = programs();
        let temp = tempfile::Builder::new().prefix("guardian-test-").tempdir_in("/tmp").unwrap();
        let site = Self { temp };
        fs::create_dir(site.data()).unwrap();
        copy(&programs.guardian, &site.program());
        site
    }

    /// A test's own place, seen from another process of it.
    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        data_in(self.path())
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.path().join("ptarmigan-guardian")
    }

    /// This test program, where our user may run it.
    pub(crate) fn own_program(&self) -> PathBuf {
        let path = self.path().join("test-program");
        copy(&programs().own, &path);
        path
    }

    pub(crate) fn options(&self) -> Options {
        options_in(self.path())
    }

    pub(crate) async fn guardian(&self) -> Guardian {
        Guardian::connect_or_spawn(&self.options()).await.unwrap()
    }

    /// `sh -c script` in the data directory.
    pub(crate) fn sh(&self, script: &str) -> StartRequest {
        sh_in(self.path(), script)
    }

    fn guardian_pids(&self) -> Vec<RawPid> {
        let Ok(folders) = fs::read_dir(self.path().join("run")) else { return Vec::new() };
        folders
            .flatten()
            .filter_map(|folder| {
                fs::read_to_string(folder.path().join("guardian.lock")).ok()?.trim().parse().ok()
            })
            .filter(|&pid| process::exe_name(pid).is_ok_and(|name| name == "ptarmigan-guardian"))
            .collect()
    }
}

pub(crate) fn data_in(site: &Path) -> PathBuf {
    site.join("data")
}

pub(crate) fn options_in(site: &Path) -> Options {
    let mut options = Options::new(data_in(site));
    options.run_dir = Some(site.join("run"));
    options.program = Some(site.join("ptarmigan-guardian"));
    options.timeout = DEADLINE;
    options
}

pub(crate) fn sh_in(site: &Path, script: &str) -> StartRequest {
    StartRequest {
        argv: ["/bin/sh", "-c", script].map(OsText::from).into(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: data_in(site).into(),
        umask: 0o077,
        ..StartRequest::default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for guardian in self.guardian_pids() {
            for child in process::children(guardian).unwrap_or_default() {
                kill(child, Signal::KILL);
            }
            block_until(|| process::children(guardian).unwrap_or_default().is_empty());
            kill(guardian, Signal::KILL);
            block_until(|| !process::is_alive(guardian));
        }
        // What a killed guardian has left.
        while let Some(&orphan) = process::with_cwd(&self.data()).first() {
            kill(orphan, Signal::KILL);
            block_until(|| !process::is_alive(orphan));
        }
    }
}

/// By another process: a file that is open for writing here would be so in whatever another test forks meanwhile, and could not
/// be executed then.
fn copy(from: &Mutex<File>, to: &Path) {
    let mut from = from.lock().unwrap();
    from.seek(SeekFrom::Start(0)).unwrap();
    let script = "cat > \"$0\" && chmod 755 \"$0\"";
    #[expect(clippy::disallowed_methods, reason = "what a test copies, it waits for")]
    let mut command = std::process::Command::new("/bin/sh");
    let status = command.args(["-c", script]).arg(to).stdin(from.try_clone().unwrap()).status().unwrap();
    assert!(status.success(), "{status}");
}

pub(crate) fn kill(pid: RawPid, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// For a destructor, which cannot await and must not panic.
fn block_until(condition: impl Fn() -> bool) {
    let started = now();
    while !condition() && now().since(started) < DEADLINE {
        rustix::thread::sched_yield();
    }
}

/// Waits until a condition holds, or fails the test.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = now();
    while !condition() {
        assert!(now().since(started) < DEADLINE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for something that must come, or fails the test.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain: {what}"),
    }
}
