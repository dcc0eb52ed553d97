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
        let number = scalar::parse_int(self.get(priority)?, None)?;
        let set_text = scalar::python_str(set);
        (scalar::is_truthy(set) == (number > 0)).then(|| {
            format!(
                "Conflicting configuration between {flag}: {set_text} and {priority}: {number}. \
                 Defaulting to {flag}: {set_text}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tags(value: Value) -> Tags {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_3_3_2_null_counts_as_absent_and_numbers_are_lenient() {
        let unset = tags(json!({"nofailover": null, "failover_priority": 0}));
        assert!(unset.nofailover());
        assert_eq!(unset.failover_priority(), 0);
        assert_eq!(unset.published(), unset, "published with its priority, as it stands");
        assert_eq!(tags(json!({"failover_priority": "0x10"})).failover_priority(), 16);
        assert_eq!(tags(json!({"failover_priority": 2.5})).failover_priority(), 2);
        assert!(!tags(json!({"nofailover": "", "failover_priority": 0})).nofailover());
        assert_eq!(
            tags(json!({"nofailover": "", "clonefrom": 0, "nostream": false})).published(),
            Tags::default()
        );
        assert!(tags(json!({"nostream": 1})).nostream() && !tags(json!({"nostream": "off"})).nostream());
        let custom = tags(json!({"y": false, "x": null}));
        assert_eq!(custom.published(), custom, "custom tags are published whatever they say");
    }

    #[test]
    fn surface_e_a_contradiction_is_named_with_python_booleans() {
        let both =
            tags(json!({"nofailover": true, "failover_priority": "5", "nosync": false, "sync_priority": 0}));
        assert_eq!(
            both.conflicts(),
            [
                "Conflicting configuration between nofailover: True and failover_priority: 5. \
                 Defaulting to nofailover: True",
                "Conflicting configuration between nosync: False and sync_priority: 0. Defaulting to nosync: False",
            ]
        );
        for agreeing in [
            json!({}),
            json!({"nofailover": true}),
            json!({"nofailover": true, "failover_priority": 0}),
            json!({"nofailover": false, "failover_priority": 1}),
            json!({"nofailover": true, "failover_priority": "x"}),
            json!({"nofailover": null, "failover_priority": 0}),
        ] {
            assert!(tags(agreeing.clone()).conflicts().is_empty(), "{agreeing}");
        }
    }
}
