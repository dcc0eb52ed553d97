//! The table, as Markdown.

use std::{fs, io::Write as _};

use anyhow::Result;

use crate::scenario::Scenario;

/// What was measured of one product in one scenario.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// One number for each round.
    pub(crate) samples: Vec<f64>,
    /// Why it ended early.
    pub(crate) failure: Option<String>,
}

/// One product.
#[derive(Debug)]
pub(crate) struct Column {
    /// Its name and version.
    pub(crate) product: String,
    /// In the order of the rows.
    pub(crate) outcomes: Vec<(Scenario, Outcome)>,
    /// Lines below the table.
    pub(crate) remarks: Vec<String>,
}

/// The whole table.
#[derive(Debug)]
pub(crate) struct Report {
    scenarios: Vec<Scenario>,
    columns: Vec<Column>,
}

impl Report {
    /// A table with these rows.
    pub(crate) const fn new(scenarios: Vec<Scenario>) -> Self {
        Self { scenarios, columns: Vec::new() }
    }

    /// Adds a product.
    pub(crate) fn add(&mut self, column: Column) {
        self.columns.push(column);
    }

    /// Prints it.
    ///
    /// # Errors
    /// Nobody reads standard output.
    pub(crate) fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(self.render().as_bytes())?;
        Ok(out.flush()?)
    }

    fn render(&self) -> String {
        let mut text = format!(
            "One machine ({}), three nodes, one etcd, one client that writes every 20 ms to ",
            machine()
        );
        text.push_str(
            "whichever node is writable. Median, and the worst in brackets.\n\n| | settings | goal |",
        );
        for column in &self.columns {
            text.push_str(&format!(" {} |", column.product));
        }
        text.push_str(&format!("\n|---|---|---|{}\n", "---|".repeat(self.columns.len())));
        for scenario in &self.scenarios {
            text.push_str(&format!(
                "| {} | {} | {} |",
                scenario.title(),
                scenario.settings(),
                scenario.goal()
            ));
            for column in &self.columns {
                let outcome = column.outcomes.iter().find(|(found, _)| found == scenario);
                text.push_str(&format!(
                    " {} |",
                    outcome.map_or_else(String::new, |(_, outcome)| cell(*scenario, outcome))
                ));
            }
            text.push('\n');
        }
        for remark in self.columns.iter().flat_map(|column| &column.remarks) {
            text.push_str(&format!("\n{remark}\n"));
        }
        text
    }
}

fn cell(scenario: Scenario, outcome: &Outcome) -> String {
    let mut text = summary(&outcome.samples).map_or_else(
        || "-".to_owned(),
        |(median, worst)| format!("{} ({})", scenario.show(median), scenario.show(worst)),
    );
    if let Some(failure) = &outcome.failure {
        text.push_str(&format!("; failed after {} rounds: {failure}", outcome.samples.len()));
    }
    text
}

/// Median and largest.
fn summary(samples: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some((f64::midpoint(*low, *high), *sorted.last()?))
}

/// `2 processors, 24 GiB`
fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: Option<f64> = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
    let memory = kib.map_or_else(String::new, |kib| format!(", {:.0} GiB", kib / 1024.0 / 1024.0));
    format!("{processors} processors{memory}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle_and_the_worst_is_the_largest() {
        assert_eq!(summary(&[3.0, 1.0, 2.0]), Some((2.0, 3.0)));
        assert_eq!(summary(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 4.0)));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn a_table_has_a_cell_for_each_product_and_says_what_failed() {
        let mut report = Report::new(vec![Scenario::Switchover, Scenario::Memory]);
        let outcome = |samples: &[f64], failure: Option<&str>| Outcome {
            samples: samples.to_vec(),
            failure: failure.map(str::to_owned),
        };
        let outcomes = vec![
            (Scenario::Switchover, outcome(&[0.5, 0.25, 1.0], None)),
            (Scenario::Memory, outcome(&[], Some("no leader"))),
        ];
        report.add(Column { product: "A 1".into(), outcomes, remarks: vec!["A remark.".into()] });
        let text = report.render();
        assert!(text.contains("| | settings | goal | A 1 |\n|---|---|---|---|\n"), "{text}");
        assert!(text.contains("| 0.6 s | 0.50 s (1.00 s) |\n"), "{text}");
        assert!(text.contains("| 15 MB | -; failed after 0 rounds: no leader |\n\nA remark.\n"), "{text}");
    }
}
