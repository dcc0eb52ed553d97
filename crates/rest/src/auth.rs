//! Who may call the unsafe endpoints (contract surface A.8).
//!
//! Only basic authentication decides here. Where a source list or client certificates are asked for, which this
//! server does not judge, everything unsafe is refused, rather than let in.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use ptarmigan_config::{RestSettings, Secret};

use crate::answer::Answer;

/// Lets a request through, or says why not.
pub(crate) fn check(settings: &RestSettings, headers: &HeaderMap) -> Result<(), Answer> {
    if settings.allowlist_include_members {
        return Err(Answer::text(403, "Access is denied"));
    }
    check_members(settings, headers)
}

/// The same for what members ask of each other while the DCS is away: who is a member does not matter (contract FS-9).
pub(crate) fn check_members(settings: &RestSettings, headers: &HeaderMap) -> Result<(), Answer> {
    if !settings.allowlist.is_empty() {
        return Err(Answer::text(403, "Access is denied"));
    }
    let Some(credentials) = &settings.authentication else { return Ok(()) };
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Err(Answer::text(401, "no auth header received"));
    };
    let given = header.as_bytes().strip_prefix(b"Basic ");
    if given.is_some_and(|given| is_same(given, encode(credentials).as_bytes())) {
        return Ok(());
    }
    Err(Answer::text(401, "not authenticated"))
}

/// The base64 text of `user:password`.
pub(crate) fn encode((username, password): &(String, Secret)) -> String {
    STANDARD.encode(format!("{username}:{}", password.expose()))
}

/// Takes as long for a wrong first byte as for a wrong last one.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0 && a.len() == b.len()
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn texts_are_compared_whole() {
        assert!(is_same(b"abc", b"abc") && is_same(b"", b""));
        for other in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert!(!is_same(b"abc", other), "{other:?}");
        }
    }
}
