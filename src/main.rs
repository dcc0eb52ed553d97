//! `ptarmigan`, the daemon beside each PostgreSQL: arguments, logging, and the start of the agent.

mod generate;
mod init;

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
    #[arg(long, group = "mode")]
    validate_config: bool,
    /// Print a sample configuration for the PostgreSQL that is installed here, or write it to a new file.
    #[arg(long, group = "mode")]
    generate_sample_config: bool,
    /// Print the configuration with which a running PostgreSQL can be taken over, or write it to a new file.
    #[arg(long, group = "mode")]
    generate_config: bool,
    /// With --generate-config: how to connect to that PostgreSQL, as a superuser; PG* variables otherwise.
    #[arg(long)]
    dsn: Option<String>,
    /// With --validate-config: do not check whether the listen ports are free.
    #[arg(short, long)]
    ignore_listen_port: bool,
    /// With --validate-config: print the merged local configuration if it has no fault.
    #[arg(short, long)]
    print: bool,
    /// A YAML file, or a folder of them; PATRONI_CONFIGURATION or PATRONI_* variables where it is missing.
    /// With --generate-config and --generate-sample-config: the file to write.
    configfile: Option<PathBuf>,
}

impl Arguments {
    /// What is read; never what is written, so it stands beside `configfile`.
    fn configuration(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("PATRONI_CONFIG_LOCATION").filter(|path| !path.is_empty());
        self.configfile.clone().or_else(|| variable().map(PathBuf::from))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.validate_config {
        return validate_config(&arguments);
    }
    if arguments.generate_sample_config || arguments.generate_config {
        let file = arguments.configfile.as_deref();
        let outcome = if arguments.generate_sample_config {
            generate::sample(file)
        } else {
            generate::of_server(arguments.dsn.as_deref(), file)
        };
        return match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => {
                complain(&reason);
                ExitCode::FAILURE
            }
        };
    }
    if rustix::process::geteuid().is_root() {
        complain(
            "PostgreSQL refuses to run as root, and so does ptarmigan: start it as the user that owns the data directory",
        );
        return ExitCode::FAILURE;
    }
    if init::is_first_process() {
        return init::run();
    }
    let logging = logging::install();
    run(arguments.configuration().as_deref(), &logging)
}

/// Contract C.7.
fn validate_config(arguments: &Arguments) -> ExitCode {
    let local = match load(arguments.configuration().as_deref(), &environment()) {
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
