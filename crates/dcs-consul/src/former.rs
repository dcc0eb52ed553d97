//! Whether the session of the last leader ended before its time.
//!
//! A session without checks that nobody destroys lives for its TTL at least after its last renewal, and its holder counts on that.
//! Consul ends it earlier where a check of it fails, or where the agent that it belongs to leaves the catalog: its holder may then go
//! on leading for up to one TTL without knowing. Nobody may take the lock before that.

use std::{sync::PoisonError, time::Duration};

use ptarmigan_types::{Monotonic, RawValue};
use reqwest::Method;
use serde_json::Value;

use crate::{
    http::{Deadline, Failure, Policy, Request},
    session::seconds,
    store::Store,
};

/// What was known of the last leader's session while it lived.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Former {
    session: String,
    /// `None`: it could not be asked yet.
    facts: Option<Facts>,
    /// When the key was first found gone.
    gone_at: Option<Monotonic>,
}

#[derive(Debug, Clone, PartialEq)]
struct Facts {
    /// The agent's node.
    node: String,
    ttl: Duration,
    has_checks: bool,
}

impl Store {
    /// Notes what a view shows of the leader key, and asks once who holds it.
    pub(crate) async fn note_leader(&self, deadline: Deadline, leader: Option<&RawValue>, at: Monotonic) {
        let asks = {
            let mut kept = self.former.lock().unwrap_or_else(PoisonError::into_inner);
            match leader.and_then(|leader| leader.lease.as_ref()) {
                None => {
                    if let Some(former) = &mut *kept {
                        former.gone_at.get_or_insert(at);
                    }
                    None
                }
                Some(session) => {
                    if kept.as_ref().is_none_or(|former| former.session != session.0) {
                        *kept = Some(Former { session: session.0.clone(), ..Former::default() });
                    }
                    let former = kept.as_mut();
                    former.and_then(|former| {
                        former.gone_at = None;
                        former.facts.is_none().then(|| former.session.clone())
                    })
                }
            }
        };
        let Some(session) = asks else { return };
        // Where it cannot be asked now, it is asked with the next view.
        let Ok(Some(facts)) = self.session_facts(deadline, &session).await else { return };
        let mut kept = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = kept.as_mut().filter(|former| former.session == session) {
            former.facts = Some(facts);
        }
    }

    /// How long nobody may race yet, and why; `None`: at once.
    pub(crate) async fn ended_early(
        &self,
        deadline: Deadline,
    ) -> Result<Option<(Duration, String)>, Failure> {
        let former = self.former.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Former { session, facts: Some(facts), gone_at: Some(gone_at) }) = former else {
            return Ok(None);
        };
        let left = (gone_at + facts.ttl).since(ptarmigan_clock::now());
        if left.is_zero() || self.own_session().is_some_and(|own| own.id == session) {
            return Ok(None);
        }
        // It lives: its holder has deleted the key.
        if self.session_facts(deadline, &session).await?.is_some() {
            return Ok(None);
        }
        let reason = if facts.has_checks {
            "it had health checks"
        } else if self.has_left(deadline, &facts.node).await? {
            "its Consul agent has left"
        } else {
            return Ok(None);
        };
        Ok(Some((left, format!("the session of the last leader may have ended before its time: {reason}"))))
    }

    /// `None`: there is no such session.
    async fn session_facts(&self, deadline: Deadline, session: &str) -> Result<Option<Facts>, Failure> {
        let request = Request::new(Method::GET, &["session", "info", session]).query("consistent", "");
        let answer = self.http.call(deadline, Policy::Once, &request).await?.success()?.json()?;
        Ok(facts(&answer))
    }

    async fn has_left(&self, deadline: Deadline, node: &str) -> Result<bool, Failure> {
        let request = Request::new(Method::GET, &["catalog", "node", node]).query("consistent", "");
        Ok(self.http.call(deadline, Policy::Once, &request).await?.success()?.json()?.is_null())
    }
}

/// From the answer to `session/info`.
fn facts(answer: &Value) -> Option<Facts> {
    let session = answer.get(0)?;
    let has = |key: &str| session[key].as_array().is_some_and(|checks| !checks.is_empty());
    Some(Facts {
        node: session["Node"].as_str()?.to_owned(),
        ttl: session["TTL"].as_str().and_then(seconds)?,
        has_checks: ["Checks", "NodeChecks", "ServiceChecks"].into_iter().any(has),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checks_are_found_under_each_of_their_names() {
        for (session, has_checks) in [
            (json!({"Node": "n", "TTL": "15s", "Checks": null}), false),
            (json!({"Node": "n", "TTL": "15s", "NodeChecks": [], "ServiceChecks": null}), false),
            (json!({"Node": "n", "TTL": "15s", "Checks": ["serfHealth"]}), true),
            (json!({"Node": "n", "TTL": "15s", "NodeChecks": ["serfHealth"]}), true),
            (json!({"Node": "n", "TTL": "15s", "ServiceChecks": [{"ID": "x"}]}), true),
        ] {
            let found = facts(&json!([session])).unwrap();
            let expected = Facts { node: "n".into(), ttl: Duration::from_secs(15), has_checks };
            assert_eq!(found, expected, "{session}");
        }
        for answer in [json!([]), json!(null), json!([{"Node": "n", "TTL": ""}])] {
            assert!(facts(&answer).is_none_or(|facts| facts.ttl.is_zero()), "{answer}");
        }
    }
}
