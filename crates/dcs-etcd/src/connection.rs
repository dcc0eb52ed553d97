//! One client for one endpoint: TLS, timeouts, authentication.
//!
//! etcd-client's balanced client sends requests to endpoints that are known to be dead, so each client gets a
//! single endpoint and [`crate::pool`] goes from one to the next.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use crate::{
    failure::{Failure, Next, judge},
    settings::EtcdSettings,
};

/// etcd closes connections that ping more often than this (`--grpc-keepalive-min-time`).
const PING_INTERVAL_MIN: Duration = Duration::from_secs(5);

/// Where distributions keep the authorities that the machine trusts.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How long things may take on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Making the connection, TLS included.
    pub(crate) connect: Duration,
    /// Between two pings while a watch is open.
    pub(crate) ping_interval: Duration,
    /// From a ping to its answer.
    pub(crate) ping_timeout: Duration,
}

impl Limits {
    /// `attempt`: the time that one attempt has; `ttl` as configured.
    pub(crate) fn new(attempt: Duration, ttl: Duration) -> Self {
        Self {
            connect: (attempt / 2).max(Duration::from_secs(1)).min(attempt * 9 / 10),
            ping_interval: PING_INTERVAL_MIN.max(ttl / 3),
            ping_timeout: Duration::from_secs(1).max(ttl / 6),
        }
    }
}

/// The last certificates that could be used.
#[derive(Default)]
pub(crate) struct KeptTls(Mutex<Option<TlsOptions>>);

impl KeptTls {
    fn or_last(&self, read: Result<TlsOptions, String>) -> Result<TlsOptions, String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (read, kept.as_ref()) {
            (Ok(new), _) => Ok(kept.insert(new).clone()),
            (Err(text), Some(last)) => {
                tracing::warn!("the certificates for etcd were replaced and cannot be used yet: {text}");
                Ok(last.clone())
            }
            (Err(text), None) => Err(text),
        }
    }
}

/// Makes a client for `endpoint` and authenticates it. The connection itself is made by the first request, so
/// without a user this asks nobody.
pub(crate) async fn open(
    settings: &EtcdSettings,
    endpoint: &str,
    limits: Limits,
    kept: &KeptTls,
) -> Result<Client, Next> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(limits.connect)
        .with_keep_alive(limits.ping_interval, limits.ping_timeout)
        .with_keep_alive_while_idle(false)
        .with_tcp_keepalive(limits.ping_interval)
        .with_require_leader(true);
    if is_tls(endpoint) {
        let tls = kept.or_last(tls(settings).await).map_err(|text| Next::Switch { sent: false, text })?;
        options = options.with_tls(tls);
    }
    let client = Client::connect([endpoint], Some(options)).await.map_err(|error| judge(&error))?;
    if settings.username.is_some() {
        authenticate(settings, &client).await?;
    }
    Ok(client)
}

pub(crate) fn is_tls(endpoint: &str) -> bool {
    endpoint.starts_with("https://")
}

/// Fetches a token for the configured user; clones of `client` share it. A server without authentication is fine.
pub(crate) async fn authenticate(settings: &EtcdSettings, client: &Client) -> Result<(), Next> {
    let Some(username) = settings.username.clone() else { return Ok(()) };
    let password = settings.password.clone().unwrap_or_default();
    match client.clone().update_user(Some((username, password))).await {
        Ok(()) => Ok(()),
        Err(error) if error.to_string().contains("authentication is not enabled") => Ok(()),
        Err(error) => Err(match judge(&error) {
            // The request that needs the token was not sent.
            Next::Switch { text, .. } => Next::Switch { sent: false, text },
            Next::Repeat { text, .. } => Next::Repeat { sent: false, text },
            Next::Authenticate(text) => Next::Fail(Failure::Credentials(text)),
            fail @ Next::Fail(_) => fail,
        }),
    }
}

async fn tls(settings: &EtcdSettings) -> Result<TlsOptions, String> {
    // tonic says nothing of what is wrong with a file.
    let examined = settings.clone();
    let examination = tokio::task::spawn_blocking(move || examined.tls_files().config().map(drop)).await;
    examination.map_err(|error| error.to_string())??;
    let roots = match &settings.cacert {
        Some(path) => read(path).await?,
        None => system_roots().await,
    };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(roots));
    if let Some(path) = &settings.cert {
        let cert = read(path).await?;
        let key = match &settings.key {
            Some(path) => read(path).await?,
            None => cert.clone(),
        };
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    Ok(tls)
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(path).await.map_err(|error| format!("{}: {error}", path.display()))
}

async fn system_roots() -> Vec<u8> {
    for path in SYSTEM_ROOTS {
        if let Ok(pem) = tokio::fs::read(path).await {
            return pem;
        }
    }
    Vec::new()
}
