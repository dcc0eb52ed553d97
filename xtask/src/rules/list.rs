//! The rules of the compatibility contract, and which of them a test's name begins with.

use std::collections::{BTreeMap, BTreeSet};

/// The rules: id and section, in the contract's order.
pub(crate) const LIST: &str = "xtask/data/rule_ids.tsv";

/// What is compared: family in lower case, number without leading zeros.
type Key = (String, String);

/// A rule of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) id: String,
    pub(crate) section: String,
}

/// All rules of the contract.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) all: Vec<Rule>,
    by_key: BTreeMap<Key, usize>,
    families: BTreeSet<String>,
}

impl Rules {
    pub(crate) fn parse(list: &str) -> Self {
        let rows = list.lines().skip(1).filter_map(|line| line.split_once('\t'));
        let all: Vec<Rule> =
            rows.map(|(id, section)| Rule { id: id.to_owned(), section: section.to_owned() }).collect();
        let keys = all.iter().enumerate().filter_map(|(index, rule)| Some((key(&rule.id)?, index)));
        let by_key: BTreeMap<Key, usize> = keys.collect();
        let families = by_key.keys().map(|(family, _)| family.clone()).collect();
        Self { all, by_key, families }
    }

    /// The rule with that id, however many zeros it is written with.
    pub(crate) fn find(&self, id: &str) -> Option<&Rule> {
        self.by_key.get(&key(id)?).map(|index| &self.all[*index])
    }

    /// The rule that a test's name begins with: `ha_040_...`, and `r1_...` or `r_1_...` for ids without a dash.
    pub(crate) fn named_by(&self, test: &str) -> Option<&Rule> {
        let (family, number) = beginning(test)?;
        self.by_key.get(&(family.to_owned(), normal(number))).map(|index| &self.all[*index])
    }

    /// The rule a test's name begins with, where there is no such rule.
    pub(crate) fn unknown(&self, test: &str) -> Option<String> {
        let (family, number) = beginning(test)?;
        let digits = number.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
        let is_rule = self.families.contains(family)
            && !digits.is_empty()
            && digits.bytes().all(|digit| digit.is_ascii_digit())
            && number.len() - digits.len() <= 1;
        let known = self.by_key.contains_key(&(family.to_owned(), normal(number)));
        (is_rule && !known).then(|| format!("{}-{number}", family.to_uppercase()))
    }

    /// The ids that a cell of a table names: `HA-106, B.16` one of them, `SA-1 to SA-3` three.
    pub(crate) fn named_in(&self, cell: &str) -> Vec<&Rule> {
        let mut found = Vec::new();
        for part in cell.split(',') {
            let ends: Vec<Option<&Rule>> = part.split(" to ").map(|id| self.find(id.trim())).collect();
            match ends.as_slice() {
                [Some(only)] => found.push(*only),
                [Some(first), Some(last)] => {
                    let place = |rule: &Rule| self.all.iter().position(|other| other == rule);
                    if let (Some(first), Some(last)) = (place(first), place(last)) {
                        found.extend(self.all.get(first..=last).unwrap_or_default());
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// Family and number of a test's name.
fn beginning(test: &str) -> Option<(&str, &str)> {
    let mut parts = test.split('_');
    let first = parts.next()?;
    let letters = first.trim_end_matches(|digit: char| digit.is_ascii_digit());
    if letters.len() == first.len() {
        Some((first, parts.next()?))
    } else {
        Some(first.split_at(letters.len()))
    }
}

/// `HA-040` and `ha-40` are the same rule; `R1` has no dash.
fn key(id: &str) -> Option<Key> {
    let letters = id.trim_end_matches(|digit: char| digit.is_ascii_digit());
    let number = &id[letters.len()..];
    let family = letters.strip_suffix('-').unwrap_or(letters);
    (!number.is_empty() && !family.is_empty()).then(|| (family.to_lowercase(), normal(number)))
}

fn normal(number: &str) -> String {
    number.trim_start_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::parse("id\tsection\nHA-040\tB.8\nT-1\tB.0\nT-2\tB.0\nT-3\tB.0\nR2\tB.22\nCF-26\tC.2\n")
    }

    fn named(test: &str) -> String {
        rules().named_by(test).map(|rule| rule.id.clone()).unwrap_or_default()
    }

    #[test]
    fn a_test_is_named_by_its_rule() {
        assert_eq!(named("ha_040_x"), "HA-040");
        assert_eq!(named("ha_40"), "HA-040");
        assert_eq!(named("r2_common_nodes"), "R2");
        assert_eq!(named("r_2_common_nodes"), "R2");
        for other in ["ha_41_x", "cf_26b_x", "a_test", "r3_x", "t", "ha_loop_runs"] {
            assert_eq!(named(other), "", "{other}");
        }
    }

    #[test]
    fn cells_name_single_rules_and_ranges() {
        let rules = rules();
        let ids = |cell: &str| rules.named_in(cell).iter().map(|rule| rule.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids("HA-40, B.16"), ["HA-040"]);
        assert_eq!(ids("T-1 to T-3, R2"), ["T-1", "T-2", "T-3", "R2"]);
        assert_eq!(ids("what"), [""; 0]);
    }

    #[test]
    fn the_list_has_every_family() {
        let rules = Rules::parse(include_str!("../../data/rule_ids.tsv"));
        let families = "bs cf dm fs ha hn lv nf pr qs r rc ri rs rw sa sd sl sy t ul";
        assert_eq!(rules.families.iter().cloned().collect::<Vec<_>>().join(" "), families);
        assert_eq!((rules.all.len(), rules.by_key.len()), (322, 322));
        assert!(rules.unknown("ha_040_x").is_none() && rules.unknown("dm_11_x").is_none());
    }
}
