//! TLS towards REST servers (contract C.2, the `ctl` table).

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use ptarmigan_config::CtlSettings;
use ptarmigan_tls::{
    Checks, Trust,
    pem::{self, PemError},
};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};

/// Where distributions keep the authorities that the machine trusts.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The client's side of TLS.
///
/// # Errors
/// A file cannot be read or used; the key is encrypted.
pub(crate) fn client_config(settings: &CtlSettings) -> Result<ClientConfig> {
    let builder = ptarmigan_tls::client_builder(checks(settings)?)?;
    let Some(certfile) = &settings.certfile else { return Ok(builder.with_no_client_auth()) };
    let key = private_key(settings.keyfile.as_ref().unwrap_or(certfile))?;
    builder
        .with_client_auth_cert(certificates(certfile)?, key)
        .with_context(|| format!("the certificate {} cannot be used", certfile.display()))
}

/// What is verified of a server.
fn checks(settings: &CtlSettings) -> Result<Checks> {
    let trust = || anyhow::Ok(Trust::usable(roots(settings)?)?);
    Ok(match (settings.insecure, settings.certfile.is_some()) {
        (false, _) => Checks::ChainAndName(trust()?),
        (true, true) => Checks::Chain(trust()?),
        (true, false) => Checks::Nothing,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    pem::read_all(path).map_err(|error| match error {
        PemError::NoItemsFound => anyhow!("there is no certificate in {}", path.display()),
        error => anyhow!(error).context(format!("cannot read certificates from {}", path.display())),
    })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let error = match pem::read_key(path) {
        Ok(key) => return Ok(key),
        Err(error) => error,
    };
    let path = path.display();
    match error {
        pem::Error::Encrypted => {
            bail!("the key {path} is encrypted: give one without a password that only you can read")
        }
        pem::Error::Pem(PemError::Io(error)) => Err(error).context(format!("cannot read {path}")),
        pem::Error::Pem(error) => Err(error).context(format!("there is no usable key in {path}")),
    }
}

fn roots(settings: &CtlSettings) -> Result<Vec<CertificateDer<'static>>> {
    if let Some(path) = &settings.cacert {
        return certificates(path);
    }
    let system = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.is_file());
    Ok(system.and_then(|path| certificates(path).ok()).unwrap_or_default())
}

#[cfg(test)]
#[path = "tls/tests.rs"]
mod tests;
