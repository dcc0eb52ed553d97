//! Member names as synchronous replication compares them: in whatever case.

use std::collections::BTreeMap;

use ptarmigan_types::MemberName;
use serde::{Deserialize, Serialize};

/// A set of member names; two names that differ only in case are one. Keeps the spelling that came first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<MemberName>", into = "Vec<MemberName>")]
pub struct NameSet(BTreeMap<String, MemberName>);

impl NameSet {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has the name, in whatever case.
    pub fn contains(&self, name: &MemberName) -> bool {
        self.0.contains_key(&key(name))
    }

    /// Adds a name, unless it is there in another spelling.
    pub fn insert(&mut self, name: MemberName) {
        self.0.entry(key(&name)).or_insert(name);
    }

    /// In the order of what is compared.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &MemberName> {
        self.0.values()
    }

    /// In the order of their code points, as `synchronous_standby_names` lists them.
    pub fn sorted(&self) -> Vec<&MemberName> {
        let mut names: Vec<&MemberName> = self.0.values().collect();
        names.sort_unstable();
        names
    }

    /// In both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.iter().filter(|name| other.contains(name)).cloned().collect()
    }

    /// In either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).cloned().collect()
    }

    /// Not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.iter().filter(|name| !other.contains(name)).cloned().collect()
    }

    /// With this name too.
    #[must_use]
    pub fn with(&self, name: &MemberName) -> Self {
        let mut all = self.clone();
        all.insert(name.clone());
        all
    }

    /// The first of them in the order of [`Self::sorted`].
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        self.sorted().into_iter().take(count).cloned().collect()
    }

    /// The last of them in the order of [`Self::sorted`].
    #[must_use]
    pub fn last(&self, count: usize) -> Self {
        self.sorted().into_iter().rev().take(count).cloned().collect()
    }

    /// All of them are in the other.
    pub fn is_within(&self, other: &Self) -> bool {
        self.iter().all(|name| other.contains(name))
    }

    /// At least one of them is in the other.
    pub fn meets(&self, other: &Self) -> bool {
        self.iter().any(|name| other.contains(name))
    }

    /// As a list, for `/sync`.
    pub fn to_vec(&self) -> Vec<MemberName> {
        self.sorted().into_iter().cloned().collect()
    }
}

fn key(name: &MemberName) -> String {
    name.as_str().to_lowercase()
}

impl PartialEq for NameSet {
    fn eq(&self, other: &Self) -> bool {
        self.0.keys().eq(other.0.keys())
    }
}

impl Eq for NameSet {}

impl FromIterator<MemberName> for NameSet {
    fn from_iter<I: IntoIterator<Item = MemberName>>(names: I) -> Self {
        let mut set = Self::default();
        for name in names {
            set.insert(name);
        }
        set
    }
}

impl From<Vec<MemberName>> for NameSet {
    fn from(names: Vec<MemberName>) -> Self {
        names.into_iter().collect()
    }
}

impl From<NameSet> for Vec<MemberName> {
    fn from(set: NameSet) -> Self {
        set.to_vec()
    }
}

impl std::fmt::Display for NameSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.sorted().into_iter().map(MemberName::as_str).collect();
        if names.is_empty() { f.write_str("nobody") } else { f.write_str(&names.join(",")) }
    }
}
