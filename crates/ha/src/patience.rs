//! What a leader may wait for, so that what follows still fits into its lease: the promises of the others (failsafe mode), a clean
//! stop, and only then the fence (DESIGN, "The lease"). Kept by the agent and by the simulation.
//!
//! From a `ttl` of 20 s on these are the contract's figures; a shorter one scales them.

use std::time::Duration;

use ptarmigan_types::Monotonic;

/// So many times a member is asked for its promise (contract FS-3: one retry).
pub const TRIES: u32 = 2;

/// The longest time that one question may take (contract FS-3).
const TRY_MAX: Duration = Duration::from_secs(2);
/// Where little is left of the lease the questions get less time, and this much in any case.
const TRY_MIN: Duration = Duration::from_millis(500);
/// How long an offline demotion may need before the lease runs out.
const STOP: Duration = Duration::from_secs(2);
/// The store is given this much in any case.
const STORE_MIN: Duration = Duration::from_secs(1);

/// What counts for a leader.
#[derive(Clone, Copy, Debug)]
pub struct Leads {
    /// Until when nothing of it is ended by anybody else.
    pub until: Monotonic,
    /// The TTL of the leader lease.
    pub ttl: Duration,
}

impl Leads {
    /// How long the store may be waited for; `failsafe`: the others can still be asked for their promise after that.
    pub fn for_store(self, now: Monotonic, retry_timeout: Duration, failsafe: bool) -> Duration {
        let round = if failsafe { TRIES * self.try_max() } else { Duration::ZERO };
        let left = self.until.since(now + self.stop() + round);
        left.max(self.store_min()).min(retry_timeout)
    }

    /// How long one question for a promise may take.
    pub fn for_question(self, now: Monotonic) -> Duration {
        let left = self.until.since(now).saturating_sub(self.stop());
        (left / TRIES).clamp(TRY_MIN.min(self.ttl / 12), self.try_max())
    }

    /// What everything else that a leader asks of the store may take together before the next renewal is due, with two
    /// thirds of the TTL left.
    pub fn for_the_rest(self, now: Monotonic) -> Duration {
        self.until.since(now).saturating_sub(self.ttl * 2 / 3).max(self.store_min())
    }

    fn stop(self) -> Duration {
        STOP.min(self.ttl / 10)
    }

    fn try_max(self) -> Duration {
        TRY_MAX.min(self.ttl / 8)
    }

    fn store_min(self) -> Duration {
        STORE_MIN.min(self.ttl / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Monotonic = Monotonic(60_000_000);

    const fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    fn leads(left: u64, ttl: u64) -> Leads {
        Leads { until: NOW + ms(left), ttl: ms(ttl) }
    }

    #[test]
    fn fs_3_from_20_s_on_the_contracts_figures_count() {
        for ttl in [20_000, 30_000, 600_000] {
            for (left, with_failsafe, without) in [
                (30_000, 10_000, 10_000),
                (15_000, 9000, 10_000),
                (8000, 2000, 6000),
                (3000, 1000, 1000),
                (0, 1000, 1000),
            ] {
                let store = |failsafe| leads(left, ttl).for_store(NOW, ms(10_000), failsafe);
                assert_eq!((store(true), store(false)), (ms(with_failsafe), ms(without)), "{ttl} {left}");
            }
            for (left, limit) in [(30_000, 2000), (5000, 1500), (2500, 500), (0, 500)] {
                assert_eq!(leads(left, ttl).for_question(NOW), ms(limit), "{ttl} {left}");
            }
        }
        for (left, limit) in [(30_000, 10_000), (25_000, 5000), (20_000, 1000), (5000, 1000)] {
            assert_eq!(leads(left, 30_000).for_the_rest(NOW), ms(limit), "{left}");
        }
    }

    /// A store that falls silent right after a renewal is found out in time, at the shortest lease too: whatever the leader
    /// waits for one after the other, the promises of the others come before the fence.
    #[test]
    fn at_the_shortest_lease_the_others_are_asked_before_the_fence() {
        let ttl = 3000;
        let until = NOW + ms(ttl - 500);
        let leads = Leads { until, ttl: ms(ttl) };
        let mut at = NOW;
        at = at + leads.for_the_rest(at).min(ms(1000));
        at = at.max(NOW + ms(1000));
        // The view, then the renewal.
        at = at + leads.for_store(at, ms(1000), true);
        at = at + leads.for_store(at, ms(1000), true);
        let question = leads.for_question(at);
        assert!(question >= ms(250), "{question:?}");
        at = at + question * TRIES;
        assert!(at < until, "{:?} too late", at.since(until));
    }
}
