//! Tells the guardian until when PostgreSQL may live, in step with the lease: what the daemon cannot do once it is killed, frozen
//! or stuck. The rule is the core's ([`ptarmigan_ha::fence`]).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ptarmigan_config::GuardianMode;
use ptarmigan_guardian::{
    RawPid,
    protocol::{Deadline, RefusalKind},
};
use ptarmigan_ha::{
    fence::{self, GRACE, Order, Situation},
    observation::GuardianView,
    patience::Leads,
};
use ptarmigan_postgres::postmaster::{self, Hold, start::Guard};
use ptarmigan_types::{Monotonic, Role};
use tokio::sync::Notify;

use crate::node::Node;

/// Whatever changes is seen by a cycle, and published; where those are rarer, it is looked at so often: the role of a server that
/// somebody else moves, the pause.
const LOOK: Duration = Duration::from_secs(12);

/// How soon a guardian is told again what it did not take.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What must be left until the deadline of a server that is promoted.
const LEFT_MIN: Duration = Duration::from_millis(500);

/// What this node's guardian was told last.
#[derive(Debug, Default)]
pub struct Fence {
    /// Held while it is told, so that a later word is the last one.
    telling: tokio::sync::Mutex<()>,
    told: Mutex<Told>,
    news: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// In which life of the postmaster, by its start time in ticks; 0: none was told of.
    life: u64,
    /// The guardian's process.
    guardian: Option<RawPid>,
    /// `None`: nothing, or that is not known.
    order: Option<Order>,
    /// `None`: it did not answer.
    hold: Option<Hold>,
    /// Nothing that this server does can be committed any more.
    lifted: bool,
}

impl Fence {
    /// Something may have changed that the guardian is to hear of.
    pub fn look(&self) {
        self.news.notify_one();
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long until the deadline that was told last.
    fn left(&self, now: Monotonic) -> Option<Duration> {
        match self.told().order {
            Some(Order::At(at)) => Some(at.since(now)),
            _ => None,
        }
    }

    /// What was told of the server that runs.
    fn told_of_running(&self, node: &Node) -> Option<Told> {
        let told = *self.told();
        // Who runs is asked of the system, so only where it can matter.
        let runs = || node.postgres.running().map(|running| running.start_time_ticks) == Some(told.life);
        (told.hold.is_some() && runs()).then_some(told)
    }

    /// Whether the guardian stands behind the server that runs, whatever dies.
    fn is_armed(&self, node: &Node) -> bool {
        let stands = |told: Told| told.hold == Some(Hold::Whole) && told.order != Some(Order::Never);
        self.told_of_running(node).is_some_and(stands)
    }

    /// Whether the server that runs has a deadline, or may have one.
    fn has_deadline(&self, node: &Node) -> bool {
        let told = self.told_of_running(node);
        told.is_some_and(|told| told.hold != Some(Hold::None) && told.order != Some(Order::Never))
    }
}

/// Why a server could not be put under a deadline.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The deadline before has passed: it is being ended.
    #[error("its deadline has passed, it is being ended")]
    Passed,
    /// The guardian did not do it.
    #[error("the guardian does not take a deadline: {0}")]
    Guardian(postmaster::Error),
}

fn is_wanted(node: &Node) -> bool {
    node.configuration.with(|settings| settings.guardian != GuardianMode::Off)
}

/// What the core says now.
fn order(node: &Node) -> Order {
    let effective = node.configuration.current();
    let figures = node.known().figures.as_ref().map(|figures| figures.in_recovery);
    let role = node.postgres.role();
    fence::order(&Situation {
        wanted: effective.settings.guardian != GuardianMode::Off,
        may_write: matches!(role, Role::Primary | Role::Promoted) || figures == Some(false),
        paused: node.is_paused(),
        leads_until: node.lease.until(),
        ttl: Duration::from_secs(effective.settings.ttl_s),
    })
}

const fn deadline(at: Option<Monotonic>) -> Deadline {
    Deadline {
        at_boottime_us: match at {
            Some(at) => Some(at.0),
            None => None,
        },
        grace_ms: GRACE.as_millis() as u64,
    }
}

/// Whether the guardian stands behind the server that runs now; `None` where it is switched off.
pub fn armed(node: &Node) -> Option<bool> {
    is_wanted(node).then(|| node.fence.is_armed(node))
}

/// Whether the guardian stands behind the server that runs, or will behind the next one that it starts; whether it has to.
pub fn view(node: &Node) -> GuardianView {
    let mode = node.configuration.with(|settings| settings.guardian);
    let whole = || match node.postgres.running() {
        Some(running) => {
            let told = *node.fence.told();
            // Of one that has just been started, the guardian tells in a moment.
            told.life != running.start_time_ticks || told.hold == Some(Hold::Whole)
        }
        None => true,
    };
    GuardianView { armed: mode != GuardianMode::Off && whole(), required: mode == GuardianMode::Required }
}

/// What the member key says of it: `armed` or `unarmed`; `None` where it is switched off.
pub fn word(node: &Node) -> Option<&'static str> {
    is_wanted(node).then(|| if view(node).armed { "armed" } else { "unarmed" })
}

/// Until when this node may be called the leader: no server of its is there beyond the deadline.
pub fn leads_until(node: &Node) -> Option<Monotonic> {
    let until = node.lease.until()?;
    let ttl = node.configuration.timing().ttl;
    Some(if node.fence.has_deadline(node) { fence::deadline(until, ttl) } else { until })
}

/// What bounds the patience of this node while it leads.
pub fn leads(node: &Node) -> Option<Leads> {
    leads_until(node).map(|until| Leads { until, ttl: node.configuration.timing().ttl })
}

/// Tells the guardian what is to be told now, unless it knows, and asks it what it has to do with the server where that is
/// not known.
///
/// # Errors
/// It was not told, or it is too late.
pub async fn tell(node: &Node) -> Result<Hold, Error> {
    let _telling = node.fence.telling.lock().await;
    let life = node.postgres.running().map_or(0, |running| running.start_time_ticks);
    let told = Some(*node.fence.told()).filter(|told| told.life == life).unwrap_or_default();
    let order = if told.lifted { Order::Never } else { order(node) };
    if life == 0 && order != Order::Never {
        *node.fence.told() = Told::default();
        return Ok(Hold::None);
    }
    // A guardian that took the place of another one knows nothing of what that one was told.
    let same = told.hold == Some(Hold::None) || told.guardian == node.postgres.guardian_pid();
    if let Some(hold) = told.hold.filter(|_| same)
        && (order == Order::Keep || told.order == Some(order))
    {
        return Ok(hold);
    }
    let was_armed = node.fence.is_armed(node);
    // What is not answered may come true all the same: until then nothing counts as told.
    *node.fence.told() = Told { life, guardian: None, order: None, ..told };
    let answer = match order {
        Order::Keep => node.postgres.hold_of_guardian().await,
        Order::At(at) => node.postgres.set_deadline(deadline(Some(at))).await,
        Order::Never if life == 0 => node.postgres.forget_deadline().await.map(|()| None),
        Order::Never => node.postgres.set_deadline(deadline(None)).await,
    };
    let hold = match answer {
        Ok(hold) => hold.unwrap_or(Hold::None),
        Err(error) => {
            node.fence.told().hold = None;
            return Err(match error.refusal() {
                Some(RefusalKind::Fenced) => Error::Passed,
                _ => Error::Guardian(error),
            });
        }
    };
    let order = if order == Order::Keep { told.order.filter(|_| same) } else { Some(order) };
    let guardian = node.postgres.guardian_pid();
    *node.fence.told() = Told { life, guardian, order, hold: Some(hold), lifted: told.lifted };
    if node.fence.is_armed(node) != was_armed {
        crate::publish::publish(node);
    }
    Ok(hold)
}

/// The server that runs now is shutting down, and its last session is gone: it may take its time.
pub async fn lift(node: &Node) {
    let life = node.postgres.running().map_or(0, |running| running.start_time_ticks);
    if life == 0 {
        return;
    }
    {
        // Not while it is told something: that would be the last word.
        let _telling = node.fence.telling.lock().await;
        let mut told = node.fence.told();
        if told.life != life {
            return;
        }
        told.lifted = true;
    }
    if let Err(error) = tell(node).await {
        tracing::warn!("PostgreSQL has nothing to commit any more, and keeps its deadline: {error}");
    }
}

/// Under what a server of that role is started.
pub fn guard(node: &Node, role: Role) -> Guard {
    let wanted = is_wanted(node);
    let writes = matches!(role, Role::Primary | Role::Promoted) && !node.is_paused();
    let ttl = node.configuration.timing().ttl;
    let until = node.lease.until().filter(|_| wanted && writes);
    Guard { deadline: deadline(until.map(|until| fence::deadline(until, ttl))), dies_with_guardian: wanted }
}

/// Before a server is promoted: with `mode: required` nothing is, unless the guardian stands behind it.
///
/// # Errors
/// Why it is not to be promoted.
pub async fn before_promotion(node: &Node) -> Result<(), String> {
    let mode = node.configuration.with(|settings| settings.guardian);
    let armed = tell(node).await;
    let left = node.fence.left(ptarmigan_clock::now());
    match armed {
        Err(Error::Passed) => Err(Error::Passed.to_string()),
        // In pause nothing is fenced.
        _ if mode == GuardianMode::Off || node.is_paused() => Ok(()),
        Ok(Hold::Whole | Hold::DeadlineOnly) if left.is_some_and(|left| left < LEFT_MIN) => {
            Err("its deadline is about to pass".into())
        }
        Ok(Hold::Whole) => Ok(()),
        other if mode == GuardianMode::Required => Err(match other {
            Err(error) => error.to_string(),
            Ok(_) => {
                "PostgreSQL was not started by the guardian, and guardian.mode is required: restart it once"
                    .into()
            }
        }),
        Ok(Hold::DeadlineOnly) => Ok(()),
        other => {
            let reason = other.err().map_or_else(|| "it runs without one".into(), |error| error.to_string());
            tracing::warn!("PostgreSQL is promoted without a guardian behind it: {reason}");
            Ok(())
        }
    }
}

/// Keeps the guardian informed, for the life of the daemon.
pub async fn keep(node: Arc<Node>) {
    let mut lease = node.lease.changes();
    let mut state = node.postgres.watch_state();
    let mut role = node.postgres.watch_role();
    let mut complained = false;
    loop {
        lease.mark_unchanged();
        state.mark_unchanged();
        role.mark_unchanged();
        let told = tell(&node).await;
        let look = if told.is_ok() { LOOK } else { LOOK_AGAIN };
        match told {
            Ok(_) => complained = false,
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!("PostgreSQL: {error}");
                }
            }
        }
        tokio::select! {
            _ = lease.changed() => {}
            _ = state.changed() => {}
            _ = role.changed() => {}
            () = node.fence.news.notified() => {}
            () = tokio::time::sleep(look) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Fixture;

    fn with_mode(mode: &str) -> Fixture {
        let fixture = Fixture::new();
        fixture.configure(&json!({"guardian": {"mode": mode}}));
        assert!(fixture.node.configuration.reload() || mode == "automatic");
        fixture
    }

    fn lead(node: &Node) -> Monotonic {
        let until = ptarmigan_clock::now() + Duration::from_secs(20);
        node.lease.hold(node.lease.ask(), until);
        until
    }

    #[tokio::test]
    async fn nothing_is_promoted_without_a_guardian_that_is_required() {
        for (mode, allowed) in [("required", false), ("automatic", true), ("off", true)] {
            let fixture = with_mode(mode);
            lead(&fixture.node);
            fixture.node.postgres.set_role(Role::Promoted);
            // There is no server that a guardian could stand behind.
            let answer = before_promotion(&fixture.node).await;
            assert_eq!(answer.is_ok(), allowed, "{mode}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_starts_as_a_primary_has_a_deadline_from_its_first_moment() {
        let fixture = with_mode("automatic");
        let node = &fixture.node;
        let started = |role| guard(node, role);
        assert_eq!(started(Role::Primary).deadline.at_boottime_us, None, "nobody leads: a bootstrap");
        let until = lead(node);
        let at = fence::deadline(until, node.configuration.timing().ttl);
        assert_eq!(started(Role::Primary).deadline, deadline(Some(at)));
        assert_eq!(started(Role::Replica).deadline.at_boottime_us, None);
        assert!(started(Role::Replica).dies_with_guardian);
        let off = with_mode("off");
        lead(&off.node);
        let guard = guard(&off.node, Role::Primary);
        assert!(guard.deadline.at_boottime_us.is_none() && !guard.dies_with_guardian);
    }

    #[test]
    fn the_order_follows_lease_role_and_pause() {
        let fixture = with_mode("automatic");
        let node = &fixture.node;
        assert_eq!(order(node), Order::Keep, "nobody leads");
        let until = lead(node);
        assert_eq!(order(node), Order::Keep, "a standby");
        node.postgres.set_role(Role::Promoted);
        assert_eq!(order(node), Order::At(fence::deadline(until, node.configuration.timing().ttl)));
        assert_eq!(leads_until(node), Some(until), "it is not armed: nothing runs");
        node.lease.forget();
        assert_eq!(order(node), Order::Keep);
        assert_eq!((armed(node), armed(&with_mode("off").node)), (Some(false), None));
    }
}
