//! Which tests prove the rules of the compatibility contract, and which rules are deviated from on purpose.

pub(crate) mod list;
mod page;
pub(crate) mod proofs;

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use self::{
    list::{LIST, Rules},
    proofs::{Deviation, Test},
};
use crate::{say, source};

const DEVIATIONS: &str = "docs/compatibility.md";
const PAGE: &str = "docs/rules.md";
/// Rules that have neither yet, and who is at it.
const OPEN: &str = "xtask/data/rules_open.tsv";

/// What stands for one rule.
#[derive(Clone, Debug, Default)]
struct Proof {
    tests: Vec<Test>,
    deviations: Vec<Deviation>,
}

impl Proof {
    const fn is_empty(&self) -> bool {
        self.tests.is_empty() && self.deviations.is_empty()
    }
}

/// The rules, what proves them, and the rules that are known to lack a proof.
struct State {
    rules: Rules,
    /// In the order of the rules.
    proofs: Vec<Proof>,
    /// Id and owner.
    open: Vec<(String, String)>,
}

impl State {
    fn read(root: &Path) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
        let rules = Rules::parse(&read(LIST)?);
        let mut by_id: BTreeMap<&str, Proof> = BTreeMap::new();
        let sources = source::read_all(root)?;
        for test in sources.iter().filter(|source| source.is_rust()).flat_map(proofs::tests) {
            if let Some(rule) = rules.named_by(&test.name) {
                by_id.entry(&rule.id).or_default().tests.push(test);
            }
        }
        for deviation in proofs::deviations(&read(DEVIATIONS)?, &rules) {
            if let Some(rule) = rules.find(&deviation.id) {
                by_id.entry(&rule.id).or_default().deviations.push(deviation);
            }
        }
        let proofs = rules.all.iter().map(|rule| by_id.get(rule.id.as_str()).cloned().unwrap_or_default());
        let proofs = proofs.collect();
        let rows = read(OPEN)?;
        let rows = rows.lines().skip(1).filter_map(|line| line.split_once('\t'));
        let open = rows.map(|(id, owner)| (id.to_owned(), owner.to_owned())).collect();
        Ok(Self { rules, proofs, open })
    }

    /// The rules without any proof.
    fn unproved(&self) -> Vec<&str> {
        let pairs = self.rules.all.iter().zip(&self.proofs);
        pairs.filter(|(_, proof)| proof.is_empty()).map(|(rule, _)| rule.id.as_str()).collect()
    }
}

/// Writes the page and strikes rules with a proof off the list of open ones.
///
/// # Errors
/// Files cannot be read or written.
pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    let state = State::read(root)?;
    let unproved = state.unproved();
    let mut open = "id\towner\n".to_owned();
    for (id, owner) in state.open.iter().filter(|(id, _)| unproved.contains(&id.as_str())) {
        open.push_str(&format!("{id}\t{owner}\n"));
    }
    fs::write(root.join(OPEN), open).context(OPEN)?;
    fs::write(root.join(PAGE), page::render(&state.rules, &state.proofs)).context(PAGE)?;
    let known = |id: &&&str| state.open.iter().any(|(open, _)| open == **id);
    for id in unproved.iter().filter(|id| !known(id)) {
        say(&format!("{id}: no test is named by it, and no deviation names it"));
    }
    say(&format!(
        "rules: {} of {} are proved",
        state.rules.all.len() - unproved.len(),
        state.rules.all.len()
    ));
    Ok(if unproved.iter().all(|id| known(&id)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::read(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap()
    }

    #[test]
    fn every_rule_has_a_test_or_a_deviation() {
        let state = state();
        let mut missing = state.unproved();
        missing.retain(|id| !state.open.iter().any(|(open, _)| open == id));
        assert!(
            missing.is_empty(),
            "no test's name begins with, and no row of {DEVIATIONS} names: {}",
            missing.join(", ")
        );
    }

    #[test]
    fn what_is_open_is_still_open() {
        let state = state();
        let unproved = state.unproved();
        let closed: Vec<_> =
            state.open.iter().map(|(id, _)| id.as_str()).filter(|id| !unproved.contains(id)).collect();
        assert!(closed.is_empty(), "run `cargo run -p xtask -- rules`; proved by now: {}", closed.join(", "));
    }

    #[test]
    fn the_page_is_fresh() {
        let state = state();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let page = fs::read_to_string(root.join(PAGE)).unwrap();
        // While rules are open, tests come and go faster than the page.
        if state.open.is_empty() {
            assert!(
                page == page::render(&state.rules, &state.proofs),
                "{PAGE} is out of date: run `cargo run -p xtask -- rules`"
            );
        }
    }
}
