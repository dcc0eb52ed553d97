//! Nobody holds the lock (contract B.10).

use std::time::Duration;

use ptarmigan_types::Cluster;

use crate::{
    action::{Action, Outcome, ReloadAfter, When},
    cycle::YIELD,
    follow, leader,
    memory::Yield,
    pause, race, rewind,
    round::{Round, Step, finish},
    standby,
};

/// For how long the answers of peers are good enough to take the lock on.
const RACE_FRESH: Duration = Duration::from_secs(1);

/// Contract HA-130 to HA-135.
pub(crate) fn process(r: &mut Round<'_>) -> Step<String> {
    back_off(r)?;
    if race::am_healthy(r)? {
        return take_lock(r);
    }
    let wish = r.view.failover.as_ref();
    let candidate_named = wish.is_some_and(|failover| failover.candidate.is_some());
    let nofailover = r.obs.settings.tags.nofailover();
    if candidate_named || (nofailover && !r.is_paused()) {
        yield_to_others(r)?;
    }
    if nofailover {
        r.fired("HA-134", "");
        return follow::follow(
            r,
            "following a different leader because I am not allowed to promote",
            "demoting self because I am not allowed to be a primary",
        );
    }
    r.fired("HA-135", "");
    follow::follow(
        r,
        "following a different leader because i am not the healthiest node",
        "demoting self because i am not the healthiest node",
    )
}

/// HA-130: while my WAL still moves somebody may be alive.
fn back_off(r: &mut Round<'_>) -> Step<()> {
    let backoff = r.obs.settings.primary_race_backoff;
    let named = r.view.failover.as_ref().is_some_and(|failover| failover.candidate.is_some());
    let Some(previous) = r.memory.previous_lsn else { return Ok(()) };
    let exempt = r.obs.postgres.is_primary() || r.in_standby_cluster() || r.is_paused();
    if backoff.is_zero() || named || exempt {
        return Ok(());
    }
    let since = *r.memory.race_backoff_since.get_or_insert(r.obs.now);
    let left = backoff.saturating_sub(r.obs.now.since(since));
    let moving =
        r.obs.postgres.server.as_ref().is_some_and(|server| server.streaming && server.lsn > previous);
    let first_wait = backoff.saturating_sub(r.obs.settings.loop_wait);
    if (!left.is_zero() && moving) || left > first_wait {
        r.fired("HA-130", format!("{} s left", left.as_secs()));
        r.wake_within(left.max(Duration::from_millis(20)));
        return finish(format!(
            "wal position moved since last heart beat loop, {} seconds until leader race",
            left.as_secs()
        ));
    }
    Ok(())
}

/// HA-131, HA-132.
fn take_lock(r: &mut Round<'_>) -> Step<String> {
    let acquired = r.lock(Action::AcquireLock)?;
    let (raced_on, wish) = (r.view.sync.revision, r.view.failover.clone());
    if acquired && !still_healthy(r)? {
        if r.obs.postgres.may_write() {
            // The server goes first, the lease runs out by itself.
            r.forget_lease();
            return follow::follow(
                r,
                "",
                "demoting self because the leader lock came too late, and others have led since",
            );
        }
        r.release();
        return finish("released the leader lock: it came too late, and others are ahead by now");
    }
    if acquired && let Some(wish) = &wish {
        let stays = pause::wish_that_stays(r, wish);
        r.request(stays.unwrap_or(Action::ClearFailover(When::Always)));
    }
    r.reload_view(ReloadAfter::Lock)?;
    // What the store says last counts: a lock that is gone by now is nothing to promote on.
    if !acquired || !r.has_lock() {
        r.fired("HA-132", if acquired { "lost again" } else { "" });
        r.forget_lease();
        return follow::follow(
            r,
            "following new leader after trying and failing to obtain lock",
            "demoted self after trying and failing to obtain lock",
        );
    }
    r.fired("HA-131", "");
    r.memory.won = r.held().map(|held| held.create_revision);
    if wish.is_some_and(|wish| wish.leader.is_none() && wish.candidate.as_ref() == Some(&r.obs.me)) {
        r.memory.synchronous.wished = r.memory.won;
    }
    if r.view.sync.revision == raced_on {
        r.memory.synchronous.raced_on = Some(raced_on);
    }
    r.wake_within(Duration::ZERO);
    if r.in_standby_cluster() {
        // The standby leader is gone, and this is the healthiest standby: the remote member is its to follow now.
        let line = "promoted self to a standby leader by acquiring session lock";
        return follow::follow(r, line, standby::NO_PRIMARY);
    }
    leader::enforce_primary_role(
        r,
        "acquired session lock as a leader",
        "promoted self to leader by acquiring session lock",
    )
}

/// A race that the store answered late was won on facts of then, and one that was begun on a stale view on facts of before:
/// somebody may have led since, and gone again. Whoever did may be down by now, and tell nothing: what it left in the DCS does.
fn still_healthy(r: &mut Round<'_>) -> Step<bool> {
    let waited = match r.outcome(&Action::AcquireLock) {
        Some(Outcome::Held { waited, .. }) => *waited,
        _ => Duration::ZERO,
    };
    let position = |view: &Cluster| (view.timeline(), view.status.last_lsn);
    let raced_on = position(r.view);
    r.reload_view(ReloadAfter::Lock)?;
    if waited >= RACE_FRESH {
        r.fired("HA-131", format!("the lock came after {} ms: asking the others again", waited.as_millis()));
    } else if position(r.view) != raced_on {
        r.fired("HA-131", "somebody has led since the view that was raced on: asking the others again");
    } else {
        return Ok(true);
    }
    r.asks_again = true;
    race::am_healthy(r)
}

/// HA-133: give whoever shall win a moment, then look for somebody to follow. The contract sleeps; a sleep is one
/// wake-up here, and a new leader ends it at once.
fn yield_to_others(r: &mut Round<'_>) -> Step<()> {
    let wish = r.view.failover_revision.unwrap_or(0);
    let until = match r.memory.yielding {
        Some(current) if current.wish == wish => current.until,
        _ => {
            rewind::trigger(r, "somebody else shall lead");
            let until = r.obs.now + YIELD;
            r.memory.yielding = Some(Yield { wish, until });
            until
        }
    };
    if r.obs.now < until && !r.obs.postgres.is_primary() {
        r.fired("HA-133", "");
        r.wake_within(until.since(r.obs.now));
        return finish("waiting for the candidate to take the leader lock");
    }
    Ok(())
}
