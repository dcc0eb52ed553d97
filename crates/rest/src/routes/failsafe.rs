//! `GET /failsafe` shows the key as it was read last; `POST /failsafe` is how a leader that lost the DCS asks for this node's
//! promise not to lead (contract FS-3 to FS-9, surface A.7).

use std::{collections::BTreeMap, time::Duration};

use hyper::{Request, body::Incoming};
use ptarmigan_types::FailsafeRequest;
use ptarmigan_types::Lsn;
use serde_json::{Map, Value, json};

use crate::{answer::Answer, body, request, routes::Context};

/// The asking leader does not wait longer for one answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The key holds no object: as where the mode was never on.
const NONE: &str = "there is no /failsafe in the DCS";

pub(super) fn get(context: &Context) -> Answer {
    match &context.snapshot.load().failsafe {
        Some(members) => Answer::json(200, json!(members)),
        None => Answer::page(502, NONE),
    }
}

/// The body is read whole before anything is promised: one that cannot be understood leaves no trace.
pub(super) async fn post(context: &Context, request: Request<Incoming>) -> Result<Answer, Answer> {
    if !context.snapshot.load().global.failsafe_mode {
        return Err(Answer::page(502, "failsafe_mode is not enabled on this node"));
    }
    let body = body::required(request).await?;
    let asked = request::Request::Failsafe(read(&body)?);
    Ok(context.ask(asked, TIMEOUT, "The HA loop did not answer in time").await)
}

fn read(body: &Map<String, Value>) -> Result<FailsafeRequest, Answer> {
    let text = |key: &str| {
        body::text(body, key)?
            .map(str::to_owned)
            .ok_or_else(|| Answer::page(400, format!("{key}: is required")))
    };
    let number = |key: &str| match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| body::wrong_type(key, "a whole number", value)),
    };
    Ok(FailsafeRequest {
        name: text("name")?.as_str().into(),
        conn_url: text("conn_url")?,
        api_url: text("api_url")?,
        slots: slots(body)?,
        ttl: number("ttl")?.map(Duration::from_secs),
        lock: number("lock")?,
        guarded: body.get("guardian").and_then(Value::as_str) == Some("armed"),
    })
}

/// Slots only advance others: what is no position is left out.
fn slots(body: &Map<String, Value>) -> Result<Option<BTreeMap<String, Lsn>>, Answer> {
    match body.get("slots") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(slots)) => {
            let known = slots.iter().filter_map(|(name, lsn)| Some((name.clone(), Lsn(lsn.as_u64()?))));
            Ok(Some(known.collect()))
        }
        Some(other) => Err(body::wrong_type("slots", "an object", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Content;

    fn run(body: &Value) -> Result<FailsafeRequest, String> {
        read(body.as_object().unwrap()).map_err(|answer| match answer.content {
            Content::Text(text) | Content::Page(text) => format!("{} {text}", answer.status),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn fs_3_what_a_patroni_sends_and_what_ours_add() {
        let body = json!({"name": "a", "conn_url": "postgres://a/", "api_url": "http://a/patroni"});
        let plain = run(&body).unwrap();
        assert_eq!((plain.name.as_str(), plain.slots, plain.ttl, plain.lock), ("a", None, None, None));
        assert!(!plain.guarded);
        let mut body = body;
        body["slots"] = json!({"b": 7, "ls": 9, "odd": "x"});
        body["ttl"] = json!(30);
        body["lock"] = json!(17);
        body["guardian"] = json!("armed");
        let ours = run(&body).unwrap();
        assert_eq!(ours.slots, Some(BTreeMap::from([("b".into(), Lsn(7)), ("ls".into(), Lsn(9))])));
        assert_eq!((ours.ttl, ours.lock), (Some(Duration::from_secs(30)), Some(17)));
        assert!(ours.guarded);
    }

    #[test]
    fn what_cannot_be_understood_is_refused_by_name() {
        let with = |key: &str, value: Value| {
            let mut body = json!({"name": "a", "conn_url": "c", "api_url": "u"});
            body[key] = value;
            run(&body).unwrap_err()
        };
        assert_eq!(with("name", json!(null)), "400 name: is required");
        assert_eq!(with("conn_url", json!("")), "400 conn_url: is required");
        assert_eq!(with("api_url", json!(5)), "400 api_url: must be a string, not a number");
        assert_eq!(with("slots", json!([])), "400 slots: must be an object, not an array");
        assert_eq!(with("ttl", json!("x")), "400 ttl: must be a whole number, not a string");
    }
}
