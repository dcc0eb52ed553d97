//! Reading request bodies (contract surface A.7): a JSON object, complete, of bounded size, in bounded time.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http_body_util::{BodyExt, Limited};
use hyper::{Request, body::Incoming};
use serde_json::{Map, Value};

use crate::answer::Answer;

/// The largest body.
const SIZE_BYTES_MAX: usize = 1024 * 1024;

/// How long a client may take to send its body.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of an endpoint that needs one.
pub(crate) async fn required(request: Request<Incoming>) -> Result<Map<String, Value>, Answer> {
    let length = length(&request)?.ok_or_else(length_required)?;
    let map = if length == 0 { Map::new() } else { read(request).await? };
    if map.is_empty() {
        Err(Answer::page(400, "a JSON object that is not empty is required"))
    } else {
        Ok(map)
    }
}

/// The body of an endpoint that can do without; absent is `{}`.
pub(crate) async fn optional(request: Request<Incoming>) -> Result<Map<String, Value>, Answer> {
    match length(&request)? {
        None | Some(0) => Ok(Map::new()),
        Some(_) => read(request).await,
    }
}

/// The declared length. A chunked body is refused and not ignored: a restart whose filters were not read would be
/// one without filters.
fn length(request: &Request<Incoming>) -> Result<Option<usize>, Answer> {
    let Some(text) = request.headers().get(CONTENT_LENGTH) else {
        let is_chunked = request.headers().contains_key(TRANSFER_ENCODING);
        return if is_chunked { Err(length_required()) } else { Ok(None) };
    };
    let length = text.to_str().ok().and_then(|text| text.trim().parse().ok());
    match length {
        Some(length) if length <= SIZE_BYTES_MAX => Ok(Some(length)),
        Some(_) => Err(Answer::page(413, format!("the body is larger than {SIZE_BYTES_MAX} bytes"))),
        None => Err(Answer::page(400, "the Content-Length is not a number")),
    }
}

fn length_required() -> Answer {
    Answer::page(411, "a Content-Length is required")
}

async fn read(request: Request<Incoming>) -> Result<Map<String, Value>, Answer> {
    let collecting = Limited::new(request.into_body(), SIZE_BYTES_MAX).collect();
    let body = match tokio::time::timeout(READ_TIMEOUT, collecting).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Err(Answer::page(400, format!("the body cannot be read: {error}"))),
        Err(_) => return Err(Answer::page(408, "the body did not arrive in time")),
    };
    match serde_json::from_slice(&body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Answer::page(400, "the body is JSON, but not an object")),
        Err(error) => Err(Answer::page(400, format!("the body is not JSON: {error}"))),
    }
}

/// A field's text; `None` where it is absent, null or empty.
///
/// # Errors
/// 400 that names the field, where it holds anything else.
pub(crate) fn text<'a>(body: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, Answer> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(other) => Err(wrong_type(key, "a string", other)),
    }
}

/// 400: `key: must be a string, not a number`.
pub(crate) fn wrong_type(key: &str, wanted: &str, got: &Value) -> Answer {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Answer::text(400, format!("{key}: must be {wanted}, not {got}"))
}
