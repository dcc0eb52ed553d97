//! What libpq adds to a connection that does not say everything: `PG*` variables, the folder of unix sockets and the
//! user's password file.

use std::path::{Path, PathBuf};

use crate::ConnInfo;

const VARIABLES: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
];

/// Where servers put their unix sockets, of packages and of sources.
const SOCKETS: &[&str] = &["/var/run/postgresql", "/tmp"];

/// Completes a connection as libpq does; `variable` reads one of the process's. A password comes from the password file
/// where nothing else gives one.
pub fn complete(mut info: ConnInfo, variable: impl Fn(&str) -> Option<String>) -> ConnInfo {
    for (name, key) in VARIABLES {
        if let Some(value) = variable(name) {
            info.set_default(key, &value);
        }
    }
    if let Some(address) = info.remove("hostaddr") {
        info.set("host", address);
    }
    info.set_default("port", "5432");
    let port = info.get("port").unwrap_or("5432").to_owned();
    let listens = |folder: &&&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
    info.set_default("host", SOCKETS.iter().find(listens).unwrap_or(&"localhost"));
    info.set_default("dbname", "postgres");
    let file = info.remove("passfile").map(PathBuf::from);
    if info.get("password").is_none()
        && let Some(path) = file.or_else(|| Some(Path::new(&variable("HOME")?).join(".pgpass")))
        && let Some(password) = std::fs::read_to_string(path).ok().and_then(|text| password(&text, &info))
    {
        info.set("password", password);
    }
    info
}

/// The password of the first line `host:port:database:user:password` that fits.
fn password(text: &str, info: &ConnInfo) -> Option<String> {
    let get = |key: &str| info.get(key).unwrap_or_default();
    // A connection over a socket is looked up under this name.
    let host = if get("host").starts_with('/') { "localhost" } else { get("host") };
    let wanted = [host, get("port"), get("dbname"), get("user")];
    let fits = |fields: &Vec<String>| {
        fields.len() == 5 && fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted)
    };
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(fields);
    lines.filter(fits).find_map(|fields| fields.into_iter().nth(4))
}

/// Splits at colons; a backslash takes the next letter as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => {
                if let (Some(next), Some(last)) = (letters.next(), fields.last_mut()) {
                    last.push(next);
                }
            }
            other => {
                if let Some(last) = fields.last_mut() {
                    last.push(other);
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_1_variables_complete_what_is_not_given() {
        let variable = |name: &str| match name {
            "PGHOST" => Some("10.0.0.1".to_owned()),
            "PGUSER" => Some("admin".to_owned()),
            "PGSSLMODE" => Some("require".to_owned()),
            _ => None,
        };
        let info = complete(ConnInfo::new().with("user", "postgres"), variable);
        let found = ["host", "user", "sslmode", "port", "dbname", "password"].map(|key| info.get(key));
        assert_eq!(
            found,
            [Some("10.0.0.1"), Some("postgres"), Some("require"), Some("5432"), Some("postgres"), None]
        );
    }

    #[test]
    fn d_1_password_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        std::fs::write(&path, "# c\nother:*:*:*:no\nh:5432:*:u\\:1:p\\:w\\\\:x\nlocalhost:*:*:*:socket\n")
            .unwrap();
        let file = path.display().to_string();
        let with = |host: &str, user: &str| {
            let info = ConnInfo::new().with("host", host).with("user", user).with("passfile", file.clone());
            complete(info, |_| None).get("password").map(str::to_owned)
        };
        assert_eq!(with("h", "u:1").as_deref(), Some("p:w\\:x"));
        assert_eq!(with("/run", "x").as_deref(), Some("socket"));
        assert_eq!(with("h", "x"), None);
    }
}
