//! The configuration in force, and where it comes from (contract C.1, C.2, CF-7 to CF-10).

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use ptarmigan_config::{
    DcsChoice, DcsKind, Effective, LocalConfig, Settings, Warning, effective,
    env::Environment,
    load::{self, load},
};
use ptarmigan_dcs::Timing;
use ptarmigan_types::{DynamicConfig, Revision, pyjson};
use serde_json::{Map, Value};

/// The dynamic configuration's copy in the data directory (contract CF-7).
const CACHE_FILE: &str = "patroni.dynamic.json";

/// Local and dynamic configuration, and what they make together.
#[derive(Debug)]
pub struct Configuration {
    effective: ArcSwap<Effective>,
    sources: Mutex<Sources>,
}

#[derive(Debug)]
struct Sources {
    argument: Option<PathBuf>,
    local: LocalConfig,
    /// The `/config` that was looked at last, good or bad: a broken one is not tried again (contract CF-9).
    seen: Option<Revision>,
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files or variables cannot be read.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// They cannot be used.
    #[error(transparent)]
    Effective(#[from] effective::Error),
    /// The node belongs to a Citus cluster, whose groups would get in each other's way.
    #[error("citus: Citus clusters are not supported yet; nothing was started")]
    Citus,
}

impl Configuration {
    /// Reads the local configuration; the dynamic one is the cached copy, else `bootstrap.dcs` (contract CF-7), until
    /// the DCS has one.
    pub fn start(argument: Option<&Path>) -> Result<Self, Error> {
        let local = load(argument, &environment())?;
        log_warnings(&local.warnings);
        let bootstrap = Effective::bootstrap_dynamic(&local.config);
        let mut effective = Effective::build(&local.config, &bootstrap)?;
        if let Some(cached) = read_cache(&effective.settings.postgresql.data_dir) {
            match Effective::build(&local.config, &cached) {
                Ok(with_cache) => effective = with_cache,
                Err(error) => tracing::warn!("{CACHE_FILE} is not used: {error}"),
            }
        }
        log_warnings(&effective.warnings);
        if effective.merged.contains_key("citus") {
            return Err(Error::Citus);
        }
        Ok(Self {
            effective: ArcSwap::from_pointee(effective),
            sources: Mutex::new(Sources { argument: argument.map(Path::to_path_buf), local, seen: None }),
        })
    }

    /// What is in force.
    pub fn current(&self) -> Arc<Effective> {
        self.effective.load_full()
    }

    /// The settings in force.
    pub fn with<T>(&self, read: impl FnOnce(&Settings) -> T) -> T {
        read(&self.effective.load().settings)
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adopts `/config` where it is valid, new and different (contract CF-8, CF-9). True: something changed.
    pub fn adopt(&self, config: Option<&DynamicConfig>) -> bool {
        let Some(config) = config.filter(|config| config.is_valid()) else { return false };
        let mut sources = self.sources();
        if sources.seen == Some(config.revision) {
            return false;
        }
        sources.seen = Some(config.revision);
        let current = self.current();
        match Effective::build(&sources.local.config, &config.value) {
            Ok(new) if new.dynamic == current.dynamic => false,
            Ok(new) => {
                log_warnings(&new.warnings);
                self.effective.store(Arc::new(new));
                true
            }
            Err(error) => {
                tracing::error!("/config is not used, the former one stays: {error}");
                false
            }
        }
    }

    /// Reads the local files again (contract CF-10). Files that cannot be read or used: an error in the log, the former
    /// ones stay. True: something changed.
    pub fn reload(&self) -> bool {
        let mut sources = self.sources();
        let loaded = load(sources.argument.as_deref(), &environment());
        let mut local = match loaded {
            Ok(local) => local,
            Err(error) => {
                tracing::error!("the configuration is not reloaded, the former one stays: {error}");
                return false;
            }
        };
        for key in pin(&mut local.config, &sources.local.config) {
            tracing::error!("{key} changed: it stays as it was until the daemon is restarted");
        }
        if local.config == sources.local.config {
            return false;
        }
        match Effective::build(&local.config, &self.current().dynamic) {
            Ok(new) => {
                log_warnings(&local.warnings);
                log_warnings(&new.warnings);
                for key in needs_restart(&self.current().settings.dcs, &new.settings.dcs) {
                    tracing::warn!("{key} changed: a restart of the daemon brings that into force");
                }
                sources.local = local;
                self.effective.store(Arc::new(new));
                true
            }
            Err(error) => {
                tracing::error!("the configuration is not reloaded, the former one stays: {error}");
                false
            }
        }
    }

    /// The dynamic configuration in force, as it is written to `/config`.
    pub fn dynamic(&self) -> Map<String, Value> {
        self.effective.load().dynamic.clone()
    }

    /// Keeps a copy of the dynamic configuration beside the data, so that the node starts with it while the DCS is away.
    pub fn write_cache(&self) {
        let effective = self.effective.load();
        let folder = &effective.settings.postgresql.data_dir;
        let text = pyjson::compact_map(&effective.dynamic);
        if std::fs::read_to_string(folder.join(CACHE_FILE)).is_ok_and(|old| old == text) {
            return;
        }
        if let Err(error) = replace(folder, &text) {
            tracing::warn!("cannot write {}: {error}", folder.join(CACHE_FILE).display());
        }
    }

    /// Timing for the DCS.
    pub fn timing(&self) -> Timing {
        self.with(|settings| Timing {
            ttl: Duration::from_secs(settings.ttl_s),
            loop_wait: Duration::from_secs(settings.loop_wait_s),
            retry_timeout: Duration::from_secs(settings.retry_timeout_s),
        })
    }
}

/// The variables of this process; text that is not UTF-8 is nobody's setting.
pub fn environment() -> Environment {
    Environment::read(
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    )
}

/// What a running daemon is: another name or data directory would leave a member key and a PostgreSQL behind that nobody
/// looks after.
const IDENTITY: &[&str] = &["name", "scope", "namespace", "postgresql.name", "postgresql.data_dir"];

/// Keeps the identity of a reloaded configuration as it was; returns the keys that differed.
fn pin(new: &mut Map<String, Value>, old: &Map<String, Value>) -> Vec<String> {
    let differs = |key: &&&str| lookup(new, key) != lookup(old, key);
    let mut changed: Vec<String> = IDENTITY.iter().filter(differs).map(|key| (*key).to_owned()).collect();
    // A section that is missing as a whole is refused when it is read.
    changed.retain(|key| put(new, key, lookup(old, key).cloned()));
    changed
}

fn lookup<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => config.get(key),
        Some((section, key)) => config.get(section)?.get(key),
    }
}

/// False where there is no section to put it into.
fn put(config: &mut Map<String, Value>, key: &str, value: Option<Value>) -> bool {
    let (section, key) = match key.split_once('.') {
        None => (Some(config), key),
        Some((section, key)) => (config.get_mut(section).and_then(Value::as_object_mut), key),
    };
    let Some(section) = section else { return false };
    drop(match value {
        Some(value) => section.insert(key.to_owned(), value),
        None => section.remove(key),
    });
    true
}

/// What of another store section the running daemon does not take over; the rest its adapter does
/// ([`ptarmigan_dcs::Dcs::reload`]).
fn needs_restart(old: &DcsChoice, new: &DcsChoice) -> Vec<String> {
    const RELOADED: [&str; 5] = ["username", "password", "cacert", "cert", "key"];
    if old.kind != new.kind {
        return vec!["the DCS".to_owned()];
    }
    if old.kind == DcsKind::Consul {
        return Vec::new();
    }
    let keys: BTreeSet<&String> = old.section.keys().chain(new.section.keys()).collect();
    let changed = keys.into_iter().filter(|key| old.section.get(*key) != new.section.get(*key));
    let fixed = changed.filter(|key| !RELOADED.contains(&key.as_str()));
    fixed.map(|key| format!("{}.{key}", new.kind.as_str())).collect()
}

fn log_warnings(warnings: &[Warning]) {
    for warning in warnings {
        tracing::warn!("configuration: {warning}");
    }
}

/// A half-written or damaged copy counts as none.
fn read_cache(data_dir: &Path) -> Option<Map<String, Value>> {
    let path = data_dir.join(CACHE_FILE);
    let text = std::fs::read_to_string(&path).ok()?;
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(map)) if !map.is_empty() => Some(map),
        Ok(_) => {
            tracing::warn!("{} is no JSON object with anything in it, it is not used", path.display());
            None
        }
        Err(error) => {
            tracing::warn!("{} is not JSON, it is not used: {error}", path.display());
            None
        }
    }
}

/// Temporary file and rename, with the mode that the data directory implies (contract CF-8).
fn replace(folder: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let group_reads = std::fs::metadata(folder)?.permissions().mode() & 0o040 != 0;
    let mode = if group_reads { 0o640 } else { 0o600 };
    let temporary = folder.join(format!("{CACHE_FILE}.tmp"));
    let mut file =
        std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, folder.join(CACHE_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cf_7_half_written_cache_counts_as_none() {
        let folder = std::env::temp_dir().join(format!("ptarmigan-cache-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (text, found) in
            [(r#"{"ttl": 3"#, false), ("", false), ("[]", false), ("{}", false), (r#"{"ttl":30}"#, true)]
        {
            std::fs::write(folder.join(CACHE_FILE), text).unwrap();
            assert_eq!(read_cache(&folder).is_some(), found, "{text}");
        }
        replace(&folder, r#"{"ttl":40}"#).unwrap();
        assert_eq!(read_cache(&folder).unwrap()["ttl"], 40);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    use serde_json::json;

    use crate::testing::Fixture;

    fn dynamic(value: &Value, revision: Revision) -> DynamicConfig {
        DynamicConfig { value: value.as_object().unwrap().clone(), revision }
    }

    fn ttl(configuration: &Configuration) -> u64 {
        configuration.with(|settings| settings.ttl_s)
    }

    #[test]
    fn cf_7_sources_in_order() {
        let fixture = Fixture::new();
        let path = fixture.folder.path().join("node.yml");
        fixture.configure(&json!({"bootstrap": {"dcs": {"ttl": 50}}}));
        assert_eq!(ttl(&Configuration::start(Some(&path)).unwrap()), 50);
        let data_dir = fixture.folder.path().join("data");
        std::fs::create_dir(&data_dir).unwrap();
        std::fs::write(data_dir.join(CACHE_FILE), r#"{"ttl":60}"#).unwrap();
        let configuration = Configuration::start(Some(&path)).unwrap();
        assert_eq!(ttl(&configuration), 60);
        assert!(configuration.adopt(Some(&dynamic(&json!({"ttl": 70}), 1))));
        assert_eq!(ttl(&configuration), 70);
        // One that cannot be used leaves bootstrap.dcs.
        std::fs::write(data_dir.join(CACHE_FILE), r#"{"ttl":"soon"}"#).unwrap();
        assert_eq!(ttl(&Configuration::start(Some(&path)).unwrap()), 50);
    }

    #[test]
    fn cf_8_only_new_and_different_content_counts() {
        let fixture = Fixture::new();
        let configuration = &fixture.node.configuration;
        assert!(!configuration.adopt(None));
        assert!(configuration.adopt(Some(&dynamic(&json!({"ttl": 40}), 5))));
        assert!(!configuration.adopt(Some(&dynamic(&json!({"ttl": 99}), 5))), "this revision was looked at");
        assert!(!configuration.adopt(Some(&dynamic(&json!({"ttl": 40}), 6))), "the same content");
        assert_eq!(ttl(configuration), 40);
        let data_dir = fixture.folder.path().join("data");
        std::fs::create_dir(&data_dir).unwrap();
        configuration.write_cache();
        assert_eq!(read_cache(&data_dir).unwrap()["ttl"], 40);
    }

    #[test]
    fn cf_9_broken_configuration_is_rejected_until_its_next_revision() {
        let fixture = Fixture::new();
        let configuration = &fixture.node.configuration;
        assert!(configuration.adopt(Some(&dynamic(&json!({"ttl": 40}), 1))));
        for broken in [json!({"ttl": "soon"}), json!({"ttl": 45, "postgresql": {"parameters": [1]}})] {
            assert!(!configuration.adopt(Some(&dynamic(&broken, 2))), "{broken}");
            assert_eq!(ttl(configuration), 40, "{broken}");
        }
        assert!(!configuration.adopt(Some(&dynamic(&json!({"ttl": 45}), 2))), "not tried again");
        assert!(configuration.adopt(Some(&dynamic(&json!({"ttl": 45}), 3))));
        assert_eq!(ttl(configuration), 45);
    }

    #[test]
    fn cf_10_broken_file_keeps_the_old_configuration() {
        let fixture = Fixture::new();
        let configuration = &fixture.node.configuration;
        let path = fixture.folder.path().join("node.yml");
        let priority = || configuration.with(|settings| settings.tags.failover_priority());
        fixture.configure(&json!({"tags": {"failover_priority": 7}}));
        assert!(configuration.reload());
        assert_eq!(priority(), 7);
        assert!(!configuration.reload(), "nothing changed");
        for broken in ["", "a: [", "- 1", "name: a"] {
            std::fs::write(&path, broken).unwrap();
            assert!(!configuration.reload(), "{broken:?}");
            assert_eq!(priority(), 7, "{broken:?}");
        }
        fixture.configure(&json!({"tags": {"failover_priority": 8}}));
        assert!(configuration.reload());
        assert_eq!(priority(), 8);
    }

    #[test]
    fn cf_29_a_node_of_a_citus_cluster_is_not_started() {
        let fixture = Fixture::new();
        let path = fixture.folder.path().join("node.yml");
        fixture.configure(&json!({"citus": {"group": 1, "database": "d"}}));
        let error = Configuration::start(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("not supported yet"), "{error}");
        // A section that names no group is none: said, and gone on without.
        fixture.configure(&json!({"citus": {"group": "one", "database": "d"}}));
        Configuration::start(Some(&path)).unwrap();
    }

    #[test]
    fn a_reload_does_not_make_another_node_of_this_one() {
        let fixture = Fixture::new();
        let configuration = &fixture.node.configuration;
        let before = configuration.current();
        let other = json!({"name": "b", "scope": "other", "namespace": "/elsewhere",
                           "postgresql": {"data_dir": "/elsewhere", "pg_ctl_timeout": 17}});
        fixture.configure(&other);
        assert!(configuration.reload());
        let after = configuration.current();
        assert_eq!(after.settings.name, before.settings.name);
        assert_eq!(after.settings.scope, before.settings.scope);
        assert_eq!(after.settings.namespace, before.settings.namespace);
        assert_eq!(after.settings.postgresql.data_dir, before.settings.postgresql.data_dir);
        assert!((after.settings.postgresql.pg_ctl_timeout_s - 17.0).abs() < f64::EPSILON, "the rest counts");
    }
}
