//! Where the configuration comes from (contract C.2).

use std::{collections::BTreeMap, fs::File, path::PathBuf, time::Duration};

use anyhow::{Result, anyhow, bail};
use ptarmigan_config::{CtlSettings, DcsChoice, Environment, LocalConfig, load};
use ptarmigan_dcs::Timing;
use ptarmigan_types::scalar;
use serde_json::{Map, Value, json};

use crate::cli::Global;

/// The stores that a URL can name, and their usual ports.
const URL_STORES: [(&str, u16); 5] =
    [("etcd", 2379), ("etcd3", 2379), ("consul", 8500), ("zookeeper", 2181), ("exhibitor", 8181)];

/// What the commands need to know.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    /// The cluster where a command names none.
    pub(crate) scope: Option<String>,
    /// The prefix of every key.
    pub(crate) namespace: String,
    /// The store; `None` where none is configured.
    pub(crate) dcs: Option<DcsChoice>,
    /// How to call REST servers.
    pub(crate) ctl: CtlSettings,
    /// For the store.
    pub(crate) timing: Timing,
    /// Present where this is a Citus cluster: the configured group.
    pub(crate) citus: Option<Option<i64>>,
}

/// The environment as text; what is not UTF-8 is not ours.
pub(crate) fn variables() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

impl Configuration {
    /// Finds and reads the configuration.
    ///
    /// # Errors
    /// A file that was named cannot be read or is no mapping; the URL names no store.
    pub(crate) fn discover(global: &Global, variables: &BTreeMap<String, String>) -> Result<Self> {
        let filled = |name: &str| variables.get(name).filter(|value| !value.is_empty()).cloned();
        let path = match global.config_file.clone().or_else(|| filled("PATRONICTL_CONFIG_FILE")) {
            Some(path) => Some(readable(PathBuf::from(path))?),
            None => default_path(variables).filter(is_readable),
        };
        let environment = Environment::read(variables.clone());
        let local = match load(path.as_deref(), &environment) {
            Ok(local) => local,
            // Where nothing is configured, commands that need nothing still work.
            Err(load::Error::Empty(_)) => LocalConfig::default(),
            Err(error) => return Err(error.into()),
        };
        for warning in &local.warnings {
            tracing::info!("{warning}");
        }
        let mut config = local.config;
        if let Some(url) = global.dcs_url.clone().or_else(|| filled("DCS_URL")) {
            apply_url(&mut config, &url)?;
        }
        Ok(Self::read(&config, global.insecure))
    }

    fn read(config: &Map<String, Value>, insecure: bool) -> Self {
        let (mut ctl, warnings) = CtlSettings::read(config);
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        ctl.insecure |= insecure;
        let text =
            |key: &str| config.get(key).filter(|value| scalar::is_truthy(value)).map(scalar::python_str);
        let seconds = |key: &str, default: u64| {
            let value =
                config.get(key).and_then(scalar::python_int).and_then(|value| u64::try_from(value).ok());
            Duration::from_secs(value.filter(|value| *value > 0).unwrap_or(default))
        };
        Self {
            scope: text("scope"),
            namespace: text("namespace").unwrap_or_else(|| "service".into()),
            dcs: DcsChoice::read(config),
            ctl,
            timing: Timing {
                ttl: seconds("ttl", 30),
                loop_wait: seconds("loop_wait", 10),
                retry_timeout: seconds("retry_timeout", 10),
            },
            citus: config
                .get("citus")
                .and_then(Value::as_object)
                .map(|citus| citus.get("group").and_then(scalar::python_int)),
        }
    }

    /// The store.
    ///
    /// # Errors
    /// None is configured.
    pub(crate) fn dcs(&self) -> Result<&DcsChoice> {
        self.dcs.as_ref().ok_or_else(|| {
            anyhow!(
                "Can not find suitable configuration of distributed configuration store\n\
                 Available implementations: consul, etcd, etcd3"
            )
        })
    }
}

fn is_readable(path: &PathBuf) -> bool {
    File::open(path).is_ok()
}

fn readable(path: PathBuf) -> Result<PathBuf> {
    if !is_readable(&path) {
        bail!(
            "Provided config file {} not existing or no read rights. Check the -c/--config-file parameter",
            path.display()
        );
    }
    Ok(path)
}

fn default_path(variables: &BTreeMap<String, String>) -> Option<PathBuf> {
    let filled = |name: &str| variables.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = filled("XDG_CONFIG_HOME").or_else(|| filled("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("patroni").join("patronictl.yaml"))
}

/// Replaces every store that a URL can name by the one that it names.
fn apply_url(config: &mut Map<String, Value>, url: &str) -> Result<()> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_lowercase()), rest),
        None => (None, url),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = split_address(address).ok_or_else(|| anyhow!("Unable to parse dcs url: {address}"))?;
    let store = match scheme {
        Some(scheme) => URL_STORES.iter().find(|(name, _)| *name == scheme),
        // Without a scheme the port tells; etcd's by default.
        None => URL_STORES.iter().find(|(_, usual)| Some(*usual) == port).or(URL_STORES.first()),
    };
    let Some((name, usual)) = store else {
        bail!("Unknown dcs scheme: {}", url.split_once("://").map_or(url, |(scheme, _)| scheme));
    };
    for (name, _) in URL_STORES {
        config.shift_remove(name);
    }
    let host = if host.is_empty() { "localhost" } else { host };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    config.insert((*name).to_owned(), json!({"host": format!("{host}:{}", port.unwrap_or(*usual))}));
    let namespace = path.split(['?', '#']).next().unwrap_or_default();
    if !namespace.is_empty() {
        config.insert("namespace".to_owned(), format!("/{namespace}").into());
    }
    Ok(())
}

/// Host and port of an address; brackets of IPv6 addresses are removed.
fn split_address(address: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        let port = after.strip_prefix(':').map(str::parse).transpose().ok()?;
        return Some((host, port));
    }
    match address.rsplit_once(':') {
        Some((host, "")) => Some((host, None)),
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((address, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn by_url(url: &str) -> Result<(String, String, String)> {
        let variables = environment(&[
            ("PATRONI_ETCD3_HOSTS", "a:1,b:2"),
            ("PATRONI_ETCD_HOST", "c"),
            ("PATRONI_NAMESPACE", "/db/"),
        ]);
        let global = Global { dcs_url: Some(url.to_owned()), ..Global::default() };
        let config = Configuration::discover(&global, &variables)?;
        let dcs = config.dcs()?;
        let host = dcs.section["host"].as_str().unwrap_or_default().to_owned();
        Ok((dcs.kind.as_str().to_owned(), host, config.namespace.clone()))
    }

    #[test]
    fn c_2_a_url_takes_the_place_of_every_store_it_can_name() {
        for (url, store, host, namespace) in [
            ("", "etcd", "localhost:2379", "/db/"),
            ("h", "etcd", "h:2379", "/db/"),
            ("h:2379", "etcd", "h:2379", "/db/"),
            ("etcd://h", "etcd", "h:2379", "/db/"),
            ("h:8500", "consul", "h:8500", "/db/"),
            ("h:2181", "zookeeper", "h:2181", "/db/"),
            ("h:8181", "exhibitor", "h:8181", "/db/"),
            ("etcd3://h", "etcd3", "h:2379", "/db/"),
            ("etcd3://u:p@h:1/", "etcd3", "h:1", "/db/"),
            ("etcd3://h:1/ns/x", "etcd3", "h:1", "/ns/x"),
            ("etcd3://[::1]:1", "etcd3", "[::1]:1", "/db/"),
        ] {
            let found = by_url(url).unwrap();
            assert_eq!(found, (store.to_owned(), host.to_owned(), namespace.to_owned()), "{url}");
        }
        assert_eq!(by_url("ftp://h").unwrap_err().to_string(), "Unknown dcs scheme: ftp");
        assert!(by_url("etcd3://h:x").is_err());
    }

    #[test]
    fn c_2_a_file_that_was_named_must_be_there_and_the_default_need_not() {
        let home = tempfile::tempdir().unwrap();
        let home_text = home.path().to_str().unwrap();
        let variables = environment(&[("HOME", home_text), ("PATRONI_SCOPE", "from-env")]);
        let found = Configuration::discover(&Global::default(), &variables).unwrap();
        assert_eq!(found.scope.as_deref(), Some("from-env"));
        let missing = environment(&[("PATRONICTL_CONFIG_FILE", "/nonexistent/x.yml")]);
        let error = Configuration::discover(&Global::default(), &missing).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/x.yml not existing or no read rights"), "{error}");

        let folder = home.path().join(".config/patroni");
        std::fs::create_dir_all(&folder).unwrap();
        let file = "scope: from-file\nnamespace: /x/\nretry_timeout: 3\nrestapi:\n  cafile: /ca\n\
                    ctl:\n  insecure: on\netcd3:\n  host: h\ncitus:\n  group: 1\n  database: d\n";
        std::fs::write(folder.join("patronictl.yaml"), file).unwrap();
        let found =
            Configuration::discover(&Global::default(), &environment(&[("HOME", home_text)])).unwrap();
        assert_eq!(found.scope.as_deref(), Some("from-file"));
        assert_eq!(found.namespace, "/x/");
        assert_eq!(found.timing.retry_timeout, Duration::from_secs(3));
        assert_eq!(found.citus, Some(Some(1)));
        assert!(found.ctl.insecure);
        assert_eq!(found.ctl.cacert, Some(PathBuf::from("/ca")));
        let found = Configuration::discover(&Global::default(), &variables).unwrap();
        assert_eq!(found.scope.as_deref(), Some("from-env"), "variables win over the file");
        let other = environment(&[("HOME", "/nonexistent"), ("XDG_CONFIG_HOME", home_text)]);
        assert_eq!(Configuration::discover(&Global::default(), &other).unwrap().scope, None);
    }

    #[test]
    fn c_2_the_insecure_flag_is_ored() {
        let global = Global { insecure: true, ..Global::default() };
        assert!(Configuration::discover(&global, &BTreeMap::new()).unwrap().ctl.insecure);
        assert!(Configuration::discover(&Global::default(), &BTreeMap::new()).unwrap().dcs().is_err());
    }
}
