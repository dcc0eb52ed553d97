//! How long files and functions may be.

use super::{Offence, source::Source};

const FILE_LINES_MAX: usize = 1_000;
const FUNCTION_LINES_MAX: usize = 70;

/// The file's lines, tests left out.
pub(super) fn file_lines(source: &Source) -> usize {
    source.production().len()
}

pub(super) fn check(source: &Source) -> Vec<Offence> {
    let mut offences = long_functions(source);
    let lines = file_lines(source);
    if lines > FILE_LINES_MAX {
        offences.push(Offence::new(source, 1, format!("{lines} lines, at most {FILE_LINES_MAX}")));
    }
    offences
}

fn long_functions(source: &Source) -> Vec<Offence> {
    let lines = source.production();
    let mut offences = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        let code = line.trim_start();
        if !is_function(code) || code.ends_with(';') || code.ends_with('}') {
            continue;
        }
        let closing = format!("{}}}", &line[..line.len() - code.len()]);
        let body = lines[index + 1..].iter().take_while(|(_, line)| *line != closing);
        let length = body.filter(|(_, line)| counts(line)).count();
        if length > FUNCTION_LINES_MAX {
            offences.push(Offence::new(
                source,
                *number,
                format!("function of {length} lines, at most {FUNCTION_LINES_MAX}"),
            ));
        }
    }
    offences
}

fn is_function(code: &str) -> bool {
    let words: Vec<&str> = code.split(' ').take(6).collect();
    let before = words.iter().take_while(|word| **word != "fn").count();
    before < words.len()
        && words[..before]
            .iter()
            .all(|word| word.starts_with("pub") || ["const", "async", "unsafe"].contains(word))
}

/// As clippy counts: neither empty lines nor comments.
fn counts(line: &str) -> bool {
    let code = line.trim();
    !code.is_empty() && !code.starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("//! x\npub async fn long(\n    a: u8,\n) {{\n{}}}\n", "    step();\n".repeat(lines))
    }

    #[test]
    fn a_long_function_is_an_offence() {
        assert_eq!(check(&Source::new("src/a.rs", &function(60))), []);
        let offences = check(&Source::new("src/a.rs", &function(90)));
        assert_eq!((offences.len(), offences[0].line), (1, 2));
    }

    #[test]
    fn comments_and_empty_lines_do_not_count() {
        let text = format!("fn a() {{\n{}}}\n", "    // why\n\n".repeat(90));
        assert_eq!(check(&Source::new("src/a.rs", &text)), []);
    }

    #[test]
    fn a_long_file_is_an_offence_unless_its_tests_make_it_long() {
        let code = "struct A;\n".repeat(1_001);
        assert_eq!(check(&Source::new("src/a.rs", &code)).len(), 1);
        assert_eq!(check(&Source::new("tests/a.rs", &code)), []);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    struct A;\n".repeat(1_001));
        assert_eq!(check(&Source::new("src/a.rs", &tests)), []);
    }
}
