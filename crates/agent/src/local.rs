//! Actions on the local PostgreSQL that take no more than moments.

use std::{sync::Arc, time::Duration};

use ptarmigan_ha::{
    Action, Outcome, Upstream,
    action::{Divergence, RecoveryDifference},
    memory::Source,
};
use ptarmigan_postgres::{
    Login,
    connection::{self, Purpose, Session},
    data_directory,
    recovery::{Recovery, difference::Difference},
    rewind::{self, Verdict},
    stop::{StopMode, StopRequest},
    upstream::Upstream as Server,
};
use ptarmigan_types::MemberName;

use crate::{jobs, node::Node, observe, remote, server};

/// How long a connection to the former leader's server may take, before a race: a host that is gone refuses none.
const FORMER_LISTENS: Duration = Duration::from_millis(300);

/// How long that server may then take to say what it is.
const FORMER_ANSWERS: Duration = Duration::from_millis(500);

/// How long the comparison with the leader's history may hold up a standby's cycle.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);

/// Carries out an action that concerns only PostgreSQL.
pub async fn execute(node: &Arc<Node>, action: &Action) -> Outcome {
    match action {
        Action::CompareRecovery { upstream } => compare(node, upstream.as_ref()).await,
        Action::ReloadRecovery { upstream } => done(reload(node, upstream.as_ref()).await),
        Action::CheckDivergence { upstream } => check(node, upstream).await,
        Action::AskWhetherPrimary { name, conn_url } => {
            Outcome::Primary(is_primary(node, name, conn_url).await)
        }
        Action::ResumeReplay => done(node.postgres.wal_replay_resume().await),
        Action::EnsureCheckpoint => {
            ensure_checkpoint(node);
            Outcome::Done
        }
        Action::StopImmediate => done(stop_immediate(node).await),
        Action::AbandonBootstrap => done(abandon_bootstrap(node).await),
        Action::RemoveDataDirectory => done(remove_data_directory(node).await),
        other => Outcome::Failed(format!("{other:?} does not concern PostgreSQL")),
    }
}

fn done<E: std::fmt::Display>(result: Result<(), E>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => {
            tracing::error!("{error}");
            Outcome::Failed(error.to_string())
        }
    }
}

async fn remove_data_directory(node: &Node) -> Result<(), data_directory::Error> {
    data_directory::remove(&node.postgres.data_dir()).await?;
    node.unfinished_rewind.over();
    Ok(())
}

async fn compare(node: &Node, upstream: Option<&Upstream>) -> Outcome {
    let wanted = match jobs::recovery(node, upstream) {
        Ok(wanted) => wanted,
        Err(reason) => return Outcome::Failed(reason),
    };
    let status = node.known().status.clone();
    match node.postgres.recovery_difference(&wanted, status.as_ref()).await {
        Ok(Difference::None) => Outcome::Recovery(RecoveryDifference::None),
        Ok(Difference::Reload) => Outcome::Recovery(RecoveryDifference::Reload),
        Ok(Difference::Restart) => Outcome::Recovery(RecoveryDifference::Restart),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

async fn reload(node: &Node, upstream: Option<&Upstream>) -> Result<(), String> {
    let wanted = jobs::recovery(node, upstream)?;
    node.postgres
        .write_recovery(node.postgres.role(), Recovery::Standby(wanted.parameters), &wanted.passfile_lines)
        .await
        .map_err(|error| error.to_string())?;
    node.postgres.reload().await.map_err(|error| error.to_string())?;
    server::tell(node, |callbacks, role| callbacks.reloaded(role));
    Ok(())
}

async fn check(node: &Node, followed: &Upstream) -> Outcome {
    let upstream = match upstream(node, followed) {
        Ok(upstream) => upstream,
        Err(reason) => return Outcome::Failed(reason),
    };
    let answer = tokio::time::timeout(CHECK_DEADLINE, rewind::check(&node.postgres, &upstream)).await;
    Outcome::Divergence(match answer {
        Ok(Verdict::Need) => Divergence::Diverged,
        Ok(Verdict::NotNeed) => Divergence::SameHistory,
        Ok(Verdict::SameTimelineTwice) => Divergence::SameTimelineTwice,
        Ok(Verdict::Unknown(reason)) => {
            tracing::info!("whether a rewind is needed cannot be told yet: {reason}");
            Divergence::Unknown
        }
        Err(_) => Divergence::Unknown,
    })
}

/// Contract RW-30: runs beside the loop; the next cycle sees by pg_control whether it is done.
fn ensure_checkpoint(node: &Arc<Node>) {
    if !node.checkpoint_outstanding() || std::mem::replace(&mut node.known().checkpoint_running, true) {
        return;
    }
    let node = Arc::clone(node);
    #[expect(
        clippy::disallowed_methods,
        reason = "ends by itself; the flag keeps a second one from starting"
    )]
    tokio::spawn(async move {
        let result = node.postgres.checkpoint(None).await;
        node.known().checkpoint_running = false;
        match result {
            Ok(()) => node.wake(),
            Err(error) => tracing::warn!("checkpoint after promotion: {error}"),
        }
    });
}

/// A server that accepts connections at all is there, and counts as a primary unless it says otherwise in time: it may be slow,
/// or refuse us, or be frozen with sessions that go on.
async fn is_primary(node: &Node, name: &MemberName, conn_url: &str) -> bool {
    let Ok(server) = Server::of_conn_url(name.clone(), conn_url) else { return false };
    let address = server.address();
    let (host, port) = (address.get("host").unwrap_or_default(), address.get("port").unwrap_or_default());
    let listens = tokio::net::TcpStream::connect(format!("{host}:{port}"));
    if !matches!(tokio::time::timeout(FORMER_LISTENS, listens).await, Ok(Ok(_))) {
        return false;
    }
    let info = server.conninfo(&node.postgres, Login::Rewind);
    let ask = async {
        match Session::connect(&info, Purpose::Heartbeat).await {
            Ok(session) => {
                let answer = session.query_text("SELECT pg_is_in_recovery()").await;
                !answer.is_ok_and(|rows| rows.iter().flatten().flatten().any(|value| value == "t"))
            }
            // A proxy in front of a server that is gone; a server that stands still says nothing at all.
            Err(
                connection::Error::Refused(_) | connection::Error::Rejecting(_) | connection::Error::Lost(_),
            ) => false,
            Err(_) => true,
        }
    };
    tokio::time::timeout(FORMER_ANSWERS, ask).await.unwrap_or(true)
}

async fn stop_immediate(node: &Node) -> Result<(), String> {
    let timeout = node.configuration.timing().retry_timeout;
    let request = StopRequest { timeout: Some(timeout), ..StopRequest::new(StopMode::Immediate) };
    server::stop(node, request).await.map(drop).map_err(|error| error.to_string())
}

async fn abandon_bootstrap(node: &Node) -> Result<(), String> {
    if node.postgres.is_alive() {
        stop_immediate(node).await?;
    }
    let renamed =
        data_directory::rename_failed(&node.postgres.data_dir()).await.map_err(|error| error.to_string())?;
    if let Some(path) = renamed {
        tracing::error!("the data directory of the failed bootstrap is kept as {}", path.display());
    }
    Ok(())
}

/// Against whom the rewind question is answered, as its key shows it now.
pub fn source(node: &Node, upstream: &Upstream) -> Source {
    let known = node.known();
    let member = upstream.member().and_then(|name| known.view.as_ref()?.cluster.member(name));
    member.map_or_else(|| Source { leader: upstream.clone(), timeline: None }, Source::of)
}

/// Another server as PostgreSQL's programs need it.
pub fn upstream(node: &Node, upstream: &Upstream) -> Result<Server, String> {
    let Some(name) = upstream.member() else { return remote::server(node) };
    let known = node.known();
    let member = known.view.as_ref().and_then(|view| view.cluster.member(name));
    let url =
        member.and_then(|member| member.data.conn_url()).ok_or_else(|| format!("{name} has no conn_url"))?;
    Server::of_conn_url(name.clone(), url).map_err(|error| format!("{name}: {error}"))
}

/// Whom to follow in the view as it is now (contract NF-1 to NF-5).
pub fn node_to_follow(node: &Node) -> Option<Upstream> {
    let settings = observe::settings(node);
    let known = node.known();
    let cluster = &known.view.as_ref()?.cluster;
    ptarmigan_ha::node_to_follow(&node.name, &settings, cluster)
}

/// Whom to copy in the view as it is now (contract BS-2).
pub fn clone_source(node: &Node, from_leader: bool) -> Option<Upstream> {
    let settings = observe::settings(node);
    let known = node.known();
    let cluster = &known.view.as_ref()?.cluster;
    let chosen = if from_leader {
        cluster.leader_name().filter(|name| **name != node.name)
    } else {
        let source = ptarmigan_ha::clone_source(&node.name, &settings, cluster, ptarmigan_clock::now());
        source.map(|member| &member.name)
    };
    chosen.cloned().map(Upstream::Member)
}
