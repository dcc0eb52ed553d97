//! What we read and write against what PyYAML reads and writes.
#![allow(clippy::unwrap_used, reason = "what fails in a helper is to fail the test")]

use std::{fs, path::PathBuf};

use ptarmigan_config::yaml::{Layout, parse, parse_mapping, to_yaml, to_yaml_with};
use serde_json::{Value, json};

fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn lines(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(testdata().join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(testdata().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .collect();
    files.sort();
    files
}

/// JSON texts compare with the order of keys, which values alone do not.
fn ordered(value: &Value) -> String {
    serde_json::to_string(value).unwrap()
}

#[test]
fn files_read_as_pyyaml_reads_them() {
    let files = files("configs");
    assert!(files.len() >= 12, "{files:?}");
    for path in files {
        let expected: Value =
            serde_json::from_str(&fs::read_to_string(path.with_extension("json")).unwrap()).unwrap();
        let read = parse(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(ordered(&read.value), ordered(&expected), "{}", path.display());
    }
}

#[test]
fn files_that_pyyaml_refuses_are_refused_with_a_reason() {
    let reasons = [
        ("anchor_twice", 2, "defined twice"),
        ("empty", 1, "is empty"),
        ("equals", 1, "put it in quotes"),
        ("indent", 2, ""),
        ("list", 1, "is a list"),
        ("open_quote", 1, ""),
        ("percent", 1, ""),
        ("placeholder_in_braces", 1, "placeholder"),
        ("star", 1, "put the value in quotes"),
        ("tab_after_colon", 2, "tab"),
        ("tab_indent", 1, "tab"),
        ("two_colons", 1, ""),
        ("two_documents", 2, "second document"),
        ("unknown_tag", 1, "'!vault'"),
        ("words", 1, "single value"),
    ];
    let files = files("configs/refused");
    assert_eq!(files.len(), reasons.len());
    for (path, (name, line, reason)) in files.iter().zip(reasons) {
        assert!(path.ends_with(format!("{name}.yml")), "{}", path.display());
        let error = parse_mapping(&fs::read_to_string(path).unwrap()).unwrap_err();
        assert!(error.reason.contains(reason) && !error.reason.is_empty(), "{name}: {error}");
        assert!(error.line >= line && error.line <= line + 2, "{name}: {error}");
    }
}

#[test]
fn samples_read_as_pyyaml_reads_them() {
    let samples = lines("yaml_parse.jsonl");
    assert!(samples.len() > 400);
    for sample in samples {
        let text = sample["text"].as_str().unwrap();
        match (parse(text), sample.get("value")) {
            (Ok(read), Some(expected)) => assert_eq!(&read.value, expected, "{text:?}"),
            (Err(error), None) => assert!(!error.reason.is_empty() && error.line > 0, "{text:?}"),
            (read, expected) => panic!("{text:?}: {read:?}, PyYAML: {expected:?}"),
        }
    }
}

#[test]
fn samples_are_written_as_pyyaml_writes_them() {
    let samples = lines("yaml_emit.jsonl");
    assert!(samples.len() > 200);
    for sample in samples {
        let layout = if sample["ctl"] == true { Layout::CTL } else { Layout::PYYAML };
        assert_eq!(to_yaml_with(&sample["value"], layout), sample["text"].as_str().unwrap());
    }
}

#[test]
fn what_is_written_reads_back() {
    for path in files("configs") {
        let expected: Value =
            serde_json::from_str(&fs::read_to_string(path.with_extension("json")).unwrap()).unwrap();
        for layout in [Layout::CTL, Layout::PYYAML, Layout { sort_keys: false, ..Layout::CTL }] {
            let read = parse(&to_yaml_with(&expected, layout)).unwrap();
            assert_eq!(read.value, expected, "{}", path.display());
            assert_eq!(read.warnings, [], "{}", path.display());
        }
    }
}

#[test]
fn layouts_of_the_ctl_tool() {
    let config = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10,
        "postgresql": {"use_pg_rewind": true, "parameters": {"max_connections": 100}}});
    assert_eq!(
        to_yaml(&config),
        "loop_wait: 10\npostgresql:\n  parameters:\n    max_connections: 100\n  use_pg_rewind: true\n\
         retry_timeout: 10\nttl: 30\n"
    );
    assert_eq!(
        to_yaml(&json!({"tags": [1, 2], "a": {"b": {"c": {"x": 1}}}})),
        "a:\n  b:\n    c:\n      x: 1\ntags:\n- 1\n- 2\n"
    );
    let history =
        json!([{"TL": 1, "LSN": 25_623_960, "Timestamp": "2019-09-23T16:57:57+02:00", "New Leader": ""}]);
    assert_eq!(
        to_yaml(&history),
        "- LSN: 25623960\n  New Leader: ''\n  TL: 1\n  Timestamp: '2019-09-23T16:57:57+02:00'\n"
    );
    let quoted = json!({"hot_standby": "on", "port": "5432", "time": "1:30", "exp": "1e3", "no": null, "e": [], "m": {}});
    assert_eq!(
        to_yaml(&quoted),
        "e: []\nexp: 1e3\nhot_standby: 'on'\nm: {}\n'no': null\nport: '5432'\ntime: '1:30'\n"
    );
    assert_eq!(to_yaml(&json!("plain")), "plain\n...\n");
}

#[test]
fn duplicate_keys_are_remarked_on_and_the_last_one_counts() {
    let text = fs::read_to_string(testdata().join("configs/duplicates.yml")).unwrap();
    let warnings: Vec<String> = parse(&text).unwrap().warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "postgresql.parameters.work_mem: is given more than once, on lines 6, 7: the last one counts",
            "postgresql.listen: is given more than once, on lines 4, 8: the last one counts",
            "list[0].a: is given more than once, on lines 11, 11: the last one counts",
            "scope: is given more than once, on lines 1, 9: the last one counts",
        ]
    );
}

#[test]
fn a_document_that_expands_without_end_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", alias.trim_end_matches(", ")));
    }
    let error = parse(&text).unwrap_err();
    assert!(error.reason.contains("expand"), "{error}");
    assert!(parse(&"[".repeat(5000)).is_err());
    assert!(parse("a: &a [*a]").is_err());
}
