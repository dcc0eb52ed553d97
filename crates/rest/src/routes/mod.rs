//! Which endpoint answers (contract surface A.1): by method and first path segment.
//!
//! The web page, `POST /mpp` and `/citus` have no handler of their own:
//! the former is a health path without a verdict (503), the latter are unsupported operations (501).

mod cluster;
mod config;
mod failsafe;
mod health;
mod history;
mod liveness;
mod metrics;
mod patroni;
mod readiness;
mod reinitialize;
mod reload;
mod restart;
mod schedule;
mod sigterm;
mod switchover;
mod why;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hyper::{Method, Request, body::Incoming};
use ptarmigan_config::RestSettings;
use ptarmigan_types::Monotonic;
use tokio::sync::Mutex;

use crate::{
    answer::Answer,
    auth,
    query::Query,
    reported::Reported,
    request::{self, Requests},
    snapshot::Snapshot,
};

/// What an endpoint may use.
pub(crate) struct Context {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) requests: Requests,
    pub(crate) settings: ArcSwap<RestSettings>,
    /// The process is going away (contract SD-9): no verdict is good any more, and nothing is started.
    pub(crate) stopping: Arc<AtomicBool>,
    /// Held by the one request that asks the agent to refresh its figures.
    pub(crate) refreshing: Mutex<()>,
    /// When a health check last had the figures refreshed, in microseconds of [`ptarmigan_types::Monotonic`].
    pub(crate) refreshed_at: AtomicU64,
}

/// Figures that are older than this are asked anew for the health checks to come.
const FIGURES_AGE_MAX: Duration = Duration::from_secs(1);

impl Context {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Has the figures asked anew where they are older than a second, for whoever checks next: a check waits for nobody, and
    /// however many there are, PostgreSQL is asked once a second.
    fn refresh_in_background(&self, reported: &Reported<'_>) {
        let snapshot = reported.snapshot;
        let asked = snapshot.postmaster_alive && Reported::asks_postgres(snapshot.state);
        let fresh =
            snapshot.figures.as_ref().is_some_and(|figures| reported.now.since(figures.at) < FIGURES_AGE_MAX);
        if !asked || fresh || self.is_stopping() {
            return;
        }
        let before = self.refreshed_at.load(Ordering::Acquire);
        if reported.now.since(Monotonic(before)) < FIGURES_AGE_MAX {
            return;
        }
        if self
            .refreshed_at
            .compare_exchange(before, reported.now.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            self.requests.tell(request::Request::RefreshFigures);
        }
    }

    /// Hands a request to the agent; waits no longer than `timeout`, and says `late` then.
    async fn ask(&self, request: request::Request, timeout: Duration, late: &str) -> Answer {
        match tokio::time::timeout(timeout, self.requests.ask(request)).await {
            Ok(Some(reply)) => reply.into(),
            Ok(None) => Answer::text(503, "The HA loop is not running"),
            Err(_) => Answer::text(503, late),
        }
    }

    /// How long an answer may take that needs the DCS a few times.
    fn dcs_timeout(&self) -> Duration {
        self.snapshot.load().global.retry_timeout * 2 + Duration::from_secs(5)
    }

    /// [`Self::ask`] for what needs nothing but the DCS.
    async fn ask_dcs(&self, request: request::Request) -> Answer {
        self.ask(request, self.dcs_timeout(), "The HA loop did not answer in time").await
    }
}

/// Answers one request.
pub(crate) async fn dispatch(context: &Context, request: Request<Incoming>) -> Answer {
    let uri = request.uri().clone();
    let path = uri.path();
    let segment = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let query = Query::parse(uri.query().unwrap_or_default());
    match (request.method(), segment) {
        (&Method::GET, "patroni") => patroni::get(context).await,
        (&Method::GET, "liveness") => liveness::get(context),
        (&Method::GET, "readiness") => readiness::get(context, &query),
        (&Method::GET, "cluster") => cluster::get(context).await,
        (&Method::GET, "history") => history::get(context),
        (&Method::GET, "config") => config::get(context),
        (&Method::GET, "failsafe") => failsafe::get(context),
        (&Method::GET, "metrics") => metrics::get(context),
        (&Method::GET, "why") => why::get(context).await,
        (&Method::GET, _) => health::get(context, path, &query),
        (&Method::HEAD | &Method::OPTIONS, _) => health::head(context, path, &query),
        _ => match Unsafe::find(request.method(), segment) {
            Some(endpoint) => change(context, endpoint, request).await,
            None => Answer::unsupported(),
        },
    }
}

/// An endpoint that changes something.
#[derive(Clone, Copy)]
enum Unsafe {
    PatchConfig,
    PutConfig,
    Switchover,
    Failover,
    CancelSwitchover,
    Restart,
    CancelRestart,
    Reload,
    Reinitialize,
    Failsafe,
    Sigterm,
}

impl Unsafe {
    fn find(method: &Method, segment: &str) -> Option<Self> {
        Some(match (method.as_str(), segment) {
            ("PATCH", "config") => Self::PatchConfig,
            ("PUT", "config") => Self::PutConfig,
            ("POST", "switchover") => Self::Switchover,
            ("POST", "failover") => Self::Failover,
            ("DELETE", "switchover") => Self::CancelSwitchover,
            ("POST", "restart") => Self::Restart,
            ("DELETE", "restart") => Self::CancelRestart,
            ("POST", "reload") => Self::Reload,
            ("POST", "reinitialize") => Self::Reinitialize,
            ("POST", "failsafe") => Self::Failsafe,
            ("POST", "sigterm") => Self::Sigterm,
            _ => return None,
        })
    }
}

/// The access check comes before the body is looked at.
async fn change(context: &Context, endpoint: Unsafe, request: Request<Incoming>) -> Answer {
    let settings = context.settings.load();
    let access = match endpoint {
        Unsafe::Failsafe => auth::check_members(&settings, request.headers()),
        _ => auth::check(&settings, request.headers()),
    };
    if let Err(refusal) = access {
        return refusal;
    }
    if context.is_stopping() {
        return Answer::text(503, "The daemon is shutting down");
    }
    let answer = match endpoint {
        Unsafe::PatchConfig => config::patch(context, request).await,
        Unsafe::PutConfig => config::put(context, request).await,
        Unsafe::Switchover => switchover::post(context, request, "switchover").await,
        Unsafe::Failover => switchover::post(context, request, "failover").await,
        Unsafe::CancelSwitchover => switchover::delete(context).await,
        Unsafe::Restart => restart::post(context, request).await,
        Unsafe::CancelRestart => restart::delete(context).await,
        Unsafe::Reload => reload::post(context).await,
        Unsafe::Reinitialize => reinitialize::post(context, request).await,
        Unsafe::Failsafe => failsafe::post(context, request).await,
        Unsafe::Sigterm => Ok(sigterm::post()),
    };
    answer.unwrap_or_else(|refusal| refusal)
}
