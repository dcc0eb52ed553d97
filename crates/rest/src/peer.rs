//! The client that asks other members (contract D.8): their position before a race (HN-3, HN-4), and whether a
//! member of our name is alive at start (D.3).

use std::time::Duration;

use futures_util::future::join_all;
use ptarmigan_config::Secret;
use ptarmigan_types::{Lsn, MemberName, Role, Tags, Timeline};
use reqwest::{
    RequestBuilder, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect::Policy,
};
use serde_json::{Map, Value};

use crate::{answer::LSN_HEADER, auth};

/// One attempt, no retries (contract HN-3).
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Contract D.3, step 6.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(3);

/// A longer answer is not a status document.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The whole answer of who promises.
const ACCEPTED: &[u8] = b"Accepted";

/// So much of a refusal is told on.
const REFUSAL_BYTES_MAX: usize = 300;

/// Why a peer counts as unreachable, or no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The member key holds no address that can be called.
    #[error("not an address of a REST API: {0:?}")]
    Address(String),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection failed.
    #[error("{0}")]
    Connection(String),
    /// The answer is not the document of a member whose PostgreSQL answers.
    #[error("{0}")]
    Answer(&'static str),
    /// It answers, and has no data directory yet: it does not lead.
    #[error("it has no data yet")]
    NoData,
    /// It answers, and does not promise.
    #[error("{0}")]
    Refused(String),
    /// The HTTP client cannot be built.
    #[error("cannot build the client for peers: {0}")]
    Client(String),
}

/// What a peer says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// No position as primary, and not the role of one (contract HN-4).
    pub in_recovery: bool,
    /// In recovery the greater of received and replayed, else zero (contract HN-4).
    pub lsn: Lsn,
    /// Its timeline, where known.
    pub timeline: Option<Timeline>,
    /// Its effective tags.
    pub tags: Tags,
    /// Its role; `None` where missing or unknown.
    pub role: Option<Role>,
    /// It needs a watchdog and has none (contract HN-5).
    pub watchdog_failed: bool,
    /// Its PostgreSQL runs and does not work; a Patroni does not tell.
    pub ailing: bool,
    /// Its WAL receiver is streaming.
    pub streaming: bool,
    /// From its tags: must not be promoted (contract HN-5).
    pub nofailover: bool,
    /// From its tags (contract HN-8).
    pub failover_priority: i64,
}

impl PeerStatus {
    /// Reads a status document; `None` where it shows no position, which means unreachable (contract HN-3).
    pub fn read(document: &Value) -> Option<Self> {
        let document = document.as_object()?;
        let xlog = ["wal", "xlog"].iter().find_map(|key| document.get(*key)?.as_object())?;
        let role = document.get("role").and_then(Value::as_str).and_then(Role::read);
        let in_recovery = position(xlog, "location").is_zero() && role != Some(Role::Primary);
        let received = position(xlog, "received_location").max(position(xlog, "replayed_location"));
        let tags = document.get("tags").and_then(Value::as_object).cloned().map(Tags).unwrap_or_default();
        Some(Self {
            in_recovery,
            lsn: if in_recovery { received } else { Lsn::ZERO },
            timeline: document.get("timeline").and_then(Value::as_u64).and_then(|tli| tli.try_into().ok()),
            role,
            watchdog_failed: document.get("watchdog_failed").is_some_and(ptarmigan_types::scalar::is_truthy),
            ailing: document.get("ailment").is_some(),
            streaming: document.get("replication_state").and_then(Value::as_str) == Some("streaming"),
            nofailover: tags.nofailover(),
            failover_priority: tags.failover_priority(),
            tags,
        })
    }
}

/// Nothing runs there, and there is nothing to run.
fn is_without_data(document: &Value) -> bool {
    let text = |key: &str| document.get(key).and_then(Value::as_str);
    let uninitialized = text("role").and_then(Role::read) == Some(Role::Uninitialized);
    uninitialized && text("state").is_some_and(|state| !matches!(state, "running" | "starting"))
}

fn position(xlog: &Map<String, Value>, key: &str) -> Lsn {
    Lsn(xlog.get(key).and_then(Value::as_u64).unwrap_or(0))
}

/// Asks peers over HTTP or HTTPS. Certificates are not verified, as between Patroni's nodes (contract D.8);
/// connections are not kept, because a kept one may lead to a host that is gone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// `authentication` is that of `ctl`, or of `restapi` where that is missing.
    ///
    /// # Errors
    /// [`Error::Client`].
    pub fn new(authentication: Option<&(String, Secret)>) -> Result<Self, Error> {
        // Fails where a provider is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        if let Some(credentials) = authentication {
            let text = format!("Basic {}", auth::encode(credentials));
            let mut value = HeaderValue::try_from(text).map_err(|error| Error::Client(error.to_string()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("Ptarmigan/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .no_proxy()
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .tls_danger_accept_invalid_certs(true)
            .build()
            .map_err(|error| Error::Client(chain(&error)))?;
        Ok(Self { http })
    }

    /// `GET api_url`, whatever the HTTP status, within 2 s (contract HN-3).
    ///
    /// # Errors
    /// The peer counts as unreachable.
    pub async fn ask(&self, api_url: &str) -> Result<PeerStatus, Error> {
        let url = address(api_url)?;
        let body = tokio::time::timeout(ASK_TIMEOUT, self.fetch(url))
            .await
            .map_err(|_| Error::Timeout(ASK_TIMEOUT))??;
        let document: Value =
            serde_json::from_slice(&body).map_err(|_| Error::Answer("the answer is not JSON"))?;
        PeerStatus::read(&document).ok_or_else(|| match is_without_data(&document) {
            true => Error::NoData,
            false => Error::Answer("the answer shows no WAL position"),
        })
    }

    /// Asks all at once; the answers come in the order of `peers`, after 2 s at the latest.
    pub async fn ask_all(
        &self,
        peers: Vec<(MemberName, String)>,
    ) -> Vec<(MemberName, Result<PeerStatus, Error>)> {
        join_all(peers.into_iter().map(async |(name, url)| (name, self.ask(&url).await))).await
    }

    /// `POST /failsafe` at the host of `api_url` (contract FS-3): its position, where it promises not to lead and tells one.
    ///
    /// # Errors
    /// [`Error::Refused`] where it answers anything but `Accepted` (contract FS-4); it was not reached else.
    pub async fn ask_promise(
        &self,
        api_url: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<Option<Lsn>, Error> {
        let mut url = address(api_url)?;
        url.set_path("/failsafe");
        url.set_query(None);
        let request = self.http.post(url).header(CONTENT_TYPE, "application/json").body(body.to_string());
        tokio::time::timeout(limit, promise(request)).await.map_err(|_| Error::Timeout(limit))?
    }

    /// True where anything answers HTTP at the host of `api_url` within 3 s (contract D.3, step 6).
    pub async fn is_somebody_there(&self, api_url: &str) -> bool {
        let Ok(mut url) = address(api_url) else { return false };
        url.set_path("/liveness");
        url.set_query(None);
        let asking = self.http.get(url).send();
        matches!(tokio::time::timeout(LIVENESS_TIMEOUT, asking).await, Ok(Ok(_)))
    }

    async fn fetch(&self, url: Url) -> Result<Vec<u8>, Error> {
        let failed = |error: reqwest::Error| Error::Connection(chain(&error.without_url()));
        let mut response = self.http.get(url).send().await.map_err(failed)?;
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                // A Patroni ends its answer by closing the connection, over TLS without saying goodbye. What came is
                // either a whole JSON document, or cannot be read as one.
                Err(_) if !body.is_empty() => break,
                Err(error) => return Err(failed(error)),
            }
            if body.len() > BODY_BYTES_MAX {
                return Err(Error::Answer("the answer is too long"));
            }
        }
        Ok(body)
    }
}

async fn promise(request: RequestBuilder) -> Result<Option<Lsn>, Error> {
    let failed = |error: reqwest::Error| Error::Connection(chain(&error.without_url()));
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let lsn = response.headers().get(LSN_HEADER).and_then(|lsn| lsn.to_str().ok()?.parse().ok()).map(Lsn);
    let mut body = Vec::new();
    while body.len() <= REFUSAL_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(_) if !body.is_empty() => break,
            Err(error) => return Err(failed(error)),
        }
    }
    if status == 200 && body == ACCEPTED {
        return Ok(lsn);
    }
    body.truncate(REFUSAL_BYTES_MAX);
    Err(Error::Refused(format!("{status} {}", String::from_utf8_lossy(&body).trim())))
}

/// Member keys are written by others: anything may stand there.
fn address(api_url: &str) -> Result<Url, Error> {
    let url = Url::parse(api_url.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.filter(Url::has_host).ok_or_else(|| Error::Address(api_url.chars().take(200).collect()))
}

/// The innermost cause says what happened (`Connection refused`), the outer ones say only where.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ha_212_only_who_has_nothing_to_run_is_without_data() {
        for (document, without) in [
            (json!({"role": "uninitialized", "state": "stopped"}), true),
            (json!({"role": "uninitialized", "state": "creating replica"}), true),
            (json!({"role": "uninitialized", "state": "starting"}), false),
            (json!({"role": "uninitialized"}), false),
            (json!({"role": "demoted", "state": "stopped"}), false),
            (json!({"role": "replica", "state": "stopped"}), false),
        ] {
            assert_eq!(is_without_data(&document), without, "{document}");
        }
    }

    #[test]
    fn hn_3_no_position_means_unreachable() {
        for document in [json!({"state": "running"}), json!({"xlog": 5}), json!([]), json!(null)] {
            assert_eq!(PeerStatus::read(&document), None, "{document}");
        }
        assert!(PeerStatus::read(&json!({"wal": {}})).is_some());
    }

    #[test]
    fn hn_4_position_counts_in_recovery_only() {
        let standby = PeerStatus::read(&json!({
            "role": "replica", "timeline": 3, "tags": {"failover_priority": 2}, "watchdog_failed": true,
            "xlog": {"received_location": 5, "replayed_location": 7},
        }));
        let standby = standby.unwrap();
        assert!(standby.in_recovery && standby.watchdog_failed && !standby.nofailover);
        assert_eq!((standby.lsn, standby.timeline, standby.failover_priority), (Lsn(7), Some(3), 2));
        for document in [
            json!({"role": "master", "xlog": {"received_location": 5}}),
            json!({"role": "primary", "xlog": {}}),
            json!({"role": "replica", "xlog": {"location": 9}}),
        ] {
            let peer = PeerStatus::read(&document).unwrap();
            assert!(!peer.in_recovery && peer.lsn.is_zero(), "{document}");
        }
    }

    #[test]
    fn garbage_is_no_address() {
        for text in ["", "x", "http://", "ftp://a/", "//a/b", "postgres://a:1/", "http://a:99999/", "\u{0}"] {
            assert!(matches!(address(text), Err(Error::Address(_))), "{text:?}");
        }
        assert!(address("https://[::1]:8008/patroni").is_ok());
    }
}
