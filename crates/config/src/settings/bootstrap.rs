//! The `bootstrap` section (contract B.17.2).

use serde_json::{Map, Value};

/// How a new cluster is made.
#[derive(Clone, Debug, PartialEq)]
pub enum BootstrapMethod {
    /// `initdb`, also where the named method has no command.
    Initdb,
    /// A command of the operator's.
    Custom {
        /// The section's name.
        name: String,
        /// Command line, split as a shell does.
        command: String,
        /// Whether `--scope` and `--datadir` are left out.
        no_params: bool,
        /// Whether `recovery.conf` or the signal files stay.
        keep_existing_recovery_conf: bool,
        /// Recovery settings written before the first start.
        recovery_conf: Option<Map<String, Value>>,
        /// Further keys, passed as `--key=value`.
        arguments: Vec<(String, String)>,
    },
}

/// What a node that initialises a cluster does.
#[derive(Clone, Debug, PartialEq)]
pub struct BootstrapSettings {
    /// Becomes `/config`.
    pub dcs: Map<String, Value>,
    /// `initdb` or a command.
    pub method: BootstrapMethod,
    /// Options of `initdb` as written, for [`crate::options::user_options`].
    pub initdb: Value,
    /// Lines appended to `pg_hba.conf`.
    pub pg_hba: Vec<String>,
    /// Command run once the cluster is up (`post_bootstrap`, alias `post_init`).
    pub post_bootstrap: Option<String>,
}
