//! The verifier of servers.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::{VERSION_1_REMEDY, is_about, is_version_1, provider};

/// webpki's word for an authority that is shown as a server's own certificate. rustls has none.
const CA_AS_END_ENTITY: &str = "CaUsedAsEndEntity";

/// Why certificates cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// rustls cannot use a root.
    #[error(transparent)]
    Root(#[from] rustls::Error),
    /// There is no root, or rustls cannot use a revocation list.
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
}

/// What servers are verified with.
#[derive(Debug)]
pub struct Trust {
    /// `None` where nothing is trusted.
    chain: Option<Arc<WebPkiServerVerifier>>,
    roots: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// Trusts `roots`, every one of which must be usable, but for what the revocation lists name.
    ///
    /// As OpenSSL in libpq: an authority without a list is not a reason to refuse.
    ///
    /// # Errors
    /// There is no root, or a root or a list cannot be used.
    pub fn every(
        roots: Vec<CertificateDer<'static>>,
        lists: Vec<CertificateRevocationListDer<'static>>,
    ) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for root in roots.iter().cloned() {
            store.add(root)?;
        }
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider());
        let builder = builder.with_crls(lists).allow_unknown_revocation_status();
        Ok(Self { chain: Some(builder.build()?), roots })
    }

    /// Trusts those of `roots` that are usable, as of a machine's bundle; without any, no server is good.
    ///
    /// # Errors
    /// rustls makes no verifier of them.
    pub fn usable(roots: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        if store.is_empty() {
            return Ok(Self { chain: None, roots });
        }
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider());
        Ok(Self { chain: Some(builder.build()?), roots })
    }
}

/// What is verified of a server.
#[derive(Debug)]
pub enum Checks {
    /// Nothing but that it holds the key of what it shows.
    Nothing,
    /// The chain up to a root, and its dates.
    Chain(Trust),
    /// The chain, its dates, and that the certificate names the host.
    ChainAndName(Trust),
}

/// Verifies servers by rustls' own verifier and forgives what [`Checks`] forgive.
#[derive(Debug)]
pub struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    checks: Checks,
}

impl Verifier {
    /// A verifier by ring.
    pub fn new(checks: Checks) -> Self {
        Self { algorithms: provider().signature_verification_algorithms, checks }
    }
}

/// A trusted certificate shown as the server's own. The verifier looks at dates before it looks at who may be an
/// authority, so the dates are good; only the name is left, where there is one to verify.
fn accept_root(
    trust: &Trust,
    shown: &CertificateDer<'_>,
    name: Option<&ServerName<'_>>,
    error: rustls::Error,
) -> Result<ServerCertVerified, rustls::Error> {
    let is_trusted = trust.roots.iter().any(|root| root.as_ref() == shown.as_ref());
    if !is_trusted || !is_about(&error, CA_AS_END_ENTITY) {
        return Err(explained(error));
    }
    if let Some(name) = name {
        verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
    }
    Ok(ServerCertVerified::assertion())
}

/// Says what to do where rustls only says what it does not like.
fn explained(error: rustls::Error) -> rustls::Error {
    if is_version_1(&error) {
        let text = format!("the server's certificate is of X.509 version 1: {VERSION_1_REMEDY}");
        return rustls::Error::General(text);
    }
    error
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
        let (trust, name) = match &self.checks {
            Checks::Nothing => return Ok(ServerCertVerified::assertion()),
            Checks::Chain(trust) => (trust, None),
            Checks::ChainAndName(trust) => (trust, Some(server_name)),
        };
        let Some(chain) = &trust.chain else { return Err(CertificateError::UnknownIssuer.into()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, so the chain was good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if name.is_none() => Ok(ServerCertVerified::assertion()),
            Err(error) => accept_root(trust, end_entity, name, error),
            good => good,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms).map_err(explained)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms).map_err(explained)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
