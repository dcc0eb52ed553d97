//! libpq's `sslmode` and its files, by rustls.
//!
//! rustls knows one way to verify a server; libpq has three more. The chain is always verified by rustls' own verifier
//! where it is verified at all; `verify-ca` only forgives the name.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
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
        source: pem::Error,
    },
    /// A key with a password.
    #[error("sslkey {path} is encrypted: give an unencrypted key that only the daemon's user can read", path = .0.display())]
    EncryptedKey(PathBuf),
    /// `verify-ca` or `verify-full` without an authority.
    #[error("root certificate file {path} does not exist: set sslrootcert or change sslmode", path = .0.display())]
    NoRoot(PathBuf),
    /// rustls refuses the certificates, for instance X.509 version 1.
    #[error("certificates cannot be used: {0}")]
    Refused(String),
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
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier { provider: Arc::clone(&provider), chain: chain(info, mode, &provider)?, mode };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Refused(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(cert) = file(info, "sslcert", "postgresql.crt") else {
        return Ok(builder.with_no_client_auth());
    };
    let key = file(info, "sslkey", "postgresql.key").unwrap_or_else(|| home_file("postgresql.key"));
    let certs = read_all::<CertificateDer<'static>>("sslcert", &cert)?;
    builder.with_client_auth_cert(certs, read_key(&key)?).map_err(|error| Error::Refused(error.to_string()))
}

/// The verifier of the chain, `None` where the mode asks for none.
fn chain(
    info: &ConnInfo,
    mode: SslMode,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<WebPkiServerVerifier>>, Error> {
    let root = file(info, "sslrootcert", "root.crt");
    let root = match root {
        Some(path) if mode >= SslMode::Require => path,
        None if mode >= SslMode::VerifyCa => return Err(Error::NoRoot(home_file("root.crt"))),
        _ => return Ok(None),
    };
    let mut store = RootCertStore::empty();
    for cert in read_all::<CertificateDer<'static>>("sslrootcert", &root)? {
        store.add(cert).map_err(|error| Error::Refused(error.to_string()))?;
    }
    let mut lists = Vec::new();
    if let Some(path) = file(info, "sslcrl", "root.crl") {
        lists.extend(read_all::<CertificateRevocationListDer<'static>>("sslcrl", &path)?);
    }
    if let Some(folder) = info.get("sslcrldir") {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            lists.extend(read_all::<CertificateRevocationListDer<'static>>("sslcrldir", &entry.path())?);
        }
    }
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    // As OpenSSL in libpq: an authority without a list in the file is not a reason to refuse.
    let builder = builder.with_crls(lists).allow_unknown_revocation_status();
    builder.build().map(Some).map_err(|error| Error::Refused(error.to_string()))
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
    let failed = |source| Error::File { key, path: path.to_owned(), source };
    let items = T::pem_file_iter(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if items.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(items) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let encrypted =
        |text: &str| text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED");
    if std::fs::read_to_string(path).is_ok_and(|text| encrypted(&text)) {
        return Err(Error::EncryptedKey(path.to_owned()));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|source| Error::File {
        key: "sslkey",
        path: path.to_owned(),
        source,
    })
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    mode: SslMode,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, so the chain was good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.mode < SslMode::VerifyFull => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
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
}
