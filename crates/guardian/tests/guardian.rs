//! The guardian and its client, with shells in PostgreSQL's place.

// Helpers of tests unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ptarmigan_guardian::client::Error;
use ptarmigan_guardian::protocol::{LINE_BYTES_MAX, RefusalKind};
use ptarmigan_guardian::{
    ClientRole, ForeignProcess, Guardian, How, Options, PostmasterEvent, RawPid, SignalName, State, process,
    watch_foreign,
};
use rustix::process::Signal;
use support::{DEADLINE, Site, kill, soon, until};

/// A field of `/proc/<pid>/status`.
fn status_field(pid: RawPid, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

/// The session of a process as its own PID namespace numbers it: 0 where the session was begun outside
/// of it, as in a container entered from the host. (`getsid` of rustix panics on that 0.)
fn session_of(pid: RawPid) -> RawPid {
    status_field(pid, "NSsid").split_ascii_whitespace().last().unwrap().parse().unwrap()
}

fn own_pid() -> RawPid {
    std::process::id().try_into().unwrap()
}

fn observer(site: &Site) -> Options {
    Options { role: ClientRole::Observer, ..site.options() }
}

/// Waits for a file that a script writes a number into, ended by a line feed.
async fn number_in(path: &Path) -> RawPid {
    let read = || fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
    until("the script writes its file", || read().is_some()).await;
    read().unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn start_exit_and_status() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let status = guardian.status().await.unwrap();
    assert_eq!((status.state, status.generation, status.last_exit), (State::None, 0, None));
    assert_eq!(*guardian.events().borrow(), PostmasterEvent::NeverStarted);

    let postmaster =
        guardian.start(site.sh("until [ -e ../go ]; do sleep 0.01; done; exit 3")).await.unwrap();
    assert_eq!(postmaster.generation, 1);
    assert_eq!(process::start_time_ticks(postmaster.pid).unwrap(), postmaster.start_time_ticks);
    assert_eq!(*guardian.events().borrow(), PostmasterEvent::Started(postmaster.clone()));
    fs::write(site.path().join("go"), "").unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!((exit.gone.pid, exit.gone.generation, exit.gone.how), (postmaster.pid, 1, How::Code(3)));
    assert_eq!(exit.orphans_killed, 0);

    let status = guardian.status().await.unwrap();
    assert_eq!((status.state, status.postmaster, status.last_exit), (State::None, None, Some(exit)));

    let postmaster = guardian.start(site.sh("exec sleep 1000")).await.unwrap();
    let error = guardian.start(site.sh("exit 0")).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::Busy));
    assert!(error.to_string().contains(&postmaster.pid.to_string()), "{error}");
    let error = guardian.signal(exit.gone.pid, SignalName::Term).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::NoSuchPostmaster));
    guardian.signal(postmaster.pid, SignalName::Term).await.unwrap();
    let exit = soon("the exit", guardian.exited(2)).await.unwrap();
    assert_eq!(exit.gone.how, How::Signal(libc::SIGTERM));
    assert_eq!(soon("the exit of one before", guardian.exited(1)).await.unwrap(), exit);
}

#[tokio::test]
async fn failed_starts_leave_nothing() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let mut missing = site.sh("");
    missing.argv[0] = "/no/such/postgres".into();
    let error = guardian.start(missing).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::Failed));
    assert!(error.to_string().contains("/no/such/postgres"), "{error}");
    let mut nowhere = site.sh("exit 0");
    nowhere.cwd = "/no/such/folder".into();
    assert_eq!(guardian.start(nowhere).await.unwrap_err().refusal(), Some(RefusalKind::Failed));
    let mut nothing = site.sh("");
    nothing.argv.clear();
    assert_eq!(guardian.start(nothing).await.unwrap_err().refusal(), Some(RefusalKind::Failed));

    let mut seventh = site.sh("exit 0");
    seventh.generation = Some(7);
    assert_eq!(guardian.start(seventh.clone()).await.unwrap().generation, 7);
    soon("the exit", guardian.exited(7)).await.unwrap();
    assert_eq!(guardian.start(seventh).await.unwrap_err().refusal(), Some(RefusalKind::StaleGeneration));
    assert_eq!(guardian.start(site.sh("exit 0")).await.unwrap().generation, 8);
}

#[tokio::test]
async fn b_26_the_child_starts_clean_and_in_a_session_of_its_own() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let mut request = site.sh("");
    request.argv = ["/bin/sleep", "1000"].map(Into::into).into();
    let odd = std::os::unix::ffi::OsStringExt::from_vec(vec![b'x', 0xff]);
    let odd: std::ffi::OsString = odd;
    request.env = vec![("PGDATA".into(), "/some where".into()), ("ODD".into(), odd.into())];
    request.umask = 0o027;
    let postmaster = guardian.start(request).await.unwrap();
    let pid = postmaster.pid;
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"ODD=x\xff\0PGDATA=/some where\0");
    assert_eq!(process::cwd(pid).unwrap(), site.data());
    assert_eq!(status_field(pid, "Umask"), "0027");
    for set in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(u64::from_str_radix(&status_field(pid, set), 16).unwrap(), 0, "{set}");
    }
    assert_eq!(session_of(pid), pid);
    assert_eq!(process::stat(pid).unwrap().parent_pid, guardian.hello().guardian_pid);
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), own);
    // The program itself opens files for a moment while it starts.
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    until("only stdin, stdout and stderr are open", || open() == 3).await;
}

#[tokio::test]
async fn everything_a_dead_postmaster_left_is_killed_before_the_exit_is_reported() {
    let site = Site::new();
    let guardian = site.guardian().await;
    // Children that ignore signals, one in another session, one frozen, and a grandchild.
    let script = "trap '' TERM INT HUP QUIT
        sleep 1000 & sleep 1000 & setsid sleep 1000 &
        sh -c 'sleep 1000 & wait' &
        sh -c 'kill -STOP $$; exec sleep 1000' &
        echo $$ > ../pid; wait; wait";
    let postmaster = guardian.start(site.sh(script)).await.unwrap();
    assert_eq!(number_in(&site.path().join("pid")).await, postmaster.pid);
    until("7 processes live", || process::with_cwd(&site.data()).len() == 7).await;
    let mut events = guardian.events();
    events.mark_unchanged();
    guardian.signal(postmaster.pid, SignalName::Kill).await.unwrap();
    soon("the postmaster's end", events.changed()).await.unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert!(process::with_cwd(&site.data()).is_empty());
    assert_eq!((exit.gone.how, exit.orphans_killed), (How::Signal(libc::SIGKILL), 6));
    assert!(process::children(guardian.hello().guardian_pid).unwrap().is_empty());
    guardian.start(site.sh("exit 0")).await.unwrap();
}

#[tokio::test]
async fn b_26_freeze_kill_ends_a_postmaster_that_starts_children_without_end() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let script = "trap '' TERM INT QUIT; echo $$ > ../pid; while :; do sleep 0.01; sleep 1000 & done";
    let postmaster = guardian.start(site.sh(script)).await.unwrap();
    until("some children live", || process::with_cwd(&site.data()).len() > 20).await;
    guardian.signal(postmaster.pid, SignalName::Quit).await.unwrap();
    assert_eq!(
        guardian.freeze_kill(postmaster.pid + 1).await.unwrap_err().refusal(),
        Some(RefusalKind::NoSuchPostmaster)
    );
    guardian.freeze_kill(postmaster.pid).await.unwrap();
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert!(process::with_cwd(&site.data()).is_empty());
    assert_eq!(exit.gone.how, How::Signal(libc::SIGKILL));
    assert!(exit.orphans_killed >= 15, "{exit:?}");
}

/// The daemon of the test below: this test program run again, which connects, starts and waits to be killed.
const DAEMON_SITE: &str = "PTARMIGAN_TEST_DAEMON_SITE";

#[tokio::test]
async fn a_killed_daemon_leaves_postgresql_running_and_the_next_one_finds_it() {
    if let Some(site) = std::env::var_os(DAEMON_SITE) {
        let site = Path::new(&site);
        let guardian = Guardian::connect_or_spawn(&support::options_in(site)).await.unwrap();
        let postmaster = guardian.start(support::sh_in(site, "exec sleep 1000")).await.unwrap();
        fs::write(site.join("daemon.pid"), format!("{}\n", postmaster.pid)).unwrap();
        return guardian.lost().await;
    }
    let site = Site::new();
    let mut daemon = tokio::process::Command::new(site.own_program())
        .args(["--exact", "a_killed_daemon_leaves_postgresql_running_and_the_next_one_finds_it"])
        .env(DAEMON_SITE, site.path())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = number_in(&site.path().join("daemon.pid")).await;
    let daemon_pid = RawPid::try_from(daemon.id().unwrap()).unwrap();

    let error = Guardian::connect(&site.options()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::Owned));
    assert!(error.to_string().contains(&daemon_pid.to_string()), "{error}");
    let watching = Guardian::connect(&observer(&site)).await.unwrap().unwrap();
    assert_eq!(watching.hello().status.owner_pid, Some(daemon_pid));
    assert_ne!(session_of(watching.hello().guardian_pid), session_of(daemon_pid));

    // The whole process group, as Ctrl-C or a careless supervisor would.
    let group = rustix::process::Pid::from_raw(daemon_pid).unwrap();
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
    let next = Guardian::connect(&site.options()).await;
    daemon.wait().await.unwrap();
    // Killed but not collected yet, its connection may have been open for another moment.
    let next = match next {
        Err(error) if error.refusal() == Some(RefusalKind::Owned) => Guardian::connect(&site.options()).await,
        other => other,
    };
    let next = next.unwrap().expect("the guardian lives");
    let found = next.hello().status.postmaster.clone().expect("the postmaster lives");
    assert_eq!((found.pid, found.generation), (pid, 1));
    assert_eq!(found.argv, site.sh("exec sleep 1000").argv);
    assert!(process::is_alive(pid));
    assert_eq!(*next.events().borrow(), PostmasterEvent::Started(found));
    next.signal(pid, SignalName::Term).await.unwrap();
    assert_eq!(soon("the exit", next.exited(1)).await.unwrap().gone.pid, pid);
    assert_eq!(soon("the observer is told", watching.exited(1)).await.unwrap().gone.pid, pid);
}

#[tokio::test]
async fn an_exit_while_no_daemon_ran_is_remembered() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let postmaster = guardian.start(site.sh("exec sleep 1000")).await.unwrap();
    drop(guardian);
    kill(postmaster.pid, Signal::TERM);
    until("the postmaster is gone", || !process::is_alive(postmaster.pid)).await;
    let guardian = Guardian::connect(&site.options()).await.unwrap().expect("the guardian lives");
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!((exit.gone.pid, exit.gone.how), (postmaster.pid, How::Signal(libc::SIGTERM)));
    assert_eq!(guardian.status().await.unwrap().last_exit, Some(exit));
}

#[tokio::test]
async fn the_guardian_ignores_signals_that_end_programs() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let pid = guardian.hello().guardian_pid;
    let postmaster = guardian.start(site.sh("exec sleep 1000")).await.unwrap();
    for signal in
        [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::PIPE, Signal::USR1, Signal::USR2]
    {
        kill(pid, signal);
    }
    assert_eq!(guardian.status().await.unwrap().postmaster, Some(postmaster));
    assert!(process::is_alive(pid));
    assert_ne!(process::stat(pid).unwrap().parent_pid, own_pid());
    assert_ne!(session_of(pid), session_of(own_pid()));
    assert_ne!(session_of(pid), pid, "a session leader could get a terminal");
}

#[tokio::test]
async fn many_spawners_at_once_get_one_guardian() {
    let site = Site::new();
    let options = observer(&site);
    let connect = || async { Guardian::connect_or_spawn(&options).await.unwrap() };
    let guardians = tokio::join!(connect(), connect(), connect(), connect());
    let pids = [&guardians.0, &guardians.1, &guardians.2, &guardians.3].map(|one| one.hello().guardian_pid);
    assert_eq!(pids, [pids[0]; 4]);
    let run = site.path().join("run");
    let ours = |pid: &RawPid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        process::is_alive(*pid) && String::from_utf8_lossy(&line).contains(run.to_str().unwrap())
    };
    until("the others have left", || {
        process::all().into_iter().filter(ours).collect::<Vec<_>>() == [pids[0]]
    })
    .await;
}

#[tokio::test]
async fn one_owner_and_observers_who_may_only_look() {
    let site = Site::new();
    let owner = site.guardian().await;
    let watching = Guardian::connect(&observer(&site)).await.unwrap().unwrap();
    assert_eq!(watching.start(site.sh("exit 0")).await.unwrap_err().refusal(), Some(RefusalKind::NotOwner));
    let error = Guardian::connect_or_spawn(&site.options()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::Owned));
    let postmaster = owner.start(site.sh("exec sleep 1000")).await.unwrap();
    let is_started = |event: &PostmasterEvent| *event == PostmasterEvent::Started(postmaster.clone());
    soon("the observer is told", watching.events().wait_for(is_started)).await.unwrap();
    assert_eq!(
        watching.signal(postmaster.pid, SignalName::Term).await.unwrap_err().refusal(),
        Some(RefusalKind::NotOwner)
    );
    drop(owner);
    let own_pid = own_pid();
    let owner = site.guardian().await;
    assert_eq!(watching.status().await.unwrap().owner_pid, Some(own_pid));
    owner.freeze_kill(postmaster.pid).await.unwrap();
    soon("the exit", watching.exited(1)).await.unwrap();
}

#[tokio::test]
async fn a_killed_guardian_is_reported_and_replaced() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let postmaster = guardian.start(site.sh("exec sleep 1000")).await.unwrap();
    let first = guardian.hello().guardian_pid;
    kill(first, Signal::KILL);
    soon("the loss is seen", guardian.lost()).await;
    let lost = PostmasterEvent::GuardianLost { postmaster: Some(postmaster.clone()) };
    assert_eq!(*guardian.events().borrow(), lost);
    assert!(matches!(guardian.status().await, Err(Error::Lost)));
    assert!(matches!(guardian.exited(1).await, Err(Error::Lost)));

    // The socket's file is still there; nobody listens.
    let next = site.guardian().await;
    assert_ne!(next.hello().guardian_pid, first);
    assert_eq!(next.hello().status.state, State::None);

    let orphan = ForeignProcess::open(postmaster.pid).unwrap();
    assert_eq!(orphan.start_time_ticks(), postmaster.start_time_ticks);
    let early = tokio::time::timeout(Duration::from_millis(50), orphan.exited()).await;
    assert!(early.is_err(), "it lives: {early:?}");
    orphan.signal(SignalName::Term).unwrap();
    soon("the orphan's exit", orphan.exited()).await.unwrap();
    soon("the orphan's exit, asked late", watch_foreign(postmaster.pid)).await.unwrap();
}

/// Sends raw bytes and returns the lines that come back before the guardian closes.
fn converse(socket: &Path, bytes: &[u8]) -> Vec<String> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // The guardian may close before it has read everything.
    let _ = stream.write_all(bytes);
    BufReader::new(stream).lines().map_while(Result::ok).collect()
}

#[tokio::test]
async fn garbage_ends_only_the_connection_it_came_on() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let run_dir =
        ptarmigan_guardian::run_dir::RunDir::create(&site.data(), site.options().run_dir.as_deref());
    let socket = run_dir.unwrap().socket();
    let long = vec![b'x'; 2 * LINE_BYTES_MAX];
    let garbage: [&[u8]; 8] = [
        b"\n",
        b"\0\xff\xfe\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"{\"v\":2,\"id\":9,\"request\":\"status\"}\n",
        b"{\"v\":1,\"id\":9,\"request\":\"dance\"}\n",
        b"{\"v\":1,\"id\":9,\"request\":\"signal\",\"signal\":\"WINCH\",\"pid\":1}\n",
        b"{\"v\":1,\"id\":9,\"request\":\"start\",\"argv\":\"postgres\"}\n",
        &long,
    ];
    for bytes in garbage {
        let lines = converse(&socket, bytes);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("\"bad_request\""), "{lines:?}");
    }
    assert!(converse(&socket, b"{\"v\":2,\"id\":9}\n")[0].contains("\"id\":9"));

    // In pieces, two at once, and with fields of a later release.
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"{\"v\":1,\"id\":5,\"requ").unwrap();
    guardian.status().await.unwrap();
    stream
        .write_all(b"est\":\"status\",\"deadline\":1}\n{\"v\":1,\"id\":6,\"request\":\"hello\"}\n")
        .unwrap();
    let lines: Vec<_> = BufReader::new(&stream).lines().take(2).map(Result::unwrap).collect();
    assert!(lines[0].contains("\"id\":5,\"reply\":\"status\""), "{lines:?}");
    assert!(lines[1].contains("\"id\":6,\"reply\":\"hello\""), "{lines:?}");
    guardian.start(site.sh("exit 0")).await.unwrap();
    soon("the exit", guardian.exited(1)).await.unwrap();
}

#[tokio::test]
async fn an_idle_guardian_leaves_and_a_busy_one_stays() {
    let site = Site::new();
    let options = Options { idle_exit: Duration::from_millis(100), ..site.options() };
    let guardian = Guardian::connect_or_spawn(&options).await.unwrap();
    let pid = guardian.hello().guardian_pid;
    let postmaster = guardian.start(site.sh("exec sleep 1000")).await.unwrap();
    drop(guardian);
    // Several times its patience, with a postmaster and without a client.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(process::is_alive(pid));
    kill(postmaster.pid, Signal::KILL);
    until("the guardian leaves", || !process::is_alive(pid)).await;
    let run_dir =
        ptarmigan_guardian::run_dir::RunDir::create(&site.data(), options.run_dir.as_deref()).unwrap();
    assert!(!run_dir.socket().exists());
    assert!(Guardian::connect(&options).await.unwrap().is_none());
    assert_ne!(Guardian::connect_or_spawn(&options).await.unwrap().hello().guardian_pid, pid);
}

#[tokio::test]
async fn a_frozen_guardian_is_an_error_in_time() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let pid = guardian.hello().guardian_pid;
    kill(pid, Signal::STOP);
    let options = Options { timeout: Duration::from_millis(100), ..observer(&site) };
    assert!(matches!(Guardian::connect(&options).await, Err(Error::Timeout(_))));
    assert!(matches!(Guardian::connect_or_spawn(&options).await, Err(Error::Timeout(_))));
    kill(pid, Signal::CONT);
    assert_eq!(guardian.status().await.unwrap().state, State::None);
}

#[tokio::test]
async fn a_program_that_is_no_guardian_is_an_error() {
    let site = Site::new();
    let with = |program: &str| Options { program: Some(program.into()), ..site.options() };
    let error = Guardian::connect_or_spawn(&with("/no/such/guardian")).await.unwrap_err();
    assert!(matches!(error, Error::Run { .. }), "{error}");
    let error = Guardian::connect_or_spawn(&with("/bin/false")).await.unwrap_err();
    assert!(matches!(error, Error::Start { .. }), "{error}");
}
