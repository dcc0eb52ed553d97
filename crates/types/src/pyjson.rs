//! JSON and numbers the way Python prints them, which other members and operators' scripts compare as text.
//! Two layouts exist: [`compact`] for the values of keys (contract A.2), [`spaced`] for REST answers (surface A.1).

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// `{"a":1,"b":"\u00fc"}`: no blanks, everything outside printable ASCII as `\uXXXX`, order kept (contract A.2).
pub fn compact(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, ",", ":");
    out
}

/// [`compact`] of an object.
pub fn compact_map(map: &Map<String, Value>) -> String {
    let mut out = String::new();
    write_map(&mut out, map, ",", ":");
    out
}

/// `{"a": 1, "b": "\u00fc"}`: a blank after each separator (surface contract A.1).
pub fn spaced(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, ", ", ": ");
    out
}

/// A number as Python's `str` and `json.dumps` print it: integers plain, floats always with `.0` or an exponent.
pub fn number(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => float(value),
        _ => number.to_string(),
    }
}

/// A float as Python's `repr` prints it: the shortest digits that read back, an exponent of at least two digits
/// below `1e-04` and from `1e+16` on.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

fn write_value(out: &mut String, value: &Value, comma: &str, colon: &str) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(value) => out.push_str(&number(value)),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(comma);
                }
                write_value(out, item, comma, colon);
            }
            out.push(']');
        }
        Value::Object(map) => write_map(out, map, comma, colon),
    }
}

fn write_map(out: &mut String, map: &Map<String, Value>, comma: &str, colon: &str) {
    out.push('{');
    for (index, (key, item)) in map.iter().enumerate() {
        if index > 0 {
            out.push_str(comma);
        }
        write_text(out, key);
        out.push_str(colon);
        write_value(out, item, comma, colon);
    }
    out.push('}');
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_layouts_escape_everything_outside_printable_ascii() {
        let value =
            json!({"a": "ü😀\u{7f}\u{1}\t\"\\/\u{8}\u{c}", "b": [1, 1.0, 1e20, true, null, {}], "é": {}});
        let text = concat!(
            r#"{"a":"\u00fc\ud83d\ude00\u007f\u0001\t\"\\/\b\f","#,
            r#""b":[1,1.0,1e+20,true,null,{}],"\u00e9":{}}"#
        );
        assert_eq!(compact(&value), text);
        let text = concat!(
            r#"{"a": "\u00fc\ud83d\ude00\u007f\u0001\t\"\\/\b\f", "#,
            r#""b": [1, 1.0, 1e+20, true, null, {}], "\u00e9": {}}"#
        );
        assert_eq!(spaced(&value), text);
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), value);
    }

    #[test]
    fn floats_print_as_python_prints_them() {
        for (value, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
        ] {
            assert_eq!(float(value), expected);
        }
    }
}
