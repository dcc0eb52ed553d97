//! Files, folders and variables (contract C.1).
#![allow(clippy::unwrap_used, reason = "what fails in a helper is to fail the test")]

use std::{collections::BTreeMap, fs, path::Path};

use ptarmigan_config::{Environment, load, load::Error};
use serde_json::{Value, json};

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment::read(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn config(pairs: &[(&str, &str)]) -> Value {
    Value::Object(environment(pairs).config)
}

#[test]
fn cf_1_a_folder_is_merged_in_the_order_of_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("20-site.yaml", "postgresql: {listen: '*:5432', pgpass: null}\nlog: null\n");
    write(
        "10-base.yml",
        "scope: s\nlog: {level: DEBUG}\npostgresql: {listen: 'a:1', pgpass: /x, data_dir: /d}\n",
    );
    write("30-ignored.conf", "scope: other\n");
    fs::create_dir(folder.path().join("40-folder.yml")).unwrap();
    let local = load(Some(folder.path()), &Environment::default()).unwrap();
    assert_eq!(
        Value::Object(local.config),
        json!({"scope": "s", "postgresql": {"listen": "*:5432", "data_dir": "/d"}})
    );
    assert_eq!(local.source.as_deref(), Some(folder.path()));
    write("50-list.yml", "- a\n");
    let error = load(Some(folder.path()), &Environment::default()).unwrap_err().to_string();
    assert!(error.contains("50-list.yml") && error.contains("is a list"), "{error}");
}

#[test]
fn cf_1_a_null_section_of_a_single_file_counts_as_absent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.yml");
    fs::write(&file, "scope: s\netcd3:\nbootstrap: ~\npostgresql: {parameters: null}\n").unwrap();
    let local = load(Some(&file), &Environment::default()).unwrap();
    assert_eq!(Value::Object(local.config), json!({"scope": "s", "postgresql": {"parameters": null}}));
}

#[test]
fn cf_2_the_environment_goes_over_a_file_and_the_inline_configuration_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.yml");
    fs::write(&file, "scope: file\nname: file\nrestapi: {listen: 'a:1', connect_address: 'a:2'}\n").unwrap();
    let environment = environment(&[
        ("PATRONI_SCOPE", "variable"),
        ("PATRONI_RESTAPI_LISTEN", "b:1"),
        ("PATRONI_CONFIGURATION", "{scope: inline}"),
    ]);
    let local = load(Some(&file), &environment).unwrap();
    assert_eq!(
        Value::Object(local.config),
        json!({"scope": "variable", "name": "file", "restapi": {"listen": "b:1", "connect_address": "a:2"}})
    );
}

#[test]
fn cf_3_the_inline_configuration_counts_alone() {
    let environment = environment(&[("PATRONI_CONFIGURATION", "{scope: inline}"), ("PATRONI_NAME", "n")]);
    let missing = Path::new("/nonexistent/node.yml");
    for argument in [None, Some(missing)] {
        let local = load(argument, &environment).unwrap();
        assert_eq!(Value::Object(local.config), json!({"scope": "inline"}));
        assert_eq!(local.source, None);
    }
}

#[test]
fn cf_3_the_environment_alone_is_a_configuration() {
    let local = load(None, &environment(&[("PATRONI_NAME", "n"), ("HOME", "/root")])).unwrap();
    assert_eq!(Value::Object(local.config), json!({"name": "n"}));
}

#[test]
fn cf_4_nothing_at_all_is_an_error() {
    assert!(matches!(load(None, &Environment::default()), Err(Error::Empty(_))));
    let error = load(Some(Path::new("/nonexistent/node.yml")), &Environment::default()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/node.yml"), "{error}");
    let error = load(None, &environment(&[("PATRONI_CONFIGURATION", "a: b: c")])).unwrap_err();
    assert!(error.to_string().contains("PATRONI_CONFIGURATION: line 1"), "{error}");
}

/// A value of the kind that the table names, and what it must become.
fn sample(variable: &str, parse: &str) -> (&'static str, Value) {
    match parse {
        _ if variable.ends_with("LOGFORMAT") => ("%(message)s", json!("%(message)s")),
        "YAML map (braces optional)" => ("k: 1, l: on", json!({"k": 1, "l": true})),
        "YAML list (brackets optional)" => ("a:1, 'b'", json!(["a:1", "b"])),
        "bool (on/true/yes/1)" => ("Yes", json!(true)),
        "int (octal/hex accepted)" => ("0644", json!(420)),
        "int" => ("5432", json!(5432)),
        "float" => ("0.5", json!(0.5)),
        "string; YAML list if it contains no %(name)" => ("%(message)s", json!("%(message)s")),
        kind if kind.starts_with("string") => ("on", json!("on")),
        other => panic!("{variable}: {other}"),
    }
}

#[test]
fn every_variable_of_the_table_goes_to_its_key() {
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/env_vars.tsv")).unwrap();
    let mut tried = 0;
    for row in table.lines().skip(1) {
        let fields: Vec<&str> = row.split('\t').collect();
        let (variable, path, parse, note) = (fields[0], fields[1], fields[2], fields[3]);
        let special = ["PATRONI_CONFIGURATION"].contains(&variable) || variable.contains(['*', '<']);
        if !variable.starts_with("PATRONI_") || special {
            continue;
        }
        tried += 1;
        if path == "(none)" {
            // The wrong names in the documentation of Kubernetes still make a section by the generic rule.
            let config = config(&[(variable, "x")]);
            assert!(config.pointer("/kubernetes").is_none(), "{variable}: {config}");
            continue;
        }
        let (text, expected) = sample(variable, parse);
        let mut pairs = vec![(variable, text)];
        if note.starts_with("read only if another variable of the same section") {
            assert_eq!(config(&pairs), json!({}), "{variable}");
            let section = path.split('.').next().unwrap();
            pairs.push((if section == "etcd" { "PATRONI_ETCD_HOST" } else { "PATRONI_ETCD3_HOST" }, "h"));
        }
        let pointer = format!("/{}", path.replace('.', "/"));
        assert_eq!(config(&pairs).pointer(&pointer), Some(&expected), "{variable}");
        assert!(environment(&pairs).consumed.contains(variable), "{variable}");
    }
    assert!(tried > 150, "{tried}");
}

#[test]
fn empty_values_of_fixed_names_are_passed_over_and_those_of_stores_stay() {
    assert_eq!(config(&[("PATRONI_NAME", ""), ("PATRONI_RESTAPI_ALLOWLIST", "")]), json!({}));
    let stores = [("PATRONI_ETCD3_HOSTS", ""), ("PATRONI_CONSUL_PORT", ""), ("PATRONI_CONSUL_VERIFY", "")];
    assert_eq!(config(&stores), json!({"etcd3": {"hosts": ""}, "consul": {"port": ""}}));
}

#[test]
fn any_name_with_a_known_suffix_makes_a_section() {
    let pairs = [("PATRONI_OTHER_HOST", "h"), ("PATRONI_OTHER_COLOUR", "red"), ("PATRONI__HOST", "x")];
    assert_eq!(config(&pairs), json!({"other": {"host": "h"}}));
    assert_eq!(
        config(&[("PATRONI_CITUS_GROUP", "1"), ("PATRONI_CITUS_DATABASE", "d"), ("PATRONI_CITUS_HOST", "h")]),
        json!({"citus": {"group": 1, "database": "d"}})
    );
}

#[test]
fn old_names_of_the_log_give_way_to_the_new_ones() {
    assert_eq!(config(&[("PATRONI_LOGLEVEL", "DEBUG")]), json!({"log": {"level": "DEBUG"}}));
    let both = [("PATRONI_LOGLEVEL", "DEBUG"), ("PATRONI_LOG_LEVEL", "INFO")];
    assert_eq!(config(&both), json!({"log": {"level": "INFO"}}));
    let fields = [("PATRONI_LOG_FORMAT", "message, {asctime: time}")];
    assert_eq!(config(&fields), json!({"log": {"format": ["message", {"asctime": "time"}]}}));
}

#[test]
fn a_value_that_cannot_be_read_is_remarked_on_without_being_shown() {
    let environment = environment(&[
        ("PATRONI_RESTAPI_HTTP_EXTRA_HEADERS", "{sesame"),
        ("PATRONI_CTL_INSECURE", "perhaps"),
        ("PATRONI_ETCD3_PORT", "sesame"),
    ]);
    assert_eq!(Value::Object(environment.config), json!({}));
    let shown: BTreeMap<String, String> =
        environment.warnings.into_iter().map(|warning| (warning.key, warning.reason)).collect();
    assert_eq!(shown.len(), 3);
    assert!(shown.values().all(|reason| !reason.contains("sesame")), "{shown:?}");
    assert!(shown["PATRONI_CTL_INSECURE"].contains("not a boolean"));
}

#[test]
fn the_guardian_has_a_variable_of_its_own() {
    assert_eq!(config(&[("PTARMIGAN_GUARDIAN", "required")]), json!({"guardian": {"mode": "required"}}));
}
