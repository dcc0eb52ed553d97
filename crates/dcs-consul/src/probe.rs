//! Is there a Consul that we can use (contract A.6, "start")?

use ptarmigan_dcs::Error;
use reqwest::Method;
use serde_json::Value;

use crate::{
    http::{Failure, Policy, Request},
    store::Store,
};

/// Asks for a session; warns of an agent that takes sessions with it when it ends.
pub(crate) async fn probe(store: &Store) -> Result<(), Error> {
    let deadline = store.http.deadline();
    match store.refresh_session(deadline, true).await {
        Ok(_) => {}
        Err(Failure::Unanswered(text)) => return Err(Error::Unreachable(text)),
        Err(failure) => return Err(failure.into()),
    }
    let request = Request::new(Method::GET, &["agent", "self"]);
    let answer = store.http.call(deadline, Policy::UntilDeadline, &request).await;
    // Whom the token does not allow to look, is not warned.
    if let Ok(agent) = answer.and_then(|answer| answer.success()?.json()) {
        for warning in warnings(&agent) {
            tracing::warn!("{warning}");
        }
    }
    let checks = &store.http.settings().checks;
    if !checks.is_empty() {
        tracing::warn!(
            "consul.checks names {}: where one of them fails, the session and the leader lock end at once, long before their TTL",
            checks.join(", ")
        );
    }
    Ok(())
}

/// What of the agent's configuration endangers sessions.
fn warnings(agent: &Value) -> Vec<String> {
    let debug = &agent["DebugConfig"];
    let leaves = debug["LeaveOnTerm"].as_bool().unwrap_or(false);
    let mut warnings = Vec::new();
    if leaves {
        warnings.push(
            "the Consul agent has leave_on_terminate: when it is stopped, it leaves its cluster and takes the session and the \
             leader lock with it; set leave_on_terminate = false in its configuration"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_agent_that_leaves_when_it_is_stopped_is_warned_of() {
        assert_eq!(warnings(&json!({"DebugConfig": {"LeaveOnTerm": true}})).len(), 1);
        for agent in [json!({"DebugConfig": {"LeaveOnTerm": false}}), json!({})] {
            assert_eq!(warnings(&agent), Vec::<String>::new());
        }
    }
}
