//! What `/status` shows of the slots (contract A.3.4).

use std::collections::{BTreeMap, BTreeSet};

use ptarmigan_types::{Cluster, Lsn, Member, MemberName, Revision, slot::name_of_member};

use super::{Actual, Kind, Settings, Wanted};

/// The positions of the slots that exist and are managed here. A slot of another kind than the wanted one says nothing of
/// its consumer, and one whose WAL is lost has no position.
pub fn positions(
    wanted: &BTreeMap<String, Wanted>,
    actual: &BTreeMap<String, Actual>,
) -> BTreeMap<String, Lsn> {
    let managed = actual.iter().filter(|(name, slot)| {
        wanted.get(*name).is_some_and(|wish| wish.kind == slot.kind) && !slot.lost && !slot.is_synced()
    });
    managed.filter_map(|(name, slot)| Some((name.clone(), slot.position()?))).collect()
}

/// What `/status` shows of the slots: those that exist, and the leader's own name with its own position, so that the
/// others keep WAL for its return (contract A.3.4). Only permanent ones where members' slots are dropped at once.
pub fn published(
    mut positions: BTreeMap<String, Lsn>,
    me: &MemberName,
    own: Lsn,
    settings: &Settings<'_>,
) -> Option<BTreeMap<String, Lsn>> {
    positions.insert(name_of_member(me.as_str()), own);
    if settings.member_slots_ttl.is_zero() {
        positions.retain(|name, _| settings.permanent.contains_key(name));
    }
    Some(positions).filter(|positions| !positions.is_empty())
}

/// The position of a consumer of which nothing is known, as a Patroni takes it too: nobody moves a slot to there.
const UNKNOWN: Lsn = Lsn::ZERO;

/// A slot that begins beyond its consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    /// Where it began: as long as it stays there, nobody has used it.
    at: Lsn,
    /// How far its consumer is known to be.
    consumer: Lsn,
}

/// What a leader tells of its slots' consumers.
///
/// Safer than the contract (docs/compatibility.md): a slot that this node made, now or as a standby, begins where its own
/// WAL does, which may be far beyond its consumer. Published as the consumer's position, it would have everybody else let
/// go of the WAL that the consumer still needs and this node never had. So the position that was known before is repeated
/// until somebody uses the slot or moves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    lock: Option<Revision>,
    seen: BTreeSet<String>,
    held: BTreeMap<String, Held>,
}

impl Published {
    /// This slot was made anew: what was known of the former one says nothing of it.
    pub fn made(&mut self, slot: &str) {
        self.seen.remove(slot);
        self.held.remove(slot);
    }

    /// The consumers' positions, as far as the slots that exist tell them.
    pub fn update(
        &mut self,
        cluster: &Cluster,
        wanted: &BTreeMap<String, Wanted>,
        actual: &BTreeMap<String, Actual>,
    ) -> BTreeMap<String, Lsn> {
        let lock = cluster.leader.as_ref().map(|leader| leader.create_revision);
        if self.lock != lock {
            *self = Self { lock, ..Self::default() };
        }
        self.seen.retain(|name| actual.contains_key(name));
        self.held.retain(|name, _| actual.contains_key(name));
        let mut positions = positions(wanted, actual);
        for (name, position) in &mut positions {
            let active = actual.get(name).is_some_and(|slot| slot.active);
            let wish = &wanted[name];
            *position = self.position(cluster, name, wish, *position, active);
            // A member that was rewound is not as far any more as its slot.
            if !active && wish.kind == Kind::Physical {
                *position = says(cluster, name).map_or(*position, |says| says.min(*position));
            }
        }
        positions
    }

    fn position(&mut self, cluster: &Cluster, name: &str, wish: &Wanted, at: Lsn, active: bool) -> Lsn {
        let first = self.seen.insert(name.to_owned());
        if active {
            self.held.remove(name);
            return at;
        }
        if first || self.held.get(name).is_some_and(|held| held.at == at && held.consumer == UNKNOWN) {
            match known(cluster, name, wish) {
                Some(consumer) if consumer < at => {
                    self.held.insert(name.to_owned(), Held { at, consumer });
                }
                Some(_) => drop(self.held.remove(name)),
                // A member that is gone again has told nothing.
                None => {}
            }
        }
        match self.held.get(name) {
            Some(held) if held.at == at => held.consumer,
            Some(_) => {
                self.held.remove(name);
                at
            }
            None => at,
        }
    }
}

fn member_of<'a>(cluster: &'a Cluster, slot: &str) -> Option<&'a Member> {
    cluster.members.iter().find(|member| name_of_member(member.name.as_str()) == slot)
}

/// How far a slot's member is by its own key.
fn says(cluster: &Cluster, slot: &str) -> Option<Lsn> {
    member_of(cluster, slot)?.data.xlog_location()
}

/// What is known of a slot's consumer without the slot. A member that was rewound is not as far any more as was published.
/// Of one that is away or has just come back it may be that nothing is known before its server runs.
fn known(cluster: &Cluster, slot: &str, wish: &Wanted) -> Option<Lsn> {
    let published = cluster.status.slots.as_ref().and_then(|slots| slots.get(slot)).copied();
    let published = published.filter(|published| *published != UNKNOWN);
    if wish.kind != Kind::Physical {
        return published;
    }
    let is_retained = wish.lsn.is_none() && wish.expected_active.is_none();
    let nothing = (member_of(cluster, slot).is_some() || is_retained).then_some(UNKNOWN);
    published.into_iter().chain(says(cluster, slot)).min().or(nothing)
}
