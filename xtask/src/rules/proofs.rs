//! What proves a rule: tests named by it, and rows of the deviation tables.

use super::list::Rules;
use crate::source::Source;

/// A test function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Test {
    /// Relative to the workspace.
    pub(crate) path: String,
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) name: String,
}

/// A row of a table of deviations that names a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deviation {
    /// As in the list of rules.
    pub(crate) id: String,
    /// The heading above the table.
    pub(crate) heading: String,
    /// The second column.
    pub(crate) what: String,
}

/// The test functions of a file, in its order.
pub(crate) fn tests(source: &Source) -> Vec<Test> {
    let mut found = Vec::new();
    let mut is_test = false;
    for (index, line) in source.text.lines().enumerate() {
        let code = line.trim();
        if code.starts_with("#[test]") || code.starts_with("#[tokio::test") {
            is_test = true;
        }
        let name = code.split_once("fn ").and_then(|(_, rest)| rest.split(['(', '<']).next());
        if let Some(name) = name.filter(|_| is_test && !code.starts_with("//") && !code.starts_with("#[")) {
            is_test = false;
            found.push(Test { path: source.path.clone(), line: index + 1, name: name.to_owned() });
        }
    }
    found
}

/// The rules that the tables below name in a first column headed `rule`.
pub(crate) fn deviations(text: &str, rules: &Rules) -> Vec<Deviation> {
    let mut found = Vec::new();
    let mut heading = "";
    let mut is_rules = false;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title;
        }
        let Some(row) = line.strip_prefix('|') else {
            is_rules = false;
            continue;
        };
        let mut cells = row.split('|').map(str::trim);
        let (first, second) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        is_rules |= first == "rule";
        if is_rules {
            found.extend(rules.named_in(first).into_iter().map(|rule| Deviation {
                id: rule.id.clone(),
                heading: heading.to_owned(),
                what: second.to_owned(),
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests_of_proofs {
    use super::*;

    #[test]
    fn tests_are_told_from_other_functions() {
        let text =
            "#[test]\n#[ignore = \"fn x\"]\nfn a_b() {}\nfn c() {}\n#[tokio::test]\nasync fn d<T>() {}\n";
        let found = tests(&Source::new("src/a.rs", text));
        let names: Vec<_> = found.iter().map(|test| (test.line, test.name.as_str())).collect();
        assert_eq!(names, [(3, "a_b"), (6, "d")]);
    }

    #[test]
    fn rows_count_only_below_a_heading_of_rules() {
        let rules = Rules::parse("id\tsection\nT-1\tB\nT-2\tB\nT-3\tB\n");
        let text = "## First\n| rule | what |\n|---|---|\n| T-1, A.5 | one |\n\n## Second\n| what | x |\n|---|---|\n\
                    | T-2 | y |\ntext T-3\n";
        let found = deviations(text, &rules);
        assert_eq!(found, [Deviation { id: "T-1".into(), heading: "First".into(), what: "one".into() }]);
    }
}
