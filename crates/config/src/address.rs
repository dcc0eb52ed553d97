//! `host:port` as the configuration writes it.

use std::fmt;

/// One or more hosts and a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPort {
    /// Host, comma-separated hosts, `*` or empty, brackets of IPv6 addresses removed.
    pub host: String,
    /// TCP port; 0 where none was given and no default applies.
    pub port: u16,
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The part after the last `:` is not a port.
    #[error("'{0}' is not a port number between 0 and 65535")]
    Port(String),
}

impl HostPort {
    /// Splits at the last `:`; a text without `:` gets `default_port`. Brackets are dropped, so that
    /// `::1:5432` and `[::1]:5432` read the same.
    ///
    /// # Errors
    /// [`Error::Port`] where something stands after the last `:` that is no port.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, Error> {
        let (hosts, port) = match text.rsplit_once(':') {
            Some((hosts, port)) => {
                let port = port.trim();
                (hosts, port.parse().map_err(|_| Error::Port(port.to_owned()))?)
            }
            None => (text, default_port),
        };
        let hosts: Vec<&str> = hosts.split(',').map(|host| host.trim().trim_matches(['[', ']'])).collect();
        Ok(Self { host: hosts.join(","), port })
    }

    /// The hosts one by one.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.host.split(',')
    }

    /// True where every local address is meant: `*`, `0.0.0.0`, `::` or nothing.
    pub fn is_wildcard(&self) -> bool {
        self.hosts().any(|host| matches!(host, "" | "*" | "0.0.0.0" | "::"))
    }

    /// `scheme://host:port/path`; an IPv6 address gets its brackets, port 0 is left out, an empty path adds
    /// nothing.
    pub fn uri(&self, scheme: &str, path: &str) -> String {
        let slash = if path.is_empty() { "" } else { "/" };
        format!("{scheme}://{self}{slash}{path}")
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        if host.contains(':') && !host.contains(',') {
            write!(f, "[{host}]")?;
        } else {
            f.write_str(host)?;
        }
        if self.port == 0 { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}
