//! `POST /reinitialize` (contract surface A.7): the data directory is cloned again.

use std::time::Duration;

use hyper::{Request, body::Incoming};
use ptarmigan_types::scalar::parse_bool;
use serde_json::{Map, Value};

use crate::{answer::Answer, body, request, routes::Context};

/// `force` waits for the action that it cancels.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(3600);

/// Unlike Patroni, nothing happens where the body cannot be read.
pub(super) async fn post(context: &Context, request: Request<Incoming>) -> Result<Answer, Answer> {
    let body = body::optional(request).await?;
    let force = flag(&body, "force")?;
    let from_leader = flag(&body, "from_leader")?;
    let request = request::Request::Reinitialize { force, from_leader };
    Ok(context.ask(request, CANCEL_TIMEOUT, "reinitialize status unknown").await)
}

/// Absent and null are false.
fn flag(body: &Map<String, Value>, key: &str) -> Result<bool, Answer> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => parse_bool(value).ok_or_else(|| match value {
            Value::String(text) => Answer::text(400, format!("{key}: must be a boolean, not {text:?}")),
            other => body::wrong_type(key, "a boolean", other),
        }),
    }
}
