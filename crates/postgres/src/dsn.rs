//! libpq connection strings: written in the contract's order, read back from any form that a server shows (B.19.2).

use std::{borrow::Cow, collections::BTreeMap, fmt};

use crate::version::ServerVersion;

/// The keys of a connection string in the order in which they are written (contract B.19.2).
pub const ORDER: &[&str] = &[
    "dbname",
    "user",
    "passfile",
    "password",
    "host",
    "port",
    "sslmode",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "application_name",
    "krbsrvname",
    "gssencmode",
    "channel_binding",
    "target_session_attrs",
    "sslnegotiation",
];

/// The first major version that knows a key, for keys that a supported server may be too old for.
const SINCE: &[(&str, u32)] = &[
    ("gssencmode", 12),
    ("channel_binding", 13),
    ("sslpassword", 13),
    ("sslcrldir", 14),
    ("sslnegotiation", 17),
];

/// The text is not a connection string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A word without `=`.
    #[error("a keyword of the connection string is not followed by '='")]
    NoValue,
    /// A quote that is not closed.
    #[error("the connection string has an unterminated quoted value")]
    OpenQuote,
    /// A URI with a broken `%` escape or a port that is no number.
    #[error("the connection URI is malformed")]
    Uri,
}

/// The parameters of a connection, by their libpq names. `Debug` and [`ConnInfo::masked`] hide passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnInfo(BTreeMap<String, String>);

impl ConnInfo {
    /// No parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `key=value ...` (values may be quoted) or a `postgres://` URI.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let rest = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
        rest.map_or_else(|| parse_words(text), parse_uri)
    }

    /// One parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Sets a parameter; an empty value takes it away, because libpq reads both alike.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        if value.is_empty() {
            self.0.remove(key);
        } else {
            self.0.insert(key.to_owned(), value);
        }
    }

    /// Sets a parameter that is not set yet.
    pub fn set_default(&mut self, key: &str, value: &str) {
        if !self.0.contains_key(key) {
            self.set(key, value);
        }
    }

    /// As [`ConnInfo::set`], for chains.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.set(key, value);
        self
    }

    /// Takes a parameter away and returns it.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    /// All parameters by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The text for a server or program of this version (contract B.19.2): the fixed order, nothing that the version
    /// does not know, no `password` beside a `passfile`. Keys outside of that order are left out.
    pub fn text(&self, version: ServerVersion) -> String {
        let known = |key: &str| !SINCE.iter().any(|(new, major)| *new == key && !version.at_least(*major));
        let words: Vec<String> = ORDER
            .iter()
            .filter(|key| known(key) && !(**key == "password" && self.0.contains_key("passfile")))
            .filter_map(|key| self.get(key).map(|value| format!("{key}={}", escape(value))))
            .collect();
        words.join(" ")
    }

    /// The text as one word for a shell, as scripts of operators read it with `eval`.
    pub fn shell_text(&self, version: ServerVersion) -> String {
        let text = self.text(version);
        match shlex::try_quote(&text) {
            Ok(quoted) => quoted.into_owned(),
            // Only a NUL byte cannot be quoted, and no parameter of libpq may have one.
            Err(_) => String::from("''"),
        }
    }

    /// The text with passwords replaced, for logs.
    pub fn masked(&self) -> String {
        let words: Vec<String> = self
            .iter()
            .map(|(key, value)| {
                let value = if matches!(key, "password" | "sslpassword") {
                    Cow::Borrowed("***")
                } else {
                    escape(value)
                };
                format!("{key}={value}")
            })
            .collect();
        words.join(" ")
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnInfo({})", self.masked())
    }
}

/// Puts a backslash before `'`, `\` and space.
pub fn escape(value: &str) -> Cow<'_, str> {
    if !value.contains(['\'', '\\', ' ']) {
        return Cow::Borrowed(value);
    }
    let mut escaped = String::with_capacity(value.len() + 4);
    for c in value.chars() {
        if matches!(c, '\'' | '\\' | ' ') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    Cow::Owned(escaped)
}

fn parse_words(text: &str) -> Result<ConnInfo, Error> {
    let mut info = ConnInfo::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=').ok_or(Error::NoValue)?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(Error::NoValue);
        }
        let (value, after) = read_value(value.trim_start())?;
        info.set(key, value);
        rest = after.trim_start();
    }
    Ok(info)
}

/// Reads one value and returns what follows it.
fn read_value(text: &str) -> Result<(String, &str), Error> {
    let quoted = text.starts_with('\'');
    let text = if quoted { &text[1..] } else { text };
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, next)| next)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(Error::OpenQuote) } else { Ok((value, "")) }
}

fn parse_uri(rest: &str) -> Result<ConnInfo, Error> {
    let mut info = ConnInfo::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user_info, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    info.set("user", decode(user)?);
    info.set("password", decode(password)?);
    info.set("dbname", decode(path)?);
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
        let (name, port) = split_port(host)?;
        names.push(decode(name)?);
        ports.push(port.to_owned());
    }
    info.set("host", names.join(","));
    // One port stands for all hosts in libpq, several must be as many as the hosts.
    let same = ports.iter().all(|port| *port == ports[0]);
    ports.truncate(if same { 1 } else { ports.len() });
    if ports.iter().any(|port| !port.is_empty()) {
        info.set("port", ports.join(","));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(Error::Uri)?;
        info.set(&decode(key)?, decode(value)?);
    }
    Ok(info)
}

fn split_port(host: &str) -> Result<(&str, &str), Error> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').ok_or(Error::Uri)?;
            (name, port.strip_prefix(':').unwrap_or(""))
        }
        None => host.rsplit_once(':').unwrap_or((host, "")),
    };
    if port.bytes().all(|byte| byte.is_ascii_digit()) { Ok((name, port)) } else { Err(Error::Uri) }
}

fn decode(text: &str) -> Result<String, Error> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(Error::Uri);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| Error::Uri)?);
    }
    String::from_utf8(bytes).map_err(|_| Error::Uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V15: ServerVersion = ServerVersion::major_of(15);

    #[test]
    fn b_19_2_text_order_and_escaping() {
        let info = ConnInfo::new()
            .with("application_name", "my node")
            .with("host", "10.0.0.1")
            .with("password", r"a'b\c")
            .with("user", "replicator")
            .with("port", "5432")
            .with("sslmode", "prefer")
            .with("connect_timeout", "3");
        let text = r"user=replicator password=a\'b\\c host=10.0.0.1 port=5432 sslmode=prefer application_name=my\ node";
        assert_eq!(info.text(V15), text);
        let back = ConnInfo::parse(text).unwrap();
        assert_eq!(back.get("password"), Some(r"a'b\c"));
        assert_eq!(back.get("application_name"), Some("my node"));
    }

    #[test]
    fn b_19_2_password_is_left_out_beside_a_passfile() {
        let info = ConnInfo::new().with("passfile", "/x/pgpass").with("password", "secret").with("user", "u");
        assert_eq!(info.text(V15), "user=u passfile=/x/pgpass");
        assert!(!info.masked().contains("secret") && !format!("{info:?}").contains("secret"));
    }

    #[test]
    fn b_19_2_keys_newer_than_the_server_are_dropped() {
        let info = ConnInfo::new()
            .with("gssencmode", "prefer")
            .with("channel_binding", "prefer")
            .with("sslcrldir", "/crl")
            .with("sslpassword", "p")
            .with("sslnegotiation", "postgres")
            .with("target_session_attrs", "read-write");
        for (major, text) in [
            (11, "target_session_attrs=read-write"),
            (12, "gssencmode=prefer target_session_attrs=read-write"),
            (13, "sslpassword=p gssencmode=prefer channel_binding=prefer target_session_attrs=read-write"),
            (
                14,
                "sslpassword=p sslcrldir=/crl gssencmode=prefer channel_binding=prefer target_session_attrs=read-write",
            ),
            (
                17,
                "sslpassword=p sslcrldir=/crl gssencmode=prefer channel_binding=prefer target_session_attrs=read-write sslnegotiation=postgres",
            ),
        ] {
            assert_eq!(info.text(ServerVersion::major_of(major)), text, "{major}");
        }
    }

    #[test]
    fn quoted_and_spaced_values_are_read() {
        let info = ConnInfo::parse(r"host = 'a b' user=x\ y  password='it\'s' dbname=''").unwrap();
        assert_eq!((info.get("host"), info.get("user")), (Some("a b"), Some("x y")));
        assert_eq!((info.get("password"), info.get("dbname")), (Some("it's"), None));
        assert_eq!(ConnInfo::parse("host"), Err(Error::NoValue));
        assert_eq!(ConnInfo::parse("host='x"), Err(Error::OpenQuote));
        assert_eq!(ConnInfo::parse("").unwrap(), ConnInfo::new());
    }

    #[test]
    fn uris_are_read() {
        let info = ConnInfo::parse("postgres://u:p%40@h1:5433,[::1]:5434/db?sslmode=require").unwrap();
        assert_eq!(info.text(V15), "dbname=db user=u password=p@ host=h1,::1 port=5433,5434 sslmode=require");
        let info = ConnInfo::parse("postgres://127.0.0.1:5432/postgres").unwrap();
        assert_eq!(info.text(V15), "dbname=postgres host=127.0.0.1 port=5432");
        assert_eq!(ConnInfo::parse("postgres://h:x/db"), Err(Error::Uri));
        assert_eq!(ConnInfo::parse("postgres://h/%zz"), Err(Error::Uri));
    }

    #[test]
    fn shell_form_is_one_word() {
        let info = ConnInfo::new().with("user", "it's").with("host", "h");
        let words = shlex::split(&info.shell_text(V15)).unwrap();
        assert_eq!(words, [info.text(V15)]);
    }
}
