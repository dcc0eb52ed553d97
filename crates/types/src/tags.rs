//! Member tags (contract A.3.3.2).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{MemberName, scalar};

/// The tags of a member, in the order of its configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(pub Map<String, Value>);

/// A flag that forbids, and the priority that says the same in more detail.
const PAIRS: [(&str, &str); 2] = [("nofailover", "failover_priority"), ("nosync", "sync_priority")];

/// Published only where truthy.
const FLAGS: [&str; 5] = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];

impl Tags {
    fn get(&self, tag: &str) -> Option<&Value> {
        self.0.get(tag).filter(|value| !value.is_null())
    }

    fn is_set(&self, tag: &str) -> bool {
        self.get(tag).is_some_and(scalar::is_truthy)
    }

    fn forbids(&self, (flag, priority): (&str, &str)) -> bool {
        self.get(flag).map_or_else(|| self.number(priority) <= 0, scalar::is_truthy)
    }

    fn number(&self, tag: &str) -> i64 {
        self.get(tag).and_then(|value| scalar::parse_int(value, None)).unwrap_or(1)
    }

    fn priority(&self, (flag, priority): (&str, &str)) -> i64 {
        if self.is_set(flag) { 0 } else { self.number(priority) }
    }

    /// Must not become primary. The flag wins over the priority; any text in it, also `"false"`, forbids.
    pub fn nofailover(&self) -> bool {
        self.forbids(PAIRS[0])
    }

    /// Which of the members that are as far as each other goes first; at most 0 for those that must not.
    pub fn failover_priority(&self) -> i64 {
        self.priority(PAIRS[0])
    }

    /// Must not be a synchronous standby.
    pub fn nosync(&self) -> bool {
        self.forbids(PAIRS[1])
    }

    /// Which member is preferred as a synchronous standby.
    pub fn sync_priority(&self) -> i64 {
        self.priority(PAIRS[1])
    }

    /// Gets its WAL from the archive only, and has no slot.
    pub fn nostream(&self) -> bool {
        self.get("nostream").and_then(scalar::parse_bool).unwrap_or(false)
    }

    /// The member to stream from, rather than the leader.
    pub fn replicatefrom(&self) -> Option<MemberName> {
        self.get("replicatefrom")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .map(MemberName::from)
    }

    /// Preferred as a source of new replicas; counts only for members that publish a `conn_url`.
    pub fn clonefrom(&self) -> bool {
        self.is_set("clonefrom")
    }

    /// Left out of load balancing.
    pub fn noloadbalance(&self) -> bool {
        self.is_set("noloadbalance")
    }

    /// The tags that the member key carries: the known flags only where they say something.
    pub fn published(&self) -> Self {
        let keep = |tag: &str, value: &Value| {
            !FLAGS.contains(&tag)
                || scalar::is_truthy(value)
                || PAIRS.iter().any(|(flag, priority)| *flag == tag && self.0.contains_key(*priority))
        };
        Self(
            self.0
                .iter()
                .filter(|(tag, value)| keep(tag, value))
                .map(|(tag, value)| (tag.clone(), value.clone()))
                .collect(),
        )
    }

    /// One message for each flag that contradicts its priority; the flag wins (surface contract E).
    pub fn conflicts(&self) -> Vec<String> {
        PAIRS.iter().filter_map(|pair| self.conflict(*pair)).collect()
    }

    fn conflict(&self, (flag, priority): (&str, &str)) -> Option<String> {
        let set = self.get(flag)?;
        let number = self.get(priority)?;
        let (set_text, number_text) = (scalar::python_str(set), scalar::python_str(number));
        (scalar::is_truthy(set) == (self.number(priority) > 0)).then(|| {
            format!(
                "Conflicting configuration between {flag}: {set_text} and {priority}: {number_text}. \
                 Defaulting to {flag}: {set_text}"
            )
        })
    }
}
