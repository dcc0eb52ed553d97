//! The `postgresql` section.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value};

use crate::{HostPort, Secret};

/// A PostgreSQL user and how it connects (contract CF-27).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Credentials {
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// `sslpassword`: the password of the client key.
    pub sslpassword: Option<Secret>,
    /// The other libpq parameters: sslmode, sslcert, sslkey, sslrootcert, sslcrl, sslcrldir, gssencmode,
    /// channel_binding, sslnegotiation.
    pub parameters: BTreeMap<String, String>,
}

/// Commands run when something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    /// After a start.
    pub on_start: Option<String>,
    /// After a stop.
    pub on_stop: Option<String>,
    /// After a restart.
    pub on_restart: Option<String>,
    /// After a reload.
    pub on_reload: Option<String>,
    /// After promotion or demotion.
    pub on_role_change: Option<String>,
}

/// A section of a replica method that is not `basebackup` (contract B.17.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaMethod {
    /// Command line, split as a shell does; the method's name where not given.
    pub command: String,
    /// Whether the data directory is kept before and after.
    pub keep_data: bool,
    /// Whether only the section's own keys are passed.
    pub no_params: bool,
    /// Whether it works without a running member.
    pub no_leader: bool,
    /// `--key=value` for every key but `command`, as Python prints the values; without `no_params` this
    /// includes `keep_data` and `no_leader`.
    pub arguments: Vec<(String, String)>,
}

/// A setting that a role may replace (contract CF-25).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PerRole<T> {
    /// As primary.
    pub primary: Option<T>,
    /// As replica.
    pub replica: Option<T>,
    /// As leader of a standby cluster.
    pub standby_leader: Option<T>,
}

/// The local PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// Addresses and port to listen on.
    pub listen: HostPort,
    /// What others are told to connect to; `None` takes the first local TCP address.
    pub connect_address: Option<HostPort>,
    /// Address of a proxy, published as `proxy_url`.
    pub proxy_address: Option<HostPort>,
    /// Data directory, as written.
    pub data_dir: PathBuf,
    /// Folder of the configuration files; the data directory where not given.
    pub config_dir: PathBuf,
    /// `postgresql`: first part of `postgresql.conf` and `postgresql.base.conf`.
    pub config_base_name: String,
    /// Folder of the programs; empty for `PATH`.
    pub bin_dir: PathBuf,
    /// Program by its usual name, where it is called otherwise.
    pub bin_name: BTreeMap<String, String>,
    /// The password file that we write; `None` for `~/pgpass`.
    pub pgpass: Option<PathBuf>,
    /// Maintenance database.
    pub database: String,
    /// Superuser.
    pub superuser: Credentials,
    /// Replication user.
    pub replication: Credentials,
    /// User of `pg_rewind`; the superuser where not given.
    pub rewind: Credentials,
    /// Whether `rewind` was given on its own.
    pub rewind_configured: bool,
    /// Superuser connections over the unix socket.
    pub use_unix_socket: bool,
    /// Local replication connections over the unix socket.
    pub use_unix_socket_repl: bool,
    /// Whether replication slots are used.
    pub use_slots: bool,
    /// Whether a diverged server may be rewound.
    pub use_pg_rewind: bool,
    /// Whether a failed rewind may be followed by removal and a new copy.
    pub remove_data_directory_on_rewind_failure: bool,
    /// Whether a diverged server is removed and copied anew without a rewind.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// GUCs of the operator, dynamic and local merged; those of contract C.4 are not among them.
    pub parameters: Map<String, Value>,
    /// Valid dynamic values of the GUCs of contract C.4, for [`crate::controlled::controlled_gucs`].
    pub controlled: Map<String, Value>,
    /// Merged over `parameters` in a role.
    pub parameters_by_role: PerRole<Map<String, Value>>,
    /// Lines of `pg_hba.conf`; empty leaves the file alone.
    pub pg_hba: Vec<String>,
    /// Replace `pg_hba` in a role.
    pub pg_hba_by_role: PerRole<Vec<String>>,
    /// Lines of `pg_ident.conf`; empty leaves the file alone.
    pub pg_ident: Vec<String>,
    /// Replace `pg_ident` in a role.
    pub pg_ident_by_role: PerRole<Vec<String>>,
    /// Replica methods in the order to try them.
    pub create_replica_methods: Vec<String>,
    /// Sections of those methods, `basebackup` left out.
    pub replica_methods: BTreeMap<String, ReplicaMethod>,
    /// Options of `pg_basebackup` as written, for [`crate::options::user_options`].
    pub basebackup: Value,
    /// Options of `pg_rewind` as written, for [`crate::options::user_options`].
    pub rewind_options: Value,
    /// Commands run when something happened.
    pub callbacks: Callbacks,
    /// Command run before a promotion; a non-zero exit aborts it.
    pub pre_promote: Option<String>,
    /// Command run before a stop.
    pub before_stop: Option<String>,
    /// File included instead of the base configuration.
    pub custom_conf: Option<PathBuf>,
    /// How long a start or stop may take, in seconds.
    pub pg_ctl_timeout_s: f64,
    /// Recovery settings; recovery targets and the upstream are not among them.
    pub recovery_conf: Map<String, Value>,
    /// Kerberos service name.
    pub krbsrvname: Option<String>,
}
