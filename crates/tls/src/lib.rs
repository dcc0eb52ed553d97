//! The client's side of TLS, by rustls: files in PEM form, and who is trusted.
//!
//! rustls knows one way to verify a server; `ptctl` and libpq's `sslmode` have more ([`Checks`]). The chain is always
//! verified by rustls' own verifier where it is verified at all. One certificate that is authority, server and client
//! at once, which rustls refuses and OpenSSL does not, is accepted where it is the very one that is trusted: many
//! clusters use one self-signed certificate for everything.

pub mod files;
pub mod pem;
mod verifier;

use std::sync::Arc;

pub use verifier::{Checks, Error, Trust, Verifier};

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, client::WantsClientCert, crypto::CryptoProvider,
};

/// What to do about a certificate of X.509 version 1: `openssl x509 -req` without extensions makes such.
pub const VERSION_1_REMEDY: &str = "make it again with at least one extension, for instance \
     openssl x509 -req ... -extfile FILE with subjectAltName=DNS:<host name> in FILE";

/// webpki's word for a certificate of X.509 version 1. rustls has none.
const VERSION_1: &str = "UnsupportedCertVersion";

/// A client that verifies servers by `checks`; what it shows of itself is still to be said.
///
/// # Errors
/// rustls' cryptography serves none of its protocol versions.
pub fn client_builder(checks: Checks) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(checks))))
}

/// Whether rustls refuses a certificate for being of X.509 version 1 (see [`VERSION_1_REMEDY`]).
pub fn is_version_1(error: &rustls::Error) -> bool {
    is_about(error, VERSION_1)
}

/// Whether it is an error of webpki that rustls has no word for, by webpki's word.
fn is_about(error: &rustls::Error, word: &str) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(other))
        if format!("{other:?}").contains(word))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
