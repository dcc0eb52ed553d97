//! From the command line to the exit status: logging, start, loop, signals, systemd, end.

use std::{panic::AssertUnwindSafe, path::Path, pin::pin, process::ExitCode, sync::Arc, time::Duration};

use futures_util::FutureExt;
use ptarmigan_rest::Requests;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};

use crate::{
    agent::Agent,
    configuration::Configuration,
    execute::Exit,
    fence, health,
    logging::Logging,
    node::Node,
    overrun, postmaster, requests, shutdown, start,
    upgrade::{Program, Upgrade},
};

/// Requests that wait for the loop; REST refuses more.
const REQUESTS_MAX: usize = 128;

/// How long threads that still wait for the operating system are waited for at the end.
const THREADS_LIMIT: Duration = Duration::from_secs(1);

/// How long the loop waits for the REST API to take new settings over.
const REST_LIMIT: Duration = Duration::from_secs(2);

/// Runs the daemon until it is told to stop. The exit status is contract D.2's.
pub fn run(argument: Option<&Path>, logging: &Logging) -> ExitCode {
    report_panics();
    let code = start_and_run(argument, logging);
    logging.flush();
    code
}

/// A panic is caught where it may be; the log is where its place and reason are looked for.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| tracing::error!(critical = true, "{panic}")));
}

fn start_and_run(argument: Option<&Path>, logging: &Logging) -> ExitCode {
    let configuration = match Configuration::start(argument) {
        Ok(configuration) => configuration,
        Err(error) => {
            tracing::error!(critical = true, "{error}");
            return ExitCode::FAILURE;
        }
    };
    configuration.with(|settings| logging.apply(&settings.log));
    restrict_new_files(&configuration);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(daemon(configuration, logging));
            // A name server or a file system that does not answer keeps a thread of ours, not the end of the process.
            runtime.shutdown_timeout(THREADS_LIMIT);
            code
        }
        Err(error) => {
            tracing::error!(critical = true, "cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Contract C.5: what we create is the owner's, and the group's where the data directory is.
fn restrict_new_files(configuration: &Configuration) {
    use std::os::unix::fs::PermissionsExt;
    let data_dir = configuration.with(|settings| settings.postgresql.data_dir.clone());
    let group_reads = std::fs::metadata(data_dir).is_ok_and(|facts| facts.permissions().mode() & 0o040 != 0);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(if group_reads { 0o027 } else { 0o077 }));
}

async fn daemon(configuration: Configuration, logging: &Logging) -> ExitCode {
    // First: a SIGHUP while the DCS is waited for must not end the process (contract D.4).
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(critical = true, "cannot listen for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let program = match Program::own() {
        Ok(program) => program,
        Err(error) => {
            tracing::error!(critical = true, "this program's own path is not known: {error}");
            return ExitCode::FAILURE;
        }
    };
    let started = tokio::select! {
        biased;
        () = signals.end.received() => return ExitCode::SUCCESS,
        started = start::start(configuration, &mut signals.hangup) => started,
    };
    let node = match started {
        Ok(node) => node,
        Err(error) => {
            tracing::error!(critical = true, "{error}");
            return ExitCode::FAILURE;
        }
    };
    // The files may have been read again while the DCS was waited for.
    node.configuration.with(|settings| logging.apply(&settings.log));
    let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
    let settings = node.configuration.with(|settings| settings.restapi.clone());
    let rest = match ptarmigan_rest::spawn_thread(settings, Arc::clone(&node.snapshot), Requests(sender)) {
        Ok(rest) => rest,
        Err(error) => {
            tracing::error!(critical = true, "{error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = health::watch(&node) {
        tracing::error!("nobody looks whether PostgreSQL works: {error}");
    }
    let mut beside = JoinSet::new();
    beside.spawn(requests::serve(Arc::clone(&node), receiver));
    beside.spawn(postmaster::watch(Arc::clone(&node)));
    beside.spawn(fence::keep(Arc::clone(&node)));
    notify(&[NotifyState::Ready]);
    let end =
        AssertUnwindSafe(serve(&node, &rest, logging, &program, signals, &mut beside)).catch_unwind().await;
    let (mut code, stop_postgres) = match end {
        Ok(None) => (ExitCode::SUCCESS, true),
        Ok(Some(exit)) => {
            tracing::error!(critical = true, "{}", exit.reason);
            (ExitCode::FAILURE, exit.stop_postgres)
        }
        Err(_) => {
            tracing::error!(critical = true, "the decision core panicked, stopping PostgreSQL");
            (ExitCode::FAILURE, true)
        }
    };
    notify(&[NotifyState::Stopping]);
    rest.begin_shutdown();
    if stop_postgres {
        ignore_further_signals();
        if !stop(&node).await {
            code = ExitCode::FAILURE;
        }
    }
    beside.shutdown().await;
    rest.shutdown();
    code
}

/// [`shutdown::shutdown`]; where even that panics, PostgreSQL is stopped all the same: nobody will look after it.
async fn stop(node: &Arc<Node>) -> bool {
    match AssertUnwindSafe(shutdown::shutdown(node)).catch_unwind().await {
        Ok(stopped) => stopped,
        Err(_) => {
            tracing::error!(critical = true, "the shutdown panicked, PostgreSQL is stopped at once");
            shutdown::kill(node).await.is_ok()
        }
    }
}

/// Cycles until a signal or the core ends them: `None` for a clean end.
async fn serve(
    node: &Arc<Node>,
    rest: &ptarmigan_rest::Handle,
    logging: &Logging,
    program: &Program,
    mut signals: Signals,
    beside: &mut JoinSet<()>,
) -> Option<Exit> {
    let mut agent = Agent::new(Arc::clone(node));
    let mut upgrade = Upgrade::default();
    loop {
        let ended = tokio::select! {
            biased;
            () = signals.end.received() => return None,
            _ = beside.join_next() => return Some(alone()),
            ended = agent.cycle() => ended,
            () = overrun::overrun(node) => {
                // The cycle is given up where it stands; the next one sees what has become of it.
                overrun::step_down(node).await;
                Ok(())
            }
        };
        if let Err(exit) = ended {
            return Some(exit);
        }
        // One sleep, whatever comes meanwhile: what had woken it would be forgotten with it.
        let mut sleep = pin!(agent.sleep());
        loop {
            tokio::select! {
                biased;
                () = signals.end.received() => return None,
                _ = beside.join_next() => return Some(alone()),
                // SIGHUP does not shorten the wait (contract T-8).
                _ = signals.hangup.recv() => node.known().reload_asked = true,
                _ = signals.upgrade.recv() => {
                    upgrade.ask();
                    break;
                }
                () = &mut sleep => break,
            }
        }
        if std::mem::take(&mut node.known().reload_asked) {
            reload(node, rest, logging).await;
        }
        upgrade.attempt(node, program, || logging.flush()).await;
    }
}

/// What runs beside the loop never ends by itself. Without it nobody hears of a dead postmaster or of an operator, and where
/// it panicked the loop may do so next.
fn alone() -> Exit {
    Exit { stop_postgres: true, reason: "a task beside the HA loop ended, stopping PostgreSQL".into() }
}

/// SIGHUP or `POST /reload` (contract CF-10, D.5).
async fn reload(node: &Node, rest: &ptarmigan_rest::Handle, logging: &Logging) {
    if let Ok(state) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, state]);
    }
    if requests::reload_now(node) {
        node.configuration.with(|settings| logging.apply(&settings.log));
        let settings = node.configuration.with(|settings| settings.restapi.clone());
        match tokio::time::timeout(REST_LIMIT, rest.reload(settings)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("the REST API keeps its former settings: {error}"),
            Err(_) => tracing::error!("the REST API has not taken its new settings over yet"),
        }
    }
    node.wake();
    notify(&[NotifyState::Ready]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd is not told: {error}");
    }
}

struct Signals {
    end: EndSignals,
    hangup: Signal,
    upgrade: Signal,
}

struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            end: EndSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}

impl EndSignals {
    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("got SIGTERM"),
            _ = self.interrupt.recv() => tracing::info!("got SIGINT"),
        }
    }
}

/// tokio keeps the handlers of SIGTERM, SIGINT and SIGHUP for the life of the process, so further ones have no effect:
/// a second SIGINT must not abort the shutdown (contract D.4).
fn ignore_further_signals() {
    tracing::debug!("further SIGTERM, SIGINT and SIGHUP are ignored");
}
