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
/// `128MB`, `0` stays `0`. Values without a unit, of another type or unreadable stay as they are.
pub fn to_largest_unit(value: &str, vartype: &str, base_unit: Option<&str>) -> String {
    let unchanged = || value.to_owned();
    let Some(base) = base_unit else { return unchanged() };
    let text = Value::from(value);
    let number = match vartype {
        "integer" => parse_int(&text, None).map(|number| number as f64),
        "real" => parse_real(&text, None),
        _ => None,
    };
    let Some(number) = number else { return unchanged() };
    if number == 0.0 {
        return "0".into();
    }
    let Some(family) = family_of(base) else { return unchanged() };
    let Some(base_size) = unit_size(base) else { return unchanged() };
    for (name, size) in family.iter().rev() {
        let scaled = number * base_size / size;
        let whole = scaled.round();
        if whole != 0.0 && (scaled - whole).abs() <= whole.abs() * 1e-12 {
            return format!("{}{name}", whole as i64);
        }
    }
    unchanged()
}

const MEMORY: [(&str, f64); 5] =
    [("B", 1.0), ("kB", 1024.0), ("MB", 1_048_576.0), ("GB", 1_073_741_824.0), ("TB", 1_099_511_627_776.0)];

const TIME: [(&str, f64); 6] = [
    ("us", 1.0),
    ("ms", 1_000.0),
    ("s", 1_000_000.0),
    ("min", 60_000_000.0),
    ("h", 3_600_000_000.0),
    ("d", 86_400_000_000.0),
];

/// The units that PostgreSQL uses as base units; the others only occur in values.
const BASE_UNITS: [&str; 6] = ["B", "kB", "MB", "ms", "s", "min"];

fn split_base(base_unit: &str) -> (f64, &str) {
    let digits = base_unit.bytes().take_while(u8::is_ascii_digit).count();
    let (count, name) = base_unit.split_at(digits);
    (count.parse().unwrap_or(1.0), name)
}

fn family_of(base_unit: &str) -> Option<&'static [(&'static str, f64)]> {
    let (_, name) = split_base(base_unit);
    if !BASE_UNITS.contains(&name) {
        return None;
    }
    let of = |family: &'static [(&'static str, f64)]| {
        family.iter().any(|(unit, _)| *unit == name).then_some(family)
    };
    of(&MEMORY).or_else(|| of(&TIME))
}

/// The size of a base unit such as `8kB`, in the smallest unit of its family.
fn unit_size(base_unit: &str) -> Option<f64> {
    let (count, name) = split_base(base_unit);
    let size = family_of(base_unit)?.iter().find(|(unit, _)| *unit == name)?.1;
    Some(count * size)
}

fn convert(number: f64, unit: &str, base_unit: Option<&str>) -> Option<f64> {
    if unit.is_empty() {
        return Some(number);
    }
    let base = base_unit?;
    let size = family_of(base)?.iter().find(|(name, _)| *name == unit)?.1;
    Some(number * size / unit_size(base)?)
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
        if whole + fraction > 0 {
            end += 1 + fraction;
        }
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
