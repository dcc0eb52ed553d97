//! `--generate-config` and `--generate-sample-config` (contract D.1).

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    net::{IpAddr, ToSocketAddrs as _, UdpSocket},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ptarmigan_agent::configuration::environment;
use ptarmigan_config::{
    Environment,
    generate::{self, Host},
};
use ptarmigan_postgres::{ConnInfo, connection, libpq, survey, version};

/// Writes a sample for the installed PostgreSQL.
///
/// # Errors
/// The version of the `postgres` program is not known, or the file cannot be written.
pub(crate) fn sample(file: Option<&Path>) -> Result<(), String> {
    let environment = environment();
    let bin_dir = environment.config.get("postgresql").and_then(|section| section.get("bin_dir"));
    let program = PathBuf::from(bin_dir.and_then(|dir| dir.as_str()).unwrap_or_default()).join("postgres");
    let version = block_on(version::of_program(&program))?;
    let version = version.map_err(|error| {
        format!("{error}: put the programs of PostgreSQL into PATH, or set PATRONI_POSTGRESQL_BIN_DIR")
    })?;
    let machine = Machine::look();
    put(file, &generate::render(&generate::sample(machine.host(&environment), version.0)))
}

/// Writes the configuration of a running server.
///
/// # Errors
/// The server does not answer, its user is no superuser, or the file cannot be written.
pub(crate) fn of_server(dsn: Option<&str>, file: Option<&Path>) -> Result<(), String> {
    let environment = environment();
    let given = ConnInfo::parse(dsn.unwrap_or_default()).map_err(|error| format!("--dsn: {error}"))?;
    let superuser =
        environment.config.get("postgresql").map(|section| &section["authentication"]["superuser"]);
    let configured = |name: &str| {
        let key = [("PGUSER", "username"), ("PGPASSWORD", "password")]
            .iter()
            .find(|(variable, _)| *variable == name)?
            .1;
        superuser?.get(key)?.as_str().map(str::to_owned)
    };
    let mut info = libpq::complete(given, |name| std::env::var(name).ok().or_else(|| configured(name)));
    let server = match block_on(survey::survey(&info))? {
        Err(survey::Error::Connection(connection::Error::Denied(_))) if info.get("password").is_none() => {
            info.set("password", ask_password()?);
            block_on(survey::survey(&info))?
        }
        outcome => outcome,
    };
    let server = server.map_err(|error| format!("cannot look at the server: {error}"))?;
    let machine = Machine::look();
    let generated = generate::of_server(machine.host(&environment), &server);
    for note in generated.notes {
        crate::complain(&note);
    }
    put(file, &generate::render(&generated.config))
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| error.to_string())?.block_on(work))
}

struct Machine {
    name: String,
    address: String,
}

impl Machine {
    fn look() -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let found = (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        let mut addresses: Vec<IpAddr> = found.into_iter().map(|address| address.ip()).collect();
        addresses.sort_by_key(|address| address.is_ipv6());
        // Others cannot reach a loopback address, which many distributions give a machine's own name.
        let reachable = addresses.iter().find(|address| !address.is_loopback()).copied();
        let address = reachable.or_else(outgoing).map_or_else(|| name.clone(), |address| address.to_string());
        Self { name, address }
    }

    fn host<'a>(&'a self, environment: &'a Environment) -> Host<'a> {
        Host { name: &self.name, address: &self.address, environment }
    }
}

/// The address that packets to the outside carry. Nothing is sent: the address asked about belongs to documentation.
fn outgoing() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("198.51.100.1", 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Asks on the terminal, without showing what is typed; reads a line of standard input where there is none.
fn ask_password() -> Result<String, String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let failed = |error: std::io::Error| format!("cannot read a password: {error}");
    let stdin = std::io::stdin();
    crate::complain("Please enter the user password:");
    let before = if stdin.is_terminal() { tcgetattr(&stdin).ok() } else { None };
    if let Some(before) = &before {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(|error| failed(error.into()))?;
    }
    let mut line = String::new();
    let outcome = stdin.lock().read_line(&mut line);
    if let Some(before) = &before {
        let _ = tcsetattr(&stdin, OptionalActions::Flush, before);
    }
    outcome.map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Prints, or writes a new file that only its owner reads: it holds passwords.
fn put(file: Option<&Path>, text: &str) -> Result<(), String> {
    let Some(path) = file else {
        return std::io::stdout().lock().write_all(text.as_bytes()).map_err(|error| error.to_string());
    };
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            format!("{} exists already: it is not overwritten", path.display())
        }
        _ => format!("cannot write {}: {error}", path.display()),
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let mut out = options.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).map_err(failed)
}
