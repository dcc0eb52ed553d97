//! Calls of members' REST APIs (contract C.1, "REST calls").

use std::time::Duration;

use anyhow::{Context as _, Result};
use ptarmigan_config::CtlSettings;
use ptarmigan_rest::request::DCS_HEADER;
use ptarmigan_types::Member;
use reqwest::{Method, Url, header::CONTENT_TYPE, redirect::Policy};
use serde_json::Value;

use crate::tls;

/// Attempts to connect after the first one.
const CONNECT_RETRIES: u32 = 3;

/// For one attempt to connect: a host that is gone answers nothing. The answer itself may take as long as it takes,
/// because a switchover is answered when it is over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection whose host vanished is noticed by these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// There is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Error(pub(crate) String);

/// What a member answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: String,
    /// The member says that it cannot reach the DCS.
    pub(crate) is_dcs_unreachable: bool,
}

/// The HTTP client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    authentication: Option<(String, ptarmigan_config::Secret)>,
}

impl Client {
    /// A client as the `ctl` section has it.
    ///
    /// # Errors
    /// A certificate or key cannot be used.
    pub(crate) fn new(settings: &CtlSettings) -> Result<Self> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(settings)?)
            .user_agent(concat!("Ptarmigan/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .no_proxy()
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE_INTERVAL)
            .build()
            .context("cannot build the HTTP client")?;
        Ok(Self { http, authentication: settings.authentication.clone() })
    }

    /// Sends a request to `member`'s API; `endpoint` is relative to its root.
    ///
    /// # Errors
    /// The member publishes no address, or does not answer.
    pub(crate) async fn call(
        &self,
        member: &Member,
        method: Method,
        endpoint: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Error> {
        let address = member.data.api_url().ok_or_else(|| Error("it publishes no api_url".into()))?;
        let url = Url::parse(address)
            .and_then(|base| base.join(endpoint))
            .map_err(|error| Error(format!("{address}: {error}")))?;
        let mut attempt = 0;
        loop {
            match self.send(method.clone(), url.clone(), body).await {
                Err(error) if error.is_connect() && attempt < CONNECT_RETRIES => {
                    attempt += 1;
                    tracing::info!("attempt {attempt} on {url}: {}", chain(&error));
                }
                Err(error) => return Err(Error(format!("{url}: {}", chain(&error)))),
                Ok(answer) => return Ok(answer),
            }
        }
    }

    async fn send(&self, method: Method, url: Url, body: Option<&Value>) -> reqwest::Result<Answer> {
        let mut request = self.http.request(method, url);
        if let Some((username, password)) = &self.authentication {
            request = request.basic_auth(username, Some(password.expose()));
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let response = request.send().await?;
        let is_dcs_unreachable =
            response.headers().get(DCS_HEADER).is_some_and(|value| value.as_bytes() == b"unreachable");
        Ok(Answer { status: response.status().as_u16(), is_dcs_unreachable, body: response.text().await? })
    }
}

/// An error and its causes on one line; the innermost usually says what happened.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text = if text.is_empty() { part } else { format!("{text}: {part}") };
        }
        next = error.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}
