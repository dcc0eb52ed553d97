//! The `consul:` section of the configuration (contract C, `consul.*`).

use std::{fmt, path::PathBuf};

use ptarmigan_types::scalar;
use reqwest::Url;
use serde_json::{Map, Value};

/// Where an agent listens by default.
const PORT: u16 = 8500;

/// The section cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("consul.{key}: {reason}")]
pub struct Error {
    /// The key in the section.
    pub key: &'static str,
    /// What is wrong.
    pub reason: String,
}

/// What a read may show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consistency {
    /// What the leading server knows, unless another one has taken its place without its knowing, for a moment.
    #[default]
    Default,
    /// What a majority agrees on.
    Consistent,
    /// What any server knows.
    Stale,
}

impl Consistency {
    /// The parameter of a request; `None`: Consul's default.
    pub(crate) const fn parameter(self) -> Option<&'static str> {
        match self {
            Self::Default => None,
            Self::Consistent => Some("consistent"),
            Self::Stale => Some("stale"),
        }
    }
}

/// How the cluster appears among Consul's services (contract A.6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSettings {
    /// `service_tags`, sorted.
    pub tags: Vec<String>,
    /// How often Consul asks the REST API, as Consul reads it.
    pub check_interval: String,
    /// The name that the REST API's certificate is to have.
    pub check_tls_server_name: Option<String>,
}

/// Where Consul is and how to talk to it.
#[derive(Clone, PartialEq, Eq)]
pub struct ConsulSettings {
    /// `scheme://host:port/` of the agent.
    pub base: Url,
    /// The ACL token.
    pub token: Option<String>,
    /// Whether the agent's certificate is verified.
    pub verify: bool,
    /// PEM file of the authorities that may sign the agent's certificate; the system's where missing.
    pub cacert: Option<PathBuf>,
    /// PEM file of the client certificate.
    pub cert: Option<PathBuf>,
    /// PEM file of the client certificate's key; `cert` holds it where missing.
    pub key: Option<PathBuf>,
    /// The datacenter, where it is not the agent's own.
    pub dc: Option<String>,
    /// Of reads that decide nothing by themselves.
    pub consistency: Consistency,
    /// Health checks whose failure ends the session.
    pub checks: Vec<String>,
    /// `register_service`.
    pub service: Option<ServiceSettings>,
}

impl fmt::Debug for ConsulSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulSettings")
            .field("base", &self.base.as_str())
            .field("token", &self.token.as_ref().map(|_| "<hidden>"))
            .field("verify", &self.verify)
            .field("cacert", &self.cacert)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("dc", &self.dc)
            .field("consistency", &self.consistency)
            .field("checks", &self.checks)
            .field("service", &self.service)
            .finish()
    }
}

impl ConsulSettings {
    /// Reads the section. `url` comes before `host`, and `host` may hold the port.
    ///
    /// # Errors
    /// Names the key: an address that is none, a scheme other than `http` and `https`, an unknown consistency.
    pub fn from_config(section: &Map<String, Value>) -> Result<Self, Error> {
        let flag = |key: &str| section.get(key).and_then(scalar::parse_bool);
        let service = flag("register_service").unwrap_or(false).then(|| {
            let mut tags = texts(section, "service_tags");
            tags.sort();
            ServiceSettings {
                tags,
                check_interval: text(section, "service_check_interval").unwrap_or_else(|| "5s".into()),
                check_tls_server_name: text(section, "service_check_tls_server_name"),
            }
        });
        Ok(Self {
            base: base(section)?,
            token: text(section, "token"),
            verify: flag("verify").unwrap_or(true),
            cacert: text(section, "cacert").map(PathBuf::from),
            cert: text(section, "cert").map(PathBuf::from),
            key: text(section, "key").map(PathBuf::from),
            dc: text(section, "dc"),
            consistency: consistency(section)?,
            checks: texts(section, "checks"),
            service,
        })
    }
}

/// Text, or a number as text; `None` where missing, null or empty.
fn text(section: &Map<String, Value>, key: &str) -> Option<String> {
    match section.get(key)? {
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A list, or one text for itself.
fn texts(section: &Map<String, Value>, key: &str) -> Vec<String> {
    match section.get(key) {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(one)) if !one.trim().is_empty() => vec![one.trim().to_owned()],
        _ => Vec::new(),
    }
}

fn consistency(section: &Map<String, Value>) -> Result<Consistency, Error> {
    match text(section, "consistency").map(|word| word.to_lowercase()).as_deref() {
        None | Some("default") => Ok(Consistency::Default),
        Some("consistent") => Ok(Consistency::Consistent),
        Some("stale") => Ok(Consistency::Stale),
        Some(other) => {
            let reason = format!("must be default, consistent or stale, not {other:?}");
            Err(Error { key: "consistency", reason })
        }
    }
}

fn base(section: &Map<String, Value>) -> Result<Url, Error> {
    let (key, written) = match (text(section, "url"), text(section, "host")) {
        (Some(url), _) => ("url", url),
        (None, Some(host)) => ("host", host),
        (None, None) => ("host", "127.0.0.1".to_owned()),
    };
    // A URL may hold a password: no message repeats it.
    let error = |reason: &str| Error { key, reason: reason.to_owned() };
    let scheme = match (key, written.split_once("://")) {
        ("url", None) => return Err(error("is not of the form scheme://host:port")),
        (_, Some((scheme, _))) => scheme.to_lowercase(),
        _ => text(section, "scheme").unwrap_or_else(|| "http".into()).to_lowercase(),
    };
    if scheme != "http" && scheme != "https" {
        let reason = format!("must be http or https, not {scheme:?}");
        return Err(Error { key: if key == "url" { "url" } else { "scheme" }, reason });
    }
    let address = written.split_once("://").map_or(&*written, |(_, rest)| rest);
    let address = address.split(['/', '?', '#']).next().unwrap_or_default();
    let address = address.rsplit_once('@').map_or(address, |(_, address)| address);
    // A bare IPv6 address has no port.
    let bare_ipv6 = !address.starts_with('[') && address.matches(':').count() > 1;
    let address = if bare_ipv6 { format!("[{address}]") } else { address.to_owned() };
    let mut url =
        Url::parse(&format!("{scheme}://{address}/")).map_err(|reason| error(&reason.to_string()))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(error("names no host"));
    }
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !has_port {
        let port = match text(section, "port").filter(|_| key == "host") {
            None => PORT,
            Some(port) => {
                port.parse().map_err(|_| Error { key: "port", reason: format!("not a port: {port:?}") })?
            }
        };
        url.set_port(Some(port)).map_err(|()| error("takes no port"))?;
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(section: &Value) -> Result<ConsulSettings, Error> {
        ConsulSettings::from_config(section.as_object().unwrap())
    }

    #[test]
    fn addresses_come_in_every_form() {
        for (section, expected) in [
            (json!({}), "http://127.0.0.1:8500/"),
            (json!({"host": "c"}), "http://c:8500/"),
            (json!({"host": "c", "port": 8501}), "http://c:8501/"),
            (json!({"host": "c", "port": "8501", "scheme": "HTTPS"}), "https://c:8501/"),
            (json!({"host": "10.0.0.20:8501", "port": 1}), "http://10.0.0.20:8501/"),
            (json!({"host": "::1"}), "http://[::1]:8500/"),
            (json!({"host": "[::1]:8501"}), "http://[::1]:8501/"),
            (json!({"url": "https://u:p@c:8501/x"}), "https://c:8501/"),
            (json!({"url": "https://c", "host": "d", "port": 9}), "https://c:8500/"),
            (json!({"url": "http://c:80"}), "http://c/"),
        ] {
            assert_eq!(read(&section).unwrap().base.as_str(), expected, "{section}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_its_key() {
        for (section, key) in [
            (json!({"url": "c:8500"}), "url"),
            (json!({"url": "ftp://c"}), "url"),
            (json!({"host": "c", "scheme": "unix"}), "scheme"),
            (json!({"host": "c", "port": "x"}), "port"),
            (json!({"host": "a b"}), "host"),
            (json!({"consistency": "strong"}), "consistency"),
        ] {
            assert_eq!(read(&section).unwrap_err().key, key, "{section}");
        }
        let error = read(&json!({"url": "u:secret@c"})).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn everything_else_is_taken_as_written() {
        let settings = read(&json!({
            "host": "c", "token": "t0ken", "verify": "off", "cacert": "/ca", "cert": "/cert", "key": "/key", "dc": "east",
            "consistency": "stale", "checks": ["serfHealth"], "register_service": "on", "service_tags": ["b", "a"],
            "service_check_interval": "7s", "service_check_tls_server_name": "pg"
        }))
        .unwrap();
        assert!(!settings.verify && settings.consistency == Consistency::Stale);
        assert_eq!((settings.token.as_deref(), settings.dc.as_deref()), (Some("t0ken"), Some("east")));
        assert_eq!(settings.checks, ["serfHealth"]);
        let service = settings.service.clone().unwrap();
        assert_eq!((service.tags, &*service.check_interval), (vec!["a".into(), "b".into()], "7s"));
        assert!(!format!("{settings:?}").contains("t0ken"));
        let plain = read(&json!({})).unwrap();
        assert!(plain.verify && plain.checks.is_empty() && plain.service.is_none());
    }
}
