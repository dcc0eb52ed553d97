//! `POST /restart`, `DELETE /restart` (contract surface A.7): filters are checked in the order of the body.

use std::time::Duration;

use hyper::{Request, body::Incoming};
use ptarmigan_types::{
    scalar::{parse_int, python_str},
    version::parse_server_version,
};
use serde_json::{Map, Value};

use crate::{
    answer::Answer,
    body,
    request::{self, RestartRequest},
    routes::{Context, schedule},
};

/// What a stop may take on top of the start, whose limit the request gives.
const STOP_TIMEOUT: Duration = Duration::from_secs(3600);

/// Restarts now, or stores the request.
pub(super) async fn post(context: &Context, request: Request<Incoming>) -> Result<Answer, Answer> {
    let body = body::optional(request).await?;
    let global = context.snapshot.load().global.clone();
    let request = check(body, global.pause)?;
    let start_timeout = request.timeout_s.map_or(global.primary_start_timeout, Duration::from_secs);
    let timeout = start_timeout.saturating_add(STOP_TIMEOUT);
    Ok(context.ask(request::Request::Restart(request), timeout, "restart status unknown").await)
}

/// Forgets a scheduled restart.
pub(super) async fn delete(context: &Context) -> Result<Answer, Answer> {
    Ok(context.ask_dcs(request::Request::CancelRestart).await)
}

fn check(mut body: Map<String, Value>, is_paused: bool) -> Result<RestartRequest, Answer> {
    if is_paused && body.contains_key("schedule") {
        return Err(Answer::text(500, "Can't schedule restart in the paused state"));
    }
    let mut request = RestartRequest::default();
    for (key, value) in &mut body {
        match key.as_str() {
            "schedule" => {
                let text = value.as_str().ok_or_else(|| body::wrong_type(key, "a string", value))?;
                let schedule = schedule::read(text, "restart")?;
                request.schedule = Some(schedule.at);
                *value = schedule.text.into();
            }
            "role" => request.role = Some(role(value)?),
            "postgres_version" => request.postgres_version = Some(postgres_version(value)?),
            "timeout" => {
                let seconds = timeout_s(value)?;
                request.timeout_s = Some(seconds);
                *value = seconds.into();
            }
            "restart_pending" => request.restart_pending = true,
            other => {
                return Err(Answer::text(400, format!("Unknown filter for the scheduled restart: {other}")));
            }
        }
    }
    request.body = body;
    Ok(request)
}

fn role(value: &Value) -> Result<String, Answer> {
    match value.as_str() {
        Some(role @ ("primary" | "standby_leader" | "replica")) => Ok(role.to_owned()),
        _ => Err(Answer::text(400, "PostgreSQL role should be either primary, standby_leader, or replica")),
    }
}

/// The text is kept as it was given; a JSON number such as `15.3` counts as its text.
fn postgres_version(value: &Value) -> Result<String, Answer> {
    let text = python_str(value);
    if matches!(value, Value::String(_) | Value::Number(_)) && parse_server_version(&text).is_some() {
        return Ok(text);
    }
    Err(Answer::text(400, format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}")))
}

fn timeout_s(value: &Value) -> Result<u64, Answer> {
    parse_int(value, Some("s"))
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| Answer::text(400, "Timeout should be a positive number of seconds"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(body: Value, is_paused: bool) -> Result<RestartRequest, Answer> {
        let Value::Object(body) = body else { panic!("{body}") };
        check(body, is_paused)
    }

    #[test]
    fn filters_are_read() {
        let body = json!({
            "schedule": "2199-01-01 10:00+01", "role": "replica", "postgres_version": "15.3", "timeout": "2min",
            "restart_pending": false,
        });
        let request = run(body, false).unwrap();
        assert_eq!(request.schedule, Some("2199-01-01T09:00:00Z".parse().unwrap()));
        assert_eq!(request.role.as_deref(), Some("replica"));
        assert_eq!(request.postgres_version.as_deref(), Some("15.3"));
        assert_eq!(request.timeout_s, Some(120));
        assert!(request.restart_pending, "presence counts, the value does not");
        assert_eq!(request.body["schedule"], "2199-01-01T10:00:00+01:00");
        assert_eq!(request.body["timeout"], 120);
        assert_eq!(run(json!({}), true).unwrap(), RestartRequest::default());
    }

    #[test]
    fn the_first_bad_filter_answers() {
        let cases = [
            (json!({"foo": 1, "schedule": "2199-01-01T00:00+00"}), true, 500),
            (json!({"schedule": "2199-01-01T00:00"}), false, 400),
            (json!({"schedule": "soon", "foo": 1}), false, 422),
            (json!({"schedule": "2001-01-01T00:00+00"}), false, 422),
            (json!({"schedule": 5}), false, 400),
            (json!({"foo": 1, "schedule": "soon"}), false, 400),
            (json!({"role": "master"}), false, 400),
            (json!({"role": null}), false, 400),
            (json!({"postgres_version": "14"}), false, 400),
            (json!({"postgres_version": "9.5"}), false, 400),
            (json!({"postgres_version": true}), false, 400),
            (json!({"timeout": 0}), false, 400),
            (json!({"timeout": "-5"}), false, 400),
            (json!({"timeout": {}}), false, 400),
        ];
        for (body, is_paused, status) in cases {
            assert_eq!(run(body.clone(), is_paused).unwrap_err().status, status, "{body}");
        }
    }
}
