//! Names that say nothing.

use std::path::Path;

use super::{Offence, source::Source};

const BANNED: [&str; 8] = ["util", "utils", "helper", "helpers", "common", "manager", "misc", "stuff"];

pub(super) fn check(source: &Source) -> Vec<Offence> {
    let path = Path::new(&source.path);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let folders = path.parent().into_iter().flat_map(Path::iter).filter_map(|folder| folder.to_str());
    let banned = folders.chain(source.is_rust().then_some(stem)).find(|name| BANNED.contains(name));
    let offence =
        |name| Offence::new(source, 1, format!("a file called `{name}` says nothing: name what it is for"));
    banned.map(offence).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_nothing_are_offences() {
        for path in
            ["crates/a/src/util.rs", "crates/utils/src/lib.rs", "src/slot/manager.rs", "tests/common/a.rs"]
        {
            assert_eq!(check(&Source::new(path, "")).len(), 1, "{path}");
        }
        for path in ["crates/a/src/switchover.rs", "src/uncommon.rs", "docs/common.md"] {
            assert_eq!(check(&Source::new(path, "")), [], "{path}");
        }
    }
}
