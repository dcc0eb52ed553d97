//! The `bootstrap` section (contract B.17.2).

use serde_json::{Map, Value};

use super::{postgresql::arguments, read::Section};

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

impl BootstrapSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        if section.has("users") {
            section.warn("users", "is ignored: users are made by post_bootstrap");
        }
        Self {
            dcs: section.mapping("dcs"),
            method: method(section),
            initdb: section.get("initdb").cloned().unwrap_or_else(|| Value::Array(Vec::new())),
            pg_hba: section.lines("pg_hba"),
            post_bootstrap: section.command("post_bootstrap").or_else(|| section.command("post_init")),
        }
    }
}

fn method(section: &Section<'_>) -> BootstrapMethod {
    let Some(name) = section.filled_text("method").filter(|name| name != "initdb") else {
        return BootstrapMethod::Initdb;
    };
    let own = section.section(&name);
    let Some(command) = own.command("command") else {
        section.warn("method", format!("{name} has no bootstrap.{name}.command: initdb is used"));
        return BootstrapMethod::Initdb;
    };
    let not_passed =
        ["command", "no_params", "keep_existing_recovery_conf", "recovery_conf", "scope", "datadir"];
    BootstrapMethod::Custom {
        command,
        no_params: own.flag("no_params", false),
        keep_existing_recovery_conf: own.flag("keep_existing_recovery_conf", false),
        recovery_conf: own.has("recovery_conf").then(|| own.mapping("recovery_conf")),
        arguments: arguments(&own, &not_passed),
        name,
    }
}
