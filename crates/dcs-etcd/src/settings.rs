//! The `etcd3:` and `etcd:` sections of the configuration (contract C, `etcd3.*`, `etcd.*`).

use std::{fmt, path::PathBuf};

use ptarmigan_types::scalar;
use serde_json::{Map, Value};

/// The section cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{section}.{key}: {reason}")]
pub struct Error {
    /// `etcd3` or `etcd`.
    pub section: &'static str,
    /// The key below it.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

/// Where etcd is and how to talk to it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdSettings {
    /// `http://host:port` or `https://host:port`, without credentials; may be empty where [`Self::srv`] tells.
    pub endpoints: Vec<String>,
    /// The endpoints are looked up in DNS.
    pub srv: Option<Srv>,
    /// The endpoints are proxies: the members' own addresses are not asked for.
    pub use_proxies: bool,
    /// For etcd's own users.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// PEM file of the authorities that may sign the server's certificate; the system's where missing.
    pub cacert: Option<PathBuf>,
    /// PEM file of the client certificate.
    pub cert: Option<PathBuf>,
    /// PEM file of the client certificate's key.
    pub key: Option<PathBuf>,
    /// The section was `etcd:`, which asks for the v2 API.
    pub v2: bool,
}

/// Where in DNS etcd is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// The domain.
    pub domain: String,
    /// What is added to the service's name, behind a dash.
    pub suffix: Option<String>,
}

impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints)
            .field("srv", &self.srv)
            .field("use_proxies", &self.use_proxies)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "<hidden>"))
            .field("cacert", &self.cacert)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("v2", &self.v2)
            .finish()
    }
}

impl EtcdSettings {
    /// The section's name.
    pub(crate) const fn section(&self) -> &'static str {
        if self.v2 { "etcd" } else { "etcd3" }
    }

    /// What it says of TLS.
    pub(crate) fn tls_files(&self) -> ptarmigan_tls::files::Client<'_> {
        ptarmigan_tls::files::Client {
            section: self.section(),
            cacert: self.cacert.as_deref(),
            cert: self.cert.as_deref(),
            key: self.key.as_deref(),
            verify: true,
        }
    }

    /// Reads a section; `v2`: it was called `etcd`. Addresses are taken from the first of `proxy`, `srv` (and its
    /// aliases), `hosts`, `url` and `host` that is there.
    ///
    /// # Errors
    /// Names the key: no address, an address that is none, a protocol other than `http` and `https`.
    pub fn from_config(section: &Map<String, Value>, v2: bool) -> Result<Self, Error> {
        let reader = Reader { section, name: if v2 { "etcd" } else { "etcd3" } };
        let mut settings = Self {
            use_proxies: section.get("use_proxies").and_then(scalar::parse_bool).unwrap_or(false),
            username: reader.text("username"),
            password: reader.text("password"),
            cacert: reader.text("cacert").map(PathBuf::from),
            cert: reader.text("cert").map(PathBuf::from),
            key: reader.text("key").map(PathBuf::from),
            v2,
            ..Self::default()
        };
        let url = match reader.url("proxy")? {
            Some(url) => {
                settings.use_proxies = true;
                Some(url)
            }
            None => reader.url("url")?,
        };
        let protocol = reader.protocol(url.as_ref())?;
        if let Some(url) = &url {
            settings.username = url.username.clone().or(settings.username);
            settings.password = url.password.clone().or(settings.password);
        }
        settings.srv = if reader.text("proxy").is_some() { None } else { reader.srv() };
        settings.endpoints = match reader.endpoints(url, &protocol) {
            // Where DNS says nothing, the others count.
            Err(_) if settings.srv.is_some() => Vec::new(),
            endpoints => endpoints?,
        };
        Ok(settings)
    }
}

/// A parsed `url` or `proxy`.
struct Url {
    protocol: String,
    endpoint: String,
    username: Option<String>,
    password: Option<String>,
}

struct Reader<'a> {
    section: &'a Map<String, Value>,
    name: &'static str,
}

impl Reader<'_> {
    fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error { section: self.name, key: key.to_owned(), reason: reason.into() }
    }

    /// Text, or a number or boolean as text; `None` where missing, null or empty.
    fn text(&self, key: &str) -> Option<String> {
        match self.section.get(key)? {
            Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => None,
        }
    }

    fn protocol(&self, url: Option<&Url>) -> Result<String, Error> {
        let protocol = match url {
            Some(url) => url.protocol.clone(),
            None => self.text("protocol").unwrap_or_else(|| "http".into()).to_lowercase(),
        };
        if protocol == "http" || protocol == "https" {
            return Ok(protocol);
        }
        Err(self.error("protocol", format!("must be http or https, not {protocol:?}")))
    }

    fn url(&self, key: &str) -> Result<Option<Url>, Error> {
        let Some(text) = self.text(key) else { return Ok(None) };
        // The text may hold a password: no message repeats it.
        let Some((protocol, rest)) = text.split_once("://") else {
            return Err(self.error(key, "is not of the form protocol://host:port"));
        };
        let protocol = protocol.to_lowercase();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, authority),
        };
        let (username, password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
            Some((user, password)) => (Some(percent_decoded(user)), Some(percent_decoded(password))),
            None => (None, None),
        };
        let endpoint = self.endpoint(key, address, &protocol, 2379)?;
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Some(Url { protocol, endpoint, username: filled(username), password: filled(password) }))
    }

    fn endpoints(&self, url: Option<Url>, protocol: &str) -> Result<Vec<String>, Error> {
        if self.text("proxy").is_some()
            && let Some(url) = url
        {
            return Ok(vec![url.endpoint]);
        }
        let hosts = self.hosts();
        if !hosts.is_empty() {
            let port = self.port()?;
            return hosts.iter().map(|host| self.endpoint("hosts", host, protocol, port)).collect();
        }
        if let Some(url) = url {
            return Ok(vec![url.endpoint]);
        }
        if let Some(host) = self.text("host") {
            return Ok(vec![self.endpoint("host", &host, protocol, self.port()?)?]);
        }
        Err(self.error("hosts", "one of host, hosts, srv, url or proxy is needed"))
    }

    fn srv(&self) -> Option<Srv> {
        let domain = ["srv", "discovery_srv", "srv_domain"].into_iter().find_map(|key| self.text(key))?;
        Some(Srv { domain, suffix: self.text("srv_suffix") })
    }

    fn hosts(&self) -> Vec<String> {
        let trimmed = |text: &str| text.trim().to_owned();
        let mut hosts: Vec<String> = match self.section.get("hosts") {
            Some(Value::String(text)) => text.split(',').map(trimmed).collect(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(trimmed).collect(),
            _ => Vec::new(),
        };
        hosts.retain(|host| !host.is_empty());
        hosts
    }

    fn port(&self) -> Result<u16, Error> {
        match self.text("port") {
            None => Ok(2379),
            Some(text) => text.parse().map_err(|_| self.error("port", format!("not a port: {text:?}"))),
        }
    }

    /// `host`, `host:port`, `[address]:port`, a bare IPv6 address, or any of these behind a protocol.
    fn endpoint(&self, key: &str, text: &str, protocol: &str, port: u16) -> Result<String, Error> {
        let (protocol, address) = match text.split_once("://") {
            Some((protocol, address)) => (protocol, address.trim_end_matches('/')),
            None => (protocol, text),
        };
        let bare_ipv6 = !address.starts_with('[') && address.matches(':').count() > 1;
        let (host, port) = if bare_ipv6 {
            (format!("[{address}]"), port)
        } else {
            match address.rsplit_once(':').filter(|_| !address.ends_with(']')) {
                None => (address.to_owned(), port),
                Some((host, digits)) => match digits.parse() {
                    Ok(port) => (host.to_owned(), port),
                    Err(_) => return Err(self.error(key, format!("not a port: {digits:?}"))),
                },
            }
        };
        let usable = !host.is_empty() && !host.contains(['@', '/', ' ']);
        if !usable || !["http", "https"].contains(&protocol) {
            return Err(self.error(key, "is not the address of an etcd server"));
        }
        Ok(format!("{protocol}://{host}:{port}"))
    }
}

/// Decodes `%41`; what is not an escape stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escape.unwrap_or(bytes[at]));
        at += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(section: &Value) -> Result<EtcdSettings, Error> {
        EtcdSettings::from_config(section.as_object().unwrap(), false)
    }

    fn endpoints(section: &Value) -> Vec<String> {
        read(section).unwrap().endpoints
    }

    #[test]
    fn every_form_of_an_address_is_read() {
        for (section, expected) in [
            (json!({"host": "a"}), vec!["http://a:2379"]),
            (json!({"host": "a:1234"}), vec!["http://a:1234"]),
            (json!({"host": "a", "port": 1234}), vec!["http://a:1234"]),
            (json!({"host": "a", "port": "1234", "protocol": "https"}), vec!["https://a:1234"]),
            (json!({"host": "[::1]:5"}), vec!["http://[::1]:5"]),
            (json!({"host": "::1"}), vec!["http://[::1]:2379"]),
            (json!({"host": "[::1]"}), vec!["http://[::1]:2379"]),
            (json!({"hosts": ["a:1", "b"]}), vec!["http://a:1", "http://b:2379"]),
            (json!({"hosts": "a:1, b:2,"}), vec!["http://a:1", "http://b:2"]),
            (json!({"hosts": ["https://a:1/"]}), vec!["https://a:1"]),
            (json!({"url": "https://a:1"}), vec!["https://a:1"]),
            (json!({"url": "https://a/v3"}), vec!["https://a:2379"]),
            (json!({"host": "h", "url": "http://u"}), vec!["http://u:2379"]),
            (json!({"hosts": "h", "url": "https://u"}), vec!["https://h:2379"]),
            (json!({"hosts": "h", "proxy": "https://p:1"}), vec!["https://p:1"]),
            (json!({"proxy": "http://p", "srv": "example.org"}), vec!["http://p:2379"]),
            (json!({"hosts": "h", "srv": "example.org"}), vec!["http://h:2379"]),
            (json!({"srv": "example.org"}), vec![]),
        ] {
            assert_eq!(endpoints(&section), expected, "{section}");
        }
    }

    #[test]
    fn a_proxy_turns_discovery_off() {
        assert!(read(&json!({"proxy": "http://p:1"})).unwrap().use_proxies);
        assert!(read(&json!({"host": "p", "use_proxies": "on"})).unwrap().use_proxies);
        assert!(!read(&json!({"host": "p"})).unwrap().use_proxies);
    }

    #[test]
    fn a_domain_to_look_in_goes_by_several_names() {
        let srv = |suffix: Option<&str>| Srv { domain: "d".into(), suffix: suffix.map(str::to_owned) };
        for (section, expected) in [
            (json!({"srv": "d"}), Some(srv(None))),
            (json!({"discovery_srv": "d", "hosts": "h"}), Some(srv(None))),
            (json!({"srv_domain": "d", "srv_suffix": "x"}), Some(srv(Some("x")))),
            (json!({"srv": "d", "proxy": "http://p"}), None),
            (json!({"srv": "", "host": "h"}), None),
        ] {
            assert_eq!(read(&section).unwrap().srv, expected, "{section}");
        }
    }

    #[test]
    fn credentials_of_the_url_are_decoded_and_never_shown() {
        let settings = read(&json!({"url": "http://us%40er:p%3a%2Fw@a:1", "username": "other"})).unwrap();
        assert_eq!(settings.username.as_deref(), Some("us@er"));
        assert_eq!(settings.password.as_deref(), Some("p:/w"));
        assert_eq!(settings.endpoints, ["http://a:1"]);
        let shown = format!("{settings:?}");
        assert!(shown.contains("us@er") && !shown.contains("p:/w"), "{shown}");
        let plain = read(&json!({"url": "http://a", "username": "u", "password": 17})).unwrap();
        assert_eq!((plain.username.as_deref(), plain.password.as_deref()), (Some("u"), Some("17")));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (section, key) in [
            (json!({}), "hosts"),
            (json!({"hosts": []}), "hosts"),
            (json!({"host": "a:b"}), "host"),
            (json!({"host": "a", "port": "x"}), "port"),
            (json!({"host": "a", "protocol": "ftp"}), "protocol"),
            (json!({"url": "u:secret@a"}), "url"),
            (json!({"proxy": "ftp://u:secret@a"}), "proxy"),
        ] {
            let error = read(&section).unwrap_err();
            assert_eq!(error.key, key, "{section}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
