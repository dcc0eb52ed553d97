//! The cluster, its writer and its table: what the demo acts on and what it looks at meanwhile.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use ptarmigan_testkit::{Cluster, Node, Writer, wait_until};
use serde_json::Value;

use super::{members::Members, screen::Picture};

/// Everything that runs.
pub(super) struct Stage {
    /// etcd, HAProxy and the nodes.
    pub(super) cluster: Cluster,
    /// What is shown of them.
    pub(super) view: View,
}

/// What is shown while the cluster is acted on.
pub(super) struct View {
    /// The member table.
    pub(super) members: Members,
    /// The client that writes, once there is one.
    pub(super) writer: Option<Writer>,
}

impl Picture for View {
    async fn draw(&self) -> String {
        let table = self.members.table().await;
        let table = table.unwrap_or_else(|error| format!("the members cannot be read: {error:#}\n"));
        let writer = self.writer.as_ref().map(describe).unwrap_or_default();
        format!("{table}{writer}")
    }
}

fn describe(writer: &Writer) -> String {
    let quiet = writer.last_acknowledged().map(|row| ptarmigan_clock::now().since(row.at));
    let count = writer.count();
    match quiet {
        Some(quiet) if quiet > Duration::from_millis(500) => {
            format!("writer: {count} rows acknowledged, no write for {:.1} s\n", quiet.as_secs_f64())
        }
        _ => format!("writer: {count} rows acknowledged\n"),
    }
}

/// Waits until one node, `not` excepted, answers that it is the primary; returns its index.
///
/// # Errors
/// None, or more than one, does by the deadline.
pub(super) async fn one_primary(cluster: &Cluster, not: Option<usize>, deadline: Duration) -> Result<usize> {
    wait_until("one primary", deadline, || async {
        let primaries = cluster.primaries().await;
        ensure!(
            primaries.len() == 1 && not != Some(primaries[0]),
            "primaries: {}",
            names(cluster, &primaries)
        );
        Ok(primaries[0])
    })
    .await
}

/// Waits until exactly these nodes, besides the leader, stream on the leader's timeline.
///
/// # Errors
/// They do not by the deadline.
pub(super) async fn streaming(
    cluster: &Cluster,
    leader: usize,
    replicas: usize,
    deadline: Duration,
) -> Result<()> {
    wait_until(&format!("{replicas} streaming replicas"), deadline, || async {
        let members = cluster.members().await?;
        let (leaders, rest): (Vec<&Value>, Vec<&Value>) =
            members.iter().partition(|member| member["name"] == cluster.nodes[leader].name());
        let timeline = leaders.first().map(|member| &member["timeline"]);
        let count = rest
            .iter()
            .filter(|member| member["state"] == "streaming" && Some(&member["timeline"]) == timeline)
            .count();
        ensure!(count == replicas, "members: {}", Value::from(members.clone()));
        Ok(())
    })
    .await
}

/// `node1 and node3`
pub(super) fn names(cluster: &Cluster, indices: &[usize]) -> String {
    let names: Vec<&str> = indices.iter().map(|index| cluster.nodes[*index].name()).collect();
    match names.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => (*only).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// Waits until a node has every acknowledged row; a replica may need a moment.
///
/// # Errors
/// Rows are missing at the deadline.
pub(super) async fn all_rows_on(node: &Node, writer: &Writer, deadline: Duration) -> Result<()> {
    let missing = wait_until("every acknowledged row", deadline, || async {
        let missing: BTreeSet<i64> = writer.verify(&node.connect().await?).await?.into_iter().collect();
        let some: Vec<_> = missing.iter().take(5).collect();
        ensure!(missing.is_empty(), "{} rows are missing, the first with id {some:?}", missing.len());
        Ok(())
    });
    missing.await.map_err(|error| error.context(format!("acknowledged rows are missing on {}", node.name())))
}
