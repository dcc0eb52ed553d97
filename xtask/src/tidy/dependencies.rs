//! Every dependency says what it is for.

use super::{Offence, source::Source};

const MANIFEST: &str = "Cargo.toml";
const LIST: &str = "docs/dependencies.md";

pub(super) fn check(sources: &[Source]) -> Vec<Offence> {
    let find = |path: &str| sources.iter().find(|source| source.path == path);
    let (Some(manifest), Some(list)) = (find(MANIFEST), find(LIST)) else { return Vec::new() };
    let described: Vec<&str> = list
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|names| names.split(", "))
        .collect();
    let missing = dependencies(&manifest.text).filter(|(_, name)| !described.contains(name));
    missing
        .map(|(line, name)| Offence::new(manifest, line, format!("`{name}` has no line in {LIST}")))
        .collect()
}

/// Names and lines of `[workspace.dependencies]`, our own crates left out.
fn dependencies(manifest: &str) -> impl Iterator<Item = (usize, &str)> {
    manifest
        .lines()
        .enumerate()
        .skip_while(|(_, line)| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|(_, line)| !line.starts_with('['))
        .filter_map(|(index, line)| Some((index + 1, line.split_once(" = ")?.0)))
        .filter(|(_, name)| !name.starts_with("ptarmigan-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_without_a_line_is_an_offence() {
        let manifest = "[workspace.dependencies]\nptarmigan-ha = { path = \"a\" }\nhttp = \"1\"\nserde = \"1\"\n\nrand = \"0.9\"\n\n[workspace.lints]\nx = 1\n";
        let list = "| crate | for |\n|---|---|\n| http, serde | wire |\n";
        let offences = check(&[Source::new(MANIFEST, manifest), Source::new(LIST, list)]);
        assert_eq!(offences.iter().map(|offence| offence.line).collect::<Vec<_>>(), [6]);
    }
}
