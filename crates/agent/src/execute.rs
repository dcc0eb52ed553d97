//! Carries actions out. The only place where a decision becomes an effect.

use std::{sync::Arc, time::Duration};

use ptarmigan_dcs::{Condition, Error as DcsError, Verdict, Written};
use ptarmigan_ha::{Action, Outcome, action::When};
use ptarmigan_types::{Key, Leader, LeaseId, MemberData, Monotonic, pyjson};
use serde_json::json;

use crate::{
    beside, failsafe, history, jobs, lease::Asked, local, node::Node, peers, planned, publish, server, slots,
    status, synchronous,
};

/// What an unusual action asks of the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Whether PostgreSQL is stopped first.
    pub stop_postgres: bool,
    /// For the log.
    pub reason: String,
}

/// Carries one action out. `Err`: the process is to end.
pub async fn execute(node: &Arc<Node>, action: &Action) -> Result<Outcome, Exit> {
    let outcome = match action {
        Action::Exit { stop_postgres, reason } => {
            return Err(Exit { stop_postgres: *stop_postgres, reason: reason.clone() });
        }
        Action::AskFailsafe(members) => failsafe::ask(node, members).await,
        Action::ForgetFailsafe(until) => {
            node.failsafe.forget(*until).await;
            Outcome::Done
        }
        Action::RenewLock(_)
        | Action::AcquireLock
        | Action::ReleaseLock(_)
        | Action::ForgetLease
        | Action::WriteStatus
        | Action::WriteMember
        | Action::WriteInitialize { .. }
        | Action::DeleteInitialize
        | Action::WriteConfig
        | Action::ChangeConfig { .. }
        | Action::WriteFailsafe { .. }
        | Action::ClearFailover(_)
        | Action::WriteSync { .. }
        | Action::DeleteSync(_)
        | Action::WriteFailover { .. }
        | Action::UpdateHistory(_)
        | Action::ReloadView(_) => within_lease(node, action).await,
        Action::AskPeers(peers) | Action::AskPeersAgain(peers) => {
            Outcome::Peers(peers::ask(node, peers).await)
        }
        Action::StartJob(job) => match jobs::begin(node, job.clone()) {
            Ok(()) => Outcome::Done,
            Err(refused) => Outcome::Failed(refused.to_string()),
        },
        Action::CancelJob => {
            node.jobs.cancel().await;
            Outcome::Done
        }
        Action::ClearScheduledRestart => {
            node.known().scheduled_restart = None;
            Outcome::Done
        }
        Action::ActivateWatchdog | Action::DisableWatchdog => crate::watchdog::execute(node, action),
        Action::ForgetIdentity => {
            node.forget_identity();
            Outcome::Done
        }
        Action::SetRole(role) => {
            node.postgres.set_role(*role);
            Outcome::Done
        }
        Action::SetState(state) => {
            node.postgres.set_state(*state);
            Outcome::Done
        }
        Action::RunCallback(event) => {
            server::tell(node, |callbacks, role| callbacks.run(*event, role));
            Outcome::Done
        }
        Action::SetStandbyNames(wanted) => in_time(node, synchronous::set(node, wanted)).await,
        Action::SettleStandbyNames { names, from_nothing } => {
            synchronous::settle(node, names, *from_nothing).await
        }
        Action::SyncSlots => in_time(node, slots::sync(node)).await,
        on_postgres => local::execute(node, on_postgres).await,
    };
    Ok(outcome)
}

/// A leader's PostgreSQL may be frozen, and its lease is to be renewed: what is not done is tried again in the next cycle.
async fn in_time(node: &Node, action: impl Future<Output = Outcome>) -> Outcome {
    if !node.leads() {
        return action.await;
    }
    let limit = crate::apply::patience(node);
    tokio::time::timeout(limit, action).await.unwrap_or_else(|_| {
        tracing::warn!("PostgreSQL does not answer within {limit:?}");
        Outcome::Failed(format!("no answer within {limit:?}"))
    })
}

/// The lock's own operations have their own limits. Everything else that a leader asks of the store together must leave
/// the time for another renewal: a store that fell silent right after the last one is found out while there is still
/// time to step down.
async fn within_lease(node: &Arc<Node>, action: &Action) -> Outcome {
    if matches!(action, Action::RenewLock(_) | Action::AcquireLock | Action::ForgetLease) || !node.leads() {
        return on_dcs(node, action).await;
    }
    let timing = node.configuration.timing();
    let limit = crate::fence::leads(node)
        .map_or(timing.retry_timeout, |leads| leads.for_the_rest(ptarmigan_clock::now()))
        .min(timing.retry_timeout);
    match tokio::time::timeout(limit, on_dcs(node, action)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let reason = format!("no answer within {limit:?}");
            tracing::warn!("DCS: {reason}");
            Outcome::NoAnswer { maybe: true, reason }
        }
    }
}

async fn on_dcs(node: &Arc<Node>, action: &Action) -> Outcome {
    match action {
        Action::RenewLock(held) => renew(node, held).await,
        Action::AcquireLock => {
            let outcome = acquire(node).await;
            planned::here("race: answered");
            outcome
        }
        Action::ReleaseLock(held) => {
            node.lease.give_up(held.create_revision);
            publish::publish(node);
            match node.dcs.release(held).await {
                Ok(true) => Outcome::Done,
                Ok(false) => Outcome::Refused("the lock was not mine any more".into()),
                Err(error) => no_answer(&error),
            }
        }
        Action::ForgetLease => {
            if node.lease.until().is_some() {
                node.lease.forget();
                publish::publish(node);
            }
            Outcome::Done
        }
        Action::WriteStatus => status::write(node).await,
        Action::WriteMember => write_member(node).await,
        Action::WriteInitialize { value, when } => {
            written(node.dcs.write(&Key::Initialize, value, condition(*when)).await)
        }
        Action::DeleteInitialize => written(node.dcs.delete(&Key::Initialize, Condition::Always).await),
        Action::WriteConfig => {
            let text = pyjson::compact_map(&node.configuration.dynamic());
            written(node.dcs.write(&Key::Config, &text, Condition::Always).await)
        }
        Action::ChangeConfig { value, revision } => {
            written(node.dcs.write(&Key::Config, value, Condition::Revision(*revision)).await)
        }
        Action::WriteFailsafe { members, when } => {
            let text = pyjson::compact(&json!(members));
            written(node.dcs.write(&Key::Failsafe, &text, condition(*when)).await)
        }
        Action::WriteFailover { value, revision } => {
            written(node.dcs.write(&Key::Failover, value, Condition::Revision(*revision)).await)
        }
        Action::ClearFailover(when) => written(node.dcs.write(&Key::Failover, "{}", condition(*when)).await),
        Action::WriteSync { state, when } => {
            with_revision(node.dcs.write(&Key::Sync, &state.to_json(), condition(*when)).await)
        }
        Action::DeleteSync(revision) => {
            with_revision(node.dcs.delete(&Key::Sync, Condition::Revision(*revision)).await)
        }
        Action::UpdateHistory(timeline) => history::update(node, *timeline).await,
        _ => match crate::observe::view(node).await {
            Ok(view) => Outcome::View(view),
            Err(reason) => Outcome::NoAnswer { maybe: false, reason },
        },
    }
}

/// A race: not while another leader has this node's promise, and no promise is given before it is over. A primary that
/// goes on without a lock, because everybody promised that, waits for the store only as long as it does for a renewal.
async fn acquire(node: &Node) -> Outcome {
    let _race = match node.failsafe.begin() {
        Ok(race) => race,
        Err(other) => return Outcome::Refused(format!("promised {other} not to lead")),
    };
    let (asked, begin) = (node.lease.ask(), ptarmigan_clock::now());
    if !node.leads() {
        return verdict(node, asked, begin, node.dcs.acquire().await);
    }
    match tokio::time::timeout(patience(node), node.dcs.acquire()).await {
        Ok(answer) => verdict(node, asked, begin, answer),
        Err(_) => Outcome::NoAnswer { maybe: true, reason: "the race was not answered in time".into() },
    }
}

/// A leader waits for the store only as long as there is time left to ask the others for their promise (failsafe mode), and
/// to stop, before somebody else may lead.
pub(crate) fn patience(node: &Node) -> Duration {
    let retry_timeout = node.configuration.timing().retry_timeout;
    let failsafe = node.configuration.with(|settings| settings.global.failsafe_mode);
    crate::fence::leads(node)
        .map_or(retry_timeout, |leads| leads.for_store(ptarmigan_clock::now(), retry_timeout, failsafe))
}

async fn renew(node: &Node, held: &Leader) -> Outcome {
    if node.lease.is_given_up(held.create_revision) {
        return release_again(node, held).await;
    }
    let (beside, written) = beside::unwritten(node);
    let (asked, begin) = (node.lease.ask(), ptarmigan_clock::now());
    let answer = tokio::time::timeout(patience(node), node.dcs.renew_beside(held, &beside)).await;
    match &answer {
        Ok(Ok((_, true))) => beside::carried(node, written),
        Ok(Ok((_, false))) => {}
        _ => node.margin.note_silence(ptarmigan_clock::now().since(begin)),
    }
    match answer {
        Ok(answer) => verdict(node, asked, begin, answer.map(|(verdict, _)| verdict)),
        Err(_) => Outcome::NoAnswer { maybe: true, reason: "the renewal was not answered in time".into() },
    }
}

/// A release that nobody answered may still be on its way: a lock that was given up is given up for good, and nobody else
/// can lead before it is gone.
async fn release_again(node: &Node, held: &Leader) -> Outcome {
    tracing::warn!("the leader lock was given up and is still there: releasing it again");
    match tokio::time::timeout(patience(node), node.dcs.release(held)).await {
        Ok(Ok(_)) => Outcome::Refused("this lock was given up".into()),
        Ok(Err(error)) => no_answer(&error),
        Err(_) => Outcome::NoAnswer { maybe: true, reason: "the release was not answered in time".into() },
    }
}

/// `begin`: when it was asked for.
fn verdict(node: &Node, asked: Asked, begin: Monotonic, answer: Result<Verdict, DcsError>) -> Outcome {
    match answer {
        Ok(Verdict::Held(grant)) if node.lease.is_given_up(grant.create_revision) => {
            Outcome::Refused("this lock was given up, and is not released yet".into())
        }
        Ok(Verdict::Held(grant)) => {
            let until = grant.valid_until();
            note_margin(node, begin);
            node.lease.grants(grant.ttl);
            node.lease.hold(asked, until);
            node.watchdog().keepalive();
            publish::publish(node);
            Outcome::Held { until, waited: ptarmigan_clock::now().since(begin) }
        }
        Ok(Verdict::Refused(reason)) => {
            node.lease.forget();
            publish::publish(node);
            tracing::warn!("the leader lock was refused: {reason}");
            Outcome::Refused(reason)
        }
        Err(error) => no_answer(&error),
    }
}

/// What the store took, and what was left of the lease before this answer.
fn note_margin(node: &Node, begin: Monotonic) {
    let now = ptarmigan_clock::now();
    let ttl = node.configuration.timing().ttl;
    let left = node.lease.until().map(|until| ptarmigan_ha::fence::deadline(until, ttl).since(now));
    node.margin.note(now.since(begin), left, ttl);
}

fn no_answer(error: &DcsError) -> Outcome {
    tracing::warn!("{error}");
    Outcome::NoAnswer { maybe: matches!(error, DcsError::Indeterminate(_)), reason: error.to_string() }
}

fn with_revision(answer: Result<Written, DcsError>) -> Outcome {
    match answer {
        Ok(Written::Applied(revision)) => Outcome::Written(revision),
        other => written(other),
    }
}

fn written(answer: Result<Written, DcsError>) -> Outcome {
    match answer {
        Ok(Written::Applied(_)) => Outcome::Done,
        Ok(Written::Conflict) => Outcome::Refused("the key was changed by somebody else".into()),
        Err(DcsError::Refused(reason)) => {
            tracing::error!("the DCS refused a write: {reason}");
            Outcome::Failed(reason)
        }
        Err(error) => no_answer(&error),
    }
}

const fn condition(when: When) -> Condition {
    match when {
        When::Always => Condition::Always,
        When::Absent => Condition::Absent,
        When::Revision(revision) => Condition::Revision(revision),
    }
}

/// Skips the write where the key has the same content on the same lease (contract A.3.3).
pub async fn write_member(node: &Node) -> Outcome {
    let data = publish::member(node);
    let lease = match node.dcs.keep_lease(false).await {
        Ok(lease) => lease,
        Err(error) => return no_answer(&error),
    };
    if is_member_written(node, &data, &lease) {
        return Outcome::Done;
    }
    node.known().written.member = None;
    match node.dcs.put_member(&data.to_json()).await {
        Ok(()) => {
            node.known().written.member = Some((data, lease));
            Outcome::Done
        }
        Err(error) => no_answer(&error),
    }
}

/// Whether the member key says so already, on that lease.
pub fn is_member_written(node: &Node, data: &MemberData, lease: &LeaseId) -> bool {
    let known = node.known();
    if let Some((written, on)) = &known.written.member {
        return on == lease && same(written, data);
    }
    let mine = known.view.as_ref().and_then(|view| view.cluster.member(&node.name));
    mine.is_some_and(|mine| mine.lease.as_ref() == Some(lease) && same(&mine.data, data))
}

fn same(old: &MemberData, new: &MemberData) -> bool {
    old.equal_by_text(new)
}

#[cfg(test)]
mod tests {
    use ptarmigan_dcs::memory::Fault;
    use ptarmigan_types::MemberState;

    use super::*;
    use crate::testing::{Fixture, TIMING};

    async fn run(fixture: &Fixture, action: Action) -> Outcome {
        execute(&fixture.node, &action).await.unwrap()
    }

    async fn my_revision(fixture: &Fixture) -> u64 {
        fixture.cluster().await.member(&fixture.node.name).unwrap().revision
    }

    #[tokio::test]
    async fn a_3_3_unchanged_member_is_not_written_again() {
        let fixture = Fixture::new();
        assert_eq!(run(&fixture, Action::WriteMember).await, Outcome::Done);
        let first = my_revision(&fixture).await;
        fixture.look().await;
        assert_eq!(run(&fixture, Action::WriteMember).await, Outcome::Done);
        assert_eq!(my_revision(&fixture).await, first);
        fixture.node.postgres.set_state(MemberState::Crashed);
        assert_eq!(run(&fixture, Action::WriteMember).await, Outcome::Done);
        let second = my_revision(&fixture).await;
        assert!(second > first, "the state changed");
        // The same content under a lease that is not ours any more goes with that lease.
        fixture.node.dcs.set_timing(ptarmigan_dcs::Timing { ttl: TIMING.ttl * 2, ..TIMING });
        fixture.look().await;
        assert_eq!(run(&fixture, Action::WriteMember).await, Outcome::Done);
        assert!(my_revision(&fixture).await > second, "the lease changed");
    }

    #[tokio::test]
    async fn lease_follows_the_answers_of_the_store() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        let before = ptarmigan_clock::now();
        let Outcome::Held { until, .. } = run(&fixture, Action::AcquireLock).await else {
            panic!("not held")
        };
        assert!(until >= before + TIMING.ttl && until <= ptarmigan_clock::now() + TIMING.ttl);
        assert_eq!((node.lease.until(), node.snapshot.load().leader_until), (Some(until), Some(until)));
        let held = fixture.cluster().await.leader.unwrap();
        // No answer: nobody else leads before that moment, and nothing is known to have changed.
        fixture.store.set_fault(&node.name, Fault::AnswerLost);
        let lost = run(&fixture, Action::RenewLock(held.clone())).await;
        assert!(matches!(lost, Outcome::NoAnswer { maybe: true, .. }), "{lost:?}");
        assert_eq!(node.lease.until(), Some(until));
        fixture.store.set_fault(&node.name, Fault::None);
        assert!(matches!(run(&fixture, Action::RenewLock(held.clone())).await, Outcome::Held { .. }));
        assert_eq!(run(&fixture, Action::ReleaseLock(held.clone())).await, Outcome::Done);
        assert_eq!((node.lease.until(), node.snapshot.load().leader_until), (None, None));
        assert!(node.lease.left_at(ptarmigan_clock::now()) > TIMING.ttl / 2, "nobody was told to hurry");
        let refused = run(&fixture, Action::RenewLock(held)).await;
        assert_eq!(refused, Outcome::Refused("this lock was given up".into()));
    }

    #[tokio::test]
    async fn a_release_without_answer_gives_the_lock_up_for_good() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        run(&fixture, Action::AcquireLock).await;
        let held = fixture.cluster().await.leader.unwrap();
        fixture.store.set_fault(&node.name, Fault::Unreachable);
        let lost = run(&fixture, Action::ReleaseLock(held.clone())).await;
        assert!(matches!(lost, Outcome::NoAnswer { .. }), "{lost:?}");
        fixture.store.set_fault(&node.name, Fault::None);
        assert_eq!(fixture.cluster().await.leader, Some(held.clone()), "it is still there");
        let again = run(&fixture, Action::AcquireLock).await;
        assert!(matches!(again, Outcome::Refused(_)), "{again:?}");
        assert!(!node.leads());
        let renewed = run(&fixture, Action::RenewLock(held.clone())).await;
        assert_eq!(renewed, Outcome::Refused("this lock was given up".into()));
        assert_eq!(fixture.cluster().await.leader, None, "released again");
        assert!(matches!(run(&fixture, Action::AcquireLock).await, Outcome::Held { .. }), "another lock");
        assert_ne!(fixture.cluster().await.leader.unwrap().create_revision, held.create_revision);
    }

    #[tokio::test]
    async fn lock_of_somebody_else_ends_leadership_at_once() {
        let fixture = Fixture::new();
        run(&fixture, Action::AcquireLock).await;
        let held = fixture.cluster().await.leader.unwrap();
        fixture.node.dcs.release(&held).await.unwrap();
        fixture.join("b", None, true).await;
        let refused = run(&fixture, Action::RenewLock(held)).await;
        assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
        assert!(!fixture.node.leads());
        assert_eq!(fixture.node.snapshot.load().leader_until, None);
    }

    #[tokio::test]
    async fn a_leader_waits_no_longer_than_its_lease_allows() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        assert_eq!(patience(node), node.configuration.timing().retry_timeout);
        let now = ptarmigan_clock::now();
        node.lease.hold(node.lease.ask(), now + Duration::from_secs(4));
        assert!(patience(node) <= Duration::from_secs(2));
        node.lease.hold(node.lease.ask(), now + Duration::from_secs(1));
        assert_eq!(patience(node), Duration::from_secs(1), "one look is always taken");
    }
}
