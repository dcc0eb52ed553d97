//! Moments as operators type them, for scheduled switchovers and restarts (contract A.3.8, surface contract A.6, C).

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    tz::Offset,
};

/// Why text is not a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// A date and a time, but the zone is missing, or is a name that means nothing everywhere.
    #[error("the time has no time zone")]
    NoZone,
    /// Not a date and a time.
    #[error("not a date and time")]
    Unparsable,
}

/// Civil time as it was typed, with its offset where one was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Date and time, in the zone of `offset`.
    pub civil: DateTime,
    /// East of UTC; `None` where the text names no zone.
    pub offset: Option<Offset>,
}

impl Moment {
    /// The instant.
    ///
    /// # Errors
    /// [`ScheduleError::NoZone`] without an offset; `Unparsable` where the instant is out of range.
    pub fn timestamp(&self) -> Result<Timestamp, ScheduleError> {
        let offset = self.offset.ok_or(ScheduleError::NoZone)?;
        offset.to_timestamp(self.civil).map_err(|_| ScheduleError::Unparsable)
    }

    /// `2026-11-20T10:00:00+01:00`: ISO 8601 as keys and answers carry it, microseconds only where there are some.
    pub fn to_iso(&self) -> String {
        let offset = self.offset.map_or_else(String::new, iso_offset);
        let civil = self.civil;
        let micros = civil.subsec_nanosecond() / 1_000;
        let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
        format!("{}{fraction}{offset}", civil.strftime("%Y-%m-%dT%H:%M:%S"))
    }
}

fn iso_offset(offset: Offset) -> String {
    let seconds = offset.seconds();
    let (sign, east) = if seconds < 0 { ('-', -seconds) } else { ('+', seconds) };
    format!("{sign}{:02}:{:02}", east / 3600, east / 60 % 60)
}

/// The instant in UTC, as [`Moment::to_iso`] prints it.
pub fn to_iso(at: Timestamp) -> String {
    Moment { civil: Offset::UTC.to_datetime(at), offset: Some(Offset::UTC) }.to_iso()
}

/// Reads a moment with a zone, for example `2026-11-20T10:00+00`, `2026-11-20 10:00:00.5 +0100`, `20261120T1000Z`.
///
/// # Errors
/// [`ScheduleError`].
pub fn parse_schedule(text: &str) -> Result<Timestamp, ScheduleError> {
    parse_moment(text, None)?.timestamp()
}

/// Reads civil time without a zone, for a caller that knows the local zone; `today` completes text that is only a time.
/// Text with a zone is refused as `Unparsable`: take [`parse_moment`] to accept both.
///
/// # Errors
/// [`ScheduleError::Unparsable`].
pub fn parse_naive(text: &str, today: Option<Date>) -> Result<DateTime, ScheduleError> {
    match parse_moment(text, today)? {
        Moment { civil, offset: None } => Ok(civil),
        Moment { .. } => Err(ScheduleError::Unparsable),
    }
}

/// Reads date, time and, where given, the zone. `today` completes text that is only a time.
///
/// # Errors
/// [`ScheduleError::Unparsable`].
pub fn parse_moment(text: &str, today: Option<Date>) -> Result<Moment, ScheduleError> {
    read(text.trim(), today).ok_or(ScheduleError::Unparsable)
}

fn read(text: &str, today: Option<Date>) -> Option<Moment> {
    let (date, rest) = match read_date(text) {
        Some((date, rest)) => (date, rest),
        None => (today?, text),
    };
    let rest = rest.strip_prefix(['T', 't']).unwrap_or(rest).trim_start();
    let (time, rest) = if rest.is_empty() { (Time::midnight(), rest) } else { read_time(rest)? };
    let offset = read_zone(rest.trim())?;
    Some(Moment { civil: date.to_datetime(time), offset })
}

/// `2026-11-20`, `2026/11/20` or `20261120`.
fn read_date(text: &str) -> Option<(Date, &str)> {
    let (year, rest) = digits(text, 4, 4)?;
    let separator = rest.chars().next().filter(|c| matches!(c, '-' | '/'));
    let width = if separator.is_some() { 1 } else { 2 };
    let skip = |text| match separator {
        Some(c) => str::strip_prefix(text, c),
        None => Some(text),
    };
    let (month, rest) = digits(skip(rest)?, width, 2)?;
    let (day, rest) = digits(skip(rest)?, width, 2)?;
    let date =
        Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    (!rest.starts_with(|c: char| c.is_ascii_digit())).then_some((date, rest))
}

/// `10`, `10:00`, `10:00:00`, `10:00:00.5`, `1000`, `100000`.
fn read_time(text: &str) -> Option<(Time, &str)> {
    let (hour, rest) = digits(text, 1, 2)?;
    let colon = rest.starts_with(':');
    let next = |text| {
        let text = if colon { str::strip_prefix(text, ':')? } else { text };
        digits(text, 2, 2)
    };
    let (mut minute, mut second, mut nanos) = (0, 0, 0);
    let mut rest = rest;
    if let Some((value, after)) = next(rest) {
        (minute, rest) = (value, after);
        if let Some((value, after)) = next(rest) {
            (second, rest) = (value, after);
            if let Some(after) = rest.strip_prefix(['.', ',']) {
                (nanos, rest) = fraction(after)?;
            }
        }
    } else if colon {
        return None;
    }
    let part = |value: u32| i8::try_from(value).ok();
    let time = Time::new(part(hour)?, part(minute)?, part(second)?, nanos).ok()?;
    (!rest.starts_with(|c: char| c.is_ascii_digit() || c == ':')).then_some((time, rest))
}

/// Microseconds are as fine as it gets: what follows is cut off.
fn fraction(text: &str) -> Option<(i32, &str)> {
    let count = text.bytes().take_while(u8::is_ascii_digit).count();
    let micros: i32 =
        format!("{:0<6.6}", text.get(..count).filter(|digits| !digits.is_empty())?).parse().ok()?;
    Some((micros * 1_000, &text[count..]))
}

/// `Some(None)` where there is no zone, `None` where the text is not one. Other names than UTC are no zone: what `CST`
/// means depends on who reads it. Nor is `UTC+3`: POSIX and everybody else disagree about its sign.
fn read_zone(text: &str) -> Option<Option<Offset>> {
    if matches!(text.to_ascii_uppercase().as_str(), "Z" | "UTC" | "GMT") {
        return Some(Some(Offset::UTC));
    }
    let is_name = (3..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if text.is_empty() || is_name { Some(None) } else { read_offset(text).map(Some) }
}

/// `+01`, `+1`, `+0100`, `+01:00`.
fn read_offset(text: &str) -> Option<Offset> {
    let sign = match text.bytes().next()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, rest) = digits(&text[1..], 1, 2)?;
    let minutes = if rest.is_empty() {
        0
    } else {
        let (minutes, rest) = digits(rest.strip_prefix(':').unwrap_or(rest), 2, 2)?;
        rest.is_empty().then_some(minutes).filter(|minutes| *minutes < 60)?
    };
    let east = i32::try_from(hours * 3600 + minutes * 60).ok()?;
    Offset::from_seconds(sign * east).ok()
}

/// Between `min` and `max` digits, as many as there are.
fn digits(text: &str, min: usize, max: usize) -> Option<(u32, &str)> {
    let count = text.bytes().take(max).take_while(u8::is_ascii_digit).count();
    if count < min {
        return None;
    }
    Some((text[..count].parse().ok()?, &text[count..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iso(text: &str) -> Option<String> {
        parse_moment(text, None).ok().map(|moment| moment.to_iso())
    }

    #[test]
    fn a_3_8_moments_as_operators_type_them() {
        for (text, expected) in [
            ("2026-11-20T10:00+00", "2026-11-20T10:00:00+00:00"),
            ("2026-11-20 10:00:00+01:00", "2026-11-20T10:00:00+01:00"),
            ("2026-11-20T10:00Z", "2026-11-20T10:00:00+00:00"),
            ("2026-11-20t10:00z", "2026-11-20T10:00:00+00:00"),
            ("2026-11-20T10:00:00 UTC", "2026-11-20T10:00:00+00:00"),
            ("2026-11-20 10:00 GMT", "2026-11-20T10:00:00+00:00"),
            ("2026-11-20T10:00:00.123456789+0100", "2026-11-20T10:00:00.123456+01:00"),
            ("2026-11-20 10:00:00.5", "2026-11-20T10:00:00.500000"),
            ("20261120T1000Z", "2026-11-20T10:00:00+00:00"),
            ("20261120T100000+00", "2026-11-20T10:00:00+00:00"),
            ("20261120 100000", "2026-11-20T10:00:00"),
            ("2026/11/20 10:00+00", "2026-11-20T10:00:00+00:00"),
            ("2026-1-2 3:04+00", "2026-01-02T03:04:00+00:00"),
            ("2026-11-20 10:00 +01", "2026-11-20T10:00:00+01:00"),
            ("2026-11-20T10+00", "2026-11-20T10:00:00+00:00"),
            ("2026-11-20T10:00-03", "2026-11-20T10:00:00-03:00"),
            ("2026-11-20T10:00+5:30", "2026-11-20T10:00:00+05:30"),
            ("2026-11-20T10:00-0330", "2026-11-20T10:00:00-03:30"),
            ("2026-11-20T10:00+1", "2026-11-20T10:00:00+01:00"),
            ("2026-11-20 10:00 CET", "2026-11-20T10:00:00"),
            ("2026-11-20 10:00", "2026-11-20T10:00:00"),
            ("2026-11-20 10", "2026-11-20T10:00:00"),
            (" 2026-11-20 ", "2026-11-20T00:00:00"),
        ] {
            assert_eq!(iso(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_3_8_the_instant_counts_the_offset() {
        let at = parse_schedule("2026-11-20 10:00:00.25+01:00").unwrap();
        assert_eq!(to_iso(at), "2026-11-20T09:00:00.250000+00:00");
        assert_eq!(parse_schedule(&to_iso(at)), Ok(at));
    }

    #[test]
    fn a_3_8_garbage_and_missing_zones_differ() {
        for text in ["2026-11-20T10:00", "2026-11-20", "2026-11-20 10:00 CET"] {
            assert_eq!(parse_schedule(text), Err(ScheduleError::NoZone), "{text}");
        }
        for text in [
            "",
            "now",
            "tomorrow",
            "junk",
            "10:00+00",
            "2026-11-20T24:00+00",
            "2026-11-20T10:00:60+00",
            "2026-13-20 10:00+00",
            "2026-02-30 10:00+00",
            "2026-11-20T10:+00",
            "2026-11-20T10:00:00.+00",
            "2026-11-20T10:00,5+00",
            "2026-11-20T10:00+00:00:30",
            "2026-11-20T10:00+26",
            "2026-11-20T10:00+01:60",
            "2026-11-20 10:00 UTC+3",
            "2026-11-20 10:00 America/New_York",
            "2026-11-20 10:00 +",
            "2026-11-20 10:00 é",
            "20261120100",
            "99999-01-01T00:00Z",
            "1793700000",
        ] {
            assert_eq!(parse_schedule(text), Err(ScheduleError::Unparsable), "{text}");
        }
    }

    #[test]
    fn local_time_is_completed_with_today() {
        let today = Date::constant(2026, 11, 20);
        let expected = today.at(22, 15, 0, 0);
        assert_eq!(parse_naive("22:15", Some(today)), Ok(expected));
        assert_eq!(parse_naive("2026-11-20T22:15", None), Ok(expected));
        assert_eq!(parse_naive("22:15", None), Err(ScheduleError::Unparsable));
        assert_eq!(parse_naive("2026-11-20T22:15Z", None), Err(ScheduleError::Unparsable));
        assert_eq!(parse_moment("22:15+01", Some(today)).unwrap().to_iso(), "2026-11-20T22:15:00+01:00");
    }
}
