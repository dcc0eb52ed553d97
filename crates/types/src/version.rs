//! Versions: of the software that wrote a member key, and of PostgreSQL.

/// The version that member keys and REST answers publish, so that the other members use the current protocols
/// (contract A.9.1): it must be dotted integers and at least 4.0.0.
pub const EMULATED: &str = "4.1.4";

/// Reads dotted integers; `None` for anything else.
pub fn parse(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|part| if part.starts_with('+') { None } else { part.parse().ok() }).collect()
}

/// True where `text` is a version and at least `minimum`, compared part by part: `4` is below `4.0`.
pub fn is_at_least(text: &str, minimum: &[u32]) -> bool {
    parse(text).is_some_and(|version| version.as_slice() >= minimum)
}

/// True where `text` is a version and below `limit`; text that is not a version is not below anything.
pub fn is_below(text: &str, limit: &[u32]) -> bool {
    parse(text).is_some_and(|version| version.as_slice() < limit)
}

/// Prints PostgreSQL's numeric version as it names itself: `150018` is `15.18`, `90624` is `9.6.24`.
pub fn server_version(number: u32) -> String {
    if number >= 100_000 {
        format!("{}.{}", number / 10_000, number % 10_000)
    } else {
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    }
}

/// Reads a complete PostgreSQL version: `15.18` is 150018, `9.6.24` is 90624. `None` where a part is missing.
pub fn parse_server_version(text: &str) -> Option<u32> {
    let parts = parse(text)?;
    let number = |minor: u32, limit: u32| (minor < limit).then_some(minor);
    match *parts.as_slice() {
        [major, minor] if (10..=9_999).contains(&major) => Some(major * 10_000 + number(minor, 10_000)?),
        [major, middle, minor] if major < 10 => {
            Some(major * 10_000 + number(middle, 100)? * 100 + number(minor, 100)?)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_9_1_the_published_version_passes_every_gate() {
        for gate in [&[1, 5, 7][..], &[2, 1, 0], &[4, 0, 0]] {
            assert!(is_at_least(EMULATED, gate) && !is_below(EMULATED, gate));
        }
    }

    #[test]
    fn a_9_1_other_text_is_no_version_and_neither_old_nor_new() {
        for text in ["", "4.", "4.1b", "v4", "4.-1", "4.+1", "4 1", "99999999999"] {
            assert_eq!(parse(text), None, "{text:?}");
            assert!(!is_at_least(text, &[1]) && !is_below(text, &[1]), "{text:?}");
        }
        assert_eq!(parse("2.0.10"), Some(vec![2, 0, 10]));
        assert!(is_below("2.0.10", &[2, 1, 0]) && is_at_least("2.10", &[2, 9]));
    }

    #[test]
    fn server_versions_print_and_read() {
        for (number, text) in [(150_018, "15.18"), (90_624, "9.6.24"), (100_001, "10.1"), (190_000, "19.0")] {
            assert_eq!(server_version(number), text);
            assert_eq!(parse_server_version(text), Some(number));
        }
        for text in ["10", "9.6", "a.b", "15.1.2", "4294967295.0", ""] {
            assert_eq!(parse_server_version(text), None, "{text}");
        }
    }
}
