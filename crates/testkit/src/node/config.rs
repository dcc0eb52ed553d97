//! A node's configuration file.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Node, Runner};
use crate::postgres;

/// The passwords of a cluster's database users.
#[derive(Clone)]
pub struct Credentials {
    /// Of `postgres`.
    pub superuser: String,
    /// Of `replicator`.
    pub replication: String,
    /// Of `rewinder`.
    pub rewind: String,
}

impl Credentials {
    /// New passwords.
    pub fn random() -> Self {
        Self {
            superuser: postgres::random_password(),
            replication: postgres::random_password(),
            rewind: postgres::random_password(),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Credentials(...)")
    }
}

/// The configuration of a node that nothing has altered yet.
pub(super) fn default(node: &Node) -> Result<Value> {
    let spec = &node.spec;
    let credentials = &spec.credentials;
    let mut config = json!({
        "scope": spec.scope,
        "namespace": spec.namespace,
        "name": spec.name,
        "restapi": {"listen": node.rest.address(), "connect_address": node.rest.address()},
        "bootstrap": bootstrap(),
        "postgresql": {
            "listen": node.postgres.address(),
            "connect_address": node.postgres.address(),
            "data_dir": node.data_dir(),
            "bin_dir": postgres::bin_dir()?,
            "pgpass": node.home.join("pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", "password": credentials.superuser},
                "replication": {"username": "replicator", "password": credentials.replication},
                "rewind": {"username": "rewinder", "password": credentials.rewind},
            },
            "pg_hba": [
                "local all all md5",
                "host all all 127.0.0.1/32 md5",
                "host replication replicator 127.0.0.1/32 md5",
            ],
            // a path of a socket has at most 107 bytes: the workspace's own folder, not the node's
            "parameters": {"unix_socket_directories": node.workspace.path()},
        },
        "tags": {},
    });
    let (store, section) = &spec.dcs;
    config[store] = section.clone();
    if matches!(spec.runner, Runner::Patroni(_)) {
        // a workspace has no watchdog to give
        config["watchdog"] = json!({"mode": "off"});
    }
    Ok(config)
}

/// The shortest timing that Patroni takes as well, and small servers: several run on one machine.
fn bootstrap() -> Value {
    json!({
        "dcs": {
            "ttl": 20,
            "loop_wait": 2,
            "retry_timeout": 5,
            "maximum_lag_on_failover": 1_048_576,
            "postgresql": {
                "use_pg_rewind": true,
                "use_slots": true,
                "parameters": {
                    "max_connections": 50,
                    "shared_buffers": "16MB",
                    "wal_keep_size": "64MB",
                    "hot_standby": "on",
                },
            },
        },
        "initdb": [{"encoding": "UTF8"}, "data-checksums"],
    })
}
