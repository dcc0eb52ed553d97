//! Slots keep what they are there for.
//!
//! - No WAL that a member's slot kept for it is removed, and no slot goes backwards.
//! - No slot that nobody uses is moved beyond its member, on whichever node it is: what that one lacks is kept for it. For a
//!   minute after `pg_rewind` or a copy took the member back, and while nobody sees what the store has, it may still go to
//!   where the member was.
//! - A leader does not tell of any member that it is further than it is: whoever believes that lets go of WAL.
//! - No slot of a member that is there or left less than `member_slots_ttl` ago is dropped: on a leader and whoever may become
//!   one, that of any member; on a standby with `nofailover`, that of those which name it in `replicatefrom`. Nobody keeps one
//!   for a member that lives from the archive.
//! - None of a member that follows this node, and is to, is dropped and made anew, unless its WAL is lost. That of one that
//!   is to follow another node may be, for the rows that it holds back (SL-6): its WAL is kept there.
//! - None stays for ever, and in the end the leader has one for everybody who follows it.

use std::time::Duration;

use ptarmigan_ha::{node_to_follow, slots::DropReason};
use ptarmigan_types::{Cluster, Lsn, MemberName, Monotonic, Role};

use super::{Kind, Violation, wrong};
use crate::world::{Network, World};

/// How much sooner than `member_slots_ttl` after its member was seen a slot may go: the leader looks once a cycle, and does
/// not see what the store does while it is cut off.
const EARLY: Duration = Duration::from_secs(60);
/// A slot younger than that may go with its member: it is retained from the second time on that the leader looks at it.
const YOUNG: Duration = Duration::from_secs(30);
/// How long what a member said of data that were replaced since may be believed: until its key, its leader's slot and
/// everybody's view say something else, where nothing keeps anybody from looking.
const STALE: Duration = Duration::from_secs(60);
/// How much later it may go, where nothing keeps the leader from looking.
const LATE: Duration = Duration::from_secs(60);

/// The checker.
#[derive(Debug, Default)]
pub struct Checker {
    /// When each member's key was last in the store.
    seen: Vec<Monotonic>,
    /// When each member's data were replaced.
    replaced: Vec<Monotonic>,
    /// When the store last gave trouble, or maintenance mode kept slots.
    store_trouble: Monotonic,
    /// Who holds the lock, and since when.
    holder: Option<(usize, Monotonic)>,
    /// The shortest and the longest `member_slots_ttl` that operators gave, in seconds.
    ttl_s: Option<(u64, u64)>,
    /// The objection.
    pub violation: Option<Violation>,
}

impl Checker {
    /// An operator changes `member_slots_ttl`.
    pub fn changed_ttl(&mut self, seconds: u64) {
        let (shortest, longest) = self.ttl_s.unwrap_or((seconds, seconds));
        self.ttl_s = Some((shortest.min(seconds), longest.max(seconds)));
    }

    fn shortest_ttl(&self, drawn_s: u64) -> Duration {
        Duration::from_secs(self.ttl_s.map_or(drawn_s, |(shortest, _)| shortest.min(drawn_s)))
    }

    fn longest_ttl(&self, drawn_s: u64) -> Duration {
        Duration::from_secs(self.ttl_s.map_or(drawn_s, |(_, longest)| longest.max(drawn_s)))
    }

    fn object(&mut self, at: Monotonic, what: impl FnOnce() -> String) {
        self.violation.get_or_insert_with(|| wrong("slots", at, what()));
    }
}

impl World {
    /// Notes who is there.
    pub fn look_at_members(&mut self) {
        let holder = self.store.keys.get("leader").and_then(|raw| self.index(&raw.value));
        let checker = &mut self.checks.slots;
        checker.seen.resize(self.members.len(), Monotonic(0));
        for (seen, member) in checker.seen.iter_mut().zip(&self.members) {
            if self.store.keys.contains_key(&*format!("members/{}", member.name)) {
                *seen = self.now;
            }
        }
        let fine = Network::healed();
        let network = &self.network;
        let trouble =
            network.store_down || network.lost_percent > 0 || network.store_millis > fine.store_millis;
        let late = network.stale_millis > 0 || !network.slow_links.is_empty();
        let paused = self.members.iter().any(|member| member.settings.pause);
        if paused || trouble || late || !network.store_cut.is_empty() {
            checker.store_trouble = self.now;
        }
        if checker.holder.map(|(holder, _)| holder) != holder {
            checker.holder = holder.map(|holder| (holder, self.now));
        }
    }

    /// A standby's WAL is gone on its upstream.
    pub fn judge_lack(&mut self, upstream: usize, member: usize) {
        let Some(slot) = self.slot(upstream, member) else { return };
        let (mine, theirs) = (&self.members[member].postgres, &self.members[upstream].postgres);
        if slot.is_lost() || slot.since > mine.end() {
            return;
        }
        let what = format!(
            "m{member} needs WAL from {}, which m{upstream} has only from {}, although it has m{member}'s slot since {} (now at {:?})",
            mine.end(),
            theirs.removed,
            slot.since,
            slot.restart_lsn,
        );
        self.checks.slots.object(self.now, || what);
    }

    /// A standby told its upstream that it is at a position before that of its slot.
    pub fn judge_step_back(&mut self, upstream: usize, member: usize, since: Lsn, reserved: Lsn) {
        let end = self.members[member].postgres.end();
        self.checks.slots.object(self.now, || {
            format!(
                "m{member}'s slot on m{upstream}, there since {since}, goes back from {reserved} to {end}"
            )
        });
    }

    /// A member's data were replaced.
    pub fn note_replaced(&mut self, member: usize) {
        let checker = &mut self.checks.slots;
        checker.replaced.resize(self.members.len(), Monotonic(0));
        checker.replaced[member] = self.now;
    }

    /// A slot that nobody uses is moved: no further than its owner is, who needs what comes after.
    pub fn judge_advance(&mut self, member: usize, slot: &str, to: Lsn) {
        if let Some((owner, end)) = self.is_beyond(member, slot, to) {
            self.checks
                .slots
                .object(self.now, || format!("m{member} moves m{owner}'s slot to {to}, which is at {end}"));
        }
    }

    /// A leader tells how far its slots' owners are: others let go of what comes before.
    pub fn judge_told(&mut self, member: usize) {
        if !self.members[member].leads(self.now) {
            return;
        }
        let told = self.members[member].slots.iter().flatten();
        let beyond = told.into_iter().find_map(|(slot, to)| Some((*to, self.is_beyond(member, slot, *to)?)));
        if let Some((to, (owner, end))) = beyond {
            self.checks
                .slots
                .object(self.now, || format!("m{member} tells that m{owner} is at {to}, which is at {end}"));
        }
    }

    /// A member's slot, and how far it is itself, where that is less and everybody might know.
    fn is_beyond(&self, member: usize, slot: &str, to: Lsn) -> Option<(usize, Lsn)> {
        let owner = self.members.iter().position(|owner| *owner.slot == *slot)?;
        let them = &self.members[owner].postgres;
        let checker = &self.checks.slots;
        let replaced = checker.replaced.get(owner).copied().unwrap_or_default();
        let known = self.now.since(replaced) > STALE && self.now.since(checker.store_trouble) > STALE;
        // A server that is not consistent yet tells nobody where it is.
        let tells = them.present && them.needs.is_none();
        (owner != member && tells && known && to > them.end()).then(|| (owner, them.end()))
    }

    /// A slot is dropped although it is wanted. Whom its owner follows is asked of both of them: one whose `replicatefrom`
    /// has just come back is about to leave.
    pub fn judge_renewal(&mut self, member: usize, slot: &str, reason: DropReason) {
        let Some(owner) = self.members.iter().position(|owner| *owner.slot == *slot) else { return };
        let (this, them) = (&self.members[member], &self.members[owner]);
        let leader = self.store.keys.get("leader").map(|raw| raw.value.as_str());
        let leads = |name: &MemberName| leader == Some(name.as_str());
        let stays = this.known.as_ref().and_then(|view| node_to_follow(&them.name, &them.settings, view));
        let named = them.settings.tags.replicatefrom().is_some_and(|name| name == this.name);
        let follows = them.postgres.present
            && them.postgres.upstream == Some(member)
            && self.node_to_follow(owner) == Some(member)
            && stays.is_some_and(|upstream| upstream.member() == Some(&this.name))
            && (leads(&this.name) || named && !leads(&them.name));
        // It is made anew at once, and whoever has just led has all that is let go in between.
        let has_all = them.postgres.end() >= this.postgres.end();
        let harmless = reason == DropReason::Lost || reason == DropReason::Xmin && has_all;
        if follows && !harmless {
            let what = format!("m{member} drops the slot of m{owner}, which follows it: {reason:?}");
            self.checks.slots.object(self.now, || what);
        }
    }

    /// A slot that nobody wants is dropped.
    pub fn judge_drop(&mut self, member: usize, slot: &str) {
        let ttl = self.checks.slots.shortest_ttl(self.scenario.slots.member_slots_ttl_s);
        let Some(owner) = self.members.iter().position(|owner| *owner.slot == *slot) else { return };
        // Nobody keeps a slot for a member that lives from the archive; who must not lead, and does not, only for those that
        // replicate from it.
        let (this, theirs) = (&self.members[member], &self.members[owner].settings.tags);
        let leads = matches!(this.role, Role::Primary | Role::Promoted | Role::StandbyLeader);
        let names_this = theirs.replicatefrom().is_some_and(|name| name == this.name);
        if theirs.nostream() || this.settings.tags.nofailover() && !leads && !names_this {
            return;
        }
        let age = self.members[member].postgres.slots.age(slot, self.now);
        let checker = &mut self.checks.slots;
        let absent = checker.seen.get(owner).map_or(Duration::ZERO, |seen| self.now.since(*seen));
        if self.now.since(checker.store_trouble) < ttl {
            // The leader's time runs from when it saw the member, not from when the key went.
            return;
        }
        if owner != member && absent + EARLY < ttl && age > YOUNG {
            checker.object(self.now, || {
                format!(
                    "m{member} drops the slot of m{owner}, which was there {} s ago; member_slots_ttl {} s",
                    absent.as_secs(),
                    ttl.as_secs()
                )
            });
        }
    }

    /// A slot that operators told us to leave alone is dropped.
    pub fn judge_foreign(&mut self, member: usize, slot: &str) {
        if slot == crate::logical::FOREIGN {
            self.checks.slots.object(self.now, || format!("m{member} drops a slot that ignore_slots names"));
        }
    }

    /// The leader has looked at its slots with this view.
    pub fn judge_slots(&mut self, member: usize, cluster: &Cluster) {
        let ttl = self.checks.slots.longest_ttl(self.scenario.slots.member_slots_ttl_s);
        let limit = ttl + LATE;
        let checker = &self.checks.slots;
        let leads_long =
            checker.holder.is_some_and(|(holder, since)| holder == member && self.now.since(since) > limit);
        if !leads_long || self.now.since(checker.store_trouble) < limit {
            return;
        }
        let stays = (0..self.members.len()).find_map(|owner| {
            let them = &self.members[owner];
            let absent = self.now.since(*self.checks.slots.seen.get(owner)?);
            // A standby streams on without its daemon, and what is in use is not dropped.
            let idle = self.slot(member, owner).is_some() && !self.is_active(member, owner);
            let kept = cluster.member(&them.name).is_none() && idle;
            (owner != member && kept && absent > limit).then_some((owner, absent))
        });
        if let Some((owner, absent)) = stays {
            self.checks.slots.object(self.now, || {
                format!(
                    "m{member} still has the slot of m{owner}, which was last there {} s ago; member_slots_ttl {} s",
                    absent.as_secs(),
                    ttl.as_secs()
                )
            });
        }
    }
}

/// What is not as it has to be in the end: the leader's slots.
pub fn judge(world: &World) -> Option<Violation> {
    let leader = world.store.keys.get("leader").and_then(|raw| world.index(&raw.value))?;
    let lacks = |member: &usize| {
        let follows = world.members[*member].postgres.upstream == Some(leader);
        *member != leader && follows && world.slot(leader, *member).is_none()
    };
    let member = (0..world.members.len()).find(lacks)?;
    let what = format!(
        "m{leader} leads and has no slot of m{member}, which follows it from {}",
        world.members[member].postgres.end()
    );
    Some(Violation { kind: Kind::Liveness, checker: "slots", at: world.now, what })
}
