//! TLS towards REST servers (contract C.2, the `ctl` table).
//!
//! A certificate that is itself among the trusted ones is accepted as a server's, authority or not: many clusters use
//! one self-signed certificate for everything.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, anyhow, bail};
use ptarmigan_config::CtlSettings;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};

/// Where distributions keep the authorities that the machine trusts.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is verified of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checks {
    Nothing,
    Chain,
    ChainAndName,
}

/// The client's side of TLS.
///
/// # Errors
/// A file cannot be read or used; the key is encrypted.
pub(crate) fn client_config(settings: &CtlSettings) -> Result<ClientConfig> {
    let checks = match (settings.insecure, settings.certfile.is_some()) {
        (false, _) => Checks::ChainAndName,
        (true, true) => Checks::Chain,
        (true, false) => Checks::Nothing,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = if checks == Checks::Nothing { Vec::new() } else { roots(settings)? };
    let verifier = Verifier::new(Arc::clone(&provider), roots, checks)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(certfile) = &settings.certfile else { return Ok(builder.with_no_client_auth()) };
    let key = private_key(settings.keyfile.as_ref().unwrap_or(certfile))?;
    builder
        .with_client_auth_cert(certificates(certfile)?, key)
        .with_context(|| format!("the certificate {} cannot be used", certfile.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let context = || format!("cannot read certificates from {}", path.display());
    let found = CertificateDer::pem_file_iter(path).with_context(context)?.collect::<Result<Vec<_>, _>>();
    let found = found.with_context(context)?;
    if found.is_empty() { Err(anyhow!("there is no certificate in {}", path.display())) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        bail!("the key {} is encrypted: give one without a password that only you can read", path.display());
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .with_context(|| format!("there is no usable key in {}", path.display()))
}

fn roots(settings: &CtlSettings) -> Result<Vec<CertificateDer<'static>>> {
    if let Some(path) = &settings.cacert {
        return certificates(path);
    }
    let system = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.is_file());
    Ok(system.and_then(|path| certificates(path).ok()).unwrap_or_default())
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None` where nothing is trusted.
    chain: Option<Arc<WebPkiServerVerifier>>,
    roots: Vec<CertificateDer<'static>>,
    checks: Checks,
}

impl Verifier {
    fn new(
        provider: Arc<CryptoProvider>,
        roots: Vec<CertificateDer<'static>>,
        checks: Checks,
    ) -> Result<Self> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        let chain = if store.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
            Some(builder.build()?)
        };
        Ok(Self { provider, chain, roots, checks })
    }

    /// A trusted certificate shown as a server's. The verifier looks at dates before it looks at who may be an
    /// authority, so the dates are good; only the name is left.
    fn accept_root(
        &self,
        shown: &CertificateDer<'_>,
        name: &ServerName<'_>,
        error: rustls::Error,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_authority = matches!(&error, rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if format!("{other:?}").contains("CaUsedAsEndEntity"));
        if !is_authority || !self.roots.iter().any(|root| root.as_ref() == shown.as_ref()) {
            return Err(error);
        }
        if self.checks == Checks::ChainAndName {
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
        if self.checks == Checks::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(chain) = &self.chain else { return Err(CertificateError::UnknownIssuer.into()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, so the chain was good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.checks == Checks::Chain => Ok(ServerCertVerified::assertion()),
            Err(error) => self.accept_root(end_entity, server_name, error),
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
#[path = "tls/tests.rs"]
mod tests;
