//! `retain_slots`: slots of members that left a short while ago are kept until `member_slots_ttl` has passed
//! (contract B.23.4). The leader counts the time.

use std::{collections::BTreeMap, time::Duration};

use ptarmigan_types::{Cluster, MemberName, Monotonic, Revision, slot::name_of_member};
use serde_json::{Map, Value};

use super::{Kind, kind_of};

/// When each member's slot last had its member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    seen: BTreeMap<String, Monotonic>,
    /// The lock, by the revision of its creation, under which the former leader's names were taken over.
    lock: Option<Revision>,
}

impl Retained {
    /// Under a lock that is new to this process, however it came by it, every name that was published gets its full time
    /// again: also where the answer to the acquisition was lost, or the daemon was restarted while it held the lock.
    fn take_over(&mut self, cluster: &Cluster, me: &MemberName, now: Monotonic) {
        let mine = cluster.leader.as_ref().filter(|leader| leader.name == *me);
        let Some(lock) = mine.map(|leader| leader.create_revision) else { return };
        if self.lock != Some(lock) {
            self.lock = Some(lock);
            let published = cluster.status.retain_slots.iter().flatten();
            self.seen.extend(published.map(|name| (name.clone(), now)));
        }
    }

    /// At a renewal: takes over what the former leader published, marks the slots of present members, forgets those that
    /// are as old as `ttl`, and returns the names to publish, sorted. `existing` are the slots that `/status` will show;
    /// `permanent` the permanent ones.
    pub fn update<'a>(
        &mut self,
        cluster: &Cluster,
        me: &MemberName,
        existing: impl IntoIterator<Item = &'a str>,
        permanent: &Map<String, Value>,
        ttl: Duration,
        now: Monotonic,
    ) -> Vec<String> {
        self.take_over(cluster, me, now);
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
                match self.seen.get_mut(slot) {
                    Some(seen) => *seen = now,
                    None => drop(self.seen.insert(slot.to_owned(), now)),
                }
            }
        }
        self.seen.retain(|_, seen| now.since(*seen) < ttl);
        self.seen.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use ptarmigan_types::RawValue;
    use serde_json::json;

    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn raw(value: &str) -> RawValue {
        RawValue { value: value.into(), revision: 1, create_revision: 1, lease: None }
    }

    fn cluster(members: &[(&str, &str)]) -> Cluster {
        let raw: Vec<(String, RawValue)> =
            members.iter().map(|(name, data)| (format!("members/{name}"), raw(data))).collect();
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
        assert_eq!(retained.update(&alone, &me, ["a", "b"], &none, TTL, at(129)), ["a", "b"]);
        assert_eq!(retained.update(&alone, &me, ["a", "b"], &none, TTL, at(130)), ["a"]);
    }

    #[test]
    fn b_23_4_without_time_nothing_is_retained() {
        let all = cluster(&[("a", "{}"), ("b", "{}")]);
        let mut retained = Retained::default();
        let names =
            retained.update(&all, &MemberName::from("a"), ["a", "b"], &Map::new(), Duration::ZERO, at(1));
        assert!(names.is_empty(), "every standby would keep slots of all members: {names:?}");
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
        let me = MemberName::from("a");
        let led_by = |leader: &str, lock| {
            let mut keys = [("members/a", "{}"), ("leader", leader), ("status", r#"{"retain_slots":["x"]}"#)]
                .map(|(path, value)| (path, raw(value)));
            keys[1].1.create_revision = lock;
            Cluster::read(keys.iter().map(|(path, raw)| (*path, raw)))
        };
        let mut retained = Retained::default();
        let mut names =
            |cluster: &Cluster, seconds| retained.update(cluster, &me, [], &Map::new(), TTL, at(seconds));
        assert!(names(&led_by("b", 1), 40).is_empty(), "somebody else counts");
        assert_eq!(names(&led_by("a", 2), 50), ["x"]);
        assert_eq!(names(&led_by("a", 2), 79), ["x"]);
        assert!(names(&led_by("a", 2), 80).is_empty(), "what still stands there is my own");
        assert_eq!(names(&led_by("a", 7), 81), ["x"], "the key was created again: another lock");
    }
}
