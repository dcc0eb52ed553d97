//! Dotted paths into the configuration (contract C.5, "edit-config -s").

use serde_json::{Map, Value};

/// Names of PostgreSQL's parameters may hold dots: below this, the rest of the path is one name.
const PARAMETERS: [&str; 2] = ["postgresql", "parameters"];

/// Sets the value at `path`; `null` removes it. Mappings are made where there is none, a scalar on the way is
/// replaced by one; those that come out empty are removed.
pub(super) fn set(config: &mut Map<String, Value>, path: &str, value: Value) {
    let mut segments: Vec<&str> = path.split('.').collect();
    let rest;
    if segments.len() > PARAMETERS.len() && segments[..2] == PARAMETERS {
        rest = segments.split_off(PARAMETERS.len()).join(".");
        segments.push(&rest);
    }
    set_at(config, &segments, value);
}

fn set_at(config: &mut Map<String, Value>, path: &[&str], value: Value) {
    let Some((key, below)) = path.split_first() else { return };
    if below.is_empty() {
        if value.is_null() {
            config.shift_remove(*key);
        } else {
            config.insert((*key).to_owned(), value);
        }
        return;
    }
    let entry = config.entry(*key).or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    let Value::Object(map) = entry else { return };
    set_at(map, below, value);
    if map.is_empty() {
        config.shift_remove(*key);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn c_5_paths() {
        for (before, path, value, after) in [
            (json!({}), "a.b", json!(1), json!({"a": {"b": 1}})),
            (json!({"a": {"b": 1}}), "a.b", json!(null), json!({})),
            (json!({"a": {"b": 1, "c": 2}}), "a.b", json!(null), json!({"a": {"c": 2}})),
            (json!({"a": 5}), "a.b", json!(1), json!({"a": {"b": 1}})),
            (json!({"a": null}), "a.b.c", json!(1), json!({"a": {"b": {"c": 1}}})),
            (json!({"x": 1}), "a.b.c", json!(null), json!({"x": 1})),
            (json!({"a": 1, "b": 2, "c": 3}), "b", json!(9), json!({"a": 1, "b": 9, "c": 3})),
            (
                json!({}),
                "postgresql.parameters.auto_explain.log_min_duration",
                json!("1s"),
                json!({"postgresql": {"parameters": {"auto_explain.log_min_duration": "1s"}}}),
            ),
            (json!({}), "postgresql.x.y", json!(1), json!({"postgresql": {"x": {"y": 1}}})),
            (
                json!({"postgresql": {"parameters": {"a.b": 1}, "pg_hba": []}}),
                "postgresql.parameters.a.b",
                json!(null),
                json!({"postgresql": {"pg_hba": []}}),
            ),
        ] {
            let mut config = before.as_object().unwrap().clone();
            set(&mut config, path, value);
            assert_eq!(Value::Object(config), after, "{path} in {before}");
        }
    }
}
