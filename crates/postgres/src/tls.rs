//! libpq's `sslmode` and its files, by rustls.
//!
//! rustls knows one way to verify a server; libpq has three more. The chain is always verified by rustls' own verifier
//! where it is verified at all; `verify-ca` only forgives the name. One certificate that is authority, server and client
//! at once, which rustls refuses and OpenSSL does not, is accepted where it is the very one that is trusted.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::ParsedCertificate,
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
    /// rustls refuses the certificates.
    #[error("certificates cannot be used: {0}")]
    Refused(String),
    /// The client's certificate is of X.509 version 1.
    #[error("sslcert {path} is of X.509 version 1, which cannot be used: {VERSION_1_REMEDY}", path = .0.display())]
    Version1(PathBuf),
}

/// `openssl x509 -req` without extensions makes such certificates.
const VERSION_1_REMEDY: &str = "make it again with at least one extension, for instance \
     openssl x509 -req ... -extfile FILE with subjectAltName=DNS:<host name> in FILE";

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
    let trust = trust(info, mode, &provider)?;
    let verifier = Verifier { provider: Arc::clone(&provider), trust, mode };
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
    builder.with_client_auth_cert(certs, read_key(&key)?).map_err(|error| match is_about(&error, VERSION_1) {
        true => Error::Version1(cert),
        false => Error::Refused(error.to_string()),
    })
}

/// What servers are verified with.
#[derive(Debug)]
struct Trust {
    chain: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
}

/// The verifier of the chain and what it trusts, `None` where the mode asks for none.
fn trust(info: &ConnInfo, mode: SslMode, provider: &Arc<CryptoProvider>) -> Result<Option<Trust>, Error> {
    let root = file(info, "sslrootcert", "root.crt");
    let root = match root {
        Some(path) if mode >= SslMode::Require => path,
        None if mode >= SslMode::VerifyCa => return Err(Error::NoRoot(home_file("root.crt"))),
        _ => return Ok(None),
    };
    let mut store = RootCertStore::empty();
    let roots = read_all::<CertificateDer<'static>>("sslrootcert", &root)?;
    for cert in roots.iter().cloned() {
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
    let verifier = builder.build().map_err(|error| Error::Refused(error.to_string()))?;
    Ok(Some(Trust { chain: verifier, roots }))
}

/// webpki's words for an authority that is shown as a server's own certificate, and for X.509 version 1. rustls has none.
const CA_AS_END_ENTITY: &str = "CaUsedAsEndEntity";
const VERSION_1: &str = "UnsupportedCertVersion";

fn is_about(error: &rustls::Error, word: &str) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(other))
        if format!("{other:?}").contains(word))
}

/// Says what to do where rustls only says what it does not like.
fn explained(error: rustls::Error) -> rustls::Error {
    if is_about(&error, VERSION_1) {
        let text = format!("the server's certificate is of X.509 version 1: {VERSION_1_REMEDY}");
        return rustls::Error::General(text);
    }
    error
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
    trust: Option<Trust>,
    mode: SslMode,
}

impl Verifier {
    /// A trusted certificate shown as the server's own. The verifier looks at dates before it looks at who may be an
    /// authority, so the dates are good; only the name is left.
    fn accept_root(
        &self,
        trust: &Trust,
        shown: &CertificateDer<'_>,
        name: &ServerName<'_>,
        error: rustls::Error,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_trusted = trust.roots.iter().any(|root| root.as_ref() == shown.as_ref());
        if !is_trusted || !is_about(&error, CA_AS_END_ENTITY) {
            return Err(explained(error));
        }
        if self.mode >= SslMode::VerifyFull {
            verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }
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
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        match trust.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, so the chain was good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.mode < SslMode::VerifyFull => Ok(ServerCertVerified::assertion()),
            Err(error) => self.accept_root(trust, end_entity, server_name, error),
            good => good,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
            .map_err(explained)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
            .map_err(explained)
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

    use crate::command::Command;
    use std::time::Duration;

    /// Self-signed certificates as one finds them: `self` is an authority, `leaf` is none, `v1` has no extensions.
    async fn certificates() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty.cnf"), "[req]\ndistinguished_name=dn\n[dn]\n").unwrap();
        let own = |name: &str, authority: &str| {
            format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -config empty.cnf -addext \
                 subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:{authority} \
                 -keyout {name}.key -out {name}.crt"
            )
        };
        for line in [
            own("self", "TRUE"),
            own("twin", "TRUE"),
            own("leaf", "FALSE"),
            "req -newkey rsa:2048 -nodes -subj /CN=localhost -config empty.cnf -keyout v1.key -out v1.csr"
                .into(),
            "x509 -req -in v1.csr -signkey v1.key -days 2 -out v1.crt".into(),
        ] {
            let command = Command::new("openssl").args(line.split_whitespace()).working_dir(folder.path());
            command.deadline(Duration::from_secs(30)).succeed().await.unwrap();
        }
        folder
    }

    struct Case {
        shown: &'static str,
        root: &'static str,
        mode: SslMode,
        host: &'static str,
        days: u64,
    }

    fn verdict(folder: &Path, case: &Case) -> Result<(), rustls::Error> {
        let file = |name: &str| folder.join(format!("{name}.crt"));
        let info = ConnInfo::new().with("sslrootcert", file(case.root).display().to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = trust(&info, case.mode, &provider).unwrap();
        let verifier = Verifier { provider, trust, mode: case.mode };
        let shown = read_all::<CertificateDer<'static>>("sslcert", &file(case.shown)).unwrap().remove(0);
        let seconds = u64::try_from(jiff::Timestamp::now().as_second()).unwrap() + case.days * 86_400;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = ServerName::try_from(case.host).unwrap();
        verifier.verify_server_cert(&shown, &[], &name, &[], now).map(drop)
    }

    #[tokio::test]
    async fn certificate_for_everything_is_accepted_where_it_is_the_trusted_one() {
        let folder = certificates().await;
        let case =
            Case { shown: "self", root: "self", mode: SslMode::VerifyFull, host: "localhost", days: 0 };
        for (case, good) in [
            (Case { ..case }, true),
            (Case { mode: SslMode::VerifyCa, ..case }, true),
            (Case { mode: SslMode::Require, ..case }, true),
            (Case { host: "elsewhere", ..case }, false),
            (Case { host: "elsewhere", mode: SslMode::VerifyCa, ..case }, true),
            (Case { days: 5, ..case }, false),
            (Case { days: 5, mode: SslMode::VerifyCa, ..case }, false),
            (Case { root: "twin", ..case }, false),
            (Case { root: "twin", mode: SslMode::VerifyCa, ..case }, false),
            (Case { shown: "leaf", root: "leaf", ..case }, true),
            (Case { shown: "leaf", root: "leaf", host: "elsewhere", ..case }, false),
            (Case { shown: "leaf", root: "leaf", days: 5, ..case }, false),
        ] {
            let outcome = verdict(folder.path(), &case);
            let Case { shown, root, mode, host, days } = case;
            assert_eq!(
                outcome.is_ok(),
                good,
                "{shown} by {root}, {mode:?} {host}, {days} days on: {outcome:?}"
            );
        }
    }

    #[tokio::test]
    async fn version_1_certificates_are_refused_with_a_remedy() {
        let folder = certificates().await;
        let case = Case { shown: "v1", root: "self", mode: SslMode::VerifyCa, host: "localhost", days: 0 };
        let error = verdict(folder.path(), &case).unwrap_err().to_string();
        assert!(error.contains("X.509 version 1") && error.contains("subjectAltName"), "{error}");
        let file = |name: &str| folder.path().join(name).display().to_string();
        let info = ConnInfo::new().with("sslcert", file("v1.crt")).with("sslkey", file("v1.key"));
        let error = client_config(&info, SslMode::Require).unwrap_err().to_string();
        assert!(
            error.contains("v1.crt is of X.509 version 1") && error.contains("subjectAltName"),
            "{error}"
        );
    }
}
