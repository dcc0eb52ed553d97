//! `make bench`: how long clients wait with Ptarmigan and with Patroni on this machine, side by side. A report, never a
//! test: nothing here passes or fails.

mod measure;
mod report;
mod scenario;

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum as _};
use ptarmigan_testkit::{Binaries, Workspace, node::Runner, patroni};

use self::{measure::Bench, report::Report, scenario::Scenario};

/// Measures what clients see of switchovers and failures, with Ptarmigan and with Patroni.
#[derive(Debug, Parser)]
#[command(name = "ptarmigan-bench", version)]
struct Arguments {
    /// How often each thing is done.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only this; can be given several times.
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Vec<Scenario>,
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
    let scenarios: Vec<Scenario> = Scenario::value_variants()
        .iter()
        .copied()
        .filter(|scenario| arguments.only.is_empty() || arguments.only.contains(scenario))
        .collect();
    let mut report = Report::new(scenarios.clone());
    let workspace = Workspace::new("bench")?;
    let binaries = Binaries::locate(&workspace)?;
    binaries.guardian().context("build ptarmigan-guardian first")?;
    let mut products =
        vec![(format!("Ptarmigan {}", env!("CARGO_PKG_VERSION")), Runner::Ptarmigan(binaries))];
    if !arguments.skip_patroni {
        progress("Patroni: looking for its environment, or installing it from PyPI");
        let venv = patroni::ensure_venv(&patroni::default_venv()?).await?;
        products.push((format!("Patroni {}", patroni::VERSION), Runner::Patroni(venv)));
    }
    for (name, runner) in products {
        let bench = Bench { product: name, runner, rounds: arguments.rounds };
        report.add(bench.run(&scenarios).await);
    }
    report.print()
}

/// Tells on standard error what is going on: standard output has the table alone.
fn progress(text: &str) {
    // Where nobody reads it, nobody misses it.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
