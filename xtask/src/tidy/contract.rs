//! Tests named by a rule of the compatibility contract name one that exists.

use super::{Offence, source::Source};
use crate::rules::{
    list::{LIST, Rules},
    proofs,
};

pub(super) fn check(source: &Source, rules: &Rules) -> Vec<Offence> {
    let tests = proofs::tests(source).into_iter();
    tests
        .filter_map(|test| {
            let id = rules.unknown(&test.name)?;
            Some(Offence::new(source, test.line, format!("no rule {id} in {LIST}")))
        })
        .collect()
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
}
