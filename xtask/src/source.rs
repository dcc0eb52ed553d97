//! The workspace's files, and which of their lines are tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Folders that are not looked into.
const SKIPPED: [&str; 3] = [".git", "target", "node_modules"];

/// Tests that other crates run: library code to the compiler, test code by their purpose.
const TEST_SUITES: [&str; 1] = ["crates/dcs/src/conformance.rs"];

/// A text file of the workspace.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the workspace, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The whole file is test code.
    pub(crate) is_test: bool,
}

impl Source {
    #[cfg(test)]
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), is_test: test_path(path) }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines with their numbers, those of `#[cfg(test)] mod ... { }` left out; none of a test file.
    pub(crate) fn production(&self) -> Vec<(usize, &str)> {
        let mut kept = Vec::new();
        if self.is_test {
            return kept;
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let mut index = 0;
        while index < lines.len() {
            if let Some(end) = test_module_end(&lines, index) {
                index = end + 1;
            } else {
                kept.push((index + 1, lines[index]));
                index += 1;
            }
        }
        kept
    }
}

/// Reads every text file below `root`.
pub(crate) fn read_all(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name();
            if SKIPPED.iter().any(|skipped| name == *skipped) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                let path = entry.path().strip_prefix(root)?.to_string_lossy().into_owned();
                let is_test = test_path(&path);
                sources.push(Source { path, text, is_test });
            }
        }
    }
    mark_test_modules(&mut sources);
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(sources)
}

fn test_path(path: &str) -> bool {
    if TEST_SUITES.contains(&path) {
        return true;
    }
    let mut parts = path.split('/');
    parts.any(|part| ["tests", "benches", "testdata"].contains(&part)) || path.ends_with("/tests.rs")
}

/// A module declared as `#[cfg(test)] mod name;` is test code, whatever its file is called.
fn mark_test_modules(sources: &mut [Source]) {
    let declared: BTreeSet<PathBuf> =
        sources.iter().filter(|source| source.is_rust()).flat_map(declarations).collect();
    for source in sources {
        let path = Path::new(&source.path);
        source.is_test |= path.ancestors().any(|part| declared.contains(&part.with_extension("")));
    }
}

/// Paths, without extension, of the test modules that a file declares.
fn declarations(source: &Source) -> Vec<PathBuf> {
    let path = Path::new(&source.path);
    let stem = path.with_extension("");
    let is_root = ["lib", "main", "mod"].iter().any(|root| stem.ends_with(root));
    let folder = if is_root { path.parent().unwrap_or(path).to_owned() } else { stem };
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    let test_modules = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    test_modules
        .filter_map(|pair| pair[1].trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';'))
        .map(|name| folder.join(name))
        .collect()
}

/// Where a `#[cfg(test)] mod name {` that begins at `start` ends: code is formatted, so by its indentation.
fn test_module_end(lines: &[&str], start: usize) -> Option<usize> {
    if lines[start].trim() != "#[cfg(test)]" {
        return None;
    }
    let opening = (start + 1..lines.len()).find(|index| !lines[*index].trim_start().starts_with("#["))?;
    let line = lines[opening];
    if !(line.contains("mod ") && line.trim_end().ends_with('{')) {
        return None;
    }
    let closing = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
    (opening + 1..lines.len()).find(|index| lines[*index] == closing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_test_modules_are_left_out() {
        let source = Source::new(
            "src/a.rs",
            "//! a\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n",
        );
        let lines: Vec<usize> = source.production().iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 8]);
    }

    #[test]
    fn test_modules_in_files_of_their_own_are_found() {
        let mut sources = vec![
            Source::new("crates/a/src/lib.rs", "#[cfg(test)]\nmod oracle;\nmod real;\n"),
            Source::new("crates/a/src/oracle.rs", ""),
            Source::new("crates/a/src/oracle/table.rs", ""),
            Source::new("crates/a/src/real.rs", "#[cfg(test)]\nmod checks;"),
            Source::new("crates/a/src/real/checks.rs", ""),
        ];
        mark_test_modules(&mut sources);
        let tests: Vec<bool> = sources.iter().map(|source| source.is_test).collect();
        assert_eq!(tests, [false, true, true, false, true]);
    }

    #[test]
    fn test_folders_are_tests() {
        assert!(test_path("crates/a/tests/b.rs") && test_path("tests/b.rs") && test_path("src/a/tests.rs"));
        assert!(!test_path("src/contests.rs"));
    }
}
