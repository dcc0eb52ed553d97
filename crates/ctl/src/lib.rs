//! `ptctl`, the operator's tool: patronictl's commands, options, questions, tables and exit codes (contract C).
//!
//! It reads the cluster from the DCS and acts through the members' REST API; only `edit-config` writes the DCS, and
//! `switchover` and `failover` where no member can. Differences from patronictl are deliberate: every wait on the DCS
//! has a deadline of twice `retry_timeout`, and so has every attempt to connect to a member.

mod cli;
mod commands;
mod config;
mod console;
mod demo;
mod members;
mod moment;
mod output;
mod rest;
mod selection;
mod session;
mod table;
mod tls;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use anyhow::Result;
use tracing::level_filters::LevelFilter;

use crate::{
    cli::{Cli, Command},
    config::Configuration,
    console::{Aborted, Console},
    session::Context,
};

/// Runs `ptctl` with its arguments, the program's own name first; returns its exit code: 0 success, 1 error or
/// aborted, 2 usage (contract C.1).
///
/// Standard input may still be read by another thread when this returns (after Ctrl-C at a question): end the process
/// without waiting for the runtime.
pub async fn main_with(arguments: Vec<OsString>) -> ExitCode {
    // Fails where a provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let console = Console;
    let variables = config::variables();
    start_logging(&variables);
    let program = program_name(arguments.first().map(OsString::as_os_str));
    let cli = match cli::parse(program, &arguments, console) {
        Ok(cli) => cli,
        Err(code) => return code.into(),
    };
    if let Command::Demo(options) = cli.command {
        return demo::main(console, options).await;
    }
    let result = tokio::select! {
        result = run(cli, console, program, &variables) => result,
        _ = tokio::signal::ctrl_c() => {
            console.error_text("\n");
            Err(Aborted.into())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Aborted>() => {
            console.error_text("Aborted!\n");
            ExitCode::FAILURE
        }
        Err(error) => {
            console.error_text(&format!("Error: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn run(
    cli: Cli,
    console: Console,
    program: &'static str,
    variables: &BTreeMap<String, String>,
) -> Result<()> {
    let config = Configuration::discover(&cli.global, variables)?;
    let context = Context::new(console, config, program);
    commands::run(&context, cli.command).await
}

/// `patronictl` where it is called by that name, through a link for scripts that know no other.
fn program_name(argument: Option<&OsStr>) -> &'static str {
    let is_patronictl = argument.map(Path::new).and_then(Path::file_stem) == Some(OsStr::new("patronictl"));
    if is_patronictl { "patronictl" } else { "ptctl" }
}

/// Logs to standard error (contract C.1): warnings and worse, where the environment says nothing else.
fn start_logging(variables: &BTreeMap<String, String>) {
    let level = ["PATRONI_LOG_LEVEL", "PATRONI_LOGLEVEL", "LOGLEVEL"]
        .iter()
        .find_map(|name| variables.get(*name).filter(|value| !value.is_empty()));
    let level = match level.map(|level| level.to_uppercase()).as_deref() {
        Some("DEBUG") => LevelFilter::DEBUG,
        Some("INFO") => LevelFilter::INFO,
        Some("ERROR" | "CRITICAL" | "FATAL") => LevelFilter::ERROR,
        _ => LevelFilter::WARN,
    };
    // Fails where the caller logs already.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_patronictl_only_where_it_is_called_so() {
        for (argument, expected) in [
            (Some("/usr/bin/patronictl"), "patronictl"),
            (Some("patronictl.py"), "patronictl"),
            (Some("/usr/bin/ptctl"), "ptctl"),
            (None, "ptctl"),
        ] {
            assert_eq!(program_name(argument.map(OsStr::new)), expected);
        }
    }
}
