//! Every crate and module says what it is for.

use super::{Offence, source::Source};

pub(super) fn check(source: &Source) -> Vec<Offence> {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with("//! ") || source.path.contains("testdata/") {
        return Vec::new();
    }
    vec![Offence::new(source, 1, "opens without `//!`: say what it is for")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_a_first_line_of_docs_is_an_offence() {
        assert_eq!(check(&Source::new("src/a.rs", "//! What it does.\nfn a() {}\n")), []);
        assert_eq!(check(&Source::new("src/a.rs", "use std::fs;\n//! late\n")).len(), 1);
        assert_eq!(check(&Source::new("src/a.rs", "")).len(), 1);
    }
}
