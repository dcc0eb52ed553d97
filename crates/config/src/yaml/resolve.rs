//! What a plain scalar means (PyYAML's implicit resolvers, YAML 1.1).

use serde_json::{Number, Value};

/// A resolved plain scalar.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    /// A value.
    Value(Value),
    /// `<<`, meaningful as a key only.
    Merge,
    /// `=`, which PyYAML accepts as a key only.
    Equals,
}

/// Resolves a plain scalar.
///
/// # Errors
/// A reason where PyYAML takes the text for a number and then fails to read it (`0b_`).
pub(super) fn plain(text: &str) -> Result<Scalar, String> {
    Ok(Scalar::Value(match text {
        "<<" => return Ok(Scalar::Merge),
        "=" => return Ok(Scalar::Equals),
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        _ => match boolean(text) {
            Some(value) => Value::Bool(value),
            None => match number(text)? {
                Some(number) => number,
                None => Value::String(text.to_owned()),
            },
        },
    }))
}

/// Reads a boolean of YAML 1.1; `y` and `n` are none to PyYAML.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

fn number(text: &str) -> Result<Option<Value>, String> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return Ok(None);
    }
    if is_float(text) {
        return Ok(Some(float(text)));
    }
    if is_int(text) { int(text).map(Some) } else { Ok(None) }
}

/// True for a text that PyYAML takes for a number or a date; such texts need quotes when written.
pub(super) fn is_number_or_date(text: &str) -> bool {
    is_float(text) || is_int(text) || is_timestamp(text)
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn all(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(allowed)
}

fn digits(text: &str) -> bool {
    all(text, |byte| byte.is_ascii_digit() || byte == b'_')
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// One or more `:` and a number up to 59.
fn is_sexagesimal_tail(text: &str) -> bool {
    let mut parts = text.split(':');
    parts.next() == Some("")
        && text.starts_with(':')
        && parts.all(|part| match part.as_bytes() {
            [units] => units.is_ascii_digit(),
            [tens, units] => matches!(tens, b'0'..=b'5') && units.is_ascii_digit(),
            _ => false,
        })
}

pub(super) fn is_int(text: &str) -> bool {
    let body = unsigned(text);
    if let Some(bits) = body.strip_prefix("0b") {
        return !bits.is_empty() && all(bits, |byte| matches!(byte, b'0' | b'1' | b'_'));
    }
    if let Some(hex) = body.strip_prefix("0x") {
        return !hex.is_empty() && all(hex, |byte| byte.is_ascii_hexdigit() || byte == b'_');
    }
    if let Some(octal) = body.strip_prefix('0') {
        return all(octal, |byte| matches!(byte, b'0'..=b'7' | b'_'));
    }
    if !starts_with_digit(body) {
        return false;
    }
    match body.find(':') {
        Some(colon) => digits(&body[..colon]) && is_sexagesimal_tail(&body[colon..]),
        None => digits(body),
    }
}

pub(super) fn is_float(text: &str) -> bool {
    let body = unsigned(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let Some((whole, fraction)) = body.split_once('.') else { return false };
    let (fraction, exponent) = match fraction.find(['e', 'E']) {
        Some(at) => (&fraction[..at], Some(&fraction[at + 1..])),
        None => (fraction, None),
    };
    if whole.is_empty() {
        // A sign before the point makes it a text to PyYAML.
        return text.starts_with('.')
            && starts_with_digit(fraction)
            && digits(fraction)
            && exponent.is_none_or(is_exponent);
    }
    if !starts_with_digit(whole) || !digits(fraction) {
        return false;
    }
    match whole.find(':') {
        Some(colon) => digits(&whole[..colon]) && is_sexagesimal_tail(&whole[colon..]) && exponent.is_none(),
        None => digits(whole) && exponent.is_none_or(is_exponent),
    }
}

/// PyYAML wants a sign: `1.0e5` is a text.
fn is_exponent(text: &str) -> bool {
    text.strip_prefix(['-', '+'])
        .is_some_and(|exponent| !exponent.is_empty() && all(exponent, |byte| byte.is_ascii_digit()))
}

fn is_timestamp(text: &str) -> bool {
    let mut rest = text;
    let mut take = |least: usize, most: usize| {
        let count = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
        let taken = (count >= least).then_some(count);
        rest = &rest[count..];
        let separator = rest.chars().next();
        if let Some(c @ ('-' | ':')) = separator {
            rest = &rest[c.len_utf8()..];
        }
        taken.map(|count| (count, separator, rest))
    };
    let Some((_, Some('-'), _)) = take(4, 4) else { return false };
    let Some((month, Some('-'), _)) = take(1, 2) else { return false };
    let Some((day, after, tail)) = take(1, 2) else { return false };
    match after {
        None => month == 2 && day == 2,
        Some('T' | 't' | ' ' | '\t') => {
            let tail = match tail.strip_prefix(['T', 't']) {
                Some(tail) => tail,
                None => tail.trim_start_matches([' ', '\t']),
            };
            is_time(tail)
        }
        Some(_) => false,
    }
}

fn is_time(text: &str) -> bool {
    let mut parts = text.splitn(3, ':');
    let (Some(hours), Some(minutes), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let number = |part: &str, least: usize| {
        (least..=2).contains(&part.len()) && all(part, |byte| byte.is_ascii_digit())
    };
    if !number(hours, 1) || !number(minutes, 2) || !rest.get(..2).is_some_and(|seconds| number(seconds, 2)) {
        return false;
    }
    let mut rest = &rest[2..];
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let zone = rest.trim_start_matches([' ', '\t']);
    if zone.is_empty() {
        return rest.is_empty();
    }
    let Some(offset) = zone.strip_prefix(['-', '+']) else { return zone == "Z" };
    match offset.split_once(':') {
        Some((hours, minutes)) => number(hours, 1) && number(minutes, 2),
        None => number(offset, 1),
    }
}

/// The value of a text that [`is_int`] accepts. What no 64-bit integer holds becomes a float.
pub(super) fn int(text: &str) -> Result<Value, String> {
    let plain = text.replace('_', "");
    let body = unsigned(&plain);
    let wide = match body.as_bytes() {
        [b'0', b'b', ..] => u128::from_str_radix(&body[2..], 2),
        [b'0', b'x', ..] => u128::from_str_radix(&body[2..], 16),
        [b'0'] => Ok(0),
        [b'0', ..] => u128::from_str_radix(body, 8),
        _ => body.split(':').try_fold(0_u128, |sum, part| {
            part.parse::<u128>().map(|part| sum.saturating_mul(60).saturating_add(part))
        }),
    };
    let wide = wide.map_err(|error| format!("'{text}' looks like a number and is none: {error}"))?;
    let negative = plain.starts_with('-');
    let number = match (negative, u64::try_from(wide)) {
        (false, Ok(value)) => Some(Number::from(value)),
        (true, Ok(value)) => 0_i64.checked_sub_unsigned(value).map(Number::from),
        (_, Err(_)) => None,
    };
    let float = if negative { -(wide as f64) } else { wide as f64 };
    Ok(number.map_or_else(|| Value::from(float), Value::Number))
}

/// The value of a text that [`is_float`] accepts; infinities and NaN, which JSON lacks, stay texts.
pub(super) fn float(text: &str) -> Value {
    let plain = text.replace('_', "");
    let body = unsigned(&plain);
    let value = body.split(':').try_fold(0.0_f64, |sum, part| {
        let part = part.strip_suffix('.').unwrap_or(part);
        part.parse::<f64>().ok().map(|part| sum * 60.0 + part)
    });
    let signed = value.map(|value| if plain.starts_with('-') { -value } else { value });
    match signed.and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::String(text.to_owned()),
    }
}
