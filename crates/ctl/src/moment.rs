//! Times as the operator reads and types them.

use anyhow::{Result, anyhow};
use jiff::{ToSpan as _, Zoned, tz::TimeZone};
use ptarmigan_types::schedule::{Moment, parse_moment};

/// Local time, `2026-11-20 17:10:30`.
pub(crate) fn timestamp() -> String {
    Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Local time with five digits of the second's fraction, as result lines carry it (contract C.1).
pub(crate) fn timestamp_long() -> String {
    long(&Zoned::now())
}

fn long(now: &Zoned) -> String {
    format!("{}.{:05}", now.strftime("%Y-%m-%d %H:%M:%S"), now.subsec_nanosecond() / 10_000)
}

/// An example for questions: the same minute of the next hour.
pub(crate) fn next_hour() -> String {
    let now = Zoned::now();
    let next = now.checked_add(1.hour()).unwrap_or(now);
    next.strftime("%Y-%m-%dT%H:%M").to_string()
}

/// Reads a schedule and prints it in ISO 8601; `None` for `now` and nothing. A time without a zone is local.
///
/// # Errors
/// The text is no date and time.
pub(crate) fn parse_scheduled(text: Option<&str>) -> Result<Option<String>> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty() && !text.eq_ignore_ascii_case("now"))
    else {
        return Ok(None);
    };
    read_in(text, &Zoned::now()).map(Some).ok_or_else(|| {
        anyhow!(
            "Unable to parse scheduled timestamp ({text}). \
             It should be in an unambiguous format (e.g. ISO 8601)"
        )
    })
}

fn read_in(text: &str, now: &Zoned) -> Option<String> {
    let moment = parse_moment(text, Some(now.date())).ok()?;
    let offset = match moment.offset {
        Some(offset) => offset,
        None => local_offset(now.time_zone(), &moment)?,
    };
    Some(Moment { civil: moment.civil, offset: Some(offset) }.to_iso())
}

fn local_offset(zone: &TimeZone, moment: &Moment) -> Option<jiff::tz::Offset> {
    let instant = zone.to_timestamp(moment.civil).ok()?;
    Some(zone.to_offset(instant))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Zoned {
        "2026-11-20T17:10:30.123456[Europe/Berlin]".parse().unwrap()
    }

    #[test]
    fn c_1_result_lines_have_five_digits() {
        assert_eq!(long(&at()), "2026-11-20 17:10:30.12345");
        assert_eq!(timestamp_long().len(), 25);
        assert_eq!(timestamp().len(), 19);
    }

    #[test]
    fn c_1_naive_times_are_local() {
        for (text, expected) in [
            ("2026-12-01 10:00", Some("2026-12-01T10:00:00+01:00")),
            ("2027-07-01T10:00", Some("2027-07-01T10:00:00+02:00")),
            ("2026-12-01T10:00Z", Some("2026-12-01T10:00:00+00:00")),
            ("23:59", Some("2026-11-20T23:59:00+01:00")),
            ("soon", None),
        ] {
            assert_eq!(read_in(text, &at()).as_deref(), expected, "{text}");
        }
        assert_eq!(parse_scheduled(Some(" now ")).unwrap(), None);
        assert_eq!(parse_scheduled(Some("")).unwrap(), None);
        assert_eq!(parse_scheduled(None).unwrap(), None);
        assert!(parse_scheduled(Some("n")).unwrap_err().to_string().contains("timestamp (n)"));
    }
}
