//! What happens in the demo, chapter by chapter.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ptarmigan_testkit::{Cluster, Workspace, Writer, cluster, http, node::Runner, store, wait_until};
use serde_json::json;

use super::{
    install, keep,
    members::Members,
    screen::{Nothing, Screen},
    stage::{Stage, View, all_rows_on, names, one_primary, streaming},
};
use crate::console::Console;

const CHAPTERS: usize = 6;
const SCOPE: &str = "demo";
/// The lines of each log that are shown when something goes wrong.
const TAIL_LINES: usize = 15;
/// For anything that is over within seconds on a machine that is not overloaded.
const PATIENCE: Duration = Duration::from_secs(60);

/// Plays it all.
///
/// # Errors
/// A step failed, or an acknowledged row is missing; the message carries the logs.
pub(super) async fn tell(screen: &Screen, keep: bool) -> Result<()> {
    screen.say(
        "Ptarmigan demo: a PostgreSQL cluster of three nodes on this machine, a switchover, a failover.\n\
         It takes less than a minute. Ctrl-C stops it and cleans up.",
    )?;
    screen.heading("What is needed", CHAPTERS)?;
    install::ensure_servers(screen).await?;
    let workspace = Workspace::new(SCOPE)?;
    screen.fact(&install::versions(&workspace).await?)?;
    let mut stage = raise(screen, &workspace).await?;
    if let Err(error) = play(screen, &mut stage).await {
        let logs = stage.cluster.logs(TAIL_LINES);
        return Err(error.context(format!("the demo failed. The ends of the nodes' logs:\n{logs}")));
    }
    let seconds = screen.elapsed().as_secs_f64();
    if keep {
        screen.say(&format!("\nDone in {seconds:.0} s."))?;
        return keep::leave(screen, &workspace, stage.cluster);
    }
    drop(stage);
    drop(workspace);
    screen.say(&format!(
        "\nDone in {seconds:.0} s. Everything is stopped and removed; `--keep` leaves it running."
    ))
}

/// Starts the servers and waits for a leader.
async fn raise(screen: &Screen, workspace: &Workspace) -> Result<Stage> {
    screen.heading(&format!("Start a cluster in {}", workspace.path().display()), CHAPTERS)?;
    let binaries = install::programs(workspace)?;
    let options = cluster::Options {
        scope: SCOPE.to_owned(),
        store: store::Kind::Etcd,
        store_servers: 1,
        nodes: vec![Runner::Ptarmigan(binaries); 3],
        haproxy_check: Some("OPTIONS /primary".to_owned()),
    };
    let start = Cluster::start(workspace, options, |_| ());
    let (cluster, time) = screen.during("Starting etcd, HAProxy and three daemons", &Nothing, start).await?;
    screen.fact(&format!("etcd, HAProxy and three daemons run ({})", seconds(time)))?;
    let members = Members::new(Console, SCOPE, &cluster.store.hosts())?;
    Ok(Stage { cluster, view: View { members, writer: None } })
}

async fn play(screen: &Screen, stage: &mut Stage) -> Result<()> {
    let first = bootstrap(screen, stage).await?;
    let second = switchover(screen, stage, first).await?;
    let third = lose_machine(screen, stage, second).await?;
    come_back(screen, stage, second, third).await?;
    count_rows(screen, stage, third).await
}

async fn bootstrap(screen: &Screen, stage: &mut Stage) -> Result<usize> {
    let Stage { cluster, view } = stage;
    let leader = one_primary(cluster, None, PATIENCE);
    let (leader, time) = screen.during("One node creates the database", view, leader).await?;
    screen.fact(&format!(
        "{} has created the database and leads ({})",
        names(cluster, &[leader]),
        seconds(time)
    ))?;
    let replicas = streaming(cluster, leader, 2, PATIENCE);
    let ((), time) = screen.during("The others copy it", view, replicas).await?;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    screen.fact(&format!("{} have copied it and stream ({})", names(cluster, &others), seconds(time)))?;
    let ((), _) =
        screen.during("Making commits safe", view, replicate_before_answer(cluster, leader)).await?;
    screen.fact(
        "From now on a commit is acknowledged when a replica has it too\n(synchronous_standby_names).",
    )?;
    view.writer = Some(Writer::start(cluster.writer_options())?);
    let ((), _) = screen.during("A writer starts", view, rows_flow(view)).await?;
    screen.fact(
        "A client inserts a row every 20 ms on whichever node takes writes,\n\
         and remembers the rows that were acknowledged.",
    )?;
    table(screen, view).await?;
    Ok(leader)
}

/// Without it the loss of a machine could take the last instant's rows with it, however well it is managed.
async fn replicate_before_answer(cluster: &Cluster, leader: usize) -> Result<()> {
    let change = json!({"postgresql": {"parameters": {"synchronous_standby_names": "ANY 1 (*)"}}});
    let leader = &cluster.nodes[leader];
    let answer = http::patch(&leader.rest_address(), "/config", &change).await?;
    ensure!(answer.status == 200, "PATCH /config: {} {}", answer.status, answer.body);
    let client = leader.connect().await?;
    wait_until("two synchronous replicas", PATIENCE, || async {
        let query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
        let count: i64 = client.query_one(query, &[]).await?.get(0);
        ensure!(count == 2, "{count}");
        Ok(())
    })
    .await
}

async fn switchover(screen: &Screen, stage: &Stage, leader: usize) -> Result<usize> {
    let Stage { cluster, view } = stage;
    let candidate = (leader + 1) % 3;
    let (old, new) = (names(cluster, &[leader]), names(cluster, &[candidate]));
    screen.heading(&format!("Switchover: {old} hands over to {new}"), CHAPTERS)?;
    writer(view)?.mark();
    let work = async {
        cluster.switchover(leader, Some(candidate)).await?;
        one_primary(cluster, Some(leader), PATIENCE).await?;
        rows_flow(view).await?;
        Ok(writer(view)?.longest_gap())
    };
    let (gap, _) = screen.during("Switching over", view, work).await?;
    screen.fact(&format!("{new} leads. Writes stood still for {:.2} s.", gap.as_secs_f64()))?;
    let replicas = streaming(cluster, candidate, 2, PATIENCE);
    let ((), time) = screen.during("The others follow", view, replicas).await?;
    screen.fact(&format!("The others follow ({})", seconds(time)))?;
    table(screen, view).await?;
    Ok(candidate)
}

async fn lose_machine(screen: &Screen, stage: &mut Stage, leader: usize) -> Result<usize> {
    let Stage { cluster, view } = stage;
    let old = names(cluster, &[leader]);
    screen.heading(&format!("Failover: the machine of {old} loses power"), CHAPTERS)?;
    writer(view)?.mark();
    let kill = cluster.nodes[leader].kill_machine();
    screen.during("Killing its daemon, guardian and PostgreSQL", view, kill).await?;
    screen.fact(&format!(
        "Daemon, guardian and PostgreSQL of {old} are killed. The others wait until its lock expires:\n\
         ttl is 20 s here, which is Patroni's minimum (the default is 30 s)."
    ))?;
    let work = async {
        let new = one_primary(cluster, Some(leader), PATIENCE).await?;
        rows_flow(view).await?;
        Ok((new, writer(view)?.longest_gap()))
    };
    let ((new, gap), _) = screen.during("Waiting for a new leader", view, work).await?;
    let (gap, name) = (gap.as_secs_f64(), names(cluster, &[new]));
    screen.fact(&format!("{name} leads. Writes stood still for {gap:.2} s."))?;
    let new_leader = all_rows_on(&cluster.nodes[new], writer(view)?, Duration::from_secs(2));
    screen.during("Looking for missing rows", view, new_leader).await?;
    screen.fact(&format!("Every acknowledged row is there: {} so far.", writer(view)?.count()))?;
    let replica = streaming(cluster, new, 1, PATIENCE);
    screen.during("The remaining replica follows", view, replica).await?;
    table(screen, view).await?;
    Ok(new)
}

async fn come_back(screen: &Screen, stage: &mut Stage, lost: usize, leader: usize) -> Result<()> {
    let Stage { cluster, view } = stage;
    let name = names(cluster, &[lost]);
    screen.heading(&format!("The machine of {name} comes back"), CHAPTERS)?;
    let log_bytes = log_of(cluster, lost).len();
    cluster.nodes[lost].start()?;
    let replicas = streaming(cluster, leader, 2, PATIENCE);
    let ((), time) = screen.during(&format!("{name} finds its place"), view, replicas).await?;
    let log = log_of(cluster, lost);
    let how = if log.get(log_bytes..).is_some_and(|new| new.contains("pg_rewind from")) {
        "pg_rewind has undone what the others never received."
    } else {
        "pg_rewind was not needed."
    };
    screen.fact(&format!("{name} streams as a replica ({}). {how}", seconds(time)))?;
    table(screen, view).await
}

async fn count_rows(screen: &Screen, stage: &mut Stage, leader: usize) -> Result<()> {
    screen.heading("Are all acknowledged rows there?", CHAPTERS)?;
    let Stage { cluster, view } = stage;
    let mut writer = view.writer.take().context("invariant: the writer was started")?;
    writer.stop();
    for node in &cluster.nodes {
        let look = all_rows_on(node, &writer, Duration::from_secs(10));
        screen.during(&format!("Looking on {}", node.name()), &Nothing, look).await?;
    }
    let routed = async {
        let row = cluster.connect_through_haproxy().await?.query_one("SHOW port", &[]).await?;
        Ok(row.get::<_, String>(0))
    };
    let (port, _) = screen.during("Asking HAProxy", &Nothing, routed).await?;
    let new = &cluster.nodes[leader];
    ensure!(port == new.postgres_port().to_string(), "HAProxy leads to port {port}, not to {}", new.name());
    screen.fact(&format!(
        "{} rows were acknowledged, and every one of them is on {}.\nHAProxy leads clients to {}.",
        writer.count(),
        names(cluster, &[0, 1, 2]),
        new.name()
    ))
}

async fn rows_flow(view: &View) -> Result<()> {
    writer(view)?.wait_for_rows(25, PATIENCE).await
}

fn writer(view: &View) -> Result<&Writer> {
    view.writer.as_ref().context("invariant: the writer was started")
}

async fn table(screen: &Screen, view: &View) -> Result<()> {
    screen.fact(&view.members.table().await?)
}

/// What a node has logged so far; empty where it cannot be read.
fn log_of(cluster: &Cluster, node: usize) -> String {
    let bytes = fs::read(cluster.nodes[node].log_path()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
