//! A cluster that is left running: how to reach it, and how to end it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use ptarmigan_testkit::{Cluster, Workspace, postgres, process, wait_until};
use rustix::process::Signal;

use super::{
    install,
    screen::{Nothing, Screen},
};

/// What the demo's folders are called: see [`Workspace::new`].
const PREFIX: &str = "ptarmigan-demo-";

/// Leaves everything running and says how to use it.
///
/// # Errors
/// A file cannot be written.
pub(super) fn leave(screen: &Screen, workspace: &Workspace, cluster: Cluster) -> Result<()> {
    let pgpass = workspace.path().join("pgpass");
    workspace.write(&pgpass, &format!("127.0.0.1:*:*:postgres:{}\n", cluster.credentials.superuser))?;
    let text = directions(workspace, &cluster, &pgpass)?;
    workspace.release()?;
    // Dropped, it would end what it holds.
    std::mem::forget(cluster);
    screen.say(&text)
}

fn directions(workspace: &Workspace, cluster: &Cluster, pgpass: &Path) -> Result<String> {
    let folder = workspace.path().display();
    let haproxy = cluster.haproxy.as_ref().context("invariant: the demo has a HAProxy")?;
    let ptctl = ourselves()?;
    let psql = psql()?;
    let config = cluster.nodes.first().context("invariant: the demo has nodes")?.config_path();
    let connect =
        |port| format!("{psql} \"host=127.0.0.1 port={port} user=postgres passfile={}\"", pgpass.display());
    let mut lines = vec![
        format!("\nThe cluster keeps running in {folder}.\n"),
        format!("  the primary       {}", connect(haproxy.primary_port())),
        format!("  a replica         {}", connect(haproxy.replicas_port())),
        format!("  members           {ptctl} -c {} list", config.display()),
        format!("  switch over       {ptctl} -c {} switchover", config.display()),
        format!("  HAProxy's page    http://{}/", haproxy.statistics_address()),
        format!("  etcd              http://{}", cluster.store.hosts().join(" http://")),
    ];
    for node in &cluster.nodes {
        let rest = format!("http://{}", node.rest_address());
        lines.push(format!(
            "  {:<17} {rest}/patroni, PostgreSQL on port {}",
            node.name(),
            node.postgres_port()
        ));
    }
    lines.push(format!("  logs              {folder}/log"));
    lines.push(format!("\nThe password is in {}. Stop it and remove everything with\n", pgpass.display()));
    lines.push(format!("  {ptctl} demo --stop {folder}"));
    Ok(lines.join("\n"))
}

/// Our name where a shell finds this very program by it, else the path: another release would not do.
fn ourselves() -> Result<String> {
    let path = std::env::current_exe()?;
    let same =
        install::on_path("ptctl").is_some_and(|found| found.canonicalize().ok() == path.canonicalize().ok());
    Ok(if same { "ptctl".to_owned() } else { path.display().to_string() })
}

/// Any psql will do.
fn psql() -> Result<String> {
    if install::on_path("psql").is_some() {
        return Ok("psql".to_owned());
    }
    Ok(postgres::bin_dir()?.join("psql").display().to_string())
}

/// Ends a cluster that was left running, and removes its folder.
///
/// # Errors
/// The folder is not the demo's; or it belongs to another user.
pub(super) async fn stop(screen: &Screen, folder: &Path) -> Result<()> {
    let shown = folder.display();
    let folder = folder.canonicalize().with_context(|| format!("{shown}"))?;
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ensure!(
        name.starts_with(PREFIX) && folder.join(".keep").is_file(),
        "{shown} is not a folder that `ptctl demo --keep` left behind"
    );
    let end = wait_until("the end of its processes", Duration::from_secs(10), || async {
        match process::signal_all(&folder, Signal::KILL) {
            0 => Ok(()),
            left => bail!("{left} processes"),
        }
    });
    screen.during("Stopping", &Nothing, end).await?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {shown}"))?;
    screen.say(&format!("Stopped; {shown} is removed."))
}
