//! Certificates and keys that a configuration names, with errors that name the file and say what to do.

use std::path::{Path, PathBuf};

use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use crate::{
    Checks, Trust,
    pem::{self, PemError},
};

/// Where distributions keep the authorities that the machine trusts.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It holds no certificate.
    #[error("there is no certificate in {}", .0.display())]
    NoCertificate(PathBuf),
    /// Certificates cannot be read.
    #[error("cannot read certificates from {}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PemError,
    },
    /// The key has a password.
    #[error("the key {} is encrypted: give one without a password that only you can read", .0.display())]
    Encrypted(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds no key.
    #[error("there is no usable key in {}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PemError,
    },
}

/// The certificates in a file, at least one.
///
/// # Errors
/// [`Error::NoCertificate`], [`Error::Certificates`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    pem::read_all(path).map_err(|error| match error {
        PemError::NoItemsFound => Error::NoCertificate(path.to_owned()),
        source => Error::Certificates { path: path.to_owned(), source },
    })
}

/// The first key in a file.
///
/// # Errors
/// [`Error::Encrypted`], [`Error::Read`], [`Error::NoKey`].
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let path_of = || path.to_owned();
    pem::read_key(path).map_err(|error| match error {
        pem::Error::Encrypted => Error::Encrypted(path_of()),
        pem::Error::Pem(PemError::Io(source)) => Error::Read { path: path_of(), source },
        pem::Error::Pem(source) => Error::NoKey { path: path_of(), source },
    })
}

/// What a section of a configuration says of a client's TLS.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The section's name, for messages.
    pub section: &'a str,
    /// The authorities that may sign the server's certificate; `None`: those that the machine trusts.
    pub cacert: Option<&'a Path>,
    /// The client's certificate.
    pub cert: Option<&'a Path>,
    /// Its key, where it is not in the same file.
    pub key: Option<&'a Path>,
    /// Whether the server is to be verified at all.
    pub verify: bool,
}

impl Client<'_> {
    /// The configuration for rustls.
    ///
    /// # Errors
    /// One line that names the key, the file and the reason.
    pub fn config(&self) -> Result<ClientConfig, String> {
        let named = |key: &str, reason: String| format!("{}.{key}: {reason}", self.section);
        let trust = || -> Result<Trust, String> {
            let roots = match self.cacert {
                Some(path) => certificates(path).map_err(|error| named("cacert", on_one_line(&error)))?,
                None => system_roots(),
            };
            Trust::usable(roots).map_err(|error| named("cacert", error.to_string()))
        };
        let checks = if self.verify { Checks::ChainAndName(trust()?) } else { Checks::Nothing };
        let builder = crate::client_builder(checks).map_err(|error| error.to_string())?;
        let Some(cert) = self.cert else { return Ok(builder.with_no_client_auth()) };
        let shown = certificates(cert).map_err(|error| named("cert", on_one_line(&error)))?;
        let key = private_key(self.key.unwrap_or(cert)).map_err(|error| named("key", on_one_line(&error)))?;
        builder.with_client_auth_cert(shown, key).map_err(|error| named("cert", error.to_string()))
    }
}

/// An error and its causes.
pub fn on_one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The authorities that the machine trusts; none where it has no such file.
pub fn system_roots() -> Vec<CertificateDer<'static>> {
    let system = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.is_file());
    system.and_then(|path| certificates(path).ok()).unwrap_or_default()
}
