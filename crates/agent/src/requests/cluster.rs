//! `GET /cluster`.

use ptarmigan_rest::{Reply, cluster_document};

use super::no_dcs;
use crate::{node::Node, publish};

/// A view that was read after the request came. Requests that wait for their turn share one: anybody may ask, and the
/// store is not theirs to flood.
pub(super) async fn get(node: &Node) -> Reply {
    let asked = ptarmigan_clock::now();
    let mut shared = node.shared_view.lock().await;
    if shared.as_ref().is_none_or(|(begun, _)| *begun < asked) {
        let begun = ptarmigan_clock::now();
        *shared = None;
        match node.dcs.view_fresh().await {
            Ok(view) => *shared = Some((begun, view)),
            Err(error) => return no_dcs(&error),
        }
    }
    let Some((_, view)) = shared.as_ref() else { return Reply::dcs_unreachable() };
    let (global, scope) =
        node.configuration.with(|settings| (publish::global(settings), settings.scope.clone()));
    Reply::json(200, cluster_document(&view.cluster, &global, &scope))
}
