//! `/status`: the leader's position and slots (contract A.3.4, UL-3).

use ptarmigan_dcs::Condition;
use ptarmigan_ha::Outcome;
use ptarmigan_types::{Key, Lsn, Status};

use crate::{node::Node, slots};

/// Writes what is known, if it changed. Without a position nothing is written: the last one stays.
pub async fn write(node: &Node) -> Outcome {
    let Some(lsn) = position(node) else { return Outcome::Done };
    let status =
        Status { last_lsn: lsn, slots: slots::published(node, lsn), retain_slots: slots::retained(node) };
    write_if_changed(node, &status).await
}

/// Writes a position with the slots that `/status` has, as a release does (contract A.3.4).
pub async fn write_position(node: &Node, lsn: Lsn) -> Outcome {
    let old = node.known().view.as_ref().map(|view| view.cluster.status.clone()).unwrap_or_default();
    write_if_changed(node, &Status { last_lsn: lsn, ..old }).await
}

async fn write_if_changed(node: &Node, status: &Status) -> Outcome {
    let unchanged = node.known().view.as_ref().is_some_and(|view| view.cluster.status == *status);
    if unchanged {
        return Outcome::Done;
    }
    match node.dcs.write(&Key::Status, &status.to_json(), Condition::Always).await {
        Ok(_) => Outcome::Done,
        Err(error) => {
            tracing::warn!("cannot write /status: {error}");
            Outcome::Failed(error.to_string())
        }
    }
}

fn position(node: &Node) -> Option<Lsn> {
    let known = node.known();
    let figures = known.figures.as_ref()?;
    Some(crate::figures::facts(figures).lsn).filter(|lsn| !lsn.is_zero())
}
