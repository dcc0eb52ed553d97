//! The project's chores: `cargo run -p xtask -- tidy`, and `rules`.

mod rules;
mod source;
mod tidy;

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

fn main() -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let command = std::env::args().nth(1);
    match command.as_deref() {
        Some("tidy") => tidy::run(root),
        Some("rules") => rules::run(root),
        _ => {
            say("usage: cargo run -p xtask -- tidy|rules");
            Ok(ExitCode::from(2))
        }
    }
}

#[allow(clippy::print_stdout, reason = "a command line tool speaks to its terminal")]
fn say(line: &str) {
    println!("{line}");
}
