//! What a change of one key counts as, the same for every store.

use ptarmigan_types::Key;

use crate::Changes;

impl Changes {
    /// Counts one write or delete below the prefix: `path` is relative to it, `before` and `after` are the values
    /// (`None`: no key). A write of the same value counts as nothing. True where something was counted.
    pub fn note(&mut self, path: &str, before: Option<&str>, after: Option<&str>) -> bool {
        if before == after {
            return false;
        }
        let counter = match Key::parse(path) {
            Some(Key::Leader) => &mut self.leader,
            Some(Key::Config) => &mut self.config,
            Some(Key::Status | Key::Optime) => &mut self.status,
            Some(Key::Failover) => &mut self.failover,
            Some(Key::Member(_)) => &mut self.members,
            _ => &mut self.other,
        };
        *counter += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_the_same_value_counts_as_nothing() {
        let mut changes = Changes::default();
        assert!(!changes.note("leader", Some("a"), Some("a")));
        assert_eq!(changes, Changes::default());
    }

    #[test]
    fn each_key_has_its_counter() {
        let mut changes = Changes::default();
        for path in ["leader", "config", "status", "optime/leader", "failover", "members/a", "sync", "x/y/z"]
        {
            assert!(changes.note(path, None, Some("1")), "{path}");
        }
        let expected = Changes { leader: 1, config: 1, status: 2, failover: 1, members: 1, other: 2 };
        assert_eq!(changes, expected);
        assert!(changes.note("leader", Some("1"), None));
        assert_eq!(changes.leader, 2);
    }
}
