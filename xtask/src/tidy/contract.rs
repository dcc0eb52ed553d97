//! Tests named by a rule of the compatibility contract name one that exists.

use std::collections::BTreeSet;

use super::{Offence, source::Source};

/// The rules: id and section.
pub(super) const LIST: &str = "xtask/data/rule_ids.tsv";

/// The contract's rule ids.
#[derive(Debug)]
pub(super) struct Rules {
    ids: BTreeSet<(String, String)>,
    families: BTreeSet<String>,
}

impl Rules {
    pub(super) fn parse(list: &str) -> Self {
        let rows = list.lines().skip(1).filter_map(|line| line.split('\t').next()?.split_once('-'));
        let ids: BTreeSet<_> = rows.map(|(family, number)| (family.to_lowercase(), normal(number))).collect();
        let families = ids.iter().map(|(family, _)| family.clone()).collect();
        Self { ids, families }
    }

    /// The rule a test's name begins with, where there is no such rule.
    fn unknown(&self, name: &str) -> Option<String> {
        let mut parts = name.split('_');
        let (family, number) = (parts.next()?, parts.next()?);
        let digits = number.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
        let is_rule = self.families.contains(family)
            && !digits.is_empty()
            && digits.bytes().all(|digit| digit.is_ascii_digit())
            && number.len() - digits.len() <= 1;
        let known = self.ids.contains(&(family.to_owned(), normal(number)));
        (is_rule && !known).then(|| format!("{}-{number}", family.to_uppercase()))
    }
}

/// `040` and `40` are the same rule.
fn normal(number: &str) -> String {
    number.trim_start_matches('0').to_owned()
}

pub(super) fn check(source: &Source, rules: &Rules) -> Vec<Offence> {
    let mut offences = Vec::new();
    let mut is_test = false;
    for (index, line) in source.text.lines().enumerate() {
        let code = line.trim();
        if code.starts_with("#[test]") || code.starts_with("#[tokio::test") {
            is_test = true;
        }
        let name = code.split_once("fn ").and_then(|(_, rest)| rest.split(['(', '<']).next());
        if let Some(name) = name.filter(|_| is_test && !code.starts_with("//") && !code.starts_with("#[")) {
            is_test = false;
            let unknown = rules.unknown(name);
            offences
                .extend(unknown.map(|id| Offence::new(source, index + 1, format!("no rule {id} in {LIST}"))));
        }
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str) -> usize {
        let rules = Rules::parse("id\tsection\nHA-040\tB.8\nT-1\tB.0\nCF-26\tC.4\n");
        let text = format!("    #[tokio::test]\n    async fn {name}() {{}}\n");
        check(&Source::new("tests/a.rs", &text), &rules).len()
    }

    #[test]
    fn a_rule_that_does_not_exist_is_an_offence() {
        assert_eq!(found("ha_41_what_it_says"), 1);
        assert_eq!(found("cf_26b_what_it_says"), 1);
        assert_eq!(found("t_9"), 1);
    }

    #[test]
    fn leading_zeros_do_not_matter_and_other_names_are_free() {
        for name in [
            "ha_040_x",
            "ha_40_x",
            "t_1",
            "cf_26_null_deletes",
            "ha_loop_runs",
            "a_test",
            "pr_1_unknown_family",
        ] {
            assert_eq!(found(name), 0, "{name}");
        }
    }

    #[test]
    fn functions_that_are_no_tests_are_not_looked_at() {
        let rules = Rules::parse("id\tsection\nT-1\tB.0\n");
        assert_eq!(check(&Source::new("src/a.rs", "fn t_9() {}\n"), &rules), []);
    }

    #[test]
    fn the_list_has_every_family() {
        let rules = Rules::parse(include_str!("../../data/rule_ids.tsv"));
        let families = "bs cf dm fs ha hn lv nf pr qs rc ri rs rw sa sd sl sy t ul";
        assert_eq!(rules.families.iter().cloned().collect::<Vec<_>>().join(" "), families);
        assert!(rules.unknown("ha_040_x").is_none() && rules.unknown("dm_11_x").is_none());
        assert!(rules.ids.len() > 290);
    }
}
