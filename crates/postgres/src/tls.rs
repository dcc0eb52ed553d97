//! libpq's `sslmode` and its files, by rustls.
//!
//! `verify-ca`, and `require` with a root certificate file, verify the chain and forgive the name.

use std::path::{Path, PathBuf};

use ptarmigan_tls::{
    Checks, Trust, VERSION_1_REMEDY,
    pem::{self, PemError},
};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
};

use crate::dsn::ConnInfo;

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Plain, and TLS where the server insists.
    Allow,
    /// TLS, and plain where the server has none or it fails.
    #[default]
    Prefer,
    /// TLS; verified as by `verify-ca` where a root certificate file exists.
    Require,
    /// TLS with a certificate of the given authority.
    VerifyCa,
    /// As `verify-ca`, and the certificate names the host.
    VerifyFull,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a word of libpq.
    #[error("sslmode {0:?} is not one of disable, allow, prefer, require, verify-ca, verify-full")]
    Mode(String),
    /// A file cannot be read, or holds nothing of its kind.
    #[error("{key} {path}: {source}", path = path.display())]
    File {
        /// The libpq parameter.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: PemError,
    },
    /// A key with a password.
    #[error("sslkey {path} is encrypted: give an unencrypted key that only the daemon's user can read", path = .0.display())]
    EncryptedKey(PathBuf),
    /// `verify-ca` or `verify-full` without an authority.
    #[error("root certificate file {path} does not exist: set sslrootcert or change sslmode", path = .0.display())]
    NoRoot(PathBuf),
    /// rustls refuses the certificates.
    #[error("certificates cannot be used: {0}")]
    Refused(String),
    /// The client's certificate is of X.509 version 1.
    #[error("sslcert {path} is of X.509 version 1, which cannot be used: {VERSION_1_REMEDY}", path = .0.display())]
    Version1(PathBuf),
}

impl SslMode {
    /// Reads libpq's word; absent means `prefer`.
    pub fn read(text: Option<&str>) -> Result<Self, Error> {
        Ok(match text.unwrap_or("prefer") {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            other => return Err(Error::Mode(other.to_owned())),
        })
    }
}

/// The client's side of TLS for a connection: certificates and verification as its parameters say.
pub fn client_config(info: &ConnInfo, mode: SslMode) -> Result<ClientConfig, Error> {
    let builder = ptarmigan_tls::client_builder(checks(info, mode)?)
        .map_err(|error| Error::Refused(error.to_string()))?;
    let Some(cert) = file(info, "sslcert", "postgresql.crt") else {
        return Ok(builder.with_no_client_auth());
    };
    let key = file(info, "sslkey", "postgresql.key").unwrap_or_else(|| home_file("postgresql.key"));
    let certs = read_all::<CertificateDer<'static>>("sslcert", &cert)?;
    builder.with_client_auth_cert(certs, read_key(&key)?).map_err(|error| {
        match ptarmigan_tls::is_version_1(&error) {
            true => Error::Version1(cert),
            false => Error::Refused(error.to_string()),
        }
    })
}

/// What the mode verifies of a server, and by whom.
fn checks(info: &ConnInfo, mode: SslMode) -> Result<Checks, Error> {
    let root = file(info, "sslrootcert", "root.crt");
    let root = match root {
        Some(path) if mode >= SslMode::Require => path,
        None if mode >= SslMode::VerifyCa => return Err(Error::NoRoot(home_file("root.crt"))),
        _ => return Ok(Checks::Nothing),
    };
    let roots = read_all::<CertificateDer<'static>>("sslrootcert", &root)?;
    let mut lists = Vec::new();
    if let Some(path) = file(info, "sslcrl", "root.crl") {
        lists.extend(read_all::<CertificateRevocationListDer<'static>>("sslcrl", &path)?);
    }
    if let Some(folder) = info.get("sslcrldir") {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            lists.extend(read_all::<CertificateRevocationListDer<'static>>("sslcrldir", &entry.path())?);
        }
    }
    let trust = Trust::every(roots, lists).map_err(|error| Error::Refused(error.to_string()))?;
    Ok(if mode >= SslMode::VerifyFull { Checks::ChainAndName(trust) } else { Checks::Chain(trust) })
}

/// The file of a parameter, or libpq's default below `~/.postgresql` where that exists.
fn file(info: &ConnInfo, key: &str, default_name: &str) -> Option<PathBuf> {
    match info.get(key) {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(home_file(default_name)).filter(|path| path.is_file()),
    }
}

fn home_file(name: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    home.join(".postgresql").join(name)
}

fn read_all<T: PemObject>(key: &'static str, path: &Path) -> Result<Vec<T>, Error> {
    pem::read_all(path).map_err(|source| Error::File { key, path: path.to_owned(), source })
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    pem::read_key(path).map_err(|error| match error {
        pem::Error::Encrypted => Error::EncryptedKey(path.to_owned()),
        pem::Error::Pem(source) => Error::File { key: "sslkey", path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read() {
        assert_eq!(SslMode::read(None).unwrap(), SslMode::Prefer);
        assert_eq!(SslMode::read(Some("verify-full")).unwrap(), SslMode::VerifyFull);
        assert!(SslMode::read(Some("on")).is_err());
    }

    #[test]
    fn verification_needs_an_authority() {
        let info = ConnInfo::new().with("sslrootcert", "/nonexistent/root.crt");
        assert!(matches!(
            client_config(&info, SslMode::VerifyCa),
            Err(Error::File { key: "sslrootcert", .. })
        ));
        assert!(client_config(&info, SslMode::Prefer).is_ok());
    }

    #[test]
    fn encrypted_key_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();
        assert!(matches!(read_key(&path), Err(Error::EncryptedKey(_))));
    }

    /// A certificate of X.509 version 1 and its key, made for this test (they protect nothing).
    fn testdata(name: &str) -> String {
        format!("{}/testdata/tls/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn modes_verify_as_libpq() {
        let kind = |mode| match checks(&ConnInfo::new().with("sslrootcert", testdata("v1.crt")), mode) {
            Ok(Checks::Nothing) => "nothing",
            Ok(Checks::Chain(_)) => "chain",
            Ok(Checks::ChainAndName(_)) => "chain and name",
            Err(error) => panic!("{mode:?}: {error}"),
        };
        assert_eq!(kind(SslMode::Allow), "nothing");
        assert_eq!(kind(SslMode::Prefer), "nothing");
        assert_eq!(kind(SslMode::Require), "chain");
        assert_eq!(kind(SslMode::VerifyCa), "chain");
        assert_eq!(kind(SslMode::VerifyFull), "chain and name");
    }

    #[test]
    fn version_1_certificates_are_refused_with_a_remedy() {
        let info = ConnInfo::new().with("sslcert", testdata("v1.crt")).with("sslkey", testdata("v1.key"));
        let error = client_config(&info, SslMode::Require).unwrap_err().to_string();
        assert!(
            error.contains("v1.crt is of X.509 version 1") && error.contains("subjectAltName"),
            "{error}"
        );
    }
}
