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
