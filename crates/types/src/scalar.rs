//! Scalars as the configuration and the keys carry them: Python's truthiness and text, PostgreSQL's booleans,
//! numbers and units (contract CF-6, CF-30, C.3, PR-4).

use serde_json::{Map, Value};

use crate::pyjson;

/// Python's truthiness: `None`, `False`, zero, `""`, `[]` and `{}` are false, everything else is true.
pub fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Reads a boolean as operators write it: `on`, `true`, `yes`, `1` and their opposites in any case (contract CF-30);
/// `None` for anything else, abbreviations included.
pub fn parse_bool(value: &Value) -> Option<bool> {
    match python_str(value).to_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// Reads an integer (contract C.3): C's notation (`0x10`, `010`), fractions rounded half to even, and, where
/// `base_unit` is given, PostgreSQL's case-sensitive units, converted to it (`base_unit` may be `8kB`).
/// A unit without a base unit, and anything else, is `None`.
pub fn parse_int(value: &Value, base_unit: Option<&str>) -> Option<i64> {
    let text = python_str(value);
    let (number, unit) = split_number(&text)?;
    if unit.is_empty()
        && let Number::Integer(integer) = number
    {
        return Some(integer);
    }
    let rounded = convert(number.as_f64(), unit, base_unit)?.round_ties_even();
    // Beyond the integers of PostgreSQL, and of a double, there is nothing to configure.
    (rounded.abs() < 9.0e18).then_some(rounded as i64)
}

/// Reads a real number, with the same units as [`parse_int`].
pub fn parse_real(value: &Value, base_unit: Option<&str>) -> Option<f64> {
    let text = python_str(value);
    let (number, unit) = split_real(&text)?;
    convert(number, unit, base_unit)
}

/// Python's `int()`: integers, truncated floats, booleans, decimal text with blanks around it.
pub fn python_int(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(value) => Some(i64::from(*value)),
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?.trunc();
            (number.is_f64() && float.abs() < 9.0e18).then_some(float as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Python's `str()`: `True`, `False`, `None`, text as it is, containers as their literal.
pub fn python_str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => python_repr(other),
    }
}

fn python_repr(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => pyjson::number(number),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(python_repr).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let items = map.iter().map(|(key, item)| format!("{}: {}", quoted(key), python_repr(item)));
            format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() || c == '\u{ad}' || c == '\u{a0}' => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Equality by text: `1` equals `"1"`, `true` equals `"True"` but not `"true"`.
pub fn same_text(a: &Value, b: &Value) -> bool {
    python_str(a) == python_str(b)
}

/// Deep equality: objects have the same keys with equal values, everything else is compared by [`same_text`].
pub fn same_map(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    a.len() == b.len()
        && a.iter().all(|(key, one)| match (one, b.get(key)) {
            (Value::Object(one), Some(Value::Object(other))) => same_map(one, other),
            (one, Some(other)) => same_text(one, other),
            (_, None) => false,
        })
}

/// True where two values of one PostgreSQL setting mean the same; `vartype` and `base_unit` are those of
/// `pg_settings`, and only `new` may carry a unit. A value that cannot be read equals nothing.
pub fn same_setting(vartype: &str, base_unit: Option<&str>, old: &Value, new: &Value) -> bool {
    fn both<T: Copy + PartialEq>(old: Option<T>, new: Option<T>) -> bool {
        old.is_some() && old == new
    }
    match vartype {
        "bool" => both(parse_bool(old), parse_bool(new)),
        "integer" => both(parse_int(old, None), parse_int(new, base_unit)),
        "real" => both(parse_real(old, None), parse_real(new, base_unit)),
        "enum" => python_str(old).to_lowercase() == python_str(new).to_lowercase(),
        _ => same_text(old, new),
    }
}

/// Prints a value of `pg_settings` in the largest unit that needs no fraction (contract PR-4): `16384` of `8kB` is
/// `128MB`, `0` stays `0`; a real number that never comes out whole is printed in the smallest unit, with six digits.
/// Values without a unit, of another type or unreadable stay as they are.
pub fn to_largest_unit(value: &str, vartype: &str, base_unit: Option<&str>) -> String {
    let converted = base_unit.and_then(|base| match vartype {
        "integer" => whole_units(value.trim().parse().ok()?, base),
        "real" => real_units(parse_real(&value.into(), None)?, base),
        _ => None,
    });
    converted.unwrap_or_else(|| value.to_owned())
}

fn whole_units(value: i64, base: &str) -> Option<String> {
    let total = i128::from(value) * i128::from(unit_size(base)?);
    let family = family_of(base)?;
    let (name, size) = family.iter().rev().find(|(_, size)| total % i128::from(*size) == 0)?;
    Some(if total == 0 { "0".into() } else { format!("{}{name}", total / i128::from(*size)) })
}

fn real_units(value: f64, base: &str) -> Option<String> {
    if value == 0.0 {
        return Some("0".into());
    }
    let total = value * unit_size(base)? as f64;
    let family = family_of(base)?;
    // The server prints negative values in the smallest unit too.
    let is_whole = |scaled: f64| scaled > 0.0 && (scaled.round() / scaled - 1.0).abs() <= 1e-8;
    let (name, size) =
        family.iter().rev().find(|(_, size)| is_whole(total / *size as f64)).or_else(|| family.first())?;
    Some(format!("{}{name}", six_digits(total / *size as f64)))
}

/// C's `%g`.
fn six_digits(value: f64) -> String {
    let strip = |digits: &str| match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    let scientific = format!("{value:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    match usize::try_from(5 - exponent) {
        Ok(decimals) if exponent >= -4 => strip(&format!("{value:.decimals$}")),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", strip(mantissa), exponent.unsigned_abs())
        }
    }
}

/// Units and their sizes in the smallest of the family, smallest first.
type Family = [(&'static str, u64)];

const MEMORY: &Family = &[("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

const TIME: &Family = &[
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// The units that settings are counted in; the others only occur in values.
const BASE_UNITS: [&str; 6] = ["B", "kB", "MB", "ms", "s", "min"];

/// `8kB` is eight of `kB`.
fn split_base(base_unit: &str) -> (u64, &str) {
    let digits = base_unit.bytes().take_while(u8::is_ascii_digit).count();
    let (count, name) = base_unit.split_at(digits);
    (count.parse().unwrap_or(1), name)
}

fn family_of(base_unit: &str) -> Option<&'static Family> {
    let (_, name) = split_base(base_unit);
    let family = [MEMORY, TIME].into_iter().find(|family| family.iter().any(|(unit, _)| *unit == name))?;
    BASE_UNITS.contains(&name).then_some(family)
}

/// The size of a base unit such as `8kB`, in the smallest unit of its family.
fn unit_size(base_unit: &str) -> Option<u64> {
    let (count, name) = split_base(base_unit);
    let (_, size) = family_of(base_unit)?.iter().find(|(unit, _)| *unit == name)?;
    count.checked_mul(*size).filter(|size| *size > 0)
}

fn convert(number: f64, unit: &str, base_unit: Option<&str>) -> Option<f64> {
    if unit.is_empty() {
        return Some(number);
    }
    let base = base_unit?;
    let (_, size) = family_of(base)?.iter().find(|(name, _)| *name == unit)?;
    Some(number * *size as f64 / unit_size(base)? as f64)
}

#[derive(Clone, Copy)]
enum Number {
    Integer(i64),
    Float(f64),
}

impl Number {
    const fn as_f64(self) -> f64 {
        match self {
            Self::Integer(integer) => integer as f64,
            Self::Float(float) => float,
        }
    }
}

/// C's `strtol` with base 0, and `strtod` where the digits go on with a fraction or an exponent.
fn split_number(text: &str) -> Option<(Number, &str)> {
    let start = text.trim_start();
    let unsigned = start.strip_prefix(['+', '-']).unwrap_or(start);
    let (digits, radix) = match unsigned.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&unsigned[2..], 16),
        [b'0', ..] => (unsigned, 8),
        _ => (unsigned, 10),
    };
    let count = digits.chars().take_while(|c| c.is_digit(radix)).count();
    let rest = &digits[count..];
    if count > 0 && !rest.starts_with(['.', 'e', 'E']) {
        let sign = if start.starts_with('-') { -1 } else { 1 };
        let integer = i64::from_str_radix(&digits[..count], radix).ok()?;
        return Some((Number::Integer(sign * integer), rest.trim()));
    }
    let (float, rest) = split_real(text)?;
    Some((Number::Float(float), rest))
}

/// C's `strtod` for decimal text.
fn split_real(text: &str) -> Option<(f64, &str)> {
    let start = text.trim_start();
    let bytes = start.as_bytes();
    let digits_from = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let whole = digits_from(end);
    end += whole;
    let mut fraction = 0;
    if bytes.get(end) == Some(&b'.') {
        fraction = digits_from(end + 1);
        // `1.` is not a number here: the point goes to the unit, which then is none.
        end += if fraction > 0 { 1 + fraction } else { 0 };
    }
    if whole + fraction == 0 {
        return None;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits_from((end + 1 + sign).min(bytes.len()));
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    let number = start[..end].parse().ok()?;
    Some((number, start[end..].trim()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn c_3_integers_in_odd_notations() {
        for (text, base_unit, expected) in [
            ("08", None, None),
            ("09.5", None, None),
            ("0x", None, None),
            ("0x1e3", None, Some(483)),
            (".5", Some("s"), Some(0)),
            ("1.", None, None),
            ("1.5e", None, None),
            ("1e3s", Some("s"), Some(1000)),
            ("1e", Some("s"), None),
            ("1500us", Some("ms"), Some(2)),
            ("512B", Some("kB"), Some(0)),
            ("12kB", Some("8kB"), Some(2)),
            ("+5", None, Some(5)),
            ("- 5", None, None),
            ("-5 MB", Some("kB"), Some(-5120)),
            ("0x10kB", Some("kB"), Some(16)),
            ("5 5", None, None),
            ("90s", Some("min"), Some(2)),
            ("10", Some("GB"), Some(10)),
            ("1GB", Some("GB"), None),
            ("1MB", Some(""), None),
            ("1MB", Some("0kB"), None),
            ("9223372036854775807", None, Some(i64::MAX)),
            ("99999999999999999999", None, None),
            ("1e400", None, None),
            ("nan", None, None),
            ("010.5", None, Some(10)),
            ("-0x10", None, Some(-16)),
            ("-010", None, Some(-8)),
            ("é", None, None),
        ] {
            assert_eq!(parse_int(&text.into(), base_unit), expected, "{text} in {base_unit:?}");
        }
        assert_eq!(parse_real(&"08".into(), None), Some(8.0));
        assert_eq!(parse_real(&"0x10".into(), None), None);
        assert_eq!(parse_real(&"1500us".into(), Some("ms")), Some(1.5));
    }

    #[test]
    fn cf_30_only_the_known_words_are_booleans() {
        for value in [json!(1.0), json!(0.0), json!(2), json!(" true "), json!([]), json!({}), json!(null)] {
            assert_eq!(parse_bool(&value), None, "{value}");
        }
    }

    #[test]
    fn pr_4_largest_unit() {
        for (value, vartype, unit, expected) in [
            ("1048576", "integer", "B", "1MB"),
            ("4294967296", "integer", "kB", "4TB"),
            ("90", "integer", "s", "90s"),
            ("1440", "integer", "min", "1d"),
            ("604800", "integer", "s", "7d"),
            ("-60", "integer", "s", "-1min"),
            ("3", "integer", "8kB", "24kB"),
            ("16", "integer", "16MB", "256MB"),
            ("100", "integer", "GB", "100"),
            ("0.5", "integer", "kB", "0.5"),
            ("x", "integer", "kB", "x"),
            ("2048", "integer", "", "2048"),
            ("0.5", "real", "ms", "500us"),
            ("0.3", "real", "ms", "300us"),
            ("1.1", "real", "s", "1100ms"),
            ("0.0001", "real", "ms", "0.1us"),
            ("1.23456789", "real", "ms", "1234.57us"),
            ("1.0005", "real", "s", "1.0005e+06us"),
            ("1e-10", "real", "ms", "1e-07us"),
            ("-1", "real", "ms", "-1000us"),
            ("1000000", "real", "ms", "1000s"),
            ("100.5", "real", "kB", "102912B"),
        ] {
            assert_eq!(to_largest_unit(value, vartype, Some(unit)), expected, "{value} {vartype} {unit}");
        }
    }

    #[test]
    fn python_text_of_containers() {
        let value = json!([1, 1.5, 1e20, true, null, "a'b", "a\"b", "a'\"b", "x\n\\\u{1}ü", {"k": [1]}]);
        let expected =
            concat!(r#"[1, 1.5, 1e+20, True, None, "a'b", 'a"b', 'a\'"b', "#, r#"'x\n\\\x01ü', {'k': [1]}]"#);
        assert_eq!(python_str(&value), expected);
        assert!(is_truthy(&json!("false")) && !is_truthy(&json!(0.0)) && !is_truthy(&json!("")));
    }

    #[test]
    fn python_int_truncates_and_trims() {
        for (value, expected) in [
            (json!(5.7), Some(5)),
            (json!(-5.7), Some(-5)),
            (json!(true), Some(1)),
            (json!(" 7 "), Some(7)),
            (json!("5.7"), None),
            (json!(null), None),
            (json!(1e300), None),
            (json!(u64::MAX), None),
        ] {
            assert_eq!(python_int(&value), expected, "{value}");
        }
    }
}
