//! `PATRONI_*` variables as a configuration (contract C.1, `env_vars.tsv`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ptarmigan_types::scalar::{parse_bool, parse_int};
use serde_json::{Map, Value};

use crate::{Warning, yaml};

const PREFIX: &str = "PATRONI_";

/// Variables whose value goes to one fixed key. An empty value counts as absent.
const FIXED: &[(&str, &[(&str, As)])] = &[
    (
        "restapi",
        &[
            ("listen", As::Text),
            ("connect_address", As::Text),
            ("certfile", As::Text),
            ("keyfile", As::Text),
            ("keyfile_password", As::Text),
            ("cafile", As::Text),
            ("ciphers", As::Text),
            ("verify_client", As::Text),
            ("http_extra_headers", As::Mapping),
            ("https_extra_headers", As::Mapping),
            ("allowlist", As::List),
            ("allowlist_include_members", As::Flag),
            ("request_queue_size", As::Integer),
            ("server_tokens", As::Text),
        ],
    ),
    (
        "ctl",
        &[
            ("insecure", As::Flag),
            ("cacert", As::Text),
            ("certfile", As::Text),
            ("keyfile", As::Text),
            ("keyfile_password", As::Text),
        ],
    ),
    (
        "postgresql",
        &[
            ("listen", As::Text),
            ("connect_address", As::Text),
            ("proxy_address", As::Text),
            ("config_dir", As::Text),
            ("data_dir", As::Text),
            ("pgpass", As::Text),
            ("bin_dir", As::Text),
        ],
    ),
    (
        "log",
        &[
            ("type", As::Text),
            ("level", As::Text),
            ("traceback_level", As::Text),
            ("format", As::Format),
            ("dateformat", As::Text),
            ("static_fields", As::Mapping),
            ("max_queue_size", As::Integer),
            ("dir", As::Text),
            ("mode", As::Integer),
            ("file_size", As::Integer),
            ("file_num", As::Integer),
            ("loggers", As::Mapping),
            ("deduplicate_heartbeat_logs", As::Flag),
        ],
    ),
    (
        "raft",
        &[
            ("data_dir", As::Text),
            ("self_addr", As::Text),
            ("partner_addrs", As::List),
            ("password", As::Text),
            ("bind_addr", As::Text),
            ("min_timeout", As::Float),
            ("max_timeout", As::Float),
            ("connection_timeout", As::Float),
            ("append_entries_period", As::Float),
            ("connection_retry_time", As::Float),
            ("leader_fallback_timeout", As::Float),
        ],
    ),
];

/// Suffixes that make `PATRONI_<NAME>_<SUFFIX>` a key of section `<name>`, whatever the name. Here an empty
/// text stays.
const SUFFIXES: &[(&str, As)] = &[
    ("HOST", As::Text),
    ("HOSTS", As::List),
    ("PORT", As::Integer),
    ("USE_PROXIES", As::Flag),
    ("PROTOCOL", As::Text),
    ("SRV", As::Text),
    ("SRV_SUFFIX", As::Text),
    ("URL", As::Text),
    ("PROXY", As::Text),
    ("CACERT", As::Text),
    ("CERT", As::Text),
    ("KEY", As::Text),
    ("VERIFY", As::Flag),
    ("TOKEN", As::Text),
    ("CHECKS", As::List),
    ("DC", As::Text),
    ("CONSISTENCY", As::Text),
    ("REGISTER_SERVICE", As::Flag),
    ("SERVICE_CHECK_INTERVAL", As::Text),
    ("SERVICE_CHECK_TLS_SERVER_NAME", As::Text),
    ("SERVICE_TAGS", As::List),
    ("NAMESPACE", As::Text),
    ("CONTEXT", As::Text),
    ("USE_ENDPOINTS", As::Flag),
    ("SCOPE_LABEL", As::Text),
    ("ROLE_LABEL", As::Text),
    ("POD_IP", As::Text),
    ("PORTS", As::List),
    ("LABELS", As::Mapping),
    ("BYPASS_API_SERVICE", As::Flag),
    ("RETRIABLE_HTTP_CODES", As::List),
    ("KEY_PASSWORD", As::Text),
    ("USE_SSL", As::Text),
    ("SET_ACLS", As::Mapping),
    ("GROUP", As::Text),
    ("DATABASE", As::Text),
    ("LEADER_LABEL_VALUE", As::Text),
    ("FOLLOWER_LABEL_VALUE", As::Text),
    ("STANDBY_LEADER_LABEL_VALUE", As::Text),
    ("TMP_ROLE_LABEL", As::Text),
    ("AUTH_DATA", As::Mapping),
    ("BOOTSTRAP_LABELS", As::Mapping),
];

const BINARIES: &[&str] =
    &["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind"];

/// What an entry of `postgresql.authentication` may hold (contract CF-27).
pub(crate) const CREDENTIAL_KEYS: &[&str] = &[
    "username",
    "password",
    "sslmode",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "gssencmode",
    "channel_binding",
    "sslnegotiation",
];

/// How a variable's text becomes a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Text,
    Flag,
    Integer,
    Float,
    /// YAML list, brackets optional.
    List,
    /// YAML mapping, braces optional.
    Mapping,
    /// A text, or a list where it holds no `%(name)`.
    Format,
}

/// The configuration that environment variables make.
///
/// `Debug` leaves the configuration out: it holds passwords.
#[derive(Clone, Default, PartialEq)]
pub struct Environment {
    /// The configuration; merged over the file's (contract CF-2).
    pub config: Map<String, Value>,
    /// `PATRONI_CONFIGURATION`, where set and not empty.
    pub configuration: Option<String>,
    /// Names of the variables that were read: they are removed from the environment of child processes.
    pub consumed: BTreeSet<String>,
    /// Values that could not be read. A value is never repeated here.
    pub warnings: Vec<Warning>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Environment");
        shown.field("consumed", &self.consumed).field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

impl Environment {
    /// Reads the variables; those of other programs are passed over.
    pub fn read(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with(PREFIX) || name == "PTARMIGAN_GUARDIAN");
        let mut reader = Reader { variables: ours.collect(), result: Self::default() };
        reader.result.configuration = reader.take("CONFIGURATION").filter(|text| !text.is_empty());
        reader.top_level();
        reader.legacy_log();
        reader.fixed();
        reader.credentials();
        reader.stores();
        if let Some(mode) = reader.variables.remove("PTARMIGAN_GUARDIAN").filter(|mode| !mode.is_empty()) {
            reader.set(&["guardian", "mode"], Value::String(mode));
        }
        reader.result
    }
}

struct Reader {
    variables: BTreeMap<String, String>,
    result: Environment,
}

impl Reader {
    fn take(&mut self, name: &str) -> Option<String> {
        let name = format!("{PREFIX}{}", name.to_uppercase());
        let value = self.variables.remove(&name)?;
        self.result.consumed.insert(name);
        Some(value)
    }

    fn take_filled(&mut self, name: &str) -> Option<String> {
        self.take(name).filter(|value| !value.is_empty())
    }

    fn set(&mut self, path: &[&str], value: Value) {
        let Some((last, sections)) = path.split_last() else { return };
        let mut map = &mut self.result.config;
        for section in sections {
            let entry = map.entry(*section).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inner) = entry else { return };
            map = inner;
        }
        map.insert((*last).to_owned(), value);
    }

    fn top_level(&mut self) {
        for key in ["name", "namespace", "scope", "thread_pool_size", "thread_stack_size"] {
            if let Some(value) = self.take_filled(key) {
                self.set(&[key], Value::String(value));
            }
        }
    }

    /// The variables of old releases give way to the new ones.
    fn legacy_log(&mut self) {
        for (old, key) in [("LOGLEVEL", "level"), ("LOGFORMAT", "format"), ("LOG_DATEFMT", "dateformat")] {
            if let Some(value) = self.take(old) {
                let new = format!("{PREFIX}LOG_{}", key.to_uppercase());
                if self.variables.get(&new).is_none_or(String::is_empty) {
                    self.variables.insert(new, value);
                }
            }
        }
    }

    fn fixed(&mut self) {
        for (section, keys) in FIXED {
            for (key, kind) in *keys {
                let variable = format!("{section}_{key}");
                if let Some(text) = self.take_filled(&variable)
                    && let Some(value) = self.convert(&variable, &text, *kind)
                {
                    self.set(&[section, key], value);
                }
            }
        }
        for binary in BINARIES {
            if let Some(value) = self.take_filled(&format!("POSTGRESQL_BIN_{binary}")) {
                self.set(&["postgresql", "bin_name", binary], Value::String(value));
            }
        }
    }

    fn credentials(&mut self) {
        for section in ["ctl", "restapi"] {
            for key in &CREDENTIAL_KEYS[..2] {
                if let Some(value) = self.take_filled(&format!("{section}_{key}")) {
                    self.set(&[section, "authentication", key], Value::String(value));
                }
            }
        }
        for user in ["replication", "superuser", "rewind"] {
            for key in CREDENTIAL_KEYS {
                if let Some(value) = self.take_filled(&format!("{user}_{key}")) {
                    self.set(&["postgresql", "authentication", user, key], Value::String(value));
                }
            }
        }
    }

    fn stores(&mut self) {
        let names: Vec<String> =
            self.variables.keys().filter(|name| name.starts_with(PREFIX)).cloned().collect();
        for name in names {
            let Some((section, suffix)) = name[PREFIX.len()..].split_once('_') else { continue };
            let Some((_, kind)) = SUFFIXES.iter().find(|(known, _)| *known == suffix) else { continue };
            if section.is_empty() {
                continue;
            }
            let kind = match (section, suffix) {
                ("CITUS", "GROUP") => As::Integer,
                ("CITUS", "DATABASE") => As::Text,
                ("CITUS", _) => continue,
                _ => *kind,
            };
            let Some(text) = self.take(&name[PREFIX.len()..]) else { continue };
            // An empty list or port stays an empty text.
            let keeps_empty =
                matches!(kind, As::Text | As::List) || (kind == As::Integer && suffix == "PORT");
            let value = if text.is_empty() && keeps_empty {
                Some(Value::String(text))
            } else {
                self.convert(&name[PREFIX.len()..], &text, kind)
            };
            if let Some(value) = value {
                self.set(&[&section.to_lowercase(), &suffix.to_lowercase()], value);
            }
        }
        for store in ["etcd", "etcd3"] {
            // User and password alone make no section.
            for key in &CREDENTIAL_KEYS[..2] {
                if self.result.config.contains_key(store)
                    && let Some(value) = self.take_filled(&format!("{store}_{key}"))
                {
                    self.set(&[store, key], Value::String(value));
                }
            }
        }
    }

    fn convert(&mut self, variable: &str, text: &str, kind: As) -> Option<Value> {
        let as_text = || Value::String(text.to_owned());
        let (value, expected) = match kind {
            As::Text => return Some(as_text()),
            As::Format if has_template_field(text) => return Some(as_text()),
            As::Flag => {
                (parse_bool(&as_text()).map(Value::Bool), "not a boolean (on, off, true, false, ...)")
            }
            As::Integer => (parse_int(&as_text(), None).map(Value::from), "not an integer"),
            As::Float => (text.trim().parse::<f64>().ok().map(Value::from), "not a number"),
            As::List | As::Format => {
                let bare = !(text.trim().starts_with('-') || text.contains('['));
                (read_yaml(text, bare.then_some(('[', ']'))), "not a YAML list")
            }
            As::Mapping => {
                let bare = !text.trim().starts_with('{');
                (read_yaml(text, bare.then_some(('{', '}'))), "not a YAML mapping")
            }
        };
        if value.is_none() && kind == As::Format {
            return Some(as_text());
        }
        if value.is_none() && !text.is_empty() {
            let name = format!("{PREFIX}{}", variable.to_uppercase());
            self.result.warnings.push(Warning::new(name, format!("the value is {expected}: ignored")));
        }
        value
    }
}

fn read_yaml(text: &str, brackets: Option<(char, char)>) -> Option<Value> {
    let text = match brackets {
        Some((open, close)) => format!("{open}{text}{close}"),
        None => text.to_owned(),
    };
    yaml::parse(&text).ok().map(|document| document.value).filter(|value| !value.is_null())
}

/// `%(name)` somewhere.
fn has_template_field(text: &str) -> bool {
    text.split("%(").skip(1).any(|rest| {
        rest.split_once(')').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
        })
    })
}
