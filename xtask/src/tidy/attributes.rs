//! `unsafe`, `expect` and `allow`: each only where it is allowed, and with its reason.

use super::{Offence, source::Source};

/// The crates that may contain `unsafe`.
const UNSAFE_ALLOWED: [&str; 3] = ["crates/guardian/", "crates/routing/", "crates/watchdog/"];
/// How far above the `unsafe` its reason may stand.
const REASON_DISTANCE_LINES: usize = 6;

pub(super) fn check(source: &Source) -> Vec<Offence> {
    let mut offences = unsafe_code(source);
    offences.extend(expects(source));
    offences.extend(allows(source));
    offences
}

fn unsafe_code(source: &Source) -> Vec<Offence> {
    let lines: Vec<&str> = source.text.lines().collect();
    let allowed = UNSAFE_ALLOWED.iter().any(|prefix| source.path.starts_with(prefix));
    let mut offences = Vec::new();
    for index in (0..lines.len()).filter(|index| has_unsafe(lines[*index])) {
        let above = &lines[index.saturating_sub(REASON_DISTANCE_LINES)..=index];
        if !allowed {
            offences.push(Offence::new(
                source,
                index + 1,
                "`unsafe` is allowed in guardian, routing and watchdog only",
            ));
        } else if !above.iter().any(|line| line.contains("SAFETY") || line.contains("# Safety")) {
            offences.push(Offence::new(source, index + 1, "`unsafe` without a SAFETY comment"));
        }
    }
    offences
}

fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("unsafe").any(|(start, word)| {
        let word_before = code[..start].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
        let after = code[start + word.len()..].trim_start();
        let follows =
            ["{", "fn ", "impl ", "extern ", "trait ", "("].iter().any(|next| after.starts_with(next));
        follows && !word_before && !in_string(code, start)
    })
}

/// Whether a byte of a line lies in a string that began on that line.
fn in_string(line: &str, position: usize) -> bool {
    let quotes = line[..position].match_indices('"').filter(|(start, _)| !line[..*start].ends_with('\\'));
    quotes.count() % 2 == 1
}

fn expects(source: &Source) -> Vec<Offence> {
    let lines = source.production();
    let mut offences = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for (start, call) in line.match_indices(".expect(") {
            let rest = line[start + call.len()..].trim_start();
            let next = lines.get(index + 1).map_or("", |(_, next)| next.trim_start());
            let message = if rest.is_empty() { next } else { rest };
            if !in_string(line, start) && message.starts_with('"') && !message.starts_with("\"invariant: ") {
                offences.push(Offence::new(
                    source,
                    *number,
                    "`expect` whose message is not `invariant: ...`",
                ));
            }
        }
    }
    offences
}

fn allows(source: &Source) -> Vec<Offence> {
    let lines: Vec<&str> = source.text.lines().collect();
    let opening = |line: &str| {
        let code = line.trim_start();
        ["#[allow(", "#![allow(", "#[expect(", "#![expect("]
            .iter()
            .any(|attribute| code.starts_with(attribute))
    };
    let mut offences = Vec::new();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| opening(line)) {
        let length = lines[index..].iter().take_while(|line| !line.contains(")]")).count();
        let attribute = lines[index..].iter().take(length + 1);
        let reason = attribute.clone().any(|line| line.contains("reason = ") || line.contains("//"));
        let above = index > 0 && lines[index - 1].trim_start().starts_with("// ");
        if !(reason || above) {
            offences.push(Offence::new(source, index + 1, format!("`{}` without its reason", line.trim())));
        }
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<usize> {
        check(&Source::new(path, text)).iter().map(|offence| offence.line).collect()
    }

    #[test]
    fn unsafe_outside_its_crates_is_an_offence() {
        let text = "fn a() {\n    // SAFETY: none\n    unsafe { b() }\n}\n";
        assert_eq!(found("crates/agent/src/a.rs", text), [3]);
        assert_eq!(found("crates/guardian/src/a.rs", text), []);
        assert_eq!(found("src/a.rs", "// unsafe { }\nlet unsafe_code = \"deny\"; // unsafe fn\n"), []);
    }

    #[test]
    fn unsafe_without_a_reason_is_an_offence() {
        assert_eq!(found("crates/guardian/src/a.rs", "fn a() {\n    unsafe { b() }\n}\n"), [2]);
    }

    #[test]
    fn expect_without_invariant_is_an_offence() {
        assert_eq!(found("src/a.rs", "a.expect(\"it works\");\n"), [1]);
        assert_eq!(found("src/a.rs", "a.expect(\n    \"it works\",\n);\n"), [1]);
        assert_eq!(found("src/a.rs", "a.expect(\"invariant: checked above\");\nparser.expect(b'x')?;\n"), []);
        assert_eq!(found("tests/a.rs", "a.expect(\"it works\");\n"), []);
    }

    #[test]
    fn allow_without_a_reason_is_an_offence() {
        assert_eq!(found("src/a.rs", "fn b() {}\n#[allow(dead_code)]\nfn a() {}\n"), [2]);
        assert_eq!(found("src/a.rs", "#[allow(\n    dead_code,\n    reason = \"why\"\n)]\nfn a() {}\n"), []);
        assert_eq!(found("src/a.rs", "// why\n#[allow(dead_code)]\nfn a() {}\n"), []);
        assert_eq!(found("src/a.rs", "#[allow(dead_code)] // why\nfn a() {}\n"), []);
    }
}
