//! Whether the local WAL must be rewound, and what to do about it (contract B.20).

use ptarmigan_types::{Member, MemberName, Role, version};

use crate::{
    action::{Action, Divergence, Job, Outcome},
    memory::{RewindState, Source},
    observation::{ControlState, JobKind},
    recover,
    round::{Round, Step, finish},
    standby,
    upstream::Upstream,
};

/// RW-2: the question is open again.
pub(crate) fn trigger(r: &mut Round<'_>, why: &str) {
    let settings = &r.obs.settings;
    let postgres = &r.obs.postgres;
    let worth_asking = postgres.rewind_possible
        || postgres.inconsistent_copy
        || settings.remove_data_directory_on_diverged_timelines;
    if worth_asking && r.memory.rewind != RewindState::Need {
        r.fired("RW-2", why);
        r.memory.rewind = RewindState::Check;
    }
}

/// `pg_rewind` came to its end. Where the source went on to another timeline meanwhile, that one may be ours by number, and
/// `pg_rewind` had nothing to do. Of the remote end of a standby cluster nobody tells us that, so it is asked again.
pub(crate) fn done(r: &mut Round<'_>) {
    let source = usable_source(r).map(|source| source.known);
    let same = source.is_some() && source == r.memory.rewind_against && source != Some(Source::remote());
    r.memory.rewind = if same { RewindState::Success } else { RewindState::Check };
}

/// RW-10: answers the question if it is open, and acts where the answer is yes.
pub(crate) fn act(r: &mut Round<'_>) -> Step<()> {
    remove_after_failure(r)?;
    let Some(source) = usable_source(r) else { return Ok(()) };
    // An answer holds for one source. Where the server was down, or follows another standby, nothing else tells that somebody
    // else leads by now; where the remote member's history went, nobody in the cluster need have gone.
    let elsewhere = |against: &Source| against.leader != *source.upstream();
    let answered = matches!(r.memory.rewind, RewindState::NotNeed | RewindState::Success);
    if answered && r.memory.rewind_against.as_ref().is_some_and(elsewhere) {
        trigger(r, "the answer was for another source");
    }
    // It accepts no connections, so that nothing else would tell; and the one that was copied may lead no more.
    let asked = answered && r.memory.rewind_against.as_ref() == Some(&source.known);
    if r.obs.postgres.inconsistent_copy && !asked {
        trigger(r, "a copy that is not consistent yet");
    }
    // Safer than the contract (docs/compatibility.md): somebody else may have begun this very timeline too, and pg_rewind
    // would find nothing to do.
    if r.memory.rewind == RewindState::Need && r.memory.rewind_against.as_ref() != Some(&source.known) {
        r.fired("RW-4", format!("{} leads on another timeline by now: asking again", source.upstream()));
        r.memory.rewind = RewindState::Check;
    }
    if r.memory.rewind == RewindState::Check {
        check(r, &source)?;
    }
    if r.memory.rewind != RewindState::Need {
        return Ok(());
    }
    if r.obs.postgres.inconsistent_copy {
        return never_consistent(r, &source);
    }
    if r.obs.postgres.rewind_possible {
        if !r.obs.postgres.running && r.obs.postgres.control_state == ControlState::InArchiveRecovery {
            recover::crash_recovery(r)?;
        }
        return rewind(r, &source);
    }
    if r.obs.settings.remove_data_directory_on_diverged_timelines && !r.in_standby_cluster() {
        r.fired("RW-10", "reinitialize");
        r.hold_back(JobKind::Reinitialize)?;
        r.memory.rewind = RewindState::Initial;
        let source = Some(source.known.leader);
        return r.start(Job::Reinitialize { source }, "reinitializing due to diverged timelines");
    }
    r.fired("RW-10", "diverged, and neither pg_rewind nor removing the data directory is possible");
    Ok(())
}

/// Whom the local WAL is compared with: in a standby cluster the remote member, else the leader.
struct Compared<'a> {
    known: Source,
    /// Its key; `None` for the remote member.
    member: Option<&'a Member>,
}

impl Compared<'_> {
    const fn upstream(&self) -> &Upstream {
        &self.known.leader
    }

    /// RW-6. The remote member publishes nothing here; by SQL both are asked whether they are in recovery.
    fn is_no_primary_yet(&self) -> bool {
        self.member.is_some_and(|leader| leader.data.role() != Some(Role::Primary))
    }
}

/// RW-4: one that is not me, with an address.
fn usable_source<'a>(r: &Round<'a>) -> Option<Compared<'a>> {
    if r.in_standby_cluster() {
        let remote = Compared { known: Source::remote(), member: None };
        return standby::has_address(r, remote.upstream()).then_some(remote);
    }
    let leader = r.view.leader_member();
    let leader = leader.filter(|leader| leader.name != r.obs.me && leader.data.conn_url().is_some())?;
    Some(Compared { known: Source::of(leader), member: Some(leader) })
}

/// The leader that the question waits for, because it is no primary yet. A server whose WAL had left that of the leader before
/// has probably left this one's too, and would wait for WAL that nobody has.
pub(crate) fn awaits(r: &Round<'_>) -> Option<MemberName> {
    let source = usable_source(r).filter(Compared::is_no_primary_yet)?;
    let leader = source.member.filter(|_| r.memory.rewind == RewindState::Check)?;
    Some(leader.name.clone())
}

fn check(r: &mut Round<'_>, source: &Compared<'_>) -> Step<()> {
    if source.is_no_primary_yet() {
        r.fired("RW-6", format!("{} does not publish the role of a primary", source.upstream()));
        return Ok(());
    }
    let outcome = r.need(Action::CheckDivergence { upstream: source.upstream().clone() })?;
    match outcome {
        Outcome::Divergence(Divergence::Diverged) => {
            r.fired("RW-8", "diverged");
            r.memory.rewind = RewindState::Need;
            r.memory.rewind_against = Some(source.known.clone());
        }
        Outcome::Divergence(Divergence::SameHistory) => {
            r.fired("RW-8", "same history");
            r.memory.rewind = RewindState::NotNeed;
            r.memory.rewind_against = Some(source.known.clone());
        }
        Outcome::Divergence(Divergence::SameTimelineTwice) => return begun_twice(r, source),
        _ => r.fired("RW-5", "not to be told now"),
    }
    Ok(())
}

/// The same number, another timeline: `pg_rewind` would find nothing to do, and a server started like this could take
/// the leader's WAL for the continuation of its own. The question stays open: it is asked again where a copy fails, or
/// somebody else leads.
fn begun_twice(r: &mut Round<'_>, source: &Compared<'_>) -> Step<()> {
    r.fired(
        "RW-7",
        format!(
            "{} and this node began the same timeline independently: pg_rewind cannot repair this, `ptctl reinit` does",
            source.upstream()
        ),
    );
    copy_anew(r, source)?;
    if r.obs.postgres.running {
        return Ok(());
    }
    finish(format!(
        "not starting: began the timeline of {} independently, needs `ptctl reinit`",
        source.upstream()
    ))
}

/// Where the operator allows it, a data directory that `pg_rewind` cannot repair is made a copy of the source's.
fn copy_anew(r: &mut Round<'_>, source: &Compared<'_>) -> Step<()> {
    if !removes_data_directory(r) || r.in_standby_cluster() || r.is_paused() {
        return Ok(());
    }
    r.hold_back(JobKind::Reinitialize)?;
    let source = Some(source.upstream().clone());
    r.start(Job::Reinitialize { source }, "reinitializing due to diverged timelines")
}

/// Safer than the contract (docs/compatibility.md). The one that was copied is gone before all the WAL of that time had
/// arrived, and the leader's history is without it. `pg_rewind` would be content with such a data directory once it is
/// stopped, and would leave in it what only the lost WAL tells of: it looks for that in the WAL that is here.
fn never_consistent(r: &mut Round<'_>, source: &Compared<'_>) -> Step<()> {
    r.fired("RW-10", format!("a copy that lacks WAL which {}'s history is without", source.upstream()));
    // A standby leader: others may be sound.
    if r.has_lock() && !r.obs.postgres.running {
        r.release();
    }
    copy_anew(r, source)?;
    finish(format!(
        "cannot follow {}: this copy's WAL was lost with the one copied, needs `ptctl reinit`",
        source.upstream()
    ))
}

/// Safer than the contract (docs/compatibility.md): PostgreSQL never runs on what an interrupted `pg_rewind` has left. It may
/// be run again from the very same source; from any other one it would take for its own what the first one had brought.
pub(crate) fn unfinished(r: &mut Round<'_>) -> Step<()> {
    let Some(begun) = &r.obs.postgres.unfinished_rewind else { return Ok(()) };
    if r.has_lock() {
        r.release();
    }
    remove_after_failure(r)?;
    let from = &begun.leader;
    let Some(source) = usable_source(r) else {
        r.fired("RW-10", format!("pg_rewind from {from} is unfinished, and nobody to compare with"));
        return finish(format!("not starting: pg_rewind from {from} was interrupted, waiting for a leader"));
    };
    if source.known.may_be(begun) && r.memory.rewind != RewindState::Failed && r.obs.postgres.rewind_possible
    {
        if source.is_no_primary_yet() {
            r.fired("RW-6", format!("{from} does not publish the role of a primary"));
            r.wake_within(std::time::Duration::from_secs(1));
            return finish(format!("not starting: pg_rewind from {from} was interrupted, waiting for it"));
        }
        r.memory.rewind = RewindState::Need;
        r.memory.rewind_against = Some(source.known.clone());
        return rewind(r, &source);
    }
    r.fired("RW-10", format!("pg_rewind from {from} is unfinished, and {} leads", source.upstream()));
    copy_anew(r, &source)?;
    finish(format!("not starting: pg_rewind from {from} was interrupted, needs `ptctl reinit`"))
}

/// RW-12: the source must have made its checkpoint after promotion, or pg_rewind reads the old timeline.
fn rewind(r: &mut Round<'_>, source: &Compared<'_>) -> Step<()> {
    let data = source.member.map(|leader| &leader.data);
    let version = data.and_then(|data| data.version()).and_then(version::parse);
    let speaks = version.is_some_and(|version| version > vec![1, 5, 6]);
    if speaks && data.is_some_and(|data| data.checkpoint_after_promote().is_some()) {
        r.fired("RW-12", format!("{} has not made its checkpoint yet", source.upstream()));
        r.wake_within(std::time::Duration::from_millis(500));
        return finish(format!("waiting for checkpoint on {} before rewind", source.upstream()));
    }
    r.hold_back(JobKind::Rewind)?;
    r.fired("RW-10", format!("rewind from {}", source.upstream()));
    let line = format!("running pg_rewind from {}", source.upstream());
    r.start(Job::Rewind { leader: source.upstream().clone(), checkpoint_first: !speaks }, line)
}

const fn removes_data_directory(r: &Round<'_>) -> bool {
    r.obs.settings.remove_data_directory_on_rewind_failure
        || r.obs.settings.remove_data_directory_on_diverged_timelines
}

/// RW-17.
fn remove_after_failure(r: &mut Round<'_>) -> Step<()> {
    if r.memory.rewind != RewindState::Failed || !removes_data_directory(r) || r.obs.postgres.running {
        return Ok(());
    }
    r.fired("RW-17", "");
    r.memory.rewind = RewindState::Initial;
    r.request(Action::RemoveDataDirectory);
    r.wake_within(std::time::Duration::ZERO);
    finish("removed the data directory after pg_rewind had failed")
}
