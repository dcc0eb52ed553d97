//! The table, as Markdown.

use std::{fs, io::Write as _};

use anyhow::Result;

use crate::{
    figure::{Figure, Sample},
    scenario::{Line, Work},
};

/// What a measurement has given of one product.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// One for each round.
    pub(crate) samples: Vec<Sample>,
    /// Why it ended early.
    pub(crate) failure: Option<String>,
}

/// One product.
#[derive(Debug)]
pub(crate) struct Column {
    /// Its name and version.
    pub(crate) name: String,
    /// What was measured of it. What it does not have is missing.
    pub(crate) outcomes: Vec<(Work, Outcome)>,
}

/// The whole table.
#[derive(Debug)]
pub(crate) struct Report {
    lines: Vec<Line>,
    columns: Vec<Column>,
}

impl Report {
    /// A table with these lines.
    pub(crate) const fn new(lines: Vec<Line>) -> Self {
        Self { lines, columns: Vec::new() }
    }

    /// Adds a product.
    pub(crate) fn add(&mut self, column: Column) {
        self.columns.push(column);
    }

    /// How many measurements could not be taken to their end.
    pub(crate) fn failures(&self) -> usize {
        let outcomes = self.columns.iter().flat_map(|column| &column.outcomes);
        outcomes.filter(|(_, outcome)| outcome.failure.is_some()).count()
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
            "One machine ({}), three nodes, one etcd. Median of the rounds, and the worst in brackets.\n\n",
            machine()
        );
        text.push_str("| | settings | goal |");
        for column in &self.columns {
            text.push_str(&format!(" {} |", column.name));
        }
        text.push_str(&format!("\n|---|---|---|{}\n", "---|".repeat(self.columns.len())));
        for line in &self.lines {
            let work = line.work();
            for (figure, goal) in line.figures() {
                text.push_str(&format!("| {}: {} |", work.event.title(), figure.title()));
                text.push_str(&format!(" {} | {goal} |", work.settings.title()));
                for column in &self.columns {
                    let outcome = column.outcomes.iter().find(|(found, _)| *found == work);
                    let cell = outcome.map_or_else(|| "-".to_owned(), |(_, outcome)| cell(*figure, outcome));
                    text.push_str(&format!(" {cell} |"));
                }
                text.push('\n');
            }
        }
        text
    }
}

fn cell(figure: Figure, outcome: &Outcome) -> String {
    let values: Vec<f64> = outcome
        .samples
        .iter()
        .flatten()
        .filter_map(|(found, value)| (*found == figure).then_some(*value))
        .collect();
    let mut text = figure.summary(&values).map_or_else(String::new, |(median, worst)| {
        format!("{} ({})", figure.show(median), figure.show(worst))
    });
    if let Some(failure) = &outcome.failure {
        let separator = if text.is_empty() { "" } else { "; " };
        text.push_str(&format!("{separator}failed after {} rounds: {failure}", values.len()));
    }
    text
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

    fn outcome(line: Line, samples: &[&[(Figure, f64)]], failure: Option<&str>) -> (Work, Outcome) {
        let samples = samples.iter().map(|sample| sample.to_vec()).collect();
        (line.work(), Outcome { samples, failure: failure.map(str::to_owned) })
    }

    #[test]
    fn a_table_has_a_row_for_each_figure_and_a_cell_for_each_product() {
        let mut report = Report::new(vec![Line::Switchover, Line::Etcd, Line::DaemonUpgraded]);
        let gaps: &[&[_]] = &[&[(Figure::Gap, 0.5)], &[(Figure::Gap, 0.25)], &[(Figure::Gap, 1.0)]];
        let idle: &[&[_]] = &[&[(Figure::EtcdCalls, 31.0), (Figure::Memory, 9.0)]];
        let outcomes = vec![outcome(Line::Switchover, gaps, None), outcome(Line::Idle, idle, None)];
        report.add(Column { name: "A 1".into(), outcomes });
        let text = report.render();
        assert!(text.contains("| | settings | goal | A 1 |\n|---|---|---|---|\n"), "{text}");
        assert!(text.contains("| 0.25 s | 0.50 s (1.00 s) |\n"), "{text}");
        assert!(text.contains("| fewer than Patroni | 31 (31) |\n"), "{text}");
        assert!(text.contains("(SIGUSR2): failed statements |"), "{text}");
        assert!(text.contains("| 0 | - |\n"), "{text}");
        assert_eq!(report.failures(), 0);
    }

    #[test]
    fn what_failed_is_said_and_counted() {
        let mut report = Report::new(vec![Line::Switchover, Line::Node]);
        let one: &[&[_]] = &[&[(Figure::Gap, 0.5)]];
        let outcomes = vec![
            outcome(Line::Switchover, one, Some("no leader")),
            outcome(Line::Node, &[], Some("no etcd")),
        ];
        report.add(Column { name: "A 1".into(), outcomes });
        let text = report.render();
        assert!(text.contains("| 0.50 s (0.50 s); failed after 1 rounds: no leader |\n"), "{text}");
        assert!(text.contains("| failed after 0 rounds: no etcd |\n"), "{text}");
        assert_eq!(report.failures(), 2);
    }
}
