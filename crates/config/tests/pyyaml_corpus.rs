//! Configurations from the field, each read by PyYAML and by us. The folder is named by
//! `PTARMIGAN_CONFIG_CORPUS`; without it, or without python3 and PyYAML, there is nothing to do.
#![allow(clippy::unwrap_used, reason = "what fails in a helper is to fail the test")]

use std::{fs, path::PathBuf, process};

use ptarmigan_config::{Effective, load::load_path, yaml};
use serde_json::Value;

const SCRIPT: &str = r"
import json, sys, yaml
class Loader(yaml.SafeLoader): pass
Loader.add_constructor('tag:yaml.org,2002:timestamp', yaml.SafeLoader.construct_yaml_str)
def read(path):
    try:
        return {'value': yaml.load(open(path), Loader=Loader)}
    except Exception as error:
        return {'refused': str(error)}
print(json.dumps([read(path) for path in sys.argv[1:]]))
";

fn corpus() -> Option<Vec<PathBuf>> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/configs");
    let folder = std::env::var_os("PTARMIGAN_CONFIG_CORPUS").map_or(beside, PathBuf::from);
    let entries = fs::read_dir(&folder).ok()?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml"))
        .collect();
    files.sort();
    (!files.is_empty()).then_some(files)
}

#[expect(clippy::disallowed_methods, reason = "python3 is a reference to compare with, run to its end")]
fn python(arguments: &[&str]) -> Option<String> {
    let output = process::Command::new("python3").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// Paths at which two values differ.
fn differences(ours: &Value, theirs: &Value, path: &str, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for key in ours.keys().chain(theirs.keys().filter(|key| !ours.contains_key(*key))) {
                match (ours.get(key), theirs.get(key)) {
                    (Some(a), Some(b)) => differences(a, b, &format!("{path}.{key}"), found),
                    (a, b) => found.push(format!("{path}.{key}: ours {a:?}, PyYAML {b:?}")),
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
                differences(a, b, &format!("{path}[{index}]"), found);
            }
        }
        _ if ours == theirs => {}
        _ => found.push(format!("{path}: ours {ours}, PyYAML {theirs}")),
    }
}

#[test]
fn files_from_the_field_read_as_pyyaml_reads_them() {
    let Some(files) = corpus() else {
        println!("skipped: no folder of configurations (PTARMIGAN_CONFIG_CORPUS)");
        return;
    };
    if python(&["-c", "import yaml"]).is_none() {
        println!("skipped: python3 with PyYAML is not installed");
        return;
    }
    let mut arguments = vec!["-c", SCRIPT];
    arguments.extend(files.iter().map(|file| file.to_str().unwrap()));
    let answers: Vec<Value> = serde_json::from_str(&python(&arguments).unwrap()).unwrap();
    assert_eq!(answers.len(), files.len());
    let mut found = Vec::new();
    for (file, theirs) in files.iter().zip(&answers) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let ours = yaml::parse(&fs::read_to_string(file).unwrap());
        match (ours, theirs.get("value")) {
            (Ok(ours), Some(theirs)) => differences(&ours.value, theirs, &name, &mut found),
            (Err(error), None) => println!("both refuse {name}: {error}"),
            (Ok(_), None) => found.push(format!("{name}: PyYAML refuses it: {}", theirs["refused"])),
            (Err(error), Some(_)) => found.push(format!("{name}: we refuse it: {error}")),
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    println!("{} files read alike", files.len());
}

#[test]
fn files_from_the_field_become_settings_or_are_refused_with_the_reason() {
    let Some(files) = corpus() else {
        println!("skipped: no folder of configurations (PTARMIGAN_CONFIG_CORPUS)");
        return;
    };
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let mut warnings = Vec::new();
        let local = match load_path(file, &mut warnings) {
            Ok(local) => local,
            Err(error) => {
                println!("{name:60} refused: {error}");
                assert!(error.to_string().contains("line"), "{error}");
                continue;
            }
        };
        let dynamic = Effective::bootstrap_dynamic(&local);
        match Effective::build(&local, &dynamic) {
            Ok(effective) => {
                let settings = &effective.settings;
                assert!(!settings.name.as_str().is_empty() && !settings.scope.is_empty(), "{name}");
                assert!(settings.loop_wait_s + 2 * settings.retry_timeout_s <= settings.ttl_s, "{name}");
                let store = settings.dcs.kind.as_str();
                println!("{name:60} {store}, {} remarks", warnings.len() + effective.warnings.len());
                for warning in warnings.iter().chain(&effective.warnings) {
                    println!("{:60}   {warning}", "");
                }
            }
            Err(error) => {
                assert!(error.to_string().len() > 20, "{error}");
                println!("{name:60} refused: {error}");
            }
        }
    }
}
