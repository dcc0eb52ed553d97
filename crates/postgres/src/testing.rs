//! Settings for unit tests, made the way the daemon makes them.

use ptarmigan_config::{Effective, PostgresSettings};
use serde_json::{Map, Value, json};

/// A local `postgresql` section laid over the least that a node needs.
pub(crate) fn settings(postgresql: Value) -> PostgresSettings {
    let mut section = json!({
        "listen": "127.0.0.1:5432",
        "connect_address": "127.0.0.1:5432",
        "data_dir": "/data",
        "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "rep"}},
    });
    let mut dynamic = Map::new();
    if let (Some(section), Value::Object(given)) = (section.as_object_mut(), postgresql) {
        for (key, value) in given {
            // A local value is ignored.
            let target = if key == "use_slots" { &mut dynamic } else { &mut *section };
            target.insert(key, value);
        }
    }
    let local = json!({"name": "node-1", "scope": "demo", "restapi": {"listen": "127.0.0.1:8008"},
                       "etcd3": {"host": "127.0.0.1:2379"}, "postgresql": section});
    let dynamic = json!({"postgresql": dynamic});
    let (local, dynamic) = (local.as_object().cloned().unwrap(), dynamic.as_object().cloned().unwrap());
    Effective::build(&local, &dynamic).unwrap().settings.postgresql
}
