//! `retain_slots`: slots of members that left a short while ago are kept until `member_slots_ttl` has passed
//! (contract B.23.4). The leader counts the time.

use std::{collections::BTreeMap, time::Duration};

use ptarmigan_types::{Cluster, MemberName, Monotonic, slot::name_of_member};
use serde_json::{Map, Value};

use super::{Kind, kind_of};

/// When each member's slot last had its member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained(BTreeMap<String, Monotonic>);

impl Retained {
    /// On lock acquisition: every name that the former leader published gets its full time again.
    pub fn take_over(&mut self, published: &[String], now: Monotonic) {
        for name in published {
            self.0.insert(name.clone(), now);
        }
    }

    /// At a renewal: marks the slots of present members, forgets those that are older than `ttl`, and returns the names
    /// to publish, sorted. `existing` are the slots that `/status` will show; `permanent` the permanent ones.
    pub fn update<'a>(
        &mut self,
        cluster: &Cluster,
        me: &MemberName,
        existing: impl IntoIterator<Item = &'a str>,
        permanent: &Map<String, Value>,
        ttl: Duration,
        now: Monotonic,
    ) -> Vec<String> {
        let mut present: Vec<String> = cluster
            .members
            .iter()
            .filter(|member| !member.data.tags().nostream())
            .map(|member| name_of_member(member.name.as_str()))
            .collect();
        present.push(name_of_member(me.as_str()));
        for slot in existing {
            let is_permanent =
                permanent.get(slot).is_some_and(|spec| kind_of(slot, spec) == Some(Kind::Physical));
            if !is_permanent && present.iter().any(|name| name == slot) {
                self.0.insert(slot.to_owned(), now);
            }
        }
        self.0.retain(|_, seen| now.since(*seen) <= ttl);
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use ptarmigan_types::RawValue;
    use serde_json::json;

    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn cluster(members: &[(&str, &str)]) -> Cluster {
        let raw: Vec<(String, RawValue)> = members
            .iter()
            .map(|(name, data)| {
                let value = RawValue { value: (*data).into(), revision: 1, create_revision: 1, lease: None };
                (format!("members/{name}"), value)
            })
            .collect();
        Cluster::read(raw.iter().map(|(path, raw)| (path.as_str(), raw)))
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn b_23_4_names_stay_for_the_ttl() {
        let me = MemberName::from("a");
        let none = Map::new();
        let both = cluster(&[("a", "{}"), ("b", "{}"), ("c", r#"{"tags":{"nostream":true}}"#)]);
        let mut retained = Retained::default();
        let names = retained.update(&both, &me, ["a", "b", "c", "other"], &none, TTL, at(100));
        assert_eq!(names, ["a", "b"]);
        let alone = cluster(&[("a", "{}")]);
        assert_eq!(retained.update(&alone, &me, ["a", "b"], &none, TTL, at(130)), ["a", "b"]);
        assert_eq!(retained.update(&alone, &me, ["a", "b"], &none, TTL, at(131)), ["a"]);
    }

    #[test]
    fn b_23_4_permanent_physical_slots_are_not_retained() {
        let permanent = json!({"b": null, "c": {"database": "d", "plugin": "p"}});
        let all = cluster(&[("a", "{}"), ("b", "{}"), ("c", "{}")]);
        let names = Retained::default().update(
            &all,
            &MemberName::from("a"),
            ["b", "c"],
            permanent.as_object().unwrap(),
            TTL,
            at(1),
        );
        assert_eq!(names, ["c"]);
    }

    #[test]
    fn b_23_4_a_new_leader_gives_every_name_its_time() {
        let mut retained = Retained::default();
        retained.take_over(&["x".into()], at(50));
        let alone = cluster(&[("a", "{}")]);
        let me = MemberName::from("a");
        assert_eq!(retained.update(&alone, &me, [], &Map::new(), TTL, at(80)), ["x"]);
        assert!(retained.update(&alone, &me, [], &Map::new(), TTL, at(81)).is_empty());
    }
}
