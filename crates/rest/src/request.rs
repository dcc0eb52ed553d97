//! What REST asks of the agent, and how it answers.

use ptarmigan_types::{FailsafeRequest, Lsn};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

/// The header of an answer that says that the DCS, and not the request, is at fault; `ptctl` then writes the key
/// itself, as it does where a Patroni closes the connection.
pub const DCS_HEADER: &str = "x-ptarmigan-dcs";

/// A request that the agent carries out. Syntax is checked by REST; everything that needs the DCS, PostgreSQL or a
/// peer is checked by the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Ask PostgreSQL again; answered (200) as soon as the published figures are newer than this request, or
    /// PostgreSQL failed to answer.
    RefreshFigures,
    /// `GET /cluster`: a fresh view; the body is the topology document.
    Cluster,
    /// `GET /why`: the body is a list of [`crate::why::Decided`], oldest first.
    Why,
    /// `PATCH /config`: merge, compare-and-set, wake the loop.
    PatchConfig(Map<String, Value>),
    /// `PUT /config`: replace.
    PutConfig(Map<String, Value>),
    /// `POST /switchover` or `POST /failover`.
    Failover(FailoverRequest),
    /// `DELETE /switchover`.
    CancelSwitchover,
    /// `POST /failsafe`: a leader that lost the DCS asks for this node's promise not to lead.
    Failsafe(FailsafeRequest),
    /// `POST /restart`, immediate or scheduled; answered when done.
    Restart(RestartRequest),
    /// `DELETE /restart`.
    CancelRestart,
    /// `POST /reload`.
    Reload,
    /// `POST /reinitialize`.
    Reinitialize {
        /// Cancel the action in flight first.
        force: bool,
        /// Clone from the leader with `pg_basebackup`.
        from_leader: bool,
    },
}

/// The body of `POST /switchover` and `POST /failover`, checked for form (checks 1 to 7 of surface A.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverRequest {
    /// The path word, `switchover` or `failover`, for messages; a failover that names a leader is a switchover.
    pub action: &'static str,
    /// Must be the lock owner.
    pub leader: Option<String>,
    /// Who shall take over.
    pub candidate: Option<String>,
    /// When; with a zone and in the future.
    pub scheduled_at: Option<jiff::Timestamp>,
    /// The schedule in ISO 8601 with the zone it was written in, stored in the DCS.
    pub scheduled_at_text: Option<String>,
}

/// The body of `POST /restart`, checked for form.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RestartRequest {
    /// When; `None` is now.
    pub schedule: Option<jiff::Timestamp>,
    /// Only if this is the role: `primary`, `standby_leader` or `replica`.
    pub role: Option<String>,
    /// Only if the server's version is lower; the text as given.
    pub postgres_version: Option<String>,
    /// Seconds to wait for the start; `None` is `primary_start_timeout`.
    pub timeout_s: Option<u64>,
    /// Only if a restart is pending.
    pub restart_pending: bool,
    /// The body for the member key, with `schedule` in ISO 8601 and `timeout` in seconds.
    pub body: Map<String, Value>,
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Text or JSON.
    pub body: Body,
    /// The header `lsn`: the position of whoever promised not to lead (contract FS-4).
    pub lsn: Option<Lsn>,
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// `text/html`, as Patroni's plain messages are.
    Text(String),
    /// `application/json`, printed as Python does.
    Json(Value),
}

impl Reply {
    /// A plain message.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self { status, body: Body::Text(text.into()), lsn: None }
    }

    /// The DCS failed while the request was carried out (contract surface A.1, H.4): the server adds
    /// [`DCS_HEADER`] to exactly this answer.
    pub fn dcs_unreachable() -> Self {
        Self::text(503, "DCS is not accessible")
    }

    /// A JSON document.
    pub const fn json(status: u16, value: Value) -> Self {
        Self { status, body: Body::Json(value), lsn: None }
    }
}

/// The channel's items: a request and where its answer goes.
pub type Envelope = (Request, oneshot::Sender<Reply>);

/// REST's end of the channel.
#[derive(Debug, Clone)]
pub struct Requests(pub mpsc::Sender<Envelope>);

impl Requests {
    /// Sends a request whose answer nobody waits for; dropped where the agent has too many.
    pub fn tell(&self, request: Request) {
        let (reply, _) = oneshot::channel();
        // It is only worth a try.
        let _ = self.0.try_send((request, reply));
    }

    /// Sends a request and waits for its answer; `None` where the agent is gone.
    pub async fn ask(&self, request: Request) -> Option<Reply> {
        let (reply, answer) = oneshot::channel();
        self.0.send((request, reply)).await.ok()?;
        answer.await.ok()
    }
}
