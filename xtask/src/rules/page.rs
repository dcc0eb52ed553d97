//! `docs/rules.md`: every rule with what proves it.

use std::fmt::Write as _;

use super::{Proof, list::Rules};

const HEAD: &str = "\
# Rules and what proves them

What Ptarmigan keeps of Patroni's behaviour is stated in rules; code and tests cite them by their ids.
For each the tests whose names begin with it, and the deviations in [compatibility.md](compatibility.md) that name it.
A test of `make test` fails when a rule has neither.

This page is made by `cargo run -p xtask -- rules`; do not edit it.
";

/// The whole page. `proofs` are in the order of the rules.
pub(super) fn render(rules: &Rules, proofs: &[Proof]) -> String {
    let mut page = HEAD.to_owned();
    let mut section = "";
    for (rule, proof) in rules.all.iter().zip(proofs) {
        if section != rule.section {
            section = &rule.section;
            let _ = write!(page, "\n## {section}\n\n| rule | tests | deviation |\n|---|---|---|\n");
        }
        let tests = proof.tests.iter().map(|test| format!("`{}`: `{}`", test.path, test.name));
        let mut places: Vec<String> = Vec::new();
        for deviation in &proof.deviations {
            let place = format!("[{}](compatibility.md#{})", deviation.heading, anchor(&deviation.heading));
            let text = format!("{place}: {}", deviation.what);
            if !places.contains(&text) {
                places.push(text);
            }
        }
        let tests = tests.collect::<Vec<_>>().join("<br>");
        let _ = writeln!(page, "| {} | {tests} | {} |", rule.id, places.join("<br>"));
    }
    page
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || [' ', '-'].contains(letter));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::proofs::{Deviation, Test};

    #[test]
    fn a_row_for_each_rule() {
        let rules = Rules::parse("id\tsection\nT-1\tB.0\nT-2\tB.0\n");
        let test = Test { path: "a.rs".into(), line: 3, name: "t_1_x".into() };
        let deviation = Deviation { id: "T-2".into(), heading: "REST API".into(), what: "sleeps".into() };
        let proofs = [
            Proof { tests: vec![test], deviations: vec![] },
            Proof { tests: vec![], deviations: vec![deviation.clone(), deviation] },
        ];
        let page = render(&rules, &proofs);
        assert!(page.ends_with(
            "## B.0\n\n| rule | tests | deviation |\n|---|---|---|\n| T-1 | `a.rs`: `t_1_x` |  |\n\
             | T-2 |  | [REST API](compatibility.md#rest-api): sleeps |\n"
        ));
    }
}
