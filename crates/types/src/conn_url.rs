//! Addresses: `host:port` as operators write them, and the `conn_url` and `api_url` of a member key (contract A.3.3).

/// PostgreSQL's port where none is given.
pub const DEFAULT_PORT: u16 = 5432;

/// What a `conn_url` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnUrl {
    /// Name or address, without brackets.
    pub host: String,
    /// 5432 where the text names none.
    pub port: u16,
    /// `None` where the text names none.
    pub database: Option<String>,
}

/// `postgres://host:port/database`, an IPv6 address in brackets.
pub fn build(host: &str, port: u16, database: &str) -> String {
    uri("postgres", host, Some(port), database)
}

/// Any address of a member: `scheme://host:port/path`, an IPv6 address in brackets, no slash without a path.
pub fn uri(scheme: &str, host: &str, port: Option<u16>, path: &str) -> String {
    let host = bracketed(host);
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
    format!("{scheme}://{host}{port}{slash}{path}")
}

/// [`uri`] of an address that an operator wrote, `host:port` or only `host`.
pub fn uri_of_address(scheme: &str, address: &str, path: &str) -> String {
    match split_host_port(address, None) {
        Some((host, port)) => uri(scheme, &host, Some(port), path),
        None => uri(scheme, address, None, path),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// Reads a `conn_url`; credentials, options and several hosts after the first are left out. `None` where the text
/// is not such an address.
pub fn parse(text: &str) -> Option<ConnUrl> {
    let (scheme, rest) = text.split_once("://")?;
    if !matches!(scheme, "postgres" | "postgresql") {
        return None;
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let authority = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let (host, port) = read_host(authority.split(',').next().unwrap_or_default())?;
    let database = (!path.is_empty()).then(|| percent_decode(path));
    Some(ConnUrl { host, port: port.unwrap_or(DEFAULT_PORT), database })
}

fn read_host(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.filter(|port| !port.is_empty()).map(str::parse).transpose().ok()?;
    (!host.is_empty()).then(|| (percent_decode(host), port))
}

/// Splits `host:port`; what stands before the last colon is the host (several are separated by commas), brackets are
/// removed. `None` where there is no port and no default, or the port is not a number.
pub fn split_host_port(text: &str, default_port: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        // Inside of brackets the colon belongs to the address.
        Some((_, after)) if after.contains(']') => (text, default_port?),
        Some((host, port)) => (host, port.trim().parse().ok()?),
        None => (text, default_port?),
    };
    let plain = |part: &str| part.trim().trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((host.split(',').map(plain).collect::<Vec<_>>().join(","), port))
}

/// Resolves `%XX`; what is not such a sequence stays. Bytes that are not UTF-8 are replaced.
pub(crate) fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = after
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded {
            Some(value) => {
                out.push(value);
                rest = &after[2..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<(String, u16, Option<String>)> {
        parse(text).map(|url| (url.host, url.port, url.database))
    }

    #[test]
    fn a_3_3_what_is_built_reads_back() {
        for (host, text) in [
            ("10.0.0.1", "postgres://10.0.0.1:5433/postgres"),
            ("::1", "postgres://[::1]:5433/postgres"),
            ("[fe80::1]", "postgres://[fe80::1]:5433/postgres"),
        ] {
            assert_eq!(build(host, 5433, "postgres"), text);
            let host = host.trim_matches(['[', ']']).to_owned();
            assert_eq!(parts(text), Some((host, 5433, Some("postgres".into()))));
        }
    }

    #[test]
    fn the_port_is_optional_and_credentials_are_dropped() {
        let some = |host: &str, port, database: Option<&str>| {
            Some((host.to_owned(), port, database.map(str::to_owned)))
        };
        assert_eq!(parts("postgres://h"), some("h", DEFAULT_PORT, None));
        assert_eq!(parts("postgresql://h:/"), some("h", DEFAULT_PORT, None));
        assert_eq!(parts("postgres://u:p@ss@h:1/d%20b?x=y"), some("h", 1, Some("d b")));
        assert_eq!(parts("postgres://[::1]/db"), some("::1", DEFAULT_PORT, Some("db")));
        assert_eq!(parts("postgres://a:1,b:2/db"), some("a", 1, Some("db")));
    }

    #[test]
    fn garbage_is_no_address() {
        for text in [
            "",
            "h:1",
            "http://h",
            "postgres://",
            "postgres://:5432/db",
            "postgres://h:x/",
            "postgres://[::1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(percent_decode("a%2Fb%zz%4"), "a/b%zz%4");
        assert_eq!(split_host_port("[::1]", Some(1)), Some(("::1".to_owned(), 1)));
        assert_eq!(split_host_port("h:70000", None), None);
    }
}
