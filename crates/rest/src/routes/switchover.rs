//! `POST /switchover`, `POST /failover`, `DELETE /switchover` (contract surface A.7): the checks that need neither
//! the DCS nor a peer. The agent makes the others.

use std::time::Duration;

use hyper::{Request, body::Incoming};
use serde_json::{Map, Value};

use crate::{
    answer::Answer,
    body,
    request::{self, FailoverRequest},
    routes::{Context, schedule},
};

/// `action` is the path word.
pub(super) async fn post(
    context: &Context,
    request: Request<Incoming>,
    action: &'static str,
) -> Result<Answer, Answer> {
    let body = body::required(request).await?;
    let global = context.snapshot.load().global.clone();
    let request = check(&body, action, global.pause)?;
    // The agent polls for 2 * max(10, loop_wait) s; it reports that it does not know before we do.
    let timeout = 2 * global.loop_wait.max(Duration::from_secs(10)) + context.dcs_timeout();
    let late =
        if request.action == "switchover" { "Switchover status unknown" } else { "Failover status unknown" };
    Ok(context.ask(request::Request::Failover(request), timeout, late).await)
}

/// Removes a scheduled switchover.
pub(super) async fn delete(context: &Context) -> Result<Answer, Answer> {
    Ok(context.ask_dcs(request::Request::CancelSwitchover).await)
}

/// Checks 2 to 7, in that order; the first that fails answers.
fn check(
    body: &Map<String, Value>,
    action: &'static str,
    is_paused: bool,
) -> Result<FailoverRequest, Answer> {
    let refuse = |text: String| Err(Answer::text(400, text));
    let leader = body::text(body, "leader")?;
    let candidate = match body::text(body, "candidate")? {
        Some(candidate) => Some(candidate),
        None => body::text(body, "member")?,
    };
    let scheduled_at = body::text(body, "scheduled_at")?;
    match action {
        "failover" if candidate.is_none() => {
            return refuse("Failover could be performed only to a specific candidate".into());
        }
        "switchover" if leader.is_none() => {
            return refuse("Switchover could be performed only from a specific leader".into());
        }
        "failover" if scheduled_at.is_some() => return refuse("Failover can't be scheduled".into()),
        _ => {}
    }
    if scheduled_at.is_some() && is_paused {
        return refuse(format!("Can't schedule {action} in the paused state"));
    }
    let schedule = scheduled_at.map(|text| schedule::read(text, action)).transpose()?;
    if is_paused && candidate.is_none() {
        return refuse("Switchover is possible only to a specific candidate in a paused state".into());
    }
    if action == "failover" && leader.is_some() {
        tracing::warn!(
            "received a failover request with a leader specified, performing a switchover instead"
        );
    }
    if leader.is_some() && leader == candidate {
        return refuse("Switchover target and source are the same".into());
    }
    Ok(FailoverRequest {
        action: if leader.is_some() { "switchover" } else { action },
        leader: leader.map(str::to_owned),
        candidate: candidate.map(str::to_owned),
        scheduled_at: schedule.as_ref().map(|schedule| schedule.at),
        scheduled_at_text: schedule.map(|schedule| schedule.text),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::answer::Content;

    fn run(body: &Value, action: &'static str, is_paused: bool) -> Result<FailoverRequest, (u16, String)> {
        check(body.as_object().unwrap(), action, is_paused).map_err(|answer| match answer.content {
            Content::Text(text) => (answer.status, text),
            other => panic!("{other:?}"),
        })
    }

    const AHEAD: &str = "2199-01-01T10:00:00+00:00";

    fn assert_refused(body: &Value, action: &'static str, is_paused: bool, status: u16, text: &str) {
        assert_eq!(run(body, action, is_paused), Err((status, text.to_owned())), "{action} {body}");
    }

    #[test]
    fn checks_2_and_3_someone_is_named() {
        let text = "Failover could be performed only to a specific candidate";
        assert_refused(&json!({"x": 1}), "failover", false, 400, text);
        let text = "Switchover could be performed only from a specific leader";
        assert_refused(&json!({"leader": ""}), "switchover", false, 400, text);
        let body = json!({"candidate": "b", "scheduled_at": AHEAD});
        assert_refused(&body, "failover", true, 400, "Failover can't be scheduled");
    }

    #[test]
    fn checks_4_and_5_schedules() {
        let body = |at: &str| json!({"leader": "a", "scheduled_at": at});
        let text = "Can't schedule switchover in the paused state";
        assert_refused(&body("x"), "switchover", true, 400, text);
        let text = "Cannot schedule switchover in the past";
        assert_refused(&body("2001-01-01T10:00:00+00:00"), "switchover", false, 422, text);
        let text = "Timezone information is mandatory for the scheduled switchover";
        assert_refused(&body("2199-01-01T10:00:00"), "switchover", false, 400, text);
    }

    #[test]
    fn checks_6_and_7_candidates() {
        let text = "Switchover is possible only to a specific candidate in a paused state";
        assert_refused(&json!({"leader": "a"}), "switchover", true, 400, text);
        let text = "Switchover target and source are the same";
        let body = json!({"leader": "a", "candidate": "a", "scheduled_at": AHEAD});
        assert_refused(&body, "switchover", false, 400, text);
        assert_refused(&json!({"leader": "a", "candidate": "a"}), "failover", false, 400, text);
    }

    #[test]
    fn wrong_types_are_named() {
        let text = "leader: must be a string, not a number";
        assert_refused(&json!({"leader": 1}), "switchover", false, 400, text);
        let text = "scheduled_at: must be a string, not an array";
        assert_refused(&json!({"leader": "a", "scheduled_at": [1]}), "switchover", false, 400, text);
    }

    #[test]
    fn the_candidate_may_be_called_member_and_the_schedule_may_be_empty() {
        let request =
            run(&json!({"leader": "a", "member": "b", "scheduled_at": ""}), "switchover", false).unwrap();
        assert_eq!(request.candidate.as_deref(), Some("b"));
        assert_eq!(request.scheduled_at, None);
    }

    #[test]
    fn a_failover_with_a_leader_is_a_switchover() {
        assert_eq!(
            run(&json!({"leader": "a", "candidate": "b"}), "failover", false).unwrap().action,
            "switchover"
        );
        assert_eq!(run(&json!({"candidate": "b"}), "failover", false).unwrap().action, "failover");
    }
}
