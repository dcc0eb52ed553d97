//! `PATCH /config` and `PUT /config`.

use ptarmigan_dcs::{Condition, Error, Written};
use ptarmigan_rest::Reply;
use ptarmigan_types::{Key, Revision, merge, pyjson, scalar};
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
    if merge(&mut merged, patch)
        && let Err(reply) = write_merged(node, &merged, config.revision).await
    {
        return reply;
    }
    node.wake();
    Reply::json(200, Value::Object(merged))
}

/// Only over what was merged with: whoever was faster wins, and the client tries again.
async fn write_merged(node: &Node, merged: &Map<String, Value>, over: Revision) -> Result<(), Reply> {
    let text = pyjson::compact_map(merged);
    match node.dcs.write(&Key::Config, &text, Condition::Revision(over)).await {
        Ok(Written::Applied(_)) => Ok(()),
        Ok(Written::Conflict) => Err(Reply::text(409, "the configuration was changed meanwhile")),
        Err(Error::Refused(reason)) => Err(Reply::text(409, reason)),
        Err(error) => Err(no_dcs(&error)),
    }
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

#[cfg(test)]
mod tests {
    use ptarmigan_dcs::memory::Fault;
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, text};

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    async fn stored(fixture: &Fixture) -> (Value, u64) {
        let config = fixture.cluster().await.config.unwrap();
        (Value::Object(config.value), config.revision)
    }

    #[tokio::test]
    async fn cf_6_patch_merges_and_null_deletes() {
        let fixture = Fixture::new();
        fixture.put(Key::Config, r#"{"ttl":30,"postgresql":{"parameters":{"a":1,"b":2}}}"#).await;
        let change = json!({"loop_wait": 5, "ttl": null, "postgresql": {"parameters": {"a": null}}});
        let reply = patch(&fixture.node, &map(&change)).await;
        let merged = json!({"postgresql": {"parameters": {"b": 2}}, "loop_wait": 5});
        assert_eq!(reply, Reply::json(200, merged.clone()));
        assert_eq!(stored(&fixture).await.0, merged);
    }

    #[tokio::test]
    async fn cf_6_same_text_is_no_change() {
        let fixture = Fixture::new();
        fixture.put(Key::Config, r#"{"ttl":30}"#).await;
        let before = stored(&fixture).await;
        let reply = patch(&fixture.node, &map(&json!({"ttl": "30"}))).await;
        assert_eq!(reply, Reply::json(200, json!({"ttl": 30})), "the old type stays");
        assert_eq!(put(&fixture.node, map(&json!({"ttl": "30"}))).await.status, 200);
        assert_eq!(stored(&fixture).await, before, "nothing is written");
    }

    #[tokio::test]
    async fn patch_without_a_valid_configuration_is_refused() {
        let fixture = Fixture::new();
        let change = map(&json!({"ttl": 40}));
        assert_eq!(patch(&fixture.node, &change).await.status, 503);
        fixture.put(Key::Config, "not JSON").await;
        assert_eq!(patch(&fixture.node, &change).await.status, 503);
        assert_eq!(put(&fixture.node, change.clone()).await.status, 200, "PUT replaces whatever is there");
        assert_eq!(stored(&fixture).await.0, json!({"ttl": 40}));
    }

    /// The handler reads and writes without a pause in between, so the store is asked here as it would be late.
    #[tokio::test]
    async fn patch_that_lost_the_race_is_a_conflict() {
        let fixture = Fixture::new();
        fixture.put(Key::Config, r#"{"ttl":30}"#).await;
        let old = stored(&fixture).await.1;
        fixture.put(Key::Config, r#"{"ttl":50}"#).await;
        let reply = write_merged(&fixture.node, &map(&json!({"ttl": 40})), old).await;
        assert_eq!(reply.map_err(|reply| text(&reply).0), Err(409));
        assert_eq!(stored(&fixture).await.0, json!({"ttl": 50}));
    }

    #[tokio::test]
    async fn store_that_is_away_is_named_as_the_culprit() {
        let fixture = Fixture::new();
        fixture.store.set_fault(&fixture.node.name, Fault::Unreachable);
        assert_eq!(patch(&fixture.node, &map(&json!({"ttl": 40}))).await, Reply::dcs_unreachable());
        assert_eq!(put(&fixture.node, map(&json!({"ttl": 40}))).await, Reply::dcs_unreachable());
    }
}
