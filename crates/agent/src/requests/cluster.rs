//! `GET /cluster`.

use ptarmigan_rest::{Reply, cluster_document};

use super::fresh_view;
use crate::{node::Node, publish};

pub(super) async fn get(node: &Node) -> Reply {
    let view = match fresh_view(node).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    let (global, scope) =
        node.configuration.with(|settings| (publish::global(settings), settings.scope.clone()));
    Reply::json(200, cluster_document(&view.cluster, &global, &scope))
}
