//! Until when the guardian lets a server that may write live without another word from the daemon (DESIGN, "The guardian").
//! Kept by the agent and by the simulation.

use std::time::Duration;

use ptarmigan_types::Monotonic;

/// How long a shutdown, first a fast and then an immediate one, is given at the deadline before everything is frozen and killed.
pub const GRACE: Duration = Duration::from_millis(200);
/// How late the guardian may notice the deadline.
const TICK: Duration = Duration::from_millis(20);
/// How long it takes to kill what an immediate shutdown has left.
const SWEEP: Duration = Duration::from_millis(200);
/// The least that lies between the deadline and the end of the lease.
const MARGIN_MIN: Duration = Duration::from_millis(500);
/// Clocks of two machines drift apart by less than one part in so many.
const DRIFT: u32 = 200;

/// What decides about the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The guardian is wanted at all.
    pub wanted: bool,
    /// The server may write, or is about to be told to.
    pub may_write: bool,
    /// The cluster is paused: its servers are in an operator's hands.
    pub paused: bool,
    /// Until when this node leads; `None` where it does not.
    pub leads_until: Option<Monotonic>,
    /// The TTL of the leader lease.
    pub ttl: Duration,
}

/// What to tell the guardian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing: what it was told before stands. A server that was put under a deadline because it was about to be promoted
    /// stays under it for the rest of its life, whatever is known of the promotion; a standby has none from its start on.
    Keep,
    /// The server ends at this moment.
    At(Monotonic),
    /// It may live on.
    Never,
}

/// What to tell the guardian about its server now.
pub fn order(situation: &Situation) -> Order {
    if !situation.wanted || situation.paused {
        return Order::Never;
    }
    situation
        .leads_until
        .filter(|_| situation.may_write)
        .map_or(Order::Keep, |until| Order::At(deadline(until, situation.ttl)))
}

/// When a server has to be told to end so that nothing of it writes at the end of the lease.
pub fn deadline(leads_until: Monotonic, ttl: Duration) -> Monotonic {
    let margin = (TICK + GRACE + SWEEP + ttl / DRIFT).max(MARGIN_MIN);
    Monotonic(leads_until.0.saturating_sub(u64::try_from(margin.as_micros()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: Monotonic = Monotonic(60_000_000);
    const LEADS: Situation = Situation {
        wanted: true,
        may_write: true,
        paused: false,
        leads_until: Some(UNTIL),
        ttl: Duration::from_secs(30),
    };

    #[test]
    fn a_server_that_may_write_ends_before_its_lease() {
        for (ttl, margin_ms) in [(3, 500), (16, 500), (30, 570), (600, 3420)] {
            let ttl = Duration::from_secs(ttl);
            let expected = Monotonic(UNTIL.0 - margin_ms * 1000);
            assert_eq!(order(&Situation { ttl, ..LEADS }), Order::At(expected), "{ttl:?}");
        }
        assert_eq!(deadline(Monotonic(1), Duration::from_secs(30)), Monotonic(0), "no wrap-around");
    }

    #[test]
    fn without_leadership_or_where_it_may_not_write_the_last_word_stands() {
        assert_eq!(order(&Situation { leads_until: None, ..LEADS }), Order::Keep);
        assert_eq!(order(&Situation { may_write: false, ..LEADS }), Order::Keep);
    }

    #[test]
    fn never_where_it_is_switched_off_and_for_what_is_an_operators() {
        for change in [
            |situation: &mut Situation| situation.wanted = false,
            |situation: &mut Situation| situation.paused = true,
        ] {
            let mut situation = LEADS;
            change(&mut situation);
            assert_eq!(order(&situation), Order::Never, "{situation:?}");
        }
    }
}
