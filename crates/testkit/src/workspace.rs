//! The temporary folder in which everything lives, and who runs the servers in it.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process;

/// A user of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A temporary folder with all its processes. Clones share it; the last one to go cleans up.
#[derive(Clone, Debug)]
pub struct Workspace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: Option<TempDir>,
    path: PathBuf,
    account: Option<Account>,
    keep: Mutex<bool>,
    released: AtomicBool,
    janitor: Child,
}

impl Workspace {
    /// Makes `<temporary folder>/ptarmigan-<name>-<random>`.
    ///
    /// # Errors
    /// The folder cannot be made; or we are root and there is no user `postgres`.
    pub fn new(name: &str) -> Result<Self> {
        let account = if rustix::process::geteuid().is_root() { Some(postgres_account()?) } else { None };
        let dir = tempfile::Builder::new().prefix(&format!("ptarmigan-{name}-")).tempdir()?;
        let path = dir.path().canonicalize()?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        if let Some(account) = &account {
            chown(&path, Some(account.uid), Some(account.gid))?;
        }
        let janitor = start_janitor(&path)?;
        let inner = Inner {
            dir: Some(dir),
            path,
            account,
            keep: Mutex::new(false),
            released: AtomicBool::new(false),
            janitor,
        };
        let workspace = Self { inner: Arc::new(inner) };
        workspace.folder("log")?;
        Ok(workspace)
    }

    /// Leaves the folder in place when the workspace goes. The processes end all the same.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn keep(&self) -> Result<()> {
        fs::write(self.path().join(".keep"), "")?;
        *self.inner.keep.lock().expect("invariant: nothing panics while it holds this lock") = true;
        Ok(())
    }

    /// Leaves the folder and its processes to others: nothing is cleaned up any more, not even at our death. What
    /// holds processes, such as a [`crate::Cluster`], must be forgotten, because it still kills them when dropped.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn release(&self) -> Result<()> {
        self.keep()?;
        self.inner.released.store(true, Ordering::Relaxed);
        let mut janitor =
            self.inner.janitor.stdin.as_ref().context("invariant: the janitor's pipe is open")?;
        janitor.write_all(b"done\n").context("the janitor is gone")
    }

    /// The folder, free of symbolic links.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The user that runs the servers where it is not us: `postgres`, when we are root.
    pub fn account(&self) -> Option<&Account> {
        self.inner.account.as_ref()
    }

    /// Makes a folder inside, owned by whoever runs the servers, mode 0700.
    ///
    /// # Errors
    /// The file system's.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("folder {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        self.own(&path)?;
        Ok(path)
    }

    /// Writes a file that only whoever runs the servers can read (mode 0600): it may hold passwords.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &Path, content: &str) -> Result<()> {
        let context = || format!("file {}", path.display());
        fs::write(path, "").with_context(context)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(context)?;
        fs::write(path, content).with_context(context)?;
        self.own(path)
    }

    /// Gives a file or folder to whoever runs the servers.
    ///
    /// # Errors
    /// The file system's.
    pub fn own(&self, path: &Path) -> Result<()> {
        if let Some(account) = self.account() {
            chown(path, Some(account.uid), Some(account.gid))
                .with_context(|| format!("cannot give {} to {}", path.display(), account.name))?;
        }
        Ok(())
    }

    /// The log file of a process.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.path().join("log").join(format!("{name}.log"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.released.load(Ordering::Relaxed) {
            let _ = self.dir.take().map(TempDir::keep);
            let _ = self.janitor.wait();
            return;
        }
        // processes that fork while they are looked for turn up in the next round
        let mut rounds = 0;
        while process::signal_all(&self.path, Signal::KILL) > 0 && rounds < 200 {
            rounds += 1;
            pause(Duration::from_millis(10));
        }
        if *self.keep.lock().expect("invariant: nothing panics while it holds this lock") {
            let _ = self.dir.take().map(TempDir::keep);
        }
        drop(self.dir.take());
        if let Some(mut pipe) = self.janitor.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.janitor.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "a drop cannot await, and nothing else is left to run")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A shell that waits for our end, however it comes: a test that is killed leaves no server behind.
fn start_janitor(dir: &Path) -> Result<Child> {
    process::bare_command("sh")
        .args(["-c", include_str!("janitor.sh"), "ptarmigan-janitor"])
        .arg(dir)
        .current_dir("/")
        .env_remove(process::MARK)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start sh")
}

fn postgres_account() -> Result<Account> {
    let users = fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    account_in(&users, "postgres").context(
        "as root the servers run as the user `postgres`, and there is none: install PostgreSQL first",
    )
}

fn account_in(users: &str, name: &str) -> Option<Account> {
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    let fields: Vec<&str> = line.split(':').collect();
    Some(Account {
        name: name.to_owned(),
        uid: fields.get(2)?.parse().ok()?,
        gid: fields.get(3)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_from_the_user_file() {
        let users =
            "root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash\n";
        let account = account_in(users, "postgres").unwrap();
        assert_eq!(account, Account { name: "postgres".into(), uid: 101, gid: 104 });
        assert_eq!(account_in(users, "post"), None);
    }

    #[test]
    fn the_folder_goes_with_the_last_clone_and_stays_when_kept() {
        let workspace = Workspace::new("unit").unwrap();
        let clone = workspace.clone();
        let path = workspace.path().to_owned();
        drop(workspace);
        assert!(path.is_dir());
        drop(clone);
        assert!(!path.exists());

        let kept = Workspace::new("unit").unwrap();
        kept.keep().unwrap();
        let path = kept.path().to_owned();
        drop(kept);
        assert!(path.is_dir());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_released_workspace_leaves_its_processes_alone() {
        let workspace = Workspace::new("unit").unwrap();
        let path = workspace.path().to_owned();
        let mut sleep = process::command(&workspace, &path, "sleep");
        sleep.arg("60");
        let mut sleep = process::Process::spawn(&workspace, "sleep", sleep).unwrap();
        workspace.release().unwrap();
        drop(workspace);
        assert!(sleep.exit_status().is_none());
        assert!(path.is_dir());
        drop(sleep);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_secret_file_is_readable_by_its_owner_only() {
        let workspace = Workspace::new("unit").unwrap();
        let path = workspace.path().join("secret");
        workspace.write(&path, "word").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "word");
    }
}
