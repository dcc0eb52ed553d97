//! Every rule that the core reports has a sentence for operators, and no sentence is left over.

use std::{collections::BTreeSet, fs, path::Path};

use ptarmigan_ha::words;

/// The ids in string literals of the core's sources: `HA-172`, `B.23.5`, ...
fn reported(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            reported(&path, found);
        } else if path.file_name().is_some_and(|name| name != "words.rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let literals = text.split('"').skip(1).step_by(2);
            found.extend(literals.filter(|literal| is_id(literal)).map(str::to_owned));
        }
    }
}

fn is_id(literal: &str) -> bool {
    let (head, tail) = literal.split_once(['-', '.']).unwrap_or_default();
    let letters = !head.is_empty() && head.bytes().all(|byte| byte.is_ascii_uppercase());
    let numbers = !tail.is_empty() && tail.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    letters && numbers || literal == "unmanaged_primary"
}

#[test]
fn every_reported_rule_has_a_sentence() {
    let mut found = BTreeSet::new();
    reported(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 100, "{found:?}");
    let known: BTreeSet<String> = words::ids().map(str::to_owned).collect();
    assert_eq!(found.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "without a sentence");
    assert_eq!(known.difference(&found).collect::<Vec<_>>(), Vec::<&String>::new(), "reported by nobody");
    assert_eq!(words::ids().count(), known.len(), "one sentence each");
    assert_eq!(words::of("HA-172"), Some("the lock is lost: the primary steps down"));
    assert_eq!(words::of("HA-1"), None);
}
