//! JSON values as the block YAML that people are used to read.

use serde_json::Value;

/// What YAML 1.1 takes for a boolean or null.
const YAML_WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// Renders a mapping. Every string is quoted, so no YAML version takes one for something else.
pub(super) fn render(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

fn block(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                text.push_str(&indent);
                text.push_str(&quoted_unless_plain(key));
                text.push(':');
                child(value, depth, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                text.push_str(&indent);
                text.push('-');
                child(item, depth, text);
            }
        }
        scalar => text.push_str(&format!("{indent}{scalar}\n")),
    }
}

fn child(value: &Value, depth: usize, text: &mut String) {
    let empty =
        value.as_object().is_some_and(|map| map.is_empty()) || value.as_array().is_some_and(Vec::is_empty);
    if empty || !(value.is_object() || value.is_array()) {
        text.push_str(&format!(" {value}\n"));
    } else {
        text.push('\n');
        block(value, depth + 1, text);
    }
}

fn quoted_unless_plain(key: &str) -> String {
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let plain = key.starts_with(|first: char| first.is_ascii_alphabetic()) && key.chars().all(word);
    if plain && !YAML_WORDS.contains(&key.to_lowercase().as_str()) {
        key.to_owned()
    } else {
        Value::from(key).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn renders_nested_mappings_lists_and_empty_ones() {
        let text = render(&json!({
            "scope": "demo",
            "tags": {},
            "etcd3": {"hosts": ["a:1", "b:2"]},
            "bootstrap": {"initdb": [{"encoding": "UTF8"}, "data-checksums"], "ttl": 20, "on": true},
        }));
        let expected = "scope: \"demo\"\ntags: {}\netcd3:\n  hosts:\n    - \"a:1\"\n    - \"b:2\"\nbootstrap:\n  \
                        initdb:\n    -\n      encoding: \"UTF8\"\n    - \"data-checksums\"\n  ttl: 20\n  \"on\": true\n";
        assert_eq!(text, expected);
    }
}
