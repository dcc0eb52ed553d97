//! Who could be a synchronous standby, and who is one for certain (contract B.21, definitions).

use std::collections::BTreeMap;

use ptarmigan_types::{Lsn, Member, MemberName};

use super::{Facts, Mode, NameSet, Settings, StandbyNames};

/// A standby that streams from here, and is a member that may be synchronous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The member.
    pub name: MemberName,
    /// Its `sync_priority`.
    pub priority: i64,
    /// What the server calls it.
    pub sync_state: String,
    /// Its position.
    pub lsn: Lsn,
    /// It may not become primary.
    pub nofailover: bool,
}

/// The candidates in order of preference: by priority, by what they are already, by position; those that may become
/// primary first.
pub fn candidates(facts: &Facts, members: &[Member], me: &MemberName) -> Vec<Candidate> {
    let eligible: BTreeMap<String, &Member> = members
        .iter()
        .filter(|member| member.data.is_running() && !member.data.tags().nosync())
        .map(|member| (member.name.as_str().to_lowercase(), member))
        .filter(|(key, _)| *key != me.as_str().to_lowercase())
        .collect();
    let streams: BTreeMap<String, (&str, Lsn)> = streaming(facts);
    let mut found: Vec<Candidate> = Vec::new();
    for (key, member) in &eligible {
        let Some((sync_state, lsn)) = streams.get(key) else { continue };
        if should_cascade(member, &eligible, &streams) {
            continue;
        }
        let tags = member.data.tags();
        found.push(Candidate {
            name: member.name.clone(),
            priority: tags.sync_priority(),
            sync_state: (*sync_state).to_owned(),
            lsn: *lsn,
            nofailover: tags.nofailover(),
        });
    }
    let key = |candidate: &Candidate| (candidate.priority, candidate.sync_state.clone(), candidate.lsn);
    found.sort_by_key(|candidate| std::cmp::Reverse(key(candidate)));
    found.sort_by_key(|candidate| candidate.nofailover);
    found
}

/// Those that stream and tell their position, by name in lower case. Of two connections of one name (the server has not
/// noticed yet that one is dead) the one counts that is further.
fn streaming(facts: &Facts) -> BTreeMap<String, (&str, Lsn)> {
    let mut streams: BTreeMap<String, (&str, Lsn)> = BTreeMap::new();
    for row in facts.standbys.iter().filter(|row| row.state == "streaming") {
        let Some(lsn) = row.lsn else { continue };
        let known = streams.entry(row.application_name.to_lowercase()).or_insert((&row.sync_state, lsn));
        known.0 = known.0.max(row.sync_state.as_str());
        known.1 = known.1.max(lsn);
    }
    streams
}

/// A member that shall stream from another one which streams from here, directly or by others, gets its WAL from there:
/// that it is connected here is for the moment.
fn should_cascade(
    member: &Member,
    eligible: &BTreeMap<String, &Member>,
    streams: &BTreeMap<String, (&str, Lsn)>,
) -> bool {
    let mut next = member.data.tags().replicatefrom();
    // No chain is longer than there are members: a circle ends nowhere.
    for _ in 0..=eligible.len() {
        let Some(upstream) = next else { return false };
        let key = upstream.as_str().to_lowercase();
        let Some(member) = eligible.get(&key) else { return false };
        next = member.data.tags().replicatefrom();
        if next.is_none() {
            return streams.contains_key(&key);
        }
    }
    false
}

/// Who should be synchronous now.
pub fn active(candidates: &[Candidate], settings: &Settings, own: Lsn) -> NameSet {
    let wanted = usize::try_from(settings.node_count.max(settings.least())).unwrap_or(usize::MAX);
    let furthest = match candidates {
        [_, _, ..] => candidates.iter().map(|candidate| candidate.lsn).max().unwrap_or(own),
        _ => own,
    };
    let near = |candidate: &&Candidate| {
        settings.maximum_lag_bytes.is_none_or(|limit| furthest.bytes_ahead_of(candidate.lsn) <= limit)
    };
    let near: Vec<&Candidate> = candidates.iter().filter(near).collect();
    // Nobody is asked for: also with a quorum, where zero of them is not to be had.
    if settings.mode != Mode::Quorum || wanted == 0 {
        return near.iter().take(wanted).map(|candidate| candidate.name.clone()).collect();
    }
    // A standby that cannot become primary makes the others' agreement less likely, so it counts only where it must.
    let mut active = NameSet::default();
    for candidate in near {
        if !candidate.nofailover || active.len() < wanted {
            active.insert(candidate.name.clone());
        }
    }
    active
}

/// Which of `active` the server counts as synchronous by these names. Names of priority mode stay for a while after a switch
/// to quorum mode (QS-4), and who is first among them has every commit: it counts, or the switch would wait for ever.
pub fn counted(candidates: &[Candidate], active: &NameSet, mode: Mode, names: &StandbyNames) -> NameSet {
    let counts = |state: &str| state == "sync" || (state == "quorum" && mode == Mode::Quorum);
    candidates
        .iter()
        .filter(|candidate| active.contains(&candidate.name) && names.members.contains(&candidate.name))
        .filter(|candidate| counts(&candidate.sync_state))
        .map(|candidate| candidate.name.clone())
        .collect()
}

/// Every member that is known to have got as far as this.
pub fn passed(facts: &Facts, position: Lsn) -> NameSet {
    let streams = streaming(facts);
    let far = streams.into_iter().filter(|(_, (_, lsn))| *lsn >= position);
    far.map(|(name, _)| MemberName(name)).collect()
}
