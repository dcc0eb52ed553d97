//! `make bench`: what clients see of Ptarmigan and of Patroni on this machine, and what both cost, side by side. A report,
//! never a test: no number passes or fails. What cannot be measured is an error.

mod daemon;
mod failover;
mod figure;
mod health;
mod idle;
mod measure;
mod report;
mod scenario;
mod settings;

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum as _};
use ptarmigan_testkit::{Binaries, Workspace, node::Runner, patroni};

use self::{measure::Bench, report::Report, scenario::Line, settings::Product};

/// Measures what clients see of switchovers and failures and what a daemon costs, with Ptarmigan and with Patroni.
#[derive(Debug, Parser)]
#[command(name = "ptarmigan-bench", version)]
struct Arguments {
    /// How often each thing is done.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these lines of the table: several after it, with commas between them, or the option several times.
    #[arg(long, value_enum, value_name = "LINE", num_args = 1.., value_delimiter = ',')]
    only: Vec<Line>,
    /// Only Ptarmigan. Patroni comes from PyPI at the first run.
    #[arg(long)]
    skip_patroni: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = tokio::select! {
        result = run(&arguments) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("ptarmigan-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let lines: Vec<Line> = Line::value_variants()
        .iter()
        .copied()
        .filter(|line| arguments.only.is_empty() || arguments.only.contains(line))
        .collect();
    let mut report = Report::new(lines.clone());
    let workspace = Workspace::new("bench")?;
    let binaries = Binaries::locate(&workspace)?;
    binaries.guardian().context("build ptarmigan-guardian first")?;
    let ours = format!("Ptarmigan {}", env!("CARGO_PKG_VERSION"));
    let mut products = vec![(Product::Ptarmigan, ours, Runner::Ptarmigan(binaries))];
    if !arguments.skip_patroni {
        progress("Patroni: looking for its environment, or installing it from PyPI");
        let venv = patroni::ensure_venv(&patroni::default_venv()?).await?;
        let name = format!("Patroni {}", patroni::VERSION);
        products.push((Product::Patroni, name, Runner::Patroni(venv)));
    }
    for (product, name, runner) in products {
        let bench = Bench { product, name, runner, rounds: arguments.rounds };
        report.add(bench.run(&lines).await);
    }
    report.print()?;
    let failures = report.failures();
    ensure!(failures == 0, "{failures} measurements could not be taken: see the table");
    Ok(())
}

/// Tells on standard error what is going on: standard output has the table alone.
fn progress(text: &str) {
    // Where nobody reads it, nobody misses it.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
