//! A server that this node copies, rewinds from or is compared with, and the files that carry our passwords to
//! PostgreSQL's programs for one run.

use std::{
    ffi::OsString,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ptarmigan_types::MemberName;

use crate::{
    command::Command,
    connection::{Purpose, Session},
    dsn::{self, ConnInfo},
    handle::{Login, Postgres},
    pgpass,
};

/// Another server: a member of the cluster, or the remote end of a standby cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: MemberName,
    /// Host (may be several), port and perhaps database; no credentials.
    pub address: ConnInfo,
}

impl Upstream {
    /// A member by its `conn_url`; credentials in it are left out.
    ///
    /// # Errors
    /// The text is not an address.
    pub fn of_conn_url(name: MemberName, conn_url: &str) -> Result<Self, dsn::Error> {
        let url = ConnInfo::parse(conn_url)?;
        let mut address = ConnInfo::new();
        for key in ["host", "port", "dbname"] {
            address.set(key, url.get(key).unwrap_or_default());
        }
        address.set_default("port", "5432");
        Ok(Self { name, address })
    }

    /// Host, port and database.
    pub const fn address(&self) -> &ConnInfo {
        &self.address
    }

    /// The one of several hosts that is a primary, as an upstream of its own; this one itself where it has one host, or none
    /// of them can be asked.
    pub async fn writable_host(&self, pg: &Postgres) -> Self {
        let hosts: Vec<&str> = self.address.get("host").unwrap_or_default().split(',').collect();
        let ports: Vec<&str> = self.address.get("port").unwrap_or("5432").split(',').collect();
        if hosts.len() < 2 {
            return self.clone();
        }
        for (index, host) in hosts.iter().enumerate() {
            let port = ports.get(index).or_else(|| ports.last()).copied().unwrap_or("5432");
            let address = self.address.clone().with("host", *host).with("port", port);
            let one = Self { name: self.name.clone(), address };
            let info = one.conninfo(pg, Login::Rewind).with("target_session_attrs", "read-write");
            if Session::connect(&info, Purpose::Heartbeat).await.is_ok() {
                return one;
            }
        }
        self.clone()
    }

    /// How to connect to it; the database is the local maintenance database where the address names none.
    pub fn conninfo(&self, pg: &Postgres, login: Login) -> ConnInfo {
        let mut info = self.address.clone();
        info.set_default("dbname", &pg.settings().database);
        pg.add_login(&mut info, login);
        info
    }
}

/// Passwords for one run of a program: a password file, and a service file where a client key has a password, because
/// libpq takes that from nowhere else but the arguments. Both are of mode 0600 and removed with the value.
#[derive(Debug)]
pub struct PasswordFiles {
    passfile: PathBuf,
    service_file: Option<PathBuf>,
}

/// The section of the service file.
const SERVICE: &str = "ptarmigan";

impl PasswordFiles {
    /// Writes the files for a connection beside `postgresql.pgpass`; `purpose` tells several runs apart.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn write(pg: &Postgres, purpose: &str, info: &ConnInfo) -> Result<Self, pgpass::Error> {
        let passfile = beside(&pg.pgpass_path(), purpose);
        pgpass::write(&passfile, &pgpass::lines(info))?;
        let mut files = Self { passfile, service_file: None };
        if let Some(password) = info.get("sslpassword") {
            let path = beside(&files.passfile, "service");
            let section = format!("[{SERVICE}]\nsslpassword={password}");
            pgpass::write(&path, &[section])?;
            files.service_file = Some(path);
        }
        Ok(files)
    }

    /// Tells a program where the files are.
    #[must_use]
    pub fn apply(&self, command: Command) -> Command {
        let command = command.env("PGPASSFILE", &self.passfile).env_remove("PGPASSWORD");
        match &self.service_file {
            Some(path) => command.env("PGSERVICEFILE", path).env("PGSERVICE", SERVICE),
            None => command,
        }
    }
}

impl Drop for PasswordFiles {
    fn drop(&mut self) {
        for path in std::iter::once(&self.passfile).chain(&self.service_file) {
            // What cannot be removed is overwritten by the next run.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The parameters that may stand in an argument: no passwords.
pub(crate) fn without_passwords(mut info: ConnInfo) -> ConnInfo {
    info.remove("password");
    info.remove("sslpassword");
    info
}

pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Writes a file of mode 0600 that did not exist before.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    // A leftover may have another mode.
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_conn_url_are_left_out() {
        let upstream = Upstream::of_conn_url("a".into(), "postgres://u:p@h:5433/db?sslmode=require").unwrap();
        assert_eq!(upstream.address, ConnInfo::parse("host=h port=5433 dbname=db").unwrap());
        let upstream = Upstream::of_conn_url("a".into(), "postgres://h/").unwrap();
        assert_eq!(upstream.address, ConnInfo::parse("host=h port=5432").unwrap());
    }
}
