//! TLS towards REST servers (contract C.2, the `ctl` table).

use anyhow::{Context as _, Result};
use ptarmigan_config::CtlSettings;
use ptarmigan_tls::{Checks, Trust, files};
use rustls::ClientConfig;

/// The client's side of TLS.
///
/// # Errors
/// A file cannot be read or used; the key is encrypted.
pub(crate) fn client_config(settings: &CtlSettings) -> Result<ClientConfig> {
    let builder = ptarmigan_tls::client_builder(checks(settings)?)?;
    let Some(certfile) = &settings.certfile else { return Ok(builder.with_no_client_auth()) };
    let key = files::private_key(settings.keyfile.as_ref().unwrap_or(certfile))?;
    builder
        .with_client_auth_cert(files::certificates(certfile)?, key)
        .with_context(|| format!("the certificate {} cannot be used", certfile.display()))
}

/// What is verified of a server.
fn checks(settings: &CtlSettings) -> Result<Checks> {
    let roots = match &settings.cacert {
        Some(path) => files::certificates(path),
        None => Ok(files::system_roots()),
    };
    let trust = || anyhow::Ok(Trust::usable(roots?)?);
    Ok(match (settings.insecure, settings.certfile.is_some()) {
        (false, _) => Checks::ChainAndName(trust()?),
        (true, true) => Checks::Chain(trust()?),
        (true, false) => Checks::Nothing,
    })
}

#[cfg(test)]
#[path = "tls/tests.rs"]
mod tests;
