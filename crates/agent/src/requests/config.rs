//! `PATCH /config` and `PUT /config`.

use ptarmigan_dcs::{Condition, Error, Written};
use ptarmigan_rest::Reply;
use ptarmigan_types::{Key, merge, pyjson, scalar};
use serde_json::{Map, Value};

use super::{fresh_view, no_dcs};
use crate::node::Node;

pub(super) async fn patch(node: &Node, patch: &Map<String, Value>) -> Reply {
    let view = match fresh_view(node).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    let Some(config) = view.cluster.config.filter(|config| config.is_valid()) else {
        return Reply::text(503, "the DCS holds no valid configuration");
    };
    let mut merged = config.value;
    if merge(&mut merged, patch) {
        let text = pyjson::compact_map(&merged);
        match node.dcs.write(&Key::Config, &text, Condition::Revision(config.revision)).await {
            Ok(Written::Applied(_)) => {}
            Ok(Written::Conflict) => return Reply::text(409, "the configuration was changed meanwhile"),
            Err(Error::Refused(reason)) => return Reply::text(409, reason),
            Err(error) => return no_dcs(&error),
        }
    }
    node.wake();
    Reply::json(200, Value::Object(merged))
}

pub(super) async fn put(node: &Node, config: Map<String, Value>) -> Reply {
    let view = match fresh_view(node).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    let same = view.cluster.config.is_some_and(|old| old.is_valid() && scalar::same_map(&old.value, &config));
    if !same {
        let text = pyjson::compact_map(&config);
        match node.dcs.write(&Key::Config, &text, Condition::Always).await {
            Ok(_) => {}
            Err(Error::Refused(reason)) => return Reply::text(502, reason),
            Err(error) => return no_dcs(&error),
        }
    }
    Reply::json(200, Value::Object(config))
}
