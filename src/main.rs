//! `ptarmigan`, the daemon beside each PostgreSQL: arguments, logging, and the start of the agent.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use ptarmigan_agent::{configuration::environment, logging, run};
use ptarmigan_config::{load::load, validate, yaml};

/// A Patroni-compatible high-availability manager for PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "ptarmigan", version)]
struct Arguments {
    /// Check the configuration, name every fault with its path, and exit with 1 if there is one.
    #[arg(long)]
    validate_config: bool,
    /// With --validate-config: do not check whether the listen ports are free.
    #[arg(short, long)]
    ignore_listen_port: bool,
    /// With --validate-config: print the merged local configuration if it has no fault.
    #[arg(short, long)]
    print: bool,
    /// A YAML file, or a folder of them; PATRONI_CONFIGURATION or PATRONI_* variables where it is missing.
    #[arg(env = "PATRONI_CONFIG_LOCATION")]
    configfile: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.validate_config {
        return validate_config(&arguments);
    }
    if rustix::process::geteuid().is_root() {
        complain(
            "PostgreSQL refuses to run as root, and so does ptarmigan: start it as the user that owns the data directory",
        );
        return ExitCode::FAILURE;
    }
    let logging = logging::install();
    run(arguments.configfile.as_deref(), &logging)
}

/// Contract C.7.
fn validate_config(arguments: &Arguments) -> ExitCode {
    let local = match load(arguments.configfile.as_deref(), &environment()) {
        Ok(local) => local,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let options = validate::Options { ignore_listen_port: arguments.ignore_listen_port };
    let faults = validate::validate(&local.config, options, &validate::SystemChecks::new(major_version));
    for fault in &faults {
        complain(&fault.to_string());
    }
    if !faults.is_empty() {
        return ExitCode::FAILURE;
    }
    if arguments.print {
        let text = yaml::to_yaml(&serde_json::Value::Object(local.config));
        // A closed pipe is the reader's business.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
    ExitCode::SUCCESS
}

/// The major version that a `postgres` program tells of itself.
fn major_version(program: &Path) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let version = runtime.block_on(ptarmigan_postgres::version::of_program(program)).ok()?;
    Some(version.major().to_string())
}

fn complain(text: &str) {
    // Nothing is left to tell if stderr is gone.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
