//! Requests to the agent: each attempt with a share of the time, repeated where the contract says so (A.6, "read timeout").

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ptarmigan_dcs::{Error, Timing};
use ptarmigan_tls::files;
use ptarmigan_types::Monotonic;
use reqwest::{Client, Method, Url, redirect::Policy as Redirects};
use serde_json::Value;

use crate::settings::ConsulSettings;

/// The first pause between two attempts; each next one is twice as long, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Up to so much is added to a pause, in milliseconds.
const JITTER_MAX_MILLIS: u64 = 800;

/// So many attempts share the time of an operation (contract A.6).
const ATTEMPTS: u32 = 3;

/// Idle connections that are kept: one for the loop, one for the watch.
const IDLE_MAX: usize = 2;

/// So much of an error's text is told on.
const TEXT_CHARS_MAX: usize = 300;

/// A request, which may be sent several times.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Segments below `/v1/`, unencoded.
    pub(crate) path: Vec<String>,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) body: Option<Value>,
}

impl Request {
    pub(crate) fn new(method: Method, path: &[&str]) -> Self {
        let path = path.iter().map(|&part| part.to_owned()).collect();
        Self { method, path, query: Vec::new(), body: None }
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// What Consul answered, if that is an answer and no server's failure.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `X-Consul-Index`; 0 where missing.
    pub(crate) index: u64,
    /// Some server leads, as far as the one that answered knows.
    pub(crate) has_leader: bool,
    pub(crate) body: String,
    /// An attempt before this one may have been carried out without an answer.
    pub(crate) repeated: bool,
    /// When the attempt that was answered was sent.
    pub(crate) sent_at: Monotonic,
}

impl Answer {
    /// The body as JSON. What cannot be read is no answer of Consul's: a proxy's, or half of one.
    pub(crate) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.body)
            .map_err(|error| Failure::Unanswered(format!("the answer cannot be read: {error}")))
    }

    /// Asking again brings no other answer.
    fn is_final(&self) -> bool {
        self.status != 429 && (self.status < 500 || is_definite(&self.body))
    }

    /// Nothing was applied: too many requests, or nobody leads.
    fn is_without_effect(&self) -> bool {
        self.status == 429 || self.body.contains("No cluster leader")
    }

    /// Consul says that there is no such key. Whoever else answers 404, a proxy or another server, has no index.
    pub(crate) fn is_no_key(&self) -> bool {
        self.status == 404 && self.index > 0
    }

    /// As an error where it is not a success.
    pub(crate) fn success(self) -> Result<Self, Failure> {
        match self.status {
            200..=299 => Ok(self),
            401 | 403 => Err(Failure::Denied(self.text())),
            // Of somebody who is not Consul.
            404 => Err(Failure::Unanswered(self.text())),
            _ => Err(Failure::Api(self.text())),
        }
    }

    /// What an error says.
    pub(crate) fn text(&self) -> String {
        let text: String = self.body.trim().chars().take(TEXT_CHARS_MAX).collect();
        if text.is_empty() {
            format!("HTTP {}", self.status)
        } else {
            format!("{text} (HTTP {})", self.status)
        }
    }
}

/// Why there is no answer, or none that helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Consul answered with a definite error.
    Api(String),
    /// The token does not allow it.
    Denied(String),
    /// The session is none any more.
    InvalidSession(String),
    /// Nothing was sent, or the answer says that nothing was applied.
    Unsent(String),
    /// Something was sent and not answered.
    Unanswered(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Api(text) | Failure::Denied(text) => Self::Refused(text),
            // The next cycle has another one (contract A.6, "lock renew outcomes").
            Failure::InvalidSession(text) | Failure::Unsent(text) => Self::Unreachable(text),
            Failure::Unanswered(text) => Self::Indeterminate(text),
        }
    }
}

/// How often an operation is tried (contract A.5, "which calls retry").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    UntilDeadline,
    Once,
}

/// When an operation is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Monotonic);

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self(ptarmigan_clock::now() + limit)
    }

    /// This one, or one that comes earlier.
    pub(crate) fn at_most(self, limit: Duration) -> Self {
        Self(self.0.min(ptarmigan_clock::now() + limit))
    }

    pub(crate) fn remaining(self) -> Duration {
        self.0.since(ptarmigan_clock::now())
    }
}

/// When the files of TLS were last written.
type Stamps = Vec<Option<SystemTime>>;

/// The agent.
pub(crate) struct Http {
    settings: Mutex<Arc<ConsulSettings>>,
    timing: Mutex<Timing>,
    /// Made anew where a file of TLS was replaced.
    client: Mutex<Option<(Stamps, Client)>>,
}

impl Http {
    pub(crate) fn new(settings: ConsulSettings, timing: Timing) -> Result<Self, String> {
        // Fails where a provider is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Self {
            settings: Mutex::new(Arc::new(settings)),
            timing: Mutex::new(timing),
            client: Mutex::default(),
        };
        http.client()?;
        Ok(http)
    }

    pub(crate) fn settings(&self) -> Arc<ConsulSettings> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes other settings over, unless their certificates cannot be used.
    pub(crate) fn set_settings(&self, settings: ConsulSettings) -> Result<(), String> {
        if *self.settings() == settings {
            return Ok(());
        }
        let client = (stamps(&settings), build(&settings)?);
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        Ok(())
    }

    pub(crate) fn timing(&self) -> Timing {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_timing(&self, timing: Timing) -> Timing {
        std::mem::replace(&mut *self.timing.lock().unwrap_or_else(PoisonError::into_inner), timing)
    }

    /// The budget of one operation.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.timing().retry_timeout)
    }

    /// Sends a request until Consul answers it or there is no time left. Errors of servers (5xx) are repeated, but for the ones
    /// that Consul gives for a request that is wrong.
    pub(crate) async fn call(
        &self,
        deadline: Deadline,
        policy: Policy,
        request: &Request,
    ) -> Result<Answer, Failure> {
        let mut pause = PAUSE_MIN;
        let mut repeated = false;
        loop {
            let limit = (self.timing().retry_timeout / ATTEMPTS).min(deadline.remaining());
            if limit.is_zero() {
                let text = "no time left".to_owned();
                return Err(if repeated { Failure::Unanswered(text) } else { Failure::Unsent(text) });
            }
            let text = match self.attempt(limit, request).await {
                Ok(answer) if answer.is_final() => return Ok(Answer { repeated, ..answer }),
                Ok(answer) => {
                    repeated |= !answer.is_without_effect();
                    answer.text()
                }
                Err(Failure::Unanswered(text)) => {
                    repeated = true;
                    text
                }
                Err(Failure::Unsent(text)) => text,
                Err(failure) => return Err(failure),
            };
            tracing::debug!(error = %text, "Consul did not answer");
            let jitter = Duration::from_millis(fastrand::u64(0..=JITTER_MAX_MILLIS));
            if policy == Policy::Once || pause + jitter >= deadline.remaining() {
                return Err(if repeated { Failure::Unanswered(text) } else { Failure::Unsent(text) });
            }
            tokio::time::sleep(pause + jitter).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One attempt, whatever the answer's status.
    pub(crate) async fn attempt(&self, limit: Duration, request: &Request) -> Result<Answer, Failure> {
        let client = self.client().map_err(Failure::Unsent)?;
        let settings = self.settings();
        let mut sent =
            client.request(request.method.clone(), url(&settings.base, request, settings.dc.as_deref()));
        if let Some(token) = &settings.token {
            sent = sent.header("X-Consul-Token", token);
        }
        if let Some(body) = &request.body {
            sent = sent.body(body.to_string());
        }
        let sent_at = ptarmigan_clock::now();
        let received = async {
            let response = sent.send().await?;
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            let index = header("X-Consul-Index").and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let has_leader = header("X-Consul-KnownLeader") != Some("false");
            let status = response.status().as_u16();
            let body = response.text().await?;
            Ok::<_, reqwest::Error>(Answer { status, index, has_leader, body, repeated: false, sent_at })
        };
        match tokio::time::timeout(limit, received).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let was_sent = !error.is_connect() && !error.is_builder();
                let text = chain(&error.without_url());
                Err(if was_sent { Failure::Unanswered(text) } else { Failure::Unsent(text) })
            }
            Err(_) => Err(Failure::Unanswered("no answer in time".into())),
        }
    }

    /// The client, made anew where certificates were replaced. What cannot be read now does not take a client away that works.
    fn client(&self) -> Result<Client, String> {
        let settings = self.settings();
        let stamps = stamps(&settings);
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *kept {
            Some((before, client)) if *before == stamps => Ok(client.clone()),
            Some((before, client)) => match build(&settings) {
                Ok(new) => {
                    tracing::info!("the certificates for Consul were replaced");
                    *client = new;
                    *before = stamps;
                    Ok(client.clone())
                }
                Err(error) => {
                    tracing::warn!(
                        "the certificates for Consul were replaced and cannot be used yet: {error}"
                    );
                    Ok(client.clone())
                }
            },
            None => {
                let client = build(&settings)?;
                *kept = Some((stamps, client.clone()));
                Ok(client)
            }
        }
    }
}

fn stamps(settings: &ConsulSettings) -> Stamps {
    let written = |path: &Path| std::fs::metadata(path).and_then(|facts| facts.modified()).ok();
    [&settings.cacert, &settings.cert, &settings.key]
        .iter()
        .filter_map(|path| path.as_deref())
        .map(written)
        .collect()
}

fn build(settings: &ConsulSettings) -> Result<Client, String> {
    let is_tls = settings.base.scheme() == "https";
    let files = files::Client {
        section: "consul",
        cacert: settings.cacert.as_deref(),
        cert: settings.cert.as_deref().filter(|_| is_tls),
        key: settings.key.as_deref(),
        verify: settings.verify && is_tls,
    };
    let tls = files.config()?;
    Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("Ptarmigan/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .no_proxy()
        .redirect(Redirects::none())
        .pool_max_idle_per_host(IDLE_MAX)
        .build()
        .map_err(|error| chain(&error))
}

fn url(base: &Url, request: &Request, dc: Option<&str>) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.clear().push("v1").extend(&request.path);
    }
    {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in &request.query {
            if value.is_empty() {
                pairs.append_key_only(name)
            } else {
                pairs.append_pair(name, value)
            };
        }
        if let Some(dc) = dc {
            pairs.append_pair("dc", dc);
        }
    }
    url
}

/// Errors with status 500 that say something of the request, not of the servers (contract A.6, "HTTP 500 mapping").
fn is_definite(body: &str) -> bool {
    let known =
        ["Invalid Session TTL", "invalid session", "Permission denied", "ACL not found", "Unknown service"];
    known.iter().any(|known| body.contains(known))
}

/// An error and its causes on one line; the innermost usually says what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next: Option<&dyn std::error::Error> = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        next = error.source();
    }
    text
}
