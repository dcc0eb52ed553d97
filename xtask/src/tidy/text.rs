//! Words that have no place in the project's files.

use super::{Offence, source::Source};

/// The registry that Cargo.lock may name; a mirror is one machine's own affair.
const REGISTRY: &str = concat!("registry+https://github.com/rust-lang/", "crates.io", "-index");
/// Paths and names of one machine. Taken apart, so that this file does not contain them.
const BANNED: [&str; 3] = [concat!("/wo", "rk/"), concat!("b-", "seed"), concat!("crates.io", "-index")];

pub(super) fn check(source: &Source) -> Vec<Offence> {
    if source.path == "Cargo.lock" {
        return foreign_registries(source);
    }
    let mut offences = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for word in BANNED.iter().filter(|word| line.contains(**word)) {
            offences.push(Offence::new(
                source,
                index + 1,
                format!("`{word}` belongs to one machine, not to the project"),
            ));
        }
    }
    offences
}

fn foreign_registries(source: &Source) -> Vec<Offence> {
    let sources = source
        .text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| Some((index, line.strip_prefix("source = ")?)));
    sources
        .filter(|(_, registry)| registry.trim_matches('"') != REGISTRY)
        .map(|(index, registry)| Offence::new(source, index + 1, format!("{registry} is not crates.io")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_one_machine_are_offences() {
        for word in BANNED {
            let text = format!("first\nsee {word} for more\n");
            let offences = check(&Source::new("docs/a.md", &text));
            assert_eq!((offences.len(), offences[0].line), (1, 2), "{word}");
        }
        assert_eq!(check(&Source::new("docs/a.md", "a workspace, homework, crates.io\n")), []);
    }

    #[test]
    fn a_mirror_in_the_lock_file_is_an_offence() {
        assert_eq!(check(&Source::new("Cargo.lock", &format!("source = \"{REGISTRY}\"\n"))), []);
        let mirror = "source = \"registry+https://mirror.example/index\"\n";
        assert_eq!(check(&Source::new("Cargo.lock", mirror)).len(), 1);
    }
}
