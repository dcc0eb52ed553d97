//! What the steps of both modes have in common: what they start from, and how they change the two places.

use std::time::Duration;

use ptarmigan_types::{MemberName, Monotonic, Revision, SyncState};
use serde::{Deserialize, Serialize};

use super::{
    Mode, NameSet, Settings, StandbyNames, Wanted, candidates,
    candidates::Candidate,
    priority, quorum_commit,
    standby_names::{self, Abilities},
};
use crate::{
    action::{Action, Outcome, When},
    round::{Round, Step},
};

/// How soon to look again after a change of the names.
const SOON: Duration = Duration::from_millis(100);

/// For how long it is looked again so soon; after that a standby catches up, and takes its time.
const SOON_FOR: Duration = Duration::from_secs(3);

/// How soon to look again after what cannot be hurried.
const LATER: Duration = Duration::from_secs(1);

/// How long a server may take to read a changed configuration; where it shows another value then, somebody else set that.
const READS_WITHIN: Duration = Duration::from_secs(10);

/// What a leader remembers of synchronous replication.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The names that every process of the server goes by.
    pub settled: Option<Settled>,
    /// The life of the postmaster in which commits are known to wait for somebody, whoever that is.
    #[serde(default)]
    pub waits_in: Option<String>,
    /// What this leader told the server last. As long as it shows another value, that one is on its way out.
    #[serde(default)]
    pub told: Option<Told>,
    /// The revision of `/sync` that this leader wrote itself: no write that was asked for before can follow it any more.
    pub fenced: Option<Revision>,
    /// Since when the two places are not what they should be.
    pub changing_since: Option<Monotonic>,
    /// The create revision of the lock that was won because an operator named this node.
    pub wished: Option<Revision>,
    /// The revision of `/sync` by which this node may be promoted.
    pub raced_on: Option<Revision>,
}

/// Names that the server was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// `synchronous_standby_names`; `None`: the configuration's.
    pub names: Option<String>,
    /// When.
    pub at: Monotonic,
}

/// Names that are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// `synchronous_standby_names`.
    pub names: String,
    /// In which life of the postmaster.
    pub postmaster: Option<String>,
    /// What was acknowledged under other names is below this position.
    pub position: ptarmigan_types::Lsn,
}

/// HA-253: what a primary that holds the lock does for synchronous replication in a cycle.
pub(crate) fn replicate(r: &mut Round<'_>) -> Step<()> {
    let settings = r.obs.settings.synchronous;
    if settings.mode == Mode::Off {
        return off(r);
    }
    let Some(mut places) = Places::observe(r)? else { return Ok(()) };
    match settings.mode {
        Mode::Priority => priority::steps(r, &mut places),
        _ => quorum_commit::steps(r, &mut places),
    }
}

/// B.21, "mode off": `/sync` goes first, and then the names are the operator's again.
pub(crate) fn off(r: &mut Round<'_>) -> Step<()> {
    let sync = &r.view.sync;
    if !sync.is_empty() {
        let deleted = matches!(r.need(Action::DeleteSync(sync.revision))?, Outcome::Written(_));
        r.fired(
            "B.21",
            if deleted { "/sync deleted: synchronous mode is off" } else { "/sync is not deleted" },
        );
        r.memory.synchronous.fenced = None;
        if !deleted {
            r.wake_within(LATER);
            return Ok(());
        }
    }
    if r.obs.postgres.synchronous.owned {
        r.need(Action::SetStandbyNames(Wanted::Configured))?;
        r.memory.synchronous.told = Some(Told { names: None, at: r.obs.now });
        r.memory.synchronous.settled = None;
    }
    Ok(())
}

/// The state of the two places, and of the standbys.
pub(crate) struct Places {
    pub(crate) settings: Settings,
    /// `/sync`, with what this cycle wrote.
    pub(crate) sync: SyncState,
    /// `synchronous_standby_names` in force.
    pub(crate) text: String,
    pub(crate) names: StandbyNames,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) active: NameSet,
    /// Whoever has everything that was acknowledged before these names were in force; nobody as long as that is not known.
    pub(crate) passed: NameSet,
}

impl Places {
    /// `None` where the server did not answer: nothing is decided on what it was a cycle ago.
    fn observe(r: &mut Round<'_>) -> Step<Option<Self>> {
        let postgres = &r.obs.postgres;
        let facts = &postgres.synchronous;
        let (Some(text), Some(own)) = (facts.names.clone(), postgres.lsn()) else { return Ok(None) };
        if is_changing(r, &text) {
            look_again(r);
            return Ok(None);
        }
        let settings = r.obs.settings.synchronous;
        let candidates = candidates::candidates(facts, &r.view.members, &r.obs.me);
        let active = candidates::active(&candidates, &settings, own);
        let passed = settled(r, &text)?;
        Ok(Some(Self {
            settings,
            sync: r.view.sync.clone(),
            names: StandbyNames::in_force(&text),
            text,
            candidates,
            active,
            passed: passed.map(|position| candidates::passed(facts, position)).unwrap_or_default(),
        }))
    }

    /// Who may be promoted besides the leader.
    pub(crate) fn voters(&self) -> NameSet {
        self.sync.standbys.iter().cloned().collect()
    }

    /// Counted as synchronous by the server, and with everything that was acknowledged before it was.
    pub(crate) fn confirmed(&self, me: &MemberName) -> NameSet {
        let counted = candidates::counted(&self.candidates, &self.active, self.settings.mode, &self.names);
        // Where every single voter must have every commit, the key itself says who has.
        let by_key = self.settings.mode == Mode::Priority
            && self.sync.quorum == 0
            && self.sync.leader_matches(me.as_str());
        let listed = if by_key { self.voters() } else { NameSet::default() };
        counted.and(&self.passed.or(&listed))
    }

    /// Writes `/sync`, naming this node as its leader; false: the steps end here.
    pub(crate) fn write_sync(
        &mut self,
        r: &mut Round<'_>,
        rule: &'static str,
        standbys: &NameSet,
        quorum: u32,
    ) -> Step<bool> {
        let written = write_sync(r, &self.sync, rule, standbys, quorum)?;
        if let Some(written) = written {
            self.sync = written;
            return Ok(true);
        }
        Ok(false)
    }

    /// Sets the names; what comes after it is the next cycle's business, when they are in force.
    pub(crate) fn set_names(
        &mut self,
        r: &mut Round<'_>,
        rule: &'static str,
        names: &NameSet,
        count: Option<u32>,
    ) -> Step<()> {
        let text = self.print(names, count);
        if text == self.text {
            return Ok(());
        }
        // A write of /sync that was given up may still be on its way, and would promise what the names do not keep any more.
        if r.memory.synchronous.fenced != Some(self.sync.revision) {
            let leader = self.sync.leader.clone();
            let Some(written) = write_as(r, &self.sync, rule, &self.voters(), self.sync.quorum, leader)?
            else {
                return Ok(());
            };
            self.sync = written;
        }
        let set = tell(r, &text)?;
        r.memory.synchronous.settled = None;
        r.fired(rule, format!("synchronous_standby_names {:?}{}", text, if set { "" } else { ": not set" }));
        look_again(r);
        Ok(())
    }

    pub(crate) fn print(&self, names: &NameSet, count: Option<u32>) -> String {
        standby_names::print(self.settings.mode, names, count, Abilities::ALL)
    }

    /// B.21, strict handling; true: "held", nobody is there and nothing else is to be done.
    pub(crate) fn hold(&mut self, r: &mut Round<'_>, rule: &'static str, voters: &NameSet) -> Step<bool> {
        let least = self.settings.least();
        let quorum = if self.settings.mode == Mode::Quorum { self.sync.quorum } else { 0 };
        if size(&self.active) < least {
            let count = least.max(size(voters).saturating_sub(quorum));
            let line = "No active replication connections from Patroni members and synchronous_mode_strict is requested";
            r.fired(rule, format!("{line}: commits wait for {voters}"));
            self.set_names(r, rule, voters, Some(count))?;
            r.wake_within(LATER);
            return Ok(true);
        }
        if least == 0 && self.active.is_empty() && voters.is_empty() && !self.text.is_empty() {
            self.set_names(r, rule, &NameSet::default(), None)?;
        }
        Ok(false)
    }
}

/// Sets the names; false: they are not set.
pub(crate) fn tell(r: &mut Round<'_>, text: &str) -> Step<bool> {
    let set = matches!(r.need(Action::SetStandbyNames(Wanted::Text(text.to_owned())))?, Outcome::Done);
    if set {
        r.memory.synchronous.told = Some(Told { names: Some(text.to_owned()), at: r.obs.now });
    }
    Ok(set)
}

/// The server was told other names than those that it shows, and has not read them yet. Found by the simulation: names that
/// were taken back and given again looked as if they had been in force all the time.
pub(crate) fn is_changing(r: &mut Round<'_>, text: &str) -> bool {
    let Some(told) = &r.memory.synchronous.told else { return false };
    let (read, waited) = (told.names.as_deref() == Some(text), r.obs.now.since(told.at));
    // What the configuration says is not known here: it gets a moment.
    let limit = if told.names.is_some() { READS_WITHIN } else { LATER };
    let changing = !read && waited < limit;
    if changing {
        r.fired("B.21", format!("synchronous_standby_names {text:?} is being changed"));
    }
    changing
}

/// Writes `/sync` over the one that is known; `None`: somebody else changed it, or nobody answered.
pub(crate) fn write_sync(
    r: &mut Round<'_>,
    known: &SyncState,
    rule: &'static str,
    standbys: &NameSet,
    quorum: u32,
) -> Step<Option<SyncState>> {
    let me = Some(r.obs.me.clone());
    write_as(r, known, rule, standbys, quorum, me)
}

fn write_as(
    r: &mut Round<'_>,
    known: &SyncState,
    rule: &'static str,
    standbys: &NameSet,
    quorum: u32,
    leader: Option<MemberName>,
) -> Step<Option<SyncState>> {
    let when = if known.revision == 0 { When::Absent } else { When::Revision(known.revision) };
    let state = SyncState { leader, standbys: standbys.to_vec(), quorum, revision: 0 };
    let outcome = r.need(Action::WriteSync { state: state.clone(), when })?;
    if let Outcome::Written(revision) = outcome {
        r.fired(rule, format!("/sync names {standbys}, quorum {quorum}"));
        r.memory.synchronous.fenced = Some(*revision);
        return Ok(Some(SyncState { revision: *revision, ..state }));
    }
    r.fired(rule, format!("/sync is not written: {outcome:?}"));
    r.memory.synchronous.fenced = None;
    r.wake_within(LATER);
    Ok(None)
}

/// Up to where everything was acknowledged under other names than these; `None` as long as they are not in force
/// everywhere.
fn settled(r: &mut Round<'_>, text: &str) -> Step<Option<ptarmigan_types::Lsn>> {
    let postmaster = r.obs.postgres.postmaster_start_time.clone();
    let known = r.memory.synchronous.settled.clone();
    let same_life = known.as_ref().is_some_and(|known| known.postmaster == postmaster);
    if text.is_empty() {
        r.memory.synchronous.settled = None;
        r.memory.synchronous.waits_in = None;
        return Ok(None);
    }
    if let Some(known) = known.as_ref().filter(|known| same_life && known.names == text) {
        return Ok(Some(known.position));
    }
    // Names that are named again later begin anew: in between others were.
    r.memory.synchronous.settled = None;
    if let Some(position) = ask(r, text)? {
        r.memory.synchronous.settled = Some(Settled { names: text.to_owned(), postmaster, position });
        look_again(r);
        return Ok(Some(position));
    }
    look_again(r);
    Ok(None)
}

/// Whether every process goes by these names. Where nobody was named before, commits may wait for nobody yet.
pub(crate) fn ask(r: &mut Round<'_>, text: &str) -> Step<Option<ptarmigan_types::Lsn>> {
    let postmaster = r.obs.postgres.postmaster_start_time.clone();
    let from_nothing = postmaster.is_none() || r.memory.synchronous.waits_in != postmaster;
    let question = Action::SettleStandbyNames { names: text.to_owned(), from_nothing };
    if let Outcome::Settled(Some(position)) = r.need(question)? {
        r.memory.synchronous.waits_in = postmaster;
        return Ok(Some(*position));
    }
    Ok(None)
}

/// The contract sleeps and looks again (SY-8, QS-5); here the cycle ends and the next one begins soon.
pub(crate) fn look_again(r: &mut Round<'_>) {
    let since = *r.memory.synchronous.changing_since.get_or_insert(r.obs.now);
    r.wake_within(if r.obs.now.since(since) < SOON_FOR { SOON } else { LATER });
}

/// Both places are as they should be.
pub(crate) fn steady(r: &mut Round<'_>) {
    r.memory.synchronous.changing_since = None;
}

pub(crate) fn size(names: &NameSet) -> u32 {
    u32::try_from(names.len()).unwrap_or(u32::MAX)
}
