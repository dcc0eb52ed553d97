//! The `postgresql` section.

use std::{collections::BTreeMap, path::PathBuf};

use ptarmigan_types::{Role, scalar::python_str};
use serde_json::{Map, Value};

use super::read::Section;
use crate::{HostPort, Secret, controlled, dynamic::name_list, effective::insert_guc};

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

/// Keys of a section as `--key=value` arguments, as Python prints the values.
pub(super) fn arguments(section: &Section<'_>, not_passed: &[&str]) -> Vec<(String, String)> {
    section
        .keys()
        .filter(|key| !not_passed.contains(&key.as_str()))
        .map(|key| (key.clone(), section.get(key).map_or_else(|| "None".to_owned(), python_str)))
        .collect()
}

impl Credentials {
    fn read(section: &Section<'_>) -> Self {
        let own = ["username", "password", "sslpassword"];
        let parameters = section
            .keys()
            .filter(|key| !own.contains(&key.as_str()))
            .filter_map(|key| section.filled_text(key).map(|text| (key.clone(), text)))
            .collect();
        Self {
            username: section.filled_text("username"),
            password: section.secret("password"),
            sslpassword: section.secret("sslpassword"),
            parameters,
        }
    }
}

impl ReplicaMethod {
    fn read(name: &str, section: &Section<'_>) -> Self {
        let no_params = section.flag("no_params", false);
        let flags = ["command", "no_params", "no_leader", "keep_data"];
        Self {
            command: section.command("command").unwrap_or_else(|| name.to_owned()),
            keep_data: section.flag("keep_data", false),
            no_params,
            no_leader: section.flag("no_leader", false),
            arguments: arguments(section, if no_params { &flags } else { &flags[..1] }),
        }
    }
}

impl Callbacks {
    fn read(section: &Section<'_>) -> Self {
        Self {
            on_start: section.command("on_start"),
            on_stop: section.command("on_stop"),
            on_restart: section.command("on_restart"),
            on_reload: section.command("on_reload"),
            on_role_change: section.command("on_role_change"),
        }
    }
}

impl<T> PerRole<T> {
    fn read(section: &Section<'_>, key: &str, read: impl Fn(&str) -> T) -> Self {
        let role = |role: &str| {
            let key = format!("{key}_{role}");
            section.get(&key).map(|_| read(&key))
        };
        Self { primary: role("primary"), replica: role("replica"), standby_leader: role("standby_leader") }
    }
}

impl<T> PerRole<T> {
    /// What is given for a role; nothing for a node without data.
    pub const fn of(&self, role: Role) -> Option<&T> {
        match role {
            Role::Primary | Role::Promoted => self.primary.as_ref(),
            Role::Replica | Role::Demoted => self.replica.as_ref(),
            Role::StandbyLeader => self.standby_leader.as_ref(),
            Role::Uninitialized => None,
        }
    }
}

impl PostgresSettings {
    /// The operator's GUCs in a role (contract CF-25).
    pub fn parameters_for(&self, role: Role) -> Map<String, Value> {
        let mut parameters = self.parameters.clone();
        for (name, value) in self.parameters_by_role.of(role).into_iter().flatten() {
            insert_guc(&mut parameters, name, value.clone());
        }
        parameters
    }

    /// The lines of `pg_hba.conf` in a role (contract CF-25).
    pub fn pg_hba_for(&self, role: Role) -> &[String] {
        self.pg_hba_by_role.of(role).unwrap_or(&self.pg_hba)
    }

    /// The lines of `pg_ident.conf` in a role (contract CF-25).
    pub fn pg_ident_for(&self, role: Role) -> &[String] {
        self.pg_ident_by_role.of(role).unwrap_or(&self.pg_ident)
    }

    /// A program: its own name where it has one, in `bin_dir` where that is given.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(self.bin_name.get(name).map_or(name, String::as_str))
    }

    pub(super) fn read(section: &Section<'_>, use_slots: bool) -> Self {
        let data_dir = PathBuf::from(section.required_text("data_dir"));
        let authentication = section.section("authentication");
        if !authentication.has("replication") {
            section.fault("authentication.replication", "is not defined");
        }
        let superuser = Credentials::read(&authentication.section("superuser"));
        let rewind = Credentials::read(&authentication.section("rewind"));
        let rewind_configured = rewind != Credentials::default();
        let (controlled, parameters) =
            section.mapping("parameters").into_iter().partition(|(name, _)| controlled::is_controlled(name));
        let create_replica_methods = methods(section);
        let replica_methods = create_replica_methods
            .iter()
            .filter(|name| *name != "basebackup")
            .map(|name| (name.clone(), ReplicaMethod::read(name, &section.section(name))))
            .collect();
        let options = |key: &str| section.get(key).cloned().unwrap_or_else(|| Value::Array(Vec::new()));
        Self {
            listen: section.required_address("listen", 5432),
            connect_address: section.address("connect_address", 5432),
            proxy_address: section.address("proxy_address", 5432),
            config_dir: section.path("config_dir").unwrap_or_else(|| data_dir.clone()),
            data_dir,
            config_base_name: section
                .filled_text("config_base_name")
                .unwrap_or_else(|| "postgresql".to_owned()),
            bin_dir: section.path("bin_dir").unwrap_or_default(),
            bin_name: section.text_map("bin_name"),
            pgpass: section.path("pgpass"),
            database: section.filled_text("database").unwrap_or_else(|| "postgres".to_owned()),
            replication: Credentials::read(&authentication.section("replication")),
            rewind: if rewind_configured { rewind } else { superuser.clone() },
            superuser,
            rewind_configured,
            use_unix_socket: section.flag("use_unix_socket", false),
            use_unix_socket_repl: section.flag("use_unix_socket_repl", false),
            use_slots,
            use_pg_rewind: section.flag("use_pg_rewind", false),
            remove_data_directory_on_rewind_failure: section
                .flag("remove_data_directory_on_rewind_failure", false),
            remove_data_directory_on_diverged_timelines: section
                .flag("remove_data_directory_on_diverged_timelines", false),
            parameters,
            controlled,
            parameters_by_role: PerRole::read(section, "parameters", |key| role_parameters(section, key)),
            pg_hba: section.lines("pg_hba"),
            pg_hba_by_role: PerRole::read(section, "pg_hba", |key| section.lines(key)),
            pg_ident: section.lines("pg_ident"),
            pg_ident_by_role: PerRole::read(section, "pg_ident", |key| section.lines(key)),
            create_replica_methods,
            replica_methods,
            basebackup: options("basebackup"),
            rewind_options: options("rewind"),
            callbacks: Callbacks::read(&section.section("callbacks")),
            pre_promote: section.command("pre_promote"),
            before_stop: section.command("before_stop"),
            custom_conf: section.path("custom_conf"),
            pg_ctl_timeout_s: section.seconds("pg_ctl_timeout", 60.0),
            recovery_conf: recovery_conf(section),
            krbsrvname: section.filled_text("krbsrvname"),
        }
    }
}

fn methods(section: &Section<'_>) -> Vec<String> {
    let key = if section.get("create_replica_methods").is_some() {
        "create_replica_methods"
    } else {
        "create_replica_method"
    };
    let value = section.get(key);
    if value.is_some_and(|value| !value.is_array()) {
        section.warn(key, "is not a list: its names are taken");
    }
    value.and_then(name_list).unwrap_or_else(|| vec!["basebackup".to_owned()])
}

/// A role may not change a controlled GUC (contract CF-25).
fn role_parameters(section: &Section<'_>, key: &str) -> Map<String, Value> {
    let mut parameters = section.mapping(key);
    parameters.retain(|name, _| {
        let controlled = controlled::is_controlled(name);
        if controlled {
            section.warn(&format!("{key}.{name}"), "is ignored: a role cannot change it");
        }
        !controlled
    });
    parameters
}

/// Targets of a recovery and the upstream are the manager's.
fn recovery_conf(section: &Section<'_>) -> Map<String, Value> {
    let mut settings = section.mapping("recovery_conf");
    settings.retain(|name, _| {
        let name = name.to_lowercase();
        !(name.starts_with("recovery_target") || name == "primary_conninfo" || name == "primary_slot_name")
    });
    settings
}
