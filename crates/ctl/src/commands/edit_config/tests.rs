//! The recorded changes.

use serde_json::json;

use super::*;
use crate::commands::layouts;

fn config() -> Map<String, Value> {
    let config = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10,
        "postgresql": {"use_pg_rewind": true, "parameters": {"max_connections": 100}}});
    config.as_object().unwrap().clone()
}

/// Reads a recorded command line; what came from standard input comes from a file here.
fn options(command: &str, file: &std::path::Path) -> EditConfig {
    let (line, stdin) = command.split_once("   <<stdin ").unwrap_or((command, ""));
    let text = stdin.trim_matches('\'').replace("\\n", "\n");
    std::fs::write(file, text).unwrap();
    let line = line.replace("{x: 1}", "{x:\u{a0}1}");
    let words = line.split(' ').map(|word| match word {
        "-" => file.to_str().unwrap().into(),
        word => word.replace('\u{a0}', " ").into(),
    });
    let arguments: Vec<std::ffi::OsString> = std::iter::once("ptctl".into()).chain(words).collect();
    match crate::cli::parse("ptctl", &arguments, Console).unwrap().command {
        crate::cli::Command::EditConfig(options) => options,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn c_5_the_recorded_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stdin");
    let mut written = 0;
    for recorded in layouts::recorded().iter().filter(|one| one.command.starts_with("edit-config")) {
        let options = options(&recorded.command, &file);
        let changed = changed_by_options(Console, &options, &config()).await.unwrap().unwrap();
        let yaml = |map: &Map<String, Value>| yaml::to_yaml(&Value::Object(map.clone()));
        let diff = diff::unified(&yaml(&config()), &yaml(&changed));
        assert_eq!(diff, recorded.output, "{}", recorded.command);
        if let Some(json) = &recorded.written {
            assert_eq!(&pyjson::compact_map(&changed), json, "{}", recorded.command);
            written += 1;
        }
    }
    assert_eq!(written, 6);
}

#[tokio::test]
async fn c_5_all_ways_combine_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let (replace, apply) = (folder.path().join("r"), folder.path().join("a"));
    std::fs::write(&replace, "ttl: 1\na: {b: 1}\n").unwrap();
    std::fs::write(&apply, "ttl: 2\na: {b: null}\n").unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let line =
        format!("edit-config -s ttl=3 -p x.y=on --apply {} --replace {}", text(&apply), text(&replace));
    let options = options(&line, &folder.path().join("none"));
    let changed = changed_by_options(Console, &options, &config()).await.unwrap().unwrap();
    let expected = json!({"ttl": 3, "a": {}, "postgresql": {"parameters": {"x.y": true}}});
    assert_eq!(Value::Object(changed), expected);
}

#[test]
fn c_5_a_pair_without_a_value_is_an_error() {
    let error = set(&mut config(), "ttl", "").unwrap_err().to_string();
    assert!(error.contains("ttl") && error.contains("KEY=VALUE"), "{error}");
    assert!(set(&mut config(), "ttl={", "").is_err());
}

#[test]
fn c_5_show_config_and_history_layouts() {
    let recorded = layouts::recorded();
    let raw =
        |value: String| ptarmigan_types::RawValue { value, revision: 1, create_revision: 1, lease: None };
    let read = |key: &str, value: String| ptarmigan_types::Cluster::read([(key, &raw(value))]);
    let cluster = read("config", Value::Object(config()).to_string());
    assert_eq!(super::super::show_config::text(&cluster), layouts::first(&recorded, "show-config").output);
    assert_eq!(super::super::show_config::text(&ptarmigan_types::Cluster::default()), "");

    let history = r#"[[1,25623960,"no recovery target specified","2019-09-23T16:57:57+02:00","pg-1"],
        [2,25624344,"no recovery target specified"]]"#;
    let cluster = read("history", history.into());
    for (word, format) in [
        ("pretty", crate::cli::Format::Pretty),
        ("tsv", crate::cli::Format::Tsv),
        ("json", crate::cli::Format::Json),
        ("yaml", crate::cli::Format::Yaml),
    ] {
        let recorded = layouts::first(&recorded, &format!("history -f {word}"));
        assert_eq!(super::super::history::rows(&cluster).render(format), recorded.output, "{word}");
    }
    let empty = super::super::history::rows(&ptarmigan_types::Cluster::default());
    assert_eq!(empty.render(crate::cli::Format::Pretty), layouts::first(&recorded, "history").output);
}
