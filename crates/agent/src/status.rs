//! `/status`: the leader's position and slots (contract A.3.4, UL-3).

use ptarmigan_dcs::Condition;
use ptarmigan_ha::Outcome;
use ptarmigan_types::{Cluster, Key, Lsn, Status, version};

use crate::{node::Node, slots};

/// Writes what is known, if it changed. Without a position nothing is written: the last one stays.
pub async fn write(node: &Node) -> Outcome {
    match wanted(node) {
        Some(status) => write_if_changed(node, &status).await,
        None => Outcome::Done,
    }
}

/// What it should say now.
pub fn wanted(node: &Node) -> Option<Status> {
    let lsn = position(node)?;
    let (slots, retain_slots) = (slots::published(node, lsn), slots::retained(node));
    Some(Status { last_lsn: lsn, slots, retain_slots })
}

/// Writes a position with the slots that `/status` has, as a release does (contract A.3.4).
pub async fn write_position(node: &Node, lsn: Lsn) -> Outcome {
    let old = node.known().view.as_ref().map(|view| view.cluster.status.clone()).unwrap_or_default();
    write_if_changed(node, &Status { last_lsn: lsn, ..old }).await
}

/// Whether the store says so already.
pub fn is_written(node: &Node, status: &Status) -> bool {
    let known = node.known();
    let shown = known.view.as_ref().map(|view| &view.cluster.status);
    known.written.status.as_ref().or(shown) == Some(status)
}

async fn write_if_changed(node: &Node, status: &Status) -> Outcome {
    if !is_written(node, status) {
        node.known().written.status = None;
        if let Err(error) = node.dcs.write(&Key::Status, &status.to_json(), Condition::Always).await {
            tracing::warn!("cannot write /status: {error}");
            return Outcome::Failed(error.to_string());
        }
        node.known().written.status = Some(status.clone());
    }
    write_optime(node, status.last_lsn).await;
    Outcome::Done
}

/// Members older than 2.1.0 read the position from a key of its own (contract A.3.5).
async fn write_optime(node: &Node, lsn: Lsn) {
    let wanted = {
        let known = node.known();
        let old = known.view.as_ref().is_some_and(|view| reads_optime(&view.cluster));
        old && known.optime != Some(lsn)
    };
    if !wanted {
        return;
    }
    match node.dcs.write(&Key::Optime, &lsn.0.to_string(), Condition::Always).await {
        Ok(_) => node.known().optime = Some(lsn),
        Err(error) => tracing::warn!("cannot write /optime/leader: {error}"),
    }
}

/// The oldest version among the members that tell one is below 2.1.0.
fn reads_optime(cluster: &Cluster) -> bool {
    let versions = cluster.members.iter().filter_map(|member| member.data.version());
    versions.filter_map(version::parse).min().is_some_and(|oldest| oldest < vec![2, 1, 0])
}

fn position(node: &Node) -> Option<Lsn> {
    let known = node.known();
    let figures = known.figures.as_ref()?;
    Some(crate::figures::facts(figures).lsn).filter(|lsn| !lsn.is_zero())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ptarmigan_dcs::{Dcs as _, Written};
    use ptarmigan_rest::snapshot::Figures;

    use super::*;
    use crate::testing::Fixture;

    fn at(node: &Node, position: u64) {
        node.known().figures = Some(Figures { location: Lsn(position), ..Figures::default() });
    }

    /// The store's revision after one more write: of another key.
    async fn revision(fixture: &Fixture) -> u64 {
        match fixture.other("test").write(&Key::Initialize, "", Condition::Always).await.unwrap() {
            Written::Applied(revision) => revision,
            Written::Conflict => panic!("unconditional"),
        }
    }

    #[tokio::test]
    async fn ul_1_without_a_position_there_is_no_status() {
        let fixture = Fixture::new();
        assert_eq!(write(&fixture.node).await, Outcome::Done);
        assert_eq!(fixture.cluster().await.status, Status::default());
        at(&fixture.node, 0);
        assert_eq!(write(&fixture.node).await, Outcome::Done);
        assert_eq!(fixture.cluster().await.status, Status::default());
        at(&fixture.node, 100);
        assert_eq!(write(&fixture.node).await, Outcome::Done);
        assert_eq!(fixture.cluster().await.status.last_lsn, Lsn(100));
    }

    #[tokio::test]
    async fn ul_3_status_is_written_where_it_changed() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        assert_eq!(write(node).await, Outcome::Done);
        assert_eq!(fixture.cluster().await.status, Status::default(), "no position, no status");
        at(node, 100);
        node.known().slots = Some(BTreeMap::from([("b".to_owned(), Lsn(90))]));
        fixture.look().await;
        assert_eq!(write(node).await, Outcome::Done);
        let status = fixture.cluster().await.status;
        assert_eq!(status.last_lsn, Lsn(100));
        let slots = BTreeMap::from([("a".to_owned(), Lsn(100)), ("b".to_owned(), Lsn(90))]);
        assert_eq!(status.slots, Some(slots.clone()), "my own name has my own position");
        fixture.look().await;
        let before = revision(&fixture).await;
        assert_eq!(write(node).await, Outcome::Done);
        assert_eq!(revision(&fixture).await, before + 1, "nothing was written in between");
        // A release changes the position alone.
        assert_eq!(write_position(node, Lsn(105)).await, Outcome::Done);
        let status = fixture.cluster().await.status;
        assert_eq!((status.last_lsn, status.slots), (Lsn(105), Some(slots)));
    }

    #[tokio::test]
    async fn a_3_5_old_members_find_the_position_where_they_look_for_it() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        for (version, number, expected) in [
            ("4.1.4", 100, 0),
            ("2.1.0", 101, 0),
            ("not one", 102, 0),
            ("2.0.2", 103, 103),
            ("2.0.2", 104, 104),
            ("3.0.0", 105, 104),
        ] {
            let member = serde_json::json!({"version": version}).to_string();
            fixture.other("b").put_member(&member).await.unwrap();
            at(node, number);
            fixture.look().await;
            assert_eq!(write(node).await, Outcome::Done);
            // Without `/status` a reader looks there.
            node.dcs.delete(&Key::Status, Condition::Always).await.unwrap();
            assert_eq!(fixture.cluster().await.status.last_lsn, Lsn(expected), "{version} {number}");
        }
    }
}
