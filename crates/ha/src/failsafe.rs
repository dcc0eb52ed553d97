//! Failsafe mode: a primary that loses the DCS goes on as long as every member promises not to lead (contract B.15,
//! FS-1 to FS-9).
//!
//! Here are both sides. A member that is asked keeps a [`Promise`] in a [`Ledger`], which the race for the lock and the
//! promotion have to pass too: a promise is refused while one of them is under way, and neither begins while a promise
//! holds. The leader counts its lease from the moment at which it *sent* the first question, and only where *everybody*
//! promised; a promise is counted from the moment at which it was given, which is later. So the promise outlives the lease.
//!
//! Who is everybody stands in `/failsafe`, which only the leader writes and without which nobody races (HA-212). A write
//! of it that was not answered may have been carried out, so those whom it named are asked as well.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use ptarmigan_types::{
    Cluster, FailsafeRequest, Leader, Lsn, Member, MemberData, MemberName, Monotonic, Revision,
    slot::name_of_member,
};
use serde::{Deserialize, Serialize};

use crate::{
    action::{Action, Outcome, PeerAddress, When},
    candidates,
    round::{Round, Step},
};

/// The shortest promise, whatever the two settings say: a leader without a guardian counts on it.
const PROMISE_MIN: Duration = Duration::from_secs(20);

/// How soon after a write of `/failsafe` the cluster is looked at again.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// What a member promised: not to lead before that moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// To whom.
    pub to: MemberName,
    /// How to connect to its PostgreSQL.
    pub conn_url: String,
    /// Its REST API.
    pub api_url: String,
    /// Its slots and their positions.
    pub slots: Option<BTreeMap<String, Lsn>>,
    /// Until when.
    pub until: Monotonic,
}

impl Promise {
    /// It holds at `now`.
    pub fn holds_at(&self, now: Monotonic) -> bool {
        now < self.until
    }
}

/// What decides about a promise, besides the [`Ledger`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// My name.
    pub me: MemberName,
    /// `failsafe_mode` is on.
    pub failsafe_mode: bool,
    /// My `ttl`.
    pub ttl: Duration,
    /// My server may write, or is about to.
    pub may_write: bool,
    /// I hold the lock, for all that I know.
    pub leads: bool,
    /// The last holder of the lock that I know of, and the create revision of its lock.
    pub last_leader: Option<(MemberName, Revision)>,
}

/// Why a promise is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Contract FS-6.
    Off,
    /// Somebody with my name asks.
    MyName(MemberName),
    /// Contract FS-7.
    Primary,
    /// The lock is mine.
    Leads,
    /// The lock may be mine in a moment.
    Racing,
    /// Another one has led since.
    OtherLeader(MemberName),
    /// Another leader has this node's promise.
    Promised(MemberName),
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => formatter.write_str("failsafe_mode is not enabled on this node"),
            Self::MyName(name) => write!(formatter, "this node itself is named {name}"),
            Self::Primary => formatter.write_str("PostgreSQL on this node is running as a primary"),
            Self::Leads => formatter.write_str("this node holds the leader lock"),
            Self::Racing => {
                formatter.write_str("this node is racing for the leader lock or promoting PostgreSQL")
            }
            Self::OtherLeader(name) => write!(formatter, "the last known leader is {name}"),
            Self::Promised(name) => write!(formatter, "this node has promised {name} not to lead"),
        }
    }
}

/// The promise of a node, and what must not happen while it holds. Whoever shares it keeps it under one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    promise: Option<Promise>,
    /// Races and promotions under way.
    under_way: u32,
}

impl Ledger {
    /// A ledger with what an earlier life of this daemon promised.
    pub const fn with(promise: Option<Promise>) -> Self {
        Self { promise, under_way: 0 }
    }

    /// The promise that holds at `now`.
    pub fn promise(&self, now: Monotonic) -> Option<&Promise> {
        self.promise.as_ref().filter(|promise| promise.holds_at(now))
    }

    /// Gives a promise (contract FS-6 to FS-8). From now on no race and no promotion begins, also where the promise
    /// comes to nothing because it cannot be stored.
    ///
    /// # Errors
    /// It is refused, and what was promised before stays.
    pub fn give(
        &mut self,
        standing: &Standing,
        request: &FailsafeRequest,
        now: Monotonic,
    ) -> Result<Promise, Refusal> {
        if !standing.failsafe_mode {
            return Err(Refusal::Off);
        }
        if request.name == standing.me {
            return Err(Refusal::MyName(request.name.clone()));
        }
        if standing.may_write {
            return Err(Refusal::Primary);
        }
        if standing.leads {
            return Err(Refusal::Leads);
        }
        if self.under_way > 0 {
            return Err(Refusal::Racing);
        }
        // A leader that stood still may ask long after somebody else has led; its own lock tells.
        if let Some((leader, lock)) = &standing.last_leader
            && *leader != request.name
            && request.lock.is_none_or(|theirs| theirs <= *lock)
        {
            return Err(Refusal::OtherLeader(leader.clone()));
        }
        let before = self.promise(now);
        if let Some(other) = before.filter(|promise| promise.to != request.name) {
            return Err(Refusal::Promised(other.to.clone()));
        }
        let least = if request.guarded { Duration::ZERO } else { PROMISE_MIN };
        let lasts = standing.ttl.max(request.ttl.unwrap_or_default()).max(least);
        let until = before.map_or(now, |promise| promise.until).max(now + lasts);
        let promise = Promise {
            to: request.name.clone(),
            conn_url: request.conn_url.clone(),
            api_url: request.api_url.clone(),
            slots: request.slots.clone(),
            until,
        };
        self.promise = Some(promise.clone());
        Ok(promise)
    }

    /// A race or a promotion begins.
    ///
    /// # Errors
    /// It does not: this node has promised that one not to lead.
    pub fn begin(&mut self, now: Monotonic) -> Result<(), MemberName> {
        match self.promise(now) {
            Some(promise) => Err(promise.to.clone()),
            None => {
                self.under_way += 1;
                Ok(())
            }
        }
    }

    /// What began with [`Self::begin`] is over.
    pub const fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// The promise that lasts until then is not owed any more (contract HA-022, HA-256): this node leads, or the other one
    /// leads by right again.
    pub fn forget(&mut self, until: Monotonic) {
        self.promise = self.promise.take().filter(|promise| promise.until != until);
    }
}

/// What a node remembers of `/failsafe`, and of its own rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The key as it was seen last.
    pub members: Option<BTreeMap<String, String>>,
    /// Its revision; `None`: it was absent.
    pub revision: Option<Revision>,
    /// What this node wrote since, and nobody knows whether it is there: on the condition of that revision.
    pub written: Option<BTreeMap<String, String>>,
    /// Until when everybody promised this node not to lead.
    pub until: Option<Monotonic>,
    /// The same, also once this node has the lock again: until then nobody else may take over.
    #[serde(default)]
    pub binds_until: Option<Monotonic>,
    /// The mode has been off since, as far as this node saw.
    pub off_since: Option<Monotonic>,
}

impl Seen {
    /// FS-1: everybody who may race, for all that this node knows; `None` where the key does not name this node.
    fn everybody(&self, me: &MemberName) -> Option<BTreeMap<&str, &str>> {
        let members = self.members.as_ref().filter(|members| members.contains_key(me.as_str()))?;
        let all = members.iter().chain(self.written.iter().flatten());
        Some(all.map(|(name, url)| (name.as_str(), url.as_str())).collect())
    }
}

/// LV-2: the cluster as a member sees it that has promised a leader not to lead: that one leads. Its member key may be gone
/// with its lease. A promise is kept also where the mode was switched off meanwhile.
pub fn with_promised_leader(cluster: &Cluster, promise: Option<&Promise>, now: Monotonic) -> Option<Cluster> {
    let promise = promise.filter(|promise| promise.holds_at(now) && cluster.is_unlocked())?;
    let mut cluster = cluster.clone();
    cluster.leader = Some(Leader { name: promise.to.clone(), revision: 0, create_revision: 0, lease: None });
    let members = Arc::make_mut(&mut cluster.members);
    if !members.iter().any(|member| member.name == promise.to) {
        members.push(url_only(&promise.to, Some(&promise.conn_url), &promise.api_url));
        members.sort_by(|one, other| one.name.cmp(&other.name));
    }
    if let Some(slots) = &promise.slots {
        override_positions(members, |name| {
            slots.get(name.as_str()).or_else(|| slots.get(&name_of_member(name.as_str()))).copied()
        });
        cluster.status.slots = Some(slots.clone());
    }
    Some(cluster)
}

/// LV-6, FS-5: the cluster as the leader sees it that everybody promised not to lead: members told how far they are, so
/// that slots can follow.
pub fn with_positions(cluster: &Cluster, positions: &BTreeMap<MemberName, Lsn>) -> Cluster {
    let mut cluster = cluster.clone();
    let members: &mut Vec<Member> = Arc::make_mut(&mut cluster.members);
    override_positions(members, |name| positions.get(name).copied());
    cluster
}

/// Also of those who stream from the leader and told the store where they were, unlike the contract (docs/compatibility.md): a
/// slot goes no further than its member says, and what the store has of it is of long ago.
fn override_positions(members: &mut [Member], position: impl Fn(&MemberName) -> Option<Lsn>) {
    for member in members {
        let told = member.data.tags().replicatefrom().is_some() || member.data.xlog_location().is_some();
        if told && let Some(lsn) = position(&member.name) {
            member.data.0.insert("xlog_location".into(), lsn.0.into());
        }
    }
}

/// A member of which nothing but its addresses is known.
fn url_only(name: &MemberName, conn_url: Option<&str>, api_url: &str) -> Member {
    let mut data = serde_json::Map::new();
    if let Some(conn_url) = conn_url {
        data.insert("conn_url".into(), conn_url.into());
    }
    data.insert("api_url".into(), api_url.into());
    Member { name: name.clone(), revision: 0, lease: None, data: MemberData(data) }
}

/// HA-213: those whom `/failsafe` names.
pub(crate) fn members(r: &Round<'_>) -> Vec<Member> {
    let entries = r.view.failsafe.iter().flatten().filter(|_| r.obs.settings.failsafe_mode);
    entries.map(|(name, url)| url_only(&MemberName(name.clone()), None, url)).collect()
}

/// Notes what a view says of `/failsafe`.
pub(crate) fn note_view(r: &mut Round<'_>, view: &Cluster) {
    let now = r.obs.now;
    let seen = &mut r.memory.failsafe;
    // A write on the condition of this revision may still be under way; on any other one it was carried out or never will be.
    if seen.revision != view.failsafe_revision {
        seen.written = None;
        seen.revision = view.failsafe_revision;
    }
    seen.members.clone_from(&view.failsafe);
    seen.off_since = if r.obs.settings.failsafe_mode { None } else { seen.off_since.or(Some(now)) };
}

/// UL-3, UL-4: the holder keeps `/failsafe` up to date. It is in it in any case, and so is everybody with an address.
pub(crate) fn write_key(r: &mut Round<'_>) {
    if !r.obs.settings.failsafe_mode {
        return;
    }
    let addresses = r
        .view
        .members
        .iter()
        .filter_map(|member| member.data.api_url().map(|url| (member.name.0.clone(), url.to_owned())));
    let mut members: BTreeMap<String, String> = addresses.collect();
    members.entry(r.obs.me.0.clone()).or_insert_with(|| r.obs.settings.api_url.clone());
    if r.view.failsafe.as_ref() == Some(&members) {
        return;
    }
    r.fired("UL-3", "/failsafe");
    let when = r.view.failsafe_revision.map_or(When::Absent, When::Revision);
    r.memory.failsafe.written.get_or_insert_default().extend(members.clone());
    r.request(Action::WriteFailsafe { members, when });
    // What was written counts for a round once it was seen.
    r.wake_within(SEEN_WITHIN);
}

/// What was written in a cycle that the store left half-way.
pub(crate) fn note_writes(r: &mut Round<'_>) {
    for (action, _) in &r.obs.outcomes {
        if let Action::WriteFailsafe { members, .. } = action {
            r.memory.failsafe.written.get_or_insert_default().extend(members.clone());
        }
    }
}

/// HA-212: whoever is not in `/failsafe` does not race, because the leader does not ask it. For as long as such a leader may
/// not have heard that the mode was switched off, that goes on. Safer than the contract (docs/compatibility.md): such a
/// leader is one of those whom `/failsafe` names, so where all of them answer, and none as a primary, there is none. Whoever
/// is ahead of all the others would keep them from taking over (HN-7) and may not take over itself otherwise.
/// `who`: this node, or one that it would leave the lock to.
pub(crate) fn keeps_from_racing(r: &mut Round<'_>, who: &MemberName) -> Step<bool> {
    let Some(named) = r.view.failsafe.as_ref().filter(|members| !members.is_empty()) else {
        return Ok(false);
    };
    if named.contains_key(&who.0) {
        return Ok(false);
    }
    let off_for = r.memory.failsafe.off_since.map(|since| r.obs.now.since(since));
    if !r.obs.settings.failsafe_mode && off_for.is_none_or(|off_for| off_for >= r.obs.settings.ttl) {
        return Ok(false);
    }
    let others: Vec<Member> = named
        .iter()
        .filter(|(name, _)| **name != r.obs.me.0)
        .map(|(name, url)| url_only(&MemberName(name.clone()), None, url))
        .collect();
    let asked: Vec<&Member> = others.iter().collect();
    let answers = candidates::ask_also_without_data(r, &asked)?;
    let silent: Vec<&str> = others
        .iter()
        .map(|member| member.name.as_str())
        .filter(|name| !answers.iter().any(|answer| answer.name.as_str() == *name && answer.in_recovery))
        .collect();
    if silent.is_empty() {
        return Ok(false);
    }
    r.fired("HA-212", format!("/failsafe does not name {who}, and may lead: {}", silent.join(", ")));
    Ok(true)
}

/// LV-4: a leader that everybody promised not to lead stays one until it has the lock again, or somebody else has it.
pub(crate) fn keeps_lease(r: &Round<'_>) -> bool {
    r.view.is_unlocked()
        && r.obs.postgres.is_primary()
        && r.memory.failsafe.until.is_some_and(|until| r.obs.now < until)
}

/// FS-8: another leader has this node's promise. Its view shows that one as the leader (LV-2), so this is rarely reached.
pub(crate) fn has_promised(r: &mut Round<'_>) -> bool {
    let Some(promise) = r.obs.promise.as_ref().filter(|promise| promise.holds_at(r.obs.now)) else {
        return false;
    };
    let binds = !r.obs.postgres.may_write();
    if binds {
        r.fired("FS-8", format!("promised {} not to lead", promise.to));
    }
    binds
}

/// A standby that has promised not to lead and finds the lock in its hands, because a race that nobody answered was won:
/// it gives the lock up, so that the other one can have it.
pub(crate) fn keeps_promise(r: &mut Round<'_>) -> Option<String> {
    let to = r.obs.promise.as_ref().map(|promise| promise.to.clone())?;
    if !has_promised(r) {
        return None;
    }
    r.release();
    Some(format!("released the leader lock: this node has promised {to} not to lead, in failsafe mode"))
}

/// HA-022, HA-256: the holder owes nobody a promise, and needs none.
pub(crate) fn clear(r: &mut Round<'_>, renewed: bool) {
    if !renewed || !r.obs.postgres.is_primary() {
        return;
    }
    if r.memory.failsafe.until.take().is_some() || r.obs.promise.is_some() {
        r.request(Action::ForgetFailsafe(r.obs.promise.as_ref().map(|promise| promise.until)));
    }
}

/// For how long the others may not take over from this node, which has led without the DCS a moment ago.
pub(crate) fn nobody_may_lead_for(r: &Round<'_>) -> Option<Duration> {
    let until = r.memory.failsafe.binds_until.filter(|until| r.obs.now < *until)?;
    Some(until.since(r.obs.now))
}

/// A promise is kept to its end, also where its leader is seen with another lock: one that it won without hearing of it
/// it does not lead by, and the promise lasts longer than that lock.
pub(crate) fn end_of_promise(r: &mut Round<'_>) {
    let (Some(promise), Some(leader)) = (&r.obs.promise, &r.view.leader) else { return };
    if promise.to == leader.name && leader.create_revision == 0 {
        // The leader of LV-2: when the promise is over, there is a race.
        r.wake_within(promise.until.since(r.obs.now));
    }
}

/// FS-1 to FS-5: may this primary go on without the DCS?
pub(crate) fn everybody_promises(r: &mut Round<'_>) -> Step<bool> {
    if !r.obs.settings.failsafe_mode {
        return Ok(false);
    }
    let me = r.obs.me.clone();
    let seen = r.memory.failsafe.clone();
    let Some(everybody) = seen.everybody(&me) else {
        r.fired("FS-1", "/failsafe does not name this node");
        return Ok(false);
    };
    let others = everybody.into_iter().filter(|(name, _)| *name != me.as_str());
    let others: Vec<PeerAddress> =
        others.map(|(name, url)| PeerAddress { name: name.into(), api_url: url.into() }).collect();
    r.fired(if others.is_empty() { "FS-2" } else { "FS-3" }, format!("{} others", others.len()));
    match r.need(Action::AskFailsafe(others))? {
        Outcome::Promised { until, .. } => {
            r.fired("FS-5", "everybody promised not to lead");
            r.memory.failsafe.until = Some(*until);
            r.memory.failsafe.binds_until = Some(*until);
            Ok(true)
        }
        Outcome::Refused(reason) | Outcome::Failed(reason) | Outcome::NoAnswer { reason, .. } => {
            r.fired("FS-5", reason.clone());
            Ok(false)
        }
        other => {
            r.fired("FS-5", format!("unexpected outcome {other:?}"));
            Ok(false)
        }
    }
}
