//! Our session: one per node, shared by `/leader` and `/members/<me>` (contract A.6).

use std::{sync::PoisonError, time::Duration};

use ptarmigan_types::{LeaseId, Monotonic, lease};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    http::{Deadline, Failure, Policy, Request},
    store::Store,
};

/// What Consul takes where its configuration says nothing else.
const TTL_MIN: Duration = Duration::from_secs(10);

/// A new leader need not wait (contract A.6, "lock-delay").
const LOCK_DELAY: &str = "0.001s";

/// A session of ours as it was last answered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnSession {
    pub(crate) id: String,
    /// When the last answered creation or renewal was sent.
    pub(crate) sent_at: Monotonic,
    /// As Consul has it.
    pub(crate) ttl: Duration,
}

impl OwnSession {
    pub(crate) fn due(&self) -> Monotonic {
        self.sent_at + lease::refresh_after(self.ttl)
    }

    pub(crate) fn lease_id(&self) -> LeaseId {
        LeaseId(self.id.clone())
    }
}

impl Store {
    pub(crate) fn own_session(&self) -> Option<OwnSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_own_session(&self, session: Option<OwnSession>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// Forgets a session that Consul does not know any more; `None`: whichever there is, because its TTL is not wanted any more.
    pub(crate) fn drop_session(&self, id: Option<&str>) {
        let mut own = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if id.is_none() || own.as_ref().map(|session| &*session.id) == id {
            *own = None;
        }
    }

    /// A living session: renewed where that is due (`force`: always), created where there is none.
    pub(crate) async fn refresh_session(
        &self,
        deadline: Deadline,
        force: bool,
    ) -> Result<OwnSession, Failure> {
        let _one_at_a_time = self.refreshing.lock().await;
        if let Some(own) = self.own_session() {
            if !force && ptarmigan_clock::now() < own.due() {
                return Ok(own);
            }
            // One that may be over is not renewed: where Consul has begun to end it, it would say so and end it all the same. What
            // hangs on it moves to the next one, if it is still there.
            let is_over = ptarmigan_clock::now() >= own.sent_at + own.ttl;
            let renewed = if is_over { None } else { self.renew_session(deadline, &own).await? };
            if let Some(renewed) = renewed {
                // Meanwhile a new TTL may have dropped it.
                if self.own_session().map(|session| session.id) == Some(own.id) {
                    self.set_own_session(Some(renewed.clone()));
                    return Ok(renewed);
                }
            } else {
                tracing::info!(session = %own.id, "the session is lost, asking for a new one");
                self.drop_session(Some(&own.id));
            }
        }
        self.create_session(deadline).await
    }

    /// `None`: Consul does not know it any more.
    async fn renew_session(
        &self,
        deadline: Deadline,
        own: &OwnSession,
    ) -> Result<Option<OwnSession>, Failure> {
        let request = Request::new(Method::PUT, &["session", "renew", &own.id]);
        // Repeating it is harmless, and each attempt has a moment of its own: that of the one that was answered counts.
        let answer = self.http.call(deadline, Policy::UntilDeadline, &request).await?;
        let sent_at = answer.sent_at;
        if answer.status == 404 && answer.body.contains("not found") {
            return Ok(None);
        }
        let answer = answer.success()?.json()?;
        let ttl = answer[0]["TTL"].as_str().and_then(seconds).unwrap_or(own.ttl);
        Ok(Some(OwnSession { sent_at, ttl, ..own.clone() }))
    }

    async fn create_session(&self, deadline: Deadline) -> Result<OwnSession, Failure> {
        let wanted = self.http.timing().ttl;
        let mut ttl = wanted / 2;
        let mut asked = false;
        loop {
            let request = Request::new(Method::PUT, &["session", "create"]).body(self.session_body(ttl));
            let answer = self.http.call(deadline, Policy::UntilDeadline, &request).await?;
            let sent_at = answer.sent_at;
            if answer.status >= 500 && answer.body.contains("Invalid Session TTL") && !asked {
                asked = true;
                ttl = match shortest_of(&answer.body) {
                    Some(ttl) => ttl,
                    None => self.shortest_ttl(deadline).await?,
                };
                tracing::warn!(
                    "Consul takes no session of {:?}: using {ttl:?}, which makes ttl {:?}",
                    wanted / 2,
                    ttl * 2
                );
                continue;
            }
            let answer = answer.success()?.json()?;
            let id = answer["ID"].as_str().ok_or_else(|| Failure::Api("the session has no ID".into()))?;
            let session = OwnSession { id: id.to_owned(), sent_at, ttl };
            if self.http.timing().ttl == wanted {
                self.set_own_session(Some(session.clone()));
            }
            return Ok(session);
        }
    }

    fn session_body(&self, ttl: Duration) -> Value {
        json!({
            "Name": format!("{}-{}", self.scope, self.name),
            "Checks": self.http.settings().checks,
            "LockDelay": LOCK_DELAY,
            "Behavior": "delete",
            "TTL": format!("{:?}s", ttl.as_secs_f64()),
        })
    }

    /// The shortest TTL that the agent's configuration allows (contract A.6, "Invalid Session TTL").
    async fn shortest_ttl(&self, deadline: Deadline) -> Result<Duration, Failure> {
        let request = Request::new(Method::GET, &["agent", "self"]);
        let answer = self.http.call(deadline, Policy::UntilDeadline, &request).await?.success()?.json()?;
        let nanoseconds = [&answer["Config"], &answer["DebugConfig"]]
            .into_iter()
            .find_map(|config| config["SessionTTLMin"].as_u64().filter(|nanoseconds| *nanoseconds > 0))
            .map(Duration::from_nanos);
        // The debug configuration writes it as text.
        let text = || answer["DebugConfig"]["SessionTTLMin"].as_str().and_then(seconds);
        Ok(nanoseconds.or_else(text).filter(|ttl| !ttl.is_zero()).unwrap_or(TTL_MIN))
    }
}

/// The shortest TTL, from `Invalid Session TTL '9000000000', must be between [10s=24h0m0s]`.
fn shortest_of(error: &str) -> Option<Duration> {
    let (_, range) = error.split_once("between [")?;
    let (shortest, _) = range.split_once('=')?;
    seconds(shortest).filter(|ttl| !ttl.is_zero())
}

/// A duration as Go writes it: `15s`, `1m30s`, `1h0m0s`, `500ms`.
pub(crate) fn seconds(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| letter != '.' && !letter.is_ascii_digit())?;
        let (number, unit_on) = rest.split_at(end);
        let end = unit_on.find(|letter: char| letter.is_ascii_digit()).unwrap_or(unit_on.len());
        let (unit, next) = unit_on.split_at(end);
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number.parse::<f64>().ok()? * factor).ok()?;
        rest = next;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go_are_read() {
        for (text, millis) in [
            ("15s", 15_000),
            ("7.5s", 7_500),
            ("1m30s", 90_000),
            ("1h0m0s", 3_600_000),
            ("500ms", 500),
            ("", 0),
        ] {
            assert_eq!(seconds(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["15", "s", "1d", "x"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_6_the_shortest_ttl_is_read_from_the_error() {
        let error = "rpc error making call: Invalid Session TTL '5000000000', must be between [12s=24h0m0s]";
        assert_eq!(shortest_of(error), Some(Duration::from_secs(12)));
        assert_eq!(shortest_of("Invalid Session TTL"), None);
    }

    #[test]
    fn a_6_the_ttl_is_written_as_a_number_with_a_point() {
        assert_eq!(format!("{:?}s", Duration::from_secs(15).as_secs_f64()), "15.0s");
        assert_eq!(format!("{:?}s", (Duration::from_secs(25) / 2).as_secs_f64()), "12.5s");
    }
}
